"""A report over many runs: reading the records, the leaderboard, and the page of costs.

The records are made up and as large as real ones: a training curve of 30 epochs, recall by class, a data card. They are
read from the page cache. KDBENCH_BENCH_RECORDS sets how many runs there are, KDBENCH_BENCH_PROFILES how many profiles.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from timing import Row, size

from kdbench.report import Outcomes, collect, collect_profiles, render, render_costs
from kdbench.store import Store
from kdbench.types import (
    CrossCheck,
    DataCard,
    DatasetSpec,
    Environment,
    EpochLog,
    Latency,
    Memory,
    MethodSpec,
    Metrics,
    ModelChoice,
    Profile,
    ProfileRecord,
    RunRecord,
    RunSpec,
)

GOAL_S = 5.0
"""Seconds for the whole of it: 10,000 records from their files to the page."""

SEEDS = 5
DATASETS = ("mixed", "bccd")
ROUNDS = 3
TEACHERS = ("resnet50", "vit_tiny")
STUDENTS = tuple(f"student_{number:02d}" for number in range(10))
METHODS = tuple(MethodSpec(name=f"method_{number:02d}") for number in range(20)) + tuple(
    MethodSpec(name="kd", options={"temperature": temperature, "alpha": 0.9})
    for temperature in (1.0, 2.0, 4.0, 8.0, 16.0)
)
CLASSES = ("basophil", "eosinophil", "lymphocyte", "monocyte", "neutrophil")
ENVIRONMENT = Environment(
    fingerprint="3f2a9c0b1d4e5f60", cpu="Example CPU 9000", cpu_flags=("avx2", "avx512f", "fma"), cores=4,
    memory_bytes=16 * 2**30, gpu=None, system="Linux x86_64", python="3.11.7",
    versions={"torch": "2.14.1", "torchvision": "0.29.1", "timm": "1.0.20", "numpy": "2.1.0"}, threads=2,
    kdbench="0.1.0", commit="0123456789ab", dirty=False,
)  # fmt: skip


def specs(dataset: str) -> Iterator[RunSpec]:
    """1,012 cells of a data set: 2 teachers, 10 students alone, and each student with 25 methods, 4 ways."""
    data = DatasetSpec(name=dataset, content="c0ffee")
    teachers = [
        RunSpec(role="teacher", dataset=data, model=ModelChoice(name=name), method=MethodSpec(name="ce"))
        for name in TEACHERS
    ]
    yield from teachers
    for name in STUDENTS:
        yield RunSpec(role="student", dataset=data, model=ModelChoice(name=name), method=MethodSpec(name="ce"))
    for name, method, teacher, truth in itertools.product(STUDENTS, METHODS, teachers, (True, False)):
        yield RunSpec(
            role="student",
            dataset=data,
            model=ModelChoice(name=name),
            method=method.model_copy(update={"ground_truth": truth}),
            teachers=(teacher,),
        )


def latency(draw: random.Random, **facts: Any) -> Latency:
    plain: dict[str, Any] = {
        "runtime": "eager", "precision": "fp32", "batch_size": 1, "threads": 1, "samples": 50, "unstable": False,
        "median_ms": draw.uniform(1, 10), "iqr_ms": 0.1,
    }  # fmt: skip
    return Latency(**(plain | facts))


def finished(spec: RunSpec, draw: random.Random) -> RunRecord:
    """A record of that run, with figures that mean nothing."""
    accuracy = draw.uniform(0.5, 0.95)
    history = tuple(
        EpochLog(
            epoch=epoch, train_loss=draw.random(), val_loss=draw.random(), val_accuracy=draw.random(),
            learning_rate=draw.random(), seconds=draw.random(),
        )
        for epoch in range(30)
    )  # fmt: skip
    metrics = Metrics(
        accuracy=accuracy, macro_f1=accuracy - 0.01, loss=draw.random(),
        recall={label: draw.random() for label in CLASSES}, count=2000,
    )  # fmt: skip
    number = 1 + sum(map(ord, spec.model.name))
    return RunRecord(
        run_id=spec.run_id,
        cell_id=spec.cell_id,
        status="ok",
        spec=spec,
        started="2026-03-01T10:00:00+00:00",
        train_seconds=60.0,
        best_epoch=29,
        history=history,
        val_metrics=metrics,
        test_metrics=metrics,
        profile=Profile(
            image_size=64, params=1000 * number, macs=20_000 * number, flops=40_000 * number,
            weight_bytes=4000 * number, not_counted={"hardswish": 19, "batch_norm": 34}, latencies=(latency(draw),),
        ),
        environment=ENVIRONMENT,
        data=DataCard(
            name=spec.dataset.name, sources={"pbc": 9000, "jtsc": 1000}, classes=CLASSES,
            splits={split: dict.fromkeys(CLASSES, 400) for split in ("train", "val", "test")},
            content_hash="c0ffee", caveats=("some labels were not checked by experts",),
        ),
        command="kdbench run many.yaml",
    )  # fmt: skip


def measured(number: int, draw: random.Random) -> ProfileRecord:
    """A profile in two runtimes, two batch sizes and two numbers of threads, with all of its samples."""
    timed = []
    for runtime, batch_size, threads in itertools.product(("eager", "onnxruntime"), (1, 8), (1, 2)):
        rounds = tuple(tuple(draw.uniform(1, 10) for _ in range(20)) for _ in range(5))
        median = sorted(itertools.chain.from_iterable(rounds))[50]
        facts = {
            "library": f"{runtime} 1.0", "isolated": True, "interval_ms": (0.98 * median, 1.02 * median),
            "cold_ms": 50.0, "rounds_ms": rounds, "memory": Memory(peak_rss_bytes=10_000_000 + number), "samples": 100,
        }  # fmt: skip
        setting = {"runtime": runtime, "batch_size": batch_size, "threads": threads}
        timed.append(latency(draw, median_ms=median, **facts, **setting))
    macs = draw.randrange(1_000_000, 1_000_000_000)
    return ProfileRecord(
        model=f"network_{number:04d}", choice=ModelChoice(name=f"network_{number:04d}"), num_classes=5, image_size=64,
        params=macs // 50, macs=macs, flops=2 * macs, weight_bytes=macs // 12, latencies=tuple(timed),
        activations=macs // 90, activation_bytes=macs // 30, not_counted={"batch_norm": number % 40, "relu": 20},
        cross_check=CrossCheck(counter="another 1.0", macs=macs, difference=0.0),
        started="2026-03-01T10:00:00+00:00", environment=ENVIRONMENT, command="kdbench profile --out many.json",
    )  # fmt: skip


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 10,000 records: some 2,000 cells of five seeds."""
    folder = tmp_path_factory.mktemp("many") / "records"
    folder.mkdir()
    draw = random.Random(0)
    cells = itertools.chain.from_iterable(specs(name) for name in DATASETS)
    runs = (cell.model_copy(update={"seed": seed}) for cell in cells for seed in range(SEEDS))
    for spec in itertools.islice(runs, size("RECORDS", 10_000)):
        record = finished(spec, draw)
        (folder / f"{record.run_id}.json").write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return folder.parent


