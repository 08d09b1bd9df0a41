"""The flow of the solution procedure as Yim et al. have it (CVPR 2017, "A Gift from Knowledge Distillation")."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kdbench.errors import TrainError
from kdbench.features import in_float32, same_size
from kdbench.method import METHODS, FeatureOptions, Lesson, Method, Setting
from kdbench.methods.fitnets import check_maps, check_two_parts, in_first_part, paired_channels, paired_stages
from kdbench.methods.kd import on_top


def flow(shallow: Tensor, deep: Tensor) -> Tensor:
    """How two maps of one network go together (equation 1 of the paper).

    Args:
        shallow: (N, C, H, W) float; computed in at least float32.
        deep: (N, D, h, w) likewise; the larger of the two is pooled to the smaller.
    Returns: (N, C, D), the mean over positions of the products of their channels.
    """
    shallow, deep = same_size(in_float32(shallow), in_float32(deep))
    return shallow.flatten(2) @ deep.flatten(2).transpose(1, 2) / shallow[0, 0].numel()


def flow_loss(student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor]) -> Tensor:
    """Match the flow between two stages (equation 2 of the paper, as a mean).

    Args:
        student: a shallow and a deep map, (N, C, ., .) and (N, D, ., .).
        teacher: likewise; sizes may differ from the student's, channels may not.
    Returns: scalar, mean of the squared differences over N and all pairs of channels; 0 where the flows agree.
    Raises: ShapeMismatch if the flows differ in shape.
    """
    ours, theirs = flow(*student), flow(*teacher)
    check_maps(ours, theirs)
    return F.mse_loss(ours, theirs)


class FlowOfSolution(Method):
    """weight * the sum over neighbouring stages of the squared difference of their flows.

    The paper's networks have equal channels. Where they differ, a 1x1 convolution on the student's map brings them to
    the teacher's number, and is trained along.
    """

    name = "fsp"
    paper = "Yim et al., CVPR 2017"
    summary = "match how neighbouring stages go together"
    family = "features"
    needs = ("logits", "stages")
    trains_classifier = False

    class Options(FeatureOptions):
        weight: float = Field(default=50.0, ge=0, description="of the sum over neighbouring stages")
        init_fraction: float = Field(
            default=0.0, ge=0, lt=1, description="of the epochs, for the flow alone, then none of it; 0: together"
        )

    projectors: nn.ModuleList

    def prepare(self, setting: Setting) -> None:
        if self.options.init_fraction:
            check_two_parts(self, setting.epochs)
        channels = paired_channels(setting)
        if len(channels) < 2:
            raise TrainError(
                "method 'fsp' compares neighbouring stages; student and teacher have "
                f"{len(setting.student.stages)} and {len(setting.teacher.stages)}, it needs 2 of each"
            )
        self.projectors = nn.ModuleList(
            nn.Identity() if student == teacher else nn.Conv2d(student, teacher, 1) for student, teacher in channels
        )

    def hard_weight_at(self, epoch: int, epochs: int) -> float:
        return 0.0 if in_first_part(epoch, epochs, self.options.init_fraction) else self.hard_weight

    def forward(self, lesson: Lesson) -> dict[str, Tensor]:
        alone = in_first_part(lesson.epoch, lesson.epochs, self.options.init_fraction)
        if self.options.init_fraction and not alone:
            return on_top(lesson, self.options)
        # sizes stay as they are: a flow has none
        stages = [
            (project(student), teacher)
            for (student, teacher), project in zip(paired_stages(lesson), self.projectors, strict=True)
        ]
        terms = [flow_loss((s, deeper_s), (t, deeper_t)) for (s, t), (deeper_s, deeper_t) in pairwise(stages)]
        term = {"fsp": self.options.weight * torch.stack(terms).sum()}
        return term if alone else {**term, **on_top(lesson, self.options)}


METHODS.add("fsp", FlowOfSolution)
