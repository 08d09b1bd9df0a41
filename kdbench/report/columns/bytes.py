"""Size of the stored weights."""

from kdbench.report.column import COLUMNS, Column, scaled_text

COLUMNS.add(
    "bytes",
    Column(
        key="weight_bytes",
        title="weights",
        unit="",
        better="min",
        order=60,
        value=lambda row: row.weight_bytes,
        text=lambda row, value, spread: f"{scaled_text(row, value, spread)}B",
        note="parameters and buffers as stored; 1 MB is a million bytes",
    ),
)
