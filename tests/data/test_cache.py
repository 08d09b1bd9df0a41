"""Decode once; what cannot be decoded is named; what is half done is not there."""

from __future__ import annotations

import os
from pathlib import Path

import fakes
import numpy as np
import pytest
from PIL import Image

from kdbench.data import cache as cache_module
from kdbench.data.cache import CachedSource, fit_image, index_source, open_source
from kdbench.data.source import SOURCES
from kdbench.errors import DataError
from kdbench.types import DatasetSpec

SPEC = DatasetSpec(name="pbc", image_size=16)
FOLDER = "pbc/PBC_dataset_normal_DIB"


def open_pbc(root: Path, cache: Path, spec: DatasetSpec = SPEC, **more: object) -> CachedSource:
    source = SOURCES.get("pbc")
    return open_source(source, source.scan(root, {}), spec, cache, **more)  # type: ignore[arg-type]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    fakes.pbc(tmp_path / "data", per_class=3)
    return tmp_path / "data"


def test_images_are_what_a_second_decoder_gives(root: Path, tmp_path: Path) -> None:
    opened = open_pbc(root, tmp_path / "cache")
    assert opened.images.dtype == np.uint8
    assert opened.images.shape == (15, 16, 16, 3)
    for item, stored in zip(opened.items, opened.images, strict=True):
        with Image.open(root / item.id) as image:  # 20 x 16: the centre is 16 x 16 as it stands
            np.testing.assert_array_equal(stored, np.asarray(image.convert("RGB"))[:, 2:18])


def test_the_second_opening_decodes_and_hashes_nothing(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = open_pbc(root, tmp_path / "cache")
    reads: list[Path] = []
    monkeypatch.setattr(cache_module, "_decode", None)
    monkeypatch.setattr(Path, "read_bytes", reads.append)
    second = open_pbc(root, tmp_path / "cache")
    assert reads == []
    assert second.content == first.content
    np.testing.assert_array_equal(second.images, first.images)


def test_progress_is_told(root: Path, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    open_pbc(root, tmp_path / "cache", progress=lambda *what: told.append(what))
    assert ("hashing pbc", 15, 15) in told
    assert ("decoding pbc", 15, 15) in told


def test_content_follows_bytes_and_labels_not_times(root: Path, tmp_path: Path) -> None:
    source = SOURCES.get("pbc")

    def content() -> str:
        return index_source(source, source.scan(root, {}), tmp_path / "cache", {})[2]

    before = content()
    changed = root / FOLDER / "monocyte/MO_000.jpg"
    os.utime(changed, (1, 1))
    assert content() == before
    fakes.write_image(changed, 424_242)
    after = content()
    assert after != before
    changed.rename(root / FOLDER / "neutrophil/MO_000.jpg")
    assert content() not in (before, after)


def test_bad_files_are_named_and_left_out(root: Path, tmp_path: Path) -> None:
    folder = root / FOLDER / "monocyte"
    whole = (folder / "MO_000.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.jpg").write_bytes(b"this is no image")
    (folder / ".hidden.jpg").write_bytes(b"x")
    (folder / "notes.txt").write_text("x")
    (root / FOLDER / "platelet").mkdir()
    fakes.write_image(root / FOLDER / "platelet/P_1.jpg", 7)
    opened = open_pbc(root, tmp_path / "cache")
    assert set(opened.bad) == {f"{FOLDER}/monocyte/{name}.jpg" for name in ("truncated", "empty", "text")}
    assert "truncated" in opened.bad[f"{FOLDER}/monocyte/truncated.jpg"].lower()
    assert opened.bad[f"{FOLDER}/monocyte/text.jpg"] == "not an image"
    left = {entry.path: entry.count for entry in opened.left_out}
    assert left == {f"{FOLDER}/monocyte/.hidden.jpg": 1, f"{FOLDER}/monocyte/notes.txt": 1, f"{FOLDER}/platelet/": 1}


def test_no_readable_image_at_all_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "data" / FOLDER / "monocyte/x.jpg"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x")
    with pytest.raises(DataError, match="none of 1 files can be decoded"):
        open_pbc(tmp_path / "data", tmp_path / "cache")


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGBA", "P", "I;16", "1", "LA"])
def test_every_mode_becomes_rgb(mode: str, root: Path, tmp_path: Path) -> None:
    grey = Image.fromarray(np.full((20, 20), 255, dtype=np.uint8))
    image = Image.fromarray(np.full((20, 20), 65535, dtype=np.uint16)) if mode == "I;16" else grey.convert(mode)
    image.save(root / FOLDER / "monocyte" / ("odd.tif" if mode == "CMYK" else "odd.png"))
    opened = open_pbc(root, tmp_path / "cache")
    assert opened.bad == {}
    row = next(i for i, item in enumerate(opened.items) if "odd" in item.id)
    assert opened.images[row].min() == 255


def test_an_interrupt_leaves_nothing_half_decoded(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    source = SOURCES.get("pbc")
    with monkeypatch.context() as patch:
        patch.setattr(type(source), "read", interrupt)
        with pytest.raises(KeyboardInterrupt):
            open_pbc(root, tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache/pbc").iterdir() if path.is_dir() and path.name[0] not in ".i"]
    assert open_pbc(root, tmp_path / "cache").bad == {}


def test_a_damaged_cache_is_said(root: Path, tmp_path: Path) -> None:
    open_pbc(root, tmp_path / "cache")
    (images,) = (tmp_path / "cache").rglob("images.npy")
    images.write_bytes(b"")
    with pytest.raises(DataError, match="cannot be used"):
        open_pbc(root, tmp_path / "cache")


def test_fits() -> None:
    pixels = np.zeros((40, 80, 3), dtype=np.uint8)
    pixels[:, 16:64] = 200  # wider than the square in the middle, for the resampling looks a little beyond it
    image = Image.fromarray(pixels)
    spec = DatasetSpec(name="pbc", image_size=16)
    assert (fit_image(image, spec) == 200).all()
    stretched = fit_image(image, spec.model_copy(update={"fit": "stretch"}))
    assert stretched.shape == (16, 16, 3)
    assert stretched[:, :3].max() == 0
    assert stretched[:, 6:10].min() == 200
    half = fit_image(image, spec.model_copy(update={"crop_fraction": 0.5}))
    np.testing.assert_array_equal(half, np.full((16, 16, 3), 200))
    padded = fit_image(image, spec.model_copy(update={"fit": "pad"}))
    assert padded.shape == (16, 16, 3)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]).mean().round()
    assert (padded[:3] == border).all()  # above the picture
    assert padded[8, 8, 0] == 200


def test_each_fit_and_size_has_its_own_cache(root: Path, tmp_path: Path) -> None:
    shapes = set()
    for change in ({}, {"fit": "stretch"}, {"image_size": 24}, {"crop_fraction": 0.5}):
        opened = open_pbc(root, tmp_path / "cache", SPEC.model_copy(update=change))
        shapes.add((opened.images.shape, opened.images.tobytes()))
    assert len(shapes) == 4
