"""BCCD as published on Kaggle ("Blood Cell Images"): 12,444 augmented images of 348 originals, four classes."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from kdbench.data.layouts import class_folders, given_parts
from kdbench.data.origins import DIGITS, bccd_originals, bccd_place
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
    protocol = "official"
    augmented = True
    layout = "bccd/images/{TRAIN,TEST}/{EOSINOPHIL,LYMPHOCYTE,MONOCYTE,NEUTROPHIL}/*.jpeg"
    caveats = (
        "bccd: the 12,444 images are augmented copies of 348 originals, the 2,487 of TEST of 71; 42 pairs of originals "
        "show the same cells, 8 of them across TRAIN and TEST. What counts is how many places of a smear were tested",
    )
    counts = MappingProxyType({"eosinophil": 3120, "lymphocyte": 3103, "monocyte": 3098, "neutrophil": 3123})
    manual = "Kaggle wants a login"
    steps = (
        "log in at https://www.kaggle.com/datasets/paultimothymooney/blood-cells and press Download",
        "unpack the archive",
        "move its folder images, which holds TRAIN and TEST, to {folder}/images",
    )
    downloads = (Download(None, "bccd.zip", "zip", moves=(Move("images", "images"),)),)

    def origin(self, item: Item, digest: str) -> str | None:
        """The place of the smear that its original shows; None for a file the published set does not have."""
        original = bccd_originals().get(digest[:DIGITS])
        return None if original is None else bccd_place(original)

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

    def originals(self, root: Path) -> Mapping[str, Path]:
        """The 640 x 480 photographs; of Kaggle's archive they lie in ``dataset-master/JPEGImages``."""
        for folder in (root / "bccd" / "Original_Images", root / "bccd" / "dataset-master" / "JPEGImages"):
            if found := {path.stem: path for path in sorted(folder.glob("BloodImage_*.jpg"))}:
                return found
        return {}

    def original_labels(self, root: Path) -> Mapping[str, str]:
        """Those with one cell of the four classes, from the publisher's labels.csv."""
        for path in (root / "bccd" / "labels.csv", root / "bccd" / "dataset-master" / "labels.csv"):
            try:
                rows = list(csv.reader(path.read_text("utf-8-sig").splitlines()))
            except (OSError, UnicodeDecodeError):
                continue  # it is evidence for people, and the audit says what evidence it had
            known = [(row[1], row[2].strip().lower()) for row in rows if len(row) > 2 and row[1].isdigit()]
            return {f"BloodImage_{int(number):05d}": label for number, label in known if label in LABELS}
        return {}

    def original_name(self, digest: str) -> str | None:
        original = bccd_originals().get(digest[:DIGITS])
        return None if original is None else f"BloodImage_{original:05d}"

    def beside(self, root: Path) -> tuple[Item, ...]:
        folder = root / "bccd" / "images" / "TEST_SIMPLE"
        if not folder.is_dir():
            return ()
        items, _ = class_folders(root, folder, {label: label for label in LABELS})
        return tuple(items)


SOURCES.add("bccd", BCCD())
