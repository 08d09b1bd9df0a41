"""What a column of the leaderboard is, and the registry of them. Floor 6; no torch.

A new column is one file in `kdbench/report/columns/`; Markdown, CSV and JSON show it with no other change.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from kdbench.errors import UnknownName
from kdbench.registry import Registry
from kdbench.report.rows import Row

Value = float | int | str | None
Better = Literal["max", "min"]

NOT_APPLICABLE = "–"
MISSING = "missing"


@dataclass(frozen=True)
class Column:
    """One figure of a row.

    Args:
        key: its name in CSV and JSON, with the unit in it where the raw value has one.
        title: its heading in Markdown.
        unit: of the figure as Markdown shows it; "" if the cell carries it or there is none.
        better: which end is the good one; None for a column that is not ranked.
        order: columns stand in ascending order; steps of 10 leave room.
        value: the raw figure (fractions, bytes, milliseconds), None if it is not known.
        note: what it means, for the legend under the tables.
        spread: the raw half of "a ± b"; CSV calls it ``<key>_<spread_name>``.
        interval: the raw ends of its 95 % interval; CSV calls them ``<key>_interval_low`` and ``_high``.
        text: the figure and its spread as Markdown shows them.
        applies: whether a row can have this figure at all. One that can and has not is "missing"; else it is "–".
        variants: replaces the column by several for these rows, one for each thing that must not be mixed.
        table: where Markdown shows it: "" is the leaderboard itself, else the title of a further table of the same
            rows below it; None is nowhere. CSV and JSON have every column.
    """

    key: str
    title: str
    unit: str
    better: Better | None
    order: int
    value: Callable[[Row], Value]
    note: str = ""
    spread: Callable[[Row], float | None] | None = None
    spread_name: str = "std"
    interval: Callable[[Row], tuple[float, float] | None] | None = None
    text: Callable[[Row, float | int | str, float | None], str] = lambda row, value, spread: str(value)
    applies: Callable[[Row], bool] = lambda row: True
    variants: Callable[[Sequence[Row]], Sequence[Column]] | None = None
    table: str | None = ""

    @property
    def heading(self) -> str:
        """Title and unit."""
        return f"{self.title} ({self.unit})" if self.unit else self.title

    def show(self, row: Row) -> str:
        """The cell as a reader sees it; a figure that is not there never becomes a zero."""
        value = self.value(row)
        if value is None:
            return MISSING if row.n_ok and self.applies(row) else NOT_APPLICABLE
        return self.text(row, value, self.spread(row) if self.spread else None)


COLUMNS: Registry[Column] = Registry("report column", "kdbench.report.columns")


def columns_for(rows: Sequence[Row], names: Sequence[str] | None = None) -> list[Column]:
    """The columns of these rows, the variants in place of the columns that have them.

    Args:
        names: of columns, in the order wanted: the name of a column's file, which means all of its variants, or a key
            as CSV has it; None is all columns in their own order.
    Raises: UnknownName.
    """
    ordered = sorted((column.order, column.key, name) for name in COLUMNS.names() if (column := COLUMNS.get(name)))
    found: dict[str, list[Column]] = {}
    for _, _, name in ordered:
        column = COLUMNS.get(name)
        found[name] = list(column.variants(rows) if column.variants else (column,))
    every = [column for columns in found.values() for column in columns]
    if names is None:
        return every
    by_key = {column.key: column for column in every}
    chosen: dict[str, Column] = {}
    for name in names:
        if name not in found and name not in by_key:
            raise UnknownName("column", name, {*found, *by_key})
        chosen |= {column.key: column for column in ([by_key[name]] if name in by_key else found[name])}
    return list(chosen.values())


def named_apart(names: Sequence[str]) -> dict[str, str]:
    """For each name its part of a column's key: lower case letters, digits and "_", and no two the same."""
    keys: dict[str, str] = {}
    for name in names:
        plain = re.sub(r"\W+", "_", name).strip("_").lower() or "x"
        key, number = plain, 1
        while key in keys.values():
            number += 1
            key = f"{plain}_{number}"
        keys[name] = key
    return keys


# ---------------------------------------------------------------- figures for people


def percent(fraction: float) -> str:
    """0.953 as "95.3"."""
    return f"{100 * fraction:.1f}"


def points(fraction: float) -> str:
    """A difference of two fractions in percentage points, with its sign: 0.042 as "+4.2"."""
    text = f"{100 * fraction:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text


def spread_percent(fraction: float | None) -> str:
    """A spread of 0.004 as " ± 0.4", None as nothing; a small spread is not shown as none at all."""
    if fraction is None:
        return ""
    return " ± <0.1" if 0 < fraction < 0.0005 else f" ± {percent(fraction)}"


def p_text(p: float) -> str:
    """A p-value: "0.034", and "<0.001" below that; it never reads 0."""
    return "<0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def scaled(count: float) -> str:
    """A count with its decimal prefix: 570,000 as "0.57 M"."""
    for size, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(count) >= (0.1 if prefix == "M" else 1) * size:
            number = count / size
            return f"{number:.0f} {prefix}" if number >= 99.95 else f"{number:.{1 if number >= 1 else 2}f} {prefix}"
    return f"{count:.0f}"


def percent_text(row: Row, value: float | int | str, spread: float | None) -> str:
    """A fraction and its spread in percent: "95.3 ± 0.4"."""
    return f"{percent(float(value))}{spread_percent(spread)}"


def points_text(row: Row, value: float | int | str, spread: float | None) -> str:
    """A difference and its spread in points: "+4.2 ± 0.4"."""
    return f"{points(float(value))}{spread_percent(spread)}"


def scaled_text(row: Row, value: float | int | str, spread: float | None) -> str:
    """A count with its prefix: "0.57 M"."""
    return scaled(float(value))
