"""A trained network as a folder that a stranger can use, with proof that it is still the same network. Floor 4."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from safetensors.torch import load_model
from torch import nn

from kdbench.calibration import softmax
from kdbench.compress.artefact import (
    ABOUT,
    FILES,
    IR,
    IR_WEIGHTS,
    LABELS,
    ONNX,
    PREPROCESSING,
    PROGRAM,
    README,
    WEIGHTS,
    Artefact,
    ExportRecord,
    Format,
    Parity,
    Preprocessing,
    as_json,
    digest_of,
    read_export,
)
from kdbench.compress.classifier import Classifier, Opened, onnx_forward, open_ir, open_onnx_file, torch_forward
from kdbench.compress.half import write_half
from kdbench.compress.manual import manual
from kdbench.compress.to_onnx import store_half, take_pixels, write_onnx
from kdbench.compress.to_openvino import write_ir
from kdbench.compress.to_torch import write_program, written_program
from kdbench.errors import ExportError, ProfileError
from kdbench.profiling.runtimes.onnxruntime import OPSET
from kdbench.store import whole_folder
from kdbench.types import Progress

PARITY_TOLERANCE = 1e-3
"""Of a probability. In fp32 only the order of sums differs, by some 1e-6; a wrong network is off by far more."""

HALF_TOLERANCE = 0.05
"""Of a probability, with weights in fp16: three times the worst of eleven trained MobileNetV3 (small, 0.5) at 64 pixels
over 60 drawn cells, 0.016. Each weight is rounded by up to 2^-11 of itself, and that adds up over their many thin
layers; more says that weights were lost, not rounded."""

INT8_TOLERANCE = 0.25
"""Of a probability, of an int8 file in another runtime or with more in its graph than the run's own. A value between
two steps may be rounded otherwise there, and a layer later another one; this finds a wrong network, not a rounding."""

_ROUNDING = 1.0  # int8 against what it was before: rounding is meant, and the accuracy is the file's own


@dataclass(frozen=True)
class Material:
    """What an export is made of.

    Attributes:
        network: in evaluation mode, fp32, on the CPU; of a quantised run what it was before, or None.
        weights: its safetensors file; of a quantised run its ONNX file, which is the network then.
        about: all that is known of it before; what the files are and what came of them is filled in.
        preprocessing: its ``onnx_input`` says what the ONNX file, and that of OpenVINO, are to take.
        images: (N, S, S, 3) uint8, to compare the network with what it has become.
        images_of: what these are, in words.
    """

    network: nn.Module | None
    weights: Path
    about: ExportRecord
    labels: tuple[str, ...]
    preprocessing: Preprocessing
    images: np.ndarray
    images_of: str

    def ask(self, runtime: str, opened: Opened) -> np.ndarray:
        """Probabilities (N, K) of the images. Raises: ExportError, if it does not give any."""
        asked = Classifier(self.about.title, self.labels, self.preprocessing, runtime, opened.forward, opened.takes)
        return softmax(asked.logits(self.images))

    @cached_property
    def by_torch(self) -> np.ndarray:
        """What the network says; of a quantised run what it said before."""
        if self.network is None:
            raise ValueError("there is no network to ask")
        return self.ask("torch", Opened("image", torch_forward(self.network)))

    @cached_property
    def by_int8(self) -> np.ndarray:
        """What the file of a quantised run says, which is what was tested."""
        return self.ask("onnxruntime", Opened("image", onnx_forward(self.weights)))


def write_export(
    material: Material,
    folder: Path,
    *,
    formats: Collection[Format],
    half: bool = False,
    may_lack_onnx: bool = False,
    progress: Progress | None = None,
) -> Artefact:
    """Write the folder, whole or not at all.

    Args:
        folder: absolute; new or empty.
        half: store weights in fp16, in all formats but torch.
        may_lack_onnx: whether a network that ONNX cannot express is written without, and that is noted.
    Raises: ExportError, if something is in the folder, or a file that is wanted cannot be, or is not the same network.
    """
    writers = [_WRITERS[name] for name in _WRITERS if name in formats or (name == "onnx" and "openvino" in formats)]
    title = material.about.title

    def step(done: int) -> None:
        if progress:
            progress(f"exporting {title}", done, len(writers) + 1)

    with whole_folder(folder, ExportError) as made:
        work = _Work(material, made, frozenset(formats), half)
        for done, write in enumerate(writers):
            step(done)
            try:
                write(work)
            except ProfileError as problem:
                if not may_lack_onnx:
                    raise ExportError(f"{title}: {problem}; take --format safetensors") from problem
                work.notes.append(f"{ONNX} is left out: {problem}")
        if "onnx" not in formats:
            (made / ONNX).unlink(missing_ok=True)  # OpenVINO's was made of it
        step(len(writers))
        about = work.finished()
        (made / LABELS).write_bytes(as_json(material.labels))
        (made / PREPROCESSING).write_bytes(as_json(material.preprocessing.model_dump(mode="json")))
        networks = frozenset(path.name for path in made.iterdir()) - {LABELS, PREPROCESSING}
        if not networks:
            raise ExportError(f"{title}: {about.notes[-1]}; take --format safetensors")
        (made / README).write_text(manual(about, material.labels, material.preprocessing, networks), encoding="utf-8")
        files = {path.name: digest_of(path) for path in sorted(made.iterdir())}
        about = about.model_copy(update={"files": files})
        (made / ABOUT).write_bytes(as_json(about.model_dump(mode="json")))
        step(len(writers) + 1)
    return read_export(folder)


# ---------------------------------------------------------------- format by format


@dataclass
class _Work:
    """What is being written, and what came of it so far."""

    material: Material
    made: Path
    formats: frozenset[Format]
    half: bool
    parities: dict[Format, Parity] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def about(self) -> ExportRecord:
        return self.material.about

    @property
    def takes_pixels(self) -> bool:
        return self.material.preprocessing.onnx_input == "pixels"

    def finished(self) -> ExportRecord:
        """What is known of it now, but for the digests."""
        has_onnx = (self.made / ONNX).is_file()
        others = {name: parity for name, parity in self.parities.items() if name != "onnx"}
        return self.about.model_copy(
            update={
                "opset": OPSET if has_onnx else None,
                "onnx_input": self.material.preprocessing.onnx_input,
                "weights": "fp16" if self.half else "fp32",
                "parity": self.parities.get("onnx"),
                "other_parity": others,
                "notes": (*self.about.notes, *self.notes),
            }
        )

    def compare(self, form: Format, runtime: str, opened: Opened) -> None:
        """Hold what was written against what it has to be. Raises: ExportError, if it gives other probabilities."""
        quantised = self.about.quantised
        as_it_was = form == "onnx" and not self.takes_pixels  # the run's own file
        if quantised and as_it_was and self.material.network is None:
            return
        if quantised and as_it_was:
            expected, against, tolerance = self.material.by_torch, "itself before it was quantised", _ROUNDING
        elif quantised:
            expected, against, tolerance = self.material.by_int8, "the run's int8 file", INT8_TOLERANCE
        else:
            expected, against = self.material.by_torch, "torch"
            tolerance = HALF_TOLERANCE if self.half else PARITY_TOLERANCE
        found = self.material.ask(runtime, opened)
        difference = float(np.abs(found - expected).max())
        agreement = float((found.argmax(1) == expected.argmax(1)).mean())
        count, of = len(found), self.material.images_of
        if not difference <= tolerance:
            raise ExportError(
                f"{self.about.title}: {FILES[form][0]} is not the same network: over {count} {of} its probabilities "
                f"are up to {difference:.2g} off those of {against}, {tolerance:g} is allowed, and {agreement:.1%} of "
                f"the answers agree; nothing was written: {self._advice(form)}"
            )
        self.parities[form] = Parity(
            images=count,
            of=of,
            against=against,
            max_abs_difference=difference,
            top1_agreement=agreement,
            tolerance=tolerance,
        )

    def _advice(self, form: Format) -> str:
        if self.half:
            return "leave --half out"
        if not self.about.quantised:
            return "take --format safetensors"
        return "take --format onnx" if form == "openvino" else "leave --with-preprocessing out"


def _onnx(work: _Work) -> None:
    """Of a quantised run the file that it left. Raises: ProfileError, if ONNX cannot express the network."""
    material, path = work.material, work.made / ONNX
    if work.about.quantised or material.network is None:
        shutil.copyfile(material.weights, path)
    else:
        write_onnx(material.network, path, work.about, material.labels, material.preprocessing)
    if work.half:
        store_half(path)
    if work.takes_pixels:
        take_pixels(path, material.preprocessing)
    if "onnx" in work.formats:
        work.compare("onnx", "onnxruntime", open_onnx_file(path))


def _openvino(work: _Work) -> None:
    """Of the ONNX file, so that both are the same."""
    write_ir(work.made / ONNX, work.made)
    work.compare("openvino", "openvino", open_ir(work.made / IR, work.made / IR_WEIGHTS))


def _torch(work: _Work) -> None:
    network = _of(work.material)
    write_program(network, work.material.preprocessing.image_size, work.made / PROGRAM)
    work.compare("torch", "torch", Opened("image", written_program(work.made / PROGRAM)))


def _safetensors(work: _Work) -> None:
    """A copy of the run's own file is not compared; rounded weights are, in a network of fp32 as they are used."""
    path = work.made / WEIGHTS
    if not work.half:
        shutil.copyfile(work.material.weights, path)
        return
    write_half(work.material.weights, path)
    network = copy.deepcopy(_of(work.material))
    load_model(network, path)
    work.compare("safetensors", "torch", Opened("image", torch_forward(network)))


def _of(material: Material) -> nn.Module:
    if material.network is None:
        raise ExportError(f"{material.about.title} is quantised, and is an ONNX file; take --format onnx")
    return material.network


_WRITERS = {"onnx": _onnx, "openvino": _openvino, "torch": _torch, "safetensors": _safetensors}
"""In this order: one is made of another."""
