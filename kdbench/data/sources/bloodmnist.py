"""BloodMNIST of MedMNIST: the images of PBC at 28 x 28 pixels, in one file of arrays with the sides given."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

import numpy as np
from PIL import Image

from kdbench.data.files import StoredFile
from kdbench.data.labels import LEUKOCYTES
from kdbench.data.source import SOURCES, Download, Item, Listing, Source
from kdbench.errors import BadImage, DataError
from kdbench.types import LeftOut, Scalar, SplitName

FILE = "bloodmnist.npz"
SIDES: tuple[SplitName, ...] = ("train", "val", "test")
CLASSES = (
    "basophil",
    "eosinophil",
    "erythroblast",
    "immature granulocyte",
    "lymphocyte",
    "monocyte",
    "neutrophil",
    "platelet",
)
"""In the order of their codes in the file."""

Arrays = dict[str, np.ndarray]


class BloodMNIST(Source):
    name = "bloodmnist"
    title = "BloodMNIST (MedMNIST v2), the five leukocyte classes, 28 pixels"
    url = "https://medmnist.com"
    licence = "CC BY 4.0"
    citation = "Yang et al., Scientific Data 10 (2023) 41; Acevedo et al., Data in Brief 30 (2020) 105474"
    labels = LEUKOCYTES
    protocol = "official"
    layout = "bloodmnist/bloodmnist.npz"
    shares_images_with = ("pbc",)
    caveats = (
        "bloodmnist has 28 x 28 pixels: a larger image_size shows nothing more",
        "bloodmnist is made of the images of pbc: never train on one and test on the other",
    )
    counts = MappingProxyType(
        {"basophil": 1218, "eosinophil": 3117, "lymphocyte": 1214, "monocyte": 1420, "neutrophil": 3329}
    )
    steps = (
        "download bloodmnist.npz from https://zenodo.org/records/10519652",
        "move it to {folder}/bloodmnist.npz",
    )
    downloads = (
        Download(
            "https://zenodo.org/records/10519652/files/bloodmnist.npz?download=1",
            FILE,
            "plain",
            checksum="md5:7053d0359d879ad8a5505303e11de1dc",  # MedMNIST publishes no other kind
        ),
    )

    def scan(self, root: Path, options: Mapping[str, Scalar]) -> Listing:
        """List the items; all have the one file as their path. Raises: MissingData; DataError if it is not the file."""
        path = root / "bloodmnist" / FILE
        if not path.is_file():
            raise self.missing(path)
        arrays = _open(path)
        items: list[Item] = []
        left_out: list[LeftOut] = []
        outside: Counter[str] = Counter()
        held: dict[bytes, SplitName] = {}
        for side in reversed(SIDES):  # what repeats between sides stays in the test set, as it was published
            for index, (code, pixels) in enumerate(zip(*_side(arrays, side), strict=True)):
                name, label = f"bloodmnist/{side}/{index:05d}", CLASSES[code]
                if label not in LEUKOCYTES:
                    outside[label] += 1
                    continue
                other = held.setdefault(hashlib.sha256(pixels.tobytes()).digest(), side)
                if other == side:
                    items.append(Item(name, label, fold=side, path=path))
                else:
                    left_out.append(LeftOut(path=name, reason=f"its pixels are those of an image of {other}"))
        left_out += [
            LeftOut(path=f"bloodmnist/{FILE}: {label}", reason="class outside the task", count=count)
            for label, count in sorted(outside.items())
        ]
        return Listing(tuple(items), tuple(left_out))

    def count_differences(self, items: Iterable[Item]) -> str:
        """Of the file, not of the items: what is left out because it repeats is in the published counts too."""
        codes = [code for path in {item.path for item in items} if path for side in SIDES
                 for code in _side(_open(path), side)[0]]  # fmt: skip
        return super().count_differences(Item("", CLASSES[code]) for code in codes)

    def read(self, item: Item, options: Mapping[str, Scalar]) -> Image.Image:
        return Image.fromarray(_pixels(item))

    def digest(self, item: Item) -> str:
        """SHA-256 of the pixels: of the file it would be the same for every image."""
        return hashlib.sha256(_pixels(item).tobytes()).hexdigest()

    def look(self, item: Item) -> StoredFile:
        height, width, _ = _pixels(item).shape
        return StoredFile(width, height, "RGB", "array")


def _side(arrays: Arrays, side: SplitName) -> tuple[list[int], np.ndarray]:
    """The codes and the images of one side."""
    return arrays[f"{side}_labels"].ravel().tolist(), arrays[f"{side}_images"]


def _pixels(item: Item) -> np.ndarray:
    """(28, 28, 3) uint8. Raises: BadImage if the item is not one of this source."""
    try:
        _, side, index = item.id.split("/")
        return np.ascontiguousarray(_open(item.path)[f"{side}_images"][int(index)]) if item.path else _no_image(item)
    except (ValueError, KeyError, IndexError):
        return _no_image(item)


def _no_image(item: Item) -> np.ndarray:
    raise BadImage(f"{item.id}: not an image of {FILE}")


def _open(path: Path) -> Arrays:
    """The arrays of the file, read once for as long as it stays the same. Raises: DataError."""
    try:
        stat = path.stat()
        return _load(path, stat.st_size, stat.st_mtime_ns)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as problem:
        what = f"it has no array {problem}" if isinstance(problem, KeyError) else str(problem)
        raise DataError(f"{path} is not MedMNIST's file of 28 pixels ({what}); download it again") from None


@lru_cache(maxsize=1)
def _load(path: Path, size: int, modified: int) -> Arrays:
    arrays: Arrays = {}
    opened = np.load(path, allow_pickle=False)
    if not isinstance(opened, np.lib.npyio.NpzFile):
        raise ValueError("a single array")
    with opened as file:
        for side in SIDES:
            images, labels = file[f"{side}_images"], file[f"{side}_labels"]
            if images.dtype != np.uint8 or images.shape[1:] != (28, 28, 3):
                raise ValueError(f"{side}_images are {images.dtype} {images.shape}")
            if labels.dtype.kind not in "iu" or labels.size != len(images):
                raise ValueError(f"{side}_labels are {labels.dtype} {labels.shape} for {len(images)} images")
            if labels.size and not 0 <= labels.min() <= labels.max() < len(CLASSES):
                raise ValueError(f"{side}_labels hold other codes than 0 to {len(CLASSES) - 1}")
            arrays[f"{side}_images"], arrays[f"{side}_labels"] = images, labels
    return arrays


SOURCES.add("bloodmnist", BloodMNIST())
