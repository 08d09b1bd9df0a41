"""Multiply-adds of one image, its activations and what each layer does, counted without data. Floor 3.

One multiply-add is 1 MAC. Only sums of products count: convolutions, matrix products, attention and the gates of
recurrent layers. Normalisation, activations, pooling and elementwise arithmetic are left out of the sum, as in the
figures that papers publish, and named with their number of calls instead: nothing is dropped in silence but what moves
no value through an arithmetic unit (views, copies, allocation, indexing).

The network runs once, as a copy whose tensors have shapes and no values, under a mode of torch's dispatcher that sees
every operator. A network that looks at values on its way (``.item()``, NumPy) runs on one image of zeros instead.
"""

from __future__ import annotations

import copy
import logging
import math
import random
import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kdbench.errors import ProfileError
from kdbench.types import LayerCost

How = Literal["without data", "one forward pass"]
Shape = tuple[int, ...]
Cost = tuple[int, int]
"""Multiply-adds, and the values they end in."""


@dataclass(frozen=True)
class MacCount:
    """The result of ``count_macs``; everything is of one image."""

    macs: int
    """Multiply-adds."""
    by_operator: dict[str, int] = field(default_factory=dict)
    """The same by kind, the largest first: convolution, linear (products with weights), matmul (products of
    activations), attention (torch's fused one), recurrent."""
    not_counted: dict[str, int] = field(default_factory=dict)
    """Operators outside the sum (``batch_norm``), each with its calls in one forward pass."""
    activations: int = 0
    """Values that the multiply-add operators put out; fused attention as if its scores were written down."""
    activation_bytes: int = 0
    """The most bytes of tensors alive at once in eager mode, the image included, parameters and buffers not. What a
    kernel allocates for itself alone is not seen."""
    layers: tuple[LayerCost, ...] = ()
    """Every module with parameters or operators of its own, in the order of ``named_modules``. The sums over them are
    ``macs``, ``activations`` and ``count_params``."""
    how: How = "without data"


def count_macs(model: nn.Module, image_size: int, channels: int = 3) -> MacCount:
    """What one forward pass of (1, channels, image_size, image_size) in evaluation mode does.

    The network may lie on any device, the meta device included. A copy of it runs, so that weights, buffers, hooks,
    caches, the training mode of every module and the random generators are left as they were. (A network that cannot
    be copied runs itself; then only attributes that its own ``forward`` sets are not put back.)

    Args:
        model: takes one image batch.
        image_size: pixels, both sides.
        channels: of the image.

    Raises: ProfileError, if the network cannot run at this size, or if it is quantised or makes nested tensors.
    """
    trouble = f"the network cannot be traced at {image_size} px"
    if any(is_lazy(parameter) for parameter in model.parameters()):
        raise ProfileError(f"{trouble}: it has layers without a shape yet; run one image through it first")
    shape = (1, channels, image_size, image_size)
    with quietly(), ordinary_operators(), generators_kept():
        try:
            try:
                return _count_without_data(model, shape)
            except _Unsupported:
                raise
            except Exception as error:  # it looks at values, or runs with values neither: the pass on zeros tells
                if not image_like(model, (0,)).is_meta:
                    return _count_in_one_pass(model, shape)
                if isinstance(error, DataDependentOutputException | DynamicOutputShapeException):
                    raise _Unsupported(
                        "it looks at values, and on the meta device it has none; count one that has"
                    ) from error
                raise
        except _Unsupported as reason:
            raise ProfileError(f"{trouble}: {reason}") from None
        except Exception as error:  # the network's own code runs here, which may raise anything
            raise ProfileError(f"{trouble}: {one_line(error)}") from error


# ---------------------------------------------------------------- running a network and leaving it as it was


def image_like(model: nn.Module, shape: Shape) -> Tensor:
    """Zeros of that shape on the network's device, in its floating type."""
    first = next((each for each in model.parameters() if each.is_floating_point()), torch.empty(0))
    return torch.zeros(shape, device=first.device, dtype=first.dtype)


@contextmanager
def quietly() -> Iterator[None]:
    """No warning, and no word in torch's log of an operator that fails on shapes alone."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    before = log.disabled
    log.disabled = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.disabled = before


@contextmanager
def ordinary_operators() -> Iterator[None]:
    """Eager operators without gradients, and torch's fast path of attention layers off.

    The fast path fuses a whole layer into one operator, and a compiled network is one, whose products could not be
    seen.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.compiler.set_stance("force_eager"), torch.inference_mode(False), torch.no_grad():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


