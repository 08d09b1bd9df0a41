"""Matching raw logits (Ba and Caruana, arXiv:1312.6184; Kim et al., arXiv:2105.08919)."""

from __future__ import annotations

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from kdbench.features import in_float32
from kdbench.method import METHODS, Lesson, Method, check_logits
from kdbench.types import Frozen


def logit_mse(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Squared difference of logits: twice what T^2 KL tends to as T grows, for logits of zero mean.

    Args:
        student_logits: (N, K) float, unnormalised; computed in at least float32.
        teacher_logits: (N, K) likewise.
    Returns: scalar, logits squared, mean over N and K; 0 when both agree. A constant added to a row does count.
    Raises: ShapeMismatch if the shapes differ.
    """
    check_logits(student_logits, teacher_logits)
    return F.mse_loss(in_float32(student_logits), in_float32(teacher_logits))


class LogitMSE(Method):
    """alpha * squared difference of logits + (1 - alpha) * cross-entropy; by default no labels, as Ba and Caruana."""

    name = "logit_mse"
    paper = "arXiv:1312.6184, arXiv:2105.08919"
    summary = "match the teacher's raw logits"

    class Options(Frozen):
        alpha: float = Field(default=1.0, gt=0, le=1, description="weight of the teacher's term")

    @property
    def hard_weight(self) -> float:
        return 1.0 - float(self.options.alpha)

    def forward(self, lesson: Lesson) -> dict[str, Tensor]:
        return {"logit_mse": self.options.alpha * logit_mse(lesson.student.logits, lesson.teacher.logits)}


METHODS.add("logit_mse", LogitMSE)
