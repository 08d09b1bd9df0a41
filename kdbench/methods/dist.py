"""Distillation from a stronger teacher: correlations instead of exact values (Huang et al., arXiv:2205.10536)."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from kdbench.features import in_float32
from kdbench.method import METHODS, Lesson, Method, check_logits
from kdbench.types import Frozen

CONSTANT = 1e-6
"""A row whose deviation is below this part of its length does not vary: that is float32's own noise."""

EPS = 1e-8
"""The least length that is divided by, so that classes nobody believes in do not count as correlated."""


def correlation(first: Tensor, second: Tensor) -> Tensor:
    """Pearson's correlation of each row of one matrix with the same row of the other.

    Args:
        first: (R, L) float.
        second: (R, L) likewise.
    Returns: (R,), in [-1, 1]; 0 where either row is constant.
    """
    return (_standard(first) * _standard(second)).sum(1)


def _standard(rows: Tensor) -> Tensor:
    """Centred, of length 1. A constant row has no length to divide by and is only centred: its value is 0 and its
    gradient stays of the size of any other, where dividing by an epsilon would blow it up."""
    centred = rows - rows.mean(1, keepdim=True)
    length = torch.linalg.vector_norm(centred, dim=1, keepdim=True)
    varies = length > CONSTANT * torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return centred / torch.where(varies, length.clamp_min(EPS), 1.0)


def dist_loss(student_logits: Tensor, teacher_logits: Tensor, beta: float, gamma: float, temperature: float) -> Tensor:
    """Correlate the class probabilities within each image, and within each class over the images.

    Args:
        student_logits: (N, K) float, unnormalised; computed in at least float32.
        teacher_logits: (N, K) likewise.
        beta: weight of the relations between classes: the rows.
        gamma: weight of the relations within a class: the columns; 0 with one image, which relates to nothing.
        temperature: > 0, dimensionless; the loss is scaled by temperature squared, as the reference does.
    Returns: scalar, dimensionless; 0 when every row and column of both correlates fully, a constant one counts 1.
    Raises: ShapeMismatch if the shapes differ.
    """
    check_logits(student_logits, teacher_logits)
    student = (in_float32(student_logits) / temperature).softmax(1)
    teacher = (in_float32(teacher_logits) / temperature).softmax(1)
    loss = beta * (1 - correlation(student, teacher).mean())
    if len(student) > 1:
        loss = loss + gamma * (1 - correlation(student.T, teacher.T).mean())
    return loss * temperature**2


class DIST(Method):
    """beta * (1 - correlation of rows) + gamma * (1 - correlation of columns) + cross-entropy."""

    name = "dist"
    paper = "arXiv:2205.10536"
    summary = "correlate class probabilities within each image and within each class"

    class Options(Frozen):
        beta: float = Field(default=1.0, ge=0, description="weight of the relations between classes, by image")
        gamma: float = Field(default=1.0, ge=0, description="weight of the relations within a class, over the batch")
        temperature: float = Field(default=1.0, gt=0)

    def forward(self, lesson: Lesson) -> dict[str, Tensor]:
        options = self.options
        logits = lesson.student.logits, lesson.teacher.logits
        return {"dist": dist_loss(*logits, options.beta, options.gamma, options.temperature)}


METHODS.add("dist", DIST)
