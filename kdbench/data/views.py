"""The view schedule: what a network sees of an image in an epoch, as a pure function of (view seed, epoch, index).

Nothing is drawn from a stream, so a view does not depend on the batch an image is in, on the order of batches, on the
run's own seed or on whether the run was resumed. A teacher's outputs for a view can therefore be computed once and used
by every student. All geometry is one bilinear resampling and all colour one affine map, on the whole batch at once.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench.types import ViewSpec

# each random number has its own counter, so that turning one augmentation off leaves the others as they were
_HFLIP, _VFLIP, _TURN, _ANGLE, _ZOOM, _SHIFT_X, _SHIFT_Y, _BRIGHT, _CONTRAST, _SATURATION, _HAEM, _EOSIN = range(12)
_DRAWS = 12

# Optical densities of haematoxylin and eosin in (R, G, B) and their residual: Ruifrok and Johnston, Anal. Quant.
# Cytol. Histol. 23 (2001), table 1; Romanowsky stains of blood smears lie close to them.
_STAINS = torch.tensor([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
_STAINS = _STAINS / _STAINS.norm(dim=1, keepdim=True)
_UNSTAIN = torch.linalg.inv(_STAINS)
_LUMA = torch.tensor([0.299, 0.587, 0.114])  # ITU-R BT.601


def uniforms(seed: int, epoch: int, indices: np.ndarray) -> np.ndarray:
    """Random numbers in [0, 1) of shape (B, draws) float64 for image indices (B,): SplitMix64 of the counters.

    Source: Steele, Lea and Flood, OOPSLA 2014. A counter-based hash gives every (seed, epoch, index, draw) its own
    number without a stream, some hundred times cheaper than a generator for each sample.
    """
    base = (_mix(np.uint64(seed)) + np.uint64(epoch)).reshape(1)
    per_sample = _mix(_mix(base) ^ indices.astype(np.uint64))
    return _mix(per_sample[:, None] + _GOLDEN * np.arange(1, _DRAWS + 1, dtype=np.uint64)) / 2.0**64


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(value: np.ndarray | np.uint64) -> np.ndarray:
    with np.errstate(over="ignore"):  # the wrap-around is the point
        state = np.asarray(value, dtype=np.uint64) + _GOLDEN
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return state ^ (state >> np.uint64(31))


class Views:
    """Turns stored images into what a network sees.

    Args:
        spec: the augmentation; None shows images as they are (validation and test).
        mean, std: of the network's input, by channel, for pixels in [0, 1].
    """

    def __init__(
        self, spec: ViewSpec | None, mean: tuple[float, float, float], std: tuple[float, float, float]
    ) -> None:
        self.spec = spec
        # (x / 255 - mean) / std as one multiplication and one addition
        self._scale = 1.0 / (255.0 * torch.tensor(std))
        self._shift = -torch.tensor(mean) / torch.tensor(std)

    def __call__(self, images: np.ndarray, indices: np.ndarray, epoch: int) -> Tensor:
        """Views (B, 3, S, S) float32, normalised.

        Args:
            images: (B, S, S, 3) uint8.
            indices: (B,) the images' numbers in the data set.
            epoch: >= 0; with a pool of V views, epochs e and e + V show the same view.
        """
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).to(torch.float32)
        spec = self.spec
        if spec is None:
            return pixels.mul_(self._scale[:, None, None]).add_(self._shift[:, None, None])
        draws = uniforms(spec.seed, view_epoch(spec, epoch), indices)
        pixels = _resample(pixels, draws, spec).flatten(2)  # (B, 3, S * S), one plane for each channel
        matrix, offset = _colour(pixels, draws, spec)
        matrix = self._scale[:, None] * matrix
        offset = self._scale * offset + self._shift
        size = images.shape[1:3]
        return torch.baddbmm(offset[:, :, None], matrix, pixels).unflatten(2, size)


def view_epoch(spec: ViewSpec, epoch: int) -> int:
    """The number of the view seen in an epoch."""
    return epoch if spec.pool is None else epoch % spec.pool


def _symmetric(draw: np.ndarray) -> np.ndarray:
    return 2.0 * draw - 1.0


def _resample(pixels: Tensor, draws: np.ndarray, spec: ViewSpec) -> Tensor:
    """Flips, quarter turns, rotation, zoom and shift in one bilinear resampling; outside, the border is mirrored."""
    flips_or_turns = spec.horizontal_flip or spec.vertical_flip or spec.quarter_turns
    if not (flips_or_turns or spec.rotation_degrees or spec.scale or spec.translation):
        return pixels  # by the spec, never by this batch's draws: a view must not depend on its neighbours
    angle = np.radians(spec.rotation_degrees) * _symmetric(draws[:, _ANGLE])
    if spec.quarter_turns:
        angle = angle + (math.pi / 2) * np.floor(4 * draws[:, _TURN])
    zoom = 1.0 / (1.0 + spec.scale * _symmetric(draws[:, _ZOOM]))
    flip_x = np.where(draws[:, _HFLIP] < 0.5, -1.0, 1.0) if spec.horizontal_flip else np.ones(len(draws))
    flip_y = np.where(draws[:, _VFLIP] < 0.5, -1.0, 1.0) if spec.vertical_flip else np.ones(len(draws))
    theta = np.empty((len(draws), 2, 3), dtype=np.float32)
    theta[:, 0, 0] = zoom * flip_x * np.cos(angle)
    theta[:, 0, 1] = -zoom * flip_x * np.sin(angle)
    theta[:, 1, 0] = zoom * flip_y * np.sin(angle)
    theta[:, 1, 1] = zoom * flip_y * np.cos(angle)
    # a grid coordinate of 2 is the whole side
    theta[:, 0, 2] = 2 * spec.translation * _symmetric(draws[:, _SHIFT_X])
    theta[:, 1, 2] = 2 * spec.translation * _symmetric(draws[:, _SHIFT_Y])
    grid = _grid(torch.from_numpy(theta), pixels.shape[2], pixels.shape[3])
    return F.grid_sample(pixels, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def _grid(theta: Tensor, height: int, width: int) -> Tensor:
    """What F.affine_grid(theta, ..., align_corners=False) gives, as sums of a row and a column: nine times quicker."""
    xs = (torch.arange(width) + 0.5) * (2 / width) - 1
    ys = (torch.arange(height) + 0.5) * (2 / height) - 1
    grid = torch.empty(len(theta), height, width, 2)
    for axis in (0, 1):
        by_row = theta[:, axis, 1, None] * ys + theta[:, axis, 2, None]
        by_column = theta[:, axis, 0, None] * xs
        torch.add(by_row[:, :, None], by_column[:, None, :], out=grid[..., axis])
    return grid


def _colour(pixels: Tensor, draws: np.ndarray, spec: ViewSpec) -> tuple[Tensor, Tensor]:
    """A matrix (B, 3, 3) and an offset (B, 3) for each image, on pixels (B, 3, S * S) in [0, 255].

    Brightness, contrast and saturation are affine as they stand. A stain's gain is exponential in the pixel; its
    first-order form around the white background, where the stain's density is zero, is the linear map used here.
    """
    amount = torch.from_numpy(_symmetric(draws)).to(torch.float32)
    gains = torch.ones(len(amount), 3)
    gains[:, 0] += spec.stain * amount[:, _HAEM]
    gains[:, 1] += spec.stain * amount[:, _EOSIN]
    # rgb -> stains -> scaled -> rgb, on the distance to white
    stain = _STAINS.T @ (gains[:, :, None] * _UNSTAIN.T)
    offset = 255.0 * (1 - stain.sum(dim=2))
    saturation = (1 + spec.saturation * amount[:, _SATURATION])[:, None, None]
    saturate = saturation * torch.eye(3) + (1 - saturation) * _LUMA.expand(3, 3)
    matrix, offset = saturate @ stain, saturate @ offset[:, :, None]
    contrast = (1 + spec.contrast * amount[:, _CONTRAST])[:, None, None]
    grey = (pixels.mean(dim=2) @ _LUMA)[:, None, None]  # contrast turns around the image's own mean grey
    matrix, offset = contrast * matrix, contrast * offset + (1 - contrast) * grey
    bright = (1 + spec.brightness * amount[:, _BRIGHT])[:, None, None]
    return bright * matrix, (bright * offset).squeeze(2)