@contextmanager
def generators_kept() -> Iterator[None]:
    """Whatever a network draws, the random generators go on from where they were."""
    python, arrays = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(arrays)


@contextmanager
def stand_in(model: nn.Module) -> Iterator[nn.Module]:
    """A copy of the network in evaluation mode; or, if it holds what cannot be copied (a lock, a file, a generator),
    the network itself, which has each module's own mode and the buffers' values back afterwards.
    """
    try:
        double = copy.deepcopy(model)
    except Exception:  # of the network's own __deepcopy__ as well
        double = model
    itself = double is model
    modes = [(module, module.training) for module in model.modules()] if itself else []
    values = [(buffer, buffer.clone()) for buffer in model.buffers()] if itself else []
    double.eval()
    try:
        yield double
    finally:
        for module, training in modes:
            module.training = training
        for buffer, value in values:
            buffer.copy_(value)


def one_line(error: BaseException) -> str:
    """What is wrong, out of a message that may be a page."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    marks = [number for number, line in enumerate(lines) if line.endswith("<--- HERE")]
    if "TorchScript interpreter" in lines[0] and marks:  # what failed stands above the last mark; why, if at all, last
        reason = lines[-1].removeprefix("RuntimeError:").strip()
        return f"'{lines[marks[-1] - 1]}' fails in TorchScript" + (f": {reason}" if reason else "")
    return lines[0]


def _count_without_data(model: nn.Module, shape: Shape) -> MacCount:
    fakes = FakeTensorMode(allow_non_fake_inputs=True)  # real ones: constants that no module holds, TorchScript
    faking = _Faking(fakes)
    memo = {id(held): faking.fake(held) for held in (*model.parameters(), *model.buffers())}
    with faking:
        shadow = copy.deepcopy(model, memo)
    shadow.eval()
    with fakes:
        return _observe(shadow, image_like(shadow, shape), "without data")


def _count_in_one_pass(model: nn.Module, shape: Shape) -> MacCount:
    with stand_in(model) as double:
        return _observe(double, image_like(double, shape), "one forward pass")


class _Faking(TorchFunctionMode):
    """Makes tensors that have a shape, a type and a device but no values, and has ``copy.deepcopy`` make them too."""

    def __init__(self, fakes: FakeTensorMode) -> None:
        self._fakes = fakes

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is Tensor.clone:  # by which a Parameter copies itself
            return self.fake(args[0])
        if func is Tensor.__deepcopy__:
            tensor, memo = args
            if id(tensor) not in memo:
                memo[id(tensor)] = self.fake(tensor)
            return memo[id(tensor)]
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    def fake(self, tensor: Tensor) -> Tensor:
        """One of the same shape, strides, type and device."""
        if type(tensor) not in (Tensor, nn.Parameter) or tensor.layout is not torch.strided or tensor.is_quantized:
            return self._fakes.from_tensor(tensor, static_shapes=True)
        # what from_tensor comes to, without following views and gradients: a fifth of its time
        shape = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
        # one of the meta device would not mix with what forward makes on the processor
        return FakeTensor(self._fakes, shape, torch.device("cpu") if tensor.is_meta else tensor.device)


# ---------------------------------------------------------------- one pass, watched


class _Unsupported(Exception):
    """Why the network's operators cannot be counted."""


@dataclass
class _Tally:
    """What one module did itself."""

    macs: Counter[str] = field(default_factory=Counter)
    named: Counter[str] = field(default_factory=Counter)
    activations: int = 0
    output: Shape | None = None


def _observe(model: nn.Module, image: Tensor, how: How) -> MacCount:
    """Run the network on the image and say what it did. Raises: _Unsupported; whatever the network raises."""
    watch = _Watch(model)
    watch.memory.made(image)
    try:
        with watch.following(), _Calls(watch), _Operators(watch, no_data=how == "without data"):
            model(image)
    except Exception:
        if not watch.unsupported:
            raise
    if watch.unsupported:
        raise _Unsupported(watch.unsupported)
    by_operator: Counter[str] = Counter()
    named: Counter[str] = Counter()
    for tally in watch.tallies.values():
        by_operator.update(tally.macs)
        named.update(tally.named)
    return MacCount(
        macs=by_operator.total(),
        by_operator=dict(by_operator.most_common()),
        not_counted=dict(sorted(named.items())),
        activations=sum(tally.activations for tally in watch.tallies.values()),
        activation_bytes=watch.memory.peak,
        layers=_layers(model, watch.tallies),
        how=how,
    )


