"""What the teacher added."""

from kdbench.report.column import COLUMNS, Column, points_text

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
        text=points_text,
        applies=lambda row: row.role == "student",
        note="accuracy minus that of the same model trained alone (ce) on the same data in the same way; mean of the "
        "differences at equal seeds ± their sample standard deviation",
    ),
)
