"""Variational information distillation as Ahn et al. have it (arXiv:1904.05835)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kdbench.errors import ShapeMismatch
from kdbench.features import in_float32
from kdbench.method import METHODS, FeatureOptions, Lesson, Method, Setting
from kdbench.methods.fitnets import check_maps, paired_channels, paired_maps
from kdbench.methods.kd import on_top

FLOOR = 1e-5
"""The least variance."""


def information_loss(mean: Tensor, variance: Tensor, teacher: Tensor) -> Tensor:
    """The negative log-likelihood of the teacher's map, less its constant (arXiv:1904.05835).

    Args:
        mean: (N, C, H, W) float, what the student predicts; computed in at least float32.
        variance: (C,), > 0, of the prediction's error in each channel.
        teacher: (N, C, H, W).
    Returns: scalar, nats, mean over all elements; half the mean log variance where the prediction is the teacher's.
    Raises: ShapeMismatch if the shapes differ.
    """
    check_maps(mean, teacher)
    if variance.shape != teacher.shape[1:2]:
        raise ShapeMismatch("variance", variance.shape, teacher.shape)
    mean, teacher, variance = in_float32(mean), in_float32(teacher), in_float32(variance)[:, None, None]
    return 0.5 * ((mean - teacher).square() / variance + variance.log()).mean()


class Predictor(nn.Module):
    """Predicts a teacher's map from a student's, and how sure that is.

    Args:
        student, teacher: channels.
        initial: the variance to begin with, the same in all channels.
    """

    def __init__(self, student: int, teacher: int, initial: float) -> None:
        super().__init__()
        self.mean = nn.Sequential(
            nn.Conv2d(student, teacher, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(teacher, teacher, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(teacher, teacher, 1, bias=False),
        )
        self.spread = nn.Parameter(torch.full((teacher,), math.log(math.expm1(initial - FLOOR))))

    def forward(self, student: Tensor) -> tuple[Tensor, Tensor]:
        """(mean (N, C, H, W), variance (C,)) of the teacher's map, from the student's."""
        return self.mean(student), F.softplus(self.spread) + FLOOR


class VariationalInformation(Method):
    """weight * the sum over paired stages of the teacher's negative log-likelihood; the variances are trained too.

    The loss may well be negative: a sure and right prediction has a density above 1.
    """

    name = "vid"
    paper = "arXiv:1904.05835"
    summary = "make every stage of the teacher's likely, given the student's"
    family = "features"
    needs = ("logits", "stages")
    trains_classifier = False

    class Options(FeatureOptions):
        weight: float = Field(default=1.0, ge=0, description="of the sum over stages")
        initial_variance: float = Field(default=5.0, ge=1e-3, le=50, description="of the prediction, at first")

    predictors: nn.ModuleList

    def prepare(self, setting: Setting) -> None:
        initial = self.options.initial_variance
        self.predictors = nn.ModuleList(Predictor(*channels, initial) for channels in paired_channels(setting))

    def forward(self, lesson: Lesson) -> dict[str, Tensor]:
        terms = []
        for (student, teacher), predict in zip(paired_maps(lesson), self.predictors, strict=True):
            mean, variance = predict(student)
            terms.append(information_loss(mean, variance, teacher))
        return {"vid": self.options.weight * torch.stack(terms).sum(), **on_top(lesson, self.options)}


METHODS.add("vid", VariationalInformation)
