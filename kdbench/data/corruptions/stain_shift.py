"""Another laboratory's stain: more haematoxylin, less eosin."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from kdbench.data.corruption import CORRUPTIONS, Corruption
from kdbench.data.views import STAINS, UNSTAIN


class StainShift(Corruption):
    """The optical density of haematoxylin grows by the strength, that of eosin shrinks by it.

    Density is -log(pixel / 255) (Beer and Lambert), so this is exact, where the augmentation takes a linear form of it.
    White stays white. The residual density, of neither stain, stays as it is.
    """

    name = "stain_shift"
    summary = "another laboratory: haematoxylin's density times 1 + strength, eosin's times 1 - strength"
    strengths: ClassVar = (0.1, 0.2, 0.3, 0.4, 0.5)
    unit = "change of a stain's optical density, as a fraction"
    source = "kdbench; strong stain augmentation of pathology images goes to 0.2 (Tellez et al., arXiv:1902.06543)"

    def apply(self, pixels: Tensor, indices: np.ndarray, level: int, seed: int) -> Tensor:
        amount = self.strength(level)
        gains = torch.tensor([1 + amount, 1 - amount, 1.0])
        matrix = STAINS.T @ (gains[:, None] * UNSTAIN.T)  # rgb densities -> stains -> scaled -> rgb densities
        # a black pixel has no finite density: it counts as the darkest that is not black
        density = -torch.log(pixels.to(torch.float32).clamp_(min=1).div_(255)).flatten(2)
        return torch.matmul(matrix, density).neg_().exp_().mul_(255).unflatten(2, tuple(pixels.shape[2:]))


CORRUPTIONS.add(StainShift.name, StainShift())
