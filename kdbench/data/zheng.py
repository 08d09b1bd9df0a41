"""The two leukocyte sets that Zheng et al. published in one repository: numbered files with a label table. Floor 3."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from kdbench.data.labels import JIANGXI_CODES, LEUKOCYTES
from kdbench.data.layouts import label_table
from kdbench.data.source import Download, Listing, Move, Source
from kdbench.types import Scalar


class ZhengSource(Source):
    """One of the two.

    Args:
        name: of the source and of its folder.
        number: what the publisher calls it: "Dataset 1" or "Dataset 2".
        title: for people.
        counts: images of each class as published.
        caveats: what every table made from it must say.
    """

    url = "https://github.com/zxaoyou/segmentation_WBC"
    licence = "no licence stated by the publisher; for research"
    citation = "Zheng et al., Micron 107 (2018) 55-71"
    labels = LEUKOCYTES

    def __init__(
        self, name: str, number: int, title: str, counts: Mapping[str, int], caveats: tuple[str, ...] = ()
    ) -> None:
        images, self._table = f"Dataset {number}", f"Class Labels of Dataset {number}.csv"
        self.name, self.title, self.counts, self.caveats = name, title, counts, caveats
        self.layout = f"{name}/<number>.bmp with '{name}/{self._table}'"
        self.steps = (
            f"open {self.url} and choose Code, Download ZIP",
            "unpack it",
            f"move the *.bmp files of its folder '{images}' and '{self._table}' to {{folder}}",
        )
        self.downloads = (
            Download(
                f"{self.url}/archive/fa9c01622f52bccb9aeb8a6f2628f564e377767d.zip",
                "segmentation_WBC.zip",
                "zip",
                unpacked_bytes=41_106_385,
                moves=(
                    Move(images, suffix=".bmp"),  # beside each image lies its mask, a .png
                    Move(self._table, self._table),
                ),
            ),
        )

    def scan(self, root: Path, options: Mapping[str, Scalar]) -> Listing:
        folder = root / self.name
        if not folder.is_dir():
            raise self.missing(folder)
        items, left_out = label_table(root, folder, self._table, JIANGXI_CODES, "{:03d}.bmp")
        return Listing(tuple(items), tuple(left_out))
