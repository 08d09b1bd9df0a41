"""Stain normalisation: the reference is met, each image is by itself, and what it fails on is kept and told."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from pydantic import ValidationError
from torchstain.numpy.normalizers import NumpyMacenkoNormalizer, NumpyReinhardNormalizer

from kdbench.config import parse_suite
from kdbench.data import stain
from kdbench.data.cache import _pixels
from kdbench.data.dataset import Dataset, open_dataset
from kdbench.data.declared import declare
from kdbench.data.memory import from_arrays
from kdbench.data.stain import PBC, measure_reference, normalise_stain, stain_caveats
from kdbench.data.views import Views
from kdbench.suite.plan import RegistryNames, make_plan
from kdbench.types import DatasetSpec, RunSpec, SourceDeclaration, StainMethod, content_id, identity

pytestmark = pytest.mark.usefixtures("own_sources")

METHODS: tuple[StainMethod, ...] = ("reinhard", "macenko")


def lab_of(pixels: np.ndarray) -> np.ndarray:
    """CIE Lab by its definition, in float64: sRGB (IEC 61966-2-1), D65."""
    value = pixels.reshape(-1, 3) / 255
    linear = np.where(value > 0.04045, ((value + 0.055) / 1.055) ** 2.4, value / 12.92)
    xyz = (
        linear
        @ np.asarray([[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]]).T
        / (0.95047, 1, 1.08883)
    )
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz * (29 / 6) ** 2 / 3 + 4 / 29)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)


def smooth(seed: int, side: int = 48) -> np.ndarray:
    """A picture of soft blots on a light ground, far from black and white."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side
    planes = [150 + 25 * np.sin(rng.uniform(2, 9) * x + rng.uniform(0, 6)) * np.cos(rng.uniform(2, 9) * y)
              + rng.uniform(-8, 8) for _ in range(3)]  # fmt: skip
    return np.rint(np.stack(planes, axis=2)).astype(np.uint8)


def stained(
    seed: int, stains: Any = ((0.6, 0.2), (0.7, 0.9), (0.39, 0.39)), scale: tuple[float, float] = (2.0, 1.6)
) -> np.ndarray:
    """Two stains on white: mostly one, the other, or neither, as amounts drawn at random."""
    rng = np.random.default_rng(seed)
    colours = np.asarray(stains) / np.linalg.norm(stains, axis=0)
    kind = rng.integers(0, 4, 48 * 48)
    first = np.where(kind == 0, rng.uniform(0.5, 1, 48 * 48), 0) * scale[0]
    second = np.where(kind == 1, rng.uniform(0.5, 1, 48 * 48), 0) * scale[1]
    values = 240 * np.exp(-(np.stack([first, second], axis=1) @ colours.T))
    return np.rint(values).astype(np.uint8).reshape(48, 48, 3)


# ---------------------------------------------------------------- what the methods do


