"""The multiply-adds of a network by a second counter, fvcore, and what makes the difference. Floor 3.

fvcore traces the network and is used as it comes, so that users see what the widely used tool says. It has no rule for
some operators that multiply, and counts normalisation, some pooling and upsampling besides; both are named.
"""

from __future__ import annotations

from collections import Counter
from importlib.metadata import version

from fvcore.nn import FlopCountAnalysis
from torch import nn

from kdbench.errors import ProfileError
from kdbench.profiling.macs import (
    MacCount,
    generators_kept,
    image_like,
    one_line,
    ordinary_operators,
    quietly,
    stand_in,
)
from kdbench.types import CrossCheck

_PRODUCTS = ("linear", "addmm", "mm", "matmul", "bmm", "einsum")
"""What fvcore calls the matrix products that it has rules for."""

_WITHOUT_RULE = {
    "convolution": ("_convolution_mode",),
    "matmul": ("baddbmm", "addbmm", "mv", "addmv", "dot", "vdot", "inner", "linalg_multi_dot"),
    "attention": ("scaled_dot_product_attention",),
    "recurrent": ("lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"),
}
"""By our kind of operator: what the trace calls those that fvcore passes over."""

_EINSUM_DIGITS = 1e-3
"""Of fvcore's count of an einsum, which it reads off a text that NumPy rounds to four digits."""


def cross_check(model: nn.Module, image_size: int, ours: MacCount, channels: int = 3) -> CrossCheck:
    """Count the same forward pass with fvcore and explain the difference.

    A copy of the network runs once on an image of zeros, with zeros for weights if they are on the meta device: the
    trace makes tensors of all sizes, which torch's kernels for shapes alone refuse. The network and the random
    generators are left as they were; nothing is printed, logged or warned.

    Args:
        model: as given to ``count_macs``.
        image_size: pixels, both sides.
        ours: what ``count_macs`` said.
        channels: of the image.

    Returns: the reasons add up to the difference; a part that nothing here accounts for is called unexplained. If only
        fvcore counts something, the difference is 1.

    Raises: ProfileError, if fvcore cannot count the network.
    """
    with quietly(), ordinary_operators(), generators_kept():
        try:
            theirs, passed_over = _by_fvcore(model, (1, channels, image_size, image_size))
        except Exception as error:  # the network's own code and fvcore's assertions, which may raise anything
            raise ProfileError(f"fvcore cannot count the network at {image_size} px: {one_line(error)}") from error
    macs = theirs.total()
    parts = sorted(_parts(theirs, passed_over, ours.by_operator), key=lambda part: -abs(part[0]))
    return CrossCheck(
        counter=f"fvcore {version('fvcore')}",
        macs=macs,
        difference=(macs - ours.macs) / ours.macs if ours.macs else float(macs > 0),
        reasons=tuple(text for _, text in parts),
    )


def _by_fvcore(model: nn.Module, shape: tuple[int, ...]) -> tuple[Counter[str], Counter[str]]:
    """Multiply-adds by fvcore's names, and the calls of operators that it has no rule for."""
    with stand_in(model) as double:
        if image_like(double, (0,)).is_meta:
            if double is model:
                raise ProfileError("it is on the meta device and cannot be copied")
            double.to_empty(device="cpu")
            for held in (*double.parameters(), *double.buffers()):
                held.zero_()
        analysis = FlopCountAnalysis(double, image_like(double, shape))
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
        counted = Counter({name: round(macs) for name, macs in analysis.by_operator().items()})
        passed_over = Counter({name.removeprefix("aten::"): n for name, n in analysis.unsupported_ops().items()})
    return counted, passed_over


def _parts(theirs: Counter[str], passed_over: Counter[str], ours: dict[str, int]) -> list[tuple[int, str]]:
    """(theirs less ours, why) of each kind of operator in which the two differ."""
    rest = Counter(theirs)
    products = sum(rest.pop(name, 0) for name in _PRODUCTS)
    differences = {
        "convolution": rest.pop("conv", 0) - ours.get("convolution", 0),
        # a product by a weight is called linear here and matmul there
        "matmul": products - ours.get("linear", 0) - ours.get("matmul", 0),
        "attention": -ours.get("attention", 0),
        "recurrent": -ours.get("recurrent", 0),
    }
    parts: list[tuple[int, str]] = []
    for kind, difference in differences.items():
        without_rule = [name for name in _WITHOUT_RULE[kind] if passed_over[name]]
        if difference < 0 and without_rule:
            calls = sum(passed_over[name] for name in without_rule)
            names, amount = ", ".join(without_rule), _figure(-difference)
            times = f"{calls} call" + ("s" if calls > 1 else "")
            parts.append((difference, f"{kind}: fvcore has no rule for {names}, {amount} missing ({times})"))
        elif kind == "matmul" and 0 < abs(difference) <= _EINSUM_DIGITS * theirs["einsum"]:
            parts.append((difference, f"einsum: fvcore rounds its count to four digits, {_signed(difference)}"))
        elif difference:
            parts.append((difference, f"unexplained: {kind}, {_signed(difference)}"))
    parts += [(macs, f"{name}: fvcore counts it, {_figure(macs)}") for name, macs in rest.items() if macs]
    return parts


def _signed(macs: int) -> str:
    return f"{_figure(abs(macs))} {'more' if macs > 0 else 'less'}"


def _figure(macs: int) -> str:
    if macs >= 1e8:
        return f"{macs / 1e9:.2f} G"
    return f"{macs / 1e6:.1f} M" if macs >= 1e5 else f"{macs:,}"
