"""OpenVINO on the processor, with the network as its own kind of file."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdbench.errors import ProfileError
from kdbench.profiling.conversion import (
    REFERENCE,
    TOLERANCE,
    check_parity,
    complaint,
    installed,
    int8_source,
    quiet,
    reference_images,
    whole_files,
    without_telemetry,
    write_reference,
)
from kdbench.profiling.runtime import RUNTIMES, Availability, Setting, Source
from kdbench.profiling.runtimes.onnxruntime import MODEL as ONNX
from kdbench.profiling.runtimes.onnxruntime import take_int8
from kdbench.types import Device, RunPrecision

MODEL, WEIGHTS = "model.xml", "model.bin"

_TYPES = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}  # int8: of all between the integer operators
# lines of its messages that name places in its own code, before what is wrong
_PLACES = ("Exception from", "Check '", "FrontEnd API failed", "Model wasn't fully converted")
_NO_RULE = re.compile(r"No conversion rule found for operations: .*")


class OpenVino:
    """One stream and the hint for low latency, for a fixed batch size."""

    name = "openvino"
    precisions: tuple[RunPrecision, ...] = ("fp32", "bf16", "int8")
    devices: tuple[Device, ...] = ("cpu",)

    def available(self, device: Device = "cpu") -> Availability:
        """With the extra ``openvino``."""
        return installed("openvino", "openvino")

    def library(self) -> str:
        """See ``Runtime.library``. Loads it, whose memory is the runtime's and not that of a network."""
        return f"openvino {_openvino().__version__.partition('-')[0]}"

    def convert(self, source: Source, precision: RunPrecision) -> None:
        """See ``Runtime.convert``. Writes ``MODEL`` and ``WEIGHTS``, in fp32 for any batch size and both precisions.

        In int8 it reads the source's own file, and has to answer as ONNX Runtime does, by which that file was tested.
        """
        if precision == "int8":
            found = installed("export", "onnxruntime")
            if not found:
                raise ProfileError(f"int8 is checked against ONNX Runtime: {found.reason}")
            take_int8(int8_source(source))
            return
        if all((source.folder / name).is_file() for name in (REFERENCE, WEIGHTS, MODEL)):
            return
        openvino = _openvino()
        with quiet(), whole_files(source.folder, REFERENCE, WEIGHTS, MODEL) as made:
            network = source.load()
            write_reference(network, source.image_size, made)
            size = source.image_size
            try:
                with torch.no_grad():
                    model = openvino.convert_model(
                        network, example_input=reference_images(size), input=[-1, 3, size, size]
                    )
            except Exception as error:  # it raises what the network raises, and its own
                raise ProfileError(f"openvino cannot convert the network: {_complaint(error)}") from error
            openvino.save_model(model, made / MODEL, compress_to_fp16=False)

    def prepare(self, source: Source, setting: Setting, example: Tensor) -> Callable[[], object]:
        """See ``Runtime.prepare``. Runs the reference images once, and so gives the logits of the original or none."""
        openvino = _openvino()
        core = openvino.Core()
        int8 = setting.precision == "int8"
        if int8:
            source = int8_source(source)
        hints = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": setting.threads,
            # always said: where a processor has bf16, openvino takes it of itself
            "INFERENCE_PRECISION_HINT": _TYPES[setting.precision],
        }
        try:
            with quiet():
                model = core.read_model(source.folder / (ONNX if int8 else MODEL))
                model.reshape(list(example.shape))
                compiled = core.compile_model(model, "CPU", hints)
        except Exception as error:
            raise ProfileError(f"openvino cannot run the network: {_complaint(error)}") from error
        taken = compiled.get_property("INFERENCE_NUM_THREADS")
        if taken != setting.threads:  # more than there are cores, for one
            raise ProfileError(f"openvino takes {taken} threads here, not {setting.threads}")
        if compiled.get_property("INFERENCE_PRECISION_HINT") != getattr(openvino.Type, _TYPES[setting.precision]):
            raise ProfileError(f"openvino does not run in {setting.precision} on this processor; time fp32")

        def answer(array: np.ndarray) -> Any:
            return compiled(array)[0]

        check_parity(
            source.folder,
            setting.batch_size,
            lambda images: answer(images.numpy()),
            TOLERANCE[setting.precision],
            self.name,
        )
        array = np.ascontiguousarray(example.numpy())
        return lambda: answer(array)


def _openvino() -> Any:
    with without_telemetry():
        import openvino
    return openvino


def _complaint(error: Exception) -> str:
    rule = _NO_RULE.search(str(error))
    return rule.group() if rule else complaint(error, _PLACES)


RUNTIMES.add(OpenVino.name, OpenVino())
