"""Teacher-free distillation from a virtual teacher, Tf-KD_reg (Yuan et al., arXiv:1909.11723)."""

from __future__ import annotations

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from kdbench.features import in_float32
from kdbench.method import METHODS, Lesson, Method
from kdbench.types import Frozen


def virtual_teacher(targets: Tensor, classes: int, correct: float, temperature: float) -> Tensor:
    """Log-probabilities (N, K) of a teacher that is always right.

    As in the reference, the designed probabilities themselves are softened like logits: softmax(p / T). At the high
    temperatures of the paper little more than the order of the classes is left of them.

    Args:
        targets: (N,) int64.
        classes: K, at least 2.
        correct: probability of the target before softening; the rest is shared evenly.
        temperature: > 0, dimensionless.
    """
    other = (1 - correct) / (classes - 1)
    designed = F.one_hot(targets, classes) * (correct - other) + other
    return F.log_softmax(designed / temperature, dim=1)


def tfkd_loss(student_logits: Tensor, targets: Tensor, correct: float, temperature: float) -> Tensor:
    """Match a virtual teacher; the student is not softened and the loss not scaled by T^2, as in the reference.

    Args:
        student_logits: (N, K) float, unnormalised; computed in at least float32.
        targets, correct, temperature: as of `virtual_teacher`.
    Returns: scalar, nats, mean over N; 0 when the student's probabilities are the virtual teacher's.
    """
    student = F.log_softmax(in_float32(student_logits), dim=1)
    teacher = virtual_teacher(targets, student.shape[1], correct, temperature).to(student.dtype)
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True)


class TfKD(Method):
    """alpha * KL(virtual teacher || student) + (1 - alpha) * cross-entropy."""

    name = "tfkd"
    paper = "arXiv:1909.11723"
    summary = "no network as teacher: a designed one that is always right"
    family = "self"
    teachers = "none"

    class Options(Frozen):
        alpha: float = Field(default=0.1, gt=0, lt=1, description="weight of the virtual teacher's term")
        correct: float = Field(default=0.99, gt=0, lt=1, description="its probability of the right class")
        temperature: float = Field(default=20.0, gt=0)

    @property
    def hard_weight(self) -> float:
        return 1.0 - float(self.options.alpha)

    def forward(self, lesson: Lesson) -> dict[str, Tensor]:
        options = self.options
        term = tfkd_loss(lesson.student.logits, lesson.targets, options.correct, options.temperature)
        return {"tfkd": options.alpha * term}


METHODS.add("tfkd", TfKD)
