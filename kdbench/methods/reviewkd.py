"""Knowledge review as Chen et al. have it (arXiv:2104.09044)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kdbench.features import in_float32, same_size
from kdbench.method import METHODS, FeatureOptions, Lesson, Method, Setting
from kdbench.methods.ab import SteadyNorm
from kdbench.methods.fitnets import check_maps, paired_channels, paired_stages
from kdbench.methods.kd import on_top

LEVELS = (4, 2, 1)
"""The sizes a map is pooled to, beside its own."""

WIDEST = 512
"""The most channels of what is handed from stage to stage."""


def hierarchical_context(student: Tensor, teacher: Tensor) -> Tensor:
    """Match two maps at several scales (arXiv:2104.09044, the hierarchical context loss).

    Args:
        student: (N, C, H, W) float; computed in at least float32.
        teacher: (N, C, H, W) likewise.
    Returns: scalar, the mean of the mean squared differences at the map's own size and at each of `LEVELS` below it,
        each with half the weight of the one before; 0 where the maps agree.
    Raises: ShapeMismatch if the shapes differ.
    """
    check_maps(student, teacher)
    student, teacher = in_float32(student), in_float32(teacher)
    total, weight, weights = F.mse_loss(student, teacher), 1.0, 1.0
    for level in LEVELS:
        if level < min(student.shape[2:]):
            weight /= 2
            weights += weight
            coarse, target = F.adaptive_avg_pool2d(student, level), F.adaptive_avg_pool2d(teacher, level)
            total = total + weight * F.mse_loss(coarse, target)
    return total / weights


class Fusion(nn.Module):
    """Attention-based fusion: a stage and what the deeper ones handed on, mixed position by position.

    Args:
        student: channels of the stage.
        middle: channels of what is handed on.
        teacher: channels of the map to match.
        fuses: whether there is a deeper stage.
    """

    def __init__(self, student: int, middle: int, teacher: int, fuses: bool) -> None:
        super().__init__()
        enter, leave = nn.Conv2d(student, middle, 1, bias=False), nn.Conv2d(middle, teacher, 3, padding=1, bias=False)
        for convolution in (enter, leave):
            nn.init.kaiming_uniform_(convolution.weight, a=1)
        self.enter = nn.Sequential(enter, SteadyNorm(middle))
        self.attend = nn.Sequential(nn.Conv2d(2 * middle, 2, 1), nn.Sigmoid()) if fuses else None
        self.leave = nn.Sequential(leave, SteadyNorm(teacher))

    def forward(self, stage: Tensor, deeper: Tensor | None, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Fuse a stage.

        Args:
            stage: (N, student, H, W).
            deeper: (N, middle, ., .), what the deeper stages handed on, of any size; None at the deepest.
            target: (N, teacher, ., .), the teacher's map, of any size.
        Returns: what is handed on, (N, middle, H, W); the two maps to match, (N, teacher, h, w), of the smaller size.
        """
        fused = self.enter(stage)
        if self.attend is not None and deeper is not None:
            deeper = F.interpolate(deeper, fused.shape[2:], mode="nearest")
            shares = self.attend(torch.cat((fused, deeper), 1))
            fused = fused * shares[:, :1] + deeper * shares[:, 1:]
        pooled, target = same_size(fused, target)
        return fused, self.leave(pooled), target


class KnowledgeReview(Method):
    """weight * the sum over stages of the distance at several scales; a teacher's stage teaches all deeper ones.

    From deep to shallow, each stage of the student's is fused with what the deeper ones handed on, and the result has
    to match the teacher's stage. Sizes are matched by pooling the larger map (the reference resizes the student's),
    and the pooled vector, which the reference takes for one stage more, is left out.
    """

    name = "reviewkd"
    paper = "arXiv:2104.09044"
    summary = "match every stage of the teacher's by all the student's stages from there on"
    family = "features"
    needs = ("logits", "stages")
    trains_classifier = False

    class Options(FeatureOptions):
        weight: float = Field(default=1.0, ge=0, description="of the sum over stages")
        warmup: float = Field(
            default=1 / 12, ge=0, le=1, description="of the epochs, for the weight to rise from 0; below 1 epoch: none"
        )

    fusions: nn.ModuleList

    def prepare(self, setting: Setting) -> None:
        channels = paired_channels(setting)
        middle = min(WIDEST, channels[-1][0])
        deepest = len(channels) - 1
        self.fusions = nn.ModuleList(
            Fusion(student, middle, teacher, fuses=i < deepest) for i, (student, teacher) in enumerate(channels)
        )

    def rise(self, epoch: int, epochs: int) -> float:
        """The part of the weight that holds at an epoch, in [0, 1].

        A run so short that the warm-up is less than an epoch has none: it would be without the method otherwise.
        """
        length = self.options.warmup * epochs
        return 1.0 if length < 1 else min(1.0, epoch / length)

    def forward(self, lesson: Lesson) -> dict[str, Tensor]:
        terms: list[Tensor] = []
        deeper = None
        for (student, teacher), fuse in reversed(list(zip(paired_stages(lesson), self.fusions, strict=True))):
            deeper, ours, theirs = fuse(student, deeper, teacher)
            terms.append(hierarchical_context(ours, theirs))
        weight = self.options.weight * self.rise(lesson.epoch, lesson.epochs)
        return {"reviewkd": weight * torch.stack(terms).sum(), **on_top(lesson, self.options)}


METHODS.add("reviewkd", KnowledgeReview)
