"""Multiply-adds of one image, counted by fvcore on a trace of the network. Floor 3.

One multiply-add is 1 MAC; fvcore calls it a flop. Only operators that are sums of products count: convolutions, matrix
products and attention. Normalisation, activations, pooling and elementwise arithmetic are left out of the sum, as in
the figures that papers publish, and named with their number of calls instead: nothing is dropped in silence.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from fvcore.nn import FlopCountAnalysis
from fvcore.nn.jit_handles import conv_flop_jit, einsum_flop_jit, get_shape
from torch import nn

from kdbench.errors import ProfileError

Handler = Callable[[list[Any], list[Any]], Any]

# Arithmetic with a handler of its own, which names it. Some of it fvcore passes over in silence, as it passes over
# reshaping (relu); the rest is traced for the sizes of tensors too, which is no work on the image (add, in padding).
_NAMES = ("add", "sub", "rsub", "mul", "div", "remainder", "pow", "sqrt", "ceil", "floor", "clamp", "max", "relu")
_ARITHMETIC = tuple(f"aten::{name}{in_place}" for name in _NAMES for in_place in ("", "_"))


@dataclass(frozen=True)
class MacCount:
    """The result of ``count_macs``."""

    macs: int
    """Multiply-adds of one image."""
    not_counted: dict[str, int] = field(default_factory=dict)
    """Operators outside the sum (``batch_norm``), each with its calls in one forward pass."""


def count_macs(model: nn.Module, image_size: int, channels: int = 3) -> MacCount:
    """The multiply-adds of one forward pass of (1, channels, image_size, image_size) in evaluation mode.

    Weights, buffers, hooks and the training mode of every module are left as they were.

    Raises: ProfileError, if the network cannot be traced at this size.
    """
    named: Counter[str] = Counter()
    parameter = next(model.parameters(), torch.empty(0))
    image = torch.zeros(1, channels, image_size, image_size, device=parameter.device, dtype=parameter.dtype)
    with _evaluating(model), warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the tracer warns of every shape that is read; shapes are all we want
        analysis = FlopCountAnalysis(model, image).clear_op_handles()
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
        analysis.set_op_handle(**_MULTIPLY_ADDS)
        analysis.set_op_handle(**{name: _naming(name, named) for name in _ARITHMETIC})
        try:
            macs = int(analysis.total())
        except Exception as error:  # tracing runs the network's own code, which may raise anything
            raise ProfileError(f"the network cannot be traced at {image_size} px: {error}") from error
        named.update(analysis.unsupported_ops())
    not_counted = {name.removeprefix("aten::"): calls for name, calls in sorted(named.items())}
    return MacCount(macs=macs, not_counted=not_counted)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode with ordinary operators, and each module's own mode back afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    fast = torch.backends.mha.get_fastpath_enabled()
    # torch's fast path fuses a whole attention layer into one operator, whose products could not be seen
    torch.backends.mha.set_fastpath_enabled(False)
    model.eval()
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for module, training in modes:
            module.training = training


# ---------------------------------------------------------------- what each operator multiplies


def _product(first: int) -> Handler:
    """Of a matrix product whose left factor is that input: each output value sums over the left one's last axis.

    Written on the output's shape, so that it holds for broadcast and one-dimensional factors too.
    """

    def handler(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
        return Counter({"matmul": math.prod(get_shape(outputs[0])) * get_shape(inputs[first])[-1]})

    return handler


def _attention(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """softmax(Q K^T) V of Q (..., L, E), K (..., S, E), V (..., S, Ev): two matrix products for each head.

    A mask is not subtracted: the dense kernels multiply under it as well.
    """
    *heads, queries, width = get_shape(inputs[0])
    keys, value_width = get_shape(inputs[2])[-2:]
    return Counter({"attention": math.prod(heads) * queries * keys * (width + value_width)})


def _naming(name: str, named: Counter[str]) -> Handler:
    def handler(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
        if get_shape(outputs[0]) != []:  # a tensor without axes is a size that the trace computes
            named[name] += 1
        return Counter()

    return handler


_MULTIPLY_ADDS: dict[str, Handler] = {
    "aten::_convolution": conv_flop_jit,
    "aten::linear": _product(0),
    "aten::matmul": _product(0),
    "aten::mm": _product(0),
    "aten::bmm": _product(0),
    "aten::addmm": _product(1),  # inputs: the summand, left, right
    "aten::baddbmm": _product(1),
    "aten::einsum": einsum_flop_jit,
    "aten::scaled_dot_product_attention": _attention,
}
