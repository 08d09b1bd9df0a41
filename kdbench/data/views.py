"""The view schedule: what a network sees of an image in an epoch, as a pure function of (view seed, epoch, index).

Nothing is drawn from a stream, so a view does not depend on the batch an image is in, on the order of batches, on the
run's own seed or on whether the run was resumed. A teacher's outputs for a view can therefore be computed once and used
by every student. All geometry is one bilinear resampling and all colour one affine map, on the whole batch at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import betaincinv
from torch import Tensor

from kdbench.data.dataset import Dataset
from kdbench.types import ViewSpec

# each random number has its own counter, so that turning one augmentation off leaves the others as they were
_HFLIP, _VFLIP, _TURN, _ANGLE, _ZOOM, _SHIFT_X, _SHIFT_Y, _BRIGHT, _CONTRAST, _SATURATION, _HAEM, _EOSIN = range(12)
_DRAWS = 12
# later ones have later counters, and are drawn only where they are used: the numbers before them stay as they were
_HUE, _RED, _GREEN, _BLUE = range(12, 16)
_COLOUR_DRAWS = 16
_MIXED, _CUT, _PARTNER, _SHARE, _CENTRE_X, _CENTRE_Y = range(6)
_MIX_DRAWS = 6
_MIX_STREAM = np.uint64(0x6D69780000000000)  # of the seed: mixing draws its own numbers, so views stay as they were

# Optical densities of haematoxylin and eosin in (R, G, B) and their residual: Ruifrok and Johnston, Anal. Quant.
# Cytol. Histol. 23 (2001), table 1; Romanowsky stains of blood smears lie close to them.
STAINS = torch.tensor([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
STAINS = STAINS / STAINS.norm(dim=1, keepdim=True)
UNSTAIN = torch.linalg.inv(STAINS)
_LUMA = torch.tensor([0.299, 0.587, 0.114])  # ITU-R BT.601

# a rotation of the chroma plane (U, V) of BT.601 by an angle a, in RGB: _KEPT + cos(a) * _ALONG + sin(a) * _ACROSS
_YUV = np.asarray([[0.299, 0.587, 0.114], [-0.299, -0.587, 0.886], [0.701, -0.587, -0.114]])
_YUV = _YUV * [[1.0], [0.492], [0.877]]
_KEPT, _ALONG, _ACROSS = (
    torch.from_numpy(np.linalg.inv(_YUV) @ plane @ _YUV).to(torch.float32)
    for plane in (np.diag([1.0, 0, 0]), np.diag([0, 1.0, 1]), np.asarray([[0, 0, 0], [0, 0, -1.0], [0, 1, 0]]))
)


def uniforms(seed: int | np.uint64, epoch: int, indices: np.ndarray, draws: int = _DRAWS) -> np.ndarray:
    """Random numbers in [0, 1) of shape (B, draws) float64 for image indices (B,): SplitMix64 of the counters.

    Source: Steele, Lea and Flood, OOPSLA 2014. A counter-based hash gives every (seed, epoch, index, draw) its own
    number without a stream, some hundred times cheaper than a generator for each sample.
    """
    base = (_mix(np.uint64(seed)) + np.uint64(epoch)).reshape(1)
    per_sample = _mix(_mix(base) ^ indices.astype(np.uint64))
    return _mix(per_sample[:, None] + _GOLDEN * np.arange(1, draws + 1, dtype=np.uint64)) / 2.0**64


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(value: np.ndarray | np.uint64) -> np.ndarray:
    with np.errstate(over="ignore"):  # the wrap-around is the point
        state = np.asarray(value, dtype=np.uint64) + _GOLDEN
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return state ^ (state >> np.uint64(31))


@dataclass(frozen=True)
class Mix:
    """Which images of a batch hold a part of another one, and how much of them is their own.

    Attributes:
        partners: (B,) index of the other image; an image's own where it is not mixed.
        share: (B,) float32, the part of the image that is its own, in [0, 1].
        boxes: (B, 4) rows and columns (top, bottom, left, right) of the pasted patch; empty where it is a blend.
        blended: (B,) bool, whether it is a blend (mixup) rather than a patch (cutmix).
    """

    partners: np.ndarray
    share: np.ndarray
    boxes: np.ndarray
    blended: np.ndarray


class Views:
    """Turns stored images into what a network sees.

    Args:
        spec: the augmentation; None shows images as they are (validation and test).
        mean, std: of the network's input, by channel, for pixels in [0, 1].
    """

    def __init__(
        self, spec: ViewSpec | None, mean: tuple[float, float, float], std: tuple[float, float, float]
    ) -> None:
        self.spec, self.mean, self.std = spec, mean, std
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
        count = _COLOUR_DRAWS if spec.hue_degrees or spec.white_balance else _DRAWS
        draws = uniforms(spec.seed, view_epoch(spec, epoch), indices, count)
        pixels = _resample(pixels, draws, spec).flatten(2)  # (B, 3, S * S), one plane for each channel
        matrix, offset = _colour(pixels, draws, spec)
        matrix = self._scale[:, None] * matrix
        offset = self._scale * offset + self._shift
        size = images.shape[1:3]
        return torch.baddbmm(offset[:, :, None], matrix, pixels).unflatten(2, size)

    def same_input(self, other: Views) -> bool:
        """Whether both make the same pixels of an image."""
        return (self.spec, self.mean, self.std) == (other.spec, other.mean, other.std)

    @property
    def mixes(self) -> bool:
        """Whether an image may hold a part of another one."""
        return self.spec is not None and bool(self.spec.mixup or self.spec.cutmix) and self.spec.mixed_share > 0

    def mix(self, data: Dataset, indices: np.ndarray, epoch: int) -> Mix | None:
        """How the images of indices (B,) are mixed in an epoch, a pure function like the views; None: not at all.

        Mixup (Zhang et al., arXiv:1710.09412) blends two images, cutmix (Yun et al., arXiv:1905.04899) pastes a patch;
        with both on, each image gets one of them with equal chances. Partners come from the training images.
        """
        spec = self.spec
        if spec is None or not self.mixes:
            return None
        draws = uniforms(np.uint64(spec.seed) ^ _MIX_STREAM, view_epoch(spec, epoch), indices, _MIX_DRAWS)
        train = data.splits["train"]
        mixed = draws[:, _MIXED] < spec.mixed_share
        partners = np.where(mixed, train[(draws[:, _PARTNER] * len(train)).astype(np.int64)], indices)
        cut = draws[:, _CUT] < (0.5 if spec.mixup and spec.cutmix else float(bool(spec.cutmix)))
        # the quantile of a Beta distribution: one uniform number is enough, where rejection would need a stream
        alpha = np.where(cut, spec.cutmix or 1.0, spec.mixup or 1.0)
        share = betaincinv(alpha, alpha, draws[:, _SHARE])
        size = data.spec.image_size
        half = 0.5 * size * np.sqrt(1 - share)
        middle = size * draws[:, [_CENTRE_Y, _CENTRE_X]]
        low = np.clip(np.rint(middle - half[:, None]), 0, size).astype(np.int64)
        high = np.clip(np.rint(middle + half[:, None]), 0, size).astype(np.int64)
        boxes = np.stack([low[:, 0], high[:, 0], low[:, 1], high[:, 1]], axis=1)
        boxes[~(cut & mixed)] = 0
        area = (boxes[:, 1] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 2])
        own = np.where(cut, 1 - area / size**2, share)  # of a patch that the border cuts off, what is left of it
        return Mix(partners, np.where(mixed, own, 1.0).astype(np.float32), boxes, mixed & ~cut)

    def batch(self, data: Dataset, indices: np.ndarray, epoch: int) -> Tensor:
        """Views (B, 3, S, S) float32 of the images of indices (B,), mixed where the spec says so."""
        pixels = self(data.images(indices), indices, epoch)
        mix = self.mix(data, indices, epoch)
        if mix is None:
            return pixels
        others = self(data.images(mix.partners), mix.partners, epoch)
        blend = torch.from_numpy(np.where(mix.blended, mix.share, 1.0).astype(np.float32))[:, None, None, None]
        pixels = torch.lerp(others, pixels, blend)
        for row, (top, bottom, left, right) in enumerate(mix.boxes):
            if bottom > top and right > left:
                pixels[row, :, top:bottom, left:right] = others[row, :, top:bottom, left:right]
        return pixels


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
    Hue and white balance come last: they are linear, and leave contrast the mean grey it turns around.
    """
    amount = torch.from_numpy(_symmetric(draws)).to(torch.float32)
    gains = torch.ones(len(amount), 3)
    gains[:, 0] += spec.stain * amount[:, _HAEM]
    gains[:, 1] += spec.stain * amount[:, _EOSIN]
    # rgb -> stains -> scaled -> rgb, on the distance to white
    stain = STAINS.T @ (gains[:, :, None] * UNSTAIN.T)
    offset = 255.0 * (1 - stain.sum(dim=2))
    saturation = (1 + spec.saturation * amount[:, _SATURATION])[:, None, None]
    saturate = saturation * torch.eye(3) + (1 - saturation) * _LUMA.expand(3, 3)
    matrix, offset = saturate @ stain, saturate @ offset[:, :, None]
    contrast = (1 + spec.contrast * amount[:, _CONTRAST])[:, None, None]
    grey = (pixels.mean(dim=2) @ _LUMA)[:, None, None]  # contrast turns around the image's own mean grey
    matrix, offset = contrast * matrix, contrast * offset + (1 - contrast) * grey
    bright = (1 + spec.brightness * amount[:, _BRIGHT])[:, None, None]
    matrix, offset = bright * matrix, (bright * offset).squeeze(2)
    if spec.hue_degrees:
        angle = math.radians(spec.hue_degrees) * amount[:, _HUE, None, None]
        turn = _KEPT + torch.cos(angle) * _ALONG + torch.sin(angle) * _ACROSS
        matrix, offset = turn @ matrix, (turn @ offset[:, :, None]).squeeze(2)
    if spec.white_balance:
        gain = 1 + spec.white_balance * amount[:, [_RED, _GREEN, _BLUE]]
        matrix, offset = gain[:, :, None] * matrix, gain * offset
    return matrix, offset
