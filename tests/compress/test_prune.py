"""Pruning: exact on networks made by hand, and for every student of the registry what a pruned network promises."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from kdbench.compress.coupling import find_couplings
from kdbench.compress.importance import IMPORTANCES
from kdbench.compress.prune import _Block, _cut_out, _Cuts, _shapes, prune
from kdbench.compress.structure import fit_structure
from kdbench.errors import CompressError, ConfigError
from kdbench.features import Anatomy
from kdbench.methods.simkd import ReusedClassifier, bottleneck
from kdbench.model import MODELS, build
from kdbench.profiling.crosscheck import cross_check
from kdbench.profiling.macs import count_macs
from kdbench.profiling.params import count_params, weight_bytes
from kdbench.types import ModelChoice, PruneSpec

STUDENTS = [spec.name for spec in MODELS if "student" in spec.roles]


def student(name: str, size: int = 32, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build(ModelChoice(name=name), 5, size).eval()


def rebuilt(pruned: nn.Module, fresh: nn.Module) -> nn.Module:
    """Through bytes of tensors alone, as a run's weights are stored."""
    state = load(save(pruned.state_dict()))
    network = fit_structure(fresh, {name: tuple(value.shape) for name, value in state.items()}).eval()
    network.load_state_dict(state)
    return network


def images(count: int = 2, size: int = 32) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(3))


def batches() -> Iterator[tuple[Tensor, Tensor]]:
    yield images(4), torch.tensor([0, 1, 2, 3])


# ---------------------------------------------------------------- by hand


def chain(weights: list[float]) -> nn.Sequential:
    """Channels whose weights are these numbers, each read alike."""
    network = nn.Sequential(
        nn.Conv2d(3, len(weights), 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(len(weights), 2),
    )
    for channel, weight in enumerate(weights):
        network[0].weight.data[channel] = weight
    network[0].bias.data.fill_(0.25)
    network[4].weight.data.fill_(0.5)
    return network.eval()


def test_just_the_weakest_channels_leave() -> None:
    network = chain([1.0, 0.1, -2.0, 0.2, 0.9, 3.0])
    pruned = prune(network, PruneSpec(macs=2 / 3, round_to=1), 4)
    assert torch.equal(pruned.network[0].weight, network[0].weight[[0, 2, 4, 5]])
    assert torch.equal(pruned.network[0].bias, network[0].bias[[0, 2, 4, 5]])
    assert torch.equal(pruned.network[4].weight, network[4].weight[:, [0, 2, 4, 5]])
    assert torch.equal(pruned.network[4].bias, network[4].bias)
    # 4 x 4 positions of 3 channels in, and two classes
    assert (pruned.before.macs, pruned.after.macs) == (6 * (48 + 2), 4 * (48 + 2))
    assert (pruned.before.params, pruned.after.params) == (6 * 6 + 2, 4 * 6 + 2)
    assert pruned.after.bytes == 4 * pruned.after.params
    assert pruned.reached == 2 / 3
    assert pruned.left == {}


def test_it_says_what_the_network_says_without_those_channels() -> None:
    network = chain([1.0, 0.1, 2.0, 0.2])
    silenced = copy.deepcopy(network)
    silenced[4].weight.data[:, [1, 3]] = 0
    pruned = prune(network, PruneSpec(params=0.6, round_to=1), 4)
    torch.testing.assert_close(pruned.network(images(2, 4)), silenced(images(2, 4)), rtol=1e-6, atol=1e-6)


def test_a_channel_that_nothing_reads_leaves_without_a_trace() -> None:
    network = chain([1.0, 0.5, 2.0, 0.7])
    network[4].weight.data[:, 1] = 0
    network[0].weight.data[1] = 0
    pruned = prune(network, PruneSpec(macs=0.75, round_to=1), 4)
    torch.testing.assert_close(pruned.network(images(2, 4)), network(images(2, 4)), rtol=1e-6, atol=1e-6)


def two_layers() -> nn.Sequential:
    torch.manual_seed(4)
    return nn.Sequential(
        nn.Conv2d(3, 24, 1, bias=False),
        nn.ReLU(),
        nn.Conv2d(24, 16, 1, bias=False),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 2, bias=False),
    ).eval()


