"""Multiply-adds against closed forms and published figures."""

import logging
import warnings

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from kdbench.errors import ProfileError
from kdbench.profiling.macs import count_macs


class Function(nn.Module):
    """A function of the image as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, image):
        return self.function(image)


@pytest.fixture
def fused():
    """Sets whether timm calls torch's attention; back to its default afterwards."""
    yield timm.layers.set_fused_attn
    timm.layers.set_fused_attn(True)


@pytest.mark.parametrize(
    ("layer", "macs"),
    [
        (nn.Conv2d(3, 8, 3, padding=1), 16 * 16 * 8 * 3 * 9),
        (nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), 8 * 8 * 8 * 3 * 9),
        (nn.Conv2d(6, 12, 5, padding=2, groups=3), 16 * 16 * 12 * 2 * 25),
        (nn.Conv2d(8, 8, 3, padding=1, groups=8), 16 * 16 * 8 * 9),
        (nn.ConvTranspose2d(3, 8, 2, stride=2), 16 * 16 * 3 * 8 * 4),
    ],
    ids=["dense", "strided", "grouped", "depthwise", "transposed"],
)
def test_convolution(layer, macs):
    channels = layer.in_channels
    assert count_macs(layer, 16, channels=channels).macs == macs


def test_linear():
    assert count_macs(nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 10)), 8).macs == 192 * 10


@pytest.mark.parametrize(
    ("function", "macs"),
    [
        (lambda x: x @ x.transpose(-2, -1), 3 * 8 * 8 * 8),
        (lambda x: x[0, 0] @ x, 3 * 8 * 8 * 8),  # broadcast: the smaller factor stands left
        (lambda x: x @ x[0, 0, 0], 3 * 8 * 8),
        (lambda x: torch.bmm(x[0], x[0]), 3 * 8 * 8 * 8),
        (lambda x: torch.mm(x[0, 0], x[0, 1]), 8 * 8 * 8),
        (lambda x: torch.addmm(x[0, 0], x[0, 1, :, :4], x[0, 2, :4]), 8 * 8 * 4),
        (lambda x: torch.baddbmm(x[0], x[0], x[0]), 3 * 8 * 8 * 8),
        (lambda x: torch.einsum("bchw,bcvw->bchv", x, x), 3 * 8 * 8 * 8),
    ],
    ids=["matmul", "broadcast", "vector", "bmm", "mm", "addmm", "baddbmm", "einsum"],
)
def test_products(function, macs):
    assert count_macs(Function(function), 8).macs == macs


def test_attention_of_unequal_widths():
    def attention(image):  # 3 heads, 8 queries of width 6, 4 keys, values of width 5
        return F.scaled_dot_product_attention(image[..., :6], image[:, :, :4, :6], image[:, :, :4, :5])

    assert count_macs(Function(attention), 8).macs == 3 * (8 * 4 * 6 + 8 * 4 * 5)


def test_torchs_own_attention_layer():
    layer = nn.TransformerEncoderLayer(16, 2, dim_feedforward=32, batch_first=True)
    model = nn.Sequential(nn.Conv2d(3, 16, 4, stride=4), nn.Flatten(2), Function(lambda x: x.transpose(1, 2)), layer)
    tokens = 16
    embedding, projections = tokens * 3 * 16 * 16, tokens * 16 * 16 * 4
    attention, mlp = 2 * tokens * tokens * 16, 2 * tokens * 16 * 32
    before = torch.backends.mha.get_fastpath_enabled()
    assert count_macs(model, 16).macs == embedding + projections + attention + mlp
    assert torch.backends.mha.get_fastpath_enabled() is before


@pytest.mark.parametrize(
    ("architecture", "giga"),
    [("vit_tiny_patch16_224", 1.254), ("resnet18", 1.82), ("mobilenetv3_small_100", 0.0565), ("resnet50", 4.09)],
)
def test_published_figures_at_224(architecture, giga):
    assert count_macs(timm.create_model(architecture), 224).macs == pytest.approx(giga * 1e9, rel=0.01)


def test_attention_counts_alike_fused_or_not(fused):
    counts = []
    for flag in (True, False):
        fused(flag)
        counts.append(count_macs(timm.create_model("vit_tiny_patch16_224"), 224))
    assert counts[0].macs == counts[1].macs
    assert "softmax" not in counts[0].not_counted
    assert counts[1].not_counted["softmax"] == 12  # one a block, inside the operator when fused


def test_what_is_left_out_is_named():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.GELU(), nn.ReLU(), nn.AvgPool2d(2))
    counted = count_macs(model, 8)
    assert counted.macs == 8 * 8 * 12
    assert counted.not_counted == {"avg_pool2d": 1, "batch_norm": 1, "gelu": 1, "relu": 2}


def test_arithmetic_on_sizes_is_not_named():
    # its padding is computed from the image's size at each call
    counted = count_macs(timm.create_model("tf_efficientnet_lite0"), 64).not_counted
    assert counted["add"] == 9  # the shortcuts
    assert not {"sub", "mul", "div", "ceil"} & set(counted)


def test_model_is_left_as_it_was():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.BatchNorm2d(4))
    model.train()
    model[3].eval()  # a frozen layer inside a network in training
    state = {name: value.clone() for name, value in model.state_dict().items()}
    random_state = torch.get_rng_state()
    count_macs(model, 16)
    assert [module.training for module in model] == [True, True, True, False]
    assert model.training
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert torch.equal(torch.get_rng_state(), random_state)


def test_nothing_is_printed(caplog, capsys):
    with warnings.catch_warnings(), caplog.at_level(logging.DEBUG):
        warnings.simplefilter("error")
        count_macs(timm.create_model("test_vit"), 160)
    assert not caplog.records
    assert capsys.readouterr() == ("", "")


def test_what_cannot_be_traced():
    model = nn.Sequential(nn.Flatten(), nn.Linear(5, 2))
    with pytest.raises(ProfileError, match="cannot be traced at 8 px"):
        count_macs(model.train(), 8)
    assert model.training
