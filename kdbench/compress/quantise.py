"""A trained network as an int8 file that a runtime runs. Floor 4.

The file holds fp32 operators between QuantizeLinear and DequantizeLinear, from which runtimes make integer kernels.
Weights are int8, symmetric, one scale for each output channel. Activations are uint8 with a zero point: of the same
accuracy as int8, and ONNX Runtime's kernels for it are up to twice as fast on x86 (see docs/quantise.md for numbers).
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from kdbench.compress.classifier import Forward, onnx_forward
from kdbench.errors import CompressError, ExportError, KdbenchError, ProfileError, RuntimeUnavailable
from kdbench.profiling.conversion import complaint, installed, quiet, without_telemetry
from kdbench.profiling.runtimes.onnxruntime import export_onnx
from kdbench.types import Progress, QuantiseSpec

WEIGHTED = ("Conv", "Gemm", "MatMul")
"""Operators that have multiply-adds; all that is around them stays in fp32, where int8 costs accuracy and gains no
time."""

FUSED = ("Relu", "Clip")
"""What a kernel does in its last step, so that no value is rounded between."""

FLOAT_OUTPUT = ("Gemm", "MatMul")
"""Their integer kernels can put out fp32. What follows is a GELU, a softmax or a sum, which would lose by rounding."""

MOSTLY = 0.5
"""Of the values of weights, the least that has to become int8: with less it is an fp32 file by another name."""

_BATCH = 32


@dataclass(frozen=True)
class Quantised:
    """An int8 file, and how it came about.

    Attributes:
        path: one .onnx file, "image" (batch, 3, S, S) -> "logits" (batch, K), both float32.
        bytes: its size.
        quantised: how many operators of each kind compute in int8.
        left: how many of those with multiply-adds do not.
        versions: of the libraries that made it.
        seconds: all of it took.
    """

    path: Path
    bytes: int
    quantised: dict[str, int]
    left: dict[str, int]
    versions: dict[str, str]
    seconds: float


def quantise(
    network: nn.Module,
    spec: QuantiseSpec,
    image_size: int,
    calibration: np.ndarray,
    out: Path,
    facts: Mapping[str, str] = {},
    progress: Progress | None = None,
) -> Quantised:
    """Write a network as an int8 file, whole or not at all. The same input gives the same bytes.

    A network that was trained with rounding is given as ``aware.plain`` leaves it, and quantised like any other.

    Args:
        network: in evaluation mode, fp32, on the CPU.
        image_size: S, pixels, both sides.
        calibration: (N, 3, S, S) float32, training images as the network is asked of them: normalised, not augmented.
            Ranges of activations are taken from them; a dynamic file takes them from each image instead.
        out: the file; its folder is made.
        facts: kept in the file as its metadata.
        progress: told after each step.
    Raises: CompressError; RuntimeUnavailable, with the command that brings what is missing.
    """
    started = time.perf_counter()
    _check_spec(spec)
    if spec.kind != "dynamic":
        _check_calibration(calibration, image_size)
    with _folder_for(out) as made, quiet():
        step = _steps(progress, out.name)
        before, after = made / "fp32.onnx", made / "int8.onnx"
        _export(network, image_size, before)
        step()
        left = _left_out(before, spec)
        try:
            _TOOLS[spec.toolkit, spec.kind == "dynamic"](before, after, spec, calibration, list(left))
        except KdbenchError:
            raise
        except Exception as problem:  # toolkits raise what they like
            raise CompressError(
                f"{spec.toolkit} cannot quantise the network: {complaint(problem)}; try another kind or toolkit"
            ) from problem
        step()
        counts = _finish(after, {**facts, "quantised": spec.label})
        _ask(after, image_size)
        step()
        after.replace(out)
    return Quantised(out, out.stat().st_size, *counts, _versions(spec), time.perf_counter() - started)


def open_onnx(path: Path, threads: int = 1) -> Forward:
    """An int8 file in ONNX Runtime, on the processor: from images (B, 3, S, S) to logits (B, K), both float32.

    Raises: CompressError, if it cannot be loaded or is no such file; RuntimeUnavailable.
    """
    try:
        return onnx_forward(path, threads)
    except ExportError as problem:
        raise CompressError(str(problem).replace("export the run again", "quantise the run again")) from problem


# ---------------------------------------------------------------- what is asked for


def _check_spec(spec: QuantiseSpec) -> None:
    """Raises: CompressError, where a toolkit lacks what is asked; RuntimeUnavailable."""
    found = installed("export", "onnx", "onnxscript", "onnxruntime")
    if found and spec.toolkit == "nncf":
        found = installed("nncf", "nncf")
    if not found:
        raise RuntimeUnavailable(f"int8 by {spec.toolkit} is not available: {found.reason}")
    if spec.toolkit == "nncf" and spec.kind == "dynamic":
        raise CompressError("nncf has no dynamic int8; take toolkit: onnxruntime")
    if spec.toolkit == "nncf" and spec.ranges != "minmax":
        raise CompressError(f"nncf chooses ranges in its own way, not by {spec.ranges}; leave ranges out")


def _check_calibration(images: np.ndarray, image_size: int) -> None:
    """Raises: CompressError."""
    wanted = f"(N, 3, {image_size}, {image_size})"
    if len(images) == 0:
        raise CompressError("there are no images to take ranges of activations from; give some of the training set")
    if images.shape[1:] != (3, image_size, image_size):
        raise CompressError(f"images for calibration have shape {images.shape}; they have to be {wanted}")
    if images.dtype != np.float32:
        raise CompressError(f"images for calibration are {images.dtype}; normalise them, to float32 {wanted}")
    if wrong := int((~np.isfinite(images).all(axis=(1, 2, 3))).sum()):
        raise CompressError(f"{wrong} of {len(images)} images for calibration have values that are not finite")


def _folder_for(out: Path) -> _Folder:
    """A folder beside the file, so that what is made there can be moved in one step. Raises: CompressError."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.is_dir():
            raise IsADirectoryError(f"'{out}' is a folder")
        return _Folder(out.parent)
    except OSError as problem:
        reason = problem.strerror or str(problem)
        raise CompressError(f"'{out}' cannot be written ({reason}); name a file in a folder of yours") from problem