@pytest.mark.parametrize("fraction", [0.9, 0.62, 0.5, 0.3, 0.11])
@pytest.mark.parametrize("target", ["macs", "params", "bytes"])
def test_no_channel_could_stay_that_left(target: str, fraction: float) -> None:
    """How near, in closed form: a channel more in either layer would pass the target."""
    position = 16 if target == "macs" else 1

    def cost(first: int, second: int) -> int:
        return position * (3 * first + first * second) + 2 * second

    pruned = prune(two_layers(), PruneSpec(round_to=1, **{target: fraction}), 4)
    first, second = pruned.network[0].out_channels, pruned.network[2].out_channels
    limit = fraction * cost(24, 16)
    assert cost(first, second) <= limit
    assert first == 24 or cost(first + 1, second) > limit
    assert second == 16 or cost(first, second + 1) > limit
    assert pruned.reached == pytest.approx(cost(first, second) / cost(24, 16), rel=1e-12)


def test_what_stays_is_a_multiple_and_narrow_layers_stay_whole() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 20, 1), nn.Conv2d(20, 15, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(15, 2)
    )
    pruned = prune(network, PruneSpec(macs=0.85, round_to=8), 4)
    assert [layer.out_channels for layer in pruned.network[:2]] == [16, 15]
    assert pruned.left == {"1": "15 channels or heads are too few to leave a multiple of 8 behind"}


def test_a_target_out_of_reach_names_the_nearest() -> None:
    with pytest.raises(CompressError, match=r"macs of a Sequential cannot fall to 10 %.* round_to 8") as caught:
        prune(two_layers(), PruneSpec(macs=0.1, round_to=8), 4)
    least = (16 * (3 * 8 + 8 * 8) + 2 * 8) / (16 * (3 * 24 + 24 * 16) + 2 * 16)
    assert f"{100 * least:.3g} %" in str(caught.value)
    assert prune(two_layers(), PruneSpec(macs=least, round_to=8), 4).reached == pytest.approx(least)


def test_what_an_importance_or_a_target_needs_is_asked_for() -> None:
    with pytest.raises(ConfigError, match="give batches"):
        prune(two_layers(), PruneSpec(macs=0.5, importance="taylor"), 4)
    with pytest.raises(ConfigError, match="gives none"):
        prune(two_layers(), PruneSpec(macs=0.5, importance="taylor", round_to=1), 4, batches=list)
    with pytest.raises(ConfigError, match="give measure_ms"):
        prune(two_layers(), PruneSpec(latency=0.5), 4)


def test_a_latency_is_measured_and_met() -> None:
    """With a clock that counts weights, so that the answer is known."""
    asked: list[int] = []

    def measure(network: nn.Module) -> float:
        asked.append(count_params(network))
        return asked[-1] / 100

    pruned = prune(two_layers(), PruneSpec(latency=0.5, round_to=1), 4, measure_ms=measure)
    whole = count_params(two_layers())
    assert pruned.after.params == count_params(pruned.network) <= whole / 2
    assert pruned.reached == pytest.approx(pruned.after.params / whole)
    assert len(asked) < 12  # of 38 blocks: halving, not one by one
    # the fewest blocks: with one less it was measured, and too much
    assert min(one for one in asked if one > whole / 2) - pruned.after.params <= 27


def test_every_step_judges_anew_and_reads_so_many_images() -> None:
    read: list[int] = []

    def endless() -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            read.append(1)
            yield images(4, 4), torch.tensor([0, 1, 1, 0])

    told: list[tuple[str, int, int]] = []
    spec = PruneSpec(macs=0.5, importance="taylor", steps=3, round_to=1, images=10)
    pruned = prune(two_layers(), spec, 4, batches=endless, progress=lambda *word: told.append(word))
    assert len(read) == 3 * 3
    assert told == [("pruning", step, 3) for step in range(4)]
    assert 0.4 < pruned.reached <= 0.5


def test_the_same_input_gives_the_same_network_and_the_given_one_stays() -> None:
    network = two_layers().train()
    before = copy.deepcopy(network.state_dict())
    spec = PruneSpec(macs=0.5, round_to=1, importance="random")
    first, again, other = (prune(network, spec, 4, seed=seed).network for seed in (1, 1, 2))
    assert repr(first) == repr(again)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in first.state_dict().items())
    same = [torch.equal(value, other.state_dict()[name]) for name, value in first.state_dict().items()
            if value.shape == other.state_dict()[name].shape]  # fmt: skip
    assert not all(same)
    assert network.training
    assert not any(module.training for module in first.modules())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in first.parameters())


