"""CellaVision: leukocyte crops from the CellaVision blog ("Dataset 2" of Zheng et al.)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from kdbench.data.labels import JIANGXI_CODES, LEUKOCYTES
from kdbench.data.layouts import label_table
from kdbench.data.source import SOURCES, Download, Listing, Move, Source
from kdbench.types import Scalar


class CellaVision(Source):
    name = "cellavision"
    title = "CellaVision blog leukocytes (Zheng et al. 2018, dataset 2)"
    url = "https://github.com/zxaoyou/segmentation_WBC"
    licence = "no licence stated by the publisher; for research"
    citation = "Zheng et al., Micron 107 (2018) 55-71"
    labels = LEUKOCYTES
    layout = "cellavision/<number>.bmp with 'cellavision/Class Labels of Dataset 2.csv'"
    counts = MappingProxyType({"basophil": 3, "eosinophil": 12, "lymphocyte": 37, "monocyte": 15, "neutrophil": 33})
    steps = (
        "open https://github.com/zxaoyou/segmentation_WBC and choose Code, Download ZIP",
        "unpack it",
        "move the *.bmp files of its folder 'Dataset 2' and 'Class Labels of Dataset 2.csv' to {folder}",
    )
    downloads = (
        Download(
            "https://github.com/zxaoyou/segmentation_WBC/archive/fa9c01622f52bccb9aeb8a6f2628f564e377767d.zip",
            "segmentation_WBC.zip",
            "zip",
            unpacked_bytes=41_106_385,
            moves=(
                Move("Dataset 2", suffix=".bmp"),  # beside each image lies its mask, a .png
                Move("Class Labels of Dataset 2.csv", "Class Labels of Dataset 2.csv"),
            ),
        ),
    )

    def scan(self, root: Path, options: Mapping[str, Scalar]) -> Listing:
        folder = root / "cellavision"
        if not folder.is_dir():
            raise self.missing(folder)
        items, left_out = label_table(root, folder, "Class Labels of Dataset 2.csv", JIANGXI_CODES, "{:03d}.bmp")
        return Listing(tuple(items), tuple(left_out))


SOURCES.add("cellavision", CellaVision())
