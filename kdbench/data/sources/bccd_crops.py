"""BCCD crops: one square crop around the cell of each labelled BCCD original."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from types import MappingProxyType

from kdbench.data.labels import LEUKOCYTES
from kdbench.data.layouts import class_folders
from kdbench.data.origins import bccd_place
from kdbench.data.source import SOURCES, Download, Item, Listing, Move, Source
from kdbench.types import Scalar


class BCCDCrops(Source):
    name = "bccd_crops"
    title = "BCCD originals, cropped to the leukocyte"
    url = "https://github.com/Shenggan/BCCD_Dataset"
    licence = "MIT"
    citation = "Shenggan, BCCD Dataset, 2017"
    labels = LEUKOCYTES
    layout = "bccd_crops/BCCD_cropped/<Class>/*.jpg"
    shares_images_with = ("bccd",)
    caveats = ("bccd_crops shares its originals with bccd: never train on one and test on the other",)
    counts = MappingProxyType({"basophil": 3, "eosinophil": 88, "lymphocyte": 33, "monocyte": 20, "neutrophil": 207})
    steps = (
        "open https://github.com/apple2373/BCCD and choose Code, Download ZIP",
        "unpack it",
        "move its folder BCCD_cropped to {folder}/BCCD_cropped",
    )
    downloads = (
        Download(
            "https://github.com/apple2373/BCCD/archive/7751031e0b41bcfdff998cbc4c698a445a60b49e.zip",
            "BCCD.zip",
            "zip",
            unpacked_bytes=1_583_810,
            moves=(Move("BCCD_cropped", "BCCD_cropped"),),
        ),
    )

    def origin(self, item: Item, digest: str) -> str | None:
        """The place of the smear that its original shows; the original's number stands in the file's name."""
        found = re.match(r"BloodImage_(\d{5})", PurePosixPath(item.id).name)
        return bccd_place(int(found[1])) if found else None

    def scan(self, root: Path, options: Mapping[str, Scalar]) -> Listing:
        folder = root / "bccd_crops" / "BCCD_cropped"
        if not folder.is_dir():
            raise self.missing(folder)
        items, left_out = class_folders(root, folder, {label: label for label in LEUKOCYTES})
        return Listing(tuple(items), tuple(left_out))


SOURCES.add("bccd_crops", BCCDCrops())
