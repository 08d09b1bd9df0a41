"""Parameters and bytes by hand."""

import pytest
import torch
from torch import nn

from kdbench.errors import ProfileError
from kdbench.profiling.params import count_denormals, count_params, count_trainable, flushes_denormals, weight_bytes


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
    assert count_trainable(model) == 20


def test_shared_and_transient_tensors():
    model = Odd()
    assert count_params(model) == 16 + 4
    assert weight_bytes(model) == 4 * 20 + 3


def test_bytes_follow_the_stored_type():
    model = nn.Linear(8, 8)
    assert 2 * weight_bytes(model.bfloat16()) == 4 * 72


def test_without_parameters():
    assert (count_params(nn.ReLU()), weight_bytes(nn.ReLU())) == (0, 0)
    assert (count_trainable(nn.ReLU()), count_denormals(nn.ReLU())) == (0, 0)


@pytest.fixture
def flushing():
    """Sets whether torch flushes denormals; back to what it was afterwards."""
    before = flushes_denormals()
    yield torch.set_flush_denormal
    torch.set_flush_denormal(before)


def holding(bits, dtype):
    """A network whose only weights have these bit patterns."""
    integer = {2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
    model = nn.Module()
    model.weight = nn.Parameter(torch.tensor(bits, dtype=integer).view(dtype))
    return model


# the smallest and the largest denormal, and both with the other sign; then zeros, the smallest normal, infinity, NaN
@pytest.mark.parametrize(
    ("dtype", "bits"),
    [
        (torch.float32, [1, 0x7FFFFF, 1 - 2**31, 0x7FFFFF - 2**31, 0, -(2**31), 0x800000, 0x7F800000, 0x7FC00000]),
        (torch.bfloat16, [1, 0x7F, 1 - 2**15, 0x7F - 2**15, 0, -(2**15), 0x80, 0x7F80, 0x7FC0]),
        (torch.float16, [1, 0x3FF, 1 - 2**15, 0x3FF - 2**15, 0, -(2**15), 0x400, 0x7C00, 0x7E00]),
        (torch.float64, [1, 2**52 - 1, 1 - 2**63, 2**52 - 1 - 2**63, 0, -(2**63), 2**52, 0x7FF << 52, 0xFFF << 51]),
    ],
    ids=["fp32", "bf16", "fp16", "fp64"],
)
@pytest.mark.parametrize("flush", [False, True])
def test_denormals(dtype, bits, flush, flushing):
    flushing(flush)
    assert count_denormals(holding(bits, dtype)) == 4


def test_denormals_of_buffers_and_shared_tensors():
    model = Odd()
    small = torch.tensor(1e-40)
    model.first.weight.data.fill_(small)  # both layers have it
    model.register_buffer("statistics", small.repeat(3))
    model.register_buffer("complex", torch.complex(small.repeat(2), torch.ones(2)))
    model.kept.fill_(1)  # integers have none
    model.made_anew.fill_(small)  # is not stored
    assert count_denormals(model) == 16 + 3 + 2
    del model.complex
    assert count_denormals(model.double()) == 0  # 1e-40 is an ordinary number there
    assert count_denormals(nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)) == 0


def test_denormals_need_values():
    with pytest.raises(ProfileError, match="meta device"):
        count_denormals(nn.Linear(2, 2, device="meta"))


def test_flushing_is_found_out(flushing):
    flushing(False)
    assert not flushes_denormals()
    if flushing(True):  # false where the processor cannot
        assert flushes_denormals()
