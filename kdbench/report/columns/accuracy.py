"""Test accuracy."""

from kdbench.report.column import COLUMNS, Column, percent_text

COLUMNS.add(
    "accuracy",
    Column(
        key="accuracy",
        title="accuracy",
        unit="%",
        better="max",
        order=10,
        value=lambda row: row.accuracy,
        spread=lambda row: row.accuracy_std,
        interval=lambda row: row.interval,
        text=percent_text,
        note="of the test images, at the epoch that was best on the validation images; mean over the seeds ± sample "
        "standard deviation",
    ),
)
