"""The lamp turned up: every value times one factor, white where that is too much."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as vision

from kdbench.data.corruption import CORRUPTIONS, IMAGENET_C, Corruption


class Brightness(Corruption):
    """Light multiplies what a camera sees. The authors add the same amounts to the value channel of HSV instead."""

    name = "brightness"
    summary = "the lamp turned up: every value times 1 + strength"
    strengths: ClassVar = (0.1, 0.2, 0.3, 0.4, 0.5)
    unit = "more light, as a fraction"
    source = IMAGENET_C

    def apply(self, pixels: Tensor, indices: np.ndarray, level: int, seed: int) -> Tensor:
        # of whole numbers it would cut the fraction off
        return vision.adjust_brightness(pixels.to(torch.float32) / 255, 1 + self.strength(level)).mul_(255)


CORRUPTIONS.add(Brightness.name, Brightness())
