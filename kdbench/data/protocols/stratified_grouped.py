"""What belongs together stays on one side, every class and source in proportion: the usual protocol."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kdbench.data.protocol import PROTOCOLS, Arrangement, Protocol
from kdbench.data.splits import Member
from kdbench.types import DatasetSpec


class StratifiedGrouped(Protocol):
    name = "stratified-grouped"
    title = "whole groups at a time, every class of every source in proportion; given sides are kept"

    def arrange(self, members: Sequence[Member], spec: DatasetSpec, root: Path) -> Arrangement:
        return Arrangement(tuple(members))


PROTOCOLS.add("stratified-grouped", StratifiedGrouped())
