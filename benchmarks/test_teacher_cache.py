"""Filling the teacher cache against the teacher's bare best inference, and reading an epoch of it back.

The bare side is given its batches of 256 ready made, as float tensors in memory; the better of both memory formats
counts. The cache has to read the images, make their views, run the network in the format and through the hooks that a
suite would use, and write the outputs to the disk. Both take turns. An epoch is read back in a student's batches of 64,
straight after it was written, so from the page cache.

KDBENCH_BENCH_ROUNDS sets the number of pairs, KDBENCH_BENCH_IMAGES that of the images drawn (70 % of them train).
"""

from __future__ import annotations

import copy
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from timing import CPU, Row, size, teacher_network

from kdbench.data.dataset import Dataset, open_dataset
from kdbench.data.views import Views
from kdbench.engine.evaluate import BATCH
from kdbench.engine.teacher import Batch, CachedTeacher, TeacherNetwork
from kdbench.environment import has_fast_bf16
from kdbench.features import Need
from kdbench.model import IMAGENET_MEAN, IMAGENET_STD
from kdbench.types import DatasetSpec, Precision

GOAL = 0.9
TEACHERS = ("resnet18", "resnet50", "vit_small")
STUDENT_BATCH = 64
NEEDS: dict[str, tuple[Need, ...]] = {"logits": ("logits",), "maps": ("logits", "stages")}
FORMATS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}


@pytest.fixture(scope="module")
def whole_batches(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """1,100 drawn images, of which 770, three batches of 256, are there to train."""
    spec = DatasetSpec(name="synthetic", image_size=64, options={"count": size("IMAGES", 1100)})
    return open_dataset(spec, Path(), tmp_path_factory.mktemp("whole"))


def _bare_seconds(model: torch.nn.Module, batches: list[torch.Tensor], precision: Precision) -> float:
    started = time.perf_counter()
    with torch.inference_mode(), torch.autocast(CPU.type, torch.bfloat16, enabled=precision == "bf16"):
        for pixels in batches:
            model(pixels)
    return time.perf_counter() - started


def _fill_seconds(network: TeacherNetwork, needs: tuple[Need, ...], folder: Path) -> float:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    teacher = CachedTeacher(network, needs, folder, passes=1)
    started = time.perf_counter()
    teacher.begin(0)
    seconds = time.perf_counter() - started
    assert teacher.seconds > 0  # it was computed
    return seconds


def _replay_seconds(network: TeacherNetwork, needs: tuple[Need, ...], folder: Path) -> float:
    train = network.data.splits["train"]
    order = np.random.default_rng(0).permutation(len(train))
    teacher = CachedTeacher(network, needs, folder, passes=1)
    pixels = torch.empty(0)
    started = time.perf_counter()
    teacher.begin(0)
    for start in range(0, len(train), STUDENT_BATCH):
        positions = np.sort(order[start : start + STUDENT_BATCH])
        teacher(Batch(positions, train[positions], pixels), 0)
    seconds = time.perf_counter() - started
    assert teacher.seconds == 0  # it was read
    return seconds


@pytest.mark.timeout(900)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", TEACHERS)
def test_filling_the_cache_against_bare_inference(
    name: str,
    precision: Precision,
    whole_batches: Dataset,
    tmp_path: Path,
    benchmark: Any,
    capsys: pytest.CaptureFixture[str],
    note_row: Callable[[Row], None],
) -> None:
    if precision == "bf16" and not has_fast_bf16():
        pytest.skip("this processor only emulates bf16")
    data = whole_batches
    network = teacher_network(name, data, precision)
    plain, train = Views(None, IMAGENET_MEAN, IMAGENET_STD), data.splits["train"]
    parts = [train[start : start + BATCH] for start in range(0, len(train), BATCH)]
    models, batches = {}, {}
    for key, layout in FORMATS.items():
        models[key] = copy.deepcopy(network.model).to(memory_format=layout)
        batches[key] = [plain(data.images(part), part, 0).contiguous(memory_format=layout) for part in parts]

    runs: dict[str, Callable[[], float]] = {
        key: lambda key=key: _bare_seconds(models[key], batches[key], precision) for key in FORMATS
    }
    runs |= {key: lambda key=key: _fill_seconds(network, NEEDS[key], tmp_path / key) for key in NEEDS}
    for run in runs.values():
        run()  # warm-up
    times: dict[str, list[float]] = {key: [] for key in runs}
    for turn in range(size("ROUNDS", 5)):
        for key in list(runs)[:: -1 if turn % 2 else 1]:
            times[key].append(runs[key]())
    best = min(FORMATS, key=lambda key: np.median(times[key]))
    bare_rate = len(train) / np.median(times[best])
    for key, needs in NEEDS.items():
        rate = len(train) / np.median(times[key])
        ratios = tuple(bare / filled for bare, filled in zip(times[best], times[key], strict=True))
        note = f"{rate:.0f} of {bare_rate:.0f} images/s ({best})"
        label = f"{name} {precision} {key}"
        note_row(Row("filling the teacher cache, of bare inference", label, ratios, GOAL, at_least=True, note=note))
        replays = [_replay_seconds(network, needs, tmp_path / key) for _ in range(5)]
        stored = sum(path.stat().st_size for path in (tmp_path / key).rglob("*.npy"))
        benchmark.extra_info[f"replay {key}"] = {"seconds": replays, "bytes": stored, "images": len(train)}
        with capsys.disabled():
            print(
                f"\n{label}: an epoch of {len(train)} images ({stored / 1e6:.2f} MB) is read in "
                f"{1e3 * np.median(replays):.1f} ms; computing it took {np.median(times[key]):.2f} s"
            )
    benchmark.pedantic(runs["logits"], rounds=1)
