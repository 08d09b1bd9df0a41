"""Stain normalisation: each image is brought to the colours of one reference, by itself. Floor 3.

It is done once, when an image is decoded, after it was brought to its size: at 64 pixels that is some ten times cheaper
than before, and the colours are those of what a network sees. The reference is fixed, so that what becomes of an image
does not depend on the others.

- reinhard (Reinhard et al., IEEE Computer Graphics and Applications 21 (2001) 34-41): the mean and the standard
  deviation of each channel of CIE Lab become those of the reference.
- macenko (Macenko et al., ISBI 2009, 1107-1110): the two stains of an image are found in its optical densities, and
  their colours and strengths become those of the reference.

Colours are converted, and stains found, by torchstain. What its `NumpyReinhardNormalizer` and `NumpyMacenkoNormalizer`
give is met to one level of 255, for they cut off where here values are rounded; with one difference. torchstain decides
by red light which of two stains is the nuclear one, as fits sections stained with haematoxylin and eosin. In smears of
blood that is wrong for many images, whose light and dark then change places; here it is the stronger one.

An image that the method cannot be used on is kept as it is, and the reason is given with it.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from torchstain.numpy.normalizers import NumpyMacenkoNormalizer
from torchstain.numpy.utils import lab2rgb, rgb2lab

from kdbench.types import StainMethod

STAIN_VERSION = 1
"""Part of the cache's key: raised when the same image would come out otherwise."""


@dataclass(frozen=True)
class Reference:
    """What images are brought to.

    Attributes:
        lab_mean, lab_std: of CIE Lab (D65), L in [0, 100].
        stains: (3, 2) optical density in (R, G, B) of each stain, unit length: the nuclear one first.
        strengths: (2,) the 99th percentile of the amount of each, in optical density (natural logarithm).
    """

    lab_mean: tuple[float, float, float]
    lab_std: tuple[float, float, float]
    stains: tuple[tuple[float, float], tuple[float, float], tuple[float, float]]
    strengths: tuple[float, float]


# `measure_reference` of all 10,298 images of pbc, image_size 96, fit crop, rounded; PBC is the largest set here, of one
# laboratory and one automatic stainer. See docs/colour.md for the commands.
PBC = Reference(
    lab_mean=(78.84, 11.26, 6.78),
    lab_std=(16.04, 8.81, 13.97),
    stains=((0.4798, 0.2975), (0.8574, 0.7457), (0.1865, 0.5962)),
    strengths=(2.293, 0.598),
)

LEAST_SPREAD = 1.0
"""Standard deviation of each channel of Lab: rounding to 8 bits alone makes 0.3; with less, noise would be blown up."""

LEAST_STAINED = 0.01
"""Of the pixels, how many have to be stained; `_STAINED` says which are."""

_WHITE = 240.0  # transmitted light, of 255: torchstain's default, as in Macenko's own code
_STAINED = (
    205  # 240 * exp(-0.15) - 1: every channel at least 0.15 dense, torchstain's default for what is not background
)
_LEAST_ANGLE = 0.1  # rad between two stains: at less, noise decides how much there is of each

# torchstain keeps Lab as OpenCV does, in [0, 255]
_LAB_SCALE = np.asarray([2.55, 1, 1], dtype=np.float32)
_LAB_SHIFT = np.asarray([0, 128, 128], dtype=np.float32)

NO_CONTRAST = "too little contrast or colour"
TOO_LITTLE = "too little of it is stained"
NO_STAINS = "no two stains are found in it"


def normalise_stain(pixels: np.ndarray, method: StainMethod) -> tuple[np.ndarray, str]:
    """Bring one image to the reference.

    Args:
        pixels: (H, W, 3) uint8, RGB.
    Returns: the image, of the same shape and type, and why it was kept as it is; "": it was not.
    """
    if method == "reinhard":
        return _reinhard(pixels)
    if method == "macenko":
        return _macenko(pixels)
    return pixels, ""


