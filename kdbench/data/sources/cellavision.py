"""CellaVision: leukocyte crops from the CellaVision blog ("Dataset 2" of Zheng et al.)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from kdbench.data.labels import JIANGXI_CODES, LEUKOCYTES
from kdbench.data.layouts import label_table
from kdbench.data.source import SOURCES, Listing, Source
from kdbench.types import Scalar


class CellaVision(Source):
    name = "cellavision"
    title = "CellaVision blog leukocytes (Zheng et al. 2018, dataset 2)"
    url = "https://github.com/zxaoyou/segmentation_WBC"
    licence = "no licence stated by the publisher; for research"
    citation = "Zheng et al., Micron 107 (2018) 55-71"
    labels = LEUKOCYTES
    layout = "cellavision/<number>.bmp with 'cellavision/Class Labels of Dataset 2.csv'"

    def scan(self, root: Path, options: Mapping[str, Scalar]) -> Listing:
        folder = root / "cellavision"
        if not folder.is_dir():
            raise self.missing(folder)
        items, left_out = label_table(root, folder, "Class Labels of Dataset 2.csv", JIANGXI_CODES, "{:03d}.bmp")
        return Listing(tuple(items), tuple(left_out))


SOURCES.add("cellavision", CellaVision())
