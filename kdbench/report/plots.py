"""Accuracy, or multiply-adds, against latency as a picture. Floor 6; no torch.

A pure function of records and profiles: the same ones give the same bytes, whatever the user's settings of matplotlib.
A panel for each data set and machine, because two machines never share an axis.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kdbench.errors import RecordError, UnknownName
from kdbench.report.drawing import Axis, Panel, Point, draw, own_style
from kdbench.report.figures import CellLatency, LatencySetting, fewest_threads
from kdbench.report.networks import Network, networks, sections
from kdbench.report.outcomes import Outcomes
from kdbench.report.rows import Row, build_rows, dataset_key, dataset_titles, latency_settings
from kdbench.report.text import machine
from kdbench.store import write_atomic
from kdbench.types import Environment, ProfileRecord, RunRecord

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".svg", ".png")
_MOST_PANELS = 12


def _count(value: float) -> str:
    """A round number with its prefix: 2,000,000 as "2 M"."""
    for size, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g} {prefix}"
    return f"{value:g}"


_AXES: dict[str, Axis] = {
    "latency": Axis("latency of one image (ms)", True, lambda value: f"{value:g}"),
    "macs": Axis("multiply-adds of one image", True, _count),
    "params": Axis("parameters", True, _count),
    "accuracy": Axis("test accuracy (%)", False, lambda value: f"{100 * value:.4g}", 0.0, 1.01, front=True),
}
_NAMES = {"latency": "latency", "macs": "multiply-adds", "params": "parameters", "accuracy": "accuracy"}


def plot_costs(
    profiles: Sequence[ProfileRecord],
    records: Sequence[RunRecord] = (),
    x: str = "latency",
    y: str = "auto",
    *,
    out: Path | str,
    outcomes: Outcomes | None = None,
) -> None:
    """Write the picture to a file: SVG or PNG, by its suffix.

    Args:
        profiles: of any number of models and machines; with records, they join the rows they belong to.
        records: of the runs; without them the picture shows costs alone.
        x: latency, macs, params or accuracy.
        y: the same, or auto: accuracy if there are records, else macs.
        outcomes: where the answers of the runs are looked up; with them accuracies have their 95 % interval.

    Raises: UnknownName for an axis or a suffix there is none of; RecordError if nothing can be drawn.
    """
    out = Path(out)
    if out.suffix.lower() not in SUFFIXES:
        raise UnknownName("kind of picture", out.suffix or out.name, SUFFIXES)
    if y == "auto":
        y = "accuracy" if records else "params" if x == "macs" else "macs"
    for axis in (x, y):
        if axis not in _AXES:
            raise UnknownName("axis", axis, _AXES)
    found = panels(profiles, records, x, y, outcomes)
    with own_style():
        save(draw(found, _AXES[x], _AXES[y], f"{_NAMES[y]} against {_NAMES[x]}".capitalize()), out)


def save(figure: Figure, out: Path) -> None:
    """As SVG or PNG, by its suffix, in one step; the same figure gives the same bytes."""
    content = io.BytesIO()
    if out.suffix.lower() == ".svg":
        figure.savefig(content, format="svg", metadata={"Date": None, "Creator": None})
    else:
        figure.savefig(content, format="png", dpi=200, metadata={"Software": None})
    write_atomic(out, content.getvalue())


def panels(
    profiles: Sequence[ProfileRecord],
    records: Sequence[RunRecord],
    x: str,
    y: str,
    outcomes: Outcomes | None = None,
) -> list[Panel]:
    """What there is to draw. Raises: RecordError if that is nothing, or more than fits into one picture."""
    if records:
        found = list(_of_rows(build_rows(records, profiles, outcomes), x, y))
    elif "accuracy" in (x, y):
        raise RecordError("profiles alone have no accuracy; draw macs or params, or give the records as well")
    else:
        found = list(_of_networks(networks(profiles), x, y))
    if not found:
        what = " and ".join(dict.fromkeys((_NAMES[y], _NAMES[x])))
        raise RecordError(f"no model has {what}, so there is nothing to draw; measure with `kdbench profile`")
    if len(found) > _MOST_PANELS:
        raise RecordError(
            f"{len(found)} pairs of data set and machine are too many for one picture, which holds {_MOST_PANELS}; "
            "give fewer results or profiles"
        )
    return found


# ---------------------------------------------------------------- from records to points


@dataclass(frozen=True)
class _Model:
    """What is known of one row or network, apart from its latencies."""

    name: str
    model: str
    figures: Mapping[str, float | None]
    latency: Callable[[LatencySetting], CellLatency | None]
    accuracy_bar: tuple[float, float] | None = None
    interval: bool = False
    ranked: bool = True

    def point(self, x: str, y: str, setting: LatencySetting | None) -> Point | None:
        latency = self.latency(setting) if setting is not None else None
        figures = {**self.figures, "latency": latency.median_ms if latency else None}
        across, up = figures[x], figures[y]
        if across is None or up is None or any(_AXES[axis].log and figures[axis] == 0 for axis in (x, y)):
            return None
        bars = {
            "latency": latency.interval_ms if latency and setting and setting.isolated else None,
            "accuracy": self.accuracy_bar,
        }
        unstable = latency is not None and latency.unstable
        return Point(self.name, self.model, across, up, bars.get(x), bars.get(y), unstable, self.ranked, self.interval)


def _of_rows(rows: Sequence[Row], x: str, y: str) -> Iterator[Panel]:
    by_dataset: dict[str, list[Row]] = {}
    for row in rows:
        by_dataset.setdefault(dataset_key(row.dataset), []).append(row)
    environments = [record.environment for row in rows for record in row.records]
    environments += [profile.environment for row in rows for profile in row.profiles]
    titles = dataset_titles([group[0].dataset for group in by_dataset.values()])
    for title, group in zip(titles, by_dataset.values(), strict=True):
        models = [
            _Model(
                name,
                row.model,
                {"macs": row.macs, "params": row.params, "accuracy": row.accuracy},
                row.latency,
                row.interval or _with_spread(row),
                row.interval is not None,
                row.role != "teacher",
            )
            for name, row in zip(row_names(group), group, strict=True)
        ]
        yield from _panels(title, models, latency_settings(rows), environments, x, y)


def _of_networks(found: Sequence[Network], x: str, y: str) -> Iterator[Panel]:
    environments = [environment for network in found for environment in network.environments]
    settings = fewest_threads({setting for network in found for setting in network.latencies})
    for (image_size, classes), section in sections(found).items():
        models = [
            _Model(
                network.label,
                network.label,
                {"macs": network.counts.macs, "params": network.counts.params, "accuracy": None},
                lambda setting, network=network: (  # type: ignore[misc]
                    CellLatency.over([network.latencies[setting]]) if setting in network.latencies else None
                ),
            )
            for network in section
        ]
        yield from _panels(f"{image_size} px, {classes} classes", models, settings, environments, x, y)


def _with_spread(row: Row) -> tuple[float, float] | None:
    """The accuracy ± its standard deviation over the seeds."""
    if row.accuracy is None or not row.accuracy_std:
        return None
    return row.accuracy - row.accuracy_std, row.accuracy + row.accuracy_std


def row_names(rows: Sequence[Row]) -> list[str]:
    """A row's model, and of its method and teachers what tells it apart from the others."""
    names = [row.model for row in rows]
    for more in (lambda row: f", {row.method}", lambda row: f" < {row.teacher}" if row.teacher else ""):
        often = Counter(names)
        names = [name + more(row) if often[name] > 1 else name for name, row in zip(names, rows, strict=True)]
    return [f"{name} (teacher)" if row.role == "teacher" else name for name, row in zip(names, rows, strict=True)]


