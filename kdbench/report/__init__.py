"""Tables from records, and from nothing else. Floor 6: imports no torch, so a leaderboard builds on any machine.

>>> from kdbench.report import collect, render
>>> print(render(collect("results"), "md"))  # doctest: +SKIP
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from kdbench.errors import RecordError, UnknownName
from kdbench.report.markdown import render_markdown
from kdbench.report.rows import Row, build_rows, newest
from kdbench.report.tabular import to_csv, to_frame, to_json
from kdbench.store import find_stores
from kdbench.types import RunRecord

__all__ = ["FORMATS", "Row", "build_rows", "collect", "render", "render_markdown", "to_frame", "to_json"]

FORMATS: dict[str, Callable[[Sequence[RunRecord]], str]] = {
    "md": render_markdown,
    "csv": to_csv,
    "json": lambda records: json.dumps(to_json(records), indent=1, ensure_ascii=False, allow_nan=False) + "\n",
}


def collect(results_dir: Path | str) -> list[RunRecord]:
    """All records at or below a folder; of a run that is there twice, the one that started last.

    Raises: RecordError if there is none; SchemaMismatch if one cannot be read.
    """
    root = Path(results_dir)
    records = newest(record for store in find_stores(root) for record in store.records())
    if not records:
        what = "holds no records" if root.is_dir() else "is no folder"
        raise RecordError(f"{root} {what}; make some with `kdbench run quickstart`, or name another folder")
    return records


def render(records: Sequence[RunRecord], format: str = "md") -> str:
    """The leaderboard as text that ends with a newline: md, csv or json. Raises: RecordError, UnknownName."""
    if format not in FORMATS:
        raise UnknownName("format", format, FORMATS)
    if not records:
        raise RecordError("there are no records to make a table from; make some with `kdbench run quickstart`")
    return FORMATS[format](records)
