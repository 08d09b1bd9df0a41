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
from kdbench.compress.artefact import Preprocessing
from kdbench.data.cache import in_threads
from kdbench.data.source import is_image_name, read_image
from kdbench.environment import usable_cores
from kdbench.errors import BadImage, ConfigError, ExportError, RuntimeUnavailable
from kdbench.profiling.conversion import complaint, installed, quiet
from kdbench.types import LeftOut, Progress

Forward = Callable[[np.ndarray], np.ndarray]
"""From images (B, 3, S, S) float32, normalised, to logits (B, K) float32."""

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
        runtime: what runs it: onnxruntime or torch.
    """

    title: str
    labels: tuple[str, ...]
    preprocessing: Preprocessing
    runtime: str
    forward: Forward

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
                found = np.asarray(self.forward(self.preprocessing.normalised(part)), np.float32)
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


def onnx_forward(path: Path, threads: int | None = None) -> Forward:
    """An ONNX file in ONNX Runtime, on the processor, with all its graph optimisations.

    Args:
        threads: None: one for each usable core.
    Raises: RuntimeUnavailable; ExportError, if the file cannot be loaded, or is no classifier of ours.
    """
    found = installed("export", "onnxruntime")
    if not found:
        raise RuntimeUnavailable(f"the runtime 'onnxruntime' is not available: {found.reason}; or take --runtime torch")
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
    ends = [[(each.name, len(each.shape)) for each in side] for side in (session.get_inputs(), session.get_outputs())]
    if ends != [[("image", 4)], [("logits", 2)]]:
        names = [" and ".join(name for name, _ in side) or "nothing" for side in ends]
        raise ExportError(
            f"{path} takes {names[0]} and gives {names[1]}, not an image (B, 3, S, S) and logits (B, K); "
            "export the run again"
        )
    return lambda images: session.run(["logits"], {"image": images})[0]


def torch_forward(network: nn.Module) -> Forward:
    """A network of torch, in evaluation mode, where it is."""

    def forward(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return network(torch.from_numpy(images)).float().numpy()

    return forward
