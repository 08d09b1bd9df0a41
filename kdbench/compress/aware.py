"""A network that computes in fp32 what its int8 file will, so that training can make up for the rounding. Floor 4.

Batch statistics are folded into the convolutions first, as every int8 file has them: from there on they stay, and what
is trained is the very weight that will be rounded. Rounding passes gradients on as if it were not there, but for values
beyond the range (straight through; Jacob et al., arXiv:1712.05877).

torch's own quantisation of eager modules is being retired, and its tracers want networks free of branches. Here one
pass of noise tells which module follows on which: that suits any network, and what was folded is then proven equal.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from kdbench.errors import CompressError
from kdbench.profiling.conversion import reference_images

FORGET = 0.01
"""Share of a batch in the ranges of activations while training. They begin as calibration found them and follow the
weights: the file takes its ranges anew from the trained network, so fixed ones would drift away from those."""

SAME = 1e-4
"""The most that a logit may be off after folding, as a fraction of the largest one: some 1e-6 is the order of sums."""

_LEVELS = 255  # steps of uint8
_LARGEST = 127  # of int8, symmetric
_BATCH = 32


def fold(network: nn.Module, image_size: int) -> nn.Module:
    """A copy in evaluation mode, with every BatchNorm that follows on a convolution alone as part of its weights.

    The same network gives the same modules under the same names, whatever its weights: those of a folded one can be
    loaded into it. A BatchNorm that follows on something else stays, and so does the whole network where folding would
    change what it says.

    Args:
        network: on the CPU.
        image_size: pixels, both sides.
    """
    whole, folded = copy.deepcopy(network).eval(), copy.deepcopy(network).eval()
    followers, _ = _neighbours(folded, image_size)
    modules = dict(folded.named_modules())
    with torch.no_grad():
        for name, module in modules.items():
            after = followers.get(name, "")
            norm = modules.get(after)
            if isinstance(module, nn.Conv2d) and isinstance(norm, _BatchNorm):
                _fold_into(module, norm)
                _replace(folded, after, _without_statistics(norm))
        images = reference_images(image_size)
        expected, found = whole(images), folded(images)
    return folded if (found - expected).abs().max() <= SAME * expected.abs().max() else whole


def fake_quantised(
    network: nn.Module, image_size: int, calibration: np.ndarray, weights_per_channel: bool = True
) -> nn.Module:
    """A folded copy, in evaluation mode, that rounds as the static int8 file of it will, and can be trained.

    The same operators are rounded as `quantise` puts into int8: convolutions but the depthwise ones, and linear layers.
    Ranges of their activations are part of the state; they follow the batches in training and stand still otherwise.

    Args:
        network: on the CPU.
        calibration: (N, 3, S, S) float32, as `quantise` takes it.
        weights_per_channel: a scale for each output channel, or one for all.
    Raises: CompressError, if there is nothing to calibrate by or to round.
    """
    if len(calibration) == 0 or calibration.shape[1:] != (3, image_size, image_size):
        raise CompressError(
            f"images for calibration have shape {calibration.shape}; they have to be (N, 3, {image_size}, {image_size})"
        )
    if not np.isfinite(calibration).all():
        raise CompressError("images for calibration have values that are not finite; normalise them again")
    made = fold(network, image_size)
    followers, givers = _neighbours(made, image_size)
    modules = dict(made.named_modules())
    rounded = [name for name in followers if _is_rounded(modules[name])]
    if not rounded:
        raise CompressError("the network has no convolution or linear layer to round; leave it in fp32")
    after_it = set[str]()
    for name in rounded:
        module = modules[name]
        after = modules.get(followers[name])
        # a linear layer puts out fp32; a convolution's last step may be a ReLU, and rounds behind it
        fused = isinstance(module, nn.Conv2d) and isinstance(after, nn.ReLU | nn.ReLU6)
        _replace(made, name, _Rounded(module, isinstance(module, nn.Conv2d) and not fused, weights_per_channel))
        if fused:
            after_it.add(followers[name])
        # the file rounds what comes in for all who take it, as for a shortcut beside the convolution
        if (giver := givers.get(name, "")) and not _is_rounded(modules[giver]):
            after_it.add(giver)
    for name in after_it:
        _replace(made, name, _RoundedAfter(modules[name]))
    ranges = [module for module in made.modules() if isinstance(module, _Range)]
    with torch.no_grad():
        for each in ranges:
            each.watching = True
        for start in range(0, len(calibration), _BATCH):
            made(torch.from_numpy(np.ascontiguousarray(calibration[start : start + _BATCH])))
        for each in ranges:
            each.watching = False
    return made.eval()  # the new parts, too: else their ranges would move with what is asked


def plain(network: nn.Module) -> nn.Module:
    """What `fake_quantised` gave, trained or not, as the ordinary folded network in fp32: a copy, to be quantised."""
    made = copy.deepcopy(network)
    for name, module in list(made.named_modules()):
        if isinstance(module, _Rounded | _RoundedAfter):
            _replace(made, name, module.inner)
    return made


# ---------------------------------------------------------------- rounding


class _Range(nn.Module):
    """Rounds activations to uint8 steps of one range, which holds 0."""

    low: Tensor
    high: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))
        self.watching = False

    def forward(self, values: Tensor) -> Tensor:
        exact = values.float()  # bf16 has fewer steps than the range
        if self.watching:
            low, high = exact.min(), exact.max()
            self.low.copy_(torch.minimum(self.low, low))
            self.high.copy_(torch.maximum(self.high, high))
            return values
        if self.training:
            with torch.no_grad():
                self.low.lerp_(exact.min().clamp(max=0), FORGET)
                self.high.lerp_(exact.max().clamp(min=0), FORGET)
        # clones: the next batch moves the ranges while this one may still wait for its gradients
        low, high = self.low.clone(), self.high.clone()
        scale = torch.where(high > low, (high - low) / _LEVELS, 1.0)
        zero = torch.round(-low / scale)
        inside = torch.clamp(exact, -zero * scale, (_LEVELS - zero) * scale)
        steps = torch.round(inside / scale)
        return _straight_through(inside, steps * scale).to(values.dtype)


class _Rounded(nn.Module):
    """A convolution or linear layer with rounded weights and input, and perhaps output."""

    def __init__(self, inner: nn.Conv2d | nn.Linear, output: bool, per_channel: bool) -> None:
        super().__init__()
        self.inner: nn.Conv2d | nn.Linear = inner
        self.input = _Range()
        self.output = _Range() if output else nn.Identity()
        self.per_channel = per_channel

    def forward(self, values: Tensor) -> Tensor:
        if self.input.watching:
            return self.output(self.inner(self.input(values)))
        weights = {"weight": _rounded_weights(self.inner.weight, self.per_channel)}
        return self.output(functional_call(self.inner, weights, (self.input(values),)))


class _RoundedAfter(nn.Module):
    """A module whose output is rounded."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.output = _Range()

    def forward(self, values: Tensor) -> Tensor:
        return self.output(self.inner(values))


