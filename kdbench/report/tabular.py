"""The leaderboard as raw numbers: a data frame, CSV, JSON. Fractions, bytes and milliseconds; nothing is rounded.

The columns are the registry's, so a new one shows up here too. With several machines, ``latency_ms`` splits into
``latency_ms_<fingerprint>``: a script that sorts by it then stops, and does not rank two machines against each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kdbench.report.column import Column, columns_for
from kdbench.report.rows import Row, build_rows
from kdbench.types import RunRecord

if TYPE_CHECKING:
    import pandas as pd

REPORT_SCHEMA_VERSION = 1
"""Of the JSON: raised when a key changes its meaning or goes away."""


def to_frame(records: Sequence[RunRecord]) -> pd.DataFrame:
    """One row for each cell; what is not known is NA. Columns are typed even where figures are missing."""
    import pandas as pd  # here, so that a table in Markdown does not wait for it

    rows = build_rows(records)
    columns = columns_for(rows)
    plain = [_plain(row, columns) for row in rows]
    keys = list(plain[0]) if plain else []
    return pd.DataFrame(
        {key: pd.array([row[key] for row in plain], dtype=_dtype([row[key] for row in plain])) for key in keys}
    )


def to_csv(records: Sequence[RunRecord]) -> str:
    """The frame as CSV; an empty field is a missing figure."""
    return str(to_frame(records).to_csv(index=False, lineterminator="\n"))


def to_json(records: Sequence[RunRecord]) -> dict[str, Any]:
    """``{schema_version, columns, rows}``, plain values throughout; null is a missing figure."""
    rows = build_rows(records)
    columns = columns_for(rows)
    return {
        "schema_version": REPORT_SCHEMA_VERSION,
        "columns": [
            {"key": column.key, "title": column.title, "better": column.better, "note": column.note}
            for column in columns
        ],
        "rows": [_plain(row, columns) | {"run_ids": [record.run_id for record in row.records]} for row in rows],
    }


def _plain(row: Row, columns: Sequence[Column]) -> dict[str, Any]:
    """A row as names and numbers."""
    figures: dict[str, Any] = {}
    for column in columns:
        figures[column.key] = column.value(row)
        if column.spread is not None:
            figures[f"{column.key}_{column.spread_name}"] = column.spread(row)
    return {
        "dataset": row.dataset.name,
        "image_size": row.dataset.image_size,
        "rank": row.rank,
        "role": row.role,
        "model": row.model,
        "method": row.method,
        "ground_truth": row.spec.method.ground_truth,
        "teacher": row.teacher or None,
        **figures,
        "failed": row.n_failed,
        "failure": row.failure,
        "machines": " ".join(row.fingerprints),
        "cell_id": row.cell_id,
    }


def _dtype(values: Sequence[Any]) -> Any:
    """A pandas type that keeps whole numbers whole where some are missing."""
    kinds = {type(value) for value in values if value is not None}
    if kinds == {bool}:
        return "boolean"
    if kinds == {int}:
        return "Int64"
    return "Float64" if kinds and kinds <= {int, float} else "string" if kinds == {str} else "object"
