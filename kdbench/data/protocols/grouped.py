"""K folds of whole groups: every original is tested on once."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from kdbench.data.protocol import PROTOCOLS, Arrangement, Protocol
from kdbench.data.splits import Member, order_of, strata_of
from kdbench.types import DatasetSpec


class Grouped(Protocol):
    name = "grouped"
    title = "five folds of whole groups, the publisher's sides forgotten; `fold` says which one is tested on"
    folds = 5

    def arrange(self, members: Sequence[Member], spec: DatasetSpec, root: Path) -> Arrangement:
        fold = fold_of_groups(members, self.folds, spec.split_seed)
        return Arrangement(tuple(replace(m, fold="test" if fold[m.group] == spec.fold else "train") for m in members))


def fold_of_groups(members: Sequence[Member], folds: int, seed: int) -> dict[str, int]:
    """The fold of each group: stratum by stratum, the next largest group into the fold with the fewest images of it.

    Ties go to the fold with the fewest images of all strata. Groups of one size go in the order of a hash of
    (seed, group), so the order of members changes nothing.
    """
    size = Counter(member.group for member in members)
    strata: defaultdict[str, list[str]] = defaultdict(list)
    for group, stratum in strata_of(members).items():
        strata[stratum].append(group)
    fold: dict[str, int] = {}
    total = [0] * folds
    for stratum in sorted(strata):
        held = [0] * folds
        for group in sorted(strata[stratum], key=lambda g: (-size[g], order_of(seed, g))):
            fold[group] = min(range(folds), key=lambda number: (held[number], total[number], number))
            held[fold[group]] += size[group]
            total[fold[group]] += size[group]
    return fold


PROTOCOLS.add("grouped", Grouped())