def _panels(
    title: str,
    models: Sequence[_Model],
    settings: Sequence[LatencySetting],
    environments: Iterable[Environment],
    x: str,
    y: str,
) -> Iterator[Panel]:
    if "latency" not in (x, y):
        found = [point for model in models if (point := model.point(x, y, None)) is not None]
        if found:
            yield Panel(title, {"": found})
        return
    machine_of = {environment.fingerprint: machine(environment) for environment in environments}
    for fingerprint in sorted({setting.fingerprint for setting in settings}):
        here = [setting for setting in settings if setting.fingerprint == fingerprint]
        points = {
            setting: found
            for setting in here
            if (found := [point for model in models if (point := model.point(x, y, setting)) is not None])
        }
        if not points:
            continue
        threads = {setting.threads_text for setting in points}
        facts = [title, f"{machine_of[fingerprint]}, machine {fingerprint[:4]}", "batch 1"]
        yield Panel(
            " · ".join([*facts, *(threads if len(threads) == 1 else ())]),
            {_series_name(setting, points): found for setting, found in points.items()},
        )


def _series_name(setting: LatencySetting, among: Iterable[LatencySetting]) -> str:
    """Runtime and precision, and what else tells it apart from the others of its panel."""
    device = "" if setting.device == "cpu" else f" on {setting.device}"
    threads = f", {setting.threads_text}" if len({other.threads for other in among}) > 1 else ""
    alike = [
        other
        for other in among
        if (other.runtime, other.precision, other.device) == (setting.runtime, setting.precision, setting.device)
    ]
    library = f" ({setting.library})" if len(alike) > 1 else ""
    return f"{setting.runtime} {setting.precision}{device}{library}{threads}"