class Shuffled(nn.Module):
    """Its second layer is asked for eight channels by the code, and its halves are split."""

    def __init__(self) -> None:
        super().__init__()
        self.free, self.split, self.fixed = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 1)
        self.grouped, self.head = nn.Conv2d(16, 16, 1, groups=4), nn.Linear(16, 2)

    def forward(self, image: Tensor) -> Tensor:
        left, right = self.split(self.free(image)).split([8, 8], dim=1)
        maps = self.fixed(torch.cat([right, left], dim=1))
        maps = maps.reshape(len(maps), 16, -1).transpose(1, 2).transpose(1, 2).reshape(len(maps), 16, 4, 4)
        return self.head(self.grouped(maps.relu()).mean((2, 3)))


def test_what_cannot_be_cut_is_left_and_said() -> None:
    pruned = prune(Shuffled(), PruneSpec(macs=0.95, round_to=1), 4)
    assert set(pruned.left) == {"split", "fixed", "grouped"}
    assert "parts of fixed size" in pruned.left["split"]
    assert "groups" in pruned.left["grouped"]
    assert pruned.network.free.out_channels < 16
    assert pruned.network(images(2, 4)).shape == (2, 2)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.Linear(3, 2)
        self.second.weight = self.first.weight

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.second(self.first(image)).mean((2, 3)))


class Detached(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 2)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(image.mean((2, 3))).detach()


@pytest.mark.parametrize(("network", "says"), [(Tied(), "one tensor"), (Detached(), "a Detached cannot be pruned")])
def test_a_network_that_cannot_be_pruned_is_refused(network: nn.Module, says: str) -> None:
    with pytest.raises(CompressError, match=says):
        prune(network, PruneSpec(macs=0.5), 4)


# ---------------------------------------------------------------- registered networks


def rounded(before: nn.Module, after: nn.Module, round_to: int) -> bool:
    """Whether every convolution and linear layer has as many channels as before, or a multiple."""
    pairs = zip(before.modules(), after.modules(), strict=True)
    widths = [
        (one.weight.shape[0], other.weight.shape[0]) for one, other in pairs if isinstance(one, nn.Conv2d | nn.Linear)
    ]
    return all(new == old or (new % round_to == 0 and old >= 2 * round_to) for old, new in widths)


@pytest.mark.parametrize("name", STUDENTS)
def test_a_student_of_half_the_macs_is_stored_and_rebuilt(name: str) -> None:
    dense = student(name, 64)
    pruned = prune(dense, PruneSpec(macs=0.5), 64)
    assert 0.49 < pruned.reached <= 0.5
    count = count_macs(pruned.network, 64)
    assert pruned.after.macs == count.macs <= pruned.before.macs / 2
    by_fvcore = cross_check(pruned.network, 64, count)
    assert not [reason for reason in by_fvcore.reasons if "unexplained" in reason]
    assert pruned.after.params == count_params(pruned.network) < pruned.before.params
    assert pruned.after.bytes == weight_bytes(pruned.network) < pruned.before.bytes
    assert rounded(dense, pruned.network, 8)
    again = rebuilt(pruned.network, student(name, 64, seed=1))
    with torch.inference_mode():
        logits = pruned.network(images(2, 64))
        assert torch.equal(again(images(2, 64)), logits)
    assert logits.shape == (2, 5)
    assert bool(logits.isfinite().all())


def unlike_fresh(network: nn.Module) -> nn.Module:
    """In float64, with statistics as after a training: a channel that is missing then shows."""
    torch.manual_seed(7)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value, least in ((module.weight, 0.5), (module.bias, -1.0), (module.running_var, 0.5)):
                value.data.uniform_(least, least + 1.5)
            module.running_mean.data.normal_()
    return network.double()


