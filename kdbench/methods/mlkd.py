"""Multi-level logit distillation (Jin, Wang and Lin, CVPR 2023, pages 24276-24285).

The paper shows each network two views of an image, one of them strongly augmented; here both see the one view that the
run's own augmentation makes, and every term is computed on it. The masks of the teacher's confidence, by which the
reference scales some terms of one view to about a half, are left out.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from kdbench.features import in_float32
from kdbench.method import METHODS, Lesson, Method, check_logits
from kdbench.methods.kd import softened_kl
from kdbench.types import Frozen

TEMPERATURES = (2.0, 3.0, 4.0, 5.0, 6.0)
"""Dimensionless: the augmentation of predictions, as in the reference."""


def batch_level(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Match how alike the predictions of each two images are.

    Args:
        student_logits: (N, K) float, unnormalised; computed in at least float32.
        teacher_logits: (N, K) likewise.
        temperature: > 0, dimensionless; does not scale the loss.
    Returns: scalar, dimensionless: squared distance of the (N, N) Gram matrices of probabilities over N; 0 when both
        agree.
    Raises: ShapeMismatch if the shapes differ.
    """
    check_logits(student_logits, teacher_logits)
    student, teacher = _probabilities(student_logits, temperature), _probabilities(teacher_logits, temperature)
    return (teacher @ teacher.T - student @ student.T).square().sum() / len(student)


def class_level(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Match how often each two classes are believed in together.

    Args: as of `batch_level`.
    Returns: scalar, dimensionless: squared distance of the (K, K) Gram matrices over K; 0 when both agree. It grows
        with N squared: the sums over the batch are not averaged.
    Raises: ShapeMismatch if the shapes differ.
    """
    check_logits(student_logits, teacher_logits)
    student, teacher = _probabilities(student_logits, temperature), _probabilities(teacher_logits, temperature)
    return (teacher.T @ teacher - student.T @ student).square().sum() / student.shape[1]


def _probabilities(logits: Tensor, temperature: float) -> Tensor:
    return (in_float32(logits) / temperature).softmax(1)


class MLKD(Method):
    """alpha * (instance + batch + class level, each summed over five temperatures) + (1 - alpha) * cross-entropy."""

    name = "mlkd"
    paper = "CVPR 2023, 10.1109/CVPR52729.2023.02325"
    summary = "match predictions by image, by batch and by class at several temperatures"

    class Options(Frozen):
        alpha: float = Field(default=0.9, gt=0, le=1, description="weight of each of the teacher's terms")

    @property
    def hard_weight(self) -> float:
        return 1.0 - float(self.options.alpha)

    def forward(self, lesson: Lesson) -> dict[str, Tensor]:
        logits = lesson.student.logits, lesson.teacher.logits
        levels = {"instance": softened_kl, "batch": batch_level, "class": class_level}
        return {
            f"mlkd_{name}": self.options.alpha * torch.stack([level(*logits, each) for each in TEMPERATURES]).sum()
            for name, level in levels.items()
        }


METHODS.add("mlkd", MLKD)
