"""Class attention transfer: CAT-KD (Guo, Yan, Li and Lin, arXiv:2304.12777)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kdbench.errors import ShapeMismatch, TrainError
from kdbench.features import in_float32
from kdbench.method import METHODS, FeatureOptions, Lesson, Method, Setting
from kdbench.methods.kd import on_top

_DEAD = 1e-24  # a squared norm: below it a map is nothing but rounding, and dividing by it would blow its gradient up


def class_maps(features: Tensor, weight: Tensor) -> Tensor:
    """How much each position speaks for each class: the classifier's weights, without bias, applied everywhere.

    Args:
        features: (N, C, H, W).
        weight: (K, C) of the classifier.
    Returns: (N, K, H, W); its spatial mean is the logits less the bias, where the classifier sees the mean.
    """
    return F.conv2d(features, weight[:, :, None, None])


def catkd_loss(student_maps: Tensor, teacher_maps: Tensor, resolution: int = 2) -> Tensor:
    """Match where each class is seen (section 3.3): pooled class maps, each scaled to length 1.

    Args:
        student_maps: (N, K, H, W) of any size; computed in at least float32.
        teacher_maps: (N, K, H', W').
        resolution: both are pooled to so many positions a side, or to the smaller map where one has fewer.
    Returns: scalar, dimensionless, mean squared difference over samples, classes and positions; 0 where the maps are
        equal up to a positive factor for each class. A map that is zero throughout stays zero.
    Raises: ShapeMismatch if samples or classes differ.
    """
    if student_maps.shape[:2] != teacher_maps.shape[:2]:
        raise ShapeMismatch("class maps", student_maps.shape, teacher_maps.shape)
    heights, widths = zip(student_maps.shape[2:], teacher_maps.shape[2:], strict=True)
    size = (min(resolution, *heights), min(resolution, *widths))
    student, teacher = (_unit(F.adaptive_avg_pool2d(in_float32(maps), size)) for maps in (student_maps, teacher_maps))
    return F.mse_loss(student, teacher)


def _unit(maps: Tensor) -> Tensor:
    squared = maps.square().sum((2, 3), keepdim=True)
    alive = squared > _DEAD
    return torch.where(alive, maps * torch.where(alive, squared, torch.ones_like(squared)).rsqrt(), maps * 0)


class ClassAttentionTransfer(Method):
    """The teacher's classifier on its last map, against the student's on its own.

    A student whose classifier does not read its last map (a layer lies between) gets a classifier for that map, which
    learns alongside from the targets and is left behind.
    """

    name = "catkd"
    paper = "arXiv:2304.12777"
    summary = "match where on the last map each class is seen"
    family = "features"
    needs = ("last",)
    trains_classifier = False

    class Options(FeatureOptions):
        weight: float = Field(default=400.0, ge=0, description="of the difference of the class maps")
        resolution: int = Field(default=2, ge=2, description="positions a side of a class map after pooling")

    teacher_weight: Tensor
    _live: tuple[nn.Linear, ...]

    def prepare(self, setting: Setting) -> None:
        student, teacher = setting.student, setting.teacher
        if teacher.head is None or not teacher.reads_last:
            raise TrainError(
                "catkd needs a teacher whose linear classifier applies to each position of its last map; "
                "try a ResNet or a ViT as the teacher, or at as the method"
            )
        for whose, stages in (("student", student.stages), ("teacher", teacher.stages)):
            positions = stages[-1][1] * stages[-1][2] if stages else 0
            if positions < 2:
                raise TrainError(
                    f"catkd compares where a class is seen, but the {whose}'s last map has {positions} positions; "
                    "try larger images or a network of smaller stride"
                )
        self.register_buffer("teacher_weight", in_float32(teacher.head.weight.detach()).clone())
        # in a tuple the live classifier is no part of this module: it is the student's to train and to save
        self._live = (student.head,) if student.reads_last and student.head is not None else ()
        self.classifier = None if self._live else nn.Linear(student.stages[-1][0], student.classes)

    def forward(self, lesson: Lesson) -> dict[str, Tensor]:
        features = in_float32(lesson.student.last)
        terms: dict[str, Tensor] = {}
        if self.classifier is not None:
            terms["classifier"] = F.cross_entropy(self.classifier(features.mean((2, 3))), lesson.targets)
        weight = (self._live[0] if self.classifier is None else self.classifier).weight
        taught = class_maps(in_float32(lesson.teacher.last), self.teacher_weight)
        loss = catkd_loss(class_maps(features, in_float32(weight)), taught, self.options.resolution)
        return {"catkd": self.options.weight * loss, **terms, **on_top(lesson, self.options)}


METHODS.add("catkd", ClassAttentionTransfer)