@pytest.mark.parametrize("name", STUDENTS)
def test_a_narrow_student_is_the_dense_one_with_silent_channels(name: str) -> None:
    """A second way: nothing is cut, and whatever reads a channel that would leave reads 0 times it.

    The width of a transformer's tokens is left out: its layer norms see which channels there are.
    """
    dense = student(name)
    normed = ("norm",) if name.startswith(("vit", "deit")) else ()
    groups = [
        group
        for group in find_couplings(dense, 32).groups
        if group.units > 2 and not any(word in tensor for word in normed for tensor, _ in group.places)
    ]
    unlike_fresh(dense)
    cuts = _Cuts(_shapes(dense.state_dict()), groups)
    kept = cuts.kept([_Block(number, (0, group.units - 1), 0.0) for number, group in enumerate(groups)])
    narrow = _cut_out(dense, kept)
    silent = copy.deepcopy(dense)
    for (tensor, dim), indices in kept.items():
        if dim == 1:
            weight = silent.get_parameter(tensor)
            gone = sorted(set(range(weight.shape[1])) - set(indices))
            weight.data[:, gone] = 0
    with torch.inference_mode():
        logits, expected = narrow(images().double()), silent(images().double())
        whole = dense(images().double())
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(logits, whole, rtol=1e-4, atol=1e-6)
    assert len(groups) > 5


@pytest.mark.parametrize("name", ["resnet8_w16", "vit_micro"])
@pytest.mark.parametrize("importance", IMPORTANCES.names())
def test_every_importance_prunes_a_cnn_and_a_transformer(importance: str, name: str) -> None:
    network, spec = student(name), PruneSpec(params=0.6, importance=importance, steps=2)
    if (importance, name) == ("bn_scale", "vit_micro"):
        with pytest.raises(ConfigError, match="magnitude"):
            prune(network, spec, 32)
        return
    pruned = prune(network, spec, 32, batches=batches)
    assert 0.5 < pruned.reached <= 0.6
    assert rounded(network, pruned.network, 8)
    again = rebuilt(pruned.network, student(name, seed=1))
    assert torch.equal(again(images()), pruned.network(images()))


def test_a_transformer_loses_heads_hidden_units_and_width() -> None:
    """Each where it is made the weakest."""
    network = student("vit_micro")
    with torch.no_grad():
        for block in network.blocks:
            block.mlp.fc1.weight[100:] *= 1e-3
            block.mlp.fc2.weight[:, 100:] *= 1e-3
            block.attn.qkv.weight.view(3, 4, 32, 128)[:, 1] *= 1e-3
            block.attn.proj.weight[:, 32:64] *= 1e-3
    pruned = prune(network, PruneSpec(macs=0.45), 32).network
    others = [*range(32), *range(64, 128)]
    for block, new in zip(network.blocks, pruned.blocks, strict=True):
        assert new.attn.num_heads == 3
        assert torch.equal(new.attn.proj.weight, block.attn.proj.weight[:, others])
        assert torch.equal(new.mlp.fc1.weight[:100], block.mlp.fc1.weight[:100])
        assert new.mlp.fc1.out_features < 512 // 2
    by_width = prune(student("vit_micro"), PruneSpec(macs=0.2), 32).network
    assert by_width.pos_embed.shape[2] == by_width.norm.normalized_shape[0] == by_width.head.in_features < 128


def test_a_pruned_student_trains_on() -> None:
    pruned = prune(student("resnet8_w16"), PruneSpec(macs=0.5), 32).network.train()
    optimiser = torch.optim.SGD(pruned.parameters(), lr=0.05)
    losses = []
    for _ in range(4):
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(pruned(images(4)), torch.tensor([0, 1, 2, 3]))
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_what_simkd_ships_is_pruned_whole() -> None:
    torch.manual_seed(0)
    trunk = student("resnet8_w16")
    anatomy = Anatomy(classes=5, pooled=64, stages=((64, 2, 2),))
    head = nn.Linear(48, 5).requires_grad_(False)
    shipped = ReusedClassifier(trunk, bottleneck(64, 48, 2, True), head, anatomy, None).eval()
    pruned = prune(shipped, PruneSpec(macs=0.5), 32)
    assert 0.45 < pruned.reached <= 0.5
    assert pruned.network.head.out_features == 5
    assert not pruned.network.head.weight.requires_grad
    assert torch.equal(rebuilt(pruned.network, shipped)(images()), pruned.network(images()))
