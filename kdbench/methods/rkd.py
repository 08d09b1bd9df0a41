"""Relational knowledge distillation (arXiv:1904.05068): distances and angles between the images of a batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from kdbench.features import in_float32
from kdbench.method import METHODS, FeatureOptions, Lesson, Method
from kdbench.methods.kd import on_top
from kdbench.methods.sp import check_batch, unit_rows


def rkd_loss(student: Tensor, teacher: Tensor, distance_weight: float = 25.0, angle_weight: float = 50.0) -> Tensor:
    """Huber loss of distances over their mean, and of angles, between all pairs and triples of a batch.

    Args:
        student: (N, D) vectors.
        teacher: (N, E) of the same images.
        distance_weight: of the mean over the N^2 pairs.
        angle_weight: of the mean over the N^3 triples.
    Returns: scalar; 0 at equality up to scale, rotation and shift, and always for a single image.
    Raises: ShapeMismatch if the batches differ.
    """
    check_batch("pooled", student, teacher)
    ours, theirs = _differences(student), _differences(teacher)
    distances = F.smooth_l1_loss(_relative_distances(ours), _relative_distances(theirs))
    angles = F.smooth_l1_loss(_angles(ours), _angles(theirs))
    return distance_weight * distances + angle_weight * angles


def _differences(vectors: Tensor) -> Tensor:
    """(N, N, D). Not from the Gram matrix: |a|^2 + |b|^2 - 2ab loses small distances, and zero is not zero any more."""
    vectors = in_float32(vectors)
    return vectors[None] - vectors[:, None]


def _relative_distances(differences: Tensor) -> Tensor:
    """(N, N), over the mean of the positive ones. Equal rows are 0 apart, without gradient: a root has none at 0."""
    square = differences.square().sum(2)
    apart = square > 0
    distances = torch.where(apart, torch.where(apart, square, 1.0).sqrt(), 0.0)
    mean = distances.sum() / apart.sum().clamp(min=1)
    return distances / torch.where(mean > 0, mean, 1.0)


def _angles(differences: Tensor) -> Tensor:
    """(N, N, N): cosine of the angle at the first image between the two others; 0 where one of them is the first."""
    directions = unit_rows(differences)
    return directions @ directions.transpose(1, 2)


class RKD(Method):
    """Distances and angles of the vectors before the classifier."""

    name = "rkd"
    paper = "arXiv:1904.05068"
    summary = "keep the teacher's distances and angles between the images of a batch (relational)"
    family = "relations"
    needs = ("logits", "pooled")
    trains_classifier = False

    class Options(FeatureOptions):
        weight: float = Field(default=1.0, ge=0, description="of both terms")
        distance_weight: float = Field(default=25.0, ge=0)
        angle_weight: float = Field(default=50.0, ge=0)

    def forward(self, lesson: Lesson) -> dict[str, Tensor]:
        options = self.options
        student, teacher = lesson.student.vector, lesson.teacher.vector
        term = rkd_loss(student, teacher, options.distance_weight, options.angle_weight)
        return {"rkd": options.weight * term, **on_top(lesson, options)}


METHODS.add("rkd", RKD)
