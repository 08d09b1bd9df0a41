"""Memory of one forward pass: a column for each machine; none where nothing was measured."""

from collections.abc import Sequence
from dataclasses import replace

from kdbench.report.column import COLUMNS, Column
from kdbench.report.figures import LatencySetting
from kdbench.report.rows import Row, latency_settings


def _variants(rows: Sequence[Row]) -> list[Column]:
    """Of each machine the first runtime with a figure, in fp32 if it has one; the others differ by what they keep."""
    first: dict[str, LatencySetting] = {}
    for setting in sorted(latency_settings(rows), key=lambda s: (s.device, s.runtime, s.precision != "fp32", s)):
        if setting.fingerprint not in first and any(_value(row, setting) is not None for row in rows):
            first[setting.fingerprint] = setting
    return [_variant(first[fingerprint], alone=len(first) == 1) for fingerprint in sorted(first)]


def _value(row: Row, setting: LatencySetting) -> float | None:
    found = row.latency(setting)
    return found.memory_bytes if found else None


def _variant(setting: LatencySetting, alone: bool) -> Column:
    key, title = ("", "") if alone else (f"_{setting.fingerprint}", f" on {setting.fingerprint[:4]}")
    resident, allocated = "highest resident memory of a process of its own", "most that torch's allocator held"
    what = f"{resident if setting.device == 'cpu' else allocated} while it runs one image"
    return replace(
        MEMORY,
        key=f"{MEMORY.key}{key}",
        title=f"{MEMORY.title}{title}",
        value=lambda row: _value(row, setting),
        variants=None,
        note=f"{what}, {setting.runtime} {setting.precision}, {setting.threads_text}, on machine "
        f"{setting.fingerprint[:4]}, above what it held before the model was loaded; 1 MiB is 1,048,576 bytes",
    )


MEMORY = COLUMNS.add(
    "memory",
    Column(
        key="memory_bytes",
        title="memory",
        unit="MiB",
        better="min",
        order=72,
        value=lambda row: None,  # as with latency: _variants gives the real columns
        text=lambda row, value, spread: f"{float(value) / 2**20:.1f}",
        variants=_variants,
        note="what one forward pass needs besides the runtime itself",
    ),
)
