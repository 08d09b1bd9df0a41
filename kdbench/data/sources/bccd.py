"""BCCD as published on Kaggle ("Blood Cell Images"): 12,444 augmented images of 348 originals, four classes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from kdbench.data.layouts import class_folders, given_parts
from kdbench.data.source import SOURCES, Download, Item, Listing, Move, Source
from kdbench.types import Scalar, SplitName

LABELS = ("eosinophil", "lymphocyte", "monocyte", "neutrophil")
GIVEN: dict[str, SplitName] = {"TRAIN": "train", "TEST": "test"}
PASSED_OVER = {"TEST_SIMPLE": "single views of the TEST originals, which TEST holds already"}


class BCCD(Source):
    name = "bccd"
    title = "Blood Cell Images (augmented BCCD, Kaggle layout)"
    url = "https://www.kaggle.com/datasets/paultimothymooney/blood-cells"
    licence = "MIT (of BCCD_Dataset)"
    citation = "Shenggan, BCCD Dataset, 2017; P. Mooney, Blood Cell Images, 2018"
    labels = LABELS
    layout = "bccd/images/{TRAIN,TEST}/{EOSINOPHIL,LYMPHOCYTE,MONOCYTE,NEUTROPHIL}/*.jpeg"
    caveats = (
        "bccd: the 2,487 test images are augmented copies of 71 originals: intervals that count images are too narrow",
        "bccd: validation images are cut from TRAIN and share originals with it, so validation accuracy is too high "
        "(it selects the epoch, no more); TRAIN and TEST share no original",
    )
    counts = MappingProxyType({"eosinophil": 3120, "lymphocyte": 3103, "monocyte": 3098, "neutrophil": 3123})
    manual = "Kaggle wants a login"
    steps = (
        "log in at https://www.kaggle.com/datasets/paultimothymooney/blood-cells and press Download",
        "unpack the archive",
        "move its folder images, which holds TRAIN and TEST, to {folder}/images",
    )
    downloads = (Download(None, "bccd.zip", "zip", moves=(Move("images", "images"),)),)

    def scan(self, root: Path, options: Mapping[str, Scalar]) -> Listing:
        folder = root / "bccd" / "images"
        if not folder.is_dir():
            raise self.missing(folder)
        same = {label: label for label in LABELS}
        items, left_out = given_parts(root, folder, same, GIVEN, PASSED_OVER)
        for name, fold in GIVEN.items():
            if not any(item.fold == fold for item in items):
                raise self.missing(folder / name)
        return Listing(tuple(items), tuple(left_out))

    def beside(self, root: Path) -> tuple[Item, ...]:
        folder = root / "bccd" / "images" / "TEST_SIMPLE"
        if not folder.is_dir():
            return ()
        items, _ = class_folders(root, folder, {label: label for label in LABELS})
        return tuple(items)


SOURCES.add("bccd", BCCD())
