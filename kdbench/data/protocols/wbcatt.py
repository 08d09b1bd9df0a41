"""The split of PBC that WBCAtt publishes (Tsutsui et al., arXiv:2306.13531)."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from kdbench.data.protocol import PROTOCOLS, Arrangement, Protocol, as_published
from kdbench.data.splits import Member
from kdbench.errors import DataError, MissingData
from kdbench.types import DatasetSpec, SplitName

FILE = "wbcatt_split.csv"
SIDES: dict[str, SplitName] = {"train": "train", "val": "val", "test": "test"}


class WBCAtt(Protocol):
    name = "wbcatt"
    title = "PBC as WBCAtt splits it; images that belong together with those of a later side are left out"
    datasets = ("pbc",)
    from_file = True

    def arrange(self, members: Sequence[Member], spec: DatasetSpec, root: Path) -> Arrangement:
        sides = _read(root / "pbc" / FILE)
        placed: list[Member] = []
        left_out: dict[int, str] = {}
        for number, member in enumerate(members):
            side = sides.get(_key(member.id))
            if side is None:
                left_out[number] = f"not in {FILE}"
            placed.append(replace(member, fold=side))
        if not sides or not (set(sides.values()) <= {member.fold for member in placed}):
            raise DataError(
                f"{root / 'pbc' / FILE} names no image of a side that is on this disk; its paths end in <class>/<file>"
            )
        clean = as_published(placed)
        return Arrangement(clean.members, {**clean.left_out, **left_out})


def _read(path: Path) -> dict[str, SplitName]:
    """The side of each image by its class folder and file name."""
    try:
        rows = list(csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines()))
    except FileNotFoundError:
        raise MissingData(
            f"pbc: nothing at {path}; take the split from https://github.com/apple2373/wbcatt and write it there as a "
            "table with the columns path and split (train, val or test)"
        ) from None
    except (OSError, UnicodeDecodeError, csv.Error) as problem:
        raise DataError(f"{path}: the split cannot be read ({problem}); save it as UTF-8 CSV") from None
    sides: dict[str, SplitName] = {}
    for line, row in enumerate(rows, start=2):
        place, side = (row.get("path") or "").strip(), (row.get("split") or "").strip().lower()
        if not place or side not in SIDES:
            raise DataError(
                f"{path}, line {line}: expected a path and train, val or test, found {place!r} and {side!r}"
            )
        if sides.setdefault(_key(place), SIDES[side]) != side:
            raise DataError(f"{path}, line {line}: {place} stands on two sides; keep one line for each image")
    return sides


def _key(place: str) -> str:
    return "/".join(PurePosixPath(place).parts[-2:])


PROTOCOLS.add("wbcatt", WBCAtt())
