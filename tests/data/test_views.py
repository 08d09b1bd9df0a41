"""A view is a pure function of (view seed, epoch, index): whoever else is in the batch, however often it is asked."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchvision.transforms import functional as vision

from kdbench.data import views
from kdbench.data.views import Views, uniforms, view_epoch
from kdbench.types import ViewSpec, content_id, identity

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
PLAIN: dict[str, Any] = {
    "horizontal_flip": False,
    "vertical_flip": False,
    "quarter_turns": False,
    "rotation_degrees": 0,
    "scale": 0,
    "translation": 0,
    "brightness": 0,
    "contrast": 0,
    "saturation": 0,
    "stain": 0,
}
DRAWS = 12
LATER = ("cutmix", "hue_degrees", "white_balance")
HALF = 0.5  # the draw that changes nothing


def noise(count: int, side: int = 32, low: int = 0, high: int = 256) -> np.ndarray:
    return np.random.default_rng(5).integers(low, high, (count, side, side, 3), dtype=np.uint8)


def plain(**changes: Any) -> ViewSpec:
    return ViewSpec(**{**PLAIN, **changes})


def in_unit(spec: ViewSpec | None) -> Views:
    """Views whose values are pixels / 255."""
    return Views(spec, (0, 0, 0), (1, 1, 1))


def as_unit(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).double().div(255).float()


# ---------------------------------------------------------------- purity


@pytest.mark.parametrize("side", [16, 48, 65])
@pytest.mark.parametrize(
    "spec",
    [
        ViewSpec(),
        plain(horizontal_flip=True),
        plain(horizontal_flip=True, vertical_flip=True, quarter_turns=True),
        plain(brightness=0.3, contrast=0.3, saturation=0.3, stain=0.3),
        ViewSpec(hue_degrees=30, white_balance=0.3),
    ],
    ids=["all", "one flip", "dihedral", "colour", "strong colour"],
)
def test_a_view_does_not_depend_on_its_batch(spec: ViewSpec, side: int) -> None:
    images, indices = noise(40, side), np.arange(100, 140)
    show = Views(spec, MEAN, STD)
    whole = show(images, indices, 3)
    order = np.random.default_rng(1)
    for size in (1, 1, 1, 2, 3, 7, 16, 39, 40):
        chosen = order.permutation(40)[:size]
        # to the last bit
        assert torch.equal(show(images[chosen], indices[chosen], 3), whole[chosen])
    assert torch.equal(Views(spec, MEAN, STD)(images, indices, 3), whole)


def test_a_view_does_not_depend_on_threads() -> None:
    images, indices, show = noise(16, 64), np.arange(16), Views(ViewSpec(), MEAN, STD)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = show(images, indices, 0)
        torch.set_num_threads(2)
        assert torch.equal(show(images, indices, 0), one)
    finally:
        torch.set_num_threads(before)


def test_a_view_changes_with_seed_epoch_and_index() -> None:
    images = np.repeat(noise(1), 4, axis=0)
    show = Views(ViewSpec(), MEAN, STD)
    first = show(images, np.arange(4), 0)
    for other in (
        show(images, np.arange(4), 1),
        show(images, np.arange(4) + 4, 0),
        Views(ViewSpec(seed=1), MEAN, STD)(images, np.arange(4), 0),
    ):
        assert not any(torch.allclose(a, b, atol=0.01) for a in first for b in other)
    assert not any(torch.allclose(first[a], first[b], atol=0.01) for a in range(4) for b in range(a))


def test_a_pool_repeats() -> None:
    images, indices = noise(3), np.arange(3)
    show = Views(ViewSpec(pool=3), MEAN, STD)
    seen = [show(images, indices, epoch) for epoch in range(7)]
    assert all(torch.equal(seen[epoch], seen[epoch % 3]) for epoch in range(7))
    assert not torch.equal(seen[0], seen[1])
    assert torch.equal(seen[2], Views(ViewSpec(), MEAN, STD)(images, indices, 2))
    assert [view_epoch(ViewSpec(pool=3), epoch) for epoch in (0, 2, 3, 7)] == [0, 2, 0, 1]
    assert view_epoch(ViewSpec(), 7) == 7


def test_images_are_not_changed() -> None:
    images = noise(3)
    before = images.copy()
    for spec in (None, plain(), ViewSpec()):
        Views(spec, MEAN, STD)(images, np.arange(3), 0)
    np.testing.assert_array_equal(images, before)


# ---------------------------------------------------------------- nothing to do


@pytest.mark.parametrize("spec", [None, plain()], ids=["none", "all zero"])
def test_without_augmentation_only_the_pixels_are_scaled(spec: ViewSpec | None) -> None:
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    seen = Views(spec, MEAN, STD)(images, np.arange(1), 0)
    assert seen.shape == (1, 3, 16, 16)
    assert seen.dtype == torch.float32
    mean, std = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in (MEAN, STD))
    expected = (torch.from_numpy(images).permute(0, 3, 1, 2).double() / 255 - mean) / std
    torch.testing.assert_close(seen.double(), expected, rtol=0, atol=2e-6)


# ---------------------------------------------------------------- geometry


def dihedral(image: torch.Tensor) -> list[torch.Tensor]:
    turned = [torch.rot90(image, turns, (1, 2)) for turns in range(4)]
    return [*turned, *(torch.flip(one, (2,)) for one in turned)]


def test_flips_and_turns_are_the_eight_of_the_square() -> None:
    images = np.repeat(noise(1), 400, axis=0)
    seen = in_unit(plain(horizontal_flip=True, vertical_flip=True, quarter_turns=True))(images, np.arange(400), 0)
    eight = dihedral(as_unit(images[:1])[0])
    counts: Counter[int] = Counter()
    for view in seen:
        (which,) = (n for n, one in enumerate(eight) if torch.allclose(view, one, rtol=0, atol=2e-5))
        counts[which] += 1
    assert set(counts) == set(range(8))
    assert min(counts.values()) > 25  # 50 of each are expected, standard deviation 6.6


@pytest.mark.parametrize(("name", "axis", "draw"), [("horizontal_flip", 3, 0), ("vertical_flip", 2, 1)])
def test_one_flip_happens_to_half_of_them(name: str, axis: int, draw: int) -> None:
    images, indices = noise(64), np.arange(64)
    seen = in_unit(plain(**{name: True}))(images, indices, 2)
    flipped = uniforms(0, 2, indices)[:, draw] < 0.5
    assert 16 < flipped.sum() < 48
    expected = as_unit(images)
    expected[flipped] = torch.flip(expected[flipped], (axis,))
    torch.testing.assert_close(seen, expected, rtol=0, atol=2e-5)


def test_switching_one_augmentation_off_leaves_the_others() -> None:
    images, indices = noise(8), np.arange(8)
    both = in_unit(plain(horizontal_flip=True, brightness=0.5))(images, indices, 0)
    flip = in_unit(plain(horizontal_flip=True))(images, indices, 0)
    light = in_unit(plain(brightness=0.5))(images, indices, 0)
    gain = light.flatten(1).sum(1) / as_unit(images).flatten(1).sum(1)
    torch.testing.assert_close(both, flip * gain.view(-1, 1, 1, 1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (7, 12)])
def test_grid_is_that_of_torch(height: int, width: int) -> None:
    theta = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(0))
    expected = F.affine_grid(theta, [5, 3, height, width], align_corners=False)
    torch.testing.assert_close(views._grid(theta, height, width), expected, rtol=0, atol=2e-6)


def crafted(column: int, value: float, count: int = 1) -> np.ndarray:
    draws = np.full((count, DRAWS if column < DRAWS else views._COLOUR_DRAWS), HALF)
    draws[:, column] = value
    return draws


def test_a_shift_is_a_shift() -> None:
    pixels = as_unit(noise(1, 20))
    for column, axis in ((views._SHIFT_X, 3), (views._SHIFT_Y, 2)):
        # 0.1 of 20 pixels, and the draw 1 is the whole of it; the grid looks 2 pixels on
        seen = views._resample(pixels, crafted(column, 1.0), plain(translation=0.1))
        torch.testing.assert_close(seen.narrow(axis, 0, 18), pixels.narrow(axis, 2, 18), rtol=0, atol=2e-5)
        # what comes in from outside is the border, mirrored
        torch.testing.assert_close(seen.narrow(axis, 18, 2), pixels.narrow(axis, 18, 2).flip(axis), rtol=0, atol=2e-5)


def test_a_rotation_and_a_zoom_stay_within_their_bounds() -> None:
    line = torch.arange(33) - 16.0
    y, x = torch.meshgrid(line, line, indexing="ij")
    ramps = torch.stack([x, y, torch.ones_like(x)])[None]
    for draw, spec, angle, zoom in (
        (crafted(views._ANGLE, 1.0), plain(rotation_degrees=10), 10.0, 1.0),
        (crafted(views._ANGLE, 0.25), plain(rotation_degrees=10), -5.0, 1.0),
        (crafted(views._ZOOM, 1.0), plain(scale=0.25), 0.0, 1.25),
        (crafted(views._ZOOM, 0.0), plain(scale=0.25), 0.0, 0.75),
    ):
        seen = views._resample(ramps, draw, spec)[0, :, 10:23, 10:23]  # the middle: nothing of the border
        c, s = math.cos(math.radians(angle)) / zoom, math.sin(math.radians(angle)) / zoom
        middle_x, middle_y = x[10:23, 10:23], y[10:23, 10:23]
        torch.testing.assert_close(seen[0], c * middle_x - s * middle_y, rtol=0, atol=1e-4)
        torch.testing.assert_close(seen[1], s * middle_x + c * middle_y, rtol=0, atol=1e-4)


# ---------------------------------------------------------------- colour


def coloured(pixels: torch.Tensor, column: int, value: float, **spec: float) -> torch.Tensor:
    """Pixels (B, 3, N) in [0, 255] after one change of colour."""
    matrix, offset = views._colour(pixels, crafted(column, value, len(pixels)), plain(**spec))
    return torch.baddbmm(offset[:, :, None], matrix, pixels)


@pytest.fixture
def middling() -> torch.Tensor:
    """Pixels that no change below drives out of [0, 255]."""
    return torch.from_numpy(noise(4, 16, 90, 160)).permute(0, 3, 1, 2).float().flatten(2)


def test_zero_magnitudes_change_nothing(middling: torch.Tensor) -> None:
    for column in range(DRAWS):
        matrix, offset = views._colour(middling, crafted(column, 0.9, 4), plain())
        torch.testing.assert_close(matrix, torch.eye(3).expand(4, 3, 3), rtol=0, atol=1e-6)
        torch.testing.assert_close(offset, torch.zeros(4, 3), rtol=0, atol=2e-4)  # of 255


@pytest.mark.parametrize("draw", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(
    ("name", "column", "reference"),
    [
        ("brightness", views._BRIGHT, vision.adjust_brightness),
        ("contrast", views._CONTRAST, vision.adjust_contrast),
        ("saturation", views._SATURATION, vision.adjust_saturation),
    ],
)
def test_colour_against_torchvision(
    middling: torch.Tensor, name: str, column: int, reference: Any, draw: float
) -> None:
    factor = 1 + 0.4 * (2 * draw - 1)
    expected = reference(middling.unflatten(2, (16, 16)) / 255, factor).flatten(2) * 255
    # torchvision's luma is rounded in the fourth digit
    torch.testing.assert_close(coloured(middling, column, draw, **{name: 0.4}), expected, rtol=0, atol=0.02)


@pytest.mark.parametrize(("column", "stain"), [(views._HAEM, (0.65, 0.70, 0.29)), (views._EOSIN, (0.07, 0.99, 0.11))])
def test_a_stain_gets_stronger_and_white_stays_white(column: int, stain: tuple[float, float, float]) -> None:
    amounts = torch.tensor([0.0, 20.0, 60.0])  # white, and two depths of this stain alone
    colour = torch.tensor(stain) / torch.tensor(stain).norm()
    pixels = (255 - colour[:, None] * amounts)[None]
    seen = coloured(pixels, column, 1.0, stain=0.2)
    torch.testing.assert_close(seen, (255 - colour[:, None] * amounts * 1.2)[None], rtol=0, atol=1e-3)
    other = views._EOSIN if column == views._HAEM else views._HAEM
    torch.testing.assert_close(coloured(pixels, other, 1.0, stain=0.2), pixels, rtol=0, atol=1e-3)


def turned(pixels: torch.Tensor, degrees: float, most: float = 180) -> torch.Tensor:
    return coloured(pixels, views._HUE, 0.5 + degrees / most / 2, hue_degrees=most)


def test_a_hue_turns_the_chroma_plane(middling: torch.Tensor) -> None:
    for degrees in (-180, -60, 10, 90):
        before, after = middling.double(), turned(middling, degrees).double()
        luma = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)
        y, y_after = (torch.einsum("c,bcn->bn", luma, pixels) for pixels in (before, after))
        torch.testing.assert_close(y_after, y, rtol=0, atol=2e-3)  # of 255
        plane, plane_after = (
            torch.complex(0.492 * (pixels[:, 2] - grey), 0.877 * (pixels[:, 0] - grey))
            for pixels, grey in ((before, y), (after, y_after))
        )
        angle = math.radians(degrees)
        expected = plane * complex(math.cos(angle), math.sin(angle))
        assert (plane_after - expected).abs().max() < 2e-3


def test_grey_stays_grey_whatever_the_hue() -> None:
    grey = torch.arange(0, 256, 5).float().expand(1, 3, -1)
    for degrees in (-170, -30, 5, 120, 180):
        torch.testing.assert_close(turned(grey, degrees), grey, rtol=0, atol=1e-3)


def test_a_whole_turn_is_none(middling: torch.Tensor) -> None:
    torch.testing.assert_close(turned(middling, 0), middling, rtol=0, atol=1e-3)
    half = turned(middling, 180)
    torch.testing.assert_close(turned(half, 180), middling, rtol=0, atol=3e-3)
    thirds = turned(turned(turned(middling, 120), 120), 120)
    torch.testing.assert_close(thirds, middling, rtol=0, atol=3e-3)


def test_white_balance_is_a_gain_of_each_channel(middling: torch.Tensor) -> None:
    for channel, column in enumerate((views._RED, views._GREEN, views._BLUE)):
        gain = torch.ones(3, 1)
        gain[channel] = 0.8
        torch.testing.assert_close(coloured(middling, column, 0.0, white_balance=0.2), middling * gain)
        gain[channel] = 1.1
        torch.testing.assert_close(coloured(middling, column, 0.75, white_balance=0.2), middling * gain)


def test_stronger_colours_do_not_move_what_was_drawn_before() -> None:
    images, indices = noise(24), np.arange(24)
    np.testing.assert_array_equal(uniforms(0, 3, indices, 16)[:, :DRAWS], uniforms(0, 3, indices))
    grey = np.repeat(images[..., :1], 3, axis=3)
    spec: dict[str, Any] = {"saturation": 0, "stain": 0}  # grey stays grey, and a hue changes nothing
    same = in_unit(ViewSpec(**spec))(grey, indices, 3)
    torch.testing.assert_close(in_unit(ViewSpec(**spec, hue_degrees=90))(grey, indices, 3), same, rtol=0, atol=2e-5)
    balanced = in_unit(ViewSpec(**spec, white_balance=0.3))(grey, indices, 3)
    ratio = balanced.flatten(2).sum(2) / same.flatten(2).sum(2)
    gains = 1 + 0.3 * (2 * uniforms(0, 3, indices, 16)[:, 13:] - 1)
    np.testing.assert_allclose(ratio.numpy(), gains, rtol=1e-4)


def test_views_without_the_later_colours_are_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """To the last bit: the numbers drawn and the maps are those of a version that knew no others."""
    images, indices, spec = noise(16), np.arange(16), ViewSpec()
    seen = in_unit(spec)(images, indices, 1)
    drawn: list[int] = []

    def counted(seed: int, epoch: int, at: np.ndarray, draws: int = DRAWS) -> np.ndarray:
        drawn.append(draws)
        return uniforms(seed, epoch, at, draws)

    monkeypatch.setattr(views, "uniforms", counted)
    assert torch.equal(in_unit(spec)(images, indices, 1), seen)
    assert drawn == [DRAWS]
    assert identity(spec) == {
        name: value for name, value in spec.model_dump().items() if name not in LATER and not name.startswith("mix")
    }
    assert content_id(identity(spec)) == "3dbd8f94279a81c5"
    assert identity(ViewSpec(hue_degrees=5))["hue_degrees"] == 5


# ---------------------------------------------------------------- numbers


def splitmix(state: int) -> int:
    """As published, in whole numbers."""
    state = (state + 0x9E3779B97F4A7C15) % 2**64
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    state = (state ^ (state >> 27)) * 0x94D049BB133111EB % 2**64
    return state ^ (state >> 31)


def test_splitmix_gives_its_published_numbers() -> None:
    golden = 0x9E3779B97F4A7C15
    first_of_seed_0 = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC]
    states = np.asarray([number * golden % 2**64 for number in range(4)], dtype=np.uint64)
    assert views._mix(states).tolist() == first_of_seed_0
    assert [splitmix(number * golden) for number in range(4)] == first_of_seed_0


def test_uniforms_against_whole_numbers() -> None:
    indices = np.asarray([0, 1, 12_345])
    got = uniforms(7, 3, indices)
    assert got.shape == (3, DRAWS)
    for row, index in zip(got, indices.tolist(), strict=True):
        sample = splitmix(splitmix((splitmix(7) + 3) % 2**64) ^ index)
        expected = [splitmix((sample + 0x9E3779B97F4A7C15 * (n + 1)) % 2**64) / 2**64 for n in range(DRAWS)]
        assert row.tolist() == expected


def test_uniforms_are_uniform_and_independent() -> None:
    for drawn in (
        uniforms(0, 0, np.arange(20_000)),
        np.concatenate([uniforms(s, 5, np.arange(200)) for s in range(100)]),
    ):
        assert drawn.min() >= 0
        assert drawn.max() <= 1
        # of 20,000: standard error of the mean 0.002, of the variance 0.0005
        assert np.abs(drawn.mean(axis=0) - 1 / 2).max() < 0.01
        assert np.abs(drawn.var(axis=0) - 1 / 12).max() < 0.003
        between = np.corrcoef(drawn.T) - np.eye(DRAWS)
        assert np.abs(between).max() < 0.035
        following = [np.corrcoef(drawn[:-1, n], drawn[1:, n])[0, 1] for n in range(DRAWS)]
        assert np.abs(following).max() < 0.035
        assert len(np.unique(drawn)) == drawn.size


def test_epochs_and_seeds_do_not_share_numbers() -> None:
    indices = np.arange(50)
    drawn = [uniforms(seed, epoch, indices) for seed in range(6) for epoch in range(6)]
    assert len(np.unique(np.stack(drawn))) == 36 * 50 * DRAWS
