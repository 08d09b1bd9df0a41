"""TensorRT through ONNX Runtime, which builds an engine of the ONNX file and runs it."""

from __future__ import annotations

import ctypes.util
import importlib
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from torch import Tensor

from kdbench.profiling.runtime import RUNTIMES, Availability, Setting, Source
from kdbench.profiling.runtimes.onnxruntime import OnnxRuntime
from kdbench.types import Device, RunPrecision

_PROVIDER = "TensorrtExecutionProvider"


class TensorRt(OnnxRuntime):
    """In fp32. Its options for other types only allow them, so a figure could not be said to be of bf16."""

    name = "tensorrt"
    precisions: tuple[RunPrecision, ...] = ("fp32",)
    devices: tuple[Device, ...] = ("cuda",)

    def available(self, device: Device = "cuda") -> Availability:
        """With a build of ONNX Runtime for CUDA, and TensorRT beside it."""
        found = super().available("cuda") and self.has_provider(_PROVIDER)
        if found and find_spec("tensorrt") is None and ctypes.util.find_library("nvinfer") is None:
            return Availability(False, "TensorRT itself is not installed; pip install tensorrt")
        return found

    def prepare(self, source: Source, setting: Setting, example: Tensor) -> Callable[[], object]:
        """See ``Runtime.prepare``. Builds the engine, which may take minutes."""
        if find_spec("tensorrt") is not None:
            importlib.import_module("tensorrt")  # loads the libraries that pip has put where no linker looks
        return super().prepare(source, setting, example)

    def providers(self, options: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
        """TensorRT first; CUDA takes what it has no operator for."""
        return [(_PROVIDER, options), *super().providers(options)]


RUNTIMES.add(TensorRt.name, TensorRt())
