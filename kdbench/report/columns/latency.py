"""Time of one forward pass: a column for each machine, because two machines never share a ranked column."""

from collections.abc import Sequence
from dataclasses import replace

from kdbench.report.column import COLUMNS, Column
from kdbench.report.figures import LatencySetting, SettingName, milliseconds, told_apart
from kdbench.report.rows import Row, latency_settings


def _variants(rows: Sequence[Row]) -> list[Column]:
    """A column for each setting; what the settings have in common is not repeated in the names."""
    names = told_apart(latency_settings(rows))
    return [_variant(setting, name, rows) for setting, name in names.items()] or [LATENCY]


def _variant(setting: LatencySetting, name: SettingName, rows: Sequence[Row]) -> Column:
    def value(row: Row) -> float | None:
        found = row.latency(setting)
        return found.median_ms if found else None

    def spread(row: Row) -> float | None:
        found = row.latency(setting)
        return found.iqr_ms if found else None

    def interval(row: Row) -> tuple[float, float] | None:
        found = row.latency(setting)
        return found.interval_ms if found and setting.isolated else None

    def text(row: Row, shown: float | int | str, iqr: float | None) -> str:
        found = row.latency(setting)
        return milliseconds(float(shown), interval(row), iqr) + (" †" if found and found.unstable else "")

    has_intervals = any(interval(row) for row in rows)
    return replace(
        LATENCY,
        key="_".join(["latency_ms", *name.key]),
        title=" ".join(["latency", *name.title]),
        value=value,
        spread=spread,
        interval=interval if has_intervals else None,
        text=text,
        variants=None,
        note=_note(setting, has_intervals),
    )


def _note(setting: LatencySetting, has_intervals: bool) -> str:
    device = "" if setting.device == "cpu" else f" on its {setting.device} device"
    what = f"one forward pass of one image, {setting.runtime} {setting.precision}"
    where = f"{setting.threads_text}, on machine {setting.fingerprint[:4]}{device}"
    if not setting.isolated:
        return f"{what}, {where}: median ± interquartile range; † unstable, the range is above 10 % of the median"
    figure = "median and, in brackets, its 95 % interval" if has_intervals else "median ± interquartile range"
    rank = "; rows whose intervals overlap do not rank" if has_intervals else ""
    return (
        f"{what} ({setting.library}), {where}, each network in a process of its own, in turns with the others: {figure}"
        f"{rank}; † unstable, the interquartile range is above 10 % of the median, or something else was at work; a "
        "row without such a figure is missing, whatever its run measured"
    )


LATENCY = COLUMNS.add(
    "latency",
    Column(
        key="latency_ms",
        title="latency",
        unit="ms",
        better="min",
        order=70,
        value=lambda row: None,  # without a setting there is nothing to compare: _variants gives the real columns
        spread=lambda row: None,
        spread_name="iqr",
        variants=_variants,
        note="one forward pass of one image",
    ),
)
