"""Multiply-adds, activations and what each layer does: against closed forms, and by one way against another."""

import logging
import random
import threading
import warnings

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from kdbench.errors import ProfileError
from kdbench.model import MODELS
from kdbench.profiling import macs as counter
from kdbench.profiling.macs import count_macs
from kdbench.profiling.params import count_params

aten = torch.ops.aten


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


def meta(architecture):
    with torch.device("meta"):
        return timm.create_model(architecture)


# ---------------------------------------------------------------- closed forms


@pytest.mark.parametrize(
    ("layer", "macs"),
    [
        (nn.Conv2d(3, 8, 3, padding=1), 16 * 16 * 8 * 3 * 9),
        (nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), 8 * 8 * 8 * 3 * 9),
        (nn.Conv2d(3, 8, 3, dilation=2, padding="same"), 16 * 16 * 8 * 3 * 9),
        (nn.Conv2d(6, 12, 5, padding=2, groups=3), 16 * 16 * 12 * 2 * 25),
        (nn.Conv2d(8, 8, 3, padding=1, groups=8), 16 * 16 * 8 * 9),
        (nn.ConvTranspose2d(3, 8, 2, stride=2), 16 * 16 * 3 * 8 * 4),
        (nn.ConvTranspose2d(6, 12, 3, stride=2, padding=1, output_padding=1, groups=3), 16 * 16 * 6 * 4 * 9),
    ],
    ids=["dense", "strided", "dilated", "grouped", "depthwise", "transposed", "transposed-grouped"],
)
def test_convolution(layer, macs):
    channels = layer.in_channels
    counted = count_macs(layer, 16, channels=channels)
    assert counted.macs == macs
    assert counted.by_operator == {"convolution": macs}
    assert counted.activations == layer(torch.zeros(1, channels, 16, 16)).numel()


@pytest.mark.parametrize(
    ("layer", "reshape", "macs"),
    [
        (nn.Conv1d(3, 8, 3), lambda x: x.flatten(2), 8 * 62 * 3 * 3),
        (nn.Conv3d(3, 4, 2), lambda x: x.reshape(1, 3, 4, 4, 4), 4 * 27 * 3 * 8),
        (nn.ConvTranspose1d(3, 8, 4, stride=2), lambda x: x.flatten(2), 64 * 3 * 8 * 4),
    ],
    ids=["1d", "3d", "transposed-1d"],
)
def test_convolution_in_other_dimensions(layer, reshape, macs):
    assert count_macs(nn.Sequential(Function(reshape), layer), 8).macs == macs


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("reshape", "rows"),
    [
        (lambda x: x.flatten(1).unflatten(1, (24, 8)).squeeze(0), 24),
        (lambda x: x[0], 24),
        (lambda x: x, 24),
        (lambda x: x[0].transpose(1, 2), 24),  # not contiguous: torch then makes a product and a sum of it
        (lambda x: x[0, 0, 0], 1),
    ],
    ids=["2d", "3d", "4d", "strided", "1d"],
)
def test_linear(reshape, rows, bias):
    counted = count_macs(nn.Sequential(Function(reshape), nn.Linear(8, 10, bias=bias)), 8)
    assert counted.by_operator == {"linear": rows * 8 * 10}
    assert counted.activations == rows * 10
    assert counted.not_counted == {}


