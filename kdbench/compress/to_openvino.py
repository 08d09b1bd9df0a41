"""An ONNX file as OpenVINO stores a network: structure in .xml, weights in .bin. Floor 4."""

from __future__ import annotations

from pathlib import Path

from kdbench.compress.artefact import IR
from kdbench.errors import ExportError
from kdbench.profiling.conversion import complaint, quiet, without_telemetry


def write_ir(onnx: Path, folder: Path) -> None:
    """Write both files into the folder.

    Read by the runtime itself, and not by ``openvino.convert_model``: that would note in whose folder the ONNX file
    lay, tell its makers of it, and fold weights in half precision into full ones.

    Raises: ExportError, if OpenVINO cannot express the network.
    """
    try:
        with quiet(), without_telemetry():
            import openvino

            model = openvino.Core().read_model(onnx)
            openvino.save_model(model, folder / IR, compress_to_fp16=False)
    except Exception as problem:  # openvino raises RuntimeError of many lines
        reason = complaint(problem, ("Exception from", "Check '", "FrontEnd API failed"))
        raise ExportError(f"openvino cannot convert {onnx.name}: {reason}; leave openvino out") from problem
