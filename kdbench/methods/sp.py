"""Similarity-preserving distillation (arXiv:1907.09682): which images of a batch the last map finds alike."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from kdbench.errors import ShapeMismatch
from kdbench.features import in_float32
from kdbench.method import METHODS, FeatureOptions, Lesson, Method
from kdbench.methods.kd import on_top

SMALLEST = 1e-24
"""Squared length under which a row has no direction."""


def unit_rows(rows: Tensor) -> Tensor:
    """Rows divided by their L2 norm; a row of zeros stays one, without gradient.

    The direction of a zero row is undefined: dividing by a small number instead would give it a gradient of 1e12.

    Args:
        rows: (..., D), at least float32.
    """
    square = rows.square().sum(-1, keepdim=True)
    has_length = square > SMALLEST
    return rows * torch.where(has_length, torch.where(has_length, square, 1.0).rsqrt(), 0.0)


def check_batch(tap: str, student: Tensor, teacher: Tensor) -> None:
    """Raises: ShapeMismatch unless both hold the same number of images."""
    if len(student) != len(teacher):
        raise ShapeMismatch(tap, student.shape, teacher.shape)


def similarity_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance of the row-normalised Gram matrices of a batch, over N^2.

    Args:
        student, teacher: (N, ...) features of the same N images, of any two shapes.
    Returns: scalar, in [0, 4 / N]; 0 at equality up to scale and rotation, and for a single image but a dead one.
    Raises: ShapeMismatch if the batches differ.
    """
    check_batch("last", student, teacher)
    return (_relations(student) - _relations(teacher)).square().sum() / len(student) ** 2


def _relations(features: Tensor) -> Tensor:
    flat = in_float32(features).flatten(1)
    return unit_rows(flat @ flat.T)


class SP(Method):
    """The Gram matrix of the last map over the images of a batch; any two sizes of map fit."""

    name = "sp"
    paper = "arXiv:1907.09682"
    summary = "keep the teacher's similarities between the images of a batch (similarity-preserving)"
    family = "relations"
    needs = ("logits", "last")
    trains_classifier = False

    class Options(FeatureOptions):
        weight: float = Field(default=3000.0, ge=0, description="of the squared distance of the Gram matrices")

    def forward(self, lesson: Lesson) -> dict[str, Tensor]:
        term = similarity_loss(lesson.student.last, lesson.teacher.last)
        return {"sp": self.options.weight * term, **on_top(lesson, self.options)}


METHODS.add("sp", SP)
