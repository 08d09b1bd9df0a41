"""The contract of a data set source: what a file in ``data/sources/`` has to say. Floor 3."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar, Literal

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from kdbench.data.files import StoredFile, look_at
from kdbench.data.origins import known_twins
from kdbench.errors import BadImage, ConfigError, MissingData
from kdbench.registry import Registry
from kdbench.types import LeftOut, Scalar, SplitName

ImageFile.LOAD_TRUNCATED_IMAGES = False  # half an image must be an error, whatever else runs in this process


@dataclass(frozen=True)
class Item:
    """One labelled image.

    Attributes:
        id: the path below the data root with forward slashes, or a made-up one; unique within its source.
        label: one of the source's labels.
        group: images of one group stay on one side of a split; None: a group of its own.
        fold: the side the publisher put it on; None: kdbench splits.
        path: the file; None for a generated image.
    """

    id: str
    label: str
    group: str | None = None
    fold: SplitName | None = None
    path: Path | None = None


@dataclass(frozen=True)
class Listing:
    """What a source has on this disk, and what was passed over and why."""

    items: tuple[Item, ...]
    left_out: tuple[LeftOut, ...] = ()


@dataclass(frozen=True)
class Move:
    """What of an archive is taken, and where it goes.

    Attributes:
        place: a folder or a file in the archive; folders around it, such as ``name-master``, do not matter.
        target: what it becomes below the source's folder; empty: that folder itself.
        suffix: of a folder only the files whose names end so, in lower case; empty: all.
    """

    place: str
    target: str = ""
    suffix: str = ""

    def to(self, parts: tuple[str, ...]) -> tuple[str, ...] | None:
        """Where a file of the archive goes, below the source's folder; None: it is not meant."""
        place = tuple(self.place.split("/"))
        if not parts[-1].lower().endswith(self.suffix):
            return None
        for start in range(len(parts) - len(place), -1, -1):  # the innermost: archives wrap a folder in its own name
            if parts[start : start + len(place)] == place:
                return (*filter(None, self.target.split("/")), *parts[start + len(place) :])
        return None


@dataclass(frozen=True)
class Download:
    """One file that a data set, or a part of it, is made of.

    Attributes:
        url: where it is; None: there is no address that anyone may load it from, only a mirror of the user's own.
        file_name: how it is called, here and on a mirror.
        kind: of an archive; plain: the file is taken as it is.
        checksum: ``sha256:...`` or ``md5:...`` as the publisher gives it; None: none is published.
        size_bytes: of the file, if it is known and stays the same.
        unpacked_bytes: of all that is in the archive, if known; an archive that holds twice of it is refused.
        moves: what of an archive goes where.
        into: the folder below the source's that a plain file goes to; empty: the source's own.
    """

    url: str | None
    file_name: str
    kind: Literal["zip", "tar", "tar.gz", "plain"]
    checksum: str | None = None
    size_bytes: int | None = None
    unpacked_bytes: int | None = None
    moves: tuple[Move, ...] = ()
    into: str = ""


