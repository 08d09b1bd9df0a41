"""The contract of a corruption: what a file in ``data/corruptions/`` has to say. Floor 3.

A corruption makes stored images worse in one way, at five levels, before they are normalised. It is a pure function of
the image, its number in the data set, the level and a seed: neither the batch nor the order of images matters.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from kdbench.errors import ConfigError, DataError
from kdbench.registry import Registry

LEVELS = (1, 2, 3, 4, 5)

IMAGENET_C = "Hendrycks and Dietterich, arXiv:1903.12261 (ImageNet-C)"
CIFAR_C = "Hendrycks and Dietterich, arXiv:1903.12261 (CIFAR-10-C)"


class Corruption(ABC):
    """One way in which an image gets worse; registers an instance: ``CORRUPTIONS.add(name, MyCorruption())``.

    Whoever changes what a corruption does to the pixels raises ``EVALUATION_SCHEMA_VERSION``: figures of the old and of
    the new one must not stand in one table.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    """What it does and what it stands for."""
    strengths: ClassVar[tuple[float, float, float, float, float]]
    """Of the levels 1 to 5, the mildest first."""
    unit: ClassVar[str]
    """What a strength is."""
    source: ClassVar[str]
    """Where the strengths come from."""

    @abstractmethod
    def apply(self, pixels: Tensor, indices: np.ndarray, level: int, seed: int) -> Tensor:
        """The corrupted pixels (B, 3, S, S), uint8 or in [0, 255]: what lies outside is cut off, the rest rounded.

        Args:
            pixels: (B, 3, S, S) uint8, RGB; not to be changed.
            indices: (B,) the images' numbers in the data set.
        """

    def strength(self, level: int) -> float:
        """Raises: ConfigError if there is no such level."""
        if level not in LEVELS:
            raise ConfigError([f"corruption '{self.name}' has levels {LEVELS[0]} to {LEVELS[-1]}, not {level}"])
        return self.strengths[level - 1]

    def __call__(self, images: np.ndarray, indices: np.ndarray, level: int, seed: int = 0) -> np.ndarray:
        """Corrupted images (B, S, S, 3) uint8.

        Args:
            images: (B, S, S, 3) uint8, RGB.
            indices: (B,) the images' numbers in the data set.
            level: 1 to 5, the mildest first.
            seed: of what is random; another seed, other noise.
        Raises: ConfigError if there is no such level; DataError if the images have another type or shape.
        """
        self.strength(level)
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or images.shape[:1] != indices.shape:
            raise DataError(
                f"images are {images.dtype} of shape {images.shape} with {indices.shape} indices; (B, S, S, 3) uint8 "
                "and (B,) are needed"
            )
        pixels = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).contiguous()
        worse = self.apply(pixels, indices, level, seed)
        if worse.dtype != torch.uint8:
            worse = worse.round().clamp(0, 255).to(torch.uint8)
        return np.ascontiguousarray(worse.permute(0, 2, 3, 1).numpy())


CORRUPTIONS: Registry[Corruption] = Registry("corruption", "kdbench.data.corruptions")
