"""Rows to candidates: their figures, and what of each a limit is held against. Floor 6; no torch.

A limit is held against the worse end of a figure's 95 % interval, where there is one, so that chance passes nothing.
What is not there is None, and that is never a pass.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t

from kdbench.choices import DeviceProfile, DeviceSetting, Figure, LimitKey
from kdbench.pick.scope import SHOWN_DIGITS, Scope
from kdbench.report import stats
from kdbench.report.figures import CellLatency, LatencySetting
from kdbench.report.rows import Row
from kdbench.types import RunRecord

DIGITS = 12
"""Fractions are rounded to so many: 0.93 - 0.92 is 0.01, and keeps a limit of 0.01."""


@dataclass(frozen=True)
class Option:
    """One way to run a candidate; without a setting nothing of it was measured."""

    setting: DeviceSetting | None
    figures: Mapping[LimitKey, Figure]


@dataclass(frozen=True)
class Candidate:
    """A row that may be chosen.

    Attributes:
        run_id: of its runs the one with the best validation accuracy: the test images choose no weights.
        options: one at least.
        missing: by figure, why none of its options has it.
    """

    row: Row
    label: str
    run_id: str
    options: tuple[Option, ...]
    missing: Mapping[LimitKey, str]


def label(row: Row) -> str:
    """Model, teacher and method in one."""
    if row.role == "teacher":
        return f"{row.model}, a teacher ({row.method})"
    if row.alone:
        return f"{row.model} trained alone ({row.method})"
    return f"{row.model} {f'taught by {row.teacher} ' if row.teacher else ''}with {row.method}"


def candidates_of(
    rows: Sequence[Row], teachers: Sequence[Row], scope: Scope, device: DeviceProfile | None
) -> list[Candidate]:
    """A candidate for each row with a result.

    Args:
        teachers: of the data set, those with a result; the best one is what a drop is counted from.
    """
    best = max(teachers, key=lambda row: (row.accuracy or 0.0, row.cell_id), default=None)
    found = []
    for row in rows:
        if row.accuracy is None:
            continue
        figures: dict[LimitKey, Figure | None] = {
            "accuracy": _accuracy(row),
            "recall": _recall(row),
            "drop": _drop(row, best),
            "params": _counted(row.params),
            "macs": _counted(row.macs),
            "bytes": _counted(row.weight_bytes),
        }
        by_activations = device is not None and device.memory_is == "activations"
        if by_activations:
            figures["memory"] = _activations(row)
        known = {key: figure for key, figure in figures.items() if figure is not None}
        options = [Option(setting, known | measured) for setting, measured in _measured(row, scope, not by_activations)]
        options = options or [Option(None, known)]
        missing = _missing(scope, by_activations, device)
        found.append(Candidate(row, label(row), _best_run(row).run_id, tuple(options), missing))
    return found


def _best_run(row: Row) -> RunRecord:
    finished = [record for record in row.records if record.spec.seed in row.accuracies]

    def by_validation(record: RunRecord) -> tuple[float, float, int]:
        seen = record.val_metrics
        return (-seen.accuracy, seen.loss, record.spec.seed) if seen is not None else (0.0, 0.0, record.spec.seed)

    return min(finished, key=by_validation)


def _missing(scope: Scope, by_activations: bool, device: DeviceProfile | None) -> dict[LimitKey, str]:
    """Why a figure may be missing, and what to do about it."""
    runtimes = sorted({setting.runtime for setting in scope.settings if setting.fingerprint == scope.machine})
    where = f" on machine {scope.machine[:SHOWN_DIGITS]}" if scope.machine else ""
    how = f" with {' or '.join(runtimes)}" if runtimes else ""
    measure = "measure it with `kdbench profile --results DIR`"
    there = "measure it there with `kdbench profile --results DIR --out FILE`, and give --profiles FILE"
    if device is not None and device.runtimes == ():
        there = f"no runtime that kdbench measures is on {device.name}: measure the converted network there"
    measured = f"not measured{how}{where}); {measure}"
    count = "not counted); count it with `kdbench profile --results DIR --counts-only`"
    return {
        "accuracy": "no test result)",
        "recall": "not in the records); run the suite again",
        "drop": "no teacher of this data set has a result); run a suite with one",
        "latency": f"{scope.unjudged}); {there}" if scope.unjudged else measured,
        "params": count,
        "macs": count,
        "bytes": count,
        "memory": count if by_activations else measured,
    }


# ---------------------------------------------------------------- what it can


def _accuracy(row: Row) -> Figure | None:
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


def _recall(row: Row) -> Figure | None:
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


def _drop(row: Row, best: Row | None) -> Figure | None:
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


def _counted(value: int | None) -> Figure | None:
    return None if value is None else Figure(value=value, judged=value, basis="as counted")


def _activations(row: Row) -> Figure | None:
    own = row.profile.activation_bytes if row.profile is not None else None
    known = [own] if own is not None else []
    known += [profile.activation_bytes for profile in row.profiles if profile.activation_bytes is not None]
    return Figure(value=known[0], judged=known[0], basis="most bytes of tensors alive at once") if known else None


def _measured(row: Row, scope: Scope, with_memory: bool) -> list[tuple[DeviceSetting, dict[LimitKey, Figure]]]:
    """The settings of the scope's machine with their latency and memory; of a device that nothing was measured on,
    those of other machines with their memory alone, the largest of each setting.
    """
    own = {setting: found for setting in sorted(scope.settings) if (found := row.latency(setting)) is not None}
    if scope.machine:
        return [
            (_setting(setting), {"latency": _latency(found), **(_memory(found, setting) if with_memory else {})})
            for setting, found in own.items()
            if setting.fingerprint == scope.machine
        ]
    if not scope.elsewhere or not with_memory:
        return []
    ways: defaultdict[tuple[str, str, int], list[LatencySetting]] = defaultdict(list)
    for setting, found in own.items():
        if setting.device == "cpu" and found.memory_bytes is not None:
            ways[(setting.runtime, setting.precision, setting.threads)].append(setting)
    most = [
        max(settings, key=lambda setting: (own[setting].memory_bytes or 0.0, setting)) for settings in ways.values()
    ]
    return [(_setting(setting), _memory(own[setting], setting, elsewhere=True)) for setting in most]


def _latency(found: CellLatency) -> Figure:
    """Judged by the upper end of the interval of its median."""
    detail = "unstable" if found.unstable else ""
    if found.interval_ms is not None:
        basis, ends = "upper end of the 95 % interval", found.interval_ms
        return Figure(value=found.median_ms, judged=ends[1], basis=basis, interval=ends, detail=detail)
    basis = "median + half the interquartile range: no interval was measured"
    return Figure(value=found.median_ms, judged=found.median_ms + found.iqr_ms / 2, basis=basis, detail=detail)


def _memory(found: CellLatency, setting: LatencySetting, elsewhere: bool = False) -> dict[LimitKey, Figure]:
    if found.memory_bytes is None:
        return {}
    basis = "highest resident memory" if setting.device == "cpu" else "most that torch's allocator held"
    if elsewhere:
        basis += f", as measured on machine {setting.fingerprint[:SHOWN_DIGITS]}"
    return {"memory": Figure(value=found.memory_bytes, judged=found.memory_bytes, basis=basis)}


def _setting(setting: LatencySetting) -> DeviceSetting:
    return DeviceSetting(
        runtime=setting.runtime,
        precision=setting.precision,
        threads=setting.threads,
        device=setting.device,
        library=setting.library,
        machine=setting.fingerprint,
    )
