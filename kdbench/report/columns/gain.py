"""What the teacher added."""

from kdbench.report.column import COLUMNS, Column, points_text
from kdbench.report.rows import Row

NOT_SIGNIFICANT = "n.s."


def _text(row: Row, value: float | int | str, spread: float | None) -> str:
    mark = f" {NOT_SIGNIFICANT}" if row.gain_significant is False else ""
    return f"{points_text(row, value, spread)}{mark}"


COLUMNS.add(
    "gain",
    Column(
        key="gain",
        title="gain",
        unit="points",
        better="max",
        order=20,
        value=lambda row: row.gain,
        spread=lambda row: row.gain_std,
        interval=lambda row: None if row.gain_test is None else (row.gain_test.low, row.gain_test.high),
        text=_text,
        applies=lambda row: row.role == "student",
        note="accuracy minus that of the same model trained alone (ce) on the same data in the same way; mean of the "
        f"differences at equal seeds ± their sample standard deviation; {NOT_SIGNIFICANT}: may well be chance, p is "
        "0.05 or more by Holm over all gains of the table",
    ),
)
