"""Train, validation and test: deterministic, stratified, grouped, and the same whatever order files are listed in.

A group (images whose bytes are equal, or that the source says belong together) never stands on two sides. Where the
publisher gives a side, it is kept, and what it does not give is cut from the given training side.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kdbench.errors import DataError, SplitLeak
from kdbench.types import DatasetSpec, SplitName


@dataclass(frozen=True)
class Member:
    """What a split needs to know of one image."""

    id: str
    label: str
    stratum: str
    group: str
    fold: SplitName | None = None
    source: str = ""


def merge_groups(keys: Sequence[Sequence[Hashable]]) -> list[int]:
    """The number of the connected component of each element; elements that share any key are connected.

    Args:
        keys: for each element its keys (its content hash, its given group...).
    Returns: for each element the index of the first element of its component.
    """
    parent = list(range(len(keys)))

    def find(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    first: dict[Hashable, int] = {}
    for index, own in enumerate(keys):
        for key in own:
            low, high = sorted((find(first.setdefault(key, index)), find(index)))
            parent[high] = low
    return [find(index) for index in range(len(keys))]


def split(members: Sequence[Member], spec: DatasetSpec) -> dict[SplitName, np.ndarray]:
    """Indices into members for each side, ascending; a member may be on no side (train_limit).

    Each stratum is shared out by the fractions of the spec, whole groups at a time, in the order of a hash of
    (split_seed, group): a new image changes little, and the order of members changes nothing.

    Raises: SplitLeak if a group was given to two sides; DataError if a side would be empty.
    """
    side = _given_sides(members)
    groups: dict[str, list[int]] = defaultdict(list)
    for index, member in enumerate(members):
        groups[member.group].append(index)
    by_stratum: dict[tuple[SplitName | None, str], list[str]] = defaultdict(list)
    for group, stratum in strata_of(members).items():
        by_stratum[side[group], stratum].append(group)

    given_sides = {member.fold for member in members}
    chosen: dict[SplitName, list[int]] = {"train": [], "val": [], "test": []}
    rank: dict[int, float] = {}
    for (given, _), names in by_stratum.items():
        names.sort(key=lambda name: order_of(spec.split_seed, name))
        total = sum(len(groups[name]) for name in names)
        wanted: dict[SplitName, int] = {
            "test": round(spec.test_fraction * total),
            "val": round(spec.val_fraction * total),
        }
        if given == "train":
            wanted = {name: 0 if name in given_sides else count for name, count in wanted.items()}
        taken: Counter[SplitName] = Counter()
        for name in names:
            inside = groups[name]
            place: SplitName = given or "train"
            if given in (None, "train"):
                # a group that would overshoot a side by more than half of itself goes on to the next
                place = next((s for s in wanted if taken[s] + len(inside) / 2 <= wanted[s]), "train")
            for index in sorted(inside, key=lambda number: members[number].id):
                rank[index] = (taken[place] + 0.5) / total
                taken[place] += 1
            chosen[place] += inside

    if spec.train_limit is not None and spec.train_limit < len(chosen["train"]):
        # by relative rank inside the stratum: a smaller limit is a subset of a larger one, in the same proportions
        order = sorted(chosen["train"], key=lambda index: (rank[index], order_of(spec.split_seed, members[index].id)))
        chosen["train"] = order[: spec.train_limit]
    for name, indices in chosen.items():
        if not indices:
            raise DataError(
                f"{spec.name}: the {name} split is empty with {len(members)} images; "
                "use more images or a larger fraction"
            )
    return {name: np.asarray(sorted(indices), dtype=np.int64) for name, indices in chosen.items()}


def strata_of(members: Sequence[Member]) -> dict[str, str]:
    """The stratum of each group: one vote for each image; the smaller name wins a tie."""
    votes: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for member in members:
        votes[member.group][member.stratum] += 1
    return {group: min(found.items(), key=lambda item: (-item[1], item[0]))[0] for group, found in votes.items()}


def _given_sides(members: Sequence[Member]) -> Mapping[str, SplitName | None]:
    side: dict[str, SplitName | None] = {}
    first: dict[str, str] = {}
    leaks: dict[str, str] = {}
    for member in members:
        if side.setdefault(member.group, member.fold) != member.fold and member.group not in leaks:
            leaks[member.group] = (
                f"{first[member.group]} and {member.id} belong together, but were given to "
                f"'{side[member.group]}' and '{member.fold}'; remove one of them, or take protocol: official, which "
                "leaves out what is not on the later side"
            )
        first.setdefault(member.group, member.id)
    if leaks:
        more = f" ({len(leaks) - 1} more groups stand on two sides)" if len(leaks) > 1 else ""
        raise SplitLeak(next(iter(leaks.values())) + more)
    return side


def order_of(seed: int, name: str) -> str:
    """What things are sorted by to be drawn: a new one changes little, and the order they are listed in nothing."""
    return hashlib.sha256(f"{seed}/{name}".encode()).hexdigest()
