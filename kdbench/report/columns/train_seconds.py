"""What the training of a row cost."""

from kdbench.report.column import COLUMNS, Column
from kdbench.report.rows import Row


def _text(row: Row, value: float | int | str, spread: float | None) -> str:
    return f"{float(value):.{0 if float(value) >= 10 else 1}f}"


COLUMNS.add(
    "train_seconds",
    Column(
        key="train_seconds",
        title="training",
        unit="s",
        better=None,  # two runs of one table may have shared the machine with other work
        order=75,
        value=lambda row: row.train_seconds,
        text=_text,
        note="time of one run's training loop, mean over the seeds; what a teacher said once for all its students is "
        "not in it, a teacher that ran beside the student is",
    ),
)
