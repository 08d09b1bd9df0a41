"""Structured pruning: the units that matter least leave until a counted target is met. Floor 4.

The dependency graph and most importances are torch-pruning's; the counts are kdbench's own. What stays is cut out of
the dense network's tensors, in the structure that ``fit_structure`` reads off their shapes: so a pruned network that
was stored and rebuilt is the pruned network.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from operator import itemgetter

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.compress.coupling import Coupled, Couplings, find_couplings
from kdbench.compress.importance import IMPORTANCES, Importance
from kdbench.compress.structure import Shape, fit_structure
from kdbench.errors import CompressError, ConfigError
from kdbench.profiling.macs import count_macs
from kdbench.profiling.params import count_params, weight_bytes
from kdbench.types import Progress, PruneSpec

Batches = Callable[[], Iterable[tuple[Tensor, Tensor]]]
"""Makes (images (B, 3, S, S) normalised, labels (B,)), from the first on at every call."""

MeasureMs = Callable[[nn.Module], float]
"""The latency of a network, in milliseconds."""


_ROUNDING = 1e-12
"""Of a limit: a fraction that is a quotient of two counts is met by that count."""


@dataclass(frozen=True)
class Size:
    """What a network costs, counted by ``kdbench.profiling``."""

    macs: int
    params: int
    bytes: int


@dataclass(frozen=True)
class Pruned:
    """A pruned network and what became of it."""

    network: nn.Module
    """In evaluation mode, on the CPU, in fp32."""
    before: Size
    after: Size
    reached: float
    """What stayed of what the target counts, as a fraction; of a latency, as it was measured."""
    left: Mapping[str, str]
    """Why a layer's channels all stayed, by its name. Input and classifier, which are never cut, are not in it."""


@dataclass(frozen=True)
class _Block:
    """Units that leave together, so that what stays is rounded."""

    group: int
    units: tuple[int, ...]
    score: float