def _layers(model: nn.Module, tallies: dict[str, _Tally]) -> tuple[LayerCost, ...]:
    layers: list[LayerCost] = []
    seen: set[Tensor] = set()  # by identity: the first module that has a shared parameter owns it
    for name, module in model.named_modules():
        tally = tallies[name]
        own = set(module.parameters(recurse=False)) - seen
        seen |= own
        if own or tally.macs or tally.named:
            scripted = isinstance(module, torch.jit.ScriptModule)
            layers.append(
                LayerCost(
                    name=name,
                    kind=module.original_name if scripted else type(module).__name__,
                    params=sum(parameter.numel() for parameter in own),
                    macs=tally.macs.total(),
                    activations=tally.activations,
                    output=tally.output,
                    operators=dict(tally.macs.most_common()),
                    not_counted=dict(sorted(tally.named.items())),
                )
            )
    return tuple(layers)


class _Memory:
    """Which storages are alive. Sizes are in bytes.

    Storages are told apart by their address: it is unique among the living, and one that dies is forgotten at once.
    """

    def __init__(self) -> None:
        self.peak = 0
        self._alive = 0
        self._known: dict[int, tuple[weakref.ref[Any], int]] = {}

    def made(self, tensor: Tensor) -> None:
        """An operator put it out: the storage counts from now until it is freed, unless it was there before."""
        self._note(tensor, counts=True)

    def found(self, tensor: Tensor) -> None:
        """An operator was given it: a storage that nothing here has made is a weight or a constant."""
        self._note(tensor, counts=False)

    def is_constant(self, tensor: Tensor) -> bool:
        """Whether this pass has not made it. Call ``found`` before."""
        return tensor.layout is torch.strided and self._known[tensor.untyped_storage()._cdata][1] == 0

    def _note(self, tensor: Tensor, counts: bool) -> None:
        if tensor.layout is not torch.strided:
            return
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes() if counts else 0
        self._known[key] = weakref.ref(storage, lambda _: self._free(key)), size
        self._alive += size
        self.peak = max(self.peak, self._alive)

    def _free(self, key: int) -> None:
        self._alive -= self._known.pop(key)[1]


class _Watch:
    """What is known of the running pass; the two modes below write into it."""

    def __init__(self, model: nn.Module) -> None:
        self.memory = _Memory()
        self._names = {module: name for name, module in model.named_modules()}
        self.tallies = {name: _Tally() for name in self._names.values()}
        self.unsupported = ""
        self.call: str | None = None
        """The kind of the function being called that is one operator to people and several to torch."""
        self._running = [""]

    @property
    def tally(self) -> _Tally:
        """Of the innermost module that is running."""
        return self.tallies[self._running[-1]]

    @contextmanager
    def following(self) -> Iterator[None]:
        """Know which module is running. Through torch's hooks of all modules: those of TorchScript take none."""
        entering = register_module_forward_pre_hook(self._enter)
        leaving = register_module_forward_hook(self._leave, always_call=True)
        try:
            yield
        finally:
            entering.remove()
            leaving.remove()

    def _enter(self, module: nn.Module, inputs: Any) -> None:
        if module in self._names:  # another thread may run another network
            self._running.append(self._names[module])

    def _leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if module in self._names:
            self._running.pop()
            if torch.is_tensor(output) and not output.is_nested:
                self.tallies[self._names[module]].output = tuple(output.shape)

    def refuse(self, namespace: str, tensors: Sequence[Tensor]) -> None:
        """Say so, if an operator or its tensors are of a kind that the rules below know nothing of."""
        if "quantized" in namespace or any(tensor.is_quantized for tensor in tensors):
            self.unsupported = "it is quantised, and such operators have no count here; count it before that"
        elif any(tensor.is_nested for tensor in tensors):
            self.unsupported = "it makes nested tensors, which have no one shape to count"

    def operator(self, name: str, is_view: bool, args: Sequence[Any], outputs: Any) -> None:
        """Charge one call to the module that makes it."""
        if self.call == "attention":  # charged as a whole
            return
        rule = _RULES.get(name)
        if rule is not None:
            output = outputs if torch.is_tensor(outputs) else outputs[0]
            by_weights = any(map(self.memory.is_constant, args[rule.factors]))
            self.charge(self.call or ("linear" if by_weights else rule.group), *rule.cost(args, output))
        elif not (is_view or name in _FREE or self.call == "linear"):  # a linear layer's bias is part of it
            self.tally.named[_KNOWN_AS.get(name, name)] += 1

    def charge(self, group: str, macs: int, activations: int) -> None:
        self.tally.macs[group] += macs
        self.tally.activations += activations