class _Folder(tempfile.TemporaryDirectory[str]):
    """A temporary folder that gives its path."""

    def __init__(self, parent: Path) -> None:
        super().__init__(prefix="unfinished-", dir=parent)

    def __enter__(self) -> Path:  # type: ignore[override]
        return Path(super().__enter__())


def _steps(progress: Progress | None, name: str) -> Callable[[], None]:
    done = Counter[str]()

    def step() -> None:
        done["steps"] += 1
        if progress:
            progress(f"quantising {name}", done["steps"], 3)

    return step


# ---------------------------------------------------------------- from network to file


def _export(network: nn.Module, image_size: int, path: Path) -> None:
    """Raises: CompressError, if ONNX cannot express the network."""
    try:
        export_onnx(network, image_size).save(path, external_data=False)
    except ProfileError as problem:
        raise CompressError(f"{problem}; only what ONNX can express becomes int8") from problem
    except Exception as problem:  # exporters trace the network's own code, which may raise anything
        raise CompressError(f"torch.onnx cannot export the network: {complaint(problem)}") from problem


def _left_out(path: Path, spec: QuantiseSpec) -> dict[str, str]:
    """The operators with multiply-adds that stay in fp32, and their kinds.

    Products of two activations (attention) do: they hold no weights. So do depthwise convolutions: one scale for all
    channels of their input fits few, and their kernels gain nothing.

    Raises: CompressError, if hardly anything is left to quantise.
    """
    import onnx

    graph = onnx.load(path).graph
    weights = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    left, values, all_values = dict[str, str](), 0, 0
    for node in graph.node:
        if node.op_type not in WEIGHTED:
            continue
        shape = weights.get(node.input[1])
        size = int(np.prod(shape)) if shape else 0
        all_values += size
        if not shape or _depthwise(node, shape) or (spec.kind == "dynamic" and node.op_type == "Conv"):
            left[node.name] = node.op_type
        else:
            values += size
    if values < MOSTLY * all_values or not values:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(Counter(left.values()).items())) or "all"
        advice = "take kind: static" if spec.kind == "dynamic" else "it is not worth a file of its own"
        raise CompressError(
            f"{spec.label} would leave {1 - values / max(all_values, 1):.0%} of the weights in fp32 ({kinds}); {advice}"
        )
    return left


def _depthwise(node: Any, shape: tuple[int, ...]) -> bool:
    groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
    return node.op_type == "Conv" and groups > 1 and shape[1] == 1


