"""Distillation through a teacher assistant of middling size (Mirzadeh et al., arXiv:1902.03393)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field

from kdbench.method import METHODS, resolve_options
from kdbench.methods.kd import KD
from kdbench.types import MethodSpec, ModelChoice, RunSpec


class TAKD(KD):
    """KD from an assistant that was itself taught by the teacher, both at one temperature and alpha."""

    name = "takd"
    paper = "arXiv:1902.03393"
    summary = "learn from an assistant that has learnt from the teacher"
    family = "chain"

    class Options(KD.Options):
        assistant: str = Field(default="resnet10t", min_length=1, description="a model between student and teacher")

    @classmethod
    def lessons(cls, options: Any, teachers: Sequence[RunSpec], student: RunSpec) -> list[tuple[RunSpec, ...]]:
        """An assistant for each teacher, trained as that teacher was and always with ground truth, as it was."""
        taught = MethodSpec(name="kd", options={"temperature": options.temperature, "alpha": options.alpha})
        taught = taught.model_copy(update={"options": resolve_options(taught)})
        return [
            (
                RunSpec(
                    role="teacher",
                    dataset=teacher.dataset,
                    model=ModelChoice(name=options.assistant),
                    method=taught,
                    teachers=(teacher,),
                    views=teacher.views,
                    train=teacher.train,
                    seed=teacher.seed,
                ),
            )
            for teacher in teachers
        ]


METHODS.add("takd", TAKD)
