"""Recall of each class: a column for each."""

from collections.abc import Sequence
from dataclasses import replace

from kdbench.report.column import COLUMNS, Column, named_apart, percent_text
from kdbench.report.rows import Row
from kdbench.report.text import LONGEST_LIST


def _variants(rows: Sequence[Row]) -> list[Column]:
    """One for each class that occurs in test images of these rows; a table of too many shows none of them."""
    labels = sorted({label for row in rows for label in row.recalls})
    table = RECALL.table if len(labels) <= LONGEST_LIST else None
    return [replace(_variant(label, key), table=table) for label, key in named_apart(labels).items()]


def _variant(label: str, key: str) -> Column:
    return replace(
        RECALL,
        key=f"recall_{key}",
        title=label,
        value=lambda row: row.recalls.get(label),
        variants=None,
    )


RECALL = COLUMNS.add(
    "recall",
    Column(
        key="recall",
        title="recall",
        unit="%",
        better="max",
        order=82,
        value=lambda row: None,  # there is no recall without a class: _variants gives the real columns
        text=percent_text,
        variants=_variants,
        table="Recall by class",
        note="test images of that class that are recognised as it; mean over the seeds",
    ),
)
