"""Accuracy on corrupted test images: a column for each corruption, and two over all of them."""

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from kdbench.report.column import COLUMNS, Column, named_apart, percent_text, points_text
from kdbench.report.rows import Row

Setting = tuple[str, int]


def _accuracies(row: Row) -> dict[int, dict[Setting, float]]:
    """Accuracy by (corruption, level), by seed."""
    return {
        seed: {(one.corruption, one.level): one.accuracy for found in every for one in found.corrupted}
        for seed, every in row.evaluations.items()
    }


def _usual(rows: Sequence[Row]) -> list[Setting]:
    """What most runs were tried on: means over unlike settings do not compare, and one run with more or with fewer of
    them must not take the figures of the rest away. Of two as frequent the larger.
    """
    tried = Counter(frozenset(found) for row in rows for found in _accuracies(row).values() if found)
    most = max(tried, key=lambda settings: (tried[settings], len(settings), sorted(settings)), default=frozenset())
    return sorted(most)


def _variants(rows: Sequence[Row]) -> list[Column]:
    settings = _usual(rows)
    by_corruption: defaultdict[str, list[Setting]] = defaultdict(list)
    for setting in settings:
        by_corruption[setting[0]].append(setting)
    if not settings:
        return []
    levels = sorted({level for _, level in settings})
    through = len(levels) > 1 and levels == list(range(levels[0], levels[-1] + 1))
    over = f"levels {levels[0]} to {levels[-1]}" if through else f"level {', '.join(map(str, levels))}"
    note = f"accuracy on corrupted test images, mean over {over} and the seeds"
    named = named_apart(sorted(by_corruption))
    return [
        replace(
            ROBUST,
            value=lambda row: _mean(row, by_corruption.values(), relative=False),
            variants=None,
            note=f"{note}; mean over the corruptions as well, each of which counts the same",
        ),
        replace(
            ROBUST,
            key="corruption_drop",
            title="relative to clean",
            value=lambda row: _mean(row, by_corruption.values(), relative=True),
            text=points_text,
            variants=None,
            note="that mean minus the accuracy on clean test images, as a share of the latter",
        ),
        *(_variant(name, key, by_corruption[name], note) for name, key in named.items()),
    ]


def _variant(name: str, key: str, settings: Sequence[Setting], note: str) -> Column:
    return replace(
        ROBUST,
        key=f"robust_{key}",
        title=name.replace("_", " "),
        value=lambda row: _mean(row, [settings], relative=False),
        variants=None,
        note=note,
    )


def _mean(row: Row, corruptions: Iterable[Sequence[Setting]], relative: bool) -> float | None:
    """Over the seeds; None unless each of them has all of these: a mean over fewer would compare with nothing."""
    found = []
    for seed, accuracies in _accuracies(row).items():
        if all(setting in accuracies for settings in corruptions for setting in settings):
            mean = statistics.fmean(statistics.fmean(accuracies[one] for one in settings) for settings in corruptions)
            clean = row.accuracies[seed]
            if not relative:
                found.append(mean)
            elif clean > 0:
                found.append(mean / clean - 1)
    return statistics.fmean(found) if found and len(found) == row.n_ok else None


ROBUST = COLUMNS.add(
    "robust",
    Column(
        key="robust",
        title="all corruptions",
        unit="%",
        better="max",
        order=88,
        value=lambda row: None,  # without corruptions there is none: _variants gives the real columns
        text=percent_text,
        variants=_variants,
        table="Corrupted images",
        note="accuracy on corrupted test images",
    ),
)
