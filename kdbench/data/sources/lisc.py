"""LISC: leukocyte images for segmentation and classification, whole fields of view with one cell of interest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from kdbench.data.labels import LEUKOCYTES
from kdbench.data.layouts import class_folders
from kdbench.data.source import SOURCES, Download, Listing, Move, Source
from kdbench.types import Scalar

FOLDERS = {"baso": "basophil", "eosi": "eosinophil", "lymp": "lymphocyte", "mono": "monocyte", "neut": "neutrophil"}


class LISC(Source):
    name = "lisc"
    title = "LISC, leukocyte images for segmentation and classification (Rezatofighi et al. 2011)"
    url = "https://vl4ai.erc.monash.edu/pages/LISC.html"
    licence = "no licence known; for research"
    citation = "Rezatofighi and Soltanian-Zadeh, Computerized Medical Imaging and Graphics 35 (2011) 333-343"
    labels = LEUKOCYTES
    layout = "lisc/Main Dataset/{Baso,eosi,lymp,mono,neut}/*.bmp"
    caveats = ("lisc holds whole fields of 720 x 576 pixels, not crops: at a small size little of the cell is left",)
    counts = MappingProxyType({"basophil": 53, "eosinophil": 39, "lymphocyte": 52, "monocyte": 48, "neutrophil": 50})
    manual = "no direct link to the archive is known that stays the same"
    steps = (
        "open https://vl4ai.erc.monash.edu/pages/LISC.html and download the data set",
        "unpack it",
        "move its folder 'Main Dataset', which holds Baso, eosi, lymp, mixt, mono and neut, to '{folder}/Main Dataset'",
    )
    downloads = (Download(None, "lisc.zip", "zip", moves=(Move("Main Dataset", "Main Dataset"),)),)

    def scan(self, root: Path, options: Mapping[str, Scalar]) -> Listing:
        folder = root / "lisc" / "Main Dataset"
        if not folder.is_dir():
            raise self.missing(folder)
        items, left_out = class_folders(root, folder, FOLDERS)
        return Listing(tuple(items), tuple(left_out))


SOURCES.add("lisc", LISC())
