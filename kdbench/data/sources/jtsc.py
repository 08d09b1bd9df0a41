"""JTSC: Jiangxi Tecom leukocyte crops ("Dataset 1" of Zheng et al.)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from kdbench.data.labels import JIANGXI_CODES, LEUKOCYTES
from kdbench.data.layouts import label_table
from kdbench.data.source import SOURCES, Download, Listing, Move, Source
from kdbench.types import Scalar


class JTSC(Source):
    name = "jtsc"
    title = "Jiangxi Tecom Science Corporation leukocytes (Zheng et al. 2018, dataset 1)"
    url = "https://github.com/zxaoyou/segmentation_WBC"
    licence = "no licence stated by the publisher; for research"
    citation = "Zheng et al., Micron 107 (2018) 55-71"
    labels = LEUKOCYTES
    layout = "jtsc/<number>.bmp with 'jtsc/Class Labels of Dataset 1.csv'"
    caveats = ("some labels of jtsc were not checked by experts, as its publisher says",)
    counts = MappingProxyType({"basophil": 1, "eosinophil": 22, "lymphocyte": 53, "monocyte": 48, "neutrophil": 176})
    steps = (
        "open https://github.com/zxaoyou/segmentation_WBC and choose Code, Download ZIP",
        "unpack it",
        "move the *.bmp files of its folder 'Dataset 1' and 'Class Labels of Dataset 1.csv' to {folder}",
    )
    downloads = (
        Download(
            "https://github.com/zxaoyou/segmentation_WBC/archive/fa9c01622f52bccb9aeb8a6f2628f564e377767d.zip",
            "segmentation_WBC.zip",
            "zip",
            unpacked_bytes=41_106_385,
            moves=(
                Move("Dataset 1", suffix=".bmp"),  # beside each image lies its mask, a .png
                Move("Class Labels of Dataset 1.csv", "Class Labels of Dataset 1.csv"),
            ),
        ),
    )

    def scan(self, root: Path, options: Mapping[str, Scalar]) -> Listing:
        folder = root / "jtsc"
        if not folder.is_dir():
            raise self.missing(folder)
        items, left_out = label_table(root, folder, "Class Labels of Dataset 1.csv", JIANGXI_CODES, "{:03d}.bmp")
        return Listing(tuple(items), tuple(left_out))


SOURCES.add("jtsc", JTSC())
