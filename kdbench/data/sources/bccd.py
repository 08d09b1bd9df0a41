"""BCCD as published on Kaggle ("Blood Cell Images"): 12,444 augmented images of 348 originals, four classes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from kdbench.data.layouts import class_folders
from kdbench.data.source import SOURCES, Item, Listing, Source
from kdbench.types import LeftOut, Scalar, SplitName

LABELS = ("eosinophil", "lymphocyte", "monocyte", "neutrophil")
GIVEN: dict[str, SplitName] = {"TRAIN": "train", "TEST": "test"}


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

    def scan(self, root: Path, options: Mapping[str, Scalar]) -> Listing:
        folder = root / "bccd" / "images"
        if not folder.is_dir():
            raise self.missing(folder)
        items: list[Item] = []
        left_out: list[LeftOut] = []
        for part in sorted(path for path in folder.iterdir() if path.is_dir()):
            fold = GIVEN.get(part.name)
            if fold is None:
                count = sum(1 for path in part.rglob("*") if path.is_file())
                reason = (
                    "single views of the TEST originals, which TEST holds already"
                    if part.name == "TEST_SIMPLE"
                    else f"none of the given parts {', '.join(GIVEN)}"
                )
                left_out.append(LeftOut(path=f"{part.relative_to(root).as_posix()}/", reason=reason, count=count))
                continue
            found, passed_over = class_folders(root, part, {label: label for label in LABELS}, fold=fold)
            items += found
            left_out += passed_over
        for name, fold in GIVEN.items():
            if not any(item.fold == fold for item in items):
                raise self.missing(folder / name)
        return Listing(tuple(items), tuple(left_out))


SOURCES.add("bccd", BCCD())
