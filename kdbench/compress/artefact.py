"""What an exported folder holds, and how it is read back. Floor 4.

DIR/model.safetensors    the weights, as the run left them, or in half precision
DIR/model.onnx           the network with its weights: "image" (batch, 3, S, S) float32 -> "logits" (batch, K), or
                         "pixels" (batch, S, S, 3) uint8, RGB, which it normalises itself
DIR/model.xml, .bin      the same as OpenVINO has it, made of the ONNX file
DIR/model.pt2            the same as a program of torch.export: image -> logits
DIR/labels.json          the K class names in the order of the logits
DIR/preprocessing.json   how a file becomes what the network sees
DIR/export.json          what it is, where it comes from, and the SHA-256 of every other file
DIR/README.md            how to use it without kdbench
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from PIL import Image
from pydantic import Field, TypeAdapter, ValidationError
from pydantic_core import from_json

from kdbench.data.cache import DECODER_VERSION, fit_image
from kdbench.data.stain import STAIN_VERSION, normalise_stain
from kdbench.data.views import Views
from kdbench.errors import ExportError
from kdbench.model import Triple, normalisation
from kdbench.types import DatasetSpec, Fit, Frozen, ModelChoice, RunSpec, StainMethod

EXPORT_SCHEMA_VERSION = 1
"""Of ExportRecord and Preprocessing: raised when a field changes its meaning or goes away."""

WEIGHTS, ONNX = "model.safetensors", "model.onnx"
IR, IR_WEIGHTS, PROGRAM = "model.xml", "model.bin", "model.pt2"
LABELS, PREPROCESSING, ABOUT, README = "labels.json", "preprocessing.json", "export.json", "README.md"

Format = Literal["safetensors", "onnx", "openvino", "torch"]
FILES: dict[Format, tuple[str, ...]] = {
    "safetensors": (WEIGHTS,),
    "onnx": (ONNX,),
    "openvino": (IR, IR_WEIGHTS),
    "torch": (PROGRAM,),
}
"""What each format is in the folder; the first is the one that is opened."""

Input = Literal["image", "pixels"]
"""What a network's file takes, and the name of that. image: normalised, (batch, 3, S, S) float32. pixels: as decoded
and resized, (batch, S, S, 3) uint8, RGB."""

_AGAIN = "export the run again"
T = TypeVar("T")


class Preprocessing(Frozen):
    """How an image file becomes what the network sees: all that is needed to do it elsewhere, and what kdbench does."""

    kind: Literal["kdbench-preprocessing"] = "kdbench-preprocessing"
    schema_version: int = EXPORT_SCHEMA_VERSION
    image_size: int = Field(ge=16, le=1024, description="pixels, both sides")
    fit: Fit
    crop_fraction: float = Field(gt=0, le=1, description="of the shorter side, for fit: crop")
    resampling: Literal["bicubic"] = Field(default="bicubic", description="Pillow's, which smooths when it shrinks")
    stain: StainMethod
    mean: Triple = Field(description="by channel, of values in [0, 1]")
    std: Triple = Field(description="by channel, of values in [0, 1]")
    channel_order: Literal["RGB"] = "RGB"
    layout: Literal["NCHW"] = "NCHW"
    onnx_input: Input = Field(
        default="image", description="what the ONNX file takes; pixels: it normalises them itself"
    )
    decoder_version: int = Field(default=DECODER_VERSION, description="kdbench's; another gives other pixels")
    stain_version: int = Field(default=STAIN_VERSION, description="kdbench's; another gives other pixels")
    steps: tuple[str, ...] = Field(default=(), description="the same for people")

    @classmethod
    def of(cls, dataset: DatasetSpec, choice: ModelChoice, onnx_input: Input = "image") -> Preprocessing:
        """That of a run on this data set with this model."""
        mean, std = normalisation(choice)
        found = cls(
            image_size=dataset.image_size,
            fit=dataset.fit,
            crop_fraction=dataset.crop_fraction,
            stain=dataset.stain,
            mean=mean,
            std=std,
            onnx_input=onnx_input,
        )
        return found.model_copy(update={"steps": found._steps()})

    def pixels(self, image: Image.Image) -> np.ndarray:
        """An RGB image as (S, S, 3) uint8, by the code that decoded the training images."""
        return np.array(normalise_stain(fit_image(image, self._spec), self.stain)[0])  # Pillow's own may not be written

    def normalised(self, pixels: np.ndarray) -> np.ndarray:
        """What the network is fed, (N, 3, S, S) float32, of images (N, S, S, 3) uint8."""
        return Views(None, self.mean, self.std)(pixels, np.arange(len(pixels)), 0).contiguous().numpy()

    @property
    def _spec(self) -> DatasetSpec:
        return DatasetSpec(
            name="export", image_size=self.image_size, fit=self.fit, crop_fraction=self.crop_fraction, stain=self.stain
        )

    def _steps(self) -> tuple[str, ...]:
        size = f"{self.image_size} x {self.image_size} pixels, bicubic (Pillow's, which smooths when it shrinks)"
        side = "the shorter side" if self.crop_fraction == 1 else f"{self.crop_fraction:g} of the shorter side"
        fits = {
            "crop": f"crop the middle square, {side}, and resize it to {size}",
            "stretch": f"resize to {size}, whatever the shape",
            "pad": f"resize the longer side to fit, pad with the mean colour of the border: {size}",
        }
        return (
            "decode; turn upright by EXIF; of 16 bits keep the upper 8; convert to RGB without alpha",
            fits[self.fit],
            *([f"bring to kdbench's reference stain: {self.stain}"] if self.stain != "none" else []),
            *([_PIXELS] if self.onnx_input == "pixels" else []),
            "divide by 255, subtract mean, divide by std, by channel",
            "channels first: (batch, 3, height, width), float32",
        )


_PIXELS = (
    'model.onnx, and model.xml made of it, take the image as it now is, under the name "pixels": (batch, height, '
    "width, 3) uint8, RGB; the steps below are in them, and are done outside for other files"
)


class Parity(Frozen):
    """Whether a file gives what the trained network gave."""

    images: int = Field(ge=1)
    of: str = Field(description="which images")
    against: str = Field(default="", description='what the file was held against; "": not noted')
    max_abs_difference: float = Field(ge=0, description="of any probability of any image")
    top1_agreement: float = Field(ge=0, le=1, description="images with the same most probable class")
    tolerance: float = Field(description="the difference that is allowed")


class ExportRecord(Frozen):
    """What an exported network is, and where it comes from."""

    kind: Literal["kdbench-export"] = "kdbench-export"
    schema_version: int = EXPORT_SCHEMA_VERSION
    run_id: str
    title: str
    model: ModelChoice
    num_classes: int = Field(ge=1)
    method: str = Field(description="how it was trained")
    teachers: tuple[str, ...] = ()
    stages: tuple[str, ...] = Field(default=(), description="what was done to the trained network afterwards, in order")
    dataset: str
    protocol: str = Field(default="", description='how the data set was split; "": not noted')
    content: str = Field(description="hash of the images' bytes and labels")
    leak: str = Field(default="", description='why it may have known test images before its test; "": it did not')
    test_accuracy: float = Field(ge=0, le=1)
    test_images: int = Field(ge=1)
    licence: str = Field(description="of the architecture")
    citation: str = Field(description="of the architecture")
    data_licences: dict[str, str] = Field(default_factory=dict, description="by source of the images it learned from")
    data_citations: dict[str, str] = Field(default_factory=dict, description="by source")
    opset: int | None = Field(default=None, description="of model.onnx; None: there is none")
    onnx_input: Input = Field(default="image", description="what model.onnx takes; pixels: it normalises them itself")
    weights: Literal["fp32", "fp16"] = Field(
        default="fp32", description="how those that are not int8 are stored; the arithmetic is fp32 in any case"
    )
    parity: Parity | None = Field(default=None, description="of model.onnx; None: there is none, or nothing to compare")
    other_parity: dict[Format, Parity] = Field(
        default_factory=dict, description="by format; not of safetensors in fp32, which is a copy of the run's file"
    )
    notes: tuple[str, ...] = ()
    files: dict[str, str] = Field(default_factory=dict, description="SHA-256 by name")
    spec: RunSpec = Field(description="of the run, whole; its hash is the run_id")
    kdbench: str = Field(description="the version that wrote it")

    @property
    def quantised(self) -> bool:
        """Whether the ONNX file computes in int8, and is what the run left; there are no other weights then."""
        return self.spec.quantise is not None

    @property
    def parities(self) -> dict[Format, Parity]:
        """By format, of all that were compared."""
        return {**({"onnx": self.parity} if self.parity else {}), **self.other_parity}


@dataclass(frozen=True)
class Artefact:
    """An exported folder, read back."""

    folder: Path
    about: ExportRecord
    labels: tuple[str, ...]
    preprocessing: Preprocessing

    @cached_property
    def has_onnx(self) -> bool:
        return ONNX in self.about.files

    @cached_property
    def has_weights(self) -> bool:
        return WEIGHTS in self.about.files

    @cached_property
    def has_openvino(self) -> bool:
        return IR in self.about.files

    def file(self, name: str) -> Path:
        """The path of one of its files, which is as it was exported. Raises: ExportError, if it is not."""
        path = self.folder / name
        check_digest(path, self.about.files.get(name, ""))
        return path


def digest_of(path: Path) -> str:
    """SHA-256 of a file. Raises: OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_digest(path: Path, digest: str) -> None:
    """Raises: ExportError if the file is not there or not the one that was exported."""
    try:
        found = digest_of(path)
    except OSError as problem:
        raise ExportError(f"{path} cannot be read ({problem.strerror}); copy the whole folder, or {_AGAIN}") from None
    if found != digest:
        raise ExportError(
            f"{path} is not the file that was exported: its SHA-256 is {found[:12]}..., {ABOUT} says "
            f"{digest[:12] or 'nothing of it'}{'...' if digest else ''}; copy the folder again, or {_AGAIN}"
        )