@pytest.mark.parametrize(
    ("function", "macs"),
    [
        (lambda x: x @ x.transpose(-2, -1), 3 * 8 * 8 * 8),
        (lambda x: x[0, 0] @ x, 3 * 8 * 8 * 8),  # broadcast: the smaller factor stands left
        (lambda x: x @ x[0, 0, 0], 3 * 8 * 8),
        (lambda x: torch.bmm(x[0], x[0]), 3 * 8 * 8 * 8),
        (lambda x: torch.mm(x[0, 0], x[0, 1]), 8 * 8 * 8),
        (lambda x: torch.addmm(x[0, 0], x[0, 1, :, :4], x[0, 2, :4]), 8 * 8 * 4),
        (lambda x: x[0, 0].clone().addmm_(x[0, 1], x[0, 2]), 8 * 8 * 8),
        (lambda x: torch.baddbmm(x[0], x[0], x[0]), 3 * 8 * 8 * 8),
        (lambda x: torch.addbmm(x[0, 0], x[0], x[0]), 3 * 8 * 8 * 8),
        (lambda x: torch.mv(x[0, 0], x[0, 0, 0]), 8 * 8),
        (lambda x: torch.addmv(x[0, 0, 0], x[0, 0], x[0, 0, 0]), 8 * 8),
        (lambda x: torch.dot(x[0, 0, 0], x[0, 0, 1]), 8),
        (lambda x: torch._int_mm(x[0].flatten(0, 1).to(torch.int8), x[0, 0].to(torch.int8)), 24 * 8 * 8),
        (lambda x: torch.einsum("bchw,bcvw->bchv", x, x), 3 * 8 * 8 * 8),
        (lambda x: torch.einsum("bchw,wv->bchv", x, x[0, 0]), 3 * 8 * 8 * 8),
    ],
    ids=(
        [
            "matmul",
            "broadcast",
            "vector",
            "bmm",
            "mm",
            "addmm",
            "addmm_",
            "baddbmm",
            "addbmm",
            "mv",
            "addmv",
            "dot",
            "int_mm",
            "einsum",
            "einsum-broadcast",
        ]
    ),
)
def test_products(function, macs):
    counted = count_macs(Function(function), 8)
    assert counted.macs == macs
    assert counted.by_operator == {"matmul": macs}


def test_products_with_weights_are_linear():
    class Projected(nn.Module):
        def __init__(self):
            super().__init__()
            self.projection = nn.Parameter(torch.zeros(8, 5))
            self.mask = nn.Parameter(torch.zeros(8, 8))  # a summand makes no product a linear one

        def forward(self, image):
            return torch.baddbmm(self.mask, image[0], image[0]) @ self.projection

    assert count_macs(Projected(), 8).by_operator == {"matmul": 3 * 8 * 8 * 8, "linear": 3 * 8 * 8 * 5}


def test_recurrent_layers():
    # 3 sequences of 8 steps of 8 values; 4 gates of an LSTM, 3 of a GRU, two directions, two layers
    lstm = nn.LSTM(8, 16, num_layers=2, batch_first=True, bidirectional=True)
    gates = 2 * 4 * 16 * (8 + 16) + 2 * 4 * 16 * (32 + 16)
    assert count_macs(nn.Sequential(Function(lambda x: x[0]), lstm), 8).by_operator == {"recurrent": 24 * gates}
    gru = nn.GRU(8, 16, batch_first=True)
    gates = 3 * 16 * (8 + 16)
    assert count_macs(nn.Sequential(Function(lambda x: x[0]), gru), 8).by_operator == {"recurrent": 24 * gates}


# ---------------------------------------------------------------- attention


def attention_macs(heads, queries, keys, width, value_width):
    return heads * (queries * keys * width + queries * keys * value_width)


def test_attention_of_unequal_widths():
    def attention(image):  # 3 heads, 8 queries of width 6, 4 keys, values of width 5
        return F.scaled_dot_product_attention(image[..., :6], image[:, :, :4, :6], image[:, :, :4, :5])

    counted = count_macs(Function(attention), 8)
    assert counted.by_operator == {"attention": attention_macs(3, 8, 4, 6, 5)}
    assert counted.activations == 3 * (8 * 4 + 8 * 5)
    assert counted.not_counted == {}


@pytest.mark.parametrize("arguments", [{}, {"is_causal": True}, {"attn_mask": torch.ones(8, 8, dtype=torch.bool)}])
def test_masks_are_not_subtracted(arguments):
    model = Function(lambda x: F.scaled_dot_product_attention(x, key=x, value=x, **arguments))
    counted = count_macs(model, 8)
    assert counted.macs == attention_macs(3, 8, 8, 8, 8)
    assert counted.not_counted == {}