def _rounded_weights(weight: Tensor, per_channel: bool) -> Tensor:
    with torch.no_grad():
        sizes = weight.abs()
        largest = sizes.flatten(1).amax(1).view(-1, *(1,) * (weight.ndim - 1)) if per_channel else sizes.amax()
        scale = torch.where(largest > 0, largest / _LARGEST, 1.0)
        rounded = torch.round(weight / scale) * scale
    return _straight_through(weight, rounded)


def _straight_through(values: Tensor, rounded: Tensor) -> Tensor:
    """The rounded values, with the gradient of the others."""
    return values + (rounded - values).detach()


def _is_rounded(module: nn.Module) -> TypeGuard[nn.Conv2d | nn.Linear]:
    if isinstance(module, nn.Conv2d):
        return not (module.groups > 1 and module.weight.shape[1] == 1)
    return isinstance(module, nn.Linear)


# ---------------------------------------------------------------- which module follows on which


def _neighbours(network: nn.Module, image_size: int) -> tuple[dict[str, str], dict[str, str]]:
    """For every module that is called once, but for those that pass on what they get, its neighbours by name.

    Returns: which module alone takes what it gives; which one gave what it takes. "" where none does. What a function
        takes is not seen: folding is proven right afterwards.
    """
    calls, takers = Counter[str](), dict[str, list[str]]()
    givers: dict[int, tuple[str, int]] = {}
    kept: list[Tensor] = []  # alive, so that no other tensor gets the same id meanwhile
    handles = []

    def listen(name: str) -> None:
        def before(module: nn.Module, args: tuple[Any, ...]) -> None:
            calls[name] += 1
            if not args or not isinstance(args[0], Tensor):
                return
            giver, version = givers.get(id(args[0]), ("", 0))
            if (
                giver and args[0]._version == version
            ):  # else a function changed it in place, as a shortcut that is added
                takers.setdefault(giver, []).append(name)

        def after(module: nn.Module, args: tuple[Any, ...], given: Any) -> None:
            if isinstance(given, Tensor):
                kept.append(given)
                givers[id(given)] = (name, given._version)  # of one that is changed in place, the last who did it

        handles.extend([modules[name].register_forward_pre_hook(before), modules[name].register_forward_hook(after)])

    modules = dict(network.named_modules())
    for name in _workers(network):
        listen(name)
    try:
        with torch.no_grad():
            network(reference_images(image_size))
    finally:
        for handle in handles:
            handle.remove()
    alone = {name: found[0] for name, found in takers.items() if len(found) == 1 and calls[found[0]] == 1}
    once = [name for name, count in calls.items() if count == 1]
    gave = {taker: giver for giver, found in takers.items() for taker in found if calls[giver] == 1}
    return {name: alone.get(name, "") for name in once}, {name: gave.get(name, "") for name in once}


def _workers(network: nn.Module) -> Iterator[str]:
    """The names of modules that compute something: leaves, and timm's BatchNorm, which has its activation inside."""
    for name, module in network.named_modules():
        leaf = not any(True for _ in module.children())
        if (leaf or isinstance(module, _BatchNorm)) and not isinstance(module, nn.Identity | nn.Dropout):
            yield name


def _fold_into(convolution: nn.Conv2d, norm: _BatchNorm) -> None:
    if norm.running_mean is None or norm.running_var is None:
        raise CompressError("a BatchNorm keeps no statistics, and takes them of each batch; it cannot be folded")
    factor = torch.rsqrt(norm.running_var.double() + norm.eps)
    shift = -norm.running_mean.double() * factor
    if norm.affine:
        factor, shift = factor * norm.weight.double(), shift * norm.weight.double() + norm.bias.double()
    weight, bias = convolution.weight.double(), convolution.bias
    if bias is not None:
        shift = shift + bias.double() * factor
    convolution.weight.copy_(weight * factor.view(-1, 1, 1, 1))
    convolution.bias = nn.Parameter(shift.to(convolution.weight.dtype))


def _without_statistics(norm: nn.Module) -> nn.Module:
    """What is left of a BatchNorm: nothing, or what timm's does after it."""
    rest = [part for part in norm.children() if not isinstance(part, nn.Identity)]
    return rest[0] if len(rest) == 1 else nn.Sequential(*rest) if rest else nn.Identity()


def _replace(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, module)
