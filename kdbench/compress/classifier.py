"""A trained network at work on image files: decode, normalise, ask, and say what could not be read. Floor 4.

It sees an image just as in training, for the same code decodes and normalises it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from kdbench.calibration import softmax
from kdbench.compress.artefact import Input, Preprocessing
from kdbench.data.cache import in_threads
from kdbench.data.source import is_image_name, read_image
from kdbench.environment import usable_cores
from kdbench.errors import BadImage, ConfigError, ExportError, RuntimeUnavailable
from kdbench.profiling.conversion import complaint, installed, quiet, without_telemetry
from kdbench.types import LeftOut, Progress

Forward = Callable[[np.ndarray], np.ndarray]
"""From images (B, 3, S, S) float32, normalised, to logits (B, K) float32; of a file that takes pixels (B, S, S, 3)
uint8 from these."""

BATCH = 32
"""Images at once: enough to fill the cores of a small machine, little enough for its memory."""


@dataclass(frozen=True)
class Predictions:
    """What a network says of files.

    Attributes:
        files: those that could be read, in the order they were given.
        logits: (N, K) float32.
        skipped: those that could not, and why.
    """

    labels: tuple[str, ...]
    files: tuple[Path, ...]
    logits: np.ndarray
    skipped: tuple[LeftOut, ...]

    @property
    def probabilities(self) -> np.ndarray:
        """(N, K) float64; each row sums to 1."""
        return softmax(self.logits)


@dataclass(frozen=True)
class Classifier:
    """A trained network with all it takes to ask it.

    Attributes:
        title: of the run that trained it.
        labels: the class names in the order of the logits.
        runtime: what runs it: onnxruntime, openvino or torch.
        takes: what ``forward`` is given.
    """

    title: str
    labels: tuple[str, ...]
    preprocessing: Preprocessing
    runtime: str
    forward: Forward
    takes: Input = "image"

    def logits(self, pixels: np.ndarray, batch: int = BATCH, progress: Callable[[int], None] | None = None) -> Any:
        """Logits (N, K) float32 of images (N, S, S, 3) uint8. Raises: ExportError, if what comes are no such numbers.

        Args:
            batch: images at once.
            progress: told how many are done.
        """
        parts = [np.zeros((0, len(self.labels)), np.float32)]
        for start in range(0, len(pixels), batch):
            part = pixels[start : start + batch]
            try:
                given = part if self.takes == "pixels" else self.preprocessing.normalised(part)
                found = np.asarray(self.forward(given), np.float32)
            except Exception as problem:  # runtimes raise what they like
                raise ExportError(f"{self.title}: {self.runtime} cannot run it: {complaint(problem)}") from problem
            if found.shape != (len(part), len(self.labels)) or not np.isfinite(found).all():
                what = "numbers that are not finite" if found.shape == (len(part), len(self.labels)) else found.shape
                raise ExportError(
                    f"{self.title} gives {what} for {len(part)} images and {len(self.labels)} labels; its files do not "
                    "belong together: export the run again"
                )
            parts.append(found)
            if progress:
                progress(min(start + batch, len(pixels)))
        return np.concatenate(parts)

    def predict(self, files: Sequence[Path | str], batch: int = BATCH, progress: Progress | None = None) -> Predictions:
        """Ask of image files; one that cannot be read is left out by name. Memory holds one batch at a time.

        Args:
            batch: images at once.
        Raises: ExportError, if the network does not work.
        """
        read: list[Path] = []
        skipped: list[LeftOut] = []
        logits = [np.zeros((0, len(self.labels)), np.float32)]
        paths = [Path(file) for file in files]
        for start in range(0, len(paths), batch):
            part = paths[start : start + batch]
            decoded = in_threads(self.decode, part, "decoding", None)
            good = [pixels for pixels in decoded if not isinstance(pixels, str)]
            for path, pixels in zip(part, decoded, strict=True):
                if isinstance(pixels, str):
                    skipped.append(LeftOut(path=str(path), reason=pixels))
                else:
                    read.append(path)
            if good:
                logits.append(self.logits(np.stack(good), batch))
            if progress:
                progress("predicting", min(start + batch, len(paths)), len(paths))
        return Predictions(self.labels, tuple(read), np.concatenate(logits), tuple(skipped))

    def decode(self, path: Path) -> np.ndarray | str:
        """An image file as (S, S, 3) uint8, or why it cannot be read."""
        try:
            return self.preprocessing.pixels(read_image(path))
        except BadImage as problem:
            return "it is empty" if path.is_file() and not path.stat().st_size else str(problem)


def image_files(named: Iterable[Path | str]) -> tuple[list[Path], list[LeftOut]]:
    """The files to ask of, and those of the folders whose names say that they are no images.

    Args:
        named: files, which are taken whatever they are called, and folders, which are searched to the bottom.
    Returns: in the order given, within a folder by name; each file once.
    Raises: ConfigError naming everything that is not there.
    """
    places = [Path(name) for name in named]
    if missing := [str(place) for place in places if not place.exists()]:
        raise ConfigError([f"there is no file or folder {name}; check the path" for name in missing])
    files: dict[Path, None] = {}
    passed: list[LeftOut] = []
    for place in places:
        for path, name in _below(place):
            if name is None or is_image_name(name):
                files[path] = None
            else:
                passed.append(LeftOut(path=str(path), reason="its name is not an image's"))
    return list(files), passed


def _below(place: Path) -> Iterator[tuple[Path, str | None]]:
    """The files at or below a place, each with its name below it; None: it was named itself."""
    if not place.is_dir():
        yield place, None
        return
    for path in sorted(place.rglob("*")):
        if path.is_file():
            yield path, path.relative_to(place).as_posix()


# ---------------------------------------------------------------- runtimes


@dataclass(frozen=True)
class Opened:
    """A network's file in a runtime: what it takes, and how it is asked."""

    takes: Input
    forward: Forward


