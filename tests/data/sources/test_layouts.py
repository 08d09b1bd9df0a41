"""Label tables and class folders, in the states users have them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from kdbench.data.source import SOURCES
from kdbench.errors import DataError

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import fakes


def scan(name: str, root: Path):  # type: ignore[no-untyped-def]
    return SOURCES.get(name).scan(root, {})


def test_a_label_table_with_a_byte_order_mark_and_windows_lines(tmp_path: Path) -> None:
    fakes.jtsc(tmp_path)
    listing = scan("jtsc", tmp_path)
    assert len(listing.items) == 10
    assert listing.left_out == ()
    assert {item.id: item.label for item in listing.items}["jtsc/003.bmp"] == "eosinophil"


def test_cellavision_reads_its_own_table(tmp_path: Path) -> None:
    fakes.numbered(tmp_path, "cellavision", "Class Labels of Dataset 2.csv", 5)
    assert len(scan("cellavision", tmp_path).items) == 5


def test_every_disagreement_of_table_and_folder_is_named(tmp_path: Path) -> None:
    table = fakes.jtsc(tmp_path)
    text = table.read_text(encoding="utf-8-sig").replace("6,2\n", "6,9\n")
    table.write_text(f"{text}77,1\n", encoding="utf-8")
    fakes.write_image(tmp_path / "jtsc/099.bmp", 1)
    reasons = {entry.path: entry.reason for entry in scan("jtsc", tmp_path).left_out}
    assert reasons["jtsc/077.bmp"] == "in the label table, but not on the disk"
    assert reasons["jtsc/006.bmp"].startswith("label code '9' is none of")
    assert reasons["jtsc/099.bmp"] == "not in the label table"


@pytest.mark.parametrize("line", ["x,1", "3", "", ",1"])
def test_a_line_that_cannot_be_read_is_named(tmp_path: Path, line: str) -> None:
    table = fakes.jtsc(tmp_path, count=2)
    table.write_text(f"image ID,class label\n1,1\n{line}\n2,2\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"line 3: expected 'image number,code'"):
        scan("jtsc", tmp_path)


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    fakes.jtsc(tmp_path).unlink()
    with pytest.raises(DataError, match="the label table cannot be read"):
        scan("jtsc", tmp_path)


def test_foreign_folders_and_files_are_left_out_by_name(tmp_path: Path) -> None:
    fakes.pbc(tmp_path, per_class=2)
    base = tmp_path / "pbc/PBC_dataset_normal_DIB"
    for i in range(3):
        fakes.write_image(base / f"erythroblast/E_{i}.jpg", i)
    (base / "readme.txt").write_text("x")
    (base / "monocyte/.DS_1.jpg").write_bytes(b"x")
    listing = scan("pbc", tmp_path)
    assert len(listing.items) == 10
    left = {entry.path.rpartition("DIB/")[2]: (entry.count, entry.reason) for entry in listing.left_out}
    assert left == {
        "erythroblast/": (3, "class outside the task"),
        "readme.txt": (1, "not in a class folder"),
        "monocyte/.DS_1.jpg": (1, "not an image file by its name"),
    }


def test_bccd_parts_are_the_given_sides(tmp_path: Path) -> None:
    fakes.bccd(tmp_path, per_class=2)
    (tmp_path / "bccd/images/EXTRA").mkdir()
    listing = scan("bccd", tmp_path)
    assert {(item.fold, item.id.split("/")[2]) for item in listing.items} == {("train", "TRAIN"), ("test", "TEST")}
    assert {entry.path for entry in listing.left_out} == {"bccd/images/TEST_SIMPLE/", "bccd/images/EXTRA/"}


@pytest.mark.parametrize("source", list(SOURCES), ids=lambda source: source.name)
def test_every_source_says_what_it_is(source) -> None:  # type: ignore[no-untyped-def]
    assert SOURCES.get(source.name) is source
    for text in (source.title, source.url, source.licence, source.layout):
        assert text
    assert len(set(source.labels)) == len(source.labels) >= 2
