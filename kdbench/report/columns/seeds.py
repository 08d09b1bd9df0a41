"""How many repetitions stand behind a row."""

from kdbench.report.column import COLUMNS, Column
from kdbench.report.rows import Row


def _text(row: Row, value: float | int | str, spread: float | None) -> str:
    return f"{value} of {len(row.records)}" if row.n_failed else str(value)


COLUMNS.add(
    "seeds",
    Column(
        key="seeds",
        title="seeds",
        unit="",
        better=None,
        order=90,
        value=lambda row: row.n_ok,
        text=_text,
        note="runs with a result, of all that were started",
    ),
)
