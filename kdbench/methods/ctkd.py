"""Curriculum temperature: one that learns to make distillation harder (Li et al., arXiv:2211.16231)."""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import Tensor, nn

from kdbench.method import METHODS, Lesson, Method, Setting
from kdbench.methods.dkd import ramp
from kdbench.methods.kd import softened_kl
from kdbench.types import Frozen


def reversed_gradient(value: Tensor, strength: float) -> Tensor:
    """The value as it is, with its gradient times -strength: what minimises the loss maximises it in this value.

    Args:
        value: of any shape.
        strength: >= 0, dimensionless; 0 holds the value still.
    """
    fixed = value.detach()
    return fixed - strength * (value - fixed)


def curriculum(epoch: int, epochs: int, fraction: float) -> float:
    """Strength of the reversal in an epoch: half a cosine from near 0 up to 1, then 1.

    Args:
        epoch, epochs: of the run; epoch counts from 0.
        fraction: the part of the epochs it takes to rise; 0: at full strength from the start.
    """
    return (1 - math.cos(math.pi * ramp(epoch, epochs, fraction))) / 2


class CTKD(Method):
    """alpha * T^2 * KL with a temperature that is trained against the student + (1 - alpha) * cross-entropy.

    The temperature is `lowest + span * sigmoid(raw)`: one for all images, the global variant of the paper.
    """

    name = "ctkd"
    paper = "arXiv:2211.16231"
    summary = "softened probabilities at a temperature trained to make the task harder"

    raw: nn.Parameter

    class Options(Frozen):
        alpha: float = Field(default=0.9, gt=0, le=1, description="weight of the teacher's term")
        lowest: float = Field(default=1.0, gt=0, description="temperature")
        span: float = Field(default=20.0, ge=0, description="of temperatures above the lowest")
        curriculum: float = Field(
            default=10 / 240, ge=0, le=1, description="fraction of the epochs over which the reversal rises to its full"
        )

    @property
    def hard_weight(self) -> float:
        return 1.0 - float(self.options.alpha)

    @property
    def temperature(self) -> Tensor:
        """The present one, a scalar with gradient."""
        return self.options.lowest + self.options.span * self.raw.sigmoid()

    def prepare(self, setting: Setting) -> None:
        # the reference starts at 1, so at 1 + 20 * sigmoid(1) = 15.6
        self.raw = nn.Parameter(torch.ones(()))

    def forward(self, lesson: Lesson) -> dict[str, Tensor]:
        strength = curriculum(lesson.epoch, lesson.epochs, self.options.curriculum)
        temperature = reversed_gradient(self.temperature, strength)
        term = softened_kl(lesson.student.logits, lesson.teacher.logits, temperature)
        return {"ctkd": self.options.alpha * term}


METHODS.add("ctkd", CTKD)
