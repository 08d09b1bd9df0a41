"""`kdbench data sample`: a picture of a data set, and one line for what cannot be drawn."""

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.usefixtures("own_sources")


@pytest.fixture
def cells(tmp_path):
    for number in range(60):
        path = tmp_path / "cells" / ("round", "square")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(path)
    path = tmp_path / "cells.yaml"
    path.write_text("name: cells\nfolder: cells\n")
    return path


def test_a_sheet_is_drawn_and_drawn_again_alike(kdbench, cells, tmp_path):
    command = ("data", "sample", cells, "--size", "20", "--per-class", "5")
    code, out, _ = kdbench(*command, "--out", tmp_path / "new" / "sheet.png")
    assert code == 0
    with Image.open(tmp_path / "new" / "sheet.png") as picture:
        assert f"sheet.png: 10 of 60 images, {picture.width} x {picture.height} pixels" in out
        assert picture.mode == "RGB"
    kdbench(*command, "--out", tmp_path / "again.png")
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "new" / "sheet.png").read_bytes()
    kdbench(*command, "--out", tmp_path / "other.png", "--seed", "1")
    assert (tmp_path / "other.png").read_bytes() != (tmp_path / "again.png").read_bytes()


def test_as_seen_adds_a_line_to_each_class(kdbench, cells, tmp_path):
    for name, more in (("plain.png", ()), ("seen.png", ("--as-seen",))):
        assert kdbench("data", "sample", cells, "--size", "20", "--out", tmp_path / name, *more)[0] == 0
    with Image.open(tmp_path / "plain.png") as plain, Image.open(tmp_path / "seen.png") as seen:
        assert seen.height == plain.height + 2 * 24


@pytest.mark.parametrize(("name", "kind"), [("a.jpg", "JPEG"), ("a.JPEG", "JPEG"), ("a.webp", "WEBP")])
def test_other_formats(kdbench, cells, tmp_path, name, kind):
    assert kdbench("data", "sample", cells, "--size", "16", "--side", "test", "--out", tmp_path / name)[0] == 0
    with Image.open(tmp_path / name) as picture:
        assert picture.format == kind


def test_each_data_set_of_a_file_gets_its_picture(kdbench, cells, tmp_path):
    cells.write_text("sources: [{name: one, folder: cells}, {name: two, folder: cells}]\n")
    code, out, _ = kdbench("data", "sample", cells, "--size", "16", "--out", tmp_path / "sheet.png")
    assert code == 0
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["sheet-one.png", "sheet-two.png"]
    assert len(out.splitlines()) == 2


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("syntetic", "--out", "x.png"), "did you mean synthetic?"),
        (("gone.yaml", "--out", "x.png"), "the data file gone.yaml cannot be read"),
        (("synthetic", "--out", "x.gif"), "--out x.gif: a picture ends in .png, .jpg, .jpeg, .webp, not in '.gif'"),
        (("synthetic", "--out", "x"), "not in ''"),
        (("jtsc", "--out", "x.png"), "jtsc: nothing at"),
    ],
)
def test_mistakes_are_one_line(kdbench, tmp_path, arguments, part):
    code, out, err = kdbench("data", "sample", *arguments)
    assert (code, out) == (2, "")
    assert part in err
    assert err.strip().count("\n") == 0
    assert not list(tmp_path.glob("x*"))


@pytest.mark.parametrize("wrong", [("--side", "left"), ("--size", "8"), ("--per-class", "0"), ("--seed", "-1")])
def test_values_out_of_range_are_refused(kdbench, wrong):
    code, _, err = kdbench("data", "sample", "synthetic", "--out", "x.png", *wrong)
    assert code == 2
    assert wrong[0] in err
