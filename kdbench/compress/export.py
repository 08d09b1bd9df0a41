"""A trained network as a folder that a stranger can use, with proof that it is still the same network. Floor 4."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Literal

import numpy as np
from torch import nn

from kdbench.calibration import softmax
from kdbench.compress.artefact import (
    ABOUT,
    LABELS,
    ONNX,
    PREPROCESSING,
    README,
    WEIGHTS,
    Artefact,
    ExportRecord,
    Parity,
    Preprocessing,
    as_json,
    digest_of,
    read_export,
)
from kdbench.compress.classifier import Classifier, onnx_forward, torch_forward
from kdbench.compress.manual import manual
from kdbench.errors import ExportError, ProfileError, first_line
from kdbench.profiling.conversion import quiet
from kdbench.profiling.runtimes.onnxruntime import OPSET, export_onnx
from kdbench.store import whole_folder
from kdbench.types import Progress

Format = Literal["safetensors", "onnx"]
FORMATS: tuple[Format, ...] = ("safetensors", "onnx")

PARITY_TOLERANCE = 1e-3
"""Of a probability. In fp32 only the order of sums differs, by some 1e-6; a wrong network is off by far more."""


def write_export(
    network: nn.Module | None,
    weights: Path,
    about: ExportRecord,
    labels: tuple[str, ...],
    preprocessing: Preprocessing,
    folder: Path,
    *,
    formats: Collection[Format],
    may_lack_onnx: bool,
    images: np.ndarray,
    images_of: str,
    progress: Progress | None = None,
) -> Artefact:
    """Write the folder, whole or not at all.

    Args:
        network: in evaluation mode, fp32, on the CPU; of a quantised run what it was before, or None.
        weights: its safetensors file; of a quantised run its ONNX file, which is the network then.
        about: all that is known of it before; files, parity, opset and notes are filled in.
        folder: absolute; new or empty.
        may_lack_onnx: whether a network that ONNX cannot express is written without, and that is noted.
        images: (N, S, S, 3) uint8, to compare the network with what it has become.
        images_of: what these are, in words.
    Raises: ExportError, if something is in the folder, or the ONNX file is wanted and not the same network.
    """
    steps = 2 + ("onnx" in formats)

    def step(done: int) -> None:
        if progress:
            progress(f"exporting {about.title}", done, steps)

    with whole_folder(folder, ExportError) as made:
        step(0)
        if "onnx" in formats:
            try:
                _put_onnx(network, weights, made / ONNX, about, labels, preprocessing)
            except ProfileError as problem:
                if not may_lack_onnx:
                    raise ExportError(f"{about.title}: {problem}; take --format safetensors") from problem
                about = about.model_copy(update={"notes": (*about.notes, f"{ONNX} is left out: {problem}")})
            else:
                step(1)
                about = about.model_copy(update={"opset": OPSET})
                if network is not None:
                    parity = _compare(network, made / ONNX, about, labels, preprocessing, images, images_of)
                    about = about.model_copy(update={"parity": parity})
        if "safetensors" in formats:
            shutil.copyfile(weights, made / WEIGHTS)
        step(steps - 1)
        (made / LABELS).write_bytes(as_json(labels))
        (made / PREPROCESSING).write_bytes(as_json(preprocessing.model_dump(mode="json")))
        (made / README).write_text(manual(about, labels, preprocessing, (made / ONNX).is_file()), encoding="utf-8")
        files = {path.name: digest_of(path) for path in sorted(made.iterdir())}
        if not {WEIGHTS, ONNX} & set(files):
            raise ExportError(f"{about.title}: {about.notes[-1]}; take --format safetensors")
        about = about.model_copy(update={"files": files})
        (made / ABOUT).write_bytes(as_json(about.model_dump(mode="json")))
        step(steps)
    return read_export(folder)


def _put_onnx(
    network: nn.Module | None,
    weights: Path,
    path: Path,
    about: ExportRecord,
    labels: tuple[str, ...],
    preprocessing: Preprocessing,
) -> None:
    """Export the network, or copy the file that a quantised run has left. Raises: ProfileError."""
    if about.quantised or network is None:
        shutil.copyfile(weights, path)
    else:
        _write_onnx(network, path, about, labels, preprocessing)


def _write_onnx(
    network: nn.Module, path: Path, about: ExportRecord, labels: tuple[str, ...], preprocessing: Preprocessing
) -> None:
    """Raises: ProfileError, if the network cannot be expressed so."""
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


def _compare(
    network: nn.Module,
    path: Path,
    about: ExportRecord,
    labels: tuple[str, ...],
    preprocessing: Preprocessing,
    images: np.ndarray,
    images_of: str,
) -> Parity:
    """Raises: ExportError, if the file gives other probabilities than the network."""
    before, after = (
        softmax(Classifier(about.title, labels, preprocessing, runtime, forward).logits(images))
        for runtime, forward in (("torch", torch_forward(network)), ("onnxruntime", onnx_forward(path)))
    )
    difference = float(np.abs(after - before).max())
    agreement = float((after.argmax(1) == before.argmax(1)).mean())
    tolerance = 1.0 if about.quantised else PARITY_TOLERANCE  # rounding is meant: the accuracy is the file's own
    if not difference <= tolerance:
        raise ExportError(
            f"{about.title}: {ONNX} is not the same network: over {len(images)} {images_of} its probabilities are up "
            f"to {difference:.2g} off torch's, {tolerance:g} is allowed, and {agreement:.1%} of the answers "
            "agree; nothing was written: take --format safetensors"
        )
    return Parity(
        images=len(images),
        of=images_of,
        max_abs_difference=difference,
        top1_agreement=agreement,
        tolerance=tolerance,
    )
