"""Every picture of a leaderboard: which figures go into it, and under which name it is written. Floor 6; no torch."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kdbench.calibration import BINS
from kdbench.errors import RecordError
from kdbench.report.charts import (
    Confusion,
    Curves,
    Descent,
    Gain,
    Reliability,
    Spread,
    Stop,
    Trainings,
    draw_confusions,
    draw_curves,
    draw_descents,
    draw_gains,
    draw_reliability,
    draw_spreads,
)
from kdbench.report.column import named_apart
from kdbench.report.drawing import Panel, own_style
from kdbench.report.lineage import Way, lineages, ways_of
from kdbench.report.outcomes import Answers, Outcomes
from kdbench.report.plots import panels, plot_costs, row_names, save
from kdbench.report.rows import Row, build_rows, dataset_key, dataset_titles
from kdbench.types import ModelKind, ProfileRecord, RunRecord

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KINDS = (".svg", ".png")
MOST_NETWORKS = 4
"""In one picture of confusions, reliability or training: more lines cannot be told apart."""

MOST_GAINS = 120
"""Bars in one picture; of more, the largest and the smallest are drawn."""

MOST_DESCENTS = 6
"""Trained networks in one picture of compression."""

MOST_PAIRS = 2
"""Students in one picture of probabilities."""

MOST_CLASSES, PANELS_ACROSS = 10, 5
"""In one picture of probabilities, the classes with the most test images; and in one row of it."""

LEAST_IMAGES = 10
"""Of a bin of confidence, before its share of right answers is worth a point."""


def plot_all(
    records: Sequence[RunRecord],
    profiles: Sequence[ProfileRecord],
    outcomes: Outcomes | None,
    folder: Path | str,
    kinds: Mapping[str, ModelKind] | None = None,
) -> list[Path]:
    """Write everything that can be drawn, as SVG and PNG; a picture of which there is nothing is not written.

    Args:
        kinds: what the models are, by name. Records do not say it: without it no picture sets students of CNNs beside
            students of ViTs.
    Returns: the files, in the order they were written.
    Raises: RecordError if there is nothing to draw at all.
    """
    folder = Path(folder)
    written: list[Path] = []
    costs = ("latency", "macs", "params")
    for x in costs if records else costs[:1]:
        name = f"accuracy-against-{x}" if records else f"macs-against-{x}"
        try:
            if records and _lonely(panels(profiles, records, x, "accuracy", outcomes)):
                continue
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
            for name, draw in _pictures(title, rows, kinds or {}):
                for kind in KINDS:
                    save(draw(), folder / f"{name}-{slug}{kind}")
                    written.append(folder / f"{name}-{slug}{kind}")
    if not written:
        raise RecordError("there is nothing to draw; make records with `kdbench run quickstart`")
    return written


def _lonely(found: Sequence[Panel]) -> bool:
    """Whether there are several panels, and one point in each: nothing in them can be compared."""
    return len(found) > 1 and all(sum(map(len, panel.series.values())) == 1 for panel in found)


def _pictures(
    title: str, rows: Sequence[Row], kinds: Mapping[str, ModelKind]
) -> Iterator[tuple[str, Callable[[], Figure]]]:
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
    if descents := descents_of(rows):
        way = _best_way(rows)
        yield "compression", lambda: draw_descents(title, descents, way.title if way else "")
    if pairs := [_trainings(*pair) for pair in by_both_kinds(rows, kinds)]:
        yield "probabilities", lambda: draw_spreads(title, pairs, _across(len(pairs[0].spreads[0].of_truth)))


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


def descents_of(rows: Sequence[Row]) -> list[Descent]:
    """Of every trained network that was compressed what became of it; of many, the most accurate ones."""
    way = _best_way(rows)
    found = []
    for steps in lineages(rows)[:MOST_DESCENTS]:
        places = {step.row.cell_id: place for place, step in enumerate(steps)}
        stops = []
        for step in steps:
            row, parent = step.row, step.row.spec.parent
            timed = way.of(row) if way is not None else None
            kind = "int8" if row.spec.quantise is not None else "pruned" if row.spec.prune is not None else "trained"
            stops.append(
                Stop(
                    kind,
                    places.get(parent.cell_id) if parent is not None else None,
                    row.weight_bytes,
                    timed.median_ms if timed is not None else None,
                    row.accuracy or 0.0,
                    row.interval,
                )
            )
        first = steps[0].row
        found.append(Descent(f"{first.model}, {first.method}", tuple(stops)))
    return found


def _best_way(rows: Sequence[Row]) -> Way | None:
    """The way to run that most of the compressed networks were timed in."""
    compressed = [row for row in rows if row.role == "compressed"]
    ways = [(sum(way.of(row) is not None for row in compressed), way) for way in ways_of(rows)]
    return max(ways, key=lambda found: found[0], default=(0, None))[1]


def by_both_kinds(rows: Sequence[Row], kinds: Mapping[str, ModelKind]) -> list[tuple[Row, Row, Row]]:
    """Students that a CNN and a ViT taught by one method: the row trained alone, the best of a CNN, the best of a ViT.

    First the pair with the most accurate student, then the next one, of another model if there is one. Only rows whose
    answers are on the same images; a teacher of no known kind is left out.
    """
    alone = {record.run_id: row for row in rows if row.role == "baseline" and row.answers for record in row.records}
    found: defaultdict[tuple[str, str], dict[str, Row]] = defaultdict(dict)
    for row in rows:
        of_kinds = {kinds.get(teacher.model.name) for teacher in row.spec.teachers}
        if row.role == "student" and row.answers and len(of_kinds) == 1 and (kind := of_kinds.pop()) is not None:
            found[(row.model, row.method)].setdefault(kind, row)  # the best stands first
    pairs = []
    for pair in found.values():
        if len(pair) == len({"cnn", "vit"}):
            base = next((alone[record.run_id] for record in pair["cnn"].baseline if record.run_id in alone), None)
            if base is not None and len({_images(row) for row in (base, *pair.values())}) == 1:
                pairs.append((base, pair["cnn"], pair["vit"]))
    pairs.sort(key=lambda pair: -max(pair[1].accuracy or 0.0, pair[2].accuracy or 0.0))
    rest = sorted(pairs[1:], key=lambda pair: pair[1].model == pairs[0][1].model)
    return [*pairs[:1], *rest][:MOST_PAIRS]


# ---------------------------------------------------------------- from rows to figures


def _images(row: Row) -> tuple[str, ...]:
    return next(iter(row.answers.values())).images.ids


def _entropy(row: Row) -> float:
    """Of its probabilities, mean over images and seeds, nats."""
    return float(np.mean([answers.entropy for answers in row.answers.values()]))


def _trainings(alone: Row, of_cnn: Row, of_vit: Row) -> Trainings:
    named = [(alone, "alone")]
    named += [(row, f"from {row.teacher} ({kind})") for row, kind in ((of_cnn, "CNN"), (of_vit, "ViT"))]
    return Trainings(f"{of_cnn.model}, {of_cnn.method}", tuple(_spread(name, row) for row, name in named))


def _spread(name: str, row: Row) -> Spread:
    every = list(row.answers.values())
    labels = np.concatenate([answers.labels for answers in every])
    of_truth = np.concatenate([answers.of_truth for answers in every])
    counts = np.bincount(labels, minlength=len(every[0].classes))
    most = sorted(np.argsort(-counts, kind="stable")[:MOST_CLASSES].tolist())
    by_class = {every[0].classes[place]: np.sort(of_truth[labels == place]) for place in most if counts[place]}
    return Spread(name, _entropy(row), by_class)


def _across(panels: int) -> int:
    """Panels in a row: as even as they can be."""
    return -(-panels // -(-panels // PANELS_ACROSS))


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