@pytest.fixture(scope="module")
def records(results: Path) -> Sequence[RunRecord]:
    return collect(results)


@pytest.fixture(scope="module")
def profiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one file of 1,000 profiles."""
    draw, folder = random.Random(0), tmp_path_factory.mktemp("profiles")
    Store(folder).write_profiles("many", [measured(number, draw) for number in range(size("PROFILES", 1000))])
    return folder


def test_reading_the_records(results: Path, benchmark: Any) -> None:
    found = benchmark.pedantic(collect, args=(results,), rounds=ROUNDS)
    assert len(found) == size("RECORDS", 10_000)


@pytest.mark.parametrize("format", ["md", "csv", "json"])
def test_the_leaderboard(records: Sequence[RunRecord], format: str, benchmark: Any) -> None:
    assert benchmark.pedantic(render, args=(records, format), rounds=ROUNDS)


def test_from_files_to_the_page(results: Path, benchmark: Any, note_row: Callable[[Row], None]) -> None:
    seconds: list[float] = []

    def report() -> str:
        started = time.perf_counter()
        page = render(collect(results), outcomes=Outcomes.below(results))
        seconds.append(time.perf_counter() - started)
        return page

    assert benchmark.pedantic(report, rounds=ROUNDS)
    note_row(Row("a report, in seconds", f"{size('RECORDS', 10_000):,} records to the page", tuple(seconds), GOAL_S))


def test_reading_the_profiles(profiles: Path, benchmark: Any) -> None:
    assert len(benchmark.pedantic(collect_profiles, args=(profiles,), rounds=ROUNDS)) == size("PROFILES", 1000)


def test_the_page_of_costs(profiles: Path, benchmark: Any) -> None:
    assert benchmark.pedantic(render_costs, args=(collect_profiles(profiles),), rounds=ROUNDS)
