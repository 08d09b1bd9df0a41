"""What the page in the browser is made of: rows, figures and what limits are held against, as plain values.

The page draws, sorts and judges; it works nothing out that is not in here. Floor 6; no torch.
"""

from __future__ import annotations

import contextlib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from kdbench.calibration import BINS
from kdbench.choices import Figure
from kdbench.errors import UnknownName
from kdbench.report.column import Column, columns_for, scaled
from kdbench.report.figures import CellLatency, LatencySetting, told_apart, undisplaced
from kdbench.report.judged import counted, judged_accuracy, judged_latency, judged_memory, judged_recall, label
from kdbench.report.markdown import best_cells, columns_with_figures, protocol_lines
from kdbench.report.networks import Network, networks, sections
from kdbench.report.outcomes import Outcomes
from kdbench.report.rows import (
    Row,
    build_rows,
    dataset_key,
    dataset_titles,
    environments_of,
    failure_text,
    latency_settings,
    newest,
    option_text,
)
from kdbench.report.text import dates, machine, version
from kdbench.store import newest_profiles
from kdbench.types import Environment, ProfileRecord, RunRecord

Plain = dict[str, Any]

DIGITS = 6
"""Figures are rounded to so many significant ones: the last of a sum depend on the machine that adds. What limits are
held against is not rounded."""

CURVE_DIGITS = 4

LONGEST_TEXT = 400
"""Characters of a name or a message; the records have the rest."""

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")
_ASIDE = re.compile(r"^(\S+(?: [kMG]?B?(?=$| ))?)( .*)?$")


def page_data(
    records: Sequence[RunRecord],
    profiles: Iterable[ProfileRecord],
    outcomes: Outcomes | None,
    names: Sequence[str] | None,
) -> tuple[Plain, Plain]:
    """All that the page shows at once, and what it shows of a single row, by its id.

    Neither the order of the records nor that of the profiles matters.
    """
    records, profiles = newest(records), newest_profiles(profiles)
    if not records:
        return _costs_alone(profiles)
    rows = build_rows(records, profiles, outcomes)
    columns_for(rows, names)  # a name that no data set has a column of is an error
    groups: defaultdict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[dataset_key(row.dataset)].append(row)
    any_protocol = any(record.data is not None and record.data.protocol for record in records)
    titles = dataset_titles([group[0].dataset for group in groups.values()])
    datasets = [
        _dataset(title, group, _own_columns(group, names), any_protocol)
        for title, group in zip(titles, groups.values(), strict=True)
    ]
    environments = [record.environment for record in records]
    data = {"summary": _summary(f"{len(records)} run{'s' if len(records) != 1 else ''}", records, environments)}
    return data | {"datasets": datasets}, {row.cell_id: _details(row) for row in rows}


def clean(text: str) -> str:
    """Any text as one line without marks that turn the direction of writing or cannot be seen."""
    line = _CONTROL.sub("\N{REPLACEMENT CHARACTER}", " ".join(str(text).split()))
    return line if len(line) <= LONGEST_TEXT else f"{line[:LONGEST_TEXT]}…"


def rounded(value: float | int | str | None, digits: int = DIGITS) -> float | int | str | None:
    """A number with so many significant digits; all else as it is."""
    return float(f"{value:.{digits}g}") if isinstance(value, float) else value


# ---------------------------------------------------------------- one data set


def _own_columns(rows: Sequence[Row], names: Sequence[str] | None) -> list[Column]:
    """Those of the names that these rows have: with one data set in view, others are nothing to be told apart from."""
    if names is None:
        return columns_for(rows)
    found: dict[str, Column] = {}
    for name in names:
        with contextlib.suppress(UnknownName):
            found |= {column.key: column for column in columns_for(rows, [name])}
    return list(found.values())


def _dataset(title: str, rows: Sequence[Row], columns: Sequence[Column], any_protocol: bool) -> Plain:
    kept = columns_with_figures(rows, columns)
    settings = _settings(rows)
    places = {setting: place for place, setting in enumerate(settings)}
    best = {column.key: best_cells(rows, column) for column in kept}
    texts = _latency_keys(rows)
    environments = environments_of(rows)
    # of equals the first by name is chosen, as pick does
    by_name = {row.cell_id: place for place, row in enumerate(sorted(rows, key=lambda row: (label(row), row.cell_id)))}
    return {
        "title": clean(title),
        "notes": [[leaky, clean(text)] for leaky, text in protocol_lines(rows, any_protocol)],
        "about": _about(rows),
        "columns": [_column(column) for column in kept],
        "settings": [
            _setting(setting, environments[setting.fingerprint], flags, texts.get(setting, ""))
            for setting, flags in settings.items()
        ],
        "rows": [
            _row(row, by_name[row.cell_id], places)
            | {"cells": [_cell(row, column, row.cell_id in best[column.key]) for column in kept]}
            for row in rows
        ],
    }


