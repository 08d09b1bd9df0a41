"""The eager runtime: right mode, right format, and the caller's network untouched."""

import pytest
import torch
from torch import nn

from kdbench.profiling.runtimes.eager import Eager


class Spy(nn.Module):
    """Says how it was run: mode, inference, format of weight and image, types."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, image):
        wide = torch.channels_last
        formats = [not part.is_contiguous() and part.is_contiguous(memory_format=wide) for part in
                   (self.conv.weight, image)]  # fmt: skip
        return self.training, torch.is_inference_mode_enabled(), formats, self.conv(image).dtype


def test_evaluation_under_inference_mode():
    model = Spy().train()
    assert Eager().prepare(model, torch.randn(2, 3, 8, 8))() == (False, True, [False, False], torch.float32)
    assert model.training


@pytest.mark.parametrize("trained_in", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("asked", [torch.contiguous_format, torch.channels_last])
def test_the_example_decides_the_memory_format(trained_in, asked):
    model = Spy().to(memory_format=trained_in)
    before = model.conv.weight.stride()
    run = Eager().prepare(model, torch.randn(2, 3, 8, 8).to(memory_format=asked))
    assert run()[2] == [asked is torch.channels_last] * 2
    assert model.conv.weight.stride() == before


def test_always_fp32():
    model = Spy().bfloat16()
    run = Eager().prepare(model, torch.randn(2, 3, 8, 8).bfloat16())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert run()[3] is torch.float32
    assert model.conv.weight.dtype is torch.bfloat16


def test_same_answer_as_the_network():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.9)).eval()
    example = torch.randn(2, 3, 8, 8)
    assert torch.allclose(Eager().prepare(model, example)(), model(example), atol=1e-6)


def test_available():
    assert Eager().available()
