"""Probabilistic knowledge transfer (arXiv:1803.10837): the odds that two images of a batch are neighbours."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from kdbench.features import in_float32
from kdbench.method import METHODS, FeatureOptions, Lesson, Method
from kdbench.methods.kd import on_top
from kdbench.methods.sp import check_batch, unit_rows

EPS = 1e-7


def pkt_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Kullback-Leibler divergence of the neighbourhoods that cosine similarities make, mean over the N^2 pairs.

    Args:
        student: (N, D) vectors.
        teacher: (N, E) of the same images.
    Returns: scalar, nats per pair; 0 at equality up to scale and rotation, and always for a single image.
    Raises: ShapeMismatch if the batches differ.
    """
    check_batch("pooled", student, teacher)
    ours, theirs = _neighbourhoods(student), _neighbourhoods(teacher)
    return (theirs * ((theirs + EPS).log() - (ours + EPS).log())).mean()


def _neighbourhoods(vectors: Tensor) -> Tensor:
    """(N, N), rows sum to 1."""
    directions = unit_rows(in_float32(vectors))
    # opposite vectors round to a cosine below -1, and the logarithm would see a negative number
    odds = ((directions @ directions.T + 1) / 2).clamp(min=0)
    return odds / odds.sum(1, keepdim=True)


class PKT(Method):
    """Neighbourhoods of the vectors before the classifier."""

    name = "pkt"
    paper = "arXiv:1803.10837"
    summary = "match the teacher's probabilities that two images of a batch are neighbours"
    family = "relations"
    needs = ("logits", "pooled")
    trains_classifier = False

    class Options(FeatureOptions):
        weight: float = Field(default=30000.0, ge=0, description="of the divergence, a mean over all pairs")

    def forward(self, lesson: Lesson) -> dict[str, Tensor]:
        term = pkt_loss(lesson.student.vector, lesson.teacher.vector)
        return {"pkt": self.options.weight * term, **on_top(lesson, self.options)}


METHODS.add("pkt", PKT)
