"""Correlation congruence (arXiv:1904.01802): how the images of a batch correlate, after an embedding.

The loss known under this name is not the one of the paper's formula. The code of the authors, which is what the
published comparisons and the weight of 0.02 belong to, multiplies the absolute differences of consecutive images; it is
the default here ("consecutive"). The paper's squared distance of correlation matrices is there too, with its Gaussian
kernel, by its Taylor expansion, or the bilinear one; those need a weight of their own.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from kdbench.errors import ShapeMismatch
from kdbench.features import in_float32
from kdbench.method import METHODS, FeatureOptions, Lesson, Method, Setting
from kdbench.methods.kd import on_top
from kdbench.methods.sp import check_batch, unit_rows

GAMMA = 0.4
"""Of the Gaussian kernel exp(-GAMMA |x - y|^2)."""
ORDER = 2
"""Up to which power the Gaussian kernel is expanded."""


def consecutive_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Products of the absolute differences of each image and the next, summed over dimensions, mean over N - 1.

    Args:
        student, teacher: (N, D) embeddings of the same images.
    Returns: scalar >= 0; 0 at equality, and for a single image, which has no next.
    Raises: ShapeMismatch if the shapes differ.
    """
    if student.shape != teacher.shape:
        raise ShapeMismatch("embedding", student.shape, teacher.shape)
    gap = (in_float32(student) - in_float32(teacher)).abs()
    return (gap[:-1] * gap[1:]).sum() / max(len(gap) - 1, 1)


def correlation_loss(student: Tensor, teacher: Tensor, kernel: str = "gaussian") -> Tensor:
    """Squared distance of the correlation matrices of a batch, over N^2 (the paper's equation).

    Args:
        student: (N, D) embeddings; only their directions count, for the expansion holds on the sphere.
        teacher: (N, E) of the same images.
        kernel: "gaussian" or "bilinear".
    Returns: scalar >= 0; 0 at equality up to scale and rotation.
    Raises: ShapeMismatch if the batches differ.
    """
    check_batch("embedding", student, teacher)
    return (_correlations(student, kernel) - _correlations(teacher, kernel)).square().sum() / len(student) ** 2


def _correlations(embeddings: Tensor, kernel: str) -> Tensor:
    directions = unit_rows(in_float32(embeddings))
    cosines = directions @ directions.T
    if kernel == "bilinear":
        return cosines
    powers = torch.stack([(2 * GAMMA * cosines) ** power / math.factorial(power) for power in range(ORDER + 1)])
    return math.exp(-2 * GAMMA) * powers.sum(0)


class CC(Method):
    """Correlations of the vectors before the classifier; an embedding on each side is trained along."""

    name = "cc"
    paper = "arXiv:1904.01802"
    summary = "keep the teacher's correlations between the images of a batch (correlation congruence)"
    family = "relations"
    needs = ("logits", "pooled")
    trains_classifier = False

    class Options(FeatureOptions):
        weight: float = Field(default=0.02, ge=0, description="of the term; 0.02 belongs to 'consecutive'")
        kernel: Literal["consecutive", "gaussian", "bilinear"] = "consecutive"
        width: int = Field(default=128, ge=1, description="of the embeddings; 'consecutive' sums over it")

    def prepare(self, setting: Setting) -> None:
        self.student_embedding = nn.Linear(setting.student.pooled, self.options.width)
        self.teacher_embedding = nn.Linear(setting.teacher.pooled, self.options.width)

    def forward(self, lesson: Lesson) -> dict[str, Tensor]:
        student = self.student_embedding(in_float32(lesson.student.vector))
        teacher = self.teacher_embedding(in_float32(lesson.teacher.vector))
        if self.options.kernel == "consecutive":
            # which images follow each other is up to chance, not to the order a batch happens to be put in
            order = torch.randperm(len(student), device=student.device)
            term = consecutive_loss(student[order], teacher[order])
        else:
            term = correlation_loss(student, teacher, self.options.kernel)
        return {"cc": self.options.weight * term, **on_top(lesson, self.options)}


METHODS.add("cc", CC)
