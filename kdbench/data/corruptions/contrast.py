"""Haze, or a condenser wide open: every value comes closer to the image's mean grey."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as vision

from kdbench.data.corruption import CORRUPTIONS, IMAGENET_C, Corruption


class Contrast(Corruption):
    """Distances to the image's mean grey are scaled. The authors take the mean of each channel instead."""

    name = "contrast"
    summary = "haze: distances to the mean grey times the strength"
    strengths: ClassVar = (0.4, 0.3, 0.2, 0.1, 0.05)
    unit = "contrast that is left, as a fraction"
    source = IMAGENET_C

    def apply(self, pixels: Tensor, indices: np.ndarray, level: int, seed: int) -> Tensor:
        # of whole numbers it would cut the fraction off, twice
        return vision.adjust_contrast(pixels.to(torch.float32) / 255, self.strength(level)).mul_(255)


CORRUPTIONS.add(Contrast.name, Contrast())