class Source(ABC):
    """A data set: where it comes from, how it lies on the disk, its labels and its licence.

    A subclass sets the attributes, `labels` and `scan`, and registers an instance: ``SOURCES.add(name, MySource())``.
    """

    name: str
    title: str
    url: str
    licence: str
    citation: str
    layout: str
    """What is expected below the data root, for people."""
    caveats: tuple[str, ...] = ()
    """What every table made from it must say."""
    shares_images_with: ClassVar[tuple[str, ...]] = ()
    """Sources cut from the same originals; a union refuses to hold both."""
    counts: Mapping[str, int] = MappingProxyType({})
    """Images of each class as published, all sides together; empty: not known."""
    downloads: tuple[Download, ...] = ()
    """The files it is made of."""
    manual: ClassVar[str] = ""
    """Why it cannot be downloaded without a person; empty: it can."""
    steps: tuple[str, ...] = ()
    """What a person does instead; ``{folder}`` stands for the source's folder."""
    augmented: ClassVar[bool] = False
    """Whether its images are copies of fewer originals, which `origin` tells apart."""
    protocol: ClassVar[str] = "stratified-grouped"
    """How it is split where nothing is said."""
    version: ClassVar[int] = 1
    """Of a generated source: raised when it would draw other pixels."""
    options: ClassVar[Mapping[str, Scalar]] = {}
    """Of a generated source: its options and their defaults."""

    @property
    @abstractmethod
    def labels(self) -> tuple[str, ...]:
        """The classes in the order of their numbers; a class attribute where they are known beforehand."""

    @abstractmethod
    def scan(self, root: Path, options: Mapping[str, Scalar]) -> Listing:
        """List the items, without decoding. Raises: MissingData with what to get and where to put it."""

    def read(self, item: Item, options: Mapping[str, Scalar]) -> Image.Image:
        """Decode one item as an RGB image. Raises: BadImage with the reason."""
        if item.path is None:
            raise BadImage(f"{item.id}: has no file")
        return read_image(item.path)

    def digest(self, item: Item) -> str:
        """SHA-256 of what an image is made of, here its file. Raises: OSError; BadImage if it has no file."""
        if item.path is None:
            raise BadImage(f"{item.id}: has no file")
        return hashlib.sha256(item.path.read_bytes()).hexdigest()

    def look(self, item: Item) -> StoredFile:
        """An image as it is stored, and what is odd about it. Raises: BadImage if it has no file; OSError."""
        if item.path is None:
            raise BadImage(f"{item.id}: has no file")
        return look_at(item.path)

    def beside(self, root: Path) -> tuple[Item, ...]:
        """Labelled images that lie beside the data set's, on no side, and may repeat them; an audit compares them."""
        return ()

    def origin(self, item: Item, digest: str) -> str | None:
        """What an image shows, where the source knows that others show it too: they belong together.

        Args:
            digest: SHA-256 of its file.
        """
        return known_twins().get(item.id)

    def originals(self, root: Path) -> Mapping[str, Path]:
        """The files that images were made from, by name, as far as they are on this disk; an audit matches them."""
        return {}

    def original_labels(self, root: Path) -> Mapping[str, str]:
        """Labels of the originals, by name, as far as their publisher gives any."""
        return {}

    def original_name(self, digest: str) -> str | None:
        """The original of an image by the table in the package. Args: digest: SHA-256 of its file."""
        return None

    def count_differences(self, items: Iterable[Item]) -> str:
        """How the images found differ in number from the published ones; empty: not at all, or nothing is known."""
        found = Counter(item.label for item in items)
        return ", ".join(
            f"{label} {found[label]} instead of {count}"
            for label, count in self.counts.items()
            if found[label] != count
        )

    def by_hand(self, root: Path) -> str:
        """The numbered steps of a person who gets it below this data root, in one line."""
        folder = root / self.name
        return "; ".join(f"{number}. {step.format(folder=folder)}" for number, step in enumerate(self.steps, start=1))

    def check_options(self, options: Mapping[str, Scalar]) -> None:
        """Raises: ConfigError naming every option the source does not have."""
        if unknown := sorted(set(options) - set(self.options)):
            known = ", ".join(self.options) or "none"
            raise ConfigError([f"dataset '{self.name}' has no option {', '.join(unknown)}; known: {known}"])

    def missing(self, expected: Path) -> MissingData:
        """The error for data that is not there, with what to do."""
        return MissingData(
            f"{self.name}: nothing at {expected}; get it from {self.url} and lay it out as {self.layout} "
            f"(`kdbench data download {self.name}` {'says how' if self.manual else 'does it'}); "
            "the data root is --data-root, else KDBENCH_DATA, else the user's data folder"
        )


SOURCES: Registry[Source] = Registry("dataset source", "kdbench.data.sources")

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})


def read_image(path: Path) -> Image.Image:
    """Decode a file to RGB, whole and upright. Raises: BadImage if it is no image, truncated or empty."""
    try:
        with Image.open(path) as image:
            image.load()
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I"):  # 16 bits: convert() would cut every value off at 255
                values = np.asarray(upright)
                if values.min(initial=0) < 0 or values.max(initial=0) > 65535:
                    raise BadImage("32-bit values, of which none is known to be white; save it with 8 or 16 bits")
                upright = Image.fromarray((values >> 8).astype(np.uint8))
            if upright.mode == "F":
                raise BadImage("floating-point values, of which none is known to be white; save it with 8 or 16 bits")
            return upright.convert("RGB")
    except BadImage:
        raise
    except UnidentifiedImageError:
        raise BadImage("not an image") from None
    except Exception as problem:  # decoders raise what they like on a damaged file; it is bad whatever they call it
        raise BadImage(str(problem) or type(problem).__name__) from None


def is_image_name(name: str) -> bool:
    """Whether a file's name says it is an image (hidden files are not, nor is anything in a hidden folder)."""
    hidden = name.startswith(".") or "/." in name
    return not hidden and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122 (a string)
