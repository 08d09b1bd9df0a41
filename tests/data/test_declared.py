"""Data sets of the user's own: what a declaration takes, what it leaves out by name, and what it refuses."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from kdbench.data.dataset import Dataset, dataset_names, labels_of, open_dataset
from kdbench.data.declared import NAMED, SIDES, DeclaredSource, declare
from kdbench.data.source import SOURCES, Listing
from kdbench.errors import ConfigError, DataError, MissingData, SplitLeak
from kdbench.types import DatasetSpec, SourceDeclaration

pytestmark = pytest.mark.usefixtures("own_sources")


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode("utf-8", "surrogateescape"))


def save(path: Path, seed: int, mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (18, 18, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)


def source(base: Path, **facts: Any) -> DeclaredSource:
    return declare(SourceDeclaration(**{"name": "mine", **facts}), base)


def scan(base: Path, **facts: Any) -> Listing:
    return source(base, **facts).scan(Path("no data root"), {})


def table(base: Path, text: str | bytes, **facts: Any) -> Listing:
    """Scan a table; the images a/1.png, a/2.png, b/1.png and b/2.png are there."""
    touch(base, *(f"{label}/{number}.png" for label in "ab" for number in (1, 2)))
    (base / "t.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    return scan(base, csv="t.csv", **facts)


def labels(found: Listing) -> dict[str, str]:
    return {item.id: item.label for item in found.items}


def left_out(found: Listing) -> dict[str, str]:
    assert all(entry.count == 1 for entry in found.left_out)
    return {entry.path: entry.reason for entry in found.left_out}


def opened(name: str, tmp_path: Path, **asked: Any) -> Dataset:
    return open_dataset(DatasetSpec(name=name, image_size=18, **asked), tmp_path / "none", tmp_path / "cache")


# ---------------------------------------------------------------- the declaration itself


@pytest.mark.parametrize(
    ("facts", "part"),
    [
        ({}, "either folder or csv"),
        ({"folder": "a", "csv": "b"}, "either folder or csv"),
        ({"folder": ""}, "at least 1 character"),
        ({"folder": "a", "image": "file"}, "image goes with csv, not with folder"),
        ({"folder": "a", "split": "s", "root": "r"}, "split, root goes with csv"),
        ({"folder": "a", "name": "../a"}, "should match pattern"),
        ({"folder": "a", "colour": "red"}, "Extra inputs"),
        ({"csv": "a", "delimiter": "\\t"}, "one character"),
        ({"csv": "a", "delimiter": '"'}, "one character"),
        ({"csv": "a", "delimiter": ""}, "one character"),
        ({"folder": "a", "labels": "ab"}, "a list of labels is wanted, or a mapping"),
        ({"folder": "a", "labels": ["a"]}, "at least two labels, not 1"),
        ({"folder": "a", "labels": []}, "at least two labels, not 0"),
        ({"folder": "a", "labels": {"a": "x", "b": "x"}}, "at least two labels, not 1"),
        ({"folder": "a", "labels": ["a", "b", "a"]}, "'a' stands twice"),
        ({"csv": "a", "labels": {1: "a", "1": "b"}}, "'1' stands twice"),
        ({"folder": "a", "labels": ["yes", False]}, "put False in quotes"),
        ({"folder": "a", "labels": {"a": "x", "b": None}}, "put None in quotes"),
        ({"folder": "a", "labels": {"a": "x", "b": " "}}, "put ' ' in quotes"),
    ],
)
def test_what_a_declaration_refuses(facts: dict[str, Any], part: str) -> None:
    with pytest.raises(ValidationError, match=part):
        SourceDeclaration(**{"name": "mine", **facts})


def test_codes_may_be_numbers() -> None:
    assert SourceDeclaration(name="x", csv="t", labels={0: "benign", 1: 7}).labels == {"0": "benign", "1": "7"}
    assert SourceDeclaration(name="x", csv="t", labels=[2, 1]).labels == ("2", "1")


# ---------------------------------------------------------------- registering


def test_a_declared_source_is_known_by_its_name(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.png", "b/1.png")
    declared = source(tmp_path, folder=".", title="My images", licence="CC0-1.0", url="https://example.org")
    assert SOURCES.get("mine") is declared
    assert "mine" in dataset_names()
    assert labels_of("mine") == ("a", "b")
    assert (declared.title, declared.licence, declared.url) == ("My images", "CC0-1.0", "https://example.org")
    assert declared.declaration.folder == str(tmp_path.resolve())
    with pytest.raises(ConfigError, match="dataset 'mine' has no option count; known: none"):
        declared.check_options({"count": 3})


def test_declaring_the_same_again_changes_nothing(tmp_path: Path) -> None:
    touch(tmp_path, "data/a/1.png")
    first = source(tmp_path, folder="data", labels={"a": "x", "b": "y"})
    assert source(tmp_path / "data", folder="../data", labels={"a": "x", "b": "y"}) is first
    assert source(tmp_path / "data", folder=".", labels={"a": "x", "b": "y"}) is first


@pytest.mark.parametrize(
    "facts",
    [
        {"folder": "other", "labels": {"a": "x", "b": "y"}},
        {"folder": "data", "labels": {"b": "y", "a": "x"}},  # the classes would have other numbers
        {"folder": "data"},
        {"csv": "data"},
    ],
)
def test_another_one_of_that_name_is_refused(tmp_path: Path, facts: dict[str, Any]) -> None:
    first = source(tmp_path, folder="data", labels={"a": "x", "b": "y"})
    with pytest.raises(ConfigError, match="'mine' is declared already, and otherwise than here; choose another name"):
        source(tmp_path, **facts)
    assert SOURCES.get("mine") is first


@pytest.mark.parametrize(("name", "what"), [("pbc", "a data set"), ("mixed", "a union of sources")])
def test_names_of_kdbench_are_taken(tmp_path: Path, name: str, what: str) -> None:
    with pytest.raises(ConfigError, match=f"'{name}' is {what} that comes with kdbench; choose another name"):
        source(tmp_path, name=name, folder=".")


def test_a_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    touch(tmp_path, "data/a/1.png", "data/b/1.png")
    assert len(scan(tmp_path / "elsewhere", folder="~/data").items) == 2
    with pytest.raises(ConfigError, match="folder: '~no-such-user/data' is no path"):
        source(tmp_path, name="other", folder="~no-such-user/data")
    with pytest.raises(ConfigError, match=r"csv: .* is no path"):
        source(tmp_path, name="other", csv="a\0b")


# ---------------------------------------------------------------- a folder for each class


def test_class_folders(tmp_path: Path) -> None:
    touch(
        tmp_path,
        *(f"data/{name}" for name in ("cat/1.png", "cat/deep/er/2.JPG", "Cat/3.webp", "dog/1.png")),
        *(f"data/{name}" for name in ("dog/notes.txt", "dog/.1.png", "dog/.checkpoints/1.png", "stray.png")),
        *(f"data/{name}" for name in (".git/x.png", "docs/readme.md", "docs/.x/1.png")),
    )
    (tmp_path / "data" / "empty").mkdir()
    found = scan(tmp_path, folder="data")
    assert labels(found) == {
        "mine/Cat/3.webp": "Cat",  # names are taken as they are written: letters a and A are two classes
        "mine/cat/1.png": "cat",
        "mine/cat/deep/er/2.JPG": "cat",
        "mine/dog/1.png": "dog",
    }
    assert all(item.fold is None and item.path and item.path.is_file() for item in found.items)
    assert SOURCES.get("mine").labels == ("Cat", "cat", "dog")
    name, hidden = "not an image file by its name", "no class: hidden, or without images"
    assert {entry.path: (entry.reason, entry.count) for entry in found.left_out} == {
        "mine/dog/notes.txt": (name, 1),
        "mine/dog/.1.png": (name, 1),
        "mine/dog/.checkpoints/1.png": (name, 1),
        "mine/stray.png": ("not in a class folder", 1),
        "mine/.git/": (hidden, 1),
        "mine/docs/": (hidden, 2),
        "mine/empty/": (hidden, 0),
    }


def test_labels_give_the_order_and_leave_the_rest_out_by_name(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.png", "b/1.png", "c/1.png", "c/2.png")
    found = scan(tmp_path, folder=".", labels=["b", "a"])
    assert SOURCES.get("mine").labels == ("b", "a")
    assert labels(found) == {"mine/a/1.png": "a", "mine/b/1.png": "b"}
    assert [(entry.path, entry.reason, entry.count) for entry in found.left_out] == [
        ("mine/c/", "not among the labels", 2)
    ]


def test_a_mapping_renames_and_merges_classes(tmp_path: Path) -> None:
    touch(tmp_path, "mel/1.png", "bcc/1.png", "nev/1.png")
    found = scan(tmp_path, folder=".", labels={"nev": "benign", "mel": "malignant", "bcc": "malignant"})
    assert SOURCES.get("mine").labels == ("benign", "malignant")
    assert labels(found) == {
        "mine/bcc/1.png": "malignant",
        "mine/mel/1.png": "malignant",
        "mine/nev/1.png": "benign",
    }


@pytest.mark.parametrize("given", [["cat", "dgo"], {"cat": "x", "dgo": "y"}])
def test_a_label_without_its_folder_is_refused(tmp_path: Path, given: Any) -> None:
    touch(tmp_path, "cat/1.png", "dog/1.png")
    with pytest.raises(DataError, match=r"mine: labels names 'dgo', but there is no folder .*; there are 'cat', 'dog'"):
        scan(tmp_path, folder=".", labels=given)
    assert len(SOURCES.get("mine").labels) == 2  # declared, so they do not wait for the disk


@pytest.mark.parametrize(
    ("folders", "sides"),
    [
        (("train", "val", "test"), ("train", "val", "test")),
        (("TRAIN", "Valid", "TEST"), ("train", "val", "test")),
        (("training", "validation"), ("train", "val")),
        (("train", "test"), ("train", "test")),
        (("train",), ("train",)),
    ],
)
def test_given_sides_are_kept(tmp_path: Path, folders: tuple[str, ...], sides: tuple[str, ...]) -> None:
    touch(tmp_path, *(f"{folder}/{label}/1.png" for folder in folders for label in "ab"))
    found = scan(tmp_path, folder=".")
    assert SOURCES.get("mine").labels == ("a", "b")
    assert {(item.id, item.fold) for item in found.items} == {
        (f"mine/{folder}/{label}/1.png", side) for folder, side in zip(folders, sides, strict=True) for label in "ab"
    }
    assert found.left_out == ()


def test_what_lies_beside_the_sides_is_left_out_by_name(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{side}/{label}/1.png" for side in ("train", "test") for label in "ab"))
    touch(tmp_path, "extra/a/1.png", "extra/b/1.png", "labels.csv", "test/unlabelled.png", "test/c/1.png")
    found = scan(tmp_path, folder=".", labels=["a", "b"])
    assert len(found.items) == 4
    assert {entry.path: (entry.reason, entry.count) for entry in found.left_out} == {
        "mine/extra/": ("in none of the given sides test, train", 2),
        "mine/labels.csv": ("in none of the given sides test, train", 1),
        "mine/test/unlabelled.png": ("not in a class folder", 1),
        "mine/test/c/": ("not among the labels", 1),
    }


def test_a_train_is_a_vehicle_too(tmp_path: Path) -> None:
    touch(tmp_path, "train/1.png", "bus/1.png")
    assert labels(scan(tmp_path, folder=".")) == {"mine/bus/1.png": "bus", "mine/train/1.png": "train"}
    touch(tmp_path, "test/1.png")
    assert labels(scan(tmp_path, name="more", folder=".", labels=["train", "bus", "test"])) == {
        f"more/{label}/1.png": label for label in ("bus", "test", "train")
    }


def test_one_side_under_two_names_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{side}/{label}/1.png" for side in ("train", "val", "valid") for label in "ab"))
    with pytest.raises(DataError, match="holds 'train', 'val', 'valid', which mean one side twice"):
        scan(tmp_path, folder=".")


def test_sides_without_training_images_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{side}/{label}/1.png" for side in ("val", "test") for label in "ab"))
    with pytest.raises(DataError, match="mine: it gives test and val, but no images to train on"):
        scan(tmp_path, folder=".")


@pytest.mark.parametrize(
    ("files", "parts"),
    [
        ((), ("it is empty",)),
        (("1.png", "2.png"), ("2 left out, mine/1.png first: not in a class folder",)),
        (("a/1.txt", "b/1.txt"), ("2 left out, mine/a/ first: no class: hidden, or without images", ".png")),
        (("train/1.png", "test/1.png"), ("2 left out, mine/test/1.png first: not in a class folder",)),
    ],
)
def test_a_folder_without_images_says_what_is_there(tmp_path: Path, files: tuple[str, ...], parts: Any) -> None:
    (tmp_path / "data").mkdir()
    touch(tmp_path / "data", *files)
    with pytest.raises(MissingData) as caught:
        scan(tmp_path, folder="data")
    for part in ("mine: no images found", "data/<class>/*.png", *parts):
        assert part in str(caught.value)


def test_one_class_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.png", "a/2.png")
    with pytest.raises(DataError, match="mine: every image is of the class 'a'; a classifier needs two"):
        scan(tmp_path, folder=".")


@pytest.mark.parametrize("key", ["folder", "csv"])
def test_a_path_where_nothing_is(tmp_path: Path, key: str) -> None:
    declared = source(tmp_path, **{key: "nowhere"}, url="https://example.org/set")
    for ask in (lambda: declared.scan(tmp_path, {}), lambda: declared.labels):
        with pytest.raises(MissingData) as caught:
            ask()
        for part in ("mine: nothing at", str(tmp_path / "nowhere"), "https://example.org/set", "its declaration"):
            assert part in str(caught.value)


def test_a_folder_is_no_table_and_a_table_no_folder(tmp_path: Path) -> None:
    touch(tmp_path, "t.csv")
    with pytest.raises(DataError, match=r"t.csv is a file; for a table of files say csv:"):
        scan(tmp_path, folder="t.csv")
    with pytest.raises(DataError, match="is a folder; say folder:"):
        scan(tmp_path, name="other", csv=".")


def test_links_to_folders_inside_a_class_are_named(tmp_path: Path) -> None:
    touch(tmp_path, "data/a/1.png", "data/b/1.png", "more/2.png")
    (tmp_path / "data/a/loop").symlink_to(tmp_path / "data")
    (tmp_path / "data/c").symlink_to(tmp_path / "more")  # a class itself may be a link
    found = scan(tmp_path, folder="data")
    assert set(labels(found)) == {"mine/a/1.png", "mine/b/1.png", "mine/c/2.png"}
    assert left_out(found) == {"mine/a/loop/": "a link to a folder, not followed"}


def test_names_that_are_no_text_are_left_out(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.png", "b/1.png", os.fsdecode(b"a/\xff.png"), os.fsdecode(b"\xfe/1.png"))
    found = scan(tmp_path, folder=".")
    assert set(labels(found)) == {"mine/a/1.png", "mine/b/1.png"}
    assert left_out(found)["mine/a/\\udcff.png"] == "its name is not UTF-8 text"
    assert "mine/\\udcfe/" in left_out(found)


def test_a_long_list_is_counted_by_folder(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.png", "b/1.png", *(f"{label}/{n:03d}.txt" for label in "ab" for n in range(NAMED)), "b/x.gif")
    found = scan(tmp_path, folder=".")
    assert [entry.path for entry in found.left_out[:NAMED]] == [f"mine/a/{n:03d}.txt" for n in range(NAMED)]
    assert [(entry.path, entry.count) for entry in found.left_out[NAMED:]] == [("mine/b/", NAMED + 1)]


# ---------------------------------------------------------------- a table of files


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_table(tmp_path: Path, start: bytes, end: bytes) -> None:
    rows = [b"image,label", b"a/1.png,x", b"a/2.png, y ", b"", b"./b//1.png,x", b'"b\\2.png",y', b",", b""]
    found = table(tmp_path, start + end.join(rows))
    assert labels(found) == {"mine/a/1.png": "x", "mine/a/2.png": "y", "mine/b/1.png": "x", "mine/b/2.png": "y"}
    assert found.left_out == ()
    assert all(item.path and item.path.is_file() and item.group is item.fold is None for item in found.items)
    assert SOURCES.get("mine").labels == ("x", "y")


def test_every_option_of_a_table(tmp_path: Path) -> None:
    (tmp_path / "tables").mkdir()
    touch(tmp_path, "images/1.png", "images/2.png", "images/3.png", "images/4.png")
    rows = ["who;file;what;when", "p1;1.png;0;Train", "p1;2.png;1;training", "p2;3.png;0;VALID", ";4.png;1;test"]
    (tmp_path / "tables/t.csv").write_text("\n".join(rows))
    found = scan(
        tmp_path,
        csv="tables/t.csv",
        root="images",
        image="file",
        label="what",
        split="when",
        group="who",
        delimiter=";",
        labels={1: "sick", 0: "well"},
    )
    assert SOURCES.get("mine").labels == ("sick", "well")
    assert [(item.id, item.label, item.group, item.fold) for item in found.items] == [
        ("mine/1.png", "well", "mine/p1", "train"),
        ("mine/2.png", "sick", "mine/p1", "train"),
        ("mine/3.png", "well", "mine/p2", "val"),
        ("mine/4.png", "sick", None, "test"),
    ]


def test_a_tsv_file_is_split_at_tabs(tmp_path: Path) -> None:
    touch(tmp_path, "1.png", "2.png")
    (tmp_path / "t.tsv").write_text("image\tlabel\n1.png\ta, b\n2.png\tc\n")
    assert labels(scan(tmp_path, csv="t.tsv")) == {"mine/1.png": "a, b", "mine/2.png": "c"}


def test_what_does_not_fit_the_table_is_left_out_by_name(tmp_path: Path) -> None:
    touch(tmp_path, "c/1.png", "c/2.png", "notes.txt")
    rows = ["image,label,split", "a/1.png,x,train", "a/2.png,z,train", "b/1.png,,train", "b/2.png,y,", ",x,train"]
    rows += ["gone.png,x,train", f"{'long' * 100}.png,x,train", "c/1.png,y,test", "c/1.png,y,test", "short", "a,b,c,d"]
    found = table(tmp_path, "\n".join(rows), split="split", labels=["x", "y"])
    assert labels(found) == {"mine/a/1.png": "x", "mine/c/1.png": "y"}
    assert left_out(found) == {
        "mine/a/2.png": "its label 'z' is none of 'x', 'y'",
        "mine/b/1.png": "no label in 'label'",
        "mine/b/2.png": "no side in 'split'",
        "mine/t.csv, line 6": "no file in 'image'",
        "mine/gone.png": "in the table, but not on the disk",
        f"mine/{'long' * 100}.png": "in the table, but not on the disk",
        "mine/c/1.png": "stands again in the table with the same values; taken once",
        "mine/t.csv, line 11": "it has not 3 fields as the header has",
        "mine/t.csv, line 12": "it has not 3 fields as the header has",
        "mine/c/2.png": "not in the table",
    }


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "the table is empty; expected a header with the columns 'image', 'label'"),
        ("\n \n", "the table is empty"),
        ("file,class\na/1.png,x\n", "no column 'image' (image:), 'label' (label:); its columns are 'file', 'class'"),
        ("a/1.png,x\nb/1.png,y\n", "its columns are 'a/1.png', 'x'; the first line has to be a header"),
        ("image;label\na/1.png;x\n", "its columns are 'image;label'; is the delimiter ';'?"),
        ("image\tlabel\na/1.png\tx\n", "is the delimiter '\\t'?"),
        ("image,label,label\na/1.png,x,y\n", "the column 'label' stands twice in the header"),
        ("image,label\na/1.png,x\nb/1.png,y\na/1.png,y\n", "a/1.png stands in the lines 2 and 4 with different values"),
        ('image,label\na/1.png,x\n"b/1.png,y\n', "line 3: not a CSV row (unexpected end of data)"),
        ("image,label\na/1.png,x\na/2.png,x\n", "every image is of the class 'x'; a classifier needs two"),
        ("image,label\n", "4 left out, mine/a/1.png first: not in the table"),
        ("image,label\nx.png,x\ny.png,y\n", "2 left out, mine/x.png first: in the table, but not on the disk"),
        ("image,label\nä.png,x\n".encode("latin-1"), "not UTF-8 text (invalid continuation byte at byte 12)"),
        ("image,label\na/1.png,x\n".encode("utf-16"), "the table is not UTF-8 text"),
        ("image,label\na/1.png,x\n".encode("utf-16-le"), "the table holds null bytes"),
    ],
)
def test_a_table_that_cannot_be_used(tmp_path: Path, text: str | bytes, part: str) -> None:
    with pytest.raises(DataError) as caught:
        table(tmp_path, text)
    assert part in str(caught.value)
    assert "t.csv" in str(caught.value) or "mine: " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_words_for_a_side_are_refused_with_their_lines(tmp_path: Path) -> None:
    rows = ["image,label,fold", "a/1.png,x,train", "a/2.png,y,holdout", "b/1.png,x,3", "b/2.png,y,holdout"]
    with pytest.raises(DataError) as caught:
        table(tmp_path, "\n".join(rows), split="fold")
    for part in ("column 'fold' holds 'holdout' (2, first in line 3), '3' (1, first in line 4)", *SIDES):
        assert part in str(caught.value)


@pytest.mark.parametrize("given", [["x", "z"], {"x": "p", "z": "q"}])
def test_a_label_without_its_code_is_refused(tmp_path: Path, given: Any) -> None:
    with pytest.raises(DataError, match=r"labels names 'z', but there is no row .*; there are 'x', 'y'"):
        table(tmp_path, "image,label\na/1.png,x\nb/1.png,y\n", labels=given)


def test_a_root_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingData, match=r"mine: nothing at .*nowhere"):
        table(tmp_path, "image,label\na/1.png,x\n", root="nowhere")


@pytest.mark.parametrize(
    "written", ["../secret/1.png", "a/../../secret/1.png", "{}/secret/1.png", "link.png", "away/1.png", ".."]
)
def test_paths_that_lead_out_of_the_root_are_refused(tmp_path: Path, written: str) -> None:
    base = tmp_path / "data"
    touch(tmp_path, "secret/1.png", "data/a/1.png")
    (base / "link.png").symlink_to(tmp_path / "secret/1.png")
    (base / "away").symlink_to(tmp_path / "secret")
    written = written.format(tmp_path)
    with pytest.raises(DataError) as caught:
        table(base, f"image,label\na/1.png,x\n{written},y\n{written},y\n")
    assert f"t.csv, line 3: '{written}' leads out of {base.resolve()} (2 such lines); set root:" in str(caught.value)


def test_paths_that_stay_inside_are_taken_however_they_are_written(tmp_path: Path) -> None:
    (tmp_path / "door").symlink_to(tmp_path / "data")
    touch(tmp_path, "data/a/1.png")
    (tmp_path / "data/alias").symlink_to(tmp_path / "data/b")
    (tmp_path / "data/same.png").symlink_to("a/2.png")
    rows = [f"{tmp_path}/data/a/1.png,x", f"{tmp_path}/door/a/2.png,y", "a/../alias/1.png,x", "same.png,y"]
    found = table(tmp_path / "data", "image,label\n" + "\n".join(rows))
    assert labels(found) == {"mine/a/1.png": "x", "mine/a/2.png": "y", "mine/b/1.png": "x", "mine/same.png": "y"}
    assert left_out(found) == {"mine/b/2.png": "not in the table"}


# ---------------------------------------------------------------- opened


def test_a_declared_folder_opens_as_any_data_set(tmp_path: Path) -> None:
    for number in range(40):
        save(tmp_path / "data" / "ab"[number % 2] / f"{number}.png", number, "L" if number == 3 else "RGB")
    (tmp_path / "data/a/bad.png").write_bytes(b"no image")
    source(tmp_path, folder="data")
    data = opened("mine", tmp_path)
    assert data.classes == ("a", "b")
    assert Counter(data.labels.tolist()) == {0: 20, 1: 20}
    assert {side: len(indices) for side, indices in data.splits.items()} == {"train": 28, "val": 4, "test": 8}
    assert {entry.path: entry.reason for entry in data.card.left_out} == {"mine/a/bad.png": "not an image"}
    for image, name in zip(data.images(np.arange(40)), data.ids, strict=True):
        path = tmp_path / "data" / name.removeprefix("mine/")
        np.testing.assert_array_equal(image, np.asarray(Image.open(path).convert("RGB")))


def test_no_path_of_this_machine_goes_into_what_is_shared(tmp_path: Path) -> None:
    rows = ["image,label,who"]
    for number in range(40):
        save(tmp_path / "data" / f"{number}.png", number)
        rows.append(f"{tmp_path}/data/{number}.png,{'ab'[number % 2]},p{number // 2}")
    (tmp_path / "data/t.csv").write_text("\n".join([*rows, "gone.png,a,p0"]))
    source(tmp_path, csv="data/t.csv", group="who")
    data = opened("mine", tmp_path)
    shared = [data.card.model_dump_json(), data.spec.model_dump_json(), str(data.items("test")), *data.ids]
    assert not any(str(tmp_path) in text for text in shared)
    # the images of one patient stay together
    side = {data.ids[index]: side for side, indices in data.splits.items() for index in indices}
    assert all(side[f"mine/{n}.png"] == side[f"mine/{n + 1}.png"] for n in range(0, 40, 2))


def test_the_order_of_the_classes_is_part_of_the_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a student would learn from a teacher that calls the classes by other numbers."""
    for number in range(40):
        save(tmp_path / "data" / "ab"[number % 2] / f"{number}.png", number)
    before, contents = dict(SOURCES._entries), []
    for given in (None, ["a", "b"], ["b", "a"]):
        monkeypatch.setattr(SOURCES, "_entries", dict(before))  # as in another process
        source(tmp_path, folder="data", labels=given)
        data = opened("mine", tmp_path)
        assert [data.classes[label] for label in data.labels] == [name.split("/")[1] for name in data.ids]
        contents.append(data.spec.content)
    assert contents[0] == contents[1] != contents[2]


