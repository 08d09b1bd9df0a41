"""A camera in little light: every value of every pixel is off by a normal random number."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from kdbench.data.corruption import CORRUPTIONS, IMAGENET_C, Corruption


class GaussianNoise(Corruption):
    """Independent noise on each pixel and channel; that of an image depends on seed, image and level alone."""

    name = "gaussian_noise"
    summary = "little light: normal noise on each pixel and channel"
    strengths: ClassVar = (0.08, 0.12, 0.18, 0.26, 0.38)
    unit = "standard deviation, of pixels in [0, 1]"
    source = IMAGENET_C

    def apply(self, pixels: Tensor, indices: np.ndarray, level: int, seed: int) -> Tensor:
        shape = tuple(pixels.shape[1:])
        # a generator for each image: five times quicker here than a counter-based hash of every value
        noise = np.stack(
            [np.random.default_rng((seed, int(i), level)).standard_normal(shape, np.float32) for i in indices]
        )
        return torch.from_numpy(noise).mul_(255 * self.strength(level)).add_(pixels)


CORRUPTIONS.add(GaussianNoise.name, GaussianNoise())