def _lab(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3) float32 of CIE Lab, L in [0, 100]."""
    lab = rgb2lab(pixels.astype(np.float32) / 255)
    return (lab - _LAB_SHIFT) / _LAB_SCALE


def _reinhard(pixels: np.ndarray) -> tuple[np.ndarray, str]:
    lab = _lab(pixels)
    mean, std = lab.mean(axis=(0, 1), dtype=np.float64), lab.std(axis=(0, 1), dtype=np.float64)
    if std.min() < LEAST_SPREAD:
        return pixels, NO_CONTRAST
    gain = PBC.lab_std / std
    lab = lab * gain.astype(np.float32) + (PBC.lab_mean - gain * mean).astype(np.float32)
    return _rounded(255 * lab2rgb(lab * _LAB_SCALE + _LAB_SHIFT)), ""


def _macenko(pixels: np.ndarray) -> tuple[np.ndarray, str]:
    if (pixels <= _STAINED).all(axis=2).mean() < LEAST_STAINED:
        return pixels, TOO_LITTLE
    found = _find_stains(pixels)
    if found is None:
        return pixels, NO_STAINS
    stains, strengths = found
    density = -np.log((pixels.reshape(-1, 3).astype(np.float64) + 1) / _WHITE)
    # amounts of this image's stains, scaled to the reference's strengths, in the reference's colours: one linear map
    scaled = (np.asarray(PBC.strengths) / strengths)[:, None] * np.linalg.pinv(stains)
    density = density @ (np.asarray(PBC.stains) @ scaled).T
    return _rounded(_WHITE * np.exp(-density)).reshape(pixels.shape), ""


def _find_stains(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """(3, 2) colours and (2,) strengths of the stains of an image; None: it has no two that make sense."""
    normaliser = NumpyMacenkoNormalizer()
    try:
        with np.errstate(all="ignore"):
            normaliser.fit(pixels, Io=_WHITE)
    except np.linalg.LinAlgError:
        return None
    stains, strengths = normaliser.HERef, normaliser.maxCRef
    if not (np.isfinite(stains).all() and np.isfinite(strengths).all()):
        return None
    # a stain takes light away; where the sum is negative, the direction found is the wrong way round
    if stains.sum(axis=0).min() <= 0 or strengths.min() <= 0:
        return None
    if abs(stains[:, 0] @ stains[:, 1]) > np.cos(_LEAST_ANGLE):
        return None
    order = np.argsort(-strengths)  # the nucleus is what is stained most
    return stains[:, order], strengths[order]


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings of the library: of a single pixel there is no covariance, and what comes of it is looked at. Around
    all threads and not in each: the filters of warnings belong to the process.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _rounded(values: np.ndarray) -> np.ndarray:
    return np.rint(values).clip(0, 255).astype(np.uint8)


def stain_caveats(method: StainMethod, kept: Mapping[str, Sequence[str]]) -> list[str]:
    """What has to be said of images that were brought to one stain.

    Args:
        kept: of each source the reasons of those that were kept as they are.
    """
    if method == "none":
        return []
    said = [f"every image was brought to one stain when it was decoded ({method}; its reference was measured on pbc)"]
    for source, reasons in kept.items():
        said += [f"{count} images of {source} keep their own stain: {why}" for why, count in Counter(reasons).items()]
    return said


def measure_reference(images: Iterable[np.ndarray]) -> Reference:
    """The mean over images of their means and standard deviations in Lab, and the medians of their stains.

    Args:
        images: (H, W, 3) uint8 each; those that a method cannot be used on do not count for it.
    """
    means, stds, stains, strengths = [], [], [], []
    for pixels in images:
        lab = _lab(pixels)
        means.append(lab.mean(axis=(0, 1), dtype=np.float64))
        stds.append(lab.std(axis=(0, 1), dtype=np.float64))
        if (found := _find_stains(pixels)) is not None:
            stains.append(found[0])
            strengths.append(found[1])
    colours = np.median(stains, axis=0)
    colours /= np.linalg.norm(colours, axis=0)  # the median of unit vectors is a little shorter
    light, green_red, blue_yellow = np.mean(means, axis=0).tolist()
    spreads = np.mean(stds, axis=0).tolist()
    red, green, blue = (tuple(row) for row in colours.tolist())
    first, second = np.median(strengths, axis=0).tolist()
    return Reference((light, green_red, blue_yellow), tuple(spreads), (red, green, blue), (first, second))
