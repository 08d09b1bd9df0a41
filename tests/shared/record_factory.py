"""Valid records made by hand, for tests: only what a test is about has to be said."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from kdbench.store import Store, images_key
from kdbench.types import (
    Corrupted,
    CrossCheck,
    DataCard,
    DatasetSpec,
    Environment,
    EvaluationRecord,
    Failure,
    Latency,
    LeftOut,
    Memory,
    MethodSpec,
    Metrics,
    ModelChoice,
    Profile,
    ProfileRecord,
    RunRecord,
    RunSpec,
    Status,
    TrainSpec,
    ViewSpec,
    evaluation_id,
)

DATASET = DatasetSpec(name="bccd", content="c0ffee")
FINGERPRINT = "3f2a9c0b1d4e5f60"

FAILURES: dict[Status, Failure] = {
    "failed": Failure(kind="OutOfMemory", message="12 GB asked, 8 GB there"),
    "diverged": Failure(kind="Diverged", message="loss nan at step 17"),
}

# name -> (params, macs, weight_bytes, latency_ms)
COSTS = {
    "resnet50": (23_516_228, 338_000_000, 94_300_000, 11.8),
    "vit_tiny": (5_500_000, 91_000_000, 22_000_000, 4.12),
    "mobilenetv3_small_050": (570_000, 2_100_000, 2_320_000, 1.94),
    "mobilenetv3_small_100": (1_520_000, 6_100_000, 6_200_000, 2.61),
}


def environment(fingerprint: str = FINGERPRINT, **changes: Any) -> Environment:
    facts: dict[str, Any] = {
        "cpu": "Example CPU 9000",
        "cpu_flags": ("avx2",),
        "cores": 4,
        "memory_bytes": 16 * 2**30,
        "gpu": None,
        "system": "Linux x86_64",
        "python": "3.11.7",
        "versions": {"torch": "2.14.1"},
        "threads": 2,
        "kdbench": "0.1.0",
        "commit": "0123456789ab",
        "dirty": False,
    }
    return Environment(fingerprint=fingerprint, **(facts | changes))


def card(**changes: Any) -> DataCard:
    facts: dict[str, Any] = {
        "name": "bccd",
        "sources": {"bccd": 1000},
        "classes": ("eosinophil", "lymphocyte"),
        "splits": {
            "train": {"eosinophil": 400, "lymphocyte": 300},
            "val": {"eosinophil": 50, "lymphocyte": 50},
            "test": {"eosinophil": 120, "lymphocyte": 80},
        },
        "content_hash": "c0ffee",
        "duplicates": 4,
        "left_out": (LeftOut(path="x/", reason="not an image", count=2), LeftOut(path="y", reason="not an image")),
        "caveats": ("the test images are copies of 71 originals",),
    }
    return DataCard(**(facts | changes))


def latency(median_ms: float, **changes: Any) -> Latency:
    facts: dict[str, Any] = {
        "runtime": "eager",
        "precision": "fp32",
        "batch_size": 1,
        "threads": 1,
        "iqr_ms": median_ms / 20,
        "samples": 50,
        "unstable": False,
    }
    return Latency(median_ms=median_ms, **(facts | changes))


def profile(model: str, latencies: Sequence[Latency] | None = None) -> Profile:
    params, macs, weight_bytes, median_ms = COSTS.get(model, (1_000_000, 10_000_000, 4_000_000, 5.0))
    return Profile(
        image_size=64,
        params=params,
        macs=macs,
        flops=2 * macs,
        weight_bytes=weight_bytes,
        latencies=tuple([latency(median_ms)] if latencies is None else latencies),
    )


def spec(
    model: str | ModelChoice = "mobilenetv3_small_050",
    method: str | MethodSpec = "ce",
    seed: int = 0,
    teachers: Sequence[RunSpec] = (),
    **changes: Any,
) -> RunSpec:
    return RunSpec(
        role=changes.pop("role", "student"),
        dataset=changes.pop("dataset", DATASET),
        model=ModelChoice.model_validate(model),
        method=MethodSpec.model_validate(method),
        teachers=tuple(teachers),
        seed=seed,
        train=changes.pop("train", TrainSpec()),
        views=changes.pop("views", ViewSpec()),
        **changes,
    )


def teacher(model: str | ModelChoice = "resnet50", seed: int = 0, **changes: Any) -> RunSpec:
    return spec(model, "ce", seed, role="teacher", **changes)


def record(of: RunSpec, accuracy: float = 0.9, *, status: Status = "ok", **changes: Any) -> RunRecord:
    """A record of that spec: finished with that test accuracy (macro-F1 is 0.01 lower), or without a result."""
    metrics = Metrics(
        accuracy=accuracy,
        macro_f1=max(0.0, accuracy - 0.01),
        loss=0.3,
        recall={"eosinophil": accuracy, "lymphocyte": accuracy},
        count=200,
    )
    finished = status == "ok"
    facts: dict[str, Any] = {
        "run_id": of.run_id,
        "cell_id": of.cell_id,
        "status": status,
        "spec": of,
        "started": f"2026-03-0{1 + of.seed % 9}T10:00:00+00:00",
        "train_seconds": 60.0,
        "test_metrics": metrics if finished else None,
        "profile": profile(of.model.name) if finished else None,
        "environment": environment(),
        "data": card(),
        "failure": None if finished else FAILURES[status],
        "command": "kdbench run bccd",
    }
    return RunRecord(**(facts | changes))


def study() -> list[RunRecord]:
    """Two students, two teachers, alone and distilled with and without ground truth, three seeds, one failed cell."""
    teachers = {"resnet50": 0.968, "vit_tiny": 0.959}
    alone = {"mobilenetv3_small_050": 0.828, "mobilenetv3_small_100": 0.871}
    wobble = (0.0, 0.012, -0.006)
    records = [record(teacher(name), accuracy, train_seconds=600.0) for name, accuracy in teachers.items()]
    for student, base in alone.items():
        for seed, off in enumerate(wobble):
            records.append(record(spec(student, "ce", seed), base + off))
            for name in teachers:
                for truth in (True, False):
                    boost = {"resnet50": 0.052, "vit_tiny": 0.061}[name] - (0.0 if truth else 0.008)
                    distilled = spec(student, MethodSpec(name="kd", ground_truth=truth), seed, [teacher(name)])
                    records.append(record(distilled, base + boost + off / 2, teacher_seconds=5.0))
    for seed in range(3):
        broken = spec("mobilenetv3_small_050", "fitnet", seed, [teacher("vit_tiny")])
        records.append(record(broken, status="diverged" if seed == 2 else "failed"))
    return records


# ---------------------------------------------------------------- answers and evaluations beside the records

CLASSES = ("eosinophil", "lymphocyte")


def answered(
    store: Store,
    of: RunSpec,
    right: Sequence[bool] | np.ndarray,
    groups: Sequence[str],
    ids: Sequence[str] = (),
    **facts: Any,
) -> RunRecord:
    """Write a run whose test images are answered so, in those groups; labels take turns, confidence is 0.88."""
    right = np.asarray(right, dtype=bool)
    labels = np.arange(len(right)) % 2
    logits = np.zeros((len(right), 2), np.float32)
    logits[np.arange(len(right)), np.where(right, labels, 1 - labels)] = 2.0
    ids = ids or [f"{number}.jpg" for number in range(len(right))]
    accuracy = float(right.mean())
    metrics = Metrics(
        accuracy=accuracy, macro_f1=accuracy, loss=0.3, recall=dict.fromkeys(CLASSES, accuracy), count=len(right)
    )
    made = record(of, **({"test_metrics": metrics, "data": card(classes=CLASSES)} | facts))
    store.write_record(made)
    store.write_predictions(of.run_id, logits)
    items = [(one, CLASSES[label], group) for one, label, group in zip(ids, labels, groups, strict=True)]
    store.write_items(images_key(of.dataset), items)
    return made


def evaluation(of: RunSpec, **facts: Any) -> EvaluationRecord:
    """Of that run, on its own test images unless told."""
    plain: dict[str, Any] = {
        "run_id": of.run_id,
        "title": of.title,
        "on": of.dataset,
        "side": "test",
        "started": "2026-03-06T10:00:00+00:00",
        "environment": environment(),
    }
    told = plain | facts
    return EvaluationRecord(evaluation_id=evaluation_id(of.run_id, told["on"], told["side"]), **told)


def corrupted(accuracies: Iterable[tuple[str, int, float]]) -> tuple[Corrupted, ...]:
    """(corruption, level, accuracy) of each."""
    return tuple(
        Corrupted(corruption=name, level=level, accuracy=accuracy, macro_f1=accuracy, ece=0.1)
        for name, level, accuracy in accuracies
    )


# ---------------------------------------------------------------- profiles apart from the runs


def isolated(median_ms: float, *, half_ms: float | None = None, **changes: Any) -> Latency:
    """A latency from a process of its own; its interval is the median ± half_ms (2 % unless told)."""
    half = median_ms / 50 if half_ms is None else half_ms
    facts: dict[str, Any] = {
        "library": "torch 2.14.1",
        "isolated": True,
        "samples": 100,
        "iqr_ms": median_ms / 25,
        "interval_ms": (median_ms - half, median_ms + half),
        "p90_ms": 1.1 * median_ms,
        "prepare_ms": 90.0,
        "cold_ms": 20 * median_ms,
        "steady": True,
        "rounds_ms": tuple((median_ms,) * 20 for _ in range(5)),
    }
    return latency(median_ms, **(facts | changes))


def profile_record(
    model: str = "mobilenetv3_small_050", latencies: Sequence[Latency] | None = None, **changes: Any
) -> ProfileRecord:
    """Costs of that architecture, untrained, as its rows' own; timed in isolation unless latencies are given."""
    params, macs, weight_bytes, median_ms = COSTS.get(model, (1_000_000, 10_000_000, 4_000_000, 5.0))
    facts: dict[str, Any] = {
        "model": model,
        "choice": ModelChoice(name=model),
        "num_classes": 2,
        "image_size": 64,
        "params": params,
        "macs": macs,
        "flops": 2 * macs,
        "weight_bytes": weight_bytes,
        "latencies": tuple([isolated(median_ms)] if latencies is None else latencies),
        "started": "2026-03-05T10:00:00+00:00",
        "environment": environment(),
        "command": "kdbench profile --out costs.json",
    }
    return ProfileRecord(**(facts | changes))


