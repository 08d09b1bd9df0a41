"""Tables from records, and from nothing else. Floor 6: imports no torch, so a leaderboard builds on any machine.

>>> from kdbench.report import Outcomes, collect, render
>>> print(render(collect("results"), "md", outcomes=Outcomes.below("results")))  # doctest: +SKIP

Records alone make a page as well; the intervals, which need each run's answers, are then missing.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kdbench.errors import RecordError, UnknownName
from kdbench.report.costs import render_costs
from kdbench.report.html import render_html
from kdbench.report.latex import latex_costs, render_latex
from kdbench.report.markdown import render_markdown
from kdbench.report.outcomes import Outcomes
from kdbench.report.rows import Row, build_rows, newest
from kdbench.report.tabular import costs_csv, costs_frame, costs_json, to_csv, to_frame, to_json
from kdbench.store import find_profiles, find_stores
from kdbench.types import ProfileRecord, RunRecord

__all__ = [
    "FORMATS",
    "Outcomes",
    "Row",
    "build_rows",
    "collect",
    "collect_profiles",
    "costs_csv",
    "costs_frame",
    "costs_json",
    "profiles_of",
    "render",
    "render_costs",
    "render_html",
    "render_latex",
    "render_markdown",
    "to_frame",
    "to_json",
]


def _text(plain: dict[str, Any]) -> str:
    return json.dumps(plain, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


Names = Sequence[str] | None
Renderer = Callable[[Sequence[RunRecord], Sequence[ProfileRecord], Outcomes | None, Names], str]


def _page(
    records: Sequence[RunRecord], profiles: Sequence[ProfileRecord], outcomes: Outcomes | None, names: Names
) -> str:
    if not records:
        return render_costs(profiles)
    return render_markdown(records, profiles=profiles, outcomes=outcomes, names=names)


def _csv(
    records: Sequence[RunRecord], profiles: Sequence[ProfileRecord], outcomes: Outcomes | None, names: Names
) -> str:
    return to_csv(records, profiles, outcomes, names) if records else costs_csv(profiles)


def _json(
    records: Sequence[RunRecord], profiles: Sequence[ProfileRecord], outcomes: Outcomes | None, names: Names
) -> str:
    return _text(to_json(records, profiles, outcomes, names) if records else costs_json(profiles))


def _latex(
    records: Sequence[RunRecord], profiles: Sequence[ProfileRecord], outcomes: Outcomes | None, names: Names
) -> str:
    return render_latex(records, profiles, outcomes, names) if records else latex_costs(profiles)


FORMATS: dict[str, Renderer] = {"md": _page, "csv": _csv, "json": _json, "latex": _latex, "html": render_html}


def collect(results_dir: Path | str) -> list[RunRecord]:
    """All records at or below a folder; of a run that is there twice, the one that started last.

    Raises: RecordError if there is none; SchemaMismatch if one cannot be read.
    """
    root = Path(results_dir)
    with _kept_from_the_collector():
        records = newest(record for store in find_stores(root) for record in store.records())
    if not records:
        what = "holds no records" if root.is_dir() else "is no folder"
        raise RecordError(f"{root} {what}; make some with `kdbench run quickstart`, or name another folder")
    return records


def collect_profiles(root: Path | str) -> list[ProfileRecord]:
    """All profiles at or below a folder, or of one file; what was measured twice, as it was measured last.

    Unlike `collect` it may find none: a results folder needs no profiles of its own.

    Raises: RecordError if there is no such file or folder; SchemaMismatch if a file cannot be read.
    """
    if not Path(root).exists():
        raise RecordError(f"{root} is no file or folder; `kdbench profile MODEL --out FILE` writes a file of profiles")
    return find_profiles(root)


def profiles_of(results: Path | str, others: Iterable[Path | str]) -> list[ProfileRecord]:
    """The profiles of a results folder, and those of files and folders from other machines.

    Raises: RecordError if one of the others is not there or holds none; SchemaMismatch if a file cannot be read.
    """
    costs = find_profiles(results)
    for path in others:
        found = collect_profiles(path)
        if not found:
            raise RecordError(f"{path} holds no profiles; `kdbench profile MODEL --out FILE` writes a file of them")
        costs += found
    return costs


def render(
    records: Sequence[RunRecord],
    format: str = "md",
    profiles: Sequence[ProfileRecord] = (),
    outcomes: Outcomes | None = None,
    columns: Sequence[str] | None = None,
) -> str:
    """The leaderboard as text that ends with a newline: md, csv, json, latex or html; without records, the costs
    alone.

    Args:
        profiles: measured apart from the runs; they join the rows they belong to.
        outcomes: where each run's answers and evaluations are; without it no figure that needs them is there.
        columns: the names or keys of those wanted; None is all of them, in LaTeX the usual ones of a paper.

    Raises: RecordError if there is neither; UnknownName.
    """
    if format not in FORMATS:
        raise UnknownName("format", format, FORMATS)
    if not records and not profiles:
        raise RecordError("there are no records to make a table from; make some with `kdbench run quickstart`")
    return FORMATS[format](records, profiles, outcomes, columns)


@contextmanager
def _kept_from_the_collector() -> Iterator[None]:
    """Read many records without the cyclic collector: it would walk all that were read, again and again, for three
    quarters of the time, and find nothing, as no record refers back to itself.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        if not gc.get_freeze_count():
            # into the oldest generation at once, so that the next collections of young objects do not walk them either
            gc.freeze()
            gc.unfreeze()
        gc.enable()