def _column(column: Column) -> Plain:
    return {
        "key": column.key,
        "title": clean(column.title),
        "unit": column.unit,
        "better": column.better,
        "note": clean(column.note),
        "table": "Further figures" if column.table is None else clean(column.table),
    }


def _cell(row: Row, column: Column, best: bool) -> list[Any] | None:
    """[raw, figure, what stands beside it in a lighter tone, 1 if it is the best]; None if there is nothing."""
    value = column.value(row)
    if value is None:
        return None
    shown = clean(column.show(row))
    found = _ASIDE.match(shown)
    figure, aside = (found[1], (found[2] or "").strip()) if found and isinstance(value, int | float) else (shown, "")
    return [rounded(value), figure, aside, 1] if best else [rounded(value), figure, aside]


def _row(row: Row, by_name: int, places: Mapping[LatencySetting, int]) -> Plain:
    tied = row.standing is not None and row.rank in row.standing.tied
    return {
        "id": row.cell_id,
        "name": clean(label(row)),
        "by_name": by_name,
        "model": clean(row.model),
        "role": row.role,
        "method": clean(row.method),
        "teacher": clean(row.teacher),
        "rank": row.rank,
        "tied": tied,
        "range": row.rank_range,
        "failure": clean(row.failure or "no result") if not row.n_ok else "",
        "judged": {
            "accuracy": _judged(judged_accuracy(row)),
            "recall": _judged(judged_recall(row)),
            "params": _judged(counted(row.params)),
            "macs": _judged(counted(row.macs)),
            "bytes": _judged(counted(row.weight_bytes)),
        },
        "ways": [_way(places[setting], setting, found) for setting in places if (found := row.latency(setting))],
    }


def _judged(figure: Figure | None) -> list[Any] | None:
    """[the figure, what limits are held against, the ends of its interval, detail]; not rounded, as pick does not."""
    if figure is None:
        return None
    return [figure.value, figure.judged, [rounded(end) for end in figure.interval or ()], clean(figure.detail)]


def _way(place: int, setting: LatencySetting, found: CellLatency) -> Plain:
    return {
        "setting": place,
        "latency": _judged(judged_latency(found)),
        "memory": _judged(judged_memory(found, setting)),
    }


def _settings(rows: Sequence[Row]) -> dict[LatencySetting, tuple[bool, bool]]:
    """Of single images, in order: whether it counts among the small models, and whether it does with teachers as well.

    A figure that was measured beside other work counts only as long as no candidate has a better one of that setting.
    """
    found: list[set[LatencySetting]] = []
    for teachers in (False, True):
        candidates = [row for row in rows if row.n_ok and (teachers or row.role != "teacher")]
        every = undisplaced({setting for row in candidates for setting in row.latencies})
        found.append({setting for setting in every if setting.batch_size == 1})
    return {setting: (setting in found[0], setting in found[1]) for setting in sorted(found[0] | found[1])}


def _setting(setting: LatencySetting, environment: Environment, counts: tuple[bool, bool], column: str) -> Plain:
    return {
        "machine": setting.fingerprint,
        "title": clean(f"{setting.fingerprint[:4]}, {machine(environment)}"),
        "runtime": clean(setting.runtime),
        "precision": clean(setting.precision),
        "text": clean(setting_words(setting)),
        "counts": counts,
        "isolated": setting.isolated,
        "column": column,
    }


def setting_words(setting: LatencySetting) -> str:
    """ "eager fp32, 1 thread (torch 2.14.1)" """
    device = "" if setting.device == "cpu" else f" on {setting.device}"
    return f"{setting.runtime} {setting.precision}{device}, {setting.threads_text} ({setting.library})"


