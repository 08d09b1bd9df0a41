"""What a compression takes, and what its file does beside the float network: one image of 64 px on one thread."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from kdbench.compress.classifier import onnx_forward
from kdbench.compress.prune import prune
from kdbench.compress.quantise import quantise
from kdbench.model import build
from kdbench.profiling.runtimes.onnxruntime import export_onnx
from kdbench.types import ModelChoice, PruneSpec, QuantiseSpec

pytest.importorskip("onnxruntime", reason="needs the extra kdbench[export]")

SIZE = 64
STUDENTS = ("resnet10t", "resnet8_w16", "mobilenetv3_small_050", "vit_micro")


def network(name: str) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build(ModelChoice(name=name), 5, SIZE).eval()


def noise(count: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, 3, SIZE, SIZE)).astype(np.float32)


@pytest.mark.benchmark(group="prune to half of the MACs")
@pytest.mark.parametrize("name", STUDENTS)
def test_prune(benchmark, name: str) -> None:
    dense = network(name)
    made = benchmark.pedantic(prune, (dense, PruneSpec(macs=0.5), SIZE), rounds=3)
    assert made.after.macs <= 0.5 * made.before.macs


@pytest.mark.benchmark(group="write as int8")
@pytest.mark.parametrize("name", STUDENTS)
def test_quantise(benchmark, name: str, tmp_path: Path) -> None:
    dense, calibration = network(name), noise(256)
    benchmark.pedantic(quantise, (dense, QuantiseSpec(), SIZE, calibration, tmp_path / "x.onnx"), rounds=2)


@pytest.mark.benchmark(group="one image in ONNX Runtime")
@pytest.mark.parametrize("stage", ["fp32", "pruned", "pruned, int8"])
@pytest.mark.parametrize("name", STUDENTS)
def test_forward(benchmark, name: str, stage: str, tmp_path: Path) -> None:
    made = network(name) if stage == "fp32" else prune(network(name), PruneSpec(macs=0.5), SIZE).network
    path = tmp_path / "x.onnx"
    if stage == "pruned, int8":
        quantise(made, QuantiseSpec(), SIZE, noise(64), path)
    else:
        export_onnx(made, SIZE).save(path, external_data=False)
    forward, image = onnx_forward(path, threads=1), noise(1)
    benchmark(forward, image)
