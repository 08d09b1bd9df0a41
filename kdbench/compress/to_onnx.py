"""A trained network as an ONNX file, and what can be done to such a file. Floor 4."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from kdbench.compress.artefact import ExportRecord, Preprocessing, as_json
from kdbench.compress.half import halved, is_weight
from kdbench.errors import ProfileError, first_line
from kdbench.profiling.conversion import quiet
from kdbench.profiling.runtimes.onnxruntime import export_onnx


def write_onnx(
    network: nn.Module, path: Path, about: ExportRecord, labels: tuple[str, ...], preprocessing: Preprocessing
) -> None:
    """Write the file, which knows itself: labels, mean, std, image size and run are its metadata.

    Args:
        network: in evaluation mode, fp32, on the CPU.
    Raises: ProfileError, if the network cannot be expressed so.
    """
    facts = {
        "run_id": about.run_id,
        "title": about.title,
        "labels": as_json(labels).decode().strip(),
        "image_size": str(preprocessing.image_size),
        "mean": " ".join(map(str, preprocessing.mean)),
        "std": " ".join(map(str, preprocessing.std)),
        "channel_order": preprocessing.channel_order,
        "licence": about.licence,
        "kdbench": about.kdbench,
    }
    try:
        with quiet():
            program = export_onnx(network, preprocessing.image_size)
            program.model.metadata_props.update(facts)
            program.save(path, external_data=False)
    except ProfileError:
        raise
    except Exception as problem:  # exporters trace the network's own code, which may raise anything
        raise ProfileError(f"torch.onnx cannot export the network: {first_line(problem)}") from problem


def store_half(path: Path) -> None:
    """Store the weights of a file in fp16, each with a Cast to fp32 behind it, which runtimes fold when they load it.

    Raises: ExportError, if a weight is too large for that.
    """
    import onnx

    model = onnx.load(path)
    casts = []
    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if not is_weight(values):
            continue
        name, stored = tensor.name, f"{tensor.name}.fp16"
        tensor.CopyFrom(onnx.numpy_helper.from_array(halved(values, name, path.name), stored))
        casts.append(onnx.helper.make_node("Cast", [stored], [name], to=onnx.TensorProto.FLOAT, name=f"{name}.cast"))
    _put_first(model, casts)
    onnx.save(model, path)


def take_pixels(path: Path, preprocessing: Preprocessing) -> None:
    """Let a file take "pixels" (batch, S, S, 3) uint8, RGB, and normalise them itself; the rest stays as it is."""
    import onnx

    model = onnx.load(path)
    (image,) = model.graph.input
    batch = image.type.tensor_type.shape.dim[0].dim_param or "batch"
    size = preprocessing.image_size
    # one multiplication and one addition, as in training
    std = np.asarray(preprocessing.std, np.float64)
    constants = {"pixels.scale": 1 / (255 * std), "pixels.shift": -np.asarray(preprocessing.mean) / std}
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(values.astype(np.float32), name) for name, values in constants.items()
    )
    steps: list[tuple[str, list[str], str, dict[str, Any]]] = [
        ("Cast", ["pixels"], "pixels.float", {"to": onnx.TensorProto.FLOAT}),
        ("Mul", ["pixels.float", "pixels.scale"], "pixels.scaled", {}),
        ("Add", ["pixels.scaled", "pixels.shift"], "pixels.normalised", {}),
        ("Transpose", ["pixels.normalised"], image.name, {"perm": [0, 3, 1, 2]}),
    ]
    _put_first(
        model,
        [onnx.helper.make_node(kind, given, [out], name=f"{out}.{kind}", **more) for kind, given, out, more in steps],
    )
    del model.graph.input[:]
    model.graph.input.append(
        onnx.helper.make_tensor_value_info("pixels", onnx.TensorProto.UINT8, [batch, size, size, 3])
    )
    onnx.save(model, path)


def _put_first(model: Any, nodes: list[Any]) -> None:
    """Nodes stand in the order they are computed in."""
    others = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *others])
