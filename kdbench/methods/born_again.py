"""Born-again networks: a student taught by its own earlier self (Furlanello et al., arXiv:1805.04770)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field

from kdbench.method import METHODS
from kdbench.methods.kd import KD
from kdbench.types import MethodSpec, RunSpec


class BornAgain(KD):
    """alpha * KL(earlier self || student) + (1 - alpha) * cross-entropy: one generation.

    By default, as in the paper, the teacher's probabilities alone teach, not softened; alpha 0.5 is its variant with
    labels (BAN+L).
    """

    name = "born_again"
    paper = "arXiv:1805.04770"
    summary = "learn from the same network trained alone before"
    family = "self"

    class Options(KD.Options):
        temperature: float = Field(default=1.0, gt=0)
        alpha: float = Field(default=1.0, gt=0, le=1, description="weight of the teacher's term")

    @classmethod
    def lessons(cls, options: Any, teachers: Sequence[RunSpec], student: RunSpec) -> list[tuple[RunSpec, ...]]:
        """The student's own baseline, whatever teachers a suite names: the very run of the suite, trained once."""
        return [(student.model_copy(update={"method": MethodSpec(name="ce"), "teachers": ()}),)]

    @classmethod
    def suite_teachers(cls) -> int:
        return 0


METHODS.add("born_again", BornAgain)
