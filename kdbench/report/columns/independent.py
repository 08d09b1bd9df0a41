"""How many test images do not depend on each other."""

from kdbench.report.column import COLUMNS, Column

COLUMNS.add(
    "independent",
    Column(
        key="independent",
        title="independent test images",
        unit="",
        better=None,
        order=16,
        value=lambda row: row.independent,
        table=None,  # the same for every row of a data set, whose first lines say it
        note="groups of test images, as originals with their copies; the number of images where none share one",
    ),
)
