"""Every picture of a leaderboard: which figures go into it, and under which name it is written. Floor 6; no torch."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kdbench.calibration import BINS
from kdbench.errors import RecordError
from kdbench.report.charts import (
    Confusion,
    Curves,
    Gain,
    Reliability,
    draw_confusions,
    draw_curves,
    draw_gains,
    draw_reliability,
)
from kdbench.report.column import named_apart
from kdbench.report.drawing import own_style
from kdbench.report.outcomes import Answers, Outcomes
from kdbench.report.plots import plot_costs, row_names, save
from kdbench.report.rows import Row, build_rows, dataset_key, dataset_titles
from kdbench.types import ProfileRecord, RunRecord

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KINDS = (".svg", ".png")
MOST_NETWORKS = 4
"""In one picture of confusions, reliability or training: more lines cannot be told apart."""

MOST_GAINS = 120
"""Bars in one picture; of more, the largest and the smallest are drawn."""

LEAST_IMAGES = 10
"""Of a bin of confidence, before its share of right answers is worth a point."""


def plot_all(
    records: Sequence[RunRecord], profiles: Sequence[ProfileRecord], outcomes: Outcomes | None, folder: Path | str
) -> list[Path]:
    """Write everything that can be drawn, as SVG and PNG; a picture of which there is nothing is not written.

    Returns: the files, in the order they were written.
    Raises: RecordError if there is nothing to draw at all.
    """
    folder = Path(folder)
    written: list[Path] = []
    costs = ("latency", "macs", "params")
    for x in costs if records else costs[:1]:
        name = f"accuracy-against-{x}" if records else f"macs-against-{x}"
        try:
            for kind in KINDS:
                plot_costs(profiles, records, x, out=folder / f"{name}{kind}", outcomes=outcomes)
                written.append(folder / f"{name}{kind}")
        except RecordError:  # nothing of that kind was measured
            continue
    parts: dict[str, list[Row]] = {}
    for row in build_rows(records, profiles, outcomes):
        parts.setdefault(dataset_key(row.dataset), []).append(row)
    titles = dataset_titles([group[0].dataset for group in parts.values()])
    keys = named_apart(titles)
    with own_style():
        for title, rows in zip(titles, parts.values(), strict=True):
            slug = re.sub("_+", "-", keys[title])
            for name, draw in _pictures(title, rows):
                for kind in KINDS:
                    save(draw(), folder / f"{name}-{slug}{kind}")
                    written.append(folder / f"{name}-{slug}{kind}")
    if not written:
        raise RecordError("there is nothing to draw; make records with `kdbench run quickstart`")
    return written


def _pictures(title: str, rows: Sequence[Row]) -> Iterator[tuple[str, Callable[[], Figure]]]:
    """The pictures of one data set: name, and what draws it; a figure is drawn anew for each file it goes into."""
    names = dict(zip((row.cell_id for row in rows), row_names(rows), strict=True))
    if gains := gains_of(rows, names):
        models = {row.model for row in rows if row.gain is not None}
        of = f"{title} · {next(iter(models))}" if len(models) == 1 else title
        yield "gains", lambda: draw_gains(of, gains)
    chosen = telling(rows)
    if confusions := [_confusion(names[row.cell_id], row) for row in chosen if row.answers]:
        yield "confusion", lambda: draw_confusions(title, confusions)
    if reliable := [_reliability(names[row.cell_id], row) for row in chosen if row.answers]:
        yield "reliability", lambda: draw_reliability(title, reliable, LEAST_IMAGES)
    if curves := [curve for row in chosen if (curve := _curves(names[row.cell_id], row)).seeds]:
        yield "training", lambda: draw_curves(title, curves)


def gains_of(rows: Sequence[Row], names: dict[str, str]) -> list[Gain]:
    """Of every student with a gain, by its name, less its model where all have one; of too many, the largest and the
    smallest.
    """
    one_model = len({row.model for row in rows if row.gain is not None}) == 1
    found = [
        Gain(
            names[row.cell_id].removeprefix(f"{row.model}, ") if one_model else names[row.cell_id],
            row.gain,
            (row.gain_test.low, row.gain_test.high) if row.gain_test else None,
            row.gain_significant,
        )
        for row in rows
        if row.gain is not None
    ]
    found.sort(key=lambda gain: (-gain.gain, gain.name))
    half = MOST_GAINS // 2
    return found if len(found) <= MOST_GAINS else [*found[:half], *found[-half:]]


def telling(rows: Sequence[Row]) -> list[Row]:
    """The best small model, the same trained alone, its teachers, and the best of another architecture."""
    ranked = [row for row in rows if row.rank is not None]
    if not ranked:
        return [row for row in rows if row.n_ok][:MOST_NETWORKS]
    best = ranked[0]
    of_model = [row for row in ranked if row.model == best.model]
    found = [best]
    if best.role == "baseline":
        found += [row for row in of_model if row.role == "student"][:1]
    else:
        alone = {record.run_id for record in best.baseline}
        found += [row for row in of_model if alone & {record.run_id for record in row.records}]
    taught_by = {record.run_id for row in found for record in row.teachers}
    found += [row for row in rows if row.n_ok and taught_by & {record.run_id for record in row.records}]
    found += [row for row in ranked if row.model != best.model][:1]
    return list({row.cell_id: row for row in found}.values())[:MOST_NETWORKS]


# ---------------------------------------------------------------- from rows to figures


def _confusion(name: str, row: Row) -> Confusion:
    classes = next(iter(row.answers.values())).classes
    counts = np.zeros((len(classes), len(classes)))
    for answers in row.answers.values():
        np.add.at(counts, (answers.labels, answers.predicted), 1)
    total = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, total, out=np.full_like(counts, np.nan), where=total > 0)
    return Confusion(name, classes, shares)


def _reliability(name: str, row: Row) -> Reliability:
    """Over all seeds, in the bins of `calibration.ece`."""
    every: list[Answers] = list(row.answers.values())
    confidence = np.concatenate([answers.confidence for answers in every])
    right = np.concatenate([answers.right for answers in every]).astype(float)
    place = np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], confidence, side="left")
    counts = np.bincount(place, minlength=BINS)
    filled = np.maximum(counts, 1)
    return Reliability(
        name,
        counts,
        np.bincount(place, weights=confidence, minlength=BINS) / filled,
        np.bincount(place, weights=right, minlength=BINS) / filled,
    )


def _curves(name: str, row: Row) -> Curves:
    seeds = []
    for record in row.records:
        if len(record.history) > 1:
            logs = record.history
            seeds.append(
                (
                    np.array([log.epoch for log in logs]),
                    np.array([log.train_loss for log in logs]),
                    np.array([log.val_loss for log in logs]),
                    np.array([log.val_accuracy for log in logs]),
                )
            )
    return Curves(name, tuple(seeds))
