"""Number of parameters."""

from kdbench.report.column import COLUMNS, Column, scaled_text

COLUMNS.add(
    "params",
    Column(
        key="params",
        title="params",
        unit="",
        better="min",
        order=40,
        value=lambda row: row.params,
        text=scaled_text,
        note="parameters of the model that is deployed; the teacher is not counted",
    ),
)
