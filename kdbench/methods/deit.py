"""Distillation of data-efficient image transformers, hard and soft (Touvron et al., arXiv:2012.12877)."""

from __future__ import annotations

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from kdbench.features import in_float32
from kdbench.method import METHODS, Lesson, Method, check_logits
from kdbench.methods.kd import softened_kl
from kdbench.types import Frozen

HARD = 0.5
"""Weight of the teacher's decision, and of the labels."""


def hard_distillation(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Cross-entropy with the teacher's decision.

    Args:
        student_logits: (N, K) float, unnormalised; computed in at least float32.
        teacher_logits: (N, K) likewise; only the place of the largest counts, the first of equals.
    Returns: scalar, nats, mean over N; 0 only where the student is sure of what the teacher says.
    Raises: ShapeMismatch if the shapes differ.
    """
    check_logits(student_logits, teacher_logits)
    return F.cross_entropy(in_float32(student_logits), teacher_logits.argmax(1))


class DeiT(Method):
    """Half cross-entropy with the teacher's decision, half with the labels; or a softened KL.

    A student with a distillation token learns from the teacher through that token's logits and from the labels through
    its class token's; any other through its only logits. The soft variant is the paper's formula: its released code
    divides by the number of classes as well.
    """

    name = "deit"
    paper = "arXiv:2012.12877"
    summary = "learn the teacher's decisions, through a token of their own where there is one"
    needs = ("logits", "token")

    class Options(Frozen):
        hard: bool = Field(default=True, description="the teacher's decision, else its softened probabilities")
        temperature: float = Field(default=3.0, gt=0, description="soft only")
        alpha: float = Field(default=0.1, gt=0, le=1, description="soft only: weight of the teacher's term")

    @property
    def hard_weight(self) -> float:
        return 1.0 - (HARD if self.options.hard else float(self.options.alpha))

    def forward(self, lesson: Lesson) -> dict[str, Tensor]:
        student, teacher = lesson.student, lesson.teacher.logits
        taught = student.logits if student.token_logits is None else student.token_logits
        if self.options.hard:
            return {"deit": HARD * hard_distillation(taught, teacher)}
        return {"deit": self.options.alpha * softened_kl(taught, teacher, self.options.temperature)}


METHODS.add("deit", DeiT)
