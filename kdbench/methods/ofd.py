"""The overhaul of feature distillation as Heo et al. have it (arXiv:1904.01866)."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from kdbench.errors import ShapeMismatch
from kdbench.features import in_float32
from kdbench.method import METHODS, FeatureOptions, Lesson, Method, Setting
from kdbench.methods.ab import connector, halving
from kdbench.methods.fitnets import check_maps, paired_channels, paired_maps
from kdbench.methods.kd import on_top


def partial_l2(student: Tensor, teacher: Tensor, margins: Tensor) -> Tensor:
    """Match the teacher's positive responses; negative ones only have to be negative (arXiv:1904.01866).

    Args:
        student: (N, C, H, W) float, before any rectifier; computed in at least float32.
        teacher: (N, C, H, W) likewise.
        margins: (C,), <= 0: the teacher's responses are cut off below it (the paper's margin ReLU).
    Returns: scalar, sum over channels and positions, mean over N; 0 where the student equals the teacher cut off, or
        is below it where it is not positive.
    Raises: ShapeMismatch if the shapes differ.
    """
    check_maps(student, teacher)
    if margins.shape != teacher.shape[1:2]:
        raise ShapeMismatch("margins", margins.shape, teacher.shape)
    student, target = in_float32(student), torch.maximum(in_float32(teacher), margins[:, None, None])
    low_enough = (student <= target) & (target <= 0)
    return (student - target).masked_fill(low_enough, 0.0).square().sum() / len(student)


class Margins(nn.Module):
    """The mean of each channel's negative responses, over all that were seen; 0 for a channel that had none.

    Args:
        channels: C.
    """

    mean: Tensor
    count: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("count", torch.zeros(channels, dtype=torch.int64))

    @torch.no_grad()
    def forward(self, teacher: Tensor) -> Tensor:
        """(C,), with the responses (N, C, H, W) taken in while training."""
        if self.training:
            seen = (teacher < 0).sum((0, 2, 3))
            self.count += seen
            total = teacher.clamp(max=0).sum((0, 2, 3))
            self.mean += (total - seen * self.mean) / self.count.clamp(min=1)
        return self.mean.clone()


class Overhaul(Method):
    """weight * the sum over stages, halving towards shallow ones, of the partial distance of connected maps.

    The paper reads the margins off the teacher's batch normalisation, as the mean negative response of a normal
    distribution. Here they are that mean as it is measured, so that a teacher needs no such layer.
    """

    name = "ofd"
    paper = "arXiv:1904.01866"
    summary = "match the positive responses of every stage, and keep the others negative"
    family = "features"
    needs = ("logits", "stages")
    trains_classifier = False

    class Options(FeatureOptions):
        weight: float = Field(default=1e-3, ge=0, description="of the sum over stages, channels and positions")

    connectors: nn.ModuleList
    margins: nn.ModuleList

    def prepare(self, setting: Setting) -> None:
        channels = paired_channels(setting)
        self.connectors = nn.ModuleList(connector(*both) for both in channels)
        self.margins = nn.ModuleList(Margins(teacher) for _, teacher in channels)

    def forward(self, lesson: Lesson) -> dict[str, Tensor]:
        stages = zip(paired_maps(lesson), self.connectors, self.margins, halving(len(self.margins)), strict=True)
        terms = [
            factor * partial_l2(connect(student), teacher, margins(teacher))
            for (student, teacher), connect, margins, factor in stages
        ]
        return {"ofd": self.options.weight * torch.stack(terms).sum(), **on_top(lesson, self.options)}


METHODS.add("ofd", Overhaul)
