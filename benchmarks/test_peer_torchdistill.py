"""A suite against the same suite of torchdistill: one teacher, four students, three methods, real mixed images.

Both sides train the same networks on the same images, as often, in the same batches of 64, with AdamW, and take turns
run by run. Teachers are untrained: an answer takes as long, and the answers are not what is timed.

torchdistill is driven as its own examples do it: a distillation box built from a config is asked for a loss and told to
step, with its own KDLoss, DISTLoss and SPKDLoss and its forward hooks. The teacher is asked at every step, fixed and
without gradient; all is fp32 and NCHW; a DataLoader reads PIL images in memory through torchvision's transforms, with
whichever of 0 and 2 workers is quicker here. It has no DKD, so the methods are kd, dist and sp. In its favour the
teacher is put into evaluation mode, the stain augmentation (torchvision has none) is left out, and there is no metric
logger and no checkpoint.

kdbench runs the plan of the suite with its defaults: fp32, channels_last, outputs computed once, in the first run that
needs them. Computing them, setting a run up, and writing checkpoints, weights and records count. Not counted, on either
side: decoding the images, validation and test, and the profile. The note at the end says what the ratio would be if
kdbench's validation and test counted, and none on the other side.

KDBENCH_BENCH_TRAIN_LIMIT and KDBENCH_BENCH_EPOCHS set the size, KDBENCH_BENCH_STUDENTS takes the first few students.
The shorter the runs, the more the set-up of a run weighs, and only kdbench's side has much of it.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save
from timing import CPU, Row, size
from torch.utils.data import RandomSampler
from torchvision import transforms

from kdbench.config import Suite
from kdbench.data.dataset import Dataset, open_dataset
from kdbench.engine.taps import Watched
from kdbench.model import IMAGENET_MEAN, IMAGENET_STD, build
from kdbench.paths import cache_root
from kdbench.store import Store, write_atomic
from kdbench.suite import run as runs
from kdbench.suite.api import plan_suite
from kdbench.types import ProfileSpec, RunSpec

distillation = pytest.importorskip("torchdistill.core.distillation")
from torchdistill.common.constant import def_logger  # noqa: E402

GOAL = 3.0
TEACHERS = {"resnet50": 640, "vit_small": 320}
"""With the training images that keep both within twelve minutes on two cores."""
STUDENTS = ("mobilenetv3_small_050", "lcnet_050", "resnet8_w16", "tinynet_e")
METHODS = ("kd", "dist", "sp")
BATCH = 64


def _suite(teacher: str) -> Suite:
    return Suite.model_validate(
        {
            "name": "peer",
            "datasets": [{"name": "mixed", "image_size": 64, "train_limit": size("TRAIN_LIMIT", TEACHERS[teacher])}],
            "teachers": [teacher],
            "students": list(STUDENTS[: size("STUDENTS", len(STUDENTS))]),
            "methods": ["ce", *METHODS],
            "train": {"epochs": size("EPOCHS", 3), "batch_size": BATCH},
        }
    )


# ---------------------------------------------------------------- kdbench


class _Aside:
    """The seconds of what is done within a run and not counted."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def clocked(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def run(*arguments: Any, **named: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                self.seconds += time.perf_counter() - started

        return run


@contextmanager
def _asides(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[_Aside, _Aside]]:
    """(validation and test, profile)."""
    predicting, profiling = _Aside(), _Aside()
    with monkeypatch.context() as patch:
        for module in ("kdbench.engine.train", "kdbench.suite.run"):
            patch.setattr(f"{module}.predict", predicting.clocked(runs.predict))
        patch.setattr("kdbench.suite.run.profile_model", profiling.clocked(runs.profile_model))
        yield predicting, profiling


