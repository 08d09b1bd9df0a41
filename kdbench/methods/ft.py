"""Factor transfer as Kim, Park and Kwak have it (arXiv:1802.04977)."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kdbench.features import in_float32, same_size
from kdbench.method import METHODS, FeatureOptions, Lesson, Method, Setting
from kdbench.methods.fitnets import check_maps, check_two_parts, in_first_part
from kdbench.methods.kd import on_top

SLOPE = 0.1
"""Of the leaky rectifiers, below zero."""

SHORT = 1e-6
"""A factor shorter than this has no direction, and no gradient."""


def coder(*channels: int) -> nn.Sequential:
    """3x3 convolutions through these numbers of channels, each with a leaky rectifier; sizes stay."""
    layers: list[nn.Module] = []
    for before, after in pairwise(channels):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.LeakyReLU(SLOPE)]
    return nn.Sequential(*layers)


def unit(factor: Tensor) -> Tensor:
    """(N, C * H * W), each row of length 1; 0 where a factor is 0."""
    rows = in_float32(factor).flatten(1)
    length = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return torch.where(length > SHORT, rows / length.clamp_min(SHORT), 0.0)


def factor_loss(student: Tensor, teacher: Tensor, p: int = 1) -> Tensor:
    """The distance of two factors, each first brought to length 1 (arXiv:1802.04977, equation 3).

    Args:
        student: (N, C, H, W) float; computed in at least float32.
        teacher: (N, C, H, W) likewise.
        p: 1: mean absolute difference over all elements; 2: Euclidean distance, mean over N.
    Returns: scalar; 0 where both agree up to a positive factor in each image.
    Raises: ShapeMismatch if the shapes differ.
    """
    check_maps(student, teacher, "last")
    gap = unit(student) - unit(teacher)
    return gap.abs().mean() if p == 1 else torch.linalg.vector_norm(gap, dim=1).mean()


class FactorTransfer(Method):
    """First a paraphraser learns the teacher's last map, then a translator follows it from the student's.

    The paraphraser is an autoencoder with a narrow middle, the factor; while it learns, the student learns from the
    hard labels as usual. Then it stands still, and the student's factor is drawn to the teacher's. The epochs it takes
    are taken from the run's, so that all methods train equally long (the reference trains it before the run).
    """

    name = "ft"
    paper = "arXiv:1802.04977"
    summary = "match the last maps as a paraphraser and a translator put them"
    family = "features"
    needs = ("logits", "last")
    trains_classifier = False

    class Options(FeatureOptions):
        weight: float = Field(default=500.0, ge=0, description="of the distance of the factors")
        rate: float = Field(default=0.5, gt=0, le=4, description="channels of the factor, of the teacher's")
        p: Literal[1, 2] = Field(default=1, description="1: absolute, 2: Euclidean distance")
        init_fraction: float = Field(default=0.125, gt=0, lt=1, description="of the epochs, for the paraphraser")

    paraphraser: nn.Sequential
    decoder: nn.Sequential
    translator: nn.Sequential

    def prepare(self, setting: Setting) -> None:
        check_two_parts(self, setting.epochs)
        student, teacher = setting.student.stages[-1][0], setting.teacher.stages[-1][0]
        factor = max(1, round(teacher * self.options.rate))
        self.paraphraser = coder(teacher, teacher, factor, factor)
        self.decoder = coder(factor, factor, teacher, teacher)
        self.translator = coder(student, student, factor, factor)

    def forward(self, lesson: Lesson) -> dict[str, Tensor]:
        teacher = in_float32(lesson.teacher.last)
        if in_first_part(lesson.epoch, lesson.epochs, self.options.init_fraction):
            term = {"ft_paraphraser": F.mse_loss(in_float32(self.decoder(self.paraphraser(teacher))), teacher)}
        else:
            # the translator has to come to the paraphraser, never the other way round
            with torch.no_grad():
                target = self.paraphraser(teacher)
            factors = same_size(self.translator(in_float32(lesson.student.last)), target)
            term = {"ft": self.options.weight * factor_loss(*factors, self.options.p)}
        return {**term, **on_top(lesson, self.options)}


METHODS.add("ft", FactorTransfer)