def read_export(folder: Path | str) -> Artefact:
    """An exported folder, with labels and preprocessing checked; its network is checked when it is opened.

    Raises: ExportError if it is no such folder, or something in it is damaged, changed or of another version.
    """
    folder = Path(folder)
    hint = "`kdbench export RUN --results DIR --out FOLDER` makes one"
    if not folder.is_dir():
        raise ExportError(f"{folder} is no folder; name an exported one: {hint}; a run needs --results")
    if not (folder / ABOUT).is_file():
        raise ExportError(f"{folder} is no exported folder: it holds no {ABOUT}; {hint}")
    about = _read(folder / ABOUT, ExportRecord)
    for name in (LABELS, PREPROCESSING):
        check_digest(folder / name, about.files.get(name, ""))
    labels = _read(folder / LABELS, tuple[str, ...])
    preprocessing = _read(folder / PREPROCESSING, Preprocessing)
    if len(labels) != about.num_classes or len(set(labels)) != len(labels):
        raise ExportError(f"{folder / LABELS} has {len(set(labels))} labels, not {about.num_classes}; {_AGAIN}")
    ours = (DECODER_VERSION, STAIN_VERSION if preprocessing.stain != "none" else preprocessing.stain_version)
    if (preprocessing.decoder_version, preprocessing.stain_version) != ours:
        raise ExportError(
            f"{folder} was made for another way to decode images than this kdbench has; take kdbench {about.kdbench}, "
            f"or {_AGAIN}"
        )
    return Artefact(folder, about, labels, preprocessing)


def as_json(value: Any) -> bytes:
    """As the files of the folder have it."""
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


def _read(path: Path, kind: type[T]) -> T:
    """Raises: ExportError if the file cannot be read or does not hold that."""
    try:
        found = from_json(path.read_bytes())
        version = found.get("schema_version") if isinstance(found, dict) else EXPORT_SCHEMA_VERSION
        if version != EXPORT_SCHEMA_VERSION:
            raise ValueError(f"its schema version is {version!r}, this kdbench reads {EXPORT_SCHEMA_VERSION}")
        return TypeAdapter(kind).validate_python(found)
    except ValidationError as problem:
        first = problem.errors()[0]
        trouble = f"{'.'.join(str(part) for part in first['loc']) or 'the file'}: {first['msg']}"
    except OSError as problem:
        trouble = problem.strerror or str(problem)
    except ValueError as problem:
        trouble = str(problem)
    raise ExportError(f"{path} cannot be used ({trouble}); copy the folder again, or {_AGAIN}")
