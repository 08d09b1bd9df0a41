"""All images in one pool, each drawn by itself: how most papers split augmented sets, and why they do so well."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from kdbench.data.protocol import PROTOCOLS, Arrangement, Protocol, without_sides
from kdbench.data.splits import Member
from kdbench.types import DatasetSpec


class PooledRandom(Protocol):
    name = "pooled-random"
    title = "all sides in one pool, every image drawn by itself, as most papers do; leaks on purpose"
    leak = "copies of one original stand in training and test: the test asks in part for what was learned by heart"

    def arrange(self, members: Sequence[Member], spec: DatasetSpec, root: Path) -> Arrangement:
        return Arrangement(tuple(replace(member, group=member.id) for member in without_sides(members)))


PROTOCOLS.add("pooled-random", PooledRandom())