def _static(before: Path, after: Path, spec: QuantiseSpec, calibration: np.ndarray, left: list[str]) -> None:
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    methods = {
        "minmax": CalibrationMethod.MinMax,
        "percentile": CalibrationMethod.Percentile,  # its entropy has as many bins as steps, and so cuts nothing off
    }
    quantize_static(
        before,
        after,
        _reader(calibration),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=[*WEIGHTED, *FUSED],
        nodes_to_exclude=left,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=methods[spec.ranges],
        extra_options={"OpTypesToExcludeOutputQuantization": list(FLOAT_OUTPUT)},
    )


def _dynamic(before: Path, after: Path, spec: QuantiseSpec, calibration: np.ndarray, left: list[str]) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        before,
        after,
        op_types_to_quantize=list(FLOAT_OUTPUT),
        nodes_to_exclude=left,
        per_channel=True,
        weight_type=QuantType.QInt8,
    )


def _nncf(before: Path, after: Path, spec: QuantiseSpec, calibration: np.ndarray, left: list[str]) -> None:
    """It puts its own choice of operators into int8, but for the same exceptions, and corrects biases afterwards."""
    import onnx

    with without_telemetry():
        import nncf
    model = onnx.load(before)
    attends = any(node.op_type == "Softmax" for node in model.graph.node)
    made = nncf.quantize(
        model,
        nncf.Dataset([{"image": image[None]} for image in calibration]),
        subset_size=len(calibration),
        model_type=nncf.ModelType.TRANSFORMER if attends else None,
        ignored_scope=nncf.IgnoredScope(names=left),
    )
    onnx.save(made, after)


_TOOLS: dict[tuple[str, bool], Callable[[Path, Path, QuantiseSpec, np.ndarray, list[str]], None]] = {
    ("onnxruntime", False): _static,
    ("onnxruntime", True): _dynamic,
    ("nncf", False): _nncf,
}


def _reader(images: np.ndarray) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    # histograms are collected of equal batches only
    batch = next(size for size in range(_BATCH, 0, -1) if len(images) % size == 0)

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches: Iterator[np.ndarray] = (images[at : at + batch] for at in range(0, len(images), batch))

        def get_next(self) -> dict[str, np.ndarray] | None:
            found = next(self.batches, None)
            return None if found is None else {"image": np.ascontiguousarray(found)}

    return Reader()


def _finish(path: Path, facts: Mapping[str, str]) -> tuple[dict[str, int], dict[str, int]]:
    """Write the facts into the file. Returns: operators with multiply-adds in int8, and in fp32, by kind."""
    import onnx

    model = onnx.load(path)
    del model.metadata_props[:]
    for key, value in facts.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    onnx.save(model, path)
    integers = {name for node in model.graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    quantised, left = Counter[str](), Counter[str]()
    for node in model.graph.node:
        if node.op_type in _INTEGER:
            quantised[_INTEGER[node.op_type]] += 1
        elif node.op_type in WEIGHTED:
            (quantised if set(node.input[:2]) <= integers else left)[node.op_type] += 1
    return dict(sorted(quantised.items())), dict(sorted(left.items()))


_INTEGER = {"MatMulInteger": "MatMul", "ConvInteger": "Conv"}
"""What dynamic quantisation makes of them; it takes a Gemm for a MatMul."""


def _ask(path: Path, image_size: int) -> None:
    """Raises: CompressError, if the file does not run or gives no logits."""
    images = np.zeros((2, 3, image_size, image_size), np.float32)
    try:
        logits = open_onnx(path)(images)
    except KdbenchError:
        raise
    except Exception as problem:  # onnxruntime raises classes of its own
        raise CompressError(f"the int8 file does not run: {complaint(problem)}; try another kind") from problem
    if logits.ndim != 2 or len(logits) != 2 or not np.isfinite(logits).all():
        raise CompressError(f"the int8 file gives {logits.shape} for 2 images, or no finite numbers; try another kind")


def _versions(spec: QuantiseSpec) -> dict[str, str]:
    import onnx
    import onnxruntime
    import torch

    found = {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__, "torch": str(torch.__version__)}
    if spec.toolkit == "nncf":
        with without_telemetry():
            import nncf
        found["nncf"] = nncf.__version__
    return found
