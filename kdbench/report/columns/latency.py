"""Time of one forward pass: a column for each machine, because two machines never share a ranked column."""

from collections.abc import Sequence
from dataclasses import replace

from kdbench.report.column import COLUMNS, Column
from kdbench.report.rows import LatencySetting, Row, latency_settings


def _text(row: Row, value: float | int | str, spread: float | None) -> str:
    # two significant digits below 10 ms, and the spread in the same decimals
    decimals = 1 if float(value) >= 1 else 2
    return f"{float(value):.{decimals}f}" + ("" if spread is None else f" ± {spread:.{decimals}f}")


def _variants(rows: Sequence[Row]) -> list[Column]:
    """A column for each setting; what the settings have in common is not repeated in the names."""
    settings = latency_settings(rows)
    shared = [
        len({value(setting) for setting in settings}) == 1
        for value in (lambda s: s.fingerprint, lambda s: s.runtime, lambda s: s.precision)
    ]
    return [_variant(setting, shared) for setting in settings] or [LATENCY]


def _variant(setting: LatencySetting, shared: Sequence[bool]) -> Column:
    parts = (setting.fingerprint, setting.runtime, setting.precision)
    names = (f"on {setting.fingerprint[:4]}", setting.runtime, setting.precision)
    apart = [name for name, same in zip(names, shared, strict=True) if not same]
    threads = f"{setting.threads} thread{'s' if setting.threads != 1 else ''}"

    def spread(row: Row) -> float | None:
        found = row.latency(setting)
        return found.iqr_ms if found else None

    def value(row: Row) -> float | None:
        found = row.latency(setting)
        return found.median_ms if found else None

    def text(row: Row, shown: float | int | str, iqr: float | None) -> str:
        found = row.latency(setting)
        return _text(row, shown, iqr) + (" †" if found and found.unstable else "")

    return replace(
        LATENCY,
        key="_".join(["latency_ms", *(part for part, same in zip(parts, shared, strict=True) if not same)]),
        title=" ".join(["latency", *apart]),
        value=value,
        spread=spread,
        text=text,
        variants=None,
        note=f"one forward pass of one image, {setting.runtime} {setting.precision}, {threads}, on machine "
        f"{setting.fingerprint[:4]}: median ± interquartile range; † unstable, the range is above 10 % of the median",
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
