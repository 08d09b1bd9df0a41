"""Every registered corruption: five levels, each harder than the last, and a pure function of image, number and level;
closed forms where there are."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torchvision.io import ImageReadMode, decode_jpeg, encode_jpeg

from kdbench.data.corruption import CORRUPTIONS, LEVELS
from kdbench.data.sources.synthetic import SyntheticSource
from kdbench.data.views import STAINS
from kdbench.errors import ConfigError, DataError, UnknownName

NAMES = CORRUPTIONS.names()


def cells(size: int, count: int = 10) -> np.ndarray:
    """Drawn cells (count, size, size, 3) uint8."""
    source = SyntheticSource()
    items = source.scan(None, {"count": 100}).items[:count]
    drawn = [source.read(item, {"count": 100}).resize((size, size)) for item in items]
    return np.stack([np.asarray(image) for image in drawn])


@pytest.fixture(scope="module", params=[32, 48, 96])
def images(request: pytest.FixtureRequest) -> np.ndarray:
    return cells(request.param)


def plain(value: int | tuple[int, int, int], size: int = 32) -> np.ndarray:
    return np.broadcast_to(np.asarray(value, np.uint8), (1, size, size, 3)).copy()


ONE = np.zeros(1, dtype=np.int64)


def test_those_that_are_promised_are_there() -> None:
    assert {"gaussian_blur", "gaussian_noise", "jpeg", "brightness", "contrast", "stain_shift"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_corruption_says_what_it_is(name: str) -> None:
    corruption = CORRUPTIONS.get(name)
    assert corruption.name == name
    assert corruption.summary
    assert corruption.unit
    assert "arXiv:" in corruption.source
    assert len(corruption.strengths) == len(LEVELS)


def test_an_unknown_name_has_near_matches() -> None:
    with pytest.raises(UnknownName, match="unknown corruption 'gausian_blur'; did you mean gaussian_blur"):
        CORRUPTIONS.get("gausian_blur")


@pytest.mark.parametrize("name", NAMES)
def test_each_level_is_further_from_the_clean_image(name: str, images: np.ndarray) -> None:
    indices = np.arange(len(images))
    before = images.copy()
    distances = []
    for level in LEVELS:
        worse = CORRUPTIONS.get(name)(images, indices, level)
        assert (worse.dtype, worse.shape) == (np.uint8, images.shape)
        assert worse.flags.c_contiguous
        distances.append(float(np.abs(worse.astype(float) - images).mean()))
    assert distances[0] > 0.5  # of 255: level 1 is something that can be seen
    assert all(mild < hard for mild, hard in itertools.pairwise(distances)), distances
    np.testing.assert_array_equal(images, before)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("level", [1, 5])
def test_an_image_does_not_depend_on_its_batch(name: str, level: int) -> None:
    images, numbers = cells(48), np.array([7, 3, 250, 11, 12, 13, 14, 15, 16, 9000])
    corruption = CORRUPTIONS.get(name)
    together = corruption(images, numbers, level)
    np.testing.assert_array_equal(corruption(images, numbers, level), together)
    order = np.array([9, 2, 5])
    np.testing.assert_array_equal(corruption(images[order], numbers[order], level), together[order])
    np.testing.assert_array_equal(corruption(images[4:5], numbers[4:5], level), together[4:5])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("level", [0, 6, 2.5])
def test_there_is_no_other_level(name: str, level: float) -> None:
    with pytest.raises(ConfigError, match=rf"'{name}' has levels 1 to 5, not {level}"):
        CORRUPTIONS.get(name)(plain(100), ONE, level)


def test_images_of_another_type_or_shape() -> None:
    corruption = CORRUPTIONS.get("brightness")
    for images in (plain(1).astype(np.float32), plain(1)[..., :1], plain(1)[0]):
        with pytest.raises(DataError, match=r"\(B, S, S, 3\) uint8"):
            corruption(images, ONE, 1)
    with pytest.raises(DataError, match=r"\(2,\) indices"):
        corruption(plain(1), np.arange(2), 1)


# ---------------------------------------------------------------- closed forms


@pytest.mark.parametrize(("level", "factor"), [(1, 1.1), (3, 1.3), (5, 1.5)])
def test_brightness_is_a_factor_up_to_white(level: int, factor: float) -> None:
    worse = CORRUPTIONS.get("brightness")(plain((0, 100, 250)), ONE, level)
    np.testing.assert_allclose(worse[0, 0, 0], [0, factor * 100, 255], atol=1)


@pytest.mark.parametrize(("level", "left"), [(1, 0.4), (5, 0.05)])
def test_contrast_turns_around_the_mean(level: int, left: float) -> None:
    images = np.concatenate([plain(50)[:, :16], plain(150)[:, :16]], axis=1)
    worse = CORRUPTIONS.get("contrast")(images, ONE, level)
    np.testing.assert_allclose(worse[0, [0, -1], 0, 0], [100 - 50 * left, 100 + 50 * left], atol=1)
    np.testing.assert_allclose(CORRUPTIONS.get("contrast")(plain(77), ONE, level), 77, atol=1)


@pytest.mark.parametrize(("level", "amount"), [(1, 0.1), (3, 0.3), (5, 0.5)])
@pytest.mark.parametrize(("haematoxylin", "eosin"), [(0.5, 0.0), (0.0, 0.5), (0.4, 0.3)])
def test_stain_shift_scales_the_densities(level: int, amount: float, haematoxylin: float, eosin: float) -> None:
    vectors = STAINS.double().numpy()

    def pixel(h: float, e: float) -> np.ndarray:
        return 255 * np.exp(-(h * vectors[0] + e * vectors[1]))

    stained = plain(tuple(np.rint(pixel(haematoxylin, eosin)).astype(int)))
    worse = CORRUPTIONS.get("stain_shift")(stained, ONE, level)
    expected = pixel(haematoxylin * (1 + amount), eosin * (1 - amount))
    np.testing.assert_allclose(worse[0, 5, 5], expected, atol=1.5)  # both were rounded


def test_stain_shift_leaves_white_alone_and_survives_black() -> None:
    np.testing.assert_array_equal(CORRUPTIONS.get("stain_shift")(plain(255), ONE, 5), 255)
    assert CORRUPTIONS.get("stain_shift")(plain(0), ONE, 5).max() < 30


@pytest.mark.parametrize(("level", "sigma"), [(1, 0.8), (5, 2.0)])
def test_blur_of_a_line_is_a_gaussian_of_a_width_that_goes_with_the_side(level: int, sigma: float) -> None:
    images = plain(0, 64)
    images[:, :, 32] = 255
    worse = CORRUPTIONS.get("gaussian_blur")(images, ONE, level)
    away = np.arange(64) - 32
    weights = np.exp(-(away**2) / (2 * sigma**2))
    np.testing.assert_allclose(worse[0, 20, :, 0], 255 * weights / weights.sum(), atol=1)
    np.testing.assert_array_equal(CORRUPTIONS.get("gaussian_blur")(plain(90), ONE, level), 90)


@pytest.mark.parametrize(("level", "sigma"), [(1, 0.08), (2, 0.12)])
def test_noise_is_normal_and_its_own_for_every_image_level_and_seed(level: int, sigma: float) -> None:
    corruption = CORRUPTIONS.get("gaussian_noise")
    images = np.repeat(plain(128, 64), 4, axis=0)
    noise = (corruption(images, np.arange(4), level).astype(float) - 128) / 255
    assert noise.mean() == pytest.approx(0, abs=4 * sigma / math.sqrt(noise.size))
    assert noise.std() == pytest.approx(sigma, rel=0.02)
    others = [noise[1], (corruption(images[:1], np.arange(1), level + 1).astype(float)[0] - 128) / 255]
    others.append((corruption(images[:1], np.arange(1), level, seed=1).astype(float)[0] - 128) / 255)
    for other in others:
        assert abs(np.corrcoef(noise[0].ravel(), other.ravel())[0, 1]) < 0.05


def test_noise_is_the_same_as_ever() -> None:
    """A figure measured last year was measured on these pixels."""
    worse = CORRUPTIONS.get("gaussian_noise")(plain(128, 16), np.array([41]), 3)
    assert worse[0, 0, :4, 0].tolist() == [65, 147, 161, 114]


def test_jpeg_is_what_the_codec_gives() -> None:
    images = cells(48, 2)
    worse = CORRUPTIONS.get("jpeg")(images, np.arange(2), 4)
    coded = encode_jpeg(torch.from_numpy(images[1]).permute(2, 0, 1).contiguous(), quality=10)
    decoded = decode_jpeg(coded, ImageReadMode.RGB).permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(worse[1], decoded)
