"""A structure read off shapes: what is taken, what is refused, and that refusing costs nothing."""

from __future__ import annotations

import copy
import tracemalloc

import pytest
import torch
from torch import nn

from kdbench.compress.structure import fit_structure
from kdbench.errors import ConfigError
from kdbench.model import build
from kdbench.types import ModelChoice


def shapes_of(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}


def student(name: str = "resnet8_w16") -> nn.Module:
    torch.manual_seed(0)
    return build(ModelChoice(name=name), 5, 32).eval()


def separable(channels: int = 4) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, channels, 1),
        nn.Conv2d(channels, channels, 3, groups=channels),
        nn.BatchNorm2d(channels),
        nn.PReLU(channels),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.LayerNorm(channels),
        nn.Linear(channels, 2),
    ).eval()


@pytest.mark.parametrize("name", ["resnet8_w16", "vit_micro"])
def test_whole_shapes_leave_a_network_as_it_is(name: str) -> None:
    network = student(name)
    fitted = fit_structure(network, shapes_of(network))
    assert fitted is not network
    assert all(torch.equal(fitted.state_dict()[key], value) for key, value in network.state_dict().items())
    image = torch.randn(1, 3, 32, 32)
    assert torch.equal(fitted(image), network(image))


def test_every_layer_is_told_what_it_has_become() -> None:
    """Against a network that was built at that width."""
    narrow = separable(3)
    wide = separable(4)
    before = copy.deepcopy(wide.state_dict())
    fitted = fit_structure(wide, shapes_of(narrow))
    assert repr(fitted) == repr(narrow)
    assert fitted[2].num_features == 3
    assert fitted[3].num_parameters == 3
    assert all(torch.equal(wide.state_dict()[key], value) for key, value in before.items())
    fitted.load_state_dict(narrow.state_dict())
    image = torch.randn(2, 3, 5, 5)
    assert torch.equal(fitted(image), narrow(image))
    fitted.train()(image).sum().backward()
    assert fitted[0].weight.grad.shape == (3, 3, 1, 1)


def test_attention_knows_its_heads() -> None:
    """Against timm's own, built with fewer heads of the same width."""
    from timm.layers import Attention

    wide = nn.Sequential(Attention(64, num_heads=4, qkv_bias=True))
    shapes = shapes_of(wide) | {"0.qkv.weight": (96, 64), "0.qkv.bias": (96,), "0.proj.weight": (64, 32)}
    fitted = fit_structure(wide, shapes)
    narrow = Attention(64, num_heads=2, attn_head_dim=16, qkv_bias=True)
    assert (fitted[0].num_heads, fitted[0].attn_dim, fitted[0].scale) == (2, 32, narrow.scale)
    fitted[0].load_state_dict(narrow.state_dict())
    tokens = torch.randn(2, 7, 64)
    assert torch.equal(fitted(tokens), narrow(tokens))


def missing(shapes: dict) -> None:
    del shapes["bn1.weight"]


def unexpected(shapes: dict) -> None:
    shapes["bn9.weight"] = (4,)


def larger(shapes: dict) -> None:
    shapes["conv1.0.weight"] = (10**6, 10**6, 3, 3)


def negative(shapes: dict) -> None:
    shapes["bn1.weight"] = (-1,)


def empty(shapes: dict) -> None:
    shapes["bn1.weight"] = (0,)


def flat(shapes: dict) -> None:
    shapes["conv1.0.weight"] = (8 * 27,)


def at_odds(shapes: dict) -> None:
    shapes["bn1.weight"] = (8,)


def kernel(shapes: dict) -> None:
    shapes["conv1.0.weight"] = (8, 3, 1, 1)


def classes(shapes: dict) -> None:
    shapes |= {"fc.weight": (4, 64), "fc.bias": (4,)}


def no_bias(shapes: dict) -> None:
    shapes["fc.weight"] = (4, 64)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (missing, "'bn1.weight' is missing"),
        (unexpected, "'bn9.weight' is no part"),
        (larger, r"\(1000000, 1000000, 3, 3\); the architecture has \(8, 3, 3, 3\)"),
        (negative, r"shape \(-1,\)"),
        (empty, r"shape \(0,\)"),
        (flat, r"shape \(216,\)"),
        (at_odds, "'bn1' cannot have .* disagree"),
        (kernel, "leaves the kernel"),
        (classes, "'fc' cannot have .* row for each class"),
        (no_bias, "'fc' cannot have"),
    ],
)
def test_what_cannot_be_is_refused(spoil, says: str) -> None:
    network = student()
    shapes = shapes_of(network)
    spoil(shapes)
    with pytest.raises(ConfigError, match=says):
        fit_structure(network, shapes)


@pytest.mark.parametrize(
    ("layer", "shapes", "says"),
    [
        (nn.Conv2d(8, 8, 3, groups=2, bias=False), {"0.weight": (6, 4, 3, 3)}, "2 groups stay"),
        (nn.Conv2d(8, 16, 3, groups=8, bias=False), {"0.weight": (12, 1, 3, 3)}, "8 groups stay"),
        (nn.GroupNorm(2, 8), {"0.weight": (4,), "0.bias": (4,)}, "2 groups stay"),
        (nn.Conv1d(8, 8, 1, bias=False), {"0.weight": (4, 8, 1)}, "nothing is known"),
        (nn.LayerNorm((8, 8)), {"0.weight": (8, 4), "0.bias": (8, 4)}, "disagree"),
        (nn.LSTM(4, 4), {"0.weight_ih_l0": (8, 4)}, "nothing is known"),
    ],
)
def test_layers_that_are_never_pruned_are_refused(layer: nn.Module, shapes: dict, says: str) -> None:
    network = nn.Sequential(layer)
    with pytest.raises(ConfigError, match=says):
        fit_structure(network, shapes_of(network) | shapes)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        # 100 rows are no heads of 32 for query, key and value
        ({"blocks.0.attn.qkv.weight": (100, 128), "blocks.0.attn.qkv.bias": (100,)}, "heads of 32"),
        ({"blocks.0.attn.qkv.weight": (288, 128), "blocks.0.attn.qkv.bias": (288,)}, "heads of 32"),
        ({"pos_embed": (1, 40, 128)}, "nothing is known"),
    ],
)
def test_tokens_and_broken_heads_are_refused(changed: dict, says: str) -> None:
    network = student("vit_micro")
    with pytest.raises(ConfigError, match=says):
        fit_structure(network, shapes_of(network) | changed)


def test_a_file_of_another_architecture_is_named_in_a_few_lines() -> None:
    with pytest.raises(ConfigError, match=r"and [0-9]+ more") as caught:
        fit_structure(student(), shapes_of(student("vit_micro")))
    assert len(caught.value.problems) == 4


def test_refusing_takes_no_memory() -> None:
    network = student()
    shapes = {name: tuple(10**9 for _ in shape) for name, shape in shapes_of(network).items()}
    tracemalloc.start()
    try:
        with pytest.raises(ConfigError):
            fit_structure(network, shapes)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
