"""Rows to candidates: their figures, and what of each a limit is held against. Floor 6; no torch.

What of a figure a limit is held against is `kdbench.report.judged`'s business.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kdbench.choices import DeviceProfile, DeviceSetting, Figure, LimitKey
from kdbench.pick.scope import SHOWN_DIGITS, Scope
from kdbench.report.figures import CellLatency, LatencySetting
from kdbench.report.judged import (
    activations,
    counted,
    judged_accuracy,
    judged_drop,
    judged_latency,
    judged_memory,
    judged_recall,
    label,
)
from kdbench.report.rows import Row
from kdbench.types import RunRecord


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
            "accuracy": judged_accuracy(row),
            "recall": judged_recall(row),
            "drop": judged_drop(row, best),
            "params": counted(row.params),
            "macs": counted(row.macs),
            "bytes": counted(row.weight_bytes),
        }
        by_activations = device is not None and device.memory_is == "activations"
        if by_activations:
            figures["memory"] = activations(row)
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


# ---------------------------------------------------------------- what was measured


def _measured(row: Row, scope: Scope, with_memory: bool) -> list[tuple[DeviceSetting, dict[LimitKey, Figure]]]:
    """The settings of the scope's machine with their latency and memory; of a device that nothing was measured on,
    those of other machines with their memory alone, the largest of each setting.
    """
    own = {setting: found for setting in sorted(scope.settings) if (found := row.latency(setting)) is not None}
    if scope.machine:
        return [
            (_setting(setting), {"latency": judged_latency(found), **(_memory(found, setting) if with_memory else {})})
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


def _memory(found: CellLatency, setting: LatencySetting, elsewhere: bool = False) -> dict[LimitKey, Figure]:
    where = f", as measured on machine {setting.fingerprint[:SHOWN_DIGITS]}" if elsewhere else ""
    figure = judged_memory(found, setting, where)
    return {} if figure is None else {"memory": figure}


def _setting(setting: LatencySetting) -> DeviceSetting:
    return DeviceSetting(
        runtime=setting.runtime,
        precision=setting.precision,
        threads=setting.threads,
        device=setting.device,
        library=setting.library,
        machine=setting.fingerprint,
    )