def test_attention_with_grouped_queries():
    def attention(image):  # 6 heads of queries share 2 of keys and values
        return F.scaled_dot_product_attention(image, image[:, :2], image[:, 2:4], enable_gqa=True)

    counted = count_macs(Function(attention), 8, channels=6)
    assert counted.macs == attention_macs(6, 8, 8, 8, 8)
    assert counted.activations == 6 * (8 * 8 + 8 * 8)


@pytest.mark.parametrize(
    "operator",
    [
        lambda q, k, v: aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)[0],
        lambda q, k, v: aten._scaled_dot_product_flash_attention(q, k, v)[0],
        lambda q, k, v: aten._scaled_dot_product_efficient_attention(q, k, v, None, False)[0],
        lambda q, k, v: aten._scaled_dot_product_cudnn_attention(q, k, v, None, False)[0],
        lambda q, k, v: aten._scaled_dot_product_attention_math(q, k, v)[0],
    ],
    ids=["cpu-flash", "flash", "efficient", "cudnn", "math"],
)
def test_kernels_of_attention(operator):
    # without data they run anywhere; the last is taken apart into products and a softmax
    model = Function(lambda x: operator(x, x[:, :, :4], x[:, :, :4]))
    counted = count_macs(model, 8)
    assert counted.how == "without data"
    assert counted.macs == attention_macs(3, 8, 4, 8, 8)
    assert counted.activations == 3 * (8 * 4 + 8 * 8)


def test_rule_of_a_kernel_that_needs_a_device_of_its_own():
    query, key, value = torch.empty(2, 3, 7, 6), torch.empty(2, 3, 4, 6), torch.empty(2, 3, 4, 5)
    rule = counter._RULES["scaled_dot_product_fused_attention_overrideable"]
    assert rule.group == "attention"
    cost = attention_macs(6, 7, 4, 6, 5), 6 * (7 * 4 + 7 * 5)
    assert rule.cost((query, key, value), torch.empty(2, 3, 7, 5)) == cost


@pytest.mark.parametrize("need_weights", [True, False])
def test_multihead_attention(need_weights):
    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, image):
            return self.attention(image[0], image[0], image[0], need_weights=need_weights)[0]

    counted = count_macs(Layer(), 8)  # 3 sequences of 8 tokens of width 8, two heads of width 4
    scores = attention_macs(3 * 2, 8, 8, 4, 4)
    assert counted.by_operator == {"linear": 24 * 8 * 8 * 4, "matmul" if need_weights else "attention": scores}


def test_torchs_own_attention_layer():
    layer = nn.TransformerEncoderLayer(16, 2, dim_feedforward=32, batch_first=True)
    model = nn.Sequential(nn.Conv2d(3, 16, 4, stride=4), nn.Flatten(2), Function(lambda x: x.transpose(1, 2)), layer)
    tokens = 16
    embedding, projections = tokens * 3 * 16 * 16, tokens * 16 * 16 * 4
    attention, mlp = 2 * tokens * tokens * 16, 2 * tokens * 16 * 32
    before = torch.backends.mha.get_fastpath_enabled()
    assert count_macs(model, 16).macs == embedding + projections + attention + mlp
    assert torch.backends.mha.get_fastpath_enabled() is before


REGISTERED_VITS = sorted({MODELS.get(name).architecture for name in MODELS.names() if MODELS.get(name).kind == "vit"})
OTHER_VITS = [
    "beit_base_patch16_224",
    "cait_xxs24_224",
    "eva02_tiny_patch14_224",
    "swin_tiny_patch4_window7_224",
    "xcit_nano_12_p16_224",
]


