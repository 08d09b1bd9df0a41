"""Every importance against numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kdbench.compress.coupling import Coupled, find_couplings
from kdbench.compress.importance import IMPORTANCES
from kdbench.compress.prune import _leave_gradients, prune
from kdbench.errors import ConfigError, UnknownName
from kdbench.model import build
from kdbench.types import ModelChoice, PruneSpec


def little(norm: bool = False) -> nn.Sequential:
    """Two layers around four channels; what stands between them is linear for positive images and weights."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 1, bias=False), *([nn.BatchNorm2d(4)] if norm else [])]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).eval()


def judged(name: str, network: nn.Module, size: int = 4, seed: int = 0) -> torch.Tensor:
    (group,) = find_couplings(network, size).groups
    found = IMPORTANCES.get(name).judge(group, seed)
    assert found is not None
    return found


def squares(network: nn.Sequential) -> torch.Tensor:
    """Of each channel, over the layer that writes it and the layer that reads it; the mean of the two."""
    written = network[0].weight.detach().double().pow(2).sum((1, 2, 3))
    read = network[-1].weight.detach().double().pow(2).sum(0)
    return (written + read) / 2


def test_magnitude_is_the_sum_of_squares_over_its_mean() -> None:
    network = little()
    expected = squares(network) / squares(network).mean()
    torch.testing.assert_close(judged("magnitude", network), expected, rtol=1e-6, atol=0)


def test_lamp_is_a_share_of_what_is_no_smaller() -> None:
    network = little()
    sums = squares(network)
    expected = torch.stack([one / sums[sums >= one].sum() for one in sums])
    torch.testing.assert_close(judged("lamp", network), expected, rtol=1e-6, atol=0)
    assert expected.max() == 1


def test_bn_scale_is_the_size_of_the_scale() -> None:
    network = little(norm=True)
    scales = torch.tensor([0.5, -2.0, 0.25, 1.25])
    network[1].weight.data.copy_(scales)
    torch.testing.assert_close(judged("bn_scale", network), (scales.abs() / 1.0).double())  # their mean is 1


def test_taylor_is_weight_times_the_gradient_by_hand() -> None:
    """The gradient in closed form: a linear network, softmax and cross-entropy."""
    network = little()
    images, labels = torch.randn(6, 3, 4, 4), torch.tensor([0, 1, 1, 0, 1, 0])
    couplings = find_couplings(network, 4)
    _leave_gradients(couplings.network, [(images[:4], labels[:4]), (images[4:], labels[4:])])
    found = IMPORTANCES.get("taylor").judge(couplings.groups[0], 0)

    mixing, reading, offset = network[0].weight[:, :, 0, 0].double(), network[3].weight.double(), network[3].bias
    pixels = images.double().mean((2, 3))
    hidden = pixels @ mixing.T
    wrong = (hidden @ reading.T + offset).softmax(1) - nn.functional.one_hot(labels, 2)
    of_reading, of_mixing = wrong.T @ hidden / 6, (wrong @ reading).T @ pixels / 6
    sums = ((mixing * of_mixing).abs().sum(1) + (reading * of_reading).abs().sum(0)).detach() / 2
    torch.testing.assert_close(found, sums / sums.mean(), rtol=1e-4, atol=1e-6)


def test_random_is_a_function_of_seed_and_layer() -> None:
    group = find_couplings(little(), 4).groups[0]
    other = Coupled("elsewhere", group.units, group.places, group.group)
    importance = IMPORTANCES.get("random")
    first = importance.judge(group, 0)
    torch.manual_seed(9)  # torch's own generator plays no part
    assert torch.equal(first, importance.judge(group, 0))
    assert not torch.equal(first, importance.judge(group, 1))
    assert not torch.equal(first, importance.judge(other, 0))


def test_a_head_is_judged_by_its_query_key_value_and_output() -> None:
    torch.manual_seed(0)
    network = build(ModelChoice(name="vit_micro"), 5, 32).eval()
    group = next(one for one in find_couplings(network, 32).groups if one.name == "blocks.2.attn")
    attention = network.blocks[2].attn
    rows = attention.qkv.weight.detach().double().pow(2).sum(1).reshape(3, 4, 32).sum((0, 2))
    columns = attention.proj.weight.detach().double().pow(2).sum(0).reshape(4, 32).sum(1)
    expected = (rows + columns) / (rows + columns).mean()
    torch.testing.assert_close(IMPORTANCES.get("magnitude").judge(group, 0), expected, rtol=1e-5, atol=0)


def test_weights_of_nothing_are_worth_nothing() -> None:
    network = little()
    for parameter in network.parameters():
        parameter.data.zero_()
    assert torch.equal(judged("magnitude", network), torch.zeros(4, dtype=torch.float64))


def test_bn_scale_leaves_layers_without_a_norm_whole() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 16, 1),
        nn.BatchNorm2d(16),
        nn.Conv2d(16, 16, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 2),
    )
    pruned = prune(network, PruneSpec(macs=0.7, importance="bn_scale", round_to=1), 8)
    assert pruned.left == {"2": "bn_scale cannot judge it"}
    assert pruned.network[2].out_channels == 16 > pruned.network[2].in_channels


def test_bn_scale_of_a_network_without_batch_norm_is_refused() -> None:
    network = build(ModelChoice(name="vit_micro"), 5, 32)
    with pytest.raises(ConfigError, match="VisionTransformer has none; try magnitude"):
        prune(network, PruneSpec(macs=0.5, importance="bn_scale"), 32)


def test_an_unknown_importance_is_refused() -> None:
    with pytest.raises(UnknownName, match="magnitude"):
        prune(little(), PruneSpec(macs=0.5, importance="magnitud"), 4)


def test_every_importance_says_what_it_is() -> None:
    assert IMPORTANCES.names() == ("bn_scale", "lamp", "magnitude", "random", "taylor")
    for name in IMPORTANCES.names():
        one = IMPORTANCES.get(name)
        assert one.name == name
        assert one.summary
        assert one.paper.startswith("arXiv:")
    assert [one.name for one in IMPORTANCES if one.needs_data] == ["taylor"]
