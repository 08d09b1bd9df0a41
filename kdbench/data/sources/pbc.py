"""PBC: normal peripheral blood cells, Hospital Clinic of Barcelona."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from kdbench.data.labels import LEUKOCYTES
from kdbench.data.layouts import class_folders
from kdbench.data.source import SOURCES, Download, Listing, Move, Source
from kdbench.types import Scalar


class PBC(Source):
    name = "pbc"
    title = "PBC normal DIB (Acevedo et al. 2020), the five leukocyte classes"
    url = "https://data.mendeley.com/datasets/snkd93bnjr/1"
    licence = "CC BY 4.0"
    citation = "Acevedo et al., Data in Brief 30 (2020) 105474"
    labels = LEUKOCYTES
    layout = "pbc/PBC_dataset_normal_DIB/<class>/*.jpg"
    counts = MappingProxyType(
        {"basophil": 1218, "eosinophil": 3117, "lymphocyte": 1214, "monocyte": 1420, "neutrophil": 3329}
    )
    manual = "Mendeley Data publishes no direct link to the archive that stays the same"
    steps = (
        "open https://data.mendeley.com/datasets/snkd93bnjr/1 and press Download All",
        "unpack what comes, and the PBC_dataset_normal_DIB.zip in it",
        "move the folder PBC_dataset_normal_DIB that holds the class folders to {folder}/PBC_dataset_normal_DIB",
    )
    downloads = (
        Download(
            None, "PBC_dataset_normal_DIB.zip", "zip", moves=(Move("PBC_dataset_normal_DIB", "PBC_dataset_normal_DIB"),)
        ),
    )

    def scan(self, root: Path, options: Mapping[str, Scalar]) -> Listing:
        folder = root / "pbc" / "PBC_dataset_normal_DIB"
        if not folder.is_dir():
            raise self.missing(folder)
        items, left_out = class_folders(root, folder, {label: label for label in LEUKOCYTES})
        return Listing(tuple(items), tuple(left_out))


SOURCES.add("pbc", PBC())
