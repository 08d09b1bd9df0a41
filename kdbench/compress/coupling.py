"""Which channels of a network have to leave together. Floor 4.

torch-pruning's dependency graph (Fang et al., arXiv:2301.12900) says which places of which tensors hang on one channel
of a layer: the layer's rows, its norm, the columns of whatever reads it, and, behind a shortcut or a depthwise
convolution, the same of other layers. Here the channels that share a place are joined into *units*, which are cut
whole. The heads of an attention layer are units of their own, for the graph sees only the channels inside them.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch_pruning
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch_pruning import _helpers as indices
from torch_pruning.dependency import Dependency, DependencyGraph, Group

from kdbench.compress.structure import attention_heads, depthwise
from kdbench.errors import CompressError, first_line

Place = tuple[str, int]
"""A tensor of the state dict, and one of its dimensions."""

_FIXED = {
    torch_pruning.ops.OPTYPE.SPLIT: "its output is split into parts of fixed size",
    torch_pruning.ops.OPTYPE.UNBIND: "its output is split into parts of fixed size",
}


@dataclass(frozen=True)
class Coupled:
    """Channels of one or several layers, in units that are cut whole."""

    name: str
    """The layer that the graph was walked from."""
    units: int
    places: Mapping[Place, tuple[int, ...]]
    """The unit of each index along a dimension; -1 where it belongs to none of them."""
    group: Any
    """The same for torch-pruning's importances: its ``root_idxs`` are units."""

    def step(self, round_to: int) -> int:
        """The least number of units whose channels are a multiple of round_to in every tensor."""
        counts = {units.count(0) for units in self.places.values() if 0 in units}
        return math.lcm(*(round_to // math.gcd(round_to, count) for count in counts))


@dataclass(frozen=True)
class Couplings:
    """What can be cut from a network, and what not."""

    network: nn.Module
    """A copy of the network that the groups lead to; gradients on it are what an importance sees."""
    groups: tuple[Coupled, ...]
    left: Mapping[str, str] = field(default_factory=dict)
    """Why a layer's channels all stay, by its name."""


def find_couplings(network: nn.Module, image_size: int) -> Couplings:
    """Trace one forward pass and join what hangs together.

    Raises: CompressError if the network cannot be traced, or shares tensors between layers.
    """
    traced = copy.deepcopy(network).eval()
    _refuse_shared(traced)
    for module in traced.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False  # type: ignore[assignment] # the graph knows no fused attention
    wanted = [parameter.requires_grad for parameter in traced.parameters()]
    traced.requires_grad_(True)  # the graph is read off autograd's
    try:
        with warnings.catch_warnings(), torch.inference_mode(False), torch.enable_grad():
            warnings.simplefilter("ignore")
            graph = DependencyGraph().build_dependency(traced, torch.zeros(1, 3, image_size, image_size), verbose=False)
            roots = _roots(graph)
            found = [_Walk(graph, traced, root) for root in roots]
    except Exception as error:  # the network's own code and torch-pruning's, which may raise anything
        raise CompressError(
            f"torch-pruning cannot trace a {type(network).__name__} at {image_size} px ({first_line(error)}); "
            "prune another architecture"
        ) from error
    for parameter, trained in zip(traced.parameters(), wanted, strict=True):
        parameter.requires_grad_(trained)
    heads = [_heads(graph, name, module) for name, module in traced.named_modules() if attention_heads(module)]
    inside = {place for group in heads for place in group.places}
    groups, left = [], {}
    owner: dict[tuple[Place, int], str] = {}
    for walk in found:
        if walk.is_output or inside & walk.places:
            continue
        if walk.obstacle:
            left[walk.name] = walk.obstacle
            continue
        group = walk.coupled()
        held = [
            (place, index) for place, units in group.places.items() for index, unit in enumerate(units) if unit >= 0
        ]
        shared = next((owner[one] for one in held if one in owner), None)
        if shared is not None:
            left[walk.name] = f"a part of its channels hangs on those of '{shared}'"
            continue
        owner.update(dict.fromkeys(held, walk.name))
        groups.append(group)
    return Couplings(traced, (*groups, *heads), left)


def _refuse_shared(network: nn.Module) -> None:
    names: dict[int, str] = {}
    for name, value in network.state_dict(keep_vars=True).items():
        if id(value) in names:
            raise CompressError(
                f"a {type(network).__name__} cannot be pruned: '{names[id(value)]}' and '{name}' are one tensor; "
                "prune another architecture"
            )
        names[id(value)] = name


def _roots(graph: DependencyGraph) -> list[nn.Module]:
    """A layer of each group."""
    return [
        group[0].dep.target.module
        for group in graph.get_all_groups(root_module_types=[nn.modules.conv._ConvNd, nn.Linear])
    ]


@dataclass(frozen=True)
class _Touched:
    """One side of a layer that a walk came to."""

    dependency: Dependency
    places: tuple[Place, ...]
    roots_of: dict[int, set[int]] = field(default_factory=dict)
    """The root's channels that lead to each index."""


class _Walk:
    """Everything that hangs on the output channels of one layer.

    torch-pruning's own group forgets, where several channels lead to one place, all but the first: so the graph's edges
    are followed here, and nothing is merged.
    """

    def __init__(self, graph: DependencyGraph, network: nn.Module, root: nn.Module) -> None:
        self.graph = graph
        self.layers = {module: name for name, module in network.named_modules()}
        self.name = self.layers[root]
        self.channels = graph.get_out_channels(root)
        self.touched: dict[tuple[str, bool], _Touched] = {}
        self.obstacle = "it has one channel" if self.channels < 2 else ""
        self.is_output = False
        self.places: set[Place] = set()
        for dependency, reached in self._edges(root):
            self._note(dependency, reached)

    def _edges(self, root: nn.Module) -> Iterator[tuple[Dependency, list[Any]]]:
        handler = self.graph.get_pruner_of_module(root).prune_out_channels
        node = self.graph.module2node[root]
        first = [indices._HybridIndex(idx=channel, root_idx=channel) for channel in range(self.channels)]
        stack = [(Dependency(handler, handler, source=node, target=node), first)]
        seen: set[tuple[int, int, frozenset[Any]]] = set()
        while stack:
            dependency, reached = stack.pop()
            key = (id(dependency.target), hash(dependency.handler), frozenset(reached))
            if key in seen:
                continue
            seen.add(key)
            yield dependency, reached
            for further in dependency.target.dependencies:
                if further.is_triggered_by(dependency.handler):
                    there = reached
                    for mapping in further.index_mapping:
                        there = mapping(there) if mapping is not None else there
                    if there:
                        stack.append((further, sorted(there)))

    def _note(self, dependency: Dependency, reached: list[Any]) -> None:
        node, is_out = dependency.target, self.graph.is_out_channel_pruning_fn(dependency.handler)
        kind, module = node.type, node.module
        if is_out and (not node.outputs or kind == torch_pruning.ops.OPTYPE.OUTPUT):
            self.is_output = True
        if kind in _FIXED or _cuts_channels(node):
            self.obstacle = self.obstacle or _FIXED.get(kind, "a slice of fixed size is taken of its output")
        name = self.graph._param_to_name.get(module) if isinstance(module, nn.Parameter) else self.layers.get(module)
        if name is None:  # arithmetic, which has no sizes of its own
            return
        places = _places(name, module, is_out, node.pruning_dim)
        if isinstance(places, str):
            self.obstacle = self.obstacle or places
            return
        self.places.update(places)
        touched = self.touched.setdefault((name, is_out), _Touched(dependency, places))
        for one in reached:
            touched.roots_of.setdefault(one.idx, set()).add(one.root_idx)

    def coupled(self) -> Coupled:
        unit_of = self._units()
        places: dict[Place, tuple[int, ...]] = {}
        group = Group()
        for touched in self.touched.values():
            here = {index: unit_of[min(roots)] for index, roots in sorted(touched.roots_of.items())}
            for place in touched.places:
                size = _size(self.graph.model, place)
                places[place] = tuple(here.get(index, -1) for index in range(size))
            _add(group, touched.dependency, here)
        return Coupled(self.name, len(set(unit_of)), places, group)

    def _units(self) -> list[int]:
        """The unit of each channel of the root: channels that lead to one place are one."""
        parent = list(range(self.channels))

        def find(channel: int) -> int:
            while parent[channel] != channel:
                channel = parent[channel]
            return channel

        for touched in self.touched.values():
            for roots in touched.roots_of.values():
                first, *others = sorted(map(find, roots))
                for other in others:
                    parent[find(other)] = find(first)
        numbers: dict[int, int] = {}
        return [numbers.setdefault(find(channel), len(numbers)) for channel in range(self.channels)]


def _cuts_channels(node: Any) -> bool:
    """Whether a node is a slice along the channels: second of a map, last of tokens."""
    if node.type != torch_pruning.ops.OPTYPE.SLICE:
        return False
    shape, dim = node.grad_fn._saved_self_sym_sizes, node.grad_fn._saved_dim
    dim = dim - 2**64 if dim >= 2**63 else dim
    return dim % len(shape) == (len(shape) - 1 if len(shape) == 3 else 1)


def _places(name: str, module: Any, is_out: bool, dimension: int | None) -> tuple[Place, ...] | str:
    """The tensors of a layer that its output or input channels stand in; or why they cannot be cut."""
    if isinstance(module, nn.Parameter):
        return ((name, int(dimension or 0)),)
    if isinstance(module, nn.Conv2d | nn.Linear):
        if isinstance(module, nn.Conv2d) and module.groups != 1 and not depthwise(module):
            return f"'{name}' is a convolution of {module.groups} groups"
        if is_out or depthwise(module):
            return ((f"{name}.weight", 0), *([(f"{name}.bias", 0)] if module.bias is not None else []))
        return ((f"{name}.weight", 1),)
    known = isinstance(module, _BatchNorm | nn.PReLU)
    known |= isinstance(module, nn.LayerNorm) and len(module.normalized_shape) == 1
    known |= isinstance(module, nn.GroupNorm) and module.num_groups == 1
    held = [*module.named_parameters("", False), *module.named_buffers("", False)]
    if known:
        return tuple((f"{name}.{key}", 0) for key, value in held if value.ndim)
    return f"'{name}' is a {type(module).__name__}" if held else ()


def _size(network: nn.Module, place: Place) -> int:
    path, _, name = place[0].rpartition(".")
    return int(getattr(network.get_submodule(path), name).shape[place[1]])


def _add(group: Group, dependency: Dependency, units: Mapping[int, int]) -> None:
    group.add_dep(dependency, list(units))
    group[len(group) - 1].root_idxs = list(units.values())


def _heads(graph: DependencyGraph, name: str, module: Any) -> Coupled:
    """Heads of attention: rows of the query, the key and the value, and the columns that read them."""
    width, heads = module.head_dim, module.num_heads
    rows = tuple(index // width % heads for index in range(3 * heads * width))
    columns = rows[: heads * width]
    places: dict[Place, tuple[int, ...]] = {(f"{name}.qkv.weight", 0): rows, (f"{name}.proj.weight", 1): columns}
    if module.qkv.bias is not None:
        places[(f"{name}.qkv.bias", 0)] = rows
    group, linear = Group(), graph.get_pruner_of_module(module.qkv)
    for layer, handler, units in (
        (module.qkv, linear.prune_out_channels, rows),
        (module.proj, linear.prune_in_channels, columns),
    ):
        node = graph.module2node[layer]
        _add(group, Dependency(handler, handler, source=node, target=node), dict(enumerate(units)))
    return Coupled(name, heads, places, group)
