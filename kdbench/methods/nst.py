"""Neuron selectivity transfer (arXiv:1707.01219): where in the image the channels are active, whichever they are."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from kdbench.features import in_float32, same_size
from kdbench.method import METHODS, FeatureOptions, Lesson, Method
from kdbench.methods.fitnets import paired_stages
from kdbench.methods.kd import on_top
from kdbench.methods.sp import check_batch, unit_rows


def nst_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared maximum mean discrepancy between the channels of two maps, with the kernel (x . y)^2.

    Each channel is a sample: its activations over the positions, scaled to length 1.

    Args:
        student: (N, C, H, W).
        teacher: (N, D, H', W') of the same images; brought to one size with the student's.
    Returns: scalar, mean over N, in [0, 2]; 0 at equality up to the order and scale of the channels.
    Raises: ShapeMismatch if the batches differ.
    """
    check_batch("stages", student, teacher)
    ours, theirs = (unit_rows(in_float32(grid).flatten(2)) for grid in same_size(student, teacher))
    return (_kernel(ours, ours) + _kernel(theirs, theirs) - 2 * _kernel(ours, theirs)).mean()


def _kernel(left: Tensor, right: Tensor) -> Tensor:
    """(N,): mean of (x . y)^2 over the channels x (N, C, P) of one and y (N, D, P) of the other."""
    channels, others, positions = left.shape[1], right.shape[1], left.shape[2]
    if positions < min(channels, others):
        # the same sum over P x P instead of C x D products: at 2048 channels and 7 x 7 positions, 1700 times smaller
        return ((left.mT @ left) * (right.mT @ right)).sum((1, 2)) / (channels * others)
    return (left @ right.mT).square().mean((1, 2))


class NST(Method):
    """Channels of all stages, summed over the stages."""

    name = "nst"
    paper = "arXiv:1707.01219"
    summary = "match the distribution of the teacher's channel activations (neuron selectivity)"
    family = "features"
    needs = ("logits", "stages")
    trains_classifier = False

    class Options(FeatureOptions):
        weight: float = Field(default=50.0, ge=0, description="of the discrepancies, summed over the stages")

    def forward(self, lesson: Lesson) -> dict[str, Tensor]:
        terms = [nst_loss(student, teacher) for student, teacher in paired_stages(lesson)]
        return {"nst": self.options.weight * torch.stack(terms).sum(), **on_top(lesson, self.options)}


METHODS.add("nst", NST)
