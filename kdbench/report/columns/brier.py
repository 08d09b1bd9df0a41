"""How good the probabilities are."""

from kdbench.report.column import COLUMNS, Column
from kdbench.report.rows import Row


def _text(row: Row, value: float | int | str, spread: float | None) -> str:
    return f"{float(value):.3f}"


COLUMNS.add(
    "brier",
    Column(
        key="brier",
        title="Brier score",
        unit="",
        better="min",
        order=84,
        value=lambda row: row.brier,
        text=_text,
        table="Probabilities",
        note="squared distance of the probabilities to the true class, summed over the classes, in [0, 2]; mean over "
        "the test images and the seeds",
    ),
)
