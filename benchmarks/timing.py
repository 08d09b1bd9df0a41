"""What the timings share: two loops that take turns, the seconds of an engine's steps, rows of a table."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from kdbench.data.dataset import Dataset
from kdbench.data.views import Views
from kdbench.engine.teacher import TeacherNetwork, Teaching
from kdbench.engine.train import train
from kdbench.engine.tuning import place, settle
from kdbench.method import Method, build_method
from kdbench.model import build, normalisation
from kdbench.types import MethodSpec, ModelChoice, Precision, RunSpec, TrainSpec, ViewSpec

CPU = torch.device("cpu")


def size(name: str, default: int) -> int:
    """How much is timed: KDBENCH_BENCH_<NAME> makes it smaller (a smoke run) or larger."""
    return int(os.environ.get(f"KDBENCH_BENCH_{name}", default))


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        table: the heading it stands under.
        ratios: of each pair.
        goal: what the median should not exceed or, if `at_least`, should reach.
        note: seconds and the like.
    """

    table: str
    label: str
    ratios: tuple[float, ...]
    goal: float
    at_least: bool = False
    note: str = ""

    @property
    def median(self) -> float:
        return float(np.median(self.ratios))

    @property
    def met(self) -> bool:
        return self.median >= self.goal if self.at_least else self.median <= self.goal

    def __str__(self) -> str:
        sign, verdict = (">=" if self.at_least else "<="), "met" if self.met else "MISSED"
        text = f"{self.label:44} {self.median:6.3f}  ({min(self.ratios):.3f} to {max(self.ratios):.3f})"
        return f"{text}  goal {sign} {self.goal:g}: {verdict:6}  {self.note}".rstrip()


def in_turn(pairs: int, first: Callable[[], float], second: Callable[[], float]) -> list[tuple[float, float]]:
    """Seconds of both, as they report them, for each pair; who begins changes, so that a drift favours neither.

    One pair more is run beforehand, to warm up.
    """
    times = []
    for pair in range(pairs + 1):
        if pair % 2:
            after, before = second(), first()
        else:
            before, after = first(), second()
        times.append((before, after))
    return times[1:]


def placed(name: str, data: Dataset, seed: int = 0) -> nn.Module:
    """A network with seeded weights, in the memory format a suite would train it in by default."""
    torch.manual_seed(seed)
    model = build(ModelChoice(name=name), len(data.classes), data.spec.image_size)
    return _place(model, name, data, TrainSpec(), training=True)


def teacher_network(name: str, data: Dataset, precision: Precision = "fp32", seed: int = 1) -> TeacherNetwork:
    """An untrained teacher (a forward pass takes as long), run as a suite would run it with that precision."""
    torch.manual_seed(seed)
    model = build(ModelChoice(name=name), len(data.classes), data.spec.image_size).eval()
    model = _place(model, name, data, TrainSpec(precision=precision), training=False)
    views = Views(ViewSpec(), *normalisation(ModelChoice(name=name)))
    return TeacherNetwork(model, f"{name} {seed}", data, views, precision=precision, title=name)


def _place(model: nn.Module, name: str, data: Dataset, spec: TrainSpec, *, training: bool) -> nn.Module:
    purpose = "training" if training else "inference"
    tuning = settle(spec, model, data.spec.image_size, name=name, device=CPU, purpose=purpose)  # type: ignore[arg-type]
    return place(model, tuning, CPU)


def run_of(name: str, data: Dataset, method: MethodSpec, epochs: int, batch: int) -> RunSpec:
    """A student's run; it need not name its teachers to be trained."""
    return RunSpec(
        role="student",
        dataset=data.spec,
        model=ModelChoice(name=name),
        method=method,
        views=ViewSpec(),
        train=TrainSpec(epochs=epochs, batch_size=batch),
    )


def engine_seconds(
    model: nn.Module, data: Dataset, spec: RunSpec, teachers: Sequence[Teaching] = (), method: Method | None = None
) -> float:
    """Seconds of all steps of a run.

    Each epoch counts from its begin (where cached outputs are opened) to the end of its last step; what comes once a
    run, and the validation, is left out.

    Args:
        method: the spec's, not yet prepared; None: it is built.
    """
    ticks: list[float] = []
    norm = normalisation(spec.model)
    train(
        spec,
        model,
        method or build_method(spec.method),
        data,
        Views(spec.views, *norm),
        Views(None, *norm),
        teachers=teachers,
        progress=lambda what, done, total: ticks.append(time.perf_counter()),
    )
    an_epoch = len(ticks) // spec.train.epochs  # one tick at its begin and one after each step
    return sum(ticks[start + an_epoch - 1] - ticks[start] for start in range(0, len(ticks), an_epoch))
