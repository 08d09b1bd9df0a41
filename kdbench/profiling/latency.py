"""Warming a function up, timing it, and what is said of the times. Floor 3; no torch.

How one call is timed is an argument (``kdbench.profiling.timers``) and so is the clock that budgets are counted on,
so that all of it is tested without a machine in the way.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from numpy.typing import NDArray

from kdbench.errors import ProfileError

Timer = Callable[[Callable[[], object]], float]
"""Makes one call of a function and says how long it took, in milliseconds."""

Clock = Callable[[], int]
"""Nanoseconds, never going back."""

Preemptions = Callable[[], int]
"""How often the system has taken the processor away from this process so far."""

MIN_SAMPLES = 5
"""Fewer give neither an interquartile range nor an interval worth printing."""

UNSTABLE_ABOVE = 0.10
"""Of the median: with a wider interquartile range the figure is marked, as another process was probably at work."""

_BEYOND = 5  # samples expected above a percentile that is printed: of fewer, one stray call makes the figure
_RESAMPLES = 2_000  # from seed to seed the ends of the interval then move by up to 5 % of its length
_LEVEL = 95.0
_SEED = 0
_CHUNK = 2**20  # values drawn at once (8 MiB): many samples cost time, not memory


@dataclass(frozen=True)
class WarmUp:
    """What came before the first timed call."""

    cold_ms: float
    """The first call of all: allocation, choice of kernels and compilation are in it."""
    calls: int
    steady: bool
    """Whether the times had stopped moving when it ended; false if the budget ended it before."""


@dataclass(frozen=True)
class Samples:
    """The times of single calls in milliseconds, each kind in the order it was taken."""

    times_ms: tuple[float, ...]
    """Of calls that nothing interrupted."""
    disturbed_ms: tuple[float, ...] = ()
    """Of calls during which the system gave the processor to somebody else. They say how busy the machine is, not how
    quick the function: on two cores that two other processes keep busy, they are half of all."""


@dataclass(frozen=True)
class LatencySummary:
    """What is said of the samples, in milliseconds."""

    median_ms: float
    """Of all samples pooled."""
    iqr_ms: float
    """The third quartile of all samples pooled less the first, linearly interpolated."""
    interval_ms: tuple[float, float] | None
    """95 % bootstrap interval of the median; None below ``MIN_SAMPLES``."""
    p90_ms: float | None
    """90th percentile, linearly interpolated; None below 50 samples, where fewer than 5 are expected beyond it."""
    p99_ms: float | None
    """99th percentile, likewise; None below 500 samples."""
    samples: int
    unstable: bool
    """Whether another process was probably at work; see ``summarise``."""


def warm_up(
    run: Callable[[], object],
    timer: Timer,
    *,
    budget_s: float = 1.0,
    min_calls: int = 5,
    window: int = 5,
    tolerance: float = 0.05,
    clock: Clock = time.perf_counter_ns,
) -> WarmUp:
    """Calls until the times stop moving: the median of the last calls is close to that of as many calls before them.

    Medians, since a single call that something else held up would otherwise look like movement, and one stray quick
    call like rest. A drift slower than ``tolerance`` over ``window`` calls is not seen.

    Args:
        run: one forward pass; ``timer`` knows when it is finished.
        timer: of one call.
        budget_s: no call begins after it. The first always does, so a slow network may get that one alone.
        min_calls: how many at least, unless the budget ends before.
        window: calls in each of the two medians; at least 1. So ``2 x window`` calls are made at least.
        tolerance: how far the medians may lie apart, as a fraction of the earlier one.
        clock: of the budget.
    """
    start = clock()
    times = [timer(run)]
    while not (steady := len(times) >= min_calls and _at_rest(times, window, tolerance)):
        if clock() - start >= budget_s * 1e9:
            break
        times.append(timer(run))
    return WarmUp(cold_ms=times[0], calls=len(times), steady=steady)


def sample(
    run: Callable[[], object],
    timer: Timer,
    *,
    samples: int,
    min_samples: int,
    budget_s: float,
    clock: Clock = time.perf_counter_ns,
    preemptions: Preemptions = lambda: 0,
) -> Samples:
    """Time single calls until enough of them were undisturbed.

    Args:
        run: one forward pass; ``timer`` knows when it is finished.
        timer: of one call.
        samples: how many undisturbed ones are wanted; ``min_samples``, if that is more.
        min_samples: how many calls at least, whatever they cost.
        budget_s: once they are there, no call begins after it: a slow network, or a busy machine, gets fewer samples.
        clock: of the budget.
        preemptions: asked before and after each call; a call during which it grew was disturbed.
    """
    start = clock()
    taken: list[float] = []
    disturbed: list[float] = []
    while len(taken) < max(samples, min_samples):
        if len(taken) + len(disturbed) >= min_samples and clock() - start >= budget_s * 1e9:
            break
        before = preemptions()
        elapsed = timer(run)
        (taken if preemptions() == before else disturbed).append(elapsed)
    return Samples(tuple(taken), tuple(disturbed))


def summarise(rounds_ms: Sequence[Sequence[float]]) -> LatencySummary:
    """What is said of the samples of one network in one setting, taken in one or more rounds; empty ones do not count.

    The interval is a percentile bootstrap (Efron and Tibshirani 1993, chapter 13) of 2,000 resamples with a fixed
    seed. Samples of one round share the state of the machine, so that they are not independent: with two rounds and
    more, rounds are drawn with replacement and then samples within each of them (Davison and Hinkley 1997, section
    3.8). Of few rounds it comes out short: where rounds differ as much as the samples within them or more, intervals
    of 2 rounds hold the true median in 55 to 75 % of all cases, of 5 in 89 %, of 10 in 93 %, of 20 in 95 % (simulated).

    ``unstable`` is set where the interquartile range is above 10 % of the median: the machine was disturbed within
    rounds, or during more than a quarter of them. What disturbs fewer moves the median little.

    Args:
        rounds_ms: the samples by round.

    Raises: ProfileError, if there is no sample.
    """
    rounds = [np.asarray(taken, dtype=np.float64) for taken in rounds_ms if len(taken)]
    if not rounds:
        raise ProfileError("no latency sample to summarise; take at least one")
    pooled = np.concatenate(rounds)
    first, middle, third = (float(value) for value in np.percentile(pooled, (25, 50, 75)))
    return LatencySummary(
        median_ms=middle,
        iqr_ms=third - first,
        interval_ms=_interval(rounds) if pooled.size >= MIN_SAMPLES else None,
        p90_ms=_percentile(pooled, 90),
        p99_ms=_percentile(pooled, 99),
        samples=pooled.size,
        unstable=third - first > UNSTABLE_ABOVE * middle,
    )


def _at_rest(times: Sequence[float], window: int, tolerance: float) -> bool:
    if len(times) < 2 * window:
        return False
    before, last = median(times[-2 * window : -window]), median(times[-window:])
    return abs(last - before) <= tolerance * before


def _percentile(pooled: NDArray[np.float64], percent: int) -> float | None:
    enough = pooled.size * (100 - percent) >= _BEYOND * 100
    return float(np.percentile(pooled, percent)) if enough else None


def _interval(rounds: Sequence[NDArray[np.float64]]) -> tuple[float, float]:
    """Of the pooled median. With one round the draw of rounds is no draw, and this is the plain bootstrap."""
    sizes = np.array([taken.size for taken in rounds])
    table = np.zeros((len(rounds), sizes.max()))  # rounds may differ in length: what stands behind one is never drawn
    for row, taken in zip(table, rounds, strict=True):
        row[: taken.size] = taken
    generator = np.random.default_rng(_SEED)
    medians = [
        _resampled_medians(table, sizes, part.size, generator)
        for part in np.array_split(np.arange(_RESAMPLES), -(-_RESAMPLES * table.size // _CHUNK))
    ]
    low, high = np.percentile(np.concatenate(medians), (50 - _LEVEL / 2, 50 + _LEVEL / 2))
    return float(low), float(high)


def _resampled_medians(
    table: NDArray[np.float64], sizes: NDArray[np.int64], count: int, generator: np.random.Generator
) -> NDArray[np.float64]:
    drawn = generator.integers(len(sizes), size=(count, len(sizes), 1))
    length = sizes[drawn]
    which = (generator.random((count, *table.shape)) * length).astype(np.int64)
    values = np.where(np.arange(table.shape[1]) < length, table[drawn, which], np.inf).reshape(count, -1)
    values.sort(axis=1)  # the places that a shorter round leaves over are infinite, so behind all samples
    total = length.sum(axis=1)
    middle = np.take_along_axis(values, np.hstack(((total - 1) // 2, total // 2)), axis=1)
    return middle.mean(axis=1)
