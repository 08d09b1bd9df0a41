"""Mixup and cutmix: pure functions like the views, and labels shared out as the pixels are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from kdbench.data.dataset import Dataset
from kdbench.data.memory import from_arrays
from kdbench.data.views import Mix, Views
from kdbench.types import SplitName, ViewSpec

SIDE = 24
COUNT = 60
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
MIXINGS: tuple[dict[str, float], ...] = (
    {"mixup": 0.4},
    {"cutmix": 1.0},
    {"mixup": 0.4, "cutmix": 1.0},
    {"mixup": 1.0, "cutmix": 0.3, "mixed_share": 0.5},
)
SIDES: tuple[SplitName, ...] = ("train", "train", "val", "test")


def flat() -> Dataset:
    """Images of one grey each, 4 levels apart; half of them to train."""
    levels = (4 * np.arange(COUNT, dtype=np.uint8))[:, None, None, None]
    images = np.broadcast_to(levels, (COUNT, SIDE, SIDE, 3)).copy()
    return from_arrays(images, np.arange(COUNT) % 3, splits=[SIDES[number % 4] for number in range(COUNT)])


def noisy() -> Dataset:
    images = np.random.default_rng(5).integers(0, 256, (COUNT, SIDE, SIDE, 3), dtype=np.uint8)
    return from_arrays(images, np.arange(COUNT) % 3, splits=[SIDES[number % 4] for number in range(COUNT)])


def levels(**spec: Any) -> Views:
    """Views of flat images whose values are the numbers of the images."""
    return Views(ViewSpec(**{**PLAIN, **spec}), (0.0, 0.0, 0.0), (4 / 255,) * 3)


def shown(spec: ViewSpec | None) -> Views:
    return Views(spec, (0.5, 0.4, 0.3), (0.2, 0.25, 0.3))


def mixed(views: Views, data: Dataset, indices: np.ndarray, epoch: int = 0) -> Mix:
    mix = views.mix(data, indices, epoch)
    assert mix is not None
    return mix


def many(views: Views, data: Dataset, epochs: int = 100) -> Mix:
    """The mixes of all training images in many epochs."""
    parts = [mixed(views, data, data.splits["train"], epoch) for epoch in range(epochs)]
    return Mix(*(np.concatenate([getattr(part, name) for part in parts]) for name in Mix.__dataclass_fields__))


# ---------------------------------------------------------------- purity


@pytest.mark.parametrize("mixing", MIXINGS, ids=str)
def test_a_mixed_view_does_not_depend_on_its_batch(mixing: dict[str, Any]) -> None:
    data, views = noisy(), shown(ViewSpec(**mixing))
    train = data.splits["train"]
    whole, mix = views.batch(data, train, 3), mixed(views, data, train, 3)
    assert len(set(mix.share)) > 5
    order = np.random.default_rng(1)
    for size in (1, 1, 2, 7, 29, 30):
        chosen = order.permutation(len(train))[:size]
        # to the last bit
        assert torch.equal(shown(ViewSpec(**mixing)).batch(data, train[chosen], 3), whole[chosen])
        part = mixed(views, data, train[chosen], 3)
        for name in Mix.__dataclass_fields__:
            np.testing.assert_array_equal(getattr(part, name), getattr(mix, name)[chosen])


def test_a_mix_changes_with_seed_epoch_and_index() -> None:
    data = noisy()
    train = data.splits["train"]
    first = mixed(levels(mixup=1.0), data, train)
    for other in (
        mixed(levels(mixup=1.0), data, train, 1),
        mixed(levels(mixup=1.0, seed=1), data, train),
        mixed(levels(mixup=1.0), data, train + 1),
    ):
        assert not np.isclose(first.share, other.share).any()
        assert (first.partners != other.partners).mean() > 0.5
    assert len(set(first.share)) == len(train)


def test_a_pool_repeats_its_mixes() -> None:
    data, views = noisy(), shown(ViewSpec(pool=2, cutmix=1.0))
    train = data.splits["train"]
    seen = [views.batch(data, train, epoch) for epoch in range(4)]
    assert torch.equal(seen[0], seen[2])
    assert torch.equal(seen[1], seen[3])
    assert not torch.equal(seen[0], seen[1])
    assert torch.equal(seen[1], shown(ViewSpec(cutmix=1.0)).batch(data, train, 1))


def test_stored_images_are_not_changed() -> None:
    data = noisy()
    before = data.images(np.arange(COUNT)).copy()
    shown(ViewSpec(mixup=1.0, cutmix=1.0)).batch(data, data.splits["train"], 0)
    np.testing.assert_array_equal(data.images(np.arange(COUNT)), before)


# ---------------------------------------------------------------- what is mixed, and how much of it


@pytest.mark.parametrize("alpha", [0.3, 1.0, 4.0])
def test_a_patch_is_a_rectangle_and_its_share_is_counted_in_pixels(alpha: float) -> None:
    data, views = flat(), levels(cutmix=alpha)
    train = data.splits["train"]
    clipped = 0
    for epoch in range(10):
        pixels, mix = views.batch(data, train, epoch).round().long(), mixed(views, data, train, epoch)
        assert not mix.blended.any()
        for seen, own, partner, share, box in zip(pixels, train, mix.partners, mix.share, mix.boxes, strict=True):
            top, bottom, left, right = (int(edge) for edge in box)
            expected = torch.full((3, SIDE, SIDE), int(own))
            expected[:, top:bottom, left:right] = int(partner)
            assert torch.equal(seen, expected)
            if partner != own:
                assert share == np.float32((seen[0] == int(own)).double().mean().item())
            assert 0 <= share <= 1
            clipped += 0 in (top, left) or SIDE in (bottom, right)
    assert clipped > 20  # the border cuts patches off, and their share is still what is seen of them


def test_a_whole_patch_is_as_large_as_its_share_says() -> None:
    """Shares of a large alpha are all a half: patches have half the area, so 0.71 of the side."""
    boxes = many(levels(cutmix=1e6), flat(), 20).boxes
    whole = boxes[(boxes[:, [0, 2]] > 0).all(1) & (boxes[:, [1, 3]] < SIDE).all(1)]
    assert len(whole) > 20
    sides = whole[:, [1, 3]] - whole[:, [0, 2]]
    assert set(sides.ravel()) <= {16, 17, 18}
    assert sides.mean() == pytest.approx(SIDE * 0.5**0.5, abs=0.3)


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_a_blend_is_exact(alpha: float) -> None:
    data, views = flat(), levels(mixup=alpha)
    train = data.splits["train"]
    pixels, mix = views.batch(data, train, 2), mixed(views, data, train, 2)
    assert mix.blended.all()
    assert not mix.boxes.any()
    share = mix.share.astype(np.float64)
    expected = torch.from_numpy(share * train + (1 - share) * mix.partners).float()
    torch.testing.assert_close(pixels, expected[:, None, None, None].expand_as(pixels), rtol=0, atol=2e-5)


def test_with_both_on_each_image_gets_one_of_them() -> None:
    data = flat()
    mix = many(levels(mixup=1.0, cutmix=1.0), data)
    pasted = (mix.boxes[:, 1] > mix.boxes[:, 0]) & (mix.boxes[:, 3] > mix.boxes[:, 2])
    assert not (pasted & mix.blended).any()
    assert mix.blended.mean() == pytest.approx(0.5, abs=0.04)  # of 3000: standard error 0.01
    # patches so small that no pixel is left of them are rare
    assert pasted.mean() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 5.0])
def test_shares_are_of_the_beta_distribution(alpha: float) -> None:
    share = many(levels(mixup=alpha), flat()).share
    assert share.mean() == pytest.approx(0.5, abs=0.04)
    assert share.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), abs=0.01)


def test_partners_are_all_the_training_images_and_no_others() -> None:
    data = flat()
    mix = many(levels(cutmix=1.0), data)
    assert set(mix.partners) == set(data.splits["train"])
    every = np.arange(COUNT)  # whoever is shown
    assert set(mixed(levels(cutmix=1.0), data, every).partners) <= set(data.splits["train"])


@pytest.mark.parametrize("share", [0.3, 1.0])
@pytest.mark.parametrize("mixing", MIXINGS[:3], ids=str)
def test_as_many_are_mixed_as_were_asked_for(mixing: dict[str, Any], share: float) -> None:
    data = flat()
    train = np.tile(data.splits["train"], 100)
    mix = many(levels(**mixing, mixed_share=share), data)
    alone = (mix.partners == train) & (mix.share == 1) & ~mix.blended & ~mix.boxes.any(1)
    assert alone.mean() == pytest.approx(1 - share, abs=0.03)  # of 3000: standard error 0.008
    assert (mix.partners != train).mean() == pytest.approx(share * 29 / 30, abs=0.03)  # one of 30 meets itself


# ---------------------------------------------------------------- what is not mixed


@pytest.mark.parametrize(
    "spec",
    [None, ViewSpec(), ViewSpec(mixed_share=0.5), ViewSpec(mixup=1.0, cutmix=1.0, mixed_share=0.0)],
    ids=["evaluation", "off", "a share of nothing", "of no image"],
)
def test_off_is_as_if_it_was_not_there(spec: ViewSpec | None) -> None:
    data, views = noisy(), shown(spec)
    train = data.splits["train"]
    assert not views.mixes
    assert views.mix(data, train, 0) is None
    plain = shown(ViewSpec() if spec else None)
    assert torch.equal(views.batch(data, train, 0), plain(data.images(train), train, 0))


@pytest.mark.parametrize("mixing", MIXINGS, ids=str)
def test_what_is_not_mixed_is_seen_as_ever(mixing: dict[str, Any]) -> None:
    data, views = noisy(), shown(ViewSpec(**{**mixing, "mixed_share": 0.5}))
    train = data.splits["train"]
    mix = mixed(views, data, train)
    ever = shown(ViewSpec())(data.images(train), train, 0)
    partners = shown(ViewSpec())(data.images(mix.partners), mix.partners, 0)
    seen = views.batch(data, train, 0)
    alone = mix.partners == train
    assert 5 < alone.sum() < 25
    assert torch.equal(seen[alone], ever[alone])  # to the last bit
    assert all(not torch.equal(seen[row], ever[row]) for row in np.flatnonzero(~alone & (mix.share < 0.99)))
    for row in np.flatnonzero(~mix.blended):  # a patch is the partner's own view, the rest the image's
        top, bottom, left, right = mix.boxes[row]
        expected = ever[row].clone()
        expected[:, top:bottom, left:right] = partners[row, :, top:bottom, left:right]
        assert torch.equal(seen[row], expected)


# ---------------------------------------------------------------- student and teacher


@pytest.mark.parametrize("mixing", MIXINGS, ids=str)
def test_two_normalisations_show_the_same_pixels(mixing: dict[str, Any]) -> None:
    data, spec = noisy(), ViewSpec(**mixing)
    train = data.splits["train"]
    pixels = []
    for mean, std in (((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), ((0.5, 0.5, 0.5), (0.5, 0.25, 0.1))):
        seen = Views(spec, mean, std).batch(data, train, 1)
        pixels.append(seen * torch.tensor(std)[:, None, None] + torch.tensor(mean)[:, None, None])
    assert not torch.equal(pixels[0], pixels[1])
    torch.testing.assert_close(pixels[0], pixels[1], rtol=0, atol=1e-5)


def test_views_of_other_mixes_are_another_input() -> None:
    plain, mixing = shown(ViewSpec()), shown(ViewSpec(cutmix=1.0))
    assert plain.same_input(shown(ViewSpec()))
    assert not plain.same_input(mixing)
    assert not mixing.same_input(levels(cutmix=1.0))
    assert mixing.mixes
