"""What the runtimes share that convert a network: quiet converters, whole files, and proof that it is still the same
network. Floor 3."""

from __future__ import annotations

import io
import logging
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from kdbench.errors import ProfileError
from kdbench.profiling.runtime import Availability, Source

REFERENCE = "reference.safetensors"
"""Images and what the network said of them before it was converted."""

TOLERANCE = {"fp32": 1e-3, "bf16": 0.25, "int8": 0.25}
"""The most that a logit may be off, as a fraction of the largest one: untrained networks have tiny ones. In fp32 only
the order of sums differs, by some 1e-5. In bf16 torch's own logits lie up to 0.09 off those in fp32 (MobileNetV2 with
random weights), so that this finds a wrong network, not a bad rounding. In int8 the original is the int8 file as
ONNX Runtime runs it, for that is what is tested on all test images, and not the network in fp32: of that it is meant to
differ, and by training as well. Another runtime may round half a step otherwise, and a layer later a whole one."""

_IMAGES = 2


def installed(extra: str, *packages: str) -> Availability:
    """Whether all the packages of an extra are there; nothing is imported."""
    missing = [package for package in packages if find_spec(package) is None]
    if not missing:
        return Availability(True)
    verb = "is" if len(missing) == 1 else "are"
    return Availability(False, f"{' and '.join(missing)} {verb} not installed; pip install 'kdbench[{extra}]'")


@contextmanager
def quiet() -> Iterator[None]:
    """What a library prints, warns and logs from Python inside reaches nobody: it is meant for its developers.

    Holds for the whole process, other threads included. What goes wrong is raised all the same.
    """
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextmanager
def without_telemetry() -> Iterator[None]:
    """OpenVINO and NNCF tell their makers of every import and conversion unless a file in the user's home forbids it;
    they do without where the package that sends is not found while they are imported."""
    name = "openvino_telemetry"
    hide = name not in sys.modules
    if hide:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if hide:
            del sys.modules[name]


@contextmanager
def whole_files(folder: Path, *names: str) -> Iterator[Path]:
    """A folder to write the files of these names in; once that went well they are moved to ``folder``, in this order.

    So the last one is there only if all are, and nothing is left of work that was not finished.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="unfinished-", dir=folder) as made:
        yield Path(made)
        for name in names:
            Path(made, name).replace(folder / name)


def reference_images(image_size: int) -> Tensor:
    """Normal noise (2, 3, image_size, image_size), always the same."""
    generator = torch.Generator().manual_seed(1)  # other images than those that are timed
    return torch.randn(_IMAGES, 3, image_size, image_size, generator=generator)


INT8_FOLDER = "int8"
"""Below a source's folder: what is made of its int8 file."""


def int8_source(source: Source) -> Source:
    """The source with its int8 file's own folder. Raises: ProfileError, if there is no such file."""
    if source.artefact is None:
        raise ProfileError("int8 needs a quantised file; make one with `kdbench compress RUN --quantise int8`")
    if not source.artefact.is_file():
        raise ProfileError(f"the int8 file '{source.artefact.name}' is gone; quantise the run again")
    return replace(source, folder=source.folder / INT8_FOLDER)


def write_reference(network: Callable[[Tensor], object], image_size: int, folder: Path) -> None:
    """Keep what the network says of ``reference_images``, for ``check_parity``. Raises: ProfileError, if it does not
    give logits (B, K)."""
    images = reference_images(image_size)
    with torch.inference_mode():
        logits = network(images)
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(images):
        raise ProfileError(f"the network gives {_describe(logits)} for {len(images)} images, not logits (B, K)")
    save_file({"images": images, "logits": logits.float().contiguous()}, folder / REFERENCE)


def check_parity(folder: Path, batch_size: int, forward: Callable[[Tensor], Any], tolerance: float, name: str) -> None:
    """Whether a converted network gives the logits of the original.

    The images are repeated to fill the batch, so that a network of any fixed batch size can be asked.

    Args:
        folder: where ``write_reference`` has been.
        forward: the converted network, from images (B, 3, H, W) to logits (B, K), as an array or tensor on the CPU.
        tolerance: see ``TOLERANCE``.
        name: of the runtime, for messages.

    Raises: ProfileError.
    """
    path = folder / REFERENCE
    try:
        kept = load_file(path)
        images, logits = kept["images"], kept["logits"]
    except Exception as error:  # safetensors raises errors of its own, and OSError, and KeyError
        raise ProfileError(f"'{path}' cannot be read ({complaint(error)}); convert the network again") from error
    order = torch.arange(batch_size) % len(images)
    expected = logits[order]
    given = torch.as_tensor(forward(images[order])).float()
    if given.shape != expected.shape:
        raise ProfileError(f"{name} gives logits {tuple(given.shape)}, torch gives {tuple(expected.shape)}")
    difference = (given - expected).abs().max().item()
    allowed = tolerance * expected.abs().max().item()
    if not difference <= allowed:  # so that nan is refused, too
        raise ProfileError(
            f"{name} gives other logits than torch: they differ by {difference:.2g}, {allowed:.2g} is allowed"
        )


def complaint(error: BaseException, skip: tuple[str, ...] = ()) -> str:
    """What an error is about, in one line: the first one of what caused it.

    Args:
        skip: beginnings of lines that say nothing to a user.
    """
    while error.__cause__ is not None:  # converters wrap what is wrong in advice to their own developers
        error = error.__cause__
    lines = (line.strip() for line in str(error).splitlines())
    return next((line for line in lines if line and not line.startswith(skip)), type(error).__name__)


def _describe(output: object) -> str:
    return f"a tensor {tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
