"""The network as a CUDA graph."""

import pytest
import torch

from kdbench.errors import RuntimeUnavailable
from kdbench.profiling.runtime import RUNTIMES, Setting, prepare, usable


def test_on_cuda_alone(with_cuda):
    assert usable(Setting("cudagraph", device="cuda")) is RUNTIMES.get("cudagraph")
    with pytest.raises(RuntimeUnavailable, match="does not run on cpu; it runs on cuda"):
        usable(Setting("cudagraph"))


def test_no_device(without_cuda):
    assert not RUNTIMES.get("cudagraph").available()
    assert not RUNTIMES.get("cudagraph").available("cuda")


@pytest.mark.gpu
def test_replayed_on_the_same_memory(source, images):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    runtime = RUNTIMES.get("cudagraph")
    run = prepare(runtime, source("cnn", "cudagraph"), Setting("cudagraph", "fp32", 2, 1, "cuda"), images(2))
    first = run()
    torch.cuda.synchronize()
    before = first.clone()
    assert run() is first
    torch.cuda.synchronize()
    assert torch.equal(first, before)
