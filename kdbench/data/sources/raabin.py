"""Raabin-WBC: crops of five leukocyte classes that two experts agreed on, with the publisher's Train and Test-A."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from kdbench.data.labels import LEUKOCYTES
from kdbench.data.layouts import given_parts
from kdbench.data.source import SOURCES, Download, Listing, Move, Source
from kdbench.types import Scalar, SplitName

GIVEN: dict[str, SplitName] = {"Train": "train", "TestA": "test"}
PASSED_OVER = {"TestB": "taken with another microscope and camera, and of two classes only"}


class Raabin(Source):
    name = "raabin"
    title = "Raabin-WBC, cropped double-labelled cells (Kouzehkanan et al. 2022)"
    url = "https://raabindata.com/raabin-health-database/"
    licence = "free access, as its publisher says; no licence named"
    citation = "Kouzehkanan et al., Scientific Reports 12 (2022) 1123"
    labels = LEUKOCYTES
    layout = "raabin/{Train,TestA}/<Class>/*.jpg"
    caveats = (
        "raabin: which cells come from one smear is not known here, so validation images, which are cut from Train, "
        "may share smears with it",
    )
    counts = MappingProxyType(
        {"basophil": 301, "eosinophil": 1066, "lymphocyte": 3461, "monocyte": 795, "neutrophil": 8891}
    )
    """Train 10,175 and Test-A 4,339."""
    manual = "it is published as RAR archives, which Python cannot unpack"
    steps = (
        "find Train.rar and TestA.rar, the cropped double-labelled cells, from "
        "https://raabindata.com/raabin-health-database/ (they have been at "
        "http://dl.raabindata.com/WBC/Cropped_double_labeled/)",
        "unpack both with unrar or 7-Zip",
        "move the folders Train and TestA, which hold a folder for each class, to {folder}",
    )
    downloads = (Download(None, "raabin.zip", "zip", moves=(Move("Train", "Train"), Move("TestA", "TestA"))),)

    def scan(self, root: Path, options: Mapping[str, Scalar]) -> Listing:
        folder = root / "raabin"
        if not folder.is_dir():
            raise self.missing(folder)
        same = {label: label for label in LEUKOCYTES}
        items, left_out = given_parts(root, folder, same, GIVEN, PASSED_OVER)
        for name, fold in GIVEN.items():
            if not any(item.fold == fold for item in items):
                raise self.missing(folder / name)
        return Listing(tuple(items), tuple(left_out))


SOURCES.add("raabin", Raabin())
