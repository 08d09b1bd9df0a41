"""Whether confidence is accuracy."""

from kdbench.report.column import COLUMNS, Column, percent_text

COLUMNS.add(
    "ece",
    Column(
        key="ece",
        title="calibration error",
        unit="%",
        better="min",
        order=83,
        value=lambda row: row.ece,
        text=percent_text,
        table="Probabilities",
        note="expected calibration error of the test images: how far the confidence lies from the accuracy, over 15 "
        "bins of equal width (Guo et al., arXiv:1706.04599); mean over the seeds",
    ),
)
