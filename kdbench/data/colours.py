"""Colour and stain of images, as a few numbers that sources can be compared by. Floor 3."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np

from kdbench.findings import Colours

STAINED = 0.15
"""Optical density above the background from which a pixel counts as stained: Macenko et al. 2009 (beta)."""

BLACK = 16
"""Brightest channel of black fill, as of the corners of a turned image; JPEG does not keep it at 0."""

FILLED = 20
"""Pixels as dark as that, before they are fill and no part of a cell."""

# what is added up of each image: pixels; sums and sums of squares of RGB and of L*a*b*; then the figures of the image
_SUMS = 1 + 6 + 6
_FIGURES = 7  # background L*, density, stained share, cosine and sine of the stained pixels' hues, fill, any stained


def black_fill(image: np.ndarray) -> tuple[np.ndarray, float]:
    """Where an image (S, S, 3) uint8 is black fill.

    Returns: (S, S) bool, fill and what is within two pixels of it, where both are mixed; and the share of fill alone.
    """
    black = (image.max(axis=2) < BLACK).astype(np.uint8)
    if black.sum() <= FILLED:
        return np.zeros(black.shape, bool), 0.0
    return cv2.dilate(black, np.ones((5, 5), np.uint8)).astype(bool), float(black.mean())


def measure_colours(image: np.ndarray) -> np.ndarray:
    """(20,) float64 of one image (S, S, 3) uint8, RGB: what `summarise` makes `Colours` of."""
    lab = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB).reshape(-1, 3).astype(np.float64)
    rgb = image.reshape(-1, 3).astype(np.float64)
    filled, fill = black_fill(image)
    seen = ~filled.reshape(-1)
    out = np.zeros(_SUMS + _FIGURES)
    out[_SUMS + 5] = fill
    if not seen.any():
        return out
    rgb, lab = rgb[seen], lab[seen]
    out[0] = len(rgb)
    out[1:4], out[4:7] = rgb.sum(axis=0), np.square(rgb).sum(axis=0)
    out[7:10], out[10:13] = lab.sum(axis=0), np.square(lab).sum(axis=0)
    bright = lab[:, 0] >= np.quantile(lab[:, 0], 0.9)
    density = -np.log10(np.maximum(rgb, 1) / 255).mean(axis=1)
    above = density - density[bright].mean()
    stained = above >= STAINED
    hue = np.arctan2(lab[stained, 2], lab[stained, 1])
    out[_SUMS : _SUMS + 5] = (
        lab[bright, 0].mean(),
        above[stained].mean() if stained.any() else 0.0,
        stained.mean(),
        np.cos(hue).sum(),
        np.sin(hue).sum(),
    )
    out[_SUMS + 6] = float(stained.any())
    return out


def summarise(measures: np.ndarray, source: str, label: str = "") -> Colours:
    """The colours of a group of images.

    Args:
        measures: (N, 20) of `measure_colours`, at least one row.
    """
    pixels = max(float(measures[:, 0].sum()), 1.0)
    means = measures[:, [1, 2, 3, 7, 8, 9]].sum(axis=0) / pixels
    squares = measures[:, [4, 5, 6, 10, 11, 12]].sum(axis=0) / pixels
    spread = np.sqrt(np.maximum(squares - np.square(means), 0))
    with_pixels = measures[measures[:, 0] > 0]
    background = with_pixels[:, _SUMS]
    density = measures[measures[:, _SUMS + 6] > 0][:, _SUMS + 1]
    hue = math.degrees(math.atan2(measures[:, _SUMS + 4].sum(), measures[:, _SUMS + 3].sum())) % 360
    return Colours(
        source=source,
        label=label,
        images=len(measures),
        rgb_mean=_three(means[:3]),
        rgb_std=_three(spread[:3]),
        lab_mean=_three(means[3:]),
        lab_std=_three(spread[3:]),
        background=_mean(background),
        background_std=_deviation(background),
        density=_mean(density),
        density_std=_deviation(density),
        stained=_mean(with_pixels[:, _SUMS + 2]),
        hue_degrees=round(hue, 4),
        fill=_mean(measures[:, _SUMS + 5]),
    )


def _three(values: Sequence[float] | np.ndarray) -> tuple[float, float, float]:
    first, second, third = (round(float(value), 4) for value in values)
    return first, second, third


def _mean(values: np.ndarray) -> float:
    return round(float(values.mean()), 4) if len(values) else 0.0


def _deviation(values: np.ndarray) -> float:
    return round(float(values.std()), 4) if len(values) else 0.0
