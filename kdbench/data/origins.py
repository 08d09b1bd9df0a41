"""What audits found to belong together, so that nobody has to find it again. Floor 3.

    tables/bccd-originals.csv  sha256 (first 12 digits) of an augmented image, its original's number, the inliers of the
                               match and those of the second-best original
    tables/bccd-overlaps.csv   numbers of two originals that show the same cells; inliers of the match, share of the
                               frame that both show, correlation of its pixels
    tables/twins.csv           ids of two images that show one cell, and the correlation of their detail

Two originals that overlap are photographs of one place of the smear: a network that learned one knows the other. So
images belong together if their originals do.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import TypeVar

from kdbench.data.splits import merge_groups

DIGITS = 12
"""Of a SHA-256: enough to tell 10^4 files apart, with one chance in 10^6 of any mistake."""


def _rows(name: str) -> Iterator[list[str]]:
    text = (resources.files("kdbench") / "data" / "tables" / name).read_text("utf-8")
    rows = csv.reader(text.splitlines())
    next(rows)
    yield from rows


Named = TypeVar("Named", int, str)


def _joined(pairs: Iterable[tuple[Named, Named]]) -> dict[Named, Named]:
    """The least of all that are joined to it by pairs, for each that is in one."""
    every = list(pairs)
    least: dict[int, Named] = {}
    components = merge_groups(every)
    for pair, component in zip(every, components, strict=True):
        least[component] = min(least.get(component, pair[0]), *pair)
    return {name: least[component] for pair, component in zip(every, components, strict=True) for name in pair}


@cache
def known_twins() -> MappingProxyType[str, str]:
    """The image that another one shows again, for both of them, by their ids; names of files are the publisher's."""
    return MappingProxyType(_joined((row[0], row[1]) for row in _rows("twins.csv")))


@cache
def bccd_originals() -> MappingProxyType[str, int]:
    """The number of the original by the first `DIGITS` of an augmented image's SHA-256."""
    return MappingProxyType({row[0]: int(row[1]) for row in _rows("bccd-originals.csv")})


@cache
def bccd_places() -> MappingProxyType[int, int]:
    """The lowest number of the originals that show the same place, for each that overlaps another."""
    return MappingProxyType(_joined((int(row[0]), int(row[1])) for row in _rows("bccd-overlaps.csv")))


def bccd_place(original: int) -> str:
    """The name of the place an original shows: that of its lowest original."""
    return f"BloodImage_{bccd_places().get(original, original):05d}"
