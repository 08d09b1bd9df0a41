"""How leukocyte sets lie on a disk: what is taken, what is passed over by name, and what is refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from kdbench.data.source import SOURCES, Listing
from kdbench.errors import ConfigError, DataError, MissingData

TABLES = {"jtsc": "Class Labels of Dataset 1.csv", "cellavision": "Class Labels of Dataset 2.csv"}
FILE_SOURCES = ("bccd", "bccd_crops", "cellavision", "jtsc", "pbc")


def scan(name: str, root: Path) -> Listing:
    return SOURCES.get(name).scan(root, {})


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())


def labels(found: Listing) -> dict[str, str]:
    return {item.id: item.label for item in found.items}


def reasons(found: Listing) -> dict[str, str]:
    return {entry.path: entry.reason for entry in found.left_out}


@pytest.fixture(params=list(TABLES))
def table(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    """A source with a label table, and five files of its, 001.bmp to 005.bmp."""
    touch(tmp_path, *(f"{request.param}/{number:03d}.bmp" for number in range(1, 6)))
    return request.param, tmp_path / request.param / TABLES[request.param]


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_label_table(table: tuple[str, Path], start: bytes, end: bytes) -> None:
    name, path = table
    path.write_bytes(start + end.join([b"image ID,class", b"1,1", b"2,2", b"3, 3 ", b"4,4", b"5,5", b""]))
    found = scan(name, path.parent.parent)
    assert labels(found) == {
        f"{name}/001.bmp": "neutrophil",
        f"{name}/002.bmp": "lymphocyte",
        f"{name}/003.bmp": "monocyte",
        f"{name}/004.bmp": "eosinophil",
        f"{name}/005.bmp": "basophil",
    }
    assert found.left_out == ()
    assert all(item.fold is None and item.path and item.path.is_file() for item in found.items)


def test_what_does_not_fit_the_table_is_left_out_by_name(table: tuple[str, Path]) -> None:
    name, path = table
    touch(path.parent, "more/001.bmp", ".hidden.bmp", "notes.txt")
    path.write_text("image ID,class\n1,1\n2,6\n3,\n4,2\n77,1\n")
    found = scan(name, path.parent.parent)
    assert labels(found) == {f"{name}/001.bmp": "neutrophil", f"{name}/004.bmp": "lymphocyte"}
    assert reasons(found) == {
        f"{name}/002.bmp": "label code '6' is none of 1, 2, 3, 4, 5",
        f"{name}/003.bmp": "label code '' is none of 1, 2, 3, 4, 5",
        f"{name}/005.bmp": "not in the label table",
        f"{name}/077.bmp": "in the label table, but not on the disk",
        f"{name}/more/001.bmp": "not in the label table",
    }


def test_blank_lines_are_nothing(table: tuple[str, Path]) -> None:
    name, path = table
    path.write_text("image ID,class\n1,1\n\n2,2\n\n")
    assert {f"{name}/001.bmp", f"{name}/002.bmp"} <= set(labels(scan(name, path.parent.parent)))


@pytest.mark.parametrize("line", ["x,1", "1", "1.5,1", ",1", "1;1"])
def test_a_malformed_line_is_refused_with_its_number(table: tuple[str, Path], line: str) -> None:
    name, path = table
    path.write_text(f"image ID,class\n1,1\n{line}\n2,2\n")
    with pytest.raises(DataError, match="line 3: expected 'image number,code'"):
        scan(name, path.parent.parent)


def test_an_image_that_stands_twice_is_refused(table: tuple[str, Path]) -> None:
    name, path = table
    path.write_text("image ID,class\n1,1\n2,2\n001,3\n")
    with pytest.raises(DataError, match=r"line 4: 001.bmp stands twice"):
        scan(name, path.parent.parent)


def test_a_table_that_is_missing_or_no_text_is_refused(table: tuple[str, Path]) -> None:
    name, path = table
    with pytest.raises(DataError, match="the label table cannot be read"):
        scan(name, path.parent.parent)
    path.write_bytes("image ID,class\n1,1\n".encode("utf-16"))
    with pytest.raises(DataError, match="not UTF-8 text"):
        scan(name, path.parent.parent)


# ---------------------------------------------------------------- a folder for each class


@pytest.mark.parametrize(
    ("name", "place"), [("pbc", "pbc/PBC_dataset_normal_DIB"), ("bccd_crops", "bccd_crops/BCCD_cropped")]
)
def test_class_folders(name: str, place: str, tmp_path: Path) -> None:
    touch(
        tmp_path,
        *(f"{place}/{label}/{number}.JPG" for label in ("basophil", "Monocyte", "NEUTROPHIL") for number in (2, 1)),
        f"{place}/basophil/deep/er/3.png",
        f"{place}/platelet/1.jpg",
        f"{place}/platelet/deep/2.txt",
        f"{place}/basophil/.DS_1.jpg",
        f"{place}/basophil/list.csv",
        f"{place}/stray.jpg",
    )
    found = scan(name, tmp_path)
    assert Counter(labels(found).values()) == {"basophil": 3, "monocyte": 2, "neutrophil": 2}
    assert labels(found)[f"{place}/basophil/deep/er/3.png"] == "basophil"
    assert {entry.path: (entry.reason, entry.count) for entry in found.left_out} == {
        f"{place}/basophil/.DS_1.jpg": ("not an image file by its name", 1),
        f"{place}/basophil/list.csv": ("not an image file by its name", 1),
        f"{place}/platelet/": ("class outside the task", 2),
        f"{place}/stray.jpg": ("not in a class folder", 1),
    }


def bccd(root: Path, *parts: str) -> None:
    for part in parts:
        for label in ("EOSINOPHIL", "LYMPHOCYTE", "MONOCYTE", "NEUTROPHIL"):
            touch(root, *(f"bccd/images/{part}/{label}/{number}.jpeg" for number in range(3)))


def test_bccd_keeps_its_own_sides(tmp_path: Path) -> None:
    bccd(tmp_path, "TRAIN", "TEST", "TEST_SIMPLE", "EXTRA")
    touch(tmp_path, "bccd/images/TRAIN/BASOPHIL/1.jpeg")
    found = scan("bccd", tmp_path)
    assert Counter((item.fold, item.label) for item in found.items) == {
        (fold, label): 3
        for fold in ("train", "test")
        for label in ("eosinophil", "lymphocyte", "monocyte", "neutrophil")
    }
    assert all(f"/{str(item.fold).upper()}/" in item.id for item in found.items)
    assert {entry.path: entry.count for entry in found.left_out} == {
        "bccd/images/TEST_SIMPLE/": 12,
        "bccd/images/EXTRA/": 12,
        "bccd/images/TRAIN/BASOPHIL/": 1,
    }
    assert "TEST holds already" in reasons(found)["bccd/images/TEST_SIMPLE/"]
    assert reasons(found)["bccd/images/EXTRA/"] == "none of the given parts TRAIN, TEST"


@pytest.mark.parametrize(("there", "missing"), [("TRAIN", "TEST"), ("TEST", "TRAIN")])
def test_half_of_bccd_is_missing_data(tmp_path: Path, there: str, missing: str) -> None:
    bccd(tmp_path, there)
    with pytest.raises(MissingData, match=f"nothing at .*{missing};"):
        scan("bccd", tmp_path)


@pytest.mark.parametrize("name", FILE_SOURCES)
def test_missing_data_says_what_to_get_and_where_it_goes(name: str, tmp_path: Path) -> None:
    with pytest.raises(MissingData) as caught:
        scan(name, tmp_path)
    source = SOURCES.get(name)
    for part in (name, source.url, source.layout, str(tmp_path), "KDBENCH_DATA"):
        assert part in str(caught.value)


@pytest.mark.parametrize("name", FILE_SOURCES)
def test_sources_say_what_they_are(name: str) -> None:
    source = SOURCES.get(name)
    assert source.name == name
    assert source.title
    assert source.licence
    assert source.citation
    assert source.layout.startswith(f"{name}/")
    with pytest.raises(ConfigError, match="has no option count; known: none"):
        source.check_options({"count": 3})
