"""What is exported is the data set: the same bytes, labels and sides, under names that any tool takes."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from kdbench.data.dataset import Dataset, open_dataset
from kdbench.data.declared import declare
from kdbench.data.export import COLUMNS, Exported, _distinct, export, safe_name
from kdbench.errors import DataError
from kdbench.types import DatasetSpec, SourceDeclaration, SplitName

pytestmark = pytest.mark.usefixtures("own_sources")

SIDES: tuple[SplitName, ...] = ("train", "val", "test")


def save(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (18, 20, 3), dtype=np.uint8)).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two leukocyte sets, with files of one name in both, one image twice and one that is none."""
    root, seed = tmp_path / "data", 0
    lines = ["image ID,class"]
    for number in range(1, 41):
        save(root / "jtsc" / f"{number:03d}.bmp", seed := seed + 1)
        lines.append(f"{number},{number % 4 + 1}")
    (root / "jtsc" / "Class Labels of Dataset 1.csv").write_text("\n".join(lines))
    for label in ("neutrophil", "monocyte"):
        for number in range(1, 21):
            save(root / "pbc/PBC_dataset_normal_DIB" / label / f"{number:03d}.bmp", seed := seed + 1)
    folder = root / "pbc/PBC_dataset_normal_DIB/neutrophil"
    (folder / "again.bmp").write_bytes((folder / "001.bmp").read_bytes())
    (folder / "broken.bmp").write_bytes(b"no image")
    return root


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def spec(**settings: Any) -> DatasetSpec:
    return DatasetSpec(**{"name": "mixed", "image_size": 16, "sources": ("pbc", "jtsc"), **settings})


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "images.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def facts(data: Dataset) -> list[tuple[str, str, bytes]]:
    """(side, label, pixels) of every image, in no order that names could give."""
    return sorted(
        (side, data.classes[data.labels[index]], data.images(np.asarray([index])).tobytes())
        for side, indices in data.splits.items()
        for index in indices
    )


def as_own(declaration: dict[str, Any], base: Path, cache: Path) -> Dataset:
    source = declare(SourceDeclaration.model_validate(declaration), base)
    return open_dataset(DatasetSpec(name=source.name, image_size=16), base, cache)


# ---------------------------------------------------------------- there and back


@pytest.mark.parametrize("copy", [False, True])
def test_exported_folders_are_the_same_data_set(root: Path, cache: Path, tmp_path: Path, copy: bool) -> None:
    before = open_dataset(spec(), root, cache)
    done = export(spec(), root, cache, tmp_path / "out", copy=copy)
    assert done.images == {side: len(indices) for side, indices in before.splits.items()}
    assert done.how == {"copied" if copy else "linked": 81}
    after = as_own({"name": "back", "folder": "out"}, tmp_path, cache)
    assert facts(after) == facts(before)
    assert after.card.duplicates == before.card.duplicates == 2
    table = as_own(yaml.safe_load((tmp_path / "out/dataset.yaml").read_text()), tmp_path / "out", cache)
    assert facts(table) == facts(before)
    assert table.classes == before.classes[1:]  # of basophils there is none
    assert table.card.left_out == ()


def test_an_exported_table_is_the_same_data_set(root: Path, cache: Path, tmp_path: Path) -> None:
    before = open_dataset(spec(), root, cache)
    assert export(spec(), root, cache, tmp_path / "out", "csv").how == {"listed": 81}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "README.md", "dataset.yaml", "images.csv", "manifest.json"
    ]  # fmt: skip
    after = as_own(yaml.safe_load((tmp_path / "out/dataset.yaml").read_text()), tmp_path / "out", cache)
    assert facts(after) == facts(before)


