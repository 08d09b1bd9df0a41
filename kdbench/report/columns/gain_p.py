"""Whether the gain may be chance."""

from kdbench.report.column import COLUMNS, Column, p_text

COLUMNS.add(
    "gain_p",
    Column(
        key="gain_p",
        title="p of the gain",
        unit="",
        better=None,
        order=21,
        value=lambda row: row.gain_p,
        text=lambda row, value, spread: p_text(float(value)),
        applies=lambda row: row.role == "student",
        table=None,  # the table of what distillation bought has it
        note="two-sided, of the paired differences in groups of test images at equal seeds; by Holm over all gains of "
        "the table",
    ),
)
