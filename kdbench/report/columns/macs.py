"""Multiply-adds of one image."""

from kdbench.report.column import COLUMNS, Column, scaled_text

COLUMNS.add(
    "macs",
    Column(
        key="macs",
        title="MACs",
        unit="",
        better="min",
        order=50,
        value=lambda row: row.macs,
        text=scaled_text,
        note="multiply-adds of one image; FLOPs are twice as many",
    ),
)
