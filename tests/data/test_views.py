"""Views are pure functions of (seed, epoch, index), and do what they are called."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchvision.transforms.v2 import functional as tv

from kdbench.data import views as module
from kdbench.data.views import Views, uniforms
from kdbench.types import ViewSpec

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.5)
UNIT = ((0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255))  # shows pixels in [0, 255]
NOTHING = {
    "horizontal_flip": False, "vertical_flip": False, "quarter_turns": False, "rotation_degrees": 0, "scale": 0,
    "translation": 0, "brightness": 0, "contrast": 0, "saturation": 0, "stain": 0,
}  # fmt: skip


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)


def only(**magnitudes: object) -> Views:
    return Views(ViewSpec.model_validate({**NOTHING, **magnitudes}), *UNIT)


def as_planes(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).float()


INDICES = np.arange(1000, 1040)


def test_splitmix_is_the_published_generator() -> None:
    # the first outputs of the reference implementation for the seed 1234567 (Vigna, splitmix64.c)
    known = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    states = np.uint64(1234567) + np.uint64(0x9E3779B97F4A7C15) * np.arange(4, dtype=np.uint64)
    assert module._mix(states).tolist() == known


def test_random_numbers_are_uniform_and_independent() -> None:
    drawn = uniforms(0, 0, np.arange(20_000))
    assert drawn.min() >= 0
    assert drawn.max() < 1
    np.testing.assert_allclose(drawn.mean(axis=0), 0.5, atol=0.012)  # six standard errors
    np.testing.assert_allclose(drawn.var(axis=0), 1 / 12, atol=0.004)
    correlation = np.corrcoef(np.concatenate([drawn, uniforms(0, 1, np.arange(20_000))], axis=1), rowvar=False)
    assert np.abs(correlation - np.eye(len(correlation))).max() < 0.05


def test_a_view_does_not_depend_on_its_batch(images: np.ndarray) -> None:
    views = Views(ViewSpec(), MEAN, STD)
    whole = views(images, INDICES, 3)
    for chosen in ([0], [39, 2, 7], list(range(5, 25))):
        assert torch.equal(views(images[chosen], INDICES[chosen], 3), whole[chosen])


def test_seed_epoch_and_index_each_change_the_view(images: np.ndarray) -> None:
    base = Views(ViewSpec(), MEAN, STD)(images, INDICES, 0)
    assert torch.equal(base, Views(ViewSpec(), MEAN, STD)(images, INDICES, 0))
    for other in (
        Views(ViewSpec(), MEAN, STD)(images, INDICES, 1),
        Views(ViewSpec(seed=1), MEAN, STD)(images, INDICES, 0),
        Views(ViewSpec(), MEAN, STD)(images, INDICES + 1, 0),
    ):
        assert (other != base).flatten(1).any(dim=1).all()


def test_a_pool_comes_round(images: np.ndarray) -> None:
    free, pool = Views(ViewSpec(), MEAN, STD), Views(ViewSpec(pool=3), MEAN, STD)
    for epoch in range(7):
        assert torch.equal(pool(images, INDICES, epoch), free(images, INDICES, epoch % 3))


@pytest.mark.parametrize("views", [Views(None, MEAN, STD), Views(ViewSpec.model_validate(NOTHING), MEAN, STD)])
def test_no_augmentation_only_normalises(images: np.ndarray, views: Views) -> None:
    expected = tv.normalize(as_planes(images) / 255, list(MEAN), list(STD))
    torch.testing.assert_close(views(images, INDICES, 5), expected, rtol=1e-5, atol=1e-5)


def test_flips_and_turns_give_the_eight_symmetries(images: np.ndarray) -> None:
    seen = only(horizontal_flip=True, vertical_flip=True, quarter_turns=True)(images, INDICES, 0)
    originals = as_planes(images)
    found = set()
    for original, view in zip(originals, seen, strict=True):
        candidates = {
            (flip, turn): torch.rot90(original.flip(2) if flip else original, turn, (1, 2))
            for flip, turn in itertools.product((False, True), range(4))
        }
        near = [name for name, candidate in candidates.items() if (candidate - view).abs().max() < 1e-2]
        assert len(near) == 1
        found.add(near[0])
    assert len(found) == 8


@pytest.mark.parametrize(
    ("switch", "expected"),
    [
        ({"horizontal_flip": True}, lambda x: {"same": x, "changed": x.flip(2)}),
        ({"vertical_flip": True}, lambda x: {"same": x, "changed": x.flip(1)}),
    ],
)
def test_each_flip_alone(images: np.ndarray, switch: dict, expected) -> None:  # type: ignore[no-untyped-def, type-arg]
    seen = only(**switch)(images, INDICES, 0)
    kinds = []
    for original, view in zip(as_planes(images), seen, strict=True):
        kinds += [name for name, wanted in expected(original).items() if (wanted - view).abs().max() < 1e-2]
    assert len(kinds) == len(images)
    assert 8 < kinds.count("changed") < 32  # 40 fair coins: outside with probability 2e-5


def test_the_grid_is_the_librarys() -> None:
    theta = torch.randn(5, 2, 3)
    ours = module._grid(theta, 9, 16)
    torch.testing.assert_close(ours, F.affine_grid(theta, [5, 3, 9, 16], align_corners=False), rtol=1e-5, atol=1e-5)


def test_a_shift_moves_a_point_by_at_most_its_fraction() -> None:
    images = np.zeros((60, 33, 33, 3), dtype=np.uint8)
    images[:, 16, 16] = 255
    seen = only(translation=0.2)(images, np.arange(60), 0)[:, 0]
    weights = seen / seen.sum(dim=(1, 2), keepdim=True)
    line = torch.arange(33.0)
    offsets = torch.stack([(weights.sum(dim=2) * line).sum(dim=1), (weights.sum(dim=1) * line).sum(dim=1)]) - 16
    assert offsets.abs().max() <= 0.2 * 33 + 0.01
    assert offsets.abs().max() > 0.1 * 33
    assert offsets.min() < 0 < offsets.max()


def test_zoom_stays_within_its_bounds() -> None:
    images = np.zeros((60, 64, 64, 3), dtype=np.uint8)
    images[:, 24:40, 24:40] = 255
    area = only(scale=0.2)(images, np.arange(60), 0)[:, 0].sum(dim=(1, 2)) / 255
    factors = (area / 256).sqrt()
    assert 0.79 < factors.min() < 0.85
    assert 1.15 < factors.max() < 1.21


def test_brightness_is_the_librarys(images: np.ndarray) -> None:
    seen = only(brightness=0.3)(images, INDICES, 0)
    factors = 1 + 0.3 * (2 * uniforms(0, 0, INDICES)[:, module._BRIGHT] - 1)
    for original, view, factor in zip(as_planes(images), seen, factors, strict=True):
        torch.testing.assert_close(view, original * factor, rtol=1e-4, atol=1e-2)


def test_saturation_and_contrast_are_the_librarys(images: np.ndarray) -> None:
    draws = uniforms(0, 0, INDICES)
    middle = (images // 4 + 96).astype(np.uint8)  # far from 0 and 255, where the library clips
    planes = as_planes(middle)
    for name, number, function in (
        ("saturation", module._SATURATION, tv.adjust_saturation),
        ("contrast", module._CONTRAST, tv.adjust_contrast),
    ):
        seen = only(**{name: 0.5})(middle, INDICES, 0)
        for original, view, draw in zip(planes, seen, draws[:, number], strict=True):
            wanted = function(original / 255, 1 + 0.5 * (2 * draw - 1)) * 255
            torch.testing.assert_close(view, wanted, rtol=0, atol=0.2)  # the library's grey has rounded weights


def test_stain_leaves_white_alone_and_changes_colour() -> None:
    white = np.full((20, 8, 8, 3), 255, dtype=np.uint8)
    torch.testing.assert_close(only(stain=0.3)(white, np.arange(20), 0), as_planes(white), rtol=0, atol=0.05)
    purple = np.broadcast_to(np.asarray([110, 60, 140], dtype=np.uint8), (20, 8, 8, 3)).copy()
    seen = only(stain=0.3)(purple, np.arange(20), 0)
    assert (seen - as_planes(purple)).abs().amax(dim=(1, 2, 3)).median() > 5


def test_images_are_not_changed(images: np.ndarray) -> None:
    before = images.copy()
    Views(ViewSpec(), MEAN, STD)(images, INDICES, 0)
    Views(None, MEAN, STD)(images, INDICES, 0)
    np.testing.assert_array_equal(images, before)
