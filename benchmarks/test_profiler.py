"""The profiler itself: how long it takes, and whether two rankings agree although the machine is busy.

KDBENCH_BENCH_BUSY sets how many processes compute beside the two rankings.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from scipy.stats import kendalltau
from timing import Row, size

from kdbench import profile
from kdbench.model import MODELS, build
from kdbench.profiling.profile import profile_model
from kdbench.types import ModelChoice

STUDENTS = (
    "resnet8_w16",
    "resnet20_w16",
    "mobilenetv3_small_050",
    "mobilenetv3_small_100",
    "mobilenetv2_050",
    "ghostnet_050",
    "efficientnet_lite0",
    "vit_micro",
)
# computes in bursts of random length, as other people's work does
_BUSY = """
import random, time
import numpy as np
random.seed()
while True:
    until = time.time() + random.expovariate(1 / 0.5)
    while time.time() < until:
        np.random.rand(400, 400) @ np.random.rand(400, 400)
    time.sleep(random.expovariate(1 / 0.5))
"""


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "vit_tiny", "resnet50"])
def test_counting(name: str, benchmark: Any) -> None:
    model = build(ModelChoice(name=name), 5, 64)
    benchmark.pedantic(profile_model, args=(model, 64), kwargs={"counts_only": True}, rounds=3, warmup_rounds=1)


def test_counting_the_registry(benchmark: Any, note_row: Callable[[Row], None]) -> None:
    """At 224 pixels, with making the networks; the goals are 20 s together and 1 s for each."""
    seconds: dict[str, float] = {}

    def count_all() -> None:
        for name in MODELS.names():
            started = time.perf_counter()
            profile_model(build(ModelChoice(name=name), 1000, 224), 224, counts_only=True)
            seconds[name] = time.perf_counter() - started

    benchmark.pedantic(count_all, rounds=1, warmup_rounds=1)
    total, longest = sum(seconds.values()), max(seconds, key=lambda name: seconds[name])
    note = f"{total:.1f} s for {len(seconds)} models"
    note_row(Row("counting, of the time allowed", "the registry at 224 px", (total / 20,), 1.0, note=note))
    note = f"{seconds[longest]:.2f} s: {longest}"
    note_row(Row("counting, of the time allowed", "the slowest model", (seconds[longest],), 1.0, note=note))


def test_profiling_one_student(benchmark: Any, note_row: Callable[[Row], None]) -> None:
    """The whole command, from a cold start; the goal is 10 s."""
    command = [sys.executable, "-m", "kdbench", "profile", "mobilenetv3_small_050", "--json"]
    benchmark.pedantic(
        subprocess.run, args=(command,), kwargs={"check": True, "capture_output": True}, rounds=3, warmup_rounds=1
    )
    taken = tuple(benchmark.stats.stats.data)
    ratios = tuple(seconds / 10 for seconds in taken)
    note_row(Row("profiling, of the time allowed", "one student", ratios, 1.0, note=f"{np.median(taken):.1f} s"))


@contextmanager
def _busy_machine(processes: int) -> Iterator[None]:
    running = [subprocess.Popen([sys.executable, "-c", _BUSY]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


@pytest.mark.timeout(1800)
def test_rankings_of_separate_runs_agree(
    benchmark: Any, note_row: Callable[[Row], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """Eight students, timed in several separate runs on a busy machine; the goal is a Kendall tau of 0.9."""
    runs: list[list[float]] = []

    def rank() -> None:
        records = profile(STUDENTS)
        runs.append([record.latencies[0].median_ms for record in records])

    with _busy_machine(size("BUSY", 2)):
        benchmark.pedantic(rank, rounds=size("ROUNDS", 5))
    taus = tuple(float(kendalltau(one, other).statistic) for one, other in combinations(runs, 2))
    with capsys.disabled():
        for name, times in zip(STUDENTS, zip(*runs, strict=True), strict=True):
            print(f"\n{name:24}", " ".join(f"{value:7.2f}" for value in times), end="")
    note_row(Row("Kendall tau of two runs", f"{len(STUDENTS)} students", taus, 0.9, at_least=True))
