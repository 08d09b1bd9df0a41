"""Timing a function, and what is said of the times. Floor 3.

The clock is an argument, so that the arithmetic is tested without one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from kdbench.errors import ProfileError

MIN_SAMPLES = 5
"""Fewer give no interquartile range worth printing; taken however long each one lasts."""

UNSTABLE_ABOVE = 0.10
"""Of the median: with a wider interquartile range the figure is marked, as another process was probably at work."""


@dataclass(frozen=True)
class LatencySummary:
    """What is kept of the samples."""

    median_ms: float
    iqr_ms: float
    """The third quartile less the first, linearly interpolated."""
    unstable: bool


def measure_latency(
    run: Callable[[], object],
    samples: int,
    *,
    warmup: int = 5,
    min_samples: int = MIN_SAMPLES,
    budget_s: float = 3.0,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> tuple[float, ...]:
    """The times of single calls in milliseconds, in the order they were taken.

    Args:
        run: one forward pass, finished when it returns.
        samples: how many at most.
        warmup: calls before the first timed one (allocation, caches, choice of kernels); at least one is made, more
            only within a third of the budget.
        min_samples: how many at least, whatever they cost.
        budget_s: for warm-up and samples together; a slow network gets fewer samples.
        clock: nanoseconds, never going back.
    """
    start = clock()
    for _ in range(max(1, warmup)):
        run()
        if clock() - start > budget_s * 1e9 / 3:
            break
    taken: list[float] = []
    while len(taken) < max(samples, min_samples):
        before = clock()
        run()
        after = clock()
        taken.append((after - before) / 1e6)
        if len(taken) >= min_samples and after - start > budget_s * 1e9:
            break
    return tuple(taken)


def summarise(samples_ms: Sequence[float]) -> LatencySummary:
    """Median, interquartile range and whether they are to be trusted. Raises: ProfileError, if there is no sample."""
    if not samples_ms:
        raise ProfileError("no latency sample to summarise; take at least one")
    first, median, third = (float(value) for value in np.percentile(samples_ms, (25, 50, 75)))
    return LatencySummary(median, third - first, unstable=third - first > UNSTABLE_ABOVE * median)
