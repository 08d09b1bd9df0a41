"""Stored to save room: JPEG compression, with its blocks and its coarse colour."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from torch import Tensor
from torchvision.transforms.v2 import functional as vision

from kdbench.data.corruption import CORRUPTIONS, IMAGENET_C, Corruption


class Jpeg(Corruption):
    """Compressed and decompressed at the size the network sees; the blocks of 8 x 8 pixels are of that size, too."""

    name = "jpeg"
    summary = "stored to save room: JPEG compression"
    strengths: ClassVar = (25, 18, 15, 10, 7)
    unit = "JPEG quality, 1 to 100"
    source = IMAGENET_C

    def apply(self, pixels: Tensor, indices: np.ndarray, level: int, seed: int) -> Tensor:
        return vision.jpeg(pixels, int(self.strength(level)))


CORRUPTIONS.add(Jpeg.name, Jpeg())
