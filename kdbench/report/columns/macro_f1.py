"""Test macro-F1."""

from kdbench.report.column import COLUMNS, Column, percent_text

COLUMNS.add(
    "macro_f1",
    Column(
        key="macro_f1",
        title="macro-F1",
        unit="%",
        better="max",
        order=30,
        value=lambda row: row.macro_f1,
        spread=lambda row: row.macro_f1_std,
        text=percent_text,
        note="mean over the classes, so that a rare class counts as much as a common one",
    ),
)
