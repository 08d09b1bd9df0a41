"""How far the test images carry the accuracy."""

from kdbench.report.column import COLUMNS, Column, percent
from kdbench.report.rows import Row


def _text(row: Row, value: float | int | str, spread: float | None) -> str:
    low, high = row.interval or (0.0, 0.0)
    return f"{percent(low)} to {percent(high)}"


COLUMNS.add(
    "interval",
    Column(
        key="interval_width",
        title="95 % interval",
        unit="%",
        better=None,  # of two rows on the same images the one nearer to 100 % has the narrower one
        order=15,
        value=lambda row: None if row.interval is None else row.interval[1] - row.interval[0],
        text=_text,
        note="where the accuracy would lie with other test images of the same kind: Wilson's interval with the number "
        "of independent images that tells as much; images of one group, as copies of one original, do not count as "
        "independent, and the spread over the seeds is not in it; CSV and JSON have its ends beside the accuracy",
    ),
)
