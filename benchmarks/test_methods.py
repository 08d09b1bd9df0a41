"""What a method costs on top of what cannot be saved, an epoch each in turn.

A method that reads logits replays them: its step is held against the plain cross-entropy step of the same student. A
method that reads maps is timed with a live teacher: its step is held against a hand-written loop that does the
student's cross-entropy step and one forward pass of the teacher in inference mode on the same batch, both in
the engine's memory format, with the same views. What is left is the engine, the hooks, and the method's own terms.

KDBENCH_BENCH_PAIRS and KDBENCH_BENCH_MAP_PAIRS set the number of pairs. All of it takes some twenty minutes on two
quiet cores, the maps most of that; -k picks, as in -k "plain_one", or -k "live and resnet18 and reviewkd".
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from timing import Row, engine_seconds, in_turn, placed, run_of, size, teacher_network

from kdbench.data.dataset import Dataset, open_dataset
from kdbench.data.views import Views
from kdbench.engine.teacher import CachedTeacher, LiveTeacher
from kdbench.errors import TrainError
from kdbench.method import METHODS, build_method
from kdbench.model import normalisation
from kdbench.types import DatasetSpec, MethodSpec, ModelChoice, ViewSpec

pytestmark = pytest.mark.slow

BATCH = 64
STUDENTS = ("mobilenetv3_small_050", "resnet8_w16")

CACHED_GOAL = 1.05
LOGITS_METHODS = ("kd", "dkd", "dist", "lskd", "ctkd", "multi_fixed")

LIVE_GOAL = 1.10
MAP_TEACHERS = ("resnet18", "vit_micro")
MAP_METHODS = tuple(
    name
    for name in METHODS.names()
    if {"last", "stages"} & set(METHODS.get(name).reads_of_teachers()) and METHODS.get(name).teachers == "one"
)
MAP_EPOCHS = 2  # some methods work in two parts


# ---------------------------------------------------------------- replayed logits


@pytest.mark.parametrize("method", LOGITS_METHODS)
@pytest.mark.parametrize("student", STUDENTS)
def test_a_step_with_replayed_logits_against_a_plain_one(
    student: str, method: str, data: Dataset, tmp_path: Path, benchmark: Any, note_row: Callable[[Row], None]
) -> None:
    model = placed(student, data)
    plain_model = copy.deepcopy(model)
    names = ("resnet18", "vit_micro") if METHODS.get(method).teachers == "many" else ("resnet18",)
    teachers = [
        CachedTeacher(teacher_network(name, data), METHODS.get(method).reads_of_teachers(), tmp_path, passes=1)
        for name in names
    ]
    taught, plain = (run_of(student, data, MethodSpec(name=name), epochs=1, batch=BATCH) for name in (method, "ce"))

    def with_method() -> float:
        return engine_seconds(model, data, taught, teachers)

    pairs = in_turn(size("PAIRS", 7), lambda: engine_seconds(plain_model, data, plain), with_method)
    assert all(teacher.folder.is_dir() for teacher in teachers)
    steps = len(data.splits["train"]) // BATCH
    step = 1e3 * np.median([seconds for seconds, _ in pairs]) / steps
    note_row(
        Row(
            "replayed logits against cross-entropy",
            f"{student} {method}",
            tuple(method_seconds / plain_seconds for plain_seconds, method_seconds in pairs),
            CACHED_GOAL,
            note=f"plain step {step:.1f} ms",
        )
    )
    benchmark.pedantic(with_method, rounds=1)


# ---------------------------------------------------------------- maps of a live teacher


@pytest.fixture(scope="module")
def part_of_the_data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Of 1,000 drawn images five batches, for these runs have two epochs."""
    spec = DatasetSpec(name="synthetic", image_size=64, train_limit=5 * BATCH, options={"count": 1000})
    return open_dataset(spec, Path(), tmp_path_factory.mktemp("part"))


def _bare_seconds(student: torch.nn.Module, teacher: torch.nn.Module, data: Dataset, views: Views) -> float:
    """The student's step and one forward pass of the teacher, with nothing around them."""
    train = data.splits["train"]
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3, weight_decay=0.05)
    student.train()
    teacher.eval()
    started = time.perf_counter()
    for epoch in range(MAP_EPOCHS):
        order = np.random.default_rng(epoch).permutation(len(train))
        for start in range(0, len(train) - BATCH + 1, BATCH):
            indices = train[np.sort(order[start : start + BATCH])]
            pixels = views.batch(data, indices, epoch).contiguous(memory_format=torch.channels_last)
            targets = torch.from_numpy(data.labels[indices])
            with torch.inference_mode():
                teacher(pixels)
            loss = F.cross_entropy(student(pixels), targets)
            loss.item()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
    return time.perf_counter() - started


@pytest.mark.timeout(900)
@pytest.mark.parametrize("method", MAP_METHODS)
@pytest.mark.parametrize("teacher", MAP_TEACHERS)
@pytest.mark.parametrize("student", STUDENTS)
def test_a_step_with_a_live_teacher_against_a_bare_one(
    student: str,
    teacher: str,
    method: str,
    part_of_the_data: Dataset,
    benchmark: Any,
    note_row: Callable[[Row], None],
) -> None:
    data = part_of_the_data
    model, network = placed(student, data), teacher_network(teacher, data)
    bare_model, bare_teacher = copy.deepcopy(model), copy.deepcopy(network.model)  # copied before anybody listens
    views = Views(ViewSpec(), *normalisation(ModelChoice(name=student)))
    spec = run_of(student, data, MethodSpec(name=method), epochs=MAP_EPOCHS, batch=BATCH)

    live = LiveTeacher(network, METHODS.get(method).reads_of_teachers(), views)
    own_parameters = 0

    def with_method() -> float:
        nonlocal own_parameters
        built = build_method(spec.method)
        seconds = engine_seconds(model, data, spec, [live], built)
        own_parameters = sum(parameter.numel() for parameter in built.parameters() if parameter.requires_grad)
        return seconds

    try:
        pairs = in_turn(size("MAP_PAIRS", 4), lambda: _bare_seconds(bare_model, bare_teacher, data, views), with_method)
    except TrainError as problem:
        pytest.skip(f"not for this pair: {problem}")
    steps = MAP_EPOCHS * (len(data.splits["train"]) // BATCH)
    step = 1e3 * np.median([seconds for seconds, _ in pairs]) / steps
    note_row(
        Row(
            "a live teacher's maps against a bare step and teacher pass",
            f"{student} < {teacher} {method}",
            tuple(method_seconds / bare_seconds for bare_seconds, method_seconds in pairs),
            LIVE_GOAL,
            note=f"bare step {step:.1f} ms; the method trains {own_parameters / 1e6:.2f} M parameters of its own",
        )
    )
    benchmark.pedantic(with_method, rounds=1)
