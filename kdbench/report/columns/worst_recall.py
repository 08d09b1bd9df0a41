"""Recall of the class that is recognised worst."""

from kdbench.report.column import COLUMNS, Column, percent_text

COLUMNS.add(
    "worst_recall",
    Column(
        key="worst_recall",
        title="worst recall",
        unit="%",
        better="max",
        order=35,
        value=lambda row: row.worst_recall,
        text=percent_text,
        note="of the class that is recognised worst, mean over the seeds; the records have every class",
    ),
)
