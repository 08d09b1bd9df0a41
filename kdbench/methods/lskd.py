"""Logit standardisation: a temperature of each image's own (Sun et al., arXiv:2403.01427)."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from kdbench.errors import TrainError
from kdbench.features import in_float32
from kdbench.method import METHODS, Lesson, Method, Setting
from kdbench.methods.dkd import DKD, dkd_loss, ramp
from kdbench.methods.kd import softened_kl
from kdbench.types import Frozen

EPS = 1e-7
"""Added to the standard deviation, as the reference does."""

CONSTANT = 1e-6
"""A row whose deviation is below this part of its largest logit does not vary: that is float32's own noise."""


def standardised(logits: Tensor) -> Tensor:
    """Each row with mean 0 and standard deviation 1, the unbiased one.

    Args:
        logits: (N, K) float, K at least 2; computed in at least float32.
    Returns: (N, K). A constant row has no deviation to divide by and is only centred, so its gradient stays of the
        size of any other. With two classes only the sign of their difference is left, and no gradient.
    """
    logits = in_float32(logits)
    spread = logits.std(1, keepdim=True)
    varies = spread > CONSTANT * logits.abs().amax(1, keepdim=True)
    return (logits - logits.mean(1, keepdim=True)) / torch.where(varies, spread + EPS, 1.0)


class LSKD(Method):
    """weight * KD or DKD of standardised logits + cross-entropy."""

    name = "lskd"
    paper = "arXiv:2403.01427"
    summary = "standardise each image's logits, then distil them"

    class Options(Frozen):
        base: Literal["kd", "dkd"] = Field(default="kd", description="what is done with the standardised logits")
        temperature: float = Field(default=2.0, gt=0)
        weight: float = Field(default=9.0, gt=0, description="of the base's term")

    @property
    def hard_weight(self) -> float:
        """Of the base: the reference raises the teacher's weight from 0.9 to 9 and leaves the labels' as they are."""
        return 0.1 if self.options.base == "kd" else 1.0

    def prepare(self, setting: Setting) -> None:
        if setting.student.classes == 2 and setting.labels is None:
            raise TrainError(
                "method 'lskd' has no gradient with 2 classes: standardised, only their order is left; "
                "set ground_truth: true or take kd"
            )

    def forward(self, lesson: Lesson) -> dict[str, Tensor]:
        options = self.options
        student, teacher = standardised(lesson.student.logits), standardised(lesson.teacher.logits)
        if options.base == "kd":
            term = softened_kl(student, teacher, options.temperature)
        else:
            usual = DKD.Options()
            term = dkd_loss(student, teacher, lesson.targets, usual.alpha, usual.beta, options.temperature)
            term = ramp(lesson.epoch, lesson.epochs, usual.warmup) * term
        return {"lskd": options.weight * term}


METHODS.add("lskd", LSKD)
