"""What of a row's figures a limit is held against. Floor 6; no torch.

That is the worse end of a figure's 95 % interval, where there is one, so that chance passes nothing. What is not there
is None, and that is never a pass. `kdbench.pick` and the page that judges in the browser share these figures.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import t

from kdbench.choices import Figure
from kdbench.report import stats
from kdbench.report.figures import CellLatency, LatencySetting
from kdbench.report.rows import Row

DIGITS = 12
"""Fractions are rounded to so many: 0.93 - 0.92 is 0.01, and keeps a limit of 0.01."""


def label(row: Row) -> str:
    """Model, teacher and method in one."""
    if row.role == "teacher":
        return f"{row.model}, a teacher ({row.method})"
    if row.alone:
        return f"{row.model} trained alone ({row.method})"
    return f"{row.model} {f'taught by {row.teacher} ' if row.teacher else ''}with {row.method}"


# ---------------------------------------------------------------- what it can


def judged_accuracy(row: Row) -> Figure | None:
    if row.accuracy is None:
        return None
    value = round(row.accuracy, DIGITS)
    if row.interval is not None:
        low = round(row.interval[0], DIGITS)
        return Figure(value=value, judged=low, basis="lower end of the 95 % interval", interval=row.interval)
    if row.accuracy_std is not None:
        low = max(0.0, round(row.accuracy - row.accuracy_std, DIGITS))
        return Figure(value=value, judged=low, basis="mean - standard deviation over the seeds: no answers are there")
    return Figure(value=value, judged=value, basis="a single run, as it is: no answers are there")


def judged_recall(row: Row) -> Figure | None:
    """Of the class where it is judged lowest: the lower end of that class's interval, else its mean over the seeds."""
    if not row.recalls:
        return None
    lows = dict(row.recalls)
    basis = "mean over the seeds: no answers are there"
    if row.answers:
        images = next(iter(row.answers.values())).images
        right = np.stack([answers.right for answers in row.answers.values()])
        labels = np.array(images.labels)
        for name in row.recalls:
            of_class = labels == name
            if of_class.any():
                lows[name] = stats.clustered(stats.Grouped.of(right[:, of_class], images.groups[of_class]))[0]
        basis = "lower end of the class's 95 % interval"
    worst = min(lows, key=lambda name: (lows[name], name))
    return Figure(value=round(row.recalls[worst], DIGITS), judged=round(lows[worst], DIGITS), basis=basis, detail=worst)


def judged_drop(row: Row, best: Row | None) -> Figure | None:
    """How much less accurate than the best teacher; below 0 if it is more accurate."""
    if row.accuracy is None or best is None or best.accuracy is None:
        return None
    value = round(best.accuracy - row.accuracy, DIGITS)
    low, high = _paired_difference(best, row) or (None, None)
    if low is None or high is None:
        return Figure(value=value, judged=value, basis="means over the seeds: no answers are there", detail=best.model)
    basis = "upper end of the 95 % interval of the paired difference"
    return Figure(value=value, judged=round(high, DIGITS), basis=basis, interval=(low, high), detail=best.model)


def _paired_difference(one: Row, other: Row) -> tuple[float, float] | None:
    """95 % of the accuracy of one minus that of the other on the same images, if other groups of them had been drawn:
    the linearised variance of a ratio (Cochran, Sampling Techniques, 1977, eq. 6.13) and Student's t. None without
    the answers of both.
    """
    if not one.answers or not other.answers:
        return None
    images = next(iter(one.answers.values())).images
    others = next(iter(other.answers.values())).images
    if images.ids != others.ids:
        return None
    first, second = (
        np.mean([answers.right for answers in row.answers.values()], axis=0, dtype=float) for row in (one, other)
    )
    sizes = np.bincount(images.groups)
    groups = len(sizes)
    if groups < 2:
        return None
    gap = float((first - second).mean())
    residuals = np.bincount(images.groups, weights=first - second) - gap * sizes
    variance = groups / (groups - 1) * float((residuals**2).sum()) / int(sizes.sum()) ** 2
    half = float(t.ppf(0.5 + stats.LEVEL / 2, groups - 1)) * math.sqrt(variance)
    return gap - half, gap + half


# ---------------------------------------------------------------- what it costs


def counted(value: int | None) -> Figure | None:
    return None if value is None else Figure(value=value, judged=value, basis="as counted")


def activations(row: Row) -> Figure | None:
    own = row.profile.activation_bytes if row.profile is not None else None
    known = [own] if own is not None else []
    known += [profile.activation_bytes for profile in row.profiles if profile.activation_bytes is not None]
    return Figure(value=known[0], judged=known[0], basis="most bytes of tensors alive at once") if known else None


def judged_latency(found: CellLatency) -> Figure:
    """Judged by the upper end of the interval of its median."""
    detail = "unstable" if found.unstable else ""
    if found.interval_ms is not None:
        basis, ends = "upper end of the 95 % interval", found.interval_ms
        return Figure(value=found.median_ms, judged=ends[1], basis=basis, interval=ends, detail=detail)
    basis = "median + half the interquartile range: no interval was measured"
    return Figure(value=found.median_ms, judged=found.median_ms + found.iqr_ms / 2, basis=basis, detail=detail)


def judged_memory(found: CellLatency, setting: LatencySetting, where: str = "") -> Figure | None:
    """Args: where: said of a figure that another machine stands in with."""
    if found.memory_bytes is None:
        return None
    basis = "highest resident memory" if setting.device == "cpu" else "most that torch's allocator held"
    return Figure(value=found.memory_bytes, judged=found.memory_bytes, basis=f"{basis}{where}")
