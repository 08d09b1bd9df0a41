"""Inter-channel correlation distillation (arXiv:2202.03680): which channels of the last map are active together."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from kdbench.errors import ShapeMismatch
from kdbench.features import in_float32
from kdbench.method import METHODS, FeatureOptions, Lesson, Method, Setting
from kdbench.methods.ab import connector
from kdbench.methods.kd import on_top
from kdbench.methods.sp import SMALLEST


def ickd_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance of the row-normalised Gram matrices of the channels of two maps.

    Args:
        student: (N, C, H, W).
        teacher: (N, C, H', W') of the same images; a Gram matrix has no size left.
    Returns: scalar, mean over the N * C rows, in [0, 4]; 0 at equality up to scale and the order of positions.
    Raises: ShapeMismatch if batches or channels differ.
    """
    if student.shape[:2] != teacher.shape[:2]:
        raise ShapeMismatch("last", student.shape, teacher.shape)
    ours, theirs = (in_float32(grid).flatten(2) for grid in (student, teacher))
    own, other = _row_products(ours, ours), _row_products(theirs, theirs)
    ours_counts, theirs_counts = own > SMALLEST, other > SMALLEST
    # |a / |a| - b / |b||^2 = 1 + 1 - 2 a.b / (|a| |b|); a row of zeros stays one, without gradient
    scale = torch.where(ours_counts, own, 1.0).rsqrt() * torch.where(theirs_counts, other, 1.0).rsqrt()
    cosine = torch.where(ours_counts & theirs_counts, _row_products(ours, theirs) * scale, 0.0)
    return (ours_counts.to(own.dtype) + theirs_counts.to(own.dtype) - 2 * cosine).mean()


def _row_products(left: Tensor, right: Tensor) -> Tensor:
    """(N, C): products of the rows of two Gram matrices over the channels, without making the matrices.

    sum_j (l_i . l_j) (r_i . r_j) = l_i' (sum_j l_j r_j') r_i: P x P instead of C x C numbers an image, where a last map
    has fifty positions P and up to two thousand channels C.
    """
    return ((left @ (left.mT @ right)) * right).sum(2)


def last_channels(setting: Setting) -> tuple[int, int]:
    """(student, teacher) channels of the last maps. Raises: ShapeMismatch if one of them has no map."""
    student, teacher = setting.student.stages, setting.teacher.stages
    if not student or not teacher:
        raise ShapeMismatch("last", student[-1] if student else (), teacher[-1] if teacher else ())
    return student[-1][0], teacher[-1][0]


class ICKD(Method):
    """Channels of the last map, the student's by a trained 1x1 projector to the teacher's number (ICKD-C)."""

    name = "ickd"
    paper = "arXiv:2202.03680"
    summary = "keep the teacher's correlations between the channels of the last map"
    family = "features"
    needs = ("logits", "last")
    trains_classifier = False

    class Options(FeatureOptions):
        weight: float = Field(default=2.5, ge=0, description="of the squared distance of a row, mean over all rows")

    def prepare(self, setting: Setting) -> None:
        self.projector = connector(*last_channels(setting))

    def forward(self, lesson: Lesson) -> dict[str, Tensor]:
        term = ickd_loss(self.projector(in_float32(lesson.student.last)), lesson.teacher.last)
        return {"ickd": self.options.weight * term, **on_top(lesson, self.options)}


METHODS.add("ickd", ICKD)