def onnx_forward(path: Path, threads: int | None = None) -> Forward:
    """An ONNX file that takes normalised images, as ``open_onnx_file`` opens it. Raises: as that."""
    opened = open_onnx_file(path, threads)
    if opened.takes != "image":
        raise ExportError(f"{path} takes {opened.takes}, not an image (B, 3, S, S); export the run again")
    return opened.forward


def open_onnx_file(path: Path, threads: int | None = None) -> Opened:
    """An ONNX file in ONNX Runtime, on the processor, with all its graph optimisations.

    Args:
        threads: None: one for each usable core.
    Raises: RuntimeUnavailable; ExportError, if the file cannot be loaded, or is no classifier of ours.
    """
    _check_installed("onnxruntime", "export")
    try:
        with quiet():
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = threads or usable_cores()
            options.inter_op_num_threads = 1
            options.log_severity_level = 4  # fatal: errors are raised as well
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as problem:  # onnxruntime raises classes of its own
        raise ExportError(f"{path} cannot be loaded ({complaint(problem)}); export the run again") from problem
    takes = _takes(
        path,
        [(each.name, len(each.shape)) for each in session.get_inputs()],
        [(each.name, len(each.shape)) for each in session.get_outputs()],
    )
    return Opened(takes, lambda images: session.run(["logits"], {takes: images})[0])


def open_ir(path: Path, weights: Path, threads: int | None = None) -> Opened:
    """A network as OpenVINO stores it, in OpenVINO, on the processor, in fp32 but for what is int8.

    Args:
        path, weights: the .xml and the .bin file.
        threads: None: one for each usable core.
    Raises: RuntimeUnavailable; ExportError, if the files cannot be loaded, or are no classifier of ours.
    """
    _check_installed("openvino", "openvino")
    try:
        with quiet(), without_telemetry():
            import openvino

            core = openvino.Core()
            model = core.read_model(path, weights)
            ends = [
                [(each.get_any_name(), len(each.get_partial_shape())) for each in side]
                for side in (model.inputs, model.outputs)
            ]
            hints = {
                "PERFORMANCE_HINT": "LATENCY",
                "NUM_STREAMS": 1,
                "INFERENCE_NUM_THREADS": threads or usable_cores(),
                "INFERENCE_PRECISION_HINT": "f32",  # where a processor has bf16, openvino takes it of itself
            }
            compiled = core.compile_model(model, "CPU", hints)
    except Exception as problem:  # openvino raises RuntimeError of many lines
        reason = complaint(problem, ("Exception from", "Check '"))
        raise ExportError(f"{path} cannot be loaded ({reason}); export the run again") from problem
    return Opened(_takes(path, *ends), lambda images: compiled(images)[0])


def _check_installed(runtime: str, extra: str) -> None:
    """Raises: RuntimeUnavailable."""
    found = installed(extra, runtime)
    if not found:
        raise RuntimeUnavailable(f"the runtime '{runtime}' is not available: {found.reason}; or take --runtime torch")


def _takes(path: Path, inputs: list[tuple[str, int]], outputs: list[tuple[str, int]]) -> Input:
    """What a file takes, from names and ranks of what goes in and out. Raises: ExportError, if it is none of ours."""
    takes: Input = "pixels" if inputs == [("pixels", 4)] else "image"
    if (inputs, outputs) != ([(takes, 4)], [("logits", 2)]):
        names = [" and ".join(name for name, _ in side) or "nothing" for side in (inputs, outputs)]
        raise ExportError(
            f"{path} takes {names[0]} and gives {names[1]}, not an image (B, 3, S, S) or pixels (B, S, S, 3) and "
            "logits (B, K); export the run again"
        )
    return takes


def torch_forward(network: nn.Module) -> Forward:
    """A network of torch, in evaluation mode, where it is."""

    def forward(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return network(torch.from_numpy(images)).float().numpy()

    return forward