class _Operators(TorchDispatchMode):
    """Sees every operator that torch's dispatcher runs."""

    def __init__(self, watch: _Watch, no_data: bool) -> None:
        super().__init__()
        self._watch, self._no_data = watch, no_data

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        namespace, name, is_view, composite = _facts(func)
        watch, given = self._watch, _tensors((args, kwargs))
        watch.refuse(namespace, given)
        if watch.unsupported or namespace in _BOOKKEEPING:
            return func(*args, **kwargs)
        if composite:  # tensors of inference mode come here whole
            with self:
                return func.decompose(*args, **kwargs)
        for tensor in given:
            watch.memory.found(tensor)
        plain = self._no_data and name == "native_batch_norm" and not args[5]  # 5: by the statistics of its input
        outputs = _normalised(args) if plain else func(*args, **kwargs)
        made = _tensors(outputs)
        watch.refuse(namespace, made)
        if watch.unsupported:
            return outputs
        for tensor in made:
            (watch.memory.found if is_view else watch.memory.made)(tensor)
        watch.operator(name, is_view, args, outputs)
        return outputs


class _Calls(TorchFunctionMode):
    """Sees the functions that torch takes apart before its dispatcher runs them.

    Attention is one operator or several by device, type and shape; a linear layer is a product, or a product and a sum
    by the strides of its input. Their count does not depend on that.
    """

    def __init__(self, watch: _Watch) -> None:
        self._watch = watch

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        group = _CALLS.get(getattr(func, "__name__", ""))
        if group is None or self._watch.call is not None:
            return func(*args, **kwargs)
        self._watch.call = group
        try:
            outputs = func(*args, **kwargs)
        finally:
            self._watch.call = None
        if group == "attention":
            named = (kwargs.get(name) for name in ("query", "key", "value")[len(args) :])
            self._watch.charge(group, *_attention((*args[:3], *named), outputs))
        return outputs


