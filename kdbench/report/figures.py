"""Which times of a forward pass may stand in one column, and what several of them say together. Floor 6; no torch."""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from kdbench.types import Environment, Latency


@dataclass(frozen=True, order=True)
class LatencySetting:
    """What a latency was measured under; figures of two settings are never compared."""

    fingerprint: str
    runtime: str
    precision: str
    batch_size: int
    threads: int
    device: str = "cpu"
    library: str = ""
    isolated: bool = False

    @classmethod
    def of(cls, environment: Environment, latency: Latency) -> LatencySetting:
        """Of a latency from that environment; where it does not say what ran it, that was the environment's torch."""
        return cls(
            environment.fingerprint,
            latency.runtime,
            latency.precision,
            latency.batch_size,
            latency.threads,
            latency.device,
            latency.library or f"torch {environment.versions.get('torch', '').partition('+')[0]}".strip(),
            latency.isolated,
        )

    @property
    def threads_text(self) -> str:
        return f"{self.threads} thread{'s' if self.threads != 1 else ''}"


@dataclass(frozen=True)
class CellLatency:
    """What the latencies of one network under one setting say: medians over its trainings. Milliseconds and bytes."""

    median_ms: float
    iqr_ms: float
    unstable: bool
    interval_ms: tuple[float, float] | None = None
    memory_bytes: float | None = None

    @classmethod
    def over(cls, found: Sequence[Latency]) -> CellLatency:
        """Of one latency at least; a single one is taken as it is, interval and all."""
        intervals = [latency.interval_ms for latency in found if latency.interval_ms is not None]
        memory = [peak for latency in found if (peak := peak_bytes(latency)) is not None]
        lows, highs = [low for low, _ in intervals], [high for _, high in intervals]
        return cls(
            median_ms=statistics.median(latency.median_ms for latency in found),
            iqr_ms=statistics.median(latency.iqr_ms for latency in found),
            unstable=any(latency.unstable for latency in found),
            interval_ms=(statistics.median(lows), statistics.median(highs)) if len(lows) == len(found) else None,
            memory_bytes=statistics.median(memory) if memory else None,
        )


def peak_bytes(latency: Latency) -> int | None:
    """The memory it took above what was there before: of the process on a CPU, of torch's allocator on a GPU."""
    if latency.memory is None:
        return None
    return latency.memory.peak_rss_bytes if latency.device == "cpu" else latency.memory.cuda_allocated_bytes


def undisplaced(settings: Iterable[LatencySetting]) -> list[LatencySetting]:
    """In order, without those that were measured beside other work where there are figures that were not.

    A process of its own, in turns with the other models, gives figures that hold; beside them the others would only
    look comparable.
    """

    def place(setting: LatencySetting) -> tuple[object, ...]:
        return (setting.fingerprint, setting.runtime, setting.precision, setting.device, setting.threads,
                setting.batch_size)  # fmt: skip

    every = sorted(set(settings))
    isolated = {place(setting) for setting in every if setting.isolated}
    return [setting for setting in every if setting.isolated or place(setting) not in isolated]


def fewest_threads(settings: Iterable[LatencySetting]) -> list[LatencySetting]:
    """Batch 1 with the fewest threads, for each machine, runtime, precision, device and library; of those that were
    taken in turns, where there are any."""
    fewest: dict[tuple[str, ...], LatencySetting] = {}
    for setting in settings:
        key = (setting.fingerprint, setting.runtime, setting.precision, setting.device, setting.library)
        if setting.batch_size == 1 and (key not in fewest or _rank(setting) < _rank(fewest[key])):
            fewest[key] = setting
    return sorted(fewest.values())


def _rank(setting: LatencySetting) -> tuple[bool, int]:
    return (not setting.isolated, setting.threads)


# by what settings are told apart, in the order of a name: as a key has it, and as people read it
_FACETS: tuple[tuple[Callable[[LatencySetting], str], Callable[[LatencySetting], str]], ...] = (
    (lambda setting: setting.fingerprint, lambda setting: f"on {setting.fingerprint[:4]}"),
    (lambda setting: setting.runtime, lambda setting: setting.runtime),
    (lambda setting: setting.precision, lambda setting: setting.precision),
    (lambda setting: setting.device, lambda setting: setting.device),
    (lambda setting: f"{setting.threads}_threads", lambda setting: setting.threads_text),
)


@dataclass(frozen=True)
class SettingName:
    """A setting's name among others: what they have in common is not in it."""

    key: tuple[str, ...] = ()
    title: tuple[str, ...] = ()


def told_apart(settings: Collection[LatencySetting]) -> dict[LatencySetting, SettingName]:
    """Names for these settings that differ where the settings do."""
    facets = [facet for facet in _FACETS if len({facet[0](setting) for setting in settings}) > 1]
    names = {
        setting: SettingName(
            tuple(re.sub(r"\W+", "_", key(setting)) for key, _ in facets), tuple(title(setting) for _, title in facets)
        )
        for setting in settings
    }
    # a runtime stands for its library, unless two versions of one were measured
    often = Counter(names.values())
    return {
        setting: SettingName((*name.key, re.sub(r"\W+", "_", setting.library)), (*name.title, setting.library))
        if often[name] > 1
        else name
        for setting, name in names.items()
    }


def intervals_overlap(one: Latency, other: Latency) -> bool:
    """Whether their order may be chance; False where an interval is missing, as then nothing is known of it."""
    if one.interval_ms is None or other.interval_ms is None:
        return False
    return one.interval_ms[0] <= other.interval_ms[1] and other.interval_ms[0] <= one.interval_ms[1]


def images_per_s(latency: Latency) -> float | None:
    """The batch size over the median; None where the clock saw no time pass."""
    return 1000 * latency.batch_size / latency.median_ms if latency.median_ms > 0 else None


# ---------------------------------------------------------------- for people


def milliseconds(value: float, interval: tuple[float, float] | None = None, iqr: float | None = None) -> str:
    """ "2.9 [2.8, 3.0]" with a 95 % interval, else "2.9 ± 0.2" with the interquartile range.

    Two significant digits below 10 ms; more where an interval is narrower than they can show.
    """
    decimals = 1 if value >= 1 else 2
    if interval is not None:
        low, high = interval
        while decimals < 3 and 0 < high - low < 1.5 * 10**-decimals:
            decimals += 1
        return f"{value:.{decimals}f} [{low:.{decimals}f}, {high:.{decimals}f}]"
    return f"{value:.{decimals}f}" + ("" if iqr is None else f" ± {iqr:.{decimals}f}")
