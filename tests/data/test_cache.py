"""Images are decoded once, bad ones are left out by name, and the cache is whole or not there."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kdbench.data.cache import CachedSource, fit_image, open_source
from kdbench.data.layouts import class_folders
from kdbench.data.source import Item, Listing, Source, read_image
from kdbench.errors import BadImage, DataError, MissingData
from kdbench.types import DatasetSpec, Scalar


class Folder(Source):
    name, title, url, licence, citation = "folder", "t", "u", "l", "c"
    labels = ("a", "b")
    layout = "folder/{a,b}/*.png"

    def __init__(self) -> None:
        self.read_ids: list[str] = []

    def scan(self, root: Path, options: Mapping[str, Scalar]) -> Listing:
        items, left_out = class_folders(root, root / "folder", {"a": "a", "b": "b"})
        return Listing(tuple(items), tuple(left_out))

    def read(self, item: Item, options: Mapping[str, Scalar]) -> Image.Image:
        self.read_ids.append(item.id)
        return super().read(item, options)


def noise(seed: int, height: int = 20, width: int = 24) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number in range(6):
        path = tmp_path / "data" / "folder" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise(number).save(path)
    return tmp_path / "data"


@pytest.fixture
def opened(root: Path, tmp_path: Path) -> Callable[..., tuple[CachedSource, list[str]]]:
    """Open the folder as a new process would; returns what came and the ids that were decoded for it."""

    def go(change: Callable[[Listing], Listing] = lambda found: found, **asked: Any) -> tuple[CachedSource, list[str]]:
        source = Folder()
        spec = DatasetSpec(**{"name": "folder", "image_size": 16, **asked})
        return open_source(source, change(source.scan(root, {})), spec, tmp_path / "cache"), sorted(source.read_ids)

    return go


def test_images_are_decoded_once(opened: Callable) -> None:
    first, decoded = opened()
    assert decoded == [f"folder/{'ab'[n % 2]}/{n}.png" for n in (0, 2, 4, 1, 3, 5)]
    assert first.images.shape == (6, 16, 16, 3)
    assert first.images.dtype == np.uint8
    again, decoded = opened()
    assert decoded == []
    assert isinstance(again.images, np.memmap)
    np.testing.assert_array_equal(again.images, first.images)
    assert (again.items, again.digests, again.content) == (first.items, first.digests, first.content)


def test_rows_belong_to_items(opened: Callable) -> None:
    found, _ = opened(image_size=20)
    assert list(found.items) == sorted(found.items, key=lambda item: item.id)
    for item, row in zip(found.items, found.images, strict=True):
        expected = np.asarray(noise(int(Path(item.id).stem)))[:, 2:22]  # the middle square; no resampling
        np.testing.assert_array_equal(row, expected)


def test_another_size_or_fit_is_decoded_anew(opened: Callable) -> None:
    for asked in ({}, {"image_size": 20}, {"fit": "pad"}, {"fit": "stretch"}, {"crop_fraction": 0.5}):
        assert len(opened(**asked)[1]) == 6
        assert opened(**asked)[1] == []


def test_bad_files_are_left_out_by_name(opened: Callable, root: Path) -> None:
    whole = (root / "folder" / "a" / "0.png").read_bytes()
    bad = {
        "truncated.png": whole[: len(whole) // 2],
        "zero.png": b"",
        "words.jpg": b"this is no image\n",
        "flipped.png": whole[:40] + bytes([whole[40] ^ 255]) + whole[41:],
    }
    for name, content in bad.items():
        (root / "folder" / "a" / name).write_bytes(content)
    for name in ("notes.txt", ".hidden.png", "Thumbs.db"):
        (root / "folder" / "b" / name).write_bytes(whole)
    found, decoded = opened()
    assert len(decoded) == 10
    assert set(found.bad) == {f"folder/a/{name}" for name in bad}
    assert all(found.bad.values())
    assert {entry.path for entry in found.left_out} == {
        f"folder/b/{name}" for name in ("notes.txt", ".hidden.png", "Thumbs.db")
    }
    good = [row for row, item in enumerate(found.items) if item.id not in found.bad]
    assert len(good) == 6
    assert all(found.images[row].std() > 10 for row in good)
    assert opened()[0].bad == found.bad  # known without decoding


def test_when_nothing_can_be_decoded_it_is_an_error(opened: Callable, root: Path) -> None:
    for path in root.rglob("*.png"):
        path.write_bytes(b"no")
    for _ in range(2):  # and nothing half made is taken the second time
        with pytest.raises(DataError, match=r"none of 6 files can be decoded, the first: .*folder/a/0.png"):
            opened()


def test_no_images_at_all(opened: Callable) -> None:
    with pytest.raises(MissingData, match=r"holds no images; expected folder/\{a,b\}"):
        opened(lambda found: Listing(()))


# ---------------------------------------------------------------- identity


def test_other_bytes_are_another_content(opened: Callable, root: Path) -> None:
    before = opened()[0]
    path = root / "folder" / "a" / "0.png"
    noise(77).save(path)
    after, decoded = opened()
    assert after.content != before.content
    assert [a != b for a, b in zip(after.digests, before.digests, strict=True)] == [True] + [False] * 5
    assert len(decoded) == 6
    assert not np.array_equal(after.images[0], before.images[0])


def test_another_label_or_name_is_another_content(opened: Callable, root: Path) -> None:
    before = opened()[0].content
    (root / "folder" / "a" / "0.png").rename(root / "folder" / "b" / "0.png")
    moved = opened()[0].content
    (root / "folder" / "b" / "0.png").rename(root / "folder" / "b" / "00.png")
    assert len({before, moved, opened()[0].content}) == 3


def test_content_depends_on_neither_order_nor_times_nor_place(opened: Callable, root: Path, tmp_path: Path) -> None:
    before = opened()[0]
    for number, path in enumerate(root.rglob("*.png")):
        os.utime(path, (number, number))
    touched, decoded = opened()
    assert touched.content == before.content
    assert decoded == []
    turned, decoded = opened(lambda found: Listing(found.items[::-1]))
    assert (turned.content, turned.items, decoded) == (before.content, before.items, [])
    root.rename(tmp_path / "moved")
    source = Folder()
    there = source.scan(tmp_path / "moved", {})
    spec = DatasetSpec(name="folder", image_size=16)
    assert open_source(source, there, spec, tmp_path / "other-cache").content == before.content


def test_a_damaged_index_is_made_again(opened: Callable, tmp_path: Path) -> None:
    before = opened()[0]
    (index,) = (tmp_path / "cache" / "folder" / "index").iterdir()
    for content in ("", "{", "5", "[]", '{"a": 1}', '["x"]'):
        index.write_text(content)
        assert opened()[0].digests == before.digests


def test_a_file_that_cannot_be_read_is_an_error_with_its_name(opened: Callable, root: Path) -> None:
    (root / "folder" / "a" / "link.png").symlink_to("nowhere.png")
    with pytest.raises(DataError, match=r"link\.png cannot be read"):
        opened()


# ---------------------------------------------------------------- interruption and damage


@pytest.mark.parametrize("problem", [KeyboardInterrupt, MemoryError])
def test_an_interrupted_decoding_leaves_no_folder(
    opened: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problem: type[BaseException]
) -> None:
    read = Folder.read

    def interrupted(self: Folder, item: Item, options: Mapping[str, Scalar]) -> Image.Image:
        if item.id.endswith("3.png"):
            raise problem
        return read(self, item, options)

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "read", interrupted)
        with pytest.raises(problem):
            opened()
    visible = [path.name for path in (tmp_path / "cache" / "folder").iterdir() if path.is_dir()]
    assert [name for name in visible if name != "index" and not name.startswith(".partial-")] == []
    found, decoded = opened()
    assert len(decoded) == 6
    assert all(row.std() > 10 for row in found.images)
    assert not list((tmp_path / "cache").rglob(".partial-*"))


@pytest.mark.parametrize("damage", ["empty", "cut", "words"])
def test_a_damaged_cache_is_named(opened: Callable, tmp_path: Path, damage: str) -> None:
    opened()
    (array,) = (tmp_path / "cache").rglob("images.npy")
    content = {"empty": b"", "cut": array.read_bytes()[:-9], "words": b"words" * 99}[damage]
    array.write_bytes(content)
    with pytest.raises(DataError, match=r"image cache .* cannot be used .*; free room or remove it"):
        opened()


def test_a_cache_that_cannot_be_written_is_named(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np.lib.format, "open_memmap", full)
    source = Folder()
    with pytest.raises(DataError, match="No space left on device"):
        open_source(source, source.scan(root, {}), DatasetSpec(name="folder"), tmp_path / "cache")


def test_progress_is_told(root: Path, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    source = Folder()
    spec = DatasetSpec(name="folder", image_size=16)
    open_source(source, source.scan(root, {}), spec, tmp_path / "cache", lambda *what: told.append(what))
    assert told == [("hashing folder", 6, 6), ("decoding folder", 6, 6)]


# ---------------------------------------------------------------- pixels


def bicubic(pixels: np.ndarray, start: float, end: float, size: int) -> np.ndarray:
    """The first axis of [start, end) resampled: the definition, with a = -0.5 and a filter as wide as the scale."""
    scale = (end - start) / size
    width = max(scale, 1.0)
    out = np.empty((size, *pixels.shape[1:]))
    for row in range(size):
        centre = start + (row + 0.5) * scale
        at = np.arange(max(0, int(centre - 2 * width + 0.5)), min(len(pixels), int(centre + 2 * width + 0.5)))
        x = np.abs((at + 0.5 - centre) / width)
        near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
        weights = np.where(x < 1, near, np.where(x < 2, far, 0))
        out[row] = np.tensordot(weights / weights.sum(), pixels[at], axes=1)
    return out


def resized(pixels: np.ndarray, box: tuple[float, float, float, float], width: int, height: int) -> np.ndarray:
    left, top, right, bottom = box
    columns = bicubic(pixels.astype(np.float64).swapaxes(0, 1), left, right, width).clip(0, 255)
    return bicubic(columns.swapaxes(0, 1), top, bottom, height).clip(0, 255)


@pytest.mark.parametrize("size", [(24, 20), (20, 33), (50, 61), (16, 16)])
@pytest.mark.parametrize("side", [16, 24])
def test_fits_against_a_second_method(size: tuple[int, int], side: int) -> None:
    width, height = size
    # not too bright or dark: the filter overshoots, and what is cut off depends on which axis comes first
    pixels = 64 + np.asarray(noise(1, height, width)) // 2
    image = Image.fromarray(pixels)

    def fitted(**asked: Any) -> np.ndarray:
        out = fit_image(image, DatasetSpec(name="x", image_size=side, **asked))
        assert out.shape == (side, side, 3)
        assert out.dtype == np.uint8
        return out.astype(np.float64)

    for fraction in (1.0, 0.6):
        edge = round(min(size) * fraction)
        left, top = (width - edge) // 2, (height - edge) // 2
        expected = resized(pixels, (left, top, left + edge, top + edge), side, side)
        assert np.abs(fitted(crop_fraction=fraction) - expected).max() <= 1.5  # two roundings

    assert np.abs(fitted(fit="stretch") - resized(pixels, (0, 0, width, height), side, side)).max() <= 1.5

    inner = (round(width * side / max(size)), round(height * side / max(size)))
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]).mean(axis=0).round()
    expected = np.tile(border, (side, side, 1))
    left, top = round((side - inner[0]) / 2), round((side - inner[1]) / 2)
    expected[top : top + inner[1], left : left + inner[0]] = resized(pixels, (0, 0, width, height), *inner)
    assert np.abs(fitted(fit="pad") - expected).max() <= 1.5


@pytest.mark.parametrize("fit", ["crop", "stretch", "pad"])
@pytest.mark.parametrize("size", [(1, 1), (1, 50), (400, 2)])
def test_extreme_shapes_do_not_crash(fit: str, size: tuple[int, int]) -> None:
    out = fit_image(Image.new("RGB", size, (10, 200, 30)), DatasetSpec(name="x", image_size=16, fit=fit))
    assert np.abs(out.astype(int) - (10, 200, 30)).max() <= 1


def test_every_mode_becomes_rgb(tmp_path: Path) -> None:
    grey = np.linspace(0, 255, 256).astype(np.uint8).reshape(16, 16)
    in_grey = np.repeat(grey[:, :, None], 3, axis=2)

    def read(image: Image.Image, name: str) -> np.ndarray:
        image.save(tmp_path / name)
        out = read_image(tmp_path / name)
        assert out.mode == "RGB"
        return np.asarray(out)

    np.testing.assert_array_equal(read(Image.fromarray(grey), "l.png"), in_grey)
    np.testing.assert_array_equal(read(Image.fromarray(grey).convert("P"), "p.png"), in_grey)
    np.testing.assert_array_equal(read(Image.fromarray(grey > 99), "1.png"), 255 * (in_grey > 99))
    with_alpha = np.dstack([in_grey, np.full((16, 16), 7, np.uint8)])
    np.testing.assert_array_equal(read(Image.fromarray(with_alpha), "a.png"), in_grey)
    # 16 bits: the upper byte; cut off at 255, everything would be white
    deep = grey.astype(np.uint16) * 257
    for name in ("16.png", "16.tif"):
        np.testing.assert_array_equal(read(Image.fromarray(deep), name), in_grey)
    four = Image.fromarray(np.dstack([grey, grey, grey, np.zeros_like(grey)]), mode="CMYK")
    assert np.abs(read(four, "cmyk.tif").astype(int) - (255 - in_grey.astype(int))).max() <= 1
    assert read(four, "cmyk.jpg").shape == (16, 16, 3)


def test_images_are_read_upright(tmp_path: Path) -> None:
    image, exif = noise(3), Image.Exif()
    exif[0x0112] = 6  # turned a quarter: seen upright after a turn to the right
    image.save(tmp_path / "x.png", exif=exif)
    np.testing.assert_array_equal(np.asarray(read_image(tmp_path / "x.png")), np.rot90(np.asarray(image), k=-1))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_truncation_is_an_error_in_every_format(tmp_path: Path) -> None:
    for suffix in ("png", "jpg", "bmp", "tif", "webp"):
        path = tmp_path / f"x.{suffix}"
        noise(0, 40, 40).save(path)
        assert read_image(path).size == (40, 40)
        whole = path.read_bytes()
        for part in (0, 1, 10, len(whole) // 2, len(whole) * 3 // 4):
            path.write_bytes(whole[:part])
            with pytest.raises(BadImage):
                read_image(path)
