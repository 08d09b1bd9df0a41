"""Transformed teacher matching, plain and weighted (Zheng and Yang, arXiv:2402.11148)."""

from __future__ import annotations

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from kdbench.features import in_float32
from kdbench.method import METHODS, Lesson, Method, check_logits
from kdbench.types import Frozen


def ttm_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float, weighted: bool) -> Tensor:
    """Match the student's own probabilities with the teacher's softened ones.

    Softening is the power transform p^(1/T), renormalised; the student is not softened, and nothing is scaled by T^2.

    Args:
        student_logits: (N, K) float, unnormalised; computed in at least float32.
        teacher_logits: (N, K) likewise.
        temperature: > 0, dimensionless, of the teacher alone.
        weighted: multiply each image's divergence by the sum of the teacher's p^(1/T), between 1 where it is sure and
            K^(1 - 1/T) where it knows nothing, so that soft targets count for more.
    Returns: scalar, nats, mean over N; 0 when the student's logits are the teacher's over T, up to a constant.
    Raises: ShapeMismatch if the shapes differ.
    """
    check_logits(student_logits, teacher_logits)
    powers = F.log_softmax(in_float32(teacher_logits), dim=1) / temperature
    student = F.log_softmax(in_float32(student_logits), dim=1)
    divergence = F.kl_div(student, F.log_softmax(powers, dim=1), reduction="none", log_target=True).sum(1)
    if weighted:
        divergence = powers.logsumexp(1).exp() * divergence
    return divergence.mean()


class TTM(Method):
    """weight * KL(softened teacher || student as it is) + cross-entropy."""

    name = "ttm"
    paper = "arXiv:2402.11148"
    summary = "match a softened teacher with a student that is not softened"

    class Options(Frozen):
        # the pair that the reference implementation names; the paper tunes both for each pair of networks
        temperature: float = Field(default=10.0, gt=0, description="of the teacher; 1 / T is the paper's gamma")
        weight: float = Field(default=45.0, gt=0)
        weighted: bool = Field(default=False, description="WTTM: images with softer targets count for more")

    def forward(self, lesson: Lesson) -> dict[str, Tensor]:
        options = self.options
        term = ttm_loss(lesson.student.logits, lesson.teacher.logits, options.temperature, options.weighted)
        return {"ttm": options.weight * term}


METHODS.add("ttm", TTM)