def test_exported_arrays_are_the_same_data_set(root: Path, cache: Path, tmp_path: Path) -> None:
    before = open_dataset(spec(fit="stretch"), root, cache)
    assert export(spec(fit="stretch"), root, cache, tmp_path / "out", "npz").how == {"decoded": 81}
    with np.load(tmp_path / "out" / "images.npz", allow_pickle=False) as arrays:
        assert set(arrays) == {"classes", *(f"{side}_{what}" for side in SIDES for what in ("images", "labels", "ids"))}
        assert tuple(arrays["classes"]) == before.classes
        for side in SIDES:
            indices = before.splits[side]
            np.testing.assert_array_equal(arrays[f"{side}_images"], before.images(indices))
            np.testing.assert_array_equal(arrays[f"{side}_labels"], before.labels[indices])
            assert arrays[f"{side}_ids"].tolist() == [before.ids[index] for index in indices]


def test_what_is_drawn_is_exported_as_pictures(cache: Path, tmp_path: Path) -> None:
    drawn = DatasetSpec(name="synthetic", image_size=96, options={"count": 60})
    before = open_dataset(drawn, tmp_path, cache)
    assert export(drawn, tmp_path, cache, tmp_path / "out").how == {"drawn": 60}
    source = declare(SourceDeclaration(name="back", folder="out"), tmp_path)
    after = open_dataset(DatasetSpec(name=source.name, image_size=96), tmp_path, cache)
    assert facts(after) == facts(before)
    with pytest.raises(DataError, match="synthetic has no file for each image that a table could name; export it as"):
        export(drawn, tmp_path, cache, tmp_path / "table", "csv")
    assert not (tmp_path / "table").exists()


# ---------------------------------------------------------------- the files


def test_files_are_the_originals(root: Path, cache: Path, tmp_path: Path) -> None:
    export(spec(), root, cache, tmp_path / "out")
    listed = rows(tmp_path / "out")
    assert tuple(listed[0]) == COLUMNS
    on_disk = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.bmp")}
    assert {row["path"] for row in listed} == on_disk
    for row in listed:
        path = tmp_path / "out" / row["path"]
        assert row["path"].startswith(f"{row['split']}/{row['label']}/{row['source']}-")
        assert hashlib.sha256(path.read_bytes()).hexdigest() == row["sha256"]
        assert path.stat().st_nlink == 2
    sides: dict[str, set[str]] = {}
    for row in listed:
        sides.setdefault(row["group"], set()).add(row["split"])
    assert len(sides) == 80  # one image stands there twice
    assert all(len(side) == 1 for side in sides.values())


def test_what_cannot_be_linked_is_copied(
    root: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: Any, **__: Any) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", no_links)
    assert export(spec(), root, cache, tmp_path / "out").how == {"copied": 81}


def test_a_link_is_exported_as_the_file_that_it_leads_to(root: Path, cache: Path, tmp_path: Path) -> None:
    folder = root / "pbc/PBC_dataset_normal_DIB/neutrophil"
    (folder / "001.bmp").rename(tmp_path / "elsewhere.bmp")
    (folder / "001.bmp").symlink_to(tmp_path / "elsewhere.bmp")
    export(spec(), root, cache, tmp_path / "out")
    assert not any(path.is_symlink() for path in (tmp_path / "out").rglob("*"))


def test_limited_training_images_are_all_that_is_exported(root: Path, cache: Path, tmp_path: Path) -> None:
    done = export(spec(train_limit=20), root, cache, tmp_path / "out")
    assert done.images["train"] == 20
    assert sum(row["split"] == "train" for row in rows(tmp_path / "out")) == 20


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("plain-1.png", "plain-1.png"),
        ("../../etc/passwd", "etc_passwd"),
        ("..", "unnamed"),
        ("", "unnamed"),
        (".hidden.png", "hidden.png"),
        ("a b\n\t c?.jpg", "a_b_c_.jpg"),
        ("C:\\x\\y.bmp", "C_x_y.bmp"),
        ("Zelle-äö 细胞.png", "Zelle-äö_细胞.png"),
        ("x" * 400 + ".png", "x" * 196 + ".png"),
        ("细" * 400 + ".png", "细" * 65 + ".png"),
    ],
)
def test_names_are_safe(name: str, safe: str) -> None:
    assert safe_name(name) == safe
    assert safe_name(safe) == safe
    assert len(safe.encode()) <= 255