@pytest.mark.parametrize("given", [("train", "val", "test"), ("train", "val"), ("train", "test")])
def test_given_sides_are_those_of_the_splits(tmp_path: Path, given: tuple[str, ...]) -> None:
    for number, side in enumerate(given):
        for image in range(30):
            save(tmp_path / "data" / side / "ab"[image % 2] / f"{image}.png", 100 * number + image)
    source(tmp_path, folder="data")
    data = opened("mine", tmp_path)
    for side, indices in data.splits.items():
        assert {data.ids[index].split("/")[1] for index in indices} == {side if side in given else "train"}
    assert sum(len(indices) for indices in data.splits.values()) == 30 * len(given)


def test_one_image_on_two_given_sides_is_a_leak(tmp_path: Path) -> None:
    for side in ("train", "test"):
        for image in range(20):
            seed = image + 50 if side == "test" and image > 2 else image
            save(tmp_path / "data" / side / "ab"[image % 2] / f"{image}.png", seed)
    source(tmp_path, folder="data")
    with pytest.raises(SplitLeak, match=r"mine/test/a/0.png and mine/train/a/0.png belong .*\(2 more groups"):
        opened("mine", tmp_path)


def test_declared_sources_join_a_union_by_name(tmp_path: Path) -> None:
    kinds = ("lymphocyte", "monocyte")
    for place in ("here", "there"):
        for number in range(40):
            save(tmp_path / place / kinds[number % 2] / f"{number}.png", number + 100 * (place == "there"))
        source(tmp_path, name=place, folder=place)
    data = opened("mixed", tmp_path, sources=("here", "there"))
    assert data.card.sources == {"here": 40, "there": 40}
    assert len(set(data.ids)) == 80  # the same file names, told apart by their source
    source(tmp_path, name="letters", folder="here", labels={"lymphocyte": "l", "monocyte": "m"})
    with pytest.raises(ConfigError, match="source 'letters' has labels outside 'mixed'"):
        opened("mixed", tmp_path, sources=("letters",))