def _latency_keys(rows: Sequence[Row]) -> dict[LatencySetting, str]:
    """By setting, the key of its column."""
    return {
        setting: "_".join(["latency_ms", *name.key]) for setting, name in told_apart(latency_settings(rows)).items()
    }


def _about(rows: Sequence[Row]) -> list[str]:
    """Which images, and their caveats: of the card of the first run that has one."""
    card = next((record.data for row in rows for record in row.records if record.data is not None), None)
    if card is None:
        return []
    splits = ", ".join(
        f"{name} {sum(card.splits[name].values()):,}" for name in ("train", "val", "test") if name in card.splits
    )
    sources = ", ".join(f"{name} {count:,}" for name, count in sorted(card.sources.items()))
    classes = ", ".join(f"{name} {card.splits.get('test', {}).get(name, 0):,}" for name in card.classes)
    lines = [f"Images: {splits}.", f"Sources: {sources}." if sources else "", f"Test images by class: {classes}."]
    return [clean(line) for line in (*lines, *card.caveats) if line]


def _summary(what: str, records: Sequence[RunRecord | ProfileRecord], environments: Sequence[Environment]) -> str:
    machines = len({environment.fingerprint for environment in environments})
    versions = sorted({version(environment) for environment in environments})
    made = f"kdbench {versions[0]}" if len(versions) == 1 else f"{len(versions)} versions of kdbench"
    return clean(f"{what}, {dates(records)}, on {machines} machine{'s' if machines != 1 else ''}, with {made}")


# ---------------------------------------------------------------- one row


def _details(row: Row) -> Plain:
    found: Plain = {"facts": _facts(row), "runs": [_run(record) for record in row.records]}
    if row.recalls:
        found["recalls"] = {clean(name): rounded(value) for name, value in sorted(row.recalls.items())}
    if curves := [_curve(record) for record in row.records if len(record.history) > 1]:
        found["curves"] = curves
    if row.answers:
        found["confusion"] = _confusion(row)
        found["reliability"] = _reliability(row)
    if (test := row.gain_test) is not None:
        found["gain"] = [rounded(test.low), rounded(test.high), rounded(row.gain_p)]
    environments = environments_of([row])
    found["latencies"] = [
        _timed(setting, environments[setting.fingerprint], cell)
        for setting in sorted(undisplaced(row.latencies))
        if (cell := row.latency(setting)) is not None
    ]
    return found


def _facts(row: Row) -> list[list[str]]:
    spec = row.spec
    train = row.origin.train
    facts = [
        ("role", row.role),
        ("model", row.model),
        ("method", row.method),
        *(option_text(key, value).split("=", 1) for key, value in row.origin.method.options.items()),
        ("teacher", row.teacher),
        ("image size", f"{spec.dataset.image_size} px"),
        ("training", f"{train.epochs} epochs, {train.optimizer}, learning rate {train.learning_rate:g}, "
                     f"batches of {train.batch_size}, {train.precision}"),
        ("cell", row.cell_id),
    ]  # fmt: skip
    return [[clean(key), clean(value)] for key, value in facts if value]


def _run(record: RunRecord) -> Plain:
    return {
        "seed": record.spec.seed,
        "run": record.run_id,
        "accuracy": rounded(record.test_metrics.accuracy) if record.test_metrics is not None else None,
        "validation": rounded(record.val_metrics.accuracy) if record.val_metrics is not None else None,
        "epoch": record.best_epoch,
        "seconds": rounded(record.train_seconds, CURVE_DIGITS),
        "machine": record.environment.fingerprint[:4],
        "commit": clean(version(record.environment)),
        "failure": "" if record.status == "ok" else clean(failure_text(record)),
    }


def _curve(record: RunRecord) -> Plain:
    return {
        "seed": record.spec.seed,
        "loss": [rounded(log.train_loss, CURVE_DIGITS) for log in record.history],
        "accuracy": [rounded(log.val_accuracy, CURVE_DIGITS) for log in record.history],
    }


def _confusion(row: Row) -> Plain:
    """Counts over all seeds: true class by row, answer by column."""
    every = list(row.answers.values())
    size = len(every[0].classes)
    counts = sum(np.bincount(one.labels * size + one.predicted, minlength=size * size) for one in every)
    table = np.asarray(counts).reshape(size, size)
    return {"classes": [clean(name) for name in every[0].classes], "seeds": len(every), "counts": table.tolist()}


