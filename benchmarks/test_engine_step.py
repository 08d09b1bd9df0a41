"""The engine against a bare hand-written loop, paired: the same model, batch, precision and cached data.

The two take turns, an epoch each, and the ratio of each pair is kept: a noisy machine slows both. The bare loop is
given its batches ready made, as float tensors in memory, so the ratio holds everything the engine adds to a step:
reading, views, the learning rate and the check of the loss.
"""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from kdbench.data.dataset import Dataset
from kdbench.data.views import Views
from kdbench.engine.train import train
from kdbench.method import build_method
from kdbench.model import build, normalisation
from kdbench.types import MethodSpec, ModelChoice, RunSpec, TrainSpec, ViewSpec

BATCH = 64
PAIRS = 5


def _engine_epoch(model: torch.nn.Module, data: Dataset, spec: RunSpec) -> float:
    """Seconds of the steps of one epoch, from the first step's start to the last one's end."""
    ticks: list[float] = []
    norm = normalisation(spec.model)
    train(
        spec,
        model,
        build_method(spec.method),
        data,
        Views(spec.views, *norm),
        Views(None, *norm),
        progress=lambda what, done, total: ticks.append(time.perf_counter()),
    )
    return ticks[-1] - ticks[0]


def _bare_epoch(model: torch.nn.Module, batches: list[tuple[torch.Tensor, torch.Tensor]]) -> float:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    model.train()
    started = time.perf_counter()
    for pixels, targets in batches:
        loss = F.cross_entropy(model(pixels), targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return time.perf_counter() - started


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_100", "mobilenetv3_small_050", "resnet8_w16"])
def test_engine_throughput_against_a_bare_loop(
    name: str, data: Dataset, benchmark: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    choice = ModelChoice(name=name)
    spec = RunSpec(
        role="student",
        dataset=data.spec,
        model=choice,
        method=MethodSpec(name="ce"),
        views=ViewSpec(),
        train=TrainSpec(epochs=1, batch_size=BATCH),
    )
    model = build(choice, len(data.classes), 64).to(memory_format=torch.channels_last)
    indices = data.splits["train"]
    plain = Views(None, *normalisation(choice))
    batches = []
    for start in range(0, len(indices) - BATCH + 1, BATCH):
        part = indices[start : start + BATCH]
        pixels = plain(data.images(part), part, 0).contiguous(memory_format=torch.channels_last)
        batches.append((pixels, torch.from_numpy(data.labels[part])))
    views = Views(ViewSpec(), *normalisation(choice))
    part = indices[:BATCH]

    ratios, pipeline = [], []
    for pair in range(PAIRS + 1):
        bare, engine = _bare_epoch(model, batches), _engine_epoch(model, data, spec)
        started = time.perf_counter()
        for epoch in range(5):
            views(data.images(part), part, epoch)
        view_seconds = (time.perf_counter() - started) / 5
        if pair:  # the first is the warm-up
            ratios.append(bare / engine)
            pipeline.append(view_seconds / (engine / len(batches)))
    benchmark.extra_info.update(ratios=ratios, pipeline=pipeline)  # type: ignore[attr-defined]
    benchmark.pedantic(_engine_epoch, args=(model, data, spec), rounds=1)  # type: ignore[attr-defined]
    with capsys.disabled():
        print(
            f"\n{name}: engine at {np.median(ratios):.3f} of the bare loop's throughput "
            f"({min(ratios):.3f} to {max(ratios):.3f}); input pipeline {100 * np.median(pipeline):.1f} % of a step"
        )