@pytest.mark.parametrize("architecture", [*REGISTERED_VITS, *OTHER_VITS])
def test_attention_counts_alike_fused_or_not(fused, architecture):
    counts = []
    for flag in (True, False):
        fused(flag)
        model = meta(architecture)
        counts.append(count_macs(model, model.pretrained_cfg["input_size"][-1]))
    with_it, without = counts
    assert with_it.macs == without.macs
    assert with_it.activations == without.activations
    if with_it.by_operator.get("attention"):
        assert "attention" not in without.by_operator
        assert without.not_counted["softmax"] > with_it.not_counted.get("softmax", 0)
        assert with_it.activation_bytes <= without.activation_bytes


def test_softmax_is_part_of_fused_attention(fused):
    fused(True)
    assert "softmax" not in count_macs(meta("vit_tiny_patch16_224"), 224).not_counted
    fused(False)
    assert count_macs(meta("vit_tiny_patch16_224"), 224).not_counted["softmax"] == 12  # one a block


# ---------------------------------------------------------------- what is left out


def test_what_is_left_out_is_named():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.GELU(), nn.ReLU(), nn.AvgPool2d(2))
    counted = count_macs(model, 8)
    assert counted.macs == 8 * 8 * 12
    assert counted.not_counted == {"avg_pool2d": 1, "batch_norm": 1, "gelu": 1, "relu": 2}


@pytest.mark.parametrize(
    ("layer", "names"),
    [
        (nn.ReLU(inplace=True), {"relu": 1}),
        (nn.ReLU6(inplace=True), {"hardtanh": 1}),
        (nn.LayerNorm(8), {"layer_norm": 1}),
        (nn.GroupNorm(3, 3), {"group_norm": 1}),
        (nn.InstanceNorm2d(3), {"batch_norm": 1}),
        (nn.BatchNorm2d(3, track_running_stats=False), {"batch_norm": 1}),
        (nn.PReLU(), {"prelu": 1}),
        (nn.Softmax(-1), {"softmax": 1}),
        (nn.LogSoftmax(-1), {"log_softmax": 1}),
        (nn.MaxPool2d(2), {"max_pool2d": 1}),
        (nn.AdaptiveAvgPool2d(3), {"adaptive_avg_pool2d": 1}),
        (nn.AdaptiveAvgPool2d(1), {"mean": 1}),
        (nn.Upsample(scale_factor=2, mode="bilinear"), {"upsample_bilinear2d": 1}),
        (Function(lambda x: torch.fft.rfft2(x).real), {"fft_r2c": 1}),
        (Function(lambda x: x.add_(1).mul(2) / 3), {"add": 1, "mul": 1, "div": 1}),
        (Function(lambda x: x.cumsum(-1)), {"cumsum": 1}),
        (nn.Dropout(0.5), {}),
        (nn.PixelShuffle(1), {}),
        (nn.ZeroPad2d(1), {}),
        (Function(lambda x: torch.cat([x, x.flip(-1)]).roll(1).permute(0, 2, 3, 1)[:, 1:].reshape(-1).clone()), {}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "-".join(value),
)
def test_names(layer, names):
    assert count_macs(layer, 8).not_counted == names


def test_arithmetic_on_sizes_is_not_named():
    # its padding is computed from the image's size at each call
    counted = count_macs(timm.create_model("tf_efficientnet_lite0"), 64).not_counted
    assert counted["add"] == 9  # the shortcuts
    assert not {"sub", "mul", "div", "ceil"} & set(counted)


# ---------------------------------------------------------------- activations


def test_peak_of_a_chain():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.Flatten(), nn.Linear(1024, 5)
    )
    counted = count_macs(model, 16)
    pixels = 16 * 16
    assert counted.activations == (8 + 4) * pixels + 5
    # the image stays with the caller; ReLU's input is let go once it has returned
    assert counted.activation_bytes == 4 * pixels * (3 + 8 + 8)
    assert count_macs(model.half(), 16).activation_bytes == 2 * pixels * (3 + 8 + 8)


def test_in_place_and_views_take_no_memory():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(inplace=True), nn.Flatten(), Function(lambda x: x[:, :7]))
    assert count_macs(model, 16).activation_bytes == 4 * 256 * (3 + 8)


