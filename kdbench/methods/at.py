"""Attention transfer as Zagoruyko and Komodakis have it (arXiv:1612.03928)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from kdbench.errors import ShapeMismatch
from kdbench.features import in_float32
from kdbench.method import METHODS, FeatureOptions, Lesson, Method
from kdbench.methods.fitnets import paired_maps
from kdbench.methods.kd import on_top


def attention(grid: Tensor) -> Tensor:
    """Where a map is active: (N, H * W), the mean over channels of the squares, of length 1; 0 for a map of 0."""
    return F.normalize(in_float32(grid).square().mean(1).flatten(1))


def attention_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Match where two maps are active (arXiv:1612.03928, section 3.1, as its authors' code has it).

    The paper's equation 2 takes the norm of the difference; the code, and all who compare with it, its mean square.

    Args:
        student: (N, Cs, H, W) float; computed in at least float32.
        teacher: (N, Ct, H, W) likewise; the channels may differ in number.
    Returns: scalar, mean over N and positions; 0 where both maps agree up to a positive factor in each image.
    Raises: ShapeMismatch if images or positions differ in number.
    """
    if student.shape[0] != teacher.shape[0] or student.shape[2:] != teacher.shape[2:]:
        raise ShapeMismatch("stages", student.shape, teacher.shape)
    return F.mse_loss(attention(student), attention(teacher))


class AttentionTransfer(Method):
    """weight * the sum over paired stages of the squared difference of their attention maps."""

    name = "at"
    paper = "arXiv:1612.03928"
    summary = "match where the maps of every stage are active"
    family = "features"
    needs = ("logits", "stages")
    trains_classifier = False

    class Options(FeatureOptions):
        weight: float = Field(default=1000.0, ge=0, description="of the sum over stages")

    def forward(self, lesson: Lesson) -> dict[str, Tensor]:
        terms = [attention_loss(student, teacher) for student, teacher in paired_maps(lesson)]
        return {"at": self.options.weight * torch.stack(terms).sum(), **on_top(lesson, self.options)}


METHODS.add("at", AttentionTransfer)