def _ours(
    spec: RunSpec, data: Dataset, store: Store, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[float, float]:
    """Seconds of a run without validation, test and profile; and of the first two."""
    with _asides(monkeypatch) as (predicting, profiling):
        started = time.perf_counter()
        record = runs.run(spec, lambda: data, store, cache, profile=ProfileSpec(samples=5))
        seconds = time.perf_counter() - started
    assert record.status == "ok", record.failure
    return seconds - predicting.seconds - profiling.seconds, predicting.seconds


# ---------------------------------------------------------------- torchdistill


class _Pictures(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    """The training images as PIL images in memory, which is what torchvision's data sets hand to a transform."""

    def __init__(self, data: Dataset) -> None:
        train = data.splits["train"]
        self.pictures = [Image.fromarray(picture) for picture in data.images(train)]
        self.labels = data.labels[train].tolist()
        self.transform = transforms.Compose(
            [
                transforms.RandomHorizontalFlip(),
                transforms.RandomVerticalFlip(),
                _quarter_turn,
                transforms.RandomAffine(
                    10, translate=(0.05, 0.05), scale=(0.9, 1.1), interpolation=transforms.InterpolationMode.BILINEAR
                ),
                transforms.ColorJitter(brightness=0.1, contrast=0.1, saturation=0.1),
                transforms.ToTensor(),
                transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(self.pictures[index]), self.labels[index]


def _quarter_turn(picture: Image.Image) -> Image.Image:
    turn = int(torch.randint(4, ()))
    return picture.transpose(Image.Transpose.ROTATE_90 + turn - 1) if turn else picture


_LOGITS = {
    "student_module_path": ".",
    "student_module_io": "output",
    "teacher_module_path": ".",
    "teacher_module_io": "output",
}
_HARD = {
    "criterion": {"key": "CrossEntropyLoss", "kwargs": {"reduction": "mean"}},
    "criterion_wrapper": {
        "key": "SimpleLossWrapper",
        "kwargs": {
            "input": {"is_from_teacher": False, "module_path": ".", "io": "output"},
            "target": {"uses_label": True},
        },
    },
    "weight": 1.0,
}


def _terms(method: str, student_map: str, teacher_map: str) -> dict[str, Any]:
    """Their terms for the defaults of our method."""
    if method == "kd":  # their alpha weighs the hard labels
        kwargs = {**_LOGITS, "temperature": 4.0, "alpha": 0.1, "reduction": "batchmean"}
        return {"kd": {"criterion": {"key": "KDLoss", "kwargs": kwargs}, "weight": 1.0}}
    if method == "dist":
        kwargs = {**_LOGITS, "beta": 1.0, "gamma": 1.0, "tau": 1.0}
        return {"dist": {"criterion": {"key": "DISTLoss", "kwargs": kwargs}, "weight": 1.0}, "hard": _HARD}
    paths = {"student_output_path": student_map, "teacher_output_path": teacher_map, "reduction": "batchmean"}
    return {"sp": {"criterion": {"key": "SPKDLoss", "kwargs": paths}, "weight": 3000.0}, "hard": _HARD}


def _theirs(
    method: str, student: torch.nn.Module, teacher: torch.nn.Module, data: Dataset, pictures: _Pictures, epochs: int,
    workers: int,
) -> float:  # fmt: skip
    """Seconds of one run: building the box, and every step of every epoch."""
    last = {
        side: Watched(network, data.spec.image_size).anatomy.last_module
        for side, network in (("student", student), ("teacher", teacher))
    }
    hooks = {side: {"input": [], "output": [path] if method == "sp" else []} for side, path in last.items()}
    started = time.perf_counter()
    box = distillation.get_distillation_box(
        teacher,
        student,
        {"train": pictures},
        {
            "num_epochs": epochs,
            "train_data_loader": {
                "dataset_id": "train",
                "sampler": {"class_or_func": RandomSampler, "kwargs": {}},
                "kwargs": {
                    "batch_size": BATCH,
                    "num_workers": workers,
                    "persistent_workers": workers > 0,
                    "drop_last": True,
                },
            },
            "teacher": {
                "forward_proc": "forward_batch_only",
                "requires_grad": False,
                "forward_hook": hooks["teacher"],
            },
            "student": {"forward_proc": "forward_batch_only", "forward_hook": hooks["student"]},
            "criterion": {
                "key": "WeightedSumLoss",
                "kwargs": {"sub_terms": _terms(method, last["student"], last["teacher"])},
            },
            "optimizer": {"key": "AdamW", "kwargs": {"lr": 1e-3, "weight_decay": 0.05}},
        },
        CPU,
        None,
        False,
        1,
    )
    box.teacher_model.eval()
    for epoch in range(epochs):
        box.pre_epoch_process(epoch=epoch)
        for pixels, targets, supplementary in box.train_data_loader:
            loss = box.forward_process(pixels, targets, supplementary)
            box.post_forward_process(loss=loss)
            assert np.isfinite(loss.item())
        box.post_epoch_process()
    seconds = time.perf_counter() - started
    box.clean_modules()
    return seconds


# ---------------------------------------------------------------- both


@pytest.mark.slow
@pytest.mark.realdata
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("teacher", TEACHERS)
def test_a_suite_against_torchdistill(
    teacher: str,
    real_root: Path,
    tmp_path: Path,
    benchmark: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    note_row: Callable[[Row], None],
) -> None:
    def_logger.setLevel("WARNING")
    suite = _suite(teacher)
    taught = [spec for spec in plan_suite(suite, root=real_root).runs if spec.teachers]
    teacher_spec = taught[0].teachers[0]
    data = open_dataset(teacher_spec.dataset, real_root, cache_root())
    epochs, steps = suite.train.epochs, len(data.splits["train"]) // BATCH
    pictures, store = _Pictures(data), Store(tmp_path / "results")

    def network(spec: RunSpec) -> torch.nn.Module:
        torch.manual_seed(0)
        return build(spec.model, len(data.classes), data.spec.image_size)

    master = network(teacher_spec)
    write_atomic(store.weights_path(teacher_spec.run_id), save(master.state_dict()))

    def ours(spec: RunSpec, cache: str) -> tuple[float, float]:
        return _ours(spec, data, store, tmp_path / cache, monkeypatch)

    def theirs(spec: RunSpec, workers: int) -> float:
        student = network(spec)
        return _theirs(spec.method.name, student, master, data, pictures, spec.train.epochs, workers)

    # a short run each beforehand, so that nobody pays for the first call of anything; it settles the workers too
    short = taught[0].model_copy(update={"train": suite.train.model_copy(update={"epochs": 1})})
    ours(short, "short cache")
    by_workers = {count: theirs(short, count) for count in (0, 2)}
    workers = min(by_workers, key=lambda count: by_workers[count])

    lines: list[tuple[RunSpec, float, float, float]] = []

    def in_turn() -> None:
        for number, spec in enumerate(taught):
            first = theirs(spec, workers) if number % 2 else None
            seconds, predicting = ours(spec, "cache")
            lines.append((spec, seconds, predicting, theirs(spec, workers) if first is None else first))

    benchmark.pedantic(in_turn, rounds=1)

    images = epochs * steps * BATCH
    _, own, predicting, peer = zip(*lines, strict=True)
    total, total_predicting, total_peer = sum(own), sum(predicting), sum(peer)
    with capsys.disabled():
        print(
            f"\n{teacher}: {len(lines)} students, {epochs} epochs of {steps} batches of {BATCH}; "
            f"torchdistill with {workers} workers (an epoch: "
            + ", ".join(f"{seconds:.1f} s with {count}" for count, seconds in by_workers.items())
            + ")"
        )
        print(f"{'student':24}{'method':8}{'kdbench':>10}{'torchdistill':>14}{'ratio':>8}")
        for spec, mine, _, other in lines:
            name = f"{spec.model.name:24}{spec.method.name:8}"
            print(f"{name}{mine:8.2f} s{other:12.2f} s{other / mine:8.2f}")
        print(f"{'all':32}{total:8.2f} s{total_peer:12.2f} s{total_peer / total:8.2f}")
        print(f"{'images a second':32}{len(lines) * images / total:10.0f}{len(lines) * images / total_peer:14.0f}")
    benchmark.extra_info["runs"] = [
        {"student": spec.model.name, "method": spec.method.name, "kdbench": mine, "predicting": aside, "peer": other}
        for spec, mine, aside, other in lines
    ]
    benchmark.extra_info["workers"] = by_workers
    note_row(
        Row(
            "a suite, of torchdistill's time",
            f"{teacher}, {len(lines)} runs",
            (total_peer / total,),
            GOAL,
            at_least=True,
            note=f"{total:.1f} of {total_peer:.1f} s; with our validation and test counted: "
            f"{total_peer / (total + total_predicting):.2f}",
        )
    )
