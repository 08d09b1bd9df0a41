"""Weights in half precision: which, how far off, and what does not fit."""

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_model, save_model
from torch import nn

from kdbench.compress.half import halved, is_weight, write_half
from kdbench.errors import ExportError


@pytest.mark.parametrize(
    ("values", "weight"),
    [
        (np.zeros(2, np.float32), True),
        (np.zeros((3, 1, 1), np.float32), True),
        (np.zeros((), np.float32), False),
        (np.full(1, 1e-12, np.float32), False),
        (np.zeros(9, np.int64), False),
        (np.zeros(9, np.float64), False),
        (np.zeros(9, np.int8), False),
    ],
)
def test_what_is_a_weight(values, weight):
    assert is_weight(values) == weight


def test_each_value_is_the_nearest_that_there_is():
    """fp16 has 11 binary digits, down to 2^-24: steps of 2^-10 between 1 and 2, of 2^-24 below 2^-14."""
    values = np.asarray([1 + 2**-10, 1 + 2**-12, 65504, -65519, 2**-24, 2**-26], np.float32)
    assert halved(values, "w", "f").tolist() == [1 + 2**-10, 1, 65504, -65504, 2**-24, 0]


@pytest.mark.parametrize(("value", "said"), [(65520, "6.55e+04"), (-1e6, "1e+06"), (np.inf, "inf"), (np.nan, "nan")])
def test_what_does_not_fit_is_named(value, said):
    with pytest.raises(ExportError) as refused:
        halved(np.asarray([0, value], np.float32), "stem.weight", "model.onnx")
    assert str(refused.value) == (
        f"fp16 cannot hold stem.weight of model.onnx: its largest value is {said}, 65504 is the most; leave --half out"
    )


class Tied(nn.Module):
    """Two layers of one weight, which a file holds once; a scale; a count."""

    def __init__(self):
        super().__init__()
        self.one, self.other = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
        self.other.weight = self.one.weight
        self.scale = nn.Parameter(torch.tensor(1e-9))
        self.register_buffer("count", torch.tensor([1, 2, 3]))


def test_a_file_is_loaded_into_a_network_in_fp32(tmp_path):
    network = Tied()
    save_model(network, tmp_path / "whole.safetensors")
    write_half(tmp_path / "whole.safetensors", tmp_path / "half.safetensors")
    with safe_open(tmp_path / "half.safetensors", "pt") as file:
        kinds = {file.get_tensor(name).dtype for name in file.keys()}  # noqa: SIM118
    assert kinds == {torch.float16, torch.float32, torch.int64}
    again = Tied()
    load_model(again, tmp_path / "half.safetensors")
    assert again.one.weight.dtype == torch.float32
    assert again.one.weight is again.other.weight
    assert torch.equal(again.one.weight, network.one.weight.half().float())
    assert torch.equal(again.scale, network.scale)
    assert torch.equal(again.count, network.count)
