"""The eager runtime: right mode, format and precision, whatever the network was trained in."""

from pathlib import Path

import pytest
import torch
from torch import nn

from kdbench.profiling.runtime import RUNTIMES, Setting, Source
from kdbench.profiling.runtimes import eager

EXAMPLE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
FORMATS = {"eager": torch.contiguous_format, "channels_last": torch.channels_last}


class Spy(nn.Module):
    """Says how it was run: mode, inference, format of weight and image, type."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, image):
        wide = torch.channels_last
        formats = [not part.is_contiguous() and part.is_contiguous(memory_format=wide) for part in
                   (self.conv.weight, image)]  # fmt: skip
        return self.training, torch.is_inference_mode_enabled(), formats, self.conv(image).dtype


def run(network, name="eager", precision="fp32", example=EXAMPLE):
    setting = Setting(name, precision, len(example))
    return RUNTIMES.get(name).prepare(Source(lambda: network, 8, Path("nowhere")), setting, example)


def test_evaluation_under_inference_mode():
    assert run(Spy().train())() == (False, True, [False, False], torch.float32)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("trained_in", FORMATS.values())
@pytest.mark.parametrize("example_in", FORMATS.values())
def test_the_runtime_decides_the_memory_format(name, trained_in, example_in):
    network, example = Spy().to(memory_format=trained_in), EXAMPLE.to(memory_format=example_in)
    assert run(network, name, example=example)()[2] == [name == "channels_last"] * 2


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_no_autocast_around_changes_the_precision(name, precision):
    timed = run(Spy(), name, precision)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert timed()[3] is eager.DTYPES[precision]
    assert timed()[3] is eager.DTYPES[precision]


def test_bf16_is_kept_in_the_weights():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    assert run(network, precision="bf16")().dtype is torch.bfloat16
    assert {tensor.dtype for tensor in network.state_dict().values()} == {torch.bfloat16, torch.int64}


def test_same_answer_as_the_network():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.9)).eval()
    expected = network(EXAMPLE)
    assert torch.allclose(run(network)(), expected, atol=1e-6)


def test_the_example_is_left_alone():
    before = EXAMPLE.clone()
    run(Spy(), "channels_last", "bf16")()
    assert torch.equal(EXAMPLE, before)
    assert EXAMPLE.is_contiguous()


def test_available(monkeypatch, with_cuda):
    assert RUNTIMES.get("eager").available()
    assert RUNTIMES.get("eager").available("cuda")


def test_no_cuda(monkeypatch, without_cuda):
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "pytorch.org" in RUNTIMES.get("eager").available("cuda").reason
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert RUNTIMES.get("eager").available("cuda").reason.endswith("nvidia-smi")


def test_library():
    assert torch.__version__.startswith(RUNTIMES.get("eager").library().removeprefix("torch "))
    assert "+" not in RUNTIMES.get("eager").library()