def _normalised(args: tuple[Any, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """What batch normalisation puts out in evaluation mode, by shape: the output, and two statistics not taken.

    torch would work through its definition in Python, which takes a third of the whole pass.
    """
    none = args[0].new_empty(0)
    return torch.empty_like(args[0]), none, none


def _tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if torch.is_tensor(value)]


_COMPOSITE = "CompositeImplicitAutograd"
_BOOKKEEPING = ("prim", "profiler")  # a tensor's device, a mark in a profile


@cache
def _facts(func: Any) -> tuple[str, str, bool, bool]:
    """Of an operator: namespace, name without the underscores that torch marks variants with, whether it is a view,
    whether it is made of others.
    """
    namespace, _, name = func._schema.name.partition("::")
    composite = namespace not in _BOOKKEEPING and torch._C._dispatch_has_kernel_for_dispatch_key(
        func.name(), _COMPOSITE
    )
    return namespace, name.strip("_"), func.is_view, composite


# ---------------------------------------------------------------- what each operator multiplies


def _convolution(args: Sequence[Any], output: Tensor) -> Cost:
    """Each output value sums over its filter; of a transposed one each input value is spread over one."""
    image, weight, transposed = args[0], args[1], args[6]
    spread = image if transposed else output
    return spread.numel() * math.prod(weight.shape[1:]), output.numel()


def _product(first: int) -> Callable[[Sequence[Any], Tensor], Cost]:
    """Of a matrix product whose left factor is that argument: each output value sums over its last axis."""

    def cost(args: Sequence[Any], output: Tensor) -> Cost:
        return output.numel() * args[first].shape[-1], output.numel()

    return cost


def _summed_product(args: Sequence[Any], output: Tensor) -> Cost:
    """Of addbmm, which sums the products of a batch."""
    batch, _, inner = args[1].shape
    return output.numel() * batch * inner, output.numel()


def _attention(args: Sequence[Any], output: Tensor) -> Cost:
    """softmax(Q K^T) V of Q (..., L, E), K (..., S, E), V (..., S, Ev): two matrix products for each head of Q.

    A mask, causal or not, is not subtracted: that is what the plain products do.
    """
    query, key, value = (tensor.shape for tensor in args[:3])
    rows, keys = math.prod(output.shape[:-1]), key[-2]
    return rows * keys * (query[-1] + value[-1]), rows * (keys + value[-1])


def _recurrent(args: Sequence[Any], output: Tensor) -> Cost:
    """Of whole layers: every step of a sequence multiplies by each of the weight matrices once."""
    weights = [tensor for tensor in tree_leaves(args[1:5]) if torch.is_tensor(tensor) and tensor.ndim == 2]
    return math.prod(args[0].shape[:-1]) * sum(weight.numel() for weight in weights), output.numel()


class _Rule(NamedTuple):
    """How an operator is counted."""

    group: str
    cost: Callable[[Sequence[Any], Tensor], Cost]
    """From its arguments and its first output."""
    factors: slice = slice(0)
    """Which arguments it multiplies, if it is called linear where one of them is a weight."""


_RULES = {
    **dict.fromkeys(("convolution", "convolution_overrideable"), _Rule("convolution", _convolution)),
    **dict.fromkeys(
        ("mm", "bmm", "mv", "dot", "vdot", "int_mm", "scaled_mm"), _Rule("matmul", _product(0), slice(0, 2))
    ),
    # their first argument is the summand
    **dict.fromkeys(("addmm", "baddbmm", "addmv", "addmm_activation"), _Rule("matmul", _product(1), slice(1, 3))),
    "addbmm": _Rule("matmul", _summed_product, slice(1, 3)),
    **dict.fromkeys(
        (
            "scaled_dot_product_flash_attention_for_cpu",
            "scaled_dot_product_flash_attention",
            "scaled_dot_product_efficient_attention",
            "scaled_dot_product_cudnn_attention",
            "scaled_dot_product_fused_attention_overrideable",
        ),
        _Rule("attention", _attention),
    ),
    **dict.fromkeys(("mkldnn_rnn_layer", "cudnn_rnn", "miopen_rnn"), _Rule("recurrent", _recurrent)),
}

_RECURRENT = ("lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell")
_CALLS = {
    F.linear.__name__: "linear",
    F.scaled_dot_product_attention.__name__: "attention",
    **dict.fromkeys(_RECURRENT, "recurrent"),
}

_MOVES = """
    empty empty_like empty_strided empty_permuted new_empty new_empty_strided zeros zeros_like new_zeros ones ones_like
    new_ones full full_like new_full fill zero scalar_tensor arange linspace eye tril_indices triu_indices lift
    lift_fresh lift_fresh_copy resize set

    clone copy to_copy unsafe_view reshape_alias reshape_copy cat stack repeat repeat_interleave roll flip rot90
    constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d
    replication_pad3d im2col pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle unsafe_split
    unsafe_split_with_sizes unsafe_chunk

    squeeze unsqueeze t transpose detach as_strided

    index index_select index_put unsafe_index unsafe_index_put gather scatter take embedding select_scatter
    slice_scatter diagonal_scatter local_scalar_dense item
"""
"""Allocation and constants; copies and moves; views that change their tensor; indexing."""

_FREE = frozenset(_MOVES.split())
"""Operators that compute no value."""

_KNOWN_AS = {
    "native_batch_norm": "batch_norm",
    "native_batch_norm_legit": "batch_norm",
    "native_batch_norm_legit_no_training": "batch_norm",
    "cudnn_batch_norm": "batch_norm",
    "miopen_batch_norm": "batch_norm",
    "native_layer_norm": "layer_norm",
    "native_group_norm": "group_norm",
    "fused_rms_norm": "rms_norm",
    "safe_softmax": "softmax",
    "max_pool2d_with_indices": "max_pool2d",
    "max_pool3d_with_indices": "max_pool3d",
    "native_dropout": "dropout",
    "prelu_kernel": "prelu",
    "weight_norm_interface": "weight_norm",
    "thnn_fused_lstm_cell": "lstm_cell",
    "thnn_fused_gru_cell": "gru_cell",
}
"""Kernels by the name of the function that people call."""
