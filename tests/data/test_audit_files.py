"""Odd files: one of every kind, made with PIL, is recognised, decoded or left out as is said, and named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdbench.data.audit import audit
from kdbench.data.declared import declare
from kdbench.data.files import look_at
from kdbench.data.source import read_image
from kdbench.errors import BadImage
from kdbench.findings import ODD_KINDS
from kdbench.types import DatasetSpec, SourceDeclaration

RGB = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 20, 3), dtype=np.uint8))


def cut(path: Path, image: Image.Image) -> None:
    image.save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def rotated(path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    RGB.save(path, exif=exif)


def wide_png(path: Path) -> None:
    """RGB of 16 bits a channel, which PIL does not write; OpenCV does."""
    cv2 = pytest.importorskip("cv2")
    cv2.imwrite(str(path), np.full((24, 20, 3), 40_000, np.uint16))


def transparent_palette(path: Path) -> None:
    RGB.quantize(16).save(path, transparency=3)


ODD = {
    "zero.png": (lambda path: path.write_bytes(b""), {"empty": ""}),
    "page.png": (lambda path: path.write_text("<html>404</html>" * 9), {"foreign": ""}),
    "cut.png": (lambda path: cut(path, RGB), None),
    "cut.bmp": (lambda path: cut(path, RGB), {}),  # its head is whole: only decoding tells
    "cmyk.jpg": (lambda path: RGB.convert("CMYK").save(path), {"cmyk": ""}),
    "grey.png": (lambda path: RGB.convert("L").save(path), {"grey": "L"}),
    "line.bmp": (lambda path: RGB.convert("1").save(path), {"grey": "1"}),
    "deep.png": (lambda path: Image.fromarray(np.full((9, 9), 40_000, np.uint16)).save(path), None),
    "wide.png": (wide_png, {"deep": "RGB"}),
    "alpha.png": (lambda path: RGB.convert("RGBA").save(path), {"alpha": "RGBA"}),
    "palette.png": (lambda path: RGB.quantize(16).save(path), {"palette": "P"}),
    "clear.png": (transparent_palette, {"alpha": "P", "palette": "P"}),
    "turned.jpg": (lambda path: rotated(path, 6), {"rotated": "orientation 6"}),
    "upright.jpg": (lambda path: rotated(path, 1), {}),
    "liar.jpg": (lambda path: RGB.save(path, format="PNG"), {"suffix": "PNG"}),
    "moving.webp": (lambda path: RGB.save(path, save_all=True, append_images=[RGB.rotate(90)]), {"frames": "2 frames"}),
    "pages.tif": (lambda path: RGB.save(path, save_all=True, append_images=[RGB] * 2), {"frames": "3 frames"}),
    "plain.png": (RGB.save, {}),
    "plain.JPG": (lambda path: RGB.save(path, format="JPEG"), {}),
    "plain.bmp": (RGB.save, {}),
    "plain.tiff": (RGB.save, {}),
}


@pytest.mark.parametrize("name", ODD)
def test_every_kind_is_recognised(name: str, tmp_path: Path) -> None:
    make, odd = ODD[name]
    make(tmp_path / name)
    seen = look_at(tmp_path / name)
    found = dict(seen.odd)
    if (
        name == "cut.png"
    ):  # the head of a PNG may stand at its end, so this one is told by looking; of others by decoding
        assert set(found) == {"damaged"}
    elif name == "deep.png":
        assert set(found) == {"deep", "grey"}
    else:
        assert found == odd
    if name in ("zero.png", "page.png"):
        assert (seen.width, seen.height, seen.mode, seen.format) == (0, 0, "", "")
    elif name != "deep.png":
        assert (seen.width, seen.height) == (20, 24)


@pytest.mark.parametrize("name", ODD)
def test_what_is_said_to_become_of_them_is_what_the_decoder_does(name: str, tmp_path: Path) -> None:
    make, _ = ODD[name]
    path = tmp_path / name
    make(path)
    kinds = {kind for kind, _ in look_at(path).odd} | ({"damaged"} if name.startswith("cut") else set())
    if any(ODD_KINDS[kind][1] == "left out" for kind in kinds):
        with pytest.raises(BadImage):
            read_image(path)
        return
    image = read_image(path)
    assert image.mode == "RGB"
    if "rotated" in kinds:
        assert image.size == (24, 20)
    if "deep" in kinds:
        assert np.asarray(image).max() == 40_000 >> 8


def test_a_file_that_may_not_be_read_is_no_finding(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nowhere"):
        look_at(tmp_path / "nowhere.png")


@pytest.mark.usefixtures("own_sources")
def test_an_audit_counts_and_names_them(tmp_path: Path) -> None:
    for number in range(24):
        path = tmp_path / "images" / ("cat", "dog")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(path)
    for name, (make, _) in ODD.items():
        make(tmp_path / "images" / "cat" / name)
    declare(SourceDeclaration(name="pets", folder=str(tmp_path / "images")), tmp_path)
    found = audit(DatasetSpec(name="pets", image_size=16), tmp_path, tmp_path / "cache")
    counts = {odd.kind: odd.count for odd in found.odd}
    assert counts == {
        "empty": 1,
        "foreign": 1,
        "damaged": 2,
        "suffix": 1,
        "cmyk": 1,
        "deep": 2,
        "alpha": 2,
        "palette": 2,
        "grey": 3,
        "rotated": 1,
        "frames": 2,
    }
    named = {odd.kind: odd.named for odd in found.odd}
    assert named["suffix"] == ("pets/cat/liar.jpg (PNG)",)
    assert named["empty"] == ("pets/cat/zero.png",)
    assert [name.partition(" (")[0] for name in named["damaged"]] == ["pets/cat/cut.bmp", "pets/cat/cut.png"]
    assert sum(len(entries) for entries in found.left_out.values()) == 4
    assert sum(sum(side.values()) for side in found.card.splits.values()) == 24 + len(ODD) - 4
