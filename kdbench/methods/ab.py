"""Distillation of activation boundaries as Heo et al. have it (arXiv:1811.03233)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kdbench.features import in_float32
from kdbench.method import METHODS, FeatureOptions, Lesson, Method, Setting
from kdbench.methods.fitnets import check_maps, check_two_parts, in_first_part, paired_channels, paired_maps
from kdbench.methods.kd import on_top


class SteadyNorm(nn.BatchNorm2d):
    """Batch normalisation that bears a channel with one value, where a batch has no statistics: it uses its own."""

    def forward(self, grid: Tensor) -> Tensor:
        if self.training and grid.numel() == grid.shape[1]:
            return F.batch_norm(grid, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        return super().forward(grid)


def connector(student_channels: int, teacher_channels: int) -> nn.Sequential:
    """From the student's channels to the teacher's: 1x1 convolution and batch normalisation."""
    return nn.Sequential(nn.Conv2d(student_channels, teacher_channels, 1, bias=False), SteadyNorm(teacher_channels))


def halving(stages: int) -> list[float]:
    """The factor of each stage, shallow to deep: 1 for the deepest, half of it for the one before, and so on."""
    return [0.5**above for above in reversed(range(stages))]


def boundary_loss(student: Tensor, teacher: Tensor, margin: float) -> Tensor:
    """Put the student's responses on the teacher's side of zero (arXiv:1811.03233, the alternative loss).

    A squared hinge: a response counts until it is beyond the margin, on the side where the teacher's is.

    Args:
        student: (N, C, H, W) float, before any rectifier; computed in at least float32.
        teacher: (N, C, H, W); only whether it is > 0 is read, so rectified maps say the same as those before.
        margin: > 0, in the student's units.
    Returns: scalar, sum over channels and positions, mean over N; 0 where every response is beyond the margin.
    Raises: ShapeMismatch if the shapes differ.
    """
    check_maps(student, teacher)
    student = in_float32(student)
    short = F.relu(margin - torch.where(teacher > 0, student, -student))
    return short.square().sum() / len(student)


class ActivationBoundaries(Method):
    """In the first part of the epochs the boundaries alone, afterwards the logits alone.

    The boundaries are a way to begin: they never meet the hard labels. The epochs they take are taken from the run's,
    so that all methods train equally long (the reference adds 30 to its 240).
    """

    name = "ab"
    paper = "arXiv:1811.03233"
    summary = "begin with the student's responses on the teacher's side of zero"
    family = "features"
    needs = ("logits", "stages")
    trains_classifier = False

    class Options(FeatureOptions):
        weight: float = Field(default=3e-3, ge=0, description="of the sum over stages, channels and positions")
        margin: float = Field(default=1.0, gt=0, description="how far beyond zero a response has to be")
        init_fraction: float = Field(default=0.125, gt=0, lt=1, description="of the epochs, for the boundaries alone")

    connectors: nn.ModuleList

    def prepare(self, setting: Setting) -> None:
        check_two_parts(self, setting.epochs)
        self.connectors = nn.ModuleList(connector(*channels) for channels in paired_channels(setting))

    def hard_weight_at(self, epoch: int, epochs: int) -> float:
        return 0.0 if in_first_part(epoch, epochs, self.options.init_fraction) else self.hard_weight

    def forward(self, lesson: Lesson) -> dict[str, Tensor]:
        if not in_first_part(lesson.epoch, lesson.epochs, self.options.init_fraction):
            return on_top(lesson, self.options)
        factors = halving(len(self.connectors))
        terms = [
            factor * boundary_loss(connect(student), teacher, self.options.margin)
            for (student, teacher), connect, factor in zip(paired_maps(lesson), self.connectors, factors, strict=True)
        ]
        return {"ab": self.options.weight * torch.stack(terms).sum()}


METHODS.add("ab", ActivationBoundaries)
