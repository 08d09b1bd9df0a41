"""Train on all laboratories but one, test on that one: what a model is worth where it has never been."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from kdbench.data.protocol import LEAVE_ONE_OUT, PROTOCOLS, Arrangement, Protocol, as_published
from kdbench.data.splits import Member
from kdbench.errors import MissingData
from kdbench.types import DatasetSpec


class LeaveOneSourceOut(Protocol):
    name = LEAVE_ONE_OUT
    title = "all images of the source `held_out` are the test set, those of the others train and validate"

    def arrange(self, members: Sequence[Member], spec: DatasetSpec, root: Path) -> Arrangement:
        present = sorted({member.source for member in members})
        if spec.held_out not in present:
            raise MissingData(
                f"{spec.name}: the source '{spec.held_out}' to be tested on is not below {root} "
                f"(there: {', '.join(present)}); get it with `kdbench data download {spec.held_out}`"
            )
        if len(present) < 2:
            raise MissingData(f"{spec.name}: {spec.held_out} is the only source below {root}; nothing is left to learn")
        return as_published([replace(m, fold="test" if m.source == spec.held_out else "train") for m in members])


PROTOCOLS.add(LEAVE_ONE_OUT, LeaveOneSourceOut())