@pytest.mark.parametrize("seed", range(5))
def test_reinhard_brings_mean_and_spread_to_the_reference(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # a reference of less spread than PBC's: then nothing is cut off at 0 or 255
    monkeypatch.setattr(stain, "PBC", stain.Reference((70.0, 8.0, 5.0), (6.0, 4.0, 5.0), PBC.stains, PBC.strengths))
    out, why = normalise_stain(smooth(seed), "reinhard")
    assert why == ""
    assert (out.shape, out.dtype) == ((48, 48, 3), np.uint8)
    lab = lab_of(out)
    np.testing.assert_allclose(lab.mean(axis=0), (70, 8, 5), atol=0.1)  # rounded to 8 bits
    np.testing.assert_allclose(lab.std(axis=0), (6, 4, 5), atol=0.1)


def test_macenko_brings_the_stains_to_the_reference() -> None:
    out, why = normalise_stain(stained(0), "macenko")
    assert why == ""
    found = stain._find_stains(out)
    assert found is not None
    np.testing.assert_allclose(found[0], PBC.stains, atol=0.03)
    np.testing.assert_allclose(found[1], PBC.strengths, rtol=0.05)


@pytest.mark.parametrize("method", METHODS)
def test_what_is_like_the_reference_stays_nearly_as_it_is(method: StainMethod) -> None:
    once, _ = normalise_stain(stained(3, PBC.stains, PBC.strengths), method)
    twice, _ = normalise_stain(once, method)
    assert np.abs(twice.astype(int) - once).mean() < 4


@pytest.mark.parametrize("seed", range(3))
def test_one_picture_under_two_stains_comes_out_nearly_alike(seed: int) -> None:
    one = stained(seed)
    other = stained(seed, ((0.5, 0.35), (0.8, 0.8), (0.3, 0.5)), (1.5, 1.2))
    before = np.abs(one.astype(int) - other).mean()
    after = np.abs(normalise_stain(one, "macenko")[0].astype(int) - normalise_stain(other, "macenko")[0]).mean()
    assert after < before / 3


@pytest.mark.parametrize("seed", range(5))
def test_reinhard_against_torchstain(seed: int) -> None:
    reference = NumpyReinhardNormalizer()
    reference.target_means, reference.target_stds = np.asarray(PBC.lab_mean), np.asarray(PBC.lab_std)
    for pixels in (smooth(seed), stained(seed)):
        ours = normalise_stain(pixels, "reinhard")[0].astype(int)
        assert np.abs(ours - reference.normalize(pixels)).max() <= 1


@pytest.mark.parametrize("seed", range(5))
def test_macenko_against_torchstain(seed: int) -> None:
    reference = NumpyMacenkoNormalizer()
    reference.HERef, reference.maxCRef = np.asarray(PBC.stains), np.asarray(PBC.strengths)
    pixels = stained(seed)  # its stronger stain is also the one that takes more red
    ours = normalise_stain(pixels, "macenko")[0].astype(int)
    assert np.abs(ours - reference.normalize(pixels, stains=False)[0]).max() <= 1


def test_the_nuclear_stain_is_the_stronger_one() -> None:
    weak, strong = (0.6, 0.7, 0.39), (0.3, 0.9, 0.3)  # the weak one takes more red: torchstain takes it for the nuclear
    pixels = stained(0, tuple(zip(weak, strong, strict=True)), (0.8, 2.0))
    out, why = normalise_stain(pixels, "macenko")
    assert why == ""
    grey_before, grey_after = pixels.mean(axis=2).ravel(), out.mean(axis=2).ravel()
    assert np.corrcoef(grey_before, grey_after)[0, 1] > 0.95


def test_none_changes_nothing() -> None:
    pixels = smooth(0)
    out, why = normalise_stain(pixels, "none")
    assert out is pixels
    assert why == ""


@pytest.mark.parametrize("method", METHODS)
def test_the_same_image_gives_the_same_and_is_not_changed_itself(method: StainMethod) -> None:
    pixels = stained(1)
    before = pixels.copy()
    first, again = (normalise_stain(pixels, method)[0] for _ in range(2))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(pixels, before)


# ---------------------------------------------------------------- what it cannot be used on


GREY = np.repeat(np.arange(0, 240, 15, dtype=np.uint8)[None, :, None], 16, axis=0).repeat(3, axis=2)
FAILURES = {
    "white": (np.full((16, 16, 3), 255, np.uint8), stain.NO_CONTRAST, stain.TOO_LITTLE),
    "black": (np.zeros((16, 16, 3), np.uint8), stain.NO_CONTRAST, stain.NO_STAINS),
    "one colour": (np.full((16, 16, 3), (120, 60, 130), np.uint8), stain.NO_CONTRAST, stain.NO_STAINS),
    "grey": (GREY, stain.NO_CONTRAST, stain.NO_STAINS),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", FAILURES)
def test_what_it_cannot_be_used_on_is_kept(name: str) -> None:
    pixels, *reasons = FAILURES[name]
    for method, reason in zip(METHODS, reasons, strict=True):
        out, why = normalise_stain(pixels, method)
        np.testing.assert_array_equal(out, pixels)
        assert why == reason


@pytest.mark.filterwarnings("error")
def test_a_few_stained_pixels_are_too_few() -> None:
    pixels = np.full((20, 20, 3), 250, np.uint8)
    for count, kept in ((0, True), (1, True), (3, True), (100, False)):
        pixels.reshape(-1, 3)[:count] = stained(0)[stained(0).max(axis=2) < 200][:count]
        assert (normalise_stain(pixels, "macenko")[1] != "") is kept


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("method", METHODS)
def test_noise_of_any_kind_gives_an_image_or_a_reason(method: StainMethod) -> None:
    rng = np.random.default_rng(0)
    for _ in range(60):
        low, high = np.sort(rng.integers(0, 257, 2))
        pixels = rng.integers(low, max(high, low + 1), (16, 16, 3)).astype(np.uint8)
        out, why = normalise_stain(pixels, method)
        assert out.shape == pixels.shape
        assert why in ("", stain.NO_CONTRAST, stain.TOO_LITTLE, stain.NO_STAINS)


def test_what_is_said_of_it() -> None:
    assert stain_caveats("none", {"a": []}) == []
    said = stain_caveats("macenko", {"a": ["x", "y", "x"], "b": []})
    assert said[0].startswith("every image was brought to one stain when it was decoded (macenko;")
    assert said[1:] == ["2 images of a keep their own stain: x", "1 images of a keep their own stain: y"]


# ---------------------------------------------------------------- through the cache, the card and a suite


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    for number in range(40):
        path = tmp_path / "cells" / ("a", "b")[number % 2] / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = stained(number) if number else np.full((48, 48, 3), 255, np.uint8)
        Image.fromarray(pixels).save(path)
    declare(SourceDeclaration(name="cells", folder="cells"), tmp_path)
    return tmp_path


def opened(root: Path, **settings: Any) -> Dataset:
    return open_dataset(DatasetSpec(name="cells", image_size=48, **settings), root, root / "cache")


def test_keys_of_the_cache_are_those_of_before_and_others_with_a_stain(cells: Path) -> None:
    assert _pixels(DatasetSpec(name="x")) == "64px-crop-v1"
    assert _pixels(DatasetSpec(name="x", crop_fraction=0.5, image_size=96)) == "96px-crop-0.5-v1"
    for method in get_args(StainMethod):
        opened(cells, stain=method)
    folders = {path.name.partition("-")[2] for path in (cells / "cache/cells").iterdir() if path.is_dir()}
    assert folders - {""} == {"48px-crop-v1", "48px-crop-v1-reinhard1", "48px-crop-v1-macenko1"}


def test_images_are_brought_to_it_one_by_one(cells: Path) -> None:
    plain = opened(cells)
    for method in METHODS:
        data = opened(cells, stain=method)
        assert data.ids == plain.ids
        assert all(np.array_equal(data.splits[side], plain.splits[side]) for side in plain.splits)
        for index in range(40):
            at = np.asarray([index])
            expected, _ = normalise_stain(plain.images(at)[0], method)
            np.testing.assert_array_equal(data.images(at)[0], expected)


def test_the_card_counts_what_is_kept(cells: Path) -> None:
    assert opened(cells).card.caveats == ()
    reasons = {"reinhard": stain.NO_CONTRAST, "macenko": stain.TOO_LITTLE}
    for method in METHODS:
        for _ in range(2):  # decoded, and from the cache
            said = opened(cells, stain=method).card.caveats
            assert said[1:] == (f"1 images of cells keep their own stain: {reasons[method]}",)


def test_arrays_in_memory(cells: Path) -> None:
    images = np.stack([stained(number) for number in range(39)] + [np.full((48, 48, 3), 255, np.uint8)])
    before = images.copy()
    data = from_arrays(images, [number % 2 for number in range(40)], stain="reinhard")
    np.testing.assert_array_equal(images, before)
    np.testing.assert_array_equal(data.images(np.asarray([3]))[0], normalise_stain(images[3], "reinhard")[0])
    assert data.card.caveats[1:] == (f"1 images of arrays keep their own stain: {stain.NO_CONTRAST}",)
    plain = from_arrays(images, [number % 2 for number in range(40)])
    assert plain.card.caveats == ()
    assert data.spec.content == plain.spec.content


def test_a_stain_is_part_of_a_run_and_none_is_not() -> None:
    spec = DatasetSpec(name="mixed")
    assert "stain" not in identity(spec)
    assert identity(DatasetSpec(name="mixed", stain="reinhard"))["stain"] == "reinhard"
    with pytest.raises(ValidationError, match="'none', 'macenko' or 'reinhard'"):
        DatasetSpec.model_validate({"name": "mixed", "stain": "vahadane"})


def test_it_flows_from_a_suite(tmp_path: Path) -> None:
    raw = {"name": "s", "datasets": [{"name": "mixed", "stain": "reinhard"}, "mixed"], "students": ["resnet8_w16"]}
    plan = make_plan(parse_suite(yaml.safe_dump(raw), "s.yaml", RegistryNames(tmp_path)))
    runs: list[RunSpec] = [run for run in plan.runs if run.seed == plan.runs[0].seed]
    assert [run.dataset.stain for run in runs] == ["reinhard", "none"]
    assert len({content_id(identity(run)) for run in runs}) == 2


def test_views_see_the_images_that_were_brought_to_it(cells: Path) -> None:
    data = opened(cells, stain="reinhard")
    show = Views(None, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    at = np.asarray([5])
    expected = torch.from_numpy(data.images(at)).permute(0, 3, 1, 2).float() / 255
    torch.testing.assert_close(show.batch(data, at, 0), expected)


# ---------------------------------------------------------------- the reference


def test_measuring_a_reference() -> None:
    images = [stained(seed) for seed in range(5)]
    found = measure_reference(images)
    labs = np.stack([lab_of(image) for image in images])
    np.testing.assert_allclose(found.lab_mean, labs.mean(axis=(0, 1)), atol=0.02)
    np.testing.assert_allclose(found.lab_std, labs.std(axis=1).mean(axis=0), atol=0.02)
    colours = np.asarray(((0.6, 0.2), (0.7, 0.9), (0.39, 0.39)))
    np.testing.assert_allclose(found.stains, colours / np.linalg.norm(colours, axis=0), atol=0.03)
    np.testing.assert_allclose(np.linalg.norm(found.stains, axis=0), 1)


@pytest.mark.realdata
def test_the_reference_is_that_of_pbc(data_root: Path, tmp_path: Path) -> None:
    """Every 40th image is enough to see that the figures are those of these images."""
    data = open_dataset(DatasetSpec(name="pbc", image_size=96), data_root, tmp_path)
    found = measure_reference(data.images(np.asarray([index]))[0] for index in range(0, len(data.ids), 40))
    np.testing.assert_allclose(found.lab_mean, PBC.lab_mean, atol=0.6)
    np.testing.assert_allclose(found.lab_std, PBC.lab_std, atol=0.6)
    np.testing.assert_allclose(found.stains, PBC.stains, atol=0.05)
    np.testing.assert_allclose(found.strengths, PBC.strengths, rtol=0.05)