def costs() -> list[ProfileRecord]:
    """Four models on a server in two runtimes, batches and threads, two of them on a small board as well."""
    server = environment(
        affinity=8, quota_cores=4.0, governor="performance", clock_mhz=(800.0, 3400.0), load=(0.1, 0.4),
        flush_denormal=False, thread_settings={"OMP_NUM_THREADS": "1"}, cpu_flags=("avx2", "avx512_vnni", "fma"),
    )  # fmt: skip
    board = environment(
        "b0a4d00000000000", cpu="Example Board 5", cpu_flags=("asimd", "asimddp"), cores=4, memory_bytes=4 * 2**30,
        system="Linux aarch64", load=(0.0, 1.1), governor="ondemand",
    )  # fmt: skip
    found = []
    for number, (model, (_, macs, weight_bytes, median)) in enumerate(COSTS.items()):
        timed = []
        for runtime, library, speed in (("eager", "torch 2.14.1", 1.0), ("onnxruntime", "onnxruntime 1.20.0", 0.4)):
            held = Memory(peak_rss_bytes=int((weight_bytes + 9_000_000) * (2 - speed)))
            for threads, batch_size in ((1, 1), (1, 8), (1, 32), (2, 1)):
                once = median * speed * batch_size**0.9 / threads**0.6
                facts: dict[str, Any] = {"runtime": runtime, "library": library, "threads": threads}
                if (runtime, threads, batch_size) == ("eager", 2, 1) and number == 2:
                    note = "another kdbench process (quickstart) trained meanwhile"
                    facts |= {"unstable": True, "half_ms": once / 5, "note": note, "disturbed_ms": (once * 4,)}
                if batch_size == 1:
                    facts["memory"] = held
                timed.append(isolated(once, batch_size=batch_size, **facts))
        check = CrossCheck(counter="fvcore 0.1.5", macs=macs, difference=0.0)
        if model == "vit_tiny":
            less = int(macs * 0.94)
            reasons = ("attention inside a fused operator is not counted (5.5 M)",)
            check = CrossCheck(counter="fvcore 0.1.5", macs=less, difference=(less - macs) / macs, reasons=reasons)
        facts = {
            "trainable_params": COSTS[model][0], "activations": macs // 100, "activation_bytes": macs // 40,
            "not_counted": {"aten.gelu": 12, "aten.layer_norm": 25} if "vit" in model else {"aten.batch_norm": 34},
            "denormals": 17 if number == 2 else 0, "cross_check": check,
        }  # fmt: skip
        failed = {"openvino fp32, batch 1, 1 thread": "openvino cannot convert the network"} if "vit" in model else {}
        found.append(profile_record(model, timed, environment=server, failures=failed, **facts))
        if "mobilenet" in model:
            found.append(profile_record(model, [isolated(6 * median, half_ms=3)], environment=board, **facts))
    return found


def tables(page: str) -> list[list[list[str]]]:
    """The cells of every table of the page, as GitHub would cut them."""
    found, current = [], []
    for line in [*page.splitlines(), ""]:
        if line.startswith("|"):
            current.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
        elif current:
            found.append(current)
            current = []
    return found
