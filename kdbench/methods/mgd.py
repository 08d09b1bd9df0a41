"""Masked generative distillation (arXiv:2205.01529): the teacher's whole map from a part of the student's."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from kdbench.errors import ShapeMismatch
from kdbench.features import in_float32, same_size
from kdbench.method import METHODS, FeatureOptions, Lesson, Method, Setting
from kdbench.methods.ickd import last_channels
from kdbench.methods.kd import on_top


def masked(grid: Tensor, ratio: float, by: str = "positions") -> Tensor:
    """A map (N, C, H, W) with a random part of it set to 0, drawn for each image from torch's global generator.

    Args:
        ratio: the chance of each position, or channel, to be set to 0.
        by: "positions" or "channels".
    """
    count, channels, height, width = grid.shape
    shape = (count, channels, 1, 1) if by == "channels" else (count, 1, height, width)
    return grid * (torch.rand(shape, device=grid.device) >= ratio)


def generation_loss(generated: Tensor, teacher: Tensor) -> Tensor:
    """Squared error, summed over channels and positions.

    Args:
        generated, teacher: (N, C, H, W).
    Returns: scalar, mean over N; 0 at equality.
    Raises: ShapeMismatch if the shapes differ.
    """
    if generated.shape != teacher.shape:
        raise ShapeMismatch("last", generated.shape, teacher.shape)
    return (in_float32(generated) - in_float32(teacher)).square().sum() / len(generated)


class MGD(Method):
    """Last maps: the student's is masked, and two 3x3 convolutions generate the teacher's from it.

    The squared error is a sum over channels and positions, as in the original, where the weight of 7e-5 belongs.
    """

    name = "mgd"
    paper = "arXiv:2205.01529"
    summary = "generate the teacher's last map from the student's, half of it masked"
    family = "features"
    needs = ("logits", "last")
    trains_classifier = False

    class Options(FeatureOptions):
        weight: float = Field(default=7e-5, ge=0, description="of the squared error, a sum over the map of an image")
        ratio: float = Field(default=0.5, ge=0, lt=1, description="of the student's map that is masked")
        mask: Literal["positions", "channels"] = Field(
            default="positions", description="what is masked; channels, ratio 0.15, in the original code for ImageNet"
        )

    def prepare(self, setting: Setting) -> None:
        channels, wanted = last_channels(setting)
        self.align = nn.Identity() if channels == wanted else nn.Conv2d(channels, wanted, 1)
        self.generator = nn.Sequential(
            nn.Conv2d(wanted, wanted, 3, padding=1), nn.ReLU(), nn.Conv2d(wanted, wanted, 3, padding=1)
        )

    def forward(self, lesson: Lesson) -> dict[str, Tensor]:
        student, teacher = same_size(in_float32(lesson.student.last), in_float32(lesson.teacher.last))
        generated = self.generator(masked(self.align(student), self.options.ratio, self.options.mask))
        term = generation_loss(generated, teacher)
        return {"mgd": self.options.weight * term, **on_top(lesson, self.options)}


METHODS.add("mgd", MGD)