def _reliability(row: Row) -> list[list[Any]]:
    """[images, mean confidence, share that is right] of each bin of `calibration.ece` that has images."""
    every = list(row.answers.values())
    confidence = np.concatenate([one.confidence for one in every])
    right = np.concatenate([one.right for one in every])
    place = np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], confidence, side="left")
    return [
        [
            int(of_bin.sum()),
            rounded(float(confidence[of_bin].mean()), CURVE_DIGITS),
            rounded(float(right[of_bin].mean()), CURVE_DIGITS),
        ]
        for number in range(BINS)
        if (of_bin := place == number).any()
    ]


def _timed(setting: LatencySetting, environment: Environment, found: CellLatency) -> Plain:
    return {
        "machine": clean(f"{setting.fingerprint[:4]}, {machine(environment)}"),
        "text": clean(f"{setting_words(setting)}, batch {setting.batch_size}"),
        "median": rounded(found.median_ms),
        "interval": [rounded(end) for end in found.interval_ms or ()],
        "iqr": rounded(found.iqr_ms),
        "unstable": found.unstable,
        "memory": found.memory_bytes,
    }


# ---------------------------------------------------------------- without records


def _costs_alone(profiles: Sequence[ProfileRecord]) -> tuple[Plain, Plain]:
    """What models cost: a table for each image size and number of classes."""
    found = networks(profiles)
    environments = {profile.environment.fingerprint: profile.environment for profile in profiles}
    datasets = [
        _costs(f"{size} px, {classes} classes", section, environments)
        for (size, classes), section in sorted(sections(found).items())
    ]
    every = list(environments.values())
    what = f"{len(found)} network{'s' if len(found) != 1 else ''}"
    return {"summary": _summary(what, profiles, every), "datasets": datasets}, {
        _network_id(network): {"facts": [["model", clean(network.label)]], "runs": [], "latencies": [
            _timed(setting, environments[setting.fingerprint], CellLatency.over([latency]))
            for setting, latency in network.latencies.items()
        ]}
        for network in found
    }  # fmt: skip


def _costs(title: str, section: Sequence[Network], environments: Mapping[str, Environment]) -> Plain:
    settings = sorted({setting for network in section for setting in network.latencies if setting.batch_size == 1})
    places = {setting: place for place, setting in enumerate(settings)}
    counts = (("params", "params"), ("macs", "MACs"), ("weight_bytes", "weights"))
    columns: list[Plain] = [_cost_column(key, name, "") for key, name in counts]
    columns += [
        _cost_column(f"latency_ms_{place}", f"latency {setting.fingerprint[:4]} {setting_words(setting)}", "ms")
        for setting, place in places.items()
    ]
    rows = []
    for place, network in enumerate(section):
        of = network.counts
        figures = {"params": of.params, "macs": of.macs, "bytes": of.weight_bytes}
        cells: list[list[Any] | None] = [[value, _short(value, key == "bytes"), ""] for key, value in figures.items()]
        ways = []
        for setting, number in places.items():
            latency = network.latencies.get(setting)
            cells.append(None if latency is None else [rounded(latency.median_ms), f"{latency.median_ms:.3g}", ""])
            if latency is not None:
                ways.append(_way(number, setting, CellLatency.over([latency])))
        rows.append(
            {
                "id": _network_id(network), "name": clean(network.label), "by_name": place,
                "model": clean(network.label), "role": "network", "method": "", "teacher": "", "rank": None,
                "tied": False, "range": None, "failure": "",
                "judged": {key: _judged(counted(value)) for key, value in figures.items()},
                "ways": ways, "cells": cells,
            }
        )  # fmt: skip
    return {
        "title": title,
        "notes": [],
        "about": [],
        "columns": columns,
        "settings": [
            _setting(setting, environments[setting.fingerprint], (True, True), f"latency_ms_{place}")
            for setting, place in places.items()
        ],
        "rows": rows,
    }


def _cost_column(key: str, title: str, unit: str) -> Plain:
    return {"key": key, "title": clean(title), "unit": unit, "better": "min", "note": "", "table": ""}


def _network_id(network: Network) -> str:
    of = network.counts
    return f"{of.image_size}-{of.num_classes}-{network.label}"


def _short(value: float, of_bytes: bool) -> str:
    text = scaled(value)
    return f"{text}{'B' if ' ' in text else ' B'}" if of_bytes else text