def test_what_a_network_holds_on_to_counts():
    def forward(image):
        held = [image + 1]
        for _ in range(3):
            held.append(held[-1] * 2)
        return sum(held)

    assert count_macs(Function(forward), 8).activation_bytes == 4 * 192 * (1 + 4 + 2)  # and a sum and the next


def test_weights_are_no_activations():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1000, 8))
            self.constant = torch.ones(1000, 8)

        def forward(self, image):
            return image @ self.weight[:4].t() @ self.constant.view(8, 1000)[:4, :2]

    assert count_macs(Scaled(), 8).activation_bytes == 4 * (192 + 24 * 4 + 24 * 2)


# ---------------------------------------------------------------- layers


class Twice(nn.Module):
    """One layer is called twice, one shares its weight, one is never called; a product of its own."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.second = nn.Linear(8, 8, bias=False)
        self.second.weight = self.first.weight
        self.idle = nn.Linear(8, 3)
        self.act = nn.ReLU()
        self.shape = nn.Flatten()

    def forward(self, image):
        x = self.act(self.first(self.first(image)))
        return self.shape(self.second(x) @ x)


def test_layers_by_hand():
    product = 3 * 8 * 8 * 8
    layers = count_macs(Twice(), 8).layers
    rows = [(each.name, each.kind, each.params, each.macs, each.activations, each.output) for each in layers]
    assert rows == [
        ("", "Twice", 0, product, 192, (1, 192)),
        ("first", "Linear", 72, 2 * product, 384, (1, 3, 8, 8)),
        ("second", "Linear", 0, product, 192, (1, 3, 8, 8)),
        ("idle", "Linear", 27, 0, 0, None),
        ("act", "ReLU", 0, 0, 0, (1, 3, 8, 8)),
    ]
    assert layers[0].operators == {"matmul": product}
    assert layers[1].operators == {"linear": 2 * product}
    assert layers[4].not_counted == {"relu": 1}


@pytest.mark.parametrize(
    "make",
    [
        Twice,
        lambda: timm.create_model("test_vit"),
        lambda: timm.create_model("ghostnet_050"),
        lambda: nn.Sequential(Function(lambda x: x[0]), nn.LSTM(8, 4)),
    ],
    ids=["shared", "vit", "cnn", "lstm"],
)
def test_layers_sum_to_the_network(make):
    model = make()
    counted = count_macs(model, 160 if hasattr(model, "pretrained_cfg") else 8)
    layers = counted.layers
    assert sum(layer.params for layer in layers) == count_params(model)
    assert sum(layer.macs for layer in layers) == sum(counted.by_operator.values()) == counted.macs
    assert sum(layer.activations for layer in layers) == counted.activations
    assert all(sum(layer.operators.values()) == layer.macs for layer in layers)
    for name, calls in counted.not_counted.items():
        assert sum(layer.not_counted.get(name, 0) for layer in layers) == calls
    places = [name for name, _ in model.named_modules()]
    assert sorted((layer.name for layer in layers), key=places.index) == [layer.name for layer in layers]


def test_an_error_that_the_network_handles():
    class Failing(nn.Module):
        def forward(self, image):
            raise ValueError

    class Careful(nn.Module):
        def __init__(self):
            super().__init__()
            self.attempt, self.layer = Failing(), nn.Linear(8, 8)

        def forward(self, image):
            try:
                return self.attempt(image)
            except ValueError:
                return image @ image

    assert [(layer.name, layer.macs) for layer in count_macs(Careful(), 8).layers] == [("", 1536), ("layer", 0)]


# ---------------------------------------------------------------- ways to run


def by_both_ways(model, image_size):
    shape = (1, 3, image_size, image_size)
    with counter.quietly(), counter.ordinary_operators(), counter.generators_kept():
        return counter._count_without_data(model, shape), counter._count_in_one_pass(model, shape)


@pytest.mark.parametrize(
    "make",
    [
        Twice,
        lambda: timm.create_model("test_vit", img_size=64, patch_size=8),
        lambda: timm.create_model("resnet10t"),
        lambda: timm.create_model("mobilenetv3_small_050"),
        lambda: timm.create_model("efficientvit_b0"),
        lambda: timm.create_model("tf_efficientnet_lite0").to(memory_format=torch.channels_last),
        lambda: timm.create_model("resnet18").bfloat16(),
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)),
        lambda: nn.Sequential(nn.Flatten(), torch.nn.utils.parametrizations.weight_norm(nn.Linear(3 * 64**2, 4))),
        lambda: nn.Sequential(Function(lambda x: x[0]), nn.LSTM(64, 4), Function(lambda x: x[0]), nn.GRU(4, 4)),
        lambda: Function(lambda x: x * torch.arange(64) + torch.tensor([1.0]) + torch.randn(64)),
    ],
    ids=[
        "shared",
        "vit",
        "cnn",
        "squeeze",
        "linear-attention",
        "channels-last",
        "bf16",
        "batch-statistics",
        "derived",
        "recurrent",
        "made",
    ],
)
def test_counts_alike_with_data_and_without(make):
    image_size = 8 if make is Twice else 64
    without, with_data = by_both_ways(make(), image_size)
    assert (without.how, with_data.how) == ("without data", "one forward pass")
    for name in ("macs", "by_operator", "not_counted", "activations", "activation_bytes", "layers"):
        assert getattr(without, name) == getattr(with_data, name), name


def test_a_network_on_the_meta_device():
    ours = count_macs(timm.create_model("test_vit"), 160)
    assert count_macs(meta("test_vit"), 160) == ours


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x @ x if float(x.sum()) == 0 else x,
        lambda x: x @ x * x.mean().item(),
        lambda x: torch.from_numpy(x.numpy() + 1) @ (x + 1),
        lambda x: (x @ x)[x >= 0],
    ],
    ids=["branch", "item", "numpy", "mask"],
)
def test_a_network_that_looks_at_values(function):
    counted = count_macs(Function(function), 8)
    assert counted.how == "one forward pass"
    assert counted.macs == 3 * 8 * 8 * 8


def test_a_network_that_looks_at_values_needs_some():
    model = nn.Sequential(nn.Linear(8, 8, device="meta"), Function(lambda x: x @ x if x.sum() > 0 else x))
    with pytest.raises(ProfileError, match="cannot be traced at 8 px: it looks at values, and on the meta device"):
        count_macs(model, 8)


def test_a_network_that_cannot_be_copied():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))
    model.lock = threading.Lock()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    assert count_macs(model, 8).how == "one forward pass"
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("compile_", [torch.jit.script, lambda model: torch.jit.trace(model, torch.zeros(1, 3, 8, 8))])
def test_torchscript(compile_):
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)).eval()
    ours, theirs = count_macs(plain, 8), count_macs(nn.Sequential(compile_(plain)), 8)
    assert (theirs.macs, theirs.not_counted) == (ours.macs, ours.not_counted)
    # its inside is not seen: what runs there is the whole's
    assert [(layer.name, layer.macs) for layer in theirs.layers if layer.macs] == [("0", ours.macs)]
    assert sum(layer.params for layer in theirs.layers) == count_params(plain)


def test_a_compiled_network_is_not_compiled_for_it():
    def refuse(graph, inputs):
        raise AssertionError

    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 5))
    assert count_macs(torch.compile(model, backend=refuse), 8).macs == 192 * 5


def test_outputs_that_are_no_tensor():
    counted = count_macs(Function(lambda x: {"logits": (x @ x, None)}), 8)
    assert counted.macs == 3 * 8 * 8 * 8
    assert counted.layers[0].output is None


def test_weights_of_inference_mode():
    with torch.inference_mode():
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 5))
        within = count_macs(model, 8)
    assert count_macs(model, 8).by_operator == within.by_operator == {"convolution": 3888, "linear": 720}


# ---------------------------------------------------------------- the network stays as it was


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


@pytest.mark.parametrize("looks", [False, True], ids=["without data", "one forward pass"])
def test_nothing_that_forward_does_stays(looks):
    class Restless(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(8, 8)
            self.cached, self.calls = None, 0
            self.register_buffer("seen", torch.zeros(1))

        def forward(self, image):
            self.calls += 1
            self.seen += 1
            self.cached = self.layer.weight * 2
            if looks:
                image.sum().item()
            return self.layer(image) + torch.rand(1) + random.random() + np.random.rand()

    model = Restless()
    called = []
    hook = model.layer.register_forward_hook(lambda *_: called.append(1))
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    assert count_macs(model, 8).how == ("one forward pass" if looks else "without data")
    assert (model.cached, model.calls, float(model.seen)) == (None, 0, 0.0)
    assert list(model.layer._forward_hooks) == [hook.id]
    assert called  # hooks are part of the network: they run
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[1:]
    assert not nn.modules.module._global_forward_hooks
    assert not nn.modules.module._global_forward_pre_hooks


def test_a_cache_of_timms():
    model = timm.create_model("levit_128s").eval()  # keeps its attention biases from the first pass on
    count_macs(model, 224)
    assert not any(module.attention_bias_cache for module in model.modules() if hasattr(module, "attention_bias_cache"))


def test_nothing_is_printed(caplog, capfd):
    with warnings.catch_warnings(), caplog.at_level(logging.DEBUG):
        warnings.simplefilter("error")
        count_macs(timm.create_model("test_vit"), 160)
        with pytest.raises(ProfileError):
            count_macs(nn.Sequential(nn.Flatten(), nn.Linear(5, 2)), 8)
    assert not caplog.records
    assert capfd.readouterr() == ("", "")


# ---------------------------------------------------------------- what cannot be counted


def test_what_cannot_be_traced():
    model = nn.Sequential(nn.Flatten(), nn.Linear(5, 2))
    with pytest.raises(ProfileError, match="cannot be traced at 8 px"):
        count_macs(model.train(), 8)
    assert model.training


@pytest.mark.filterwarnings("ignore")  # torch's own, of what is deprecated and what is a prototype
@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(5, 2)), "mat1 and mat2 shapes cannot be multiplied"),
        (lambda: torch.jit.script(nn.Sequential(nn.Flatten(), nn.Linear(5, 2))), "fails in TorchScript"),
        (lambda: nn.Conv2d(4, 4, 3), "expected input.* to have 4 channels"),
        (lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(5)), "layers without a shape yet"),
        (lambda: Function(lambda x: {}["absent"]), "absent"),
        (lambda: Function(lambda x: torch.nested.nested_tensor([x[0], x[0, :2]])), "nested tensors"),
        (
            lambda: Function(
                lambda x: torch.nested.nested_tensor([x[0, 0], x[0, 1, :3]], layout=torch.jagged) @ torch.zeros(8, 2)
            ),
            "nested tensors",
        ),
        (
            lambda: nn.Sequential(
                torch.ao.nn.quantized.Quantize(0.1, 0, torch.quint8), torch.ao.nn.quantized.DeQuantize()
            ),
            "quantised",
        ),
        (
            lambda: torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Flatten(), nn.Linear(192, 5)), {nn.Linear}),
            "quantised",
        ),
    ],
    ids=["width", "torchscript", "channels", "lazy", "bug", "nested", "jagged", "quantised", "quantised-layers"],
)
def test_reasons_are_one_line(make, why):
    with pytest.raises(ProfileError, match=f"^the network cannot be traced at 8 px: .*{why}") as caught:
        count_macs(make(), 8)
    assert "\n" not in str(caught.value)
