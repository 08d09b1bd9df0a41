"""Knowledge distillation as Hinton, Vinyals and Dean have it (arXiv:1503.02531)."""

from __future__ import annotations

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from kdbench.features import in_float32
from kdbench.method import METHODS, FeatureOptions, Lesson, Method, check_logits
from kdbench.types import Frozen


def softened_kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float | Tensor) -> Tensor:
    """Match softened class probabilities (arXiv:1503.02531, section 2).

    Args:
        student_logits: (N, K) float, unnormalised; computed in at least float32.
        teacher_logits: (N, K) likewise.
        temperature: > 0, dimensionless; the loss is scaled by temperature squared.
    Returns: scalar, nats, mean over N; 0 when both agree up to a constant.
    Raises: ShapeMismatch if the shapes differ.
    """
    check_logits(student_logits, teacher_logits)
    student = F.log_softmax(in_float32(student_logits) / temperature, dim=1)
    teacher = F.log_softmax(in_float32(teacher_logits) / temperature, dim=1)
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


def on_top(lesson: Lesson, options: FeatureOptions) -> dict[str, Tensor]:
    """The logits term that a feature method may carry: {} where its weight is 0."""
    if not options.kd_weight:
        return {}
    term = softened_kl(lesson.student.logits, lesson.teacher.logits, options.kd_temperature)
    return {"kd": options.kd_weight * term}


class KD(Method):
    """alpha * T^2 * KL(teacher || student) + (1 - alpha) * cross-entropy."""

    name = "kd"
    paper = "arXiv:1503.02531"
    summary = "match the teacher's softened class probabilities"

    class Options(Frozen):
        temperature: float = Field(default=4.0, gt=0)
        alpha: float = Field(default=0.9, gt=0, le=1, description="weight of the teacher's term")

    @property
    def hard_weight(self) -> float:
        return 1.0 - float(self.options.alpha)

    def forward(self, lesson: Lesson) -> dict[str, Tensor]:
        term = softened_kl(lesson.student.logits, lesson.teacher.logits, self.options.temperature)
        return {"kd": self.options.alpha * term}


METHODS.add("kd", KD)