def prune(
    network: nn.Module,
    spec: PruneSpec,
    image_size: int,
    *,
    batches: Batches | None = None,
    measure_ms: MeasureMs | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Pruned:
    """A narrower copy of a network, which costs at most what the target leaves.

    Every group of coupled channels is put in the order of its units' importance and cut into blocks, so that what stays
    is a multiple of ``round_to``. The blocks of all groups leave in the order of their mean importance, until the
    target is met; then those are put back, the most important first, that it does not need. A group of fewer than twice
    ``round_to`` channels stays whole.

    How near: of macs, params and bytes, no group's last block could stay without passing the target. Of latency, the
    blocks that leave are the fewest that were measured to meet it.

    The same network and spec give the same result, bit for bit; not so for latency, which is measured.

    Args:
        network: takes images (B, 3, image_size, image_size); stays as it is.
        spec: of what how much may stay, and how it is chosen.
        image_size: pixels, both sides.
        batches: images for an importance that needs data; the first ``spec.images`` are read, at every step.
        measure_ms: for a latency target.
        seed: of an importance that is random.
        progress: told of every step.
    Raises: ConfigError if batches or measure_ms are needed and missing, or the importance cannot judge the network;
        UnknownName; CompressError if the target cannot be reached, or the network cannot be pruned.
    """
    importance = IMPORTANCES.get(spec.importance)
    dense = copy.deepcopy(network).to(device="cpu", dtype=torch.float32).eval()
    target, fraction = spec.target
    importance.check(dense)
    if importance.needs_data and batches is None:
        raise ConfigError([f"importance '{importance.name}' looks at training images; give batches"], "prune")
    cost = _cost_of(dense, target, image_size, measure_ms)
    whole = cost(_shapes(dense.state_dict()))
    current, left = dense, dict[str, str]()
    for step in range(1, spec.steps + 1):
        if progress is not None:
            progress("pruning", step - 1, spec.steps)
        share = 1 - (1 - fraction) * step / spec.steps
        limit = whole * share * (1 + _ROUNDING)
        couplings = find_couplings(current, image_size)
        if importance.needs_data and batches is not None:
            _leave_gradients(couplings.network, _first(batches(), spec.images))
        current, left = _narrower(current, couplings, importance, spec, image_size, seed, limit, whole, cost)
    if progress is not None:
        progress("pruning", spec.steps, spec.steps)
    reached = float(cost(_shapes(current.state_dict())) / whole)
    return Pruned(current, _size(dense, image_size), _size(current, image_size), reached, left)


# ---------------------------------------------------------------- one step


def _narrower(
    network: nn.Module,
    couplings: Couplings,
    importance: Importance,
    spec: PruneSpec,
    image_size: int,
    seed: int,
    limit: float,
    whole: float,
    cost: _Cost,
) -> tuple[nn.Module, dict[str, str]]:
    """The network without the blocks that have to leave to cost at most `limit`, and what could not be cut."""
    groups, left = _prunable(network, couplings, spec.round_to, image_size)
    scores = [importance.judge(group, seed) for group in groups]
    left |= {
        group.name: f"{importance.name} cannot judge it" for group, of in zip(groups, scores, strict=True) if of is None
    }
    blocks = _in_order(
        [
            block
            for number, (group, of) in enumerate(zip(groups, scores, strict=True))
            if of is not None
            for block in _blocks(number, group, of, spec.round_to)
        ]
    )
    state = network.state_dict()
    cuts = _Cuts(_shapes(state), groups)
    taken = _chosen(blocks, cuts, cost, limit)
    if not cost.confirm(cuts.shapes(taken if taken is not None else blocks)):
        taken = _chosen(blocks, cuts, cost, limit)
    if taken is None:
        least = float(cost(cuts.shapes(blocks)) / whole)
        target, fraction = spec.target
        raise CompressError(
            f"{target} of a {type(network).__name__} cannot fall to {100 * fraction:.3g} %: the least that can be "
            f"reached with round_to {spec.round_to} and {importance.name} is {100 * least:.3g} %; ask for more, or "
            "for a smaller round_to"
        )
    return _cut_out(network, cuts.kept(taken)), left


def _prunable(
    network: nn.Module, couplings: Couplings, round_to: int, image_size: int
) -> tuple[list[Coupled], dict[str, str]]:
    """The groups that are wide enough and whose layers run without some of their channels, and why others do not."""
    if not couplings.groups:
        reason = next((f"'{name}': {why}" for name, why in couplings.left.items()), "no layer leads to its output")
        raise CompressError(f"a {type(network).__name__} cannot be pruned ({reason}); prune another architecture")
    left = dict(couplings.left)
    groups = []
    for group in couplings.groups:
        if group.units < 2 * group.step(round_to):
            left[group.name] = f"{group.units} channels or heads are too few to leave a multiple of {round_to} behind"
        else:
            groups.append(group)
    if _runs(network, groups, round_to, image_size):
        return groups, left
    able = [group for group in groups if _runs(network, [group], round_to, image_size)]
    left |= {group.name: "its sizes are fixed in the code of the network" for group in groups if group not in able}
    if not able:
        raise CompressError(
            f"a {type(network).__name__} cannot be pruned: no layer runs with fewer channels; "
            "prune another architecture"
        )
    return able, left


def _runs(network: nn.Module, groups: list[Coupled], round_to: int, image_size: int) -> bool:
    """Whether a network without the first units of these groups runs, and still gives logits of the same shape."""
    cuts = _Cuts(_shapes(network.state_dict()), groups)
    first = [_Block(number, tuple(range(group.step(round_to))), 0.0) for number, group in enumerate(groups)]
    try:
        narrow = _cut_out(network, cuts.kept(first))
        with torch.no_grad():
            image = torch.zeros(1, 3, image_size, image_size)
            return bool(narrow(image).shape == network(image).shape)
    except Exception:  # the network's own code, and sizes that it did not expect
        return False


def _blocks(number: int, group: Coupled, scores: Tensor, round_to: int) -> Iterator[_Block]:
    """The units of a group in blocks, in the order they leave; the last multiple of `round_to` stays."""
    order = torch.argsort(scores, stable=True).tolist()
    values, step = scores.tolist(), group.step(round_to)
    start, highest = 0, float("-inf")
    while len(order) - start > step:
        size = (len(order) - start) % step or step
        units = tuple(order[start : start + size])
        # a block of few units may have a higher mean than the next; it leaves before it all the same
        highest = max(highest, sum(values[unit] for unit in units) / size)
        yield _Block(number, units, highest)
        start += size


def _in_order(blocks: list[_Block]) -> list[_Block]:
    """The least important first; sorting is stable, so the blocks of a group stay in their order."""
    return sorted(blocks, key=lambda block: block.score)


def _chosen(blocks: list[_Block], cuts: _Cuts, cost: _Cost, limit: float) -> list[_Block] | None:
    """The blocks that leave; None if the limit is not met without all of them."""
    taken = _fewest(blocks, cuts, cost, limit)
    # a measurement is too noisy, and takes too long, to be asked block by block
    return taken if taken is None or isinstance(cost, _Latency) else _put_back(taken, cuts, cost, limit)


def _fewest(blocks: list[_Block], cuts: _Cuts, cost: _Cost, limit: float) -> list[_Block] | None:
    """The fewest first blocks without which the network costs at most `limit`; None if all are not enough."""
    low, high = -1, len(blocks)  # without `low` blocks it costs too much, without `high` it does not
    if cost(cuts.shapes(blocks)) > limit:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        if cost(cuts.shapes(blocks[:middle])) <= limit:
            high = middle
        else:
            low = middle
    return blocks[:high]


def _put_back(taken: list[_Block], cuts: _Cuts, cost: _Cost, limit: float) -> list[_Block]:
    """The blocks that have to leave all the same when the most important of them may stay."""
    full: set[int] = set()
    for block in reversed(taken):
        if block.group in full:  # the blocks of a group that left before stay away: less important ones never return
            continue
        rest = [other for other in taken if other is not block]
        if cost(cuts.shapes(rest)) <= limit:
            taken = rest
        else:
            full.add(block.group)
    return taken


# ---------------------------------------------------------------- tensors


class _Cuts:
    """What of each tensor stays when blocks leave."""

    def __init__(self, own: Mapping[str, Shape], groups: list[Coupled]) -> None:
        self.own, self.groups = own, groups
        self.held = [{place: Counter(units) for place, units in group.places.items()} for group in groups]

    def kept(self, blocks: Iterable[_Block]) -> dict[tuple[str, int], list[int]]:
        """The indices that stay, of each dimension that loses some."""
        gone: dict[int, set[int]] = {}
        for block in blocks:
            gone.setdefault(block.group, set()).update(block.units)
        lost: dict[tuple[str, int], set[int]] = {}
        for number, units in gone.items():
            for place, unit_of in self.groups[number].places.items():
                lost.setdefault(place, set()).update(index for index, unit in enumerate(unit_of) if unit in units)
        return {
            (name, dim): [index for index in range(self.own[name][dim]) if index not in indices]
            for (name, dim), indices in lost.items()
        }

    def shapes(self, blocks: Iterable[_Block]) -> dict[str, Shape]:
        found = {name: list(shape) for name, shape in self.own.items()}
        for block in blocks:
            for (name, dim), indices in self.held[block.group].items():
                found[name][dim] -= sum(indices[unit] for unit in block.units)
        return {name: tuple(shape) for name, shape in found.items()}


def _shapes(state: Mapping[str, Tensor]) -> dict[str, Shape]:
    return {name: tuple(value.shape) for name, value in state.items()}


def _cut_out(network: nn.Module, kept: Mapping[tuple[str, int], list[int]]) -> nn.Module:
    """A network of the values that stay."""
    state = dict(network.state_dict())
    for (name, dim), indices in kept.items():
        state[name] = state[name].index_select(dim, torch.tensor(indices))
    fitted = fit_structure(network, _shapes(state)).eval()
    fitted.load_state_dict(state)
    return fitted


# ---------------------------------------------------------------- costs


def _size(network: nn.Module, image_size: int) -> Size:
    return Size(count_macs(network, image_size).macs, count_params(network), weight_bytes(network))


class _Cost(ABC):
    """What a network costs, in the unit of the target, by the shapes of its tensors."""

    @abstractmethod
    def __call__(self, shapes: Mapping[str, Shape]) -> float: ...

    def confirm(self, shapes: Mapping[str, Shape]) -> bool:
        """Whether the last answers hold; if not, the next ones are found another way."""
        return True


class _Params(_Cost):
    def __init__(self, network: nn.Module) -> None:
        self.names = [name for name, _ in network.named_parameters()]

    def __call__(self, shapes: Mapping[str, Shape]) -> float:
        return sum(math.prod(shapes[name]) for name in self.names)


class _Bytes(_Cost):
    def __init__(self, network: nn.Module) -> None:
        self.element_bytes = {name: value.element_size() for name, value in network.state_dict().items()}

    def __call__(self, shapes: Mapping[str, Shape]) -> float:
        return sum(size * math.prod(shapes[name]) for name, size in self.element_bytes.items())


class _Macs(_Cost):
    """Multiply-adds in proportion to each layer's weights, and of attention to its heads; counted where that is wrong.

    Proportion is exact for what pruning changes, and hundreds of structures are asked for; ``confirm`` counts.
    """

    def __init__(self, network: nn.Module, image_size: int) -> None:
        self.network, self.image_size = network, image_size
        self.own = _shapes(network.state_dict())
        self.layers = [layer for layer in count_macs(network, image_size).layers if layer.macs]
        self.in_proportion = True

    def __call__(self, shapes: Mapping[str, Shape]) -> float:
        if not self.in_proportion:
            return self._counted(shapes)
        return float(sum((layer.macs * self._kept(layer.name, shapes) for layer in self.layers), Fraction(0)))

    def confirm(self, shapes: Mapping[str, Shape]) -> bool:
        if not self.in_proportion or round(self(shapes)) == self._counted(shapes):
            return True
        self.in_proportion = False
        return False

    def _counted(self, shapes: Mapping[str, Shape]) -> int:
        return count_macs(fit_structure(self.network, shapes), self.image_size).macs

    def _kept(self, layer: str, shapes: Mapping[str, Shape]) -> Fraction:
        for name, kept in ((f"{layer}.weight", math.prod), (f"{layer}.qkv.weight", itemgetter(0))):
            if name in shapes:
                return Fraction(kept(shapes[name]), kept(self.own[name]))
        return Fraction(1)


class _Latency(_Cost):
    """Every structure is measured once: what it took stays what it took."""

    def __init__(self, network: nn.Module, measure_ms: MeasureMs) -> None:
        self.network, self.measure_ms = network, measure_ms
        self.known: dict[tuple[tuple[str, Shape], ...], float] = {}

    def __call__(self, shapes: Mapping[str, Shape]) -> float:
        key = tuple(sorted(shapes.items()))
        if key not in self.known:
            self.known[key] = self.measure_ms(fit_structure(self.network, shapes).eval())
        return self.known[key]


def _cost_of(network: nn.Module, target: str, image_size: int, measure_ms: MeasureMs | None) -> _Cost:
    """What the target counts, of networks of this structure or of a narrower one."""
    if target == "macs":
        return _Macs(network, image_size)
    if target == "params":
        return _Params(network)
    if target == "bytes":
        return _Bytes(network)
    if measure_ms is None:
        raise ConfigError(["a latency target needs to be measured, and nothing measures it; give measure_ms"], "prune")
    return _Latency(network, measure_ms)


# ---------------------------------------------------------------- data


def _first(batches: Iterable[tuple[Tensor, Tensor]], images: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The first so many images, of all batches together."""
    missing = images
    for pixels, labels in batches:
        yield pixels[:missing], labels[:missing]
        missing -= len(pixels)
        if missing <= 0:
            return


def _leave_gradients(network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Gradients of the mean cross-entropy over all images, in evaluation mode, on every parameter."""
    network.eval().requires_grad_(True)
    network.zero_grad()
    images = 0
    with torch.inference_mode(False), torch.enable_grad():
        for pixels, labels in batches:
            F.cross_entropy(network(pixels), labels, reduction="sum").backward()
            images += len(pixels)
    if not images:
        raise ConfigError(
            ["the importance looks at training images, and batches gives none; give at least one"], "prune"
        )
    for parameter in network.parameters():
        # one that the loss does not reach changes nothing
        parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad / images
