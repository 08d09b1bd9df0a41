"""Out of focus: every pixel becomes a Gaussian mean of its neighbours."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as vision

from kdbench.data.corruption import CIFAR_C, CORRUPTIONS, Corruption

_TRUNCATE = 4.0  # standard deviations: where the authors' filter, scikit-image's, cuts its kernel off


class GaussianBlur(Corruption):
    """A blur as wide as a fraction of the image's side, so that a cell is blurred alike at every image size.

    The standard deviations of CIFAR-10-C (0.4 to 1 px of 32) serve as fractions. Those of ImageNet-C (1 to 6 px of 224)
    would be less than a third of a pixel at level 1 and 64 px, and change nothing.
    """

    name = "gaussian_blur"
    summary = "out of focus: Gaussian blur"
    strengths: ClassVar = (0.4 / 32, 0.6 / 32, 0.7 / 32, 0.8 / 32, 1.0 / 32)
    unit = "standard deviation, fraction of the side"
    source = f"{CIFAR_C}, pixels of 32"

    def apply(self, pixels: Tensor, indices: np.ndarray, level: int, seed: int) -> Tensor:
        sigma = self.strength(level) * pixels.shape[-1]
        width = 2 * int(_TRUNCATE * sigma + 0.5) + 1
        # along the rows, then along the columns: the same as at once, with 2 in place of `width` times the work
        rows = vision.gaussian_blur(pixels.to(torch.float32), [width, 1], [sigma, sigma])
        return vision.gaussian_blur(rows, [1, width], [sigma, sigma])


CORRUPTIONS.add(GaussianBlur.name, GaussianBlur())