def test_names_are_distinct_where_case_does_not_count() -> None:
    names = _distinct(["a/x.png", "a/X.png", "a/x-2.png", "b/x.png", "a/x.png", "a.b/y", "a.b/Y"])
    assert names == ["a/x.png", "a/X-2.png", "a/x-2-2.png", "b/x.png", "a/x-3.png", "a.b/y", "a.b/Y-2"]


def test_labels_that_are_no_names_of_folders(cache: Path, tmp_path: Path) -> None:
    lines = ["image,label"]
    for number in range(40):
        save(tmp_path / "pictures" / str(number % 7) / f"{number % 5}.png", number)
    for number, path in enumerate(sorted((tmp_path / "pictures").rglob("*.png"))):
        lines.append(f"{path.relative_to(tmp_path)},{('../up', 'A/B', 'a b')[number % 3]}")
    (tmp_path / "table.csv").write_text("\n".join(lines))
    declare(SourceDeclaration(name="odd", csv="table.csv"), tmp_path)
    odd = DatasetSpec(name="odd", image_size=16)
    export(odd, tmp_path, cache, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out" / "train").iterdir()} == {"up", "A_B", "a_b-2"}
    back = as_own(yaml.safe_load((tmp_path / "out/dataset.yaml").read_text()), tmp_path / "out", cache)
    assert facts(back) == facts(open_dataset(odd, tmp_path, cache))
    assert not (tmp_path / "up").exists()


# ---------------------------------------------------------------- what is said of it


def test_licences_citations_and_caveats_come_along(root: Path, cache: Path, tmp_path: Path) -> None:
    data = open_dataset(spec(), root, cache)
    for form in ("folders", "csv", "npz"):
        export(spec(), root, cache, tmp_path / form, form)
        manifest = json.loads((tmp_path / form / "manifest.json").read_text("utf-8"))
        assert manifest["content_hash"] == data.card.content_hash == data.spec.content
        assert manifest["format"] == form
        assert {source["name"]: source["images"] for source in manifest["sources"]} == data.card.sources
        assert {source["licence"] for source in manifest["sources"]} >= {"CC BY 4.0"}
        assert manifest["caveats"] == list(data.card.caveats)
        assert DatasetSpec.model_validate(manifest["spec"]) == data.spec
        assert [entry["reason"] for entry in manifest["left_out"]] == ["not an image"]
        page = (tmp_path / form / "README.md").read_text("utf-8")
        for text in (data.card.content_hash, "CC BY 4.0", "Acevedo et al.", "Zheng et al.", "not checked by experts"):
            assert text in page
        assert str(tmp_path) not in page + json.dumps(manifest)


# ---------------------------------------------------------------- whole or not there


def test_nothing_is_overwritten(root: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    with pytest.raises(DataError, match=r"used is there and not empty; nothing is overwritten"):
        export(spec(), root, cache, tmp_path / "used")
    for name in ("file", "link"):
        with pytest.raises(DataError, match=f"{name} is there and no folder"):
            export(spec(), root, cache, tmp_path / name)
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(DataError, match="is the folder you are in"):
        export(spec(), root, cache, Path())
    monkeypatch.chdir(tmp_path)
    assert not cache.exists()  # known before anything is decoded
    assert export(spec(), root, cache, Path("empty")) == Exported(
        tmp_path / "empty", {"train": 57, "val": 8, "test": 16}, {"linked": 81}
    )


@pytest.mark.parametrize("form", ["folders", "npz"])
@pytest.mark.parametrize("problem", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interrupt_leaves_nothing(
    root: Path, cache: Path, tmp_path: Path, form: Any, problem: BaseException | type[BaseException]
) -> None:
    def progress(what: str, done: int, total: int) -> None:
        if what.startswith("writing"):
            raise problem

    with pytest.raises((KeyboardInterrupt, OSError)):
        export(spec(), root, cache, tmp_path / "new" / "out", form, progress=progress)
    assert list((tmp_path / "new").iterdir()) == []


def test_a_stain_goes_with_arrays_alone(root: Path, cache: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="written as they are; stain: reinhard goes with npz alone"):
        export(spec(stain="reinhard"), root, cache, tmp_path / "out")
