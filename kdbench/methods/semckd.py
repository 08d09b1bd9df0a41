"""Cross-layer distillation with semantic calibration as Chen et al. have it (arXiv:2012.03236)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kdbench.errors import ShapeMismatch
from kdbench.features import in_float32, same_size
from kdbench.method import METHODS, FeatureOptions, Lesson, Method, Setting
from kdbench.methods.ab import SteadyNorm
from kdbench.methods.fitnets import check_maps
from kdbench.methods.kd import on_top

NARROWING = 4
"""Similarities are embedded in this fraction of their number."""


def similarities(grid: Tensor, anchors: int) -> Tensor:
    """How alike each image is to the first ones of the batch.

    Args:
        grid: (N, C, H, W) float; computed in at least float32.
        anchors: how many of the batch are compared with.
    Returns: (N, anchors), inner products of the flattened maps; 0 beyond the batch.
    """
    rows = in_float32(grid).flatten(1)
    alike = rows @ rows[:anchors].T
    return F.pad(alike, (0, anchors - alike.shape[1]))


def calibration(queries: Tensor, keys: Tensor) -> Tensor:
    """How much each of a student's stages learns from each of the teacher's (arXiv:2012.03236).

    Args:
        queries: (N, S, E) of the student's stages.
        keys: (N, T, E) of the teacher's.
    Returns: (N, S, T), over T a softmax of the inner products.
    """
    return (queries @ keys.transpose(1, 2)).softmax(2)


def calibrated_loss(shares: Tensor, differences: Tensor) -> Tensor:
    """The differences of all pairs of stages, each image's by its own shares (arXiv:2012.03236).

    Args:
        shares: (N, S, T), over T a distribution.
        differences: (N, S, T), >= 0.
    Returns: scalar, mean over images and the student's stages; 0 where all differences are.
    Raises: ShapeMismatch if the shapes differ.
    """
    check_maps(shares, differences)
    return (shares * differences).sum(2).mean()


class Embedding(nn.Module):
    """Similarities (N, anchors) as vectors (N, E) of length 1."""

    def __init__(self, anchors: int) -> None:
        super().__init__()
        size = max(1, anchors // NARROWING)
        self.layers = nn.Sequential(nn.Linear(anchors, 2 * size), nn.ReLU(), nn.Linear(2 * size, size))

    def forward(self, alike: Tensor) -> Tensor:
        return F.normalize(self.layers(alike))


def regressor(student: int, teacher: int, expansion: float) -> nn.Sequential:
    """From the student's channels to the teacher's, by way of `expansion` times as many as the teacher's."""
    middle = max(1, round(expansion * teacher))
    return nn.Sequential(
        nn.Conv2d(student, middle, 1, bias=False),
        SteadyNorm(middle),
        nn.ReLU(),
        nn.Conv2d(middle, middle, 3, padding=1, bias=False),
        SteadyNorm(middle),
        nn.ReLU(),
        nn.Conv2d(middle, teacher, 1, bias=False),
    )


class SemanticCalibration(Method):
    """weight * the squared differences of all pairs of stages, weighed by attention learnt from what images are alike.

    Which stage learns from which is not fixed: for each image, each of the student's stages attends to all of the
    teacher's. An image is described by its similarities to others of the batch. The reference takes all of the batch,
    which then can have one size only; here it is a fixed number of them, and a smaller batch leaves the rest empty.
    The reference adds the logits term with the weight 1, which `kd_weight` does here.
    """

    name = "semckd"
    paper = "arXiv:2012.03236"
    summary = "let every stage of the student's attend to all stages of the teacher's"
    family = "features"
    needs = ("logits", "stages")
    trains_classifier = False

    class Options(FeatureOptions):
        weight: float = Field(default=400.0, ge=0, description="of the mean over the student's stages")
        anchors: int = Field(default=64, ge=1, description="the images of a batch that each one is compared with")
        expansion: float = Field(
            default=2.0, gt=0, description="width of the regressors by the teacher's channels; they cost its square"
        )

    queries: nn.ModuleList
    keys: nn.ModuleList
    regressors: nn.ModuleList

    def prepare(self, setting: Setting) -> None:
        student, teacher = setting.student.stages, setting.teacher.stages
        self.queries = nn.ModuleList(Embedding(self.options.anchors) for _ in student)
        self.keys = nn.ModuleList(Embedding(self.options.anchors) for _ in teacher)
        # by pair, the teacher's stage counting faster
        expansion = self.options.expansion
        self.regressors = nn.ModuleList(
            regressor(ours[0], theirs[0], expansion) for ours in student for theirs in teacher
        )

    def forward(self, lesson: Lesson) -> dict[str, Tensor]:
        ours = [in_float32(stage) for stage in lesson.student.stages]
        theirs = [in_float32(stage) for stage in lesson.teacher.stages]
        if len(ours) != len(self.queries) or len(theirs) != len(self.keys):
            raise ShapeMismatch("stages", (len(ours),), (len(theirs),))
        shares = calibration(self._embed(ours, self.queries), self._embed(theirs, self.keys))
        regress = iter(self.regressors)
        differences = [torch.stack([_difference(next(regress), s, t) for t in theirs], 1) for s in ours]
        term = calibrated_loss(shares, torch.stack(differences, 1))
        return {"semckd": self.options.weight * term, **on_top(lesson, self.options)}

    def _embed(self, stages: list[Tensor], embeddings: nn.ModuleList) -> Tensor:
        anchors = self.options.anchors
        embedded = [embed(similarities(s, anchors)) for s, embed in zip(stages, embeddings, strict=True)]
        return in_float32(torch.stack(embedded, 1))


def _difference(regress: nn.Module, student: Tensor, teacher: Tensor) -> Tensor:
    """(N,), the mean squared difference of each image's two maps, at the smaller size."""
    student, teacher = same_size(student, teacher)
    return (in_float32(regress(student)) - teacher).square().flatten(1).mean(1)


METHODS.add("semckd", SemanticCalibration)
