"""Accuracy on further data sets, and what is lost on the way: two columns for each."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from kdbench.report.column import COLUMNS, Column, named_apart, percent_text, points_text
from kdbench.report.rows import Row, dataset_titles
from kdbench.types import DatasetSpec, EvaluationRecord


def _further(row: Row) -> Iterable[tuple[int, EvaluationRecord]]:
    """(seed, evaluation) on further data sets."""
    return (
        (seed, found)
        for seed, every in row.evaluations.items()
        for found in every
        if found.side == "all" and found.metrics is not None
    )


def _variants(rows: Sequence[Row]) -> list[Column]:
    """Two for each data set that a model of these rows was tried on."""
    by_text = {found.on.model_dump_json(): found.on for row in rows for _, found in _further(row)}
    datasets = [by_text[text] for text in sorted(by_text)]
    titles = dict(zip(dataset_titles(datasets), datasets, strict=True))
    return [
        column
        for title, key in named_apart(sorted(titles)).items()
        for column in _pair(title, key, titles[title], rows)
    ]


def _pair(title: str, key: str, dataset: DatasetSpec, rows: Sequence[Row]) -> list[Column]:
    def mean(row: Row, figure: Callable[[float, float], float]) -> float | None:
        """Over the seeds, of a figure of the accuracy there and the accuracy here; None unless every seed was tried."""
        found = [
            figure(evaluation.metrics.accuracy, row.accuracies[seed])
            for seed, evaluation in _further(row)
            if evaluation.on == dataset and evaluation.metrics is not None and evaluation.failure is None
        ]
        return statistics.fmean(found) if found and len(found) == row.n_ok else None

    unchecked = sorted({
        evaluation.data.leak for row in rows for _, evaluation in _further(row)
        if evaluation.on == dataset and evaluation.data is not None and evaluation.data.leak
    })  # fmt: skip
    caution = f"; † {'; '.join(unchecked)}" if unchecked else ""
    title = f"{title} †" if unchecked else title

    return [
        replace(
            DROP,
            key=f"accuracy_on_{key}",
            title=f"on {title}",
            unit="%",
            value=lambda row: mean(row, lambda there, here: there),
            text=percent_text,
            variants=None,
            note="accuracy on a further data set, all images of the classes the model knows; mean over the seeds"
            + caution,
        ),
        replace(
            DROP,
            key=f"drop_on_{key}",
            title=f"on {title}, against its own test images",
            value=lambda row: mean(row, lambda there, here: there - here),
            variants=None,
            note="accuracy there minus the accuracy on its own test images; mean over the seeds",
        ),
    ]


DROP = COLUMNS.add(
    "drop",
    Column(
        key="drop",
        title="drop",
        unit="points",
        better="max",
        order=86,
        value=lambda row: None,  # without a further data set there is none: _variants gives the real columns
        text=points_text,
        variants=_variants,
        table="Other data sets",
        note="accuracy on further data sets",
    ),
)
