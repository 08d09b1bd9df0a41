"""Parameters and bytes by hand."""

import torch
from torch import nn

from kdbench.profiling.params import count_params, weight_bytes


class Odd(nn.Module):
    """A shared weight, a buffer that is stored and one that is not."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4, bias=False)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.register_buffer("kept", torch.zeros(3, dtype=torch.int8))
        self.register_buffer("made_anew", torch.zeros(100), persistent=False)


def test_convolution_with_batch_norm():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    assert count_params(model) == 8 * 27 + 8 + 2 * 8
    # fp32 parameters, fp32 running mean and variance, one int64 counter
    assert weight_bytes(model) == 4 * (8 * 27 + 8 + 16 + 16) + 8


def test_frozen_parameters_count_too():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 5))
    model[0].requires_grad_(False)
    assert count_params(model) == 9 + 20


def test_shared_and_transient_tensors():
    model = Odd()
    assert count_params(model) == 16 + 4
    assert weight_bytes(model) == 4 * 20 + 3


def test_bytes_follow_the_stored_type():
    model = nn.Linear(8, 8)
    assert 2 * weight_bytes(model.bfloat16()) == 4 * 72


def test_without_parameters():
    assert (count_params(nn.ReLU()), weight_bytes(nn.ReLU())) == (0, 0)
