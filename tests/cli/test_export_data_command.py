"""`kdbench data export`: a folder for other tools, and one line for what cannot be written."""

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
    path.write_text("name: cells\nfolder: cells\nlicence: CC0-1.0\n")
    return path


@pytest.mark.parametrize(
    ("form", "how", "file"),
    [
        ("folders", "60 linked", "test/round/"),
        ("csv", "60 listed", "images.csv"),
        ("npz", "60 decoded", "images.npz"),
    ],
)
def test_a_data_set_is_written(kdbench, cells, tmp_path, form, how, file):
    code, out, _ = kdbench("data", "export", cells, "--out", tmp_path / "x", "--format", form, "--image-size", "16")
    assert code == 0
    assert f"x: 60 images (train 42, val 6, test 12); {how}" in out
    assert (tmp_path / "x" / file).exists()
    assert "CC0-1.0" in (tmp_path / "x" / "README.md").read_text()


def test_files_are_copied_where_it_is_asked_for(kdbench, cells, tmp_path):
    assert "60 copied" in kdbench("data", "export", cells, "--out", tmp_path / "x", "--copy")[1]
    assert all(path.stat().st_nlink == 1 for path in (tmp_path / "x").rglob("*.png"))


def test_the_split_is_set_as_in_a_suite(kdbench, cells, tmp_path):
    settings = ("--set", "test_fraction=0.4", "--set", "train_limit=10", "--set", "split_seed=3")
    _, out, _ = kdbench("data", "export", cells, "--out", tmp_path / "x", *settings)
    assert "(train 10, val 6, test 24)" in out


def test_each_data_set_of_a_file_gets_its_folder(kdbench, cells, tmp_path):
    cells.write_text("sources: [{name: one, folder: cells}, {name: two, folder: cells}]\n")
    assert kdbench("data", "export", cells, "--out", tmp_path / "x")[0] == 0
    assert sorted(path.name for path in (tmp_path / "x").iterdir()) == ["one", "two"]


def test_an_interrupt_is_told(kdbench, cells, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("kdbench.data.export.open_dataset", interrupted)
    code, _, err = kdbench("data", "export", cells, "--out", tmp_path / "x")
    assert code == 130
    assert "interrupted; nothing is at" in err


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("syntetic",), "did you mean synthetic?"),
        (("jtsc",), "jtsc: nothing at"),
        (("synthetic", "--set", "split_seed"), "--set split_seed: KEY=VALUE is wanted"),
        (("synthetic", "--set", "name=other"), "--set name=other: KEY=VALUE is wanted"),
        (("synthetic", "--set", "split_sed=1"), "--set split_sed=1: unknown key"),
        (("synthetic", "--set", "split_seed=-1"), "--set split_seed=-1: Input should be greater than or equal to 0"),
        (("synthetic", "--set", "fit=squeeze"), "--set fit=squeeze: Input should be 'crop', 'stretch' or 'pad'"),
        (("synthetic", "--set", "stain=blue"), "--set stain=blue: Input should be 'none', 'macenko' or 'reinhard'"),
        (("synthetic", "--set", "fit=["), "--set fit=[: the value cannot be read"),
        (("synthetic", "--format", "csv"), "synthetic has no file for each image"),
    ],
)
def test_mistakes_are_one_line(kdbench, tmp_path, arguments, part):
    code, out, err = kdbench("data", "export", *arguments, "--out", "x")
    assert (code, out) == (2, "")
    assert part in err
    assert err.strip().count("\n") == 0
    assert not (tmp_path / "x").exists()


def test_a_used_folder_is_refused(kdbench, cells, tmp_path):
    code, _, err = kdbench("data", "export", cells, "--out", tmp_path)
    assert code == 2
    assert err.strip().count("\n") == 0
    assert kdbench("data", "export", cells, "--out", tmp_path / "x", "--format", "tar")[0] == 2
