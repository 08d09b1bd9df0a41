"""Training without a teacher: the baseline every student is compared with."""

from __future__ import annotations

from torch import Tensor

from kdbench.method import METHODS, Lesson, Method


class CrossEntropy(Method):
    """Adds nothing to the hard-label cross-entropy."""

    name = "ce"
    paper = "-"
    summary = "hard labels only, no teacher: the baseline"
    family = "baseline"
    teachers = "none"

    def forward(self, lesson: Lesson) -> dict[str, Tensor]:
        return {}


METHODS.add("ce", CrossEntropy)
