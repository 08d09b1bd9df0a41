"""Whether the probabilities tell the classes apart, wherever the threshold is put."""

from kdbench.report.column import COLUMNS, Column
from kdbench.report.rows import Row


def _text(row: Row, value: float | int | str, spread: float | None) -> str:
    # four digits: most classifiers of these images lie above 0.99; what is not perfect must not read so
    return "1.0000" if value == 1 else f"{min(float(value), 0.9999):.4f}"


COLUMNS.add(
    "auroc",
    Column(
        key="auroc",
        title="AUROC",
        unit="",
        better="max",
        order=85,
        value=lambda row: row.auroc,
        text=_text,
        table="Probabilities",
        note="area under the ROC curve of each class against all others, mean over the classes that occur in the test "
        "images and over the seeds; 0.5 is chance",
    ),
)
