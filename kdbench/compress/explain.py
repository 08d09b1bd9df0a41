"""What of an image an answer rests on, found by covering parts of it: for any network in any runtime. Floor 4."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from kdbench.calibration import softmax
from kdbench.compress.classifier import BATCH, Classifier

PATCH = 4
"""The covering square's side is the image's by this: about a nucleus of a cell that fills the image."""

STEPS = 4
"""Steps in which the square moves on by its own side."""


def occlusion(
    classifier: Classifier,
    pixels: np.ndarray,
    label: int,
    batch: int = BATCH,
    progress: Callable[[str, int, int], None] | None = None,
) -> np.ndarray:
    """How much of a class's probability is lost where the image is covered (Zeiler and Fergus, arXiv:1311.2901, 4.2).

    A square of the mean colour of the border, which is background in an image of one cell, is moved over the image and
    beyond its edges, so that each pixel is covered equally often.

    Args:
        pixels: (S, S, 3) uint8, as the network sees it.
        label: index of the class that is asked about.
        batch: images at once.
    Returns: (S, S) float64, the mean loss of probability over all squares that cover the pixel; below 0 where the
        class becomes more probable without it.
    Raises: ExportError, if the network does not work.
    """
    size = len(pixels)
    side = max(2, round(size / PATCH))
    stride = max(1, side // STEPS)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    colour = border.mean(axis=0).round().astype(np.uint8)
    starts = range(stride - side, size, stride)
    places = [(max(top, 0), top + side, max(left, 0), left + side) for top in starts for left in starts]
    covered = np.repeat(pixels[None], len(places), axis=0)
    for image, (top, bottom, left, right) in zip(covered, places, strict=True):
        image[top:bottom, left:right] = colour

    def told(done: int) -> None:
        if progress:
            progress("covering parts of the image", done, len(places))

    whole = softmax(classifier.logits(pixels[None]))[0, label]
    losses = whole - softmax(classifier.logits(covered, batch, told))[:, label]
    total, count = np.zeros((size, size)), np.zeros((size, size))
    for (top, bottom, left, right), loss in zip(places, losses, strict=True):
        total[top:bottom, left:right] += loss
        count[top:bottom, left:right] += 1
    return total / count
