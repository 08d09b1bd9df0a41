"""From a spec to labelled images: unions, splits, the card."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import fakes
import numpy as np
import pytest
from PIL import Image

from kdbench.data.dataset import dataset_names, open_dataset
from kdbench.data.labels import LEUKOCYTES
from kdbench.errors import ConfigError, MissingData, SplitLeak, UnknownName
from kdbench.types import DatasetSpec

MIXED = DatasetSpec(name="mixed", image_size=16)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    fakes.pbc(folder)
    fakes.jtsc(folder)
    fakes.bccd_crops(folder)
    return folder


def test_a_union_takes_what_is_there_and_says_so(root: Path, tmp_path: Path) -> None:
    data = open_dataset(MIXED, root, tmp_path / "cache")
    assert data.card.sources == {"pbc": 60, "jtsc": 10, "bccd_crops": 20}
    assert data.spec.sources == ("pbc", "jtsc", "bccd_crops")
    assert data.spec.content
    assert data.classes == LEUKOCYTES
    assert len(data.labels) == len(data.ids) == 90
    assert sum(sum(side.values()) for side in data.card.splits.values()) == 90
    assert any("not checked by experts" in caveat for caveat in data.card.caveats)


def test_labels_are_harmonised(root: Path, tmp_path: Path) -> None:
    data = open_dataset(MIXED, root, tmp_path / "cache")
    label = {name: data.classes[number] for name, number in zip(data.ids, data.labels, strict=True)}
    assert label["jtsc/005.bmp"] == "neutrophil"  # code 1 + 5 % 5 = 1
    assert label["jtsc/001.bmp"] == "lymphocyte"
    assert label["jtsc/004.bmp"] == "basophil"
    assert label["bccd_crops/BCCD_cropped/Monocyte/BloodImage_00000_1.jpg"] == "monocyte"
    assert Counter(label.values())["eosinophil"] == 12 + 2 + 4


def test_images_come_in_the_order_asked_for(root: Path, tmp_path: Path) -> None:
    data = open_dataset(MIXED, root, tmp_path / "cache")
    indices = np.asarray([89, 0, 65, 12, 65])
    images = data.images(indices)
    assert images.shape == (5, 16, 16, 3)
    for index, image in zip(indices, images, strict=True):
        with Image.open(root / data.ids[index]) as original:
            np.testing.assert_array_equal(image, np.asarray(original.convert("RGB"))[:, 2:18])


def test_byte_identical_images_stay_together_and_conflicts_are_said(root: Path, tmp_path: Path) -> None:
    folder = root / "pbc/PBC_dataset_normal_DIB"
    for i in range(12):
        shutil.copy(folder / f"monocyte/MO_{i:03d}.jpg", folder / f"neutrophil/copy_{i:03d}.jpg")
    data = open_dataset(MIXED, root, tmp_path / "cache")
    side = {data.ids[index]: name for name, indices in data.splits.items() for index in indices}
    base = "pbc/PBC_dataset_normal_DIB"
    for i in range(12):
        assert side[f"{base}/monocyte/MO_{i:03d}.jpg"] == side[f"{base}/neutrophil/copy_{i:03d}.jpg"]
    assert data.card.duplicates == 24
    assert sum("carry different labels" in caveat for caveat in data.card.caveats) == 12


def test_content_depends_on_the_sources_there(root: Path, tmp_path: Path) -> None:
    whole = open_dataset(MIXED, root, tmp_path / "cache").spec.content
    shutil.rmtree(root / "jtsc")
    assert open_dataset(MIXED, root, tmp_path / "cache").spec.content != whole


def test_sources_named_must_be_there(root: Path, tmp_path: Path) -> None:
    two = open_dataset(MIXED.model_copy(update={"sources": ("pbc", "jtsc")}), root, tmp_path / "cache")
    assert set(two.card.sources) == {"pbc", "jtsc"}
    with pytest.raises(MissingData, match="cellavision"):
        open_dataset(MIXED.model_copy(update={"sources": ("pbc", "cellavision")}), root, tmp_path / "cache")


@pytest.mark.parametrize("name", ["mixed", "pbc", "bccd", "jtsc", "cellavision", "bccd_crops"])
def test_missing_data_says_what_to_do(name: str, tmp_path: Path) -> None:
    with pytest.raises(MissingData) as caught:
        open_dataset(DatasetSpec(name=name), tmp_path, tmp_path / "cache")
    for word in (name, "KDBENCH_DATA", "--data-root"):
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_empty_source_is_missing_too(tmp_path: Path) -> None:
    (tmp_path / "pbc/PBC_dataset_normal_DIB/monocyte").mkdir(parents=True)
    with pytest.raises(MissingData, match="holds no images"):
        open_dataset(DatasetSpec(name="pbc"), tmp_path, tmp_path / "cache")


def test_sets_cut_from_the_same_originals_do_not_mix(root: Path, tmp_path: Path) -> None:
    fakes.bccd(root)
    with pytest.raises(SplitLeak, match="bccd_crops shares its originals with bccd"):
        open_dataset(MIXED.model_copy(update={"sources": ("bccd", "bccd_crops")}), root, tmp_path / "cache")


def test_bccd_keeps_its_own_test_set(tmp_path: Path) -> None:
    fakes.bccd(tmp_path / "data")
    data = open_dataset(DatasetSpec(name="bccd", image_size=16), tmp_path / "data", tmp_path / "cache")
    assert all("/TEST/" in data.ids[index] for index in data.splits["test"])
    assert len(data.splits["test"]) == 40
    assert all("/TRAIN/" in data.ids[index] for side in ("train", "val") for index in data.splits[side])
    (left,) = data.card.left_out
    assert (left.path, left.count) == ("bccd/images/TEST_SIMPLE/", 40)
    assert data.classes == LEUKOCYTES[1:]


def test_bccd_without_its_test_part_is_missing(tmp_path: Path) -> None:
    fakes.bccd(tmp_path / "data")
    shutil.rmtree(tmp_path / "data/bccd/images/TEST")
    with pytest.raises(MissingData, match="TEST"):
        open_dataset(DatasetSpec(name="bccd"), tmp_path / "data", tmp_path / "cache")


def test_the_files_order_does_not_matter(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    first = open_dataset(MIXED, root, tmp_path / "cache")
    walk, iterdir = os.walk, Path.iterdir
    monkeypatch.setattr(os, "walk", lambda top: ((p, d, n[::-1]) for p, d, n in walk(top)))
    monkeypatch.setattr(Path, "iterdir", lambda path: reversed(list(iterdir(path))))
    second = open_dataset(MIXED, root, tmp_path / "cache2")
    assert second.spec == first.spec
    assert second.ids == first.ids
    for side, indices in first.splits.items():
        np.testing.assert_array_equal(second.splits[side], indices)


def test_wrong_asks() -> None:
    nowhere = Path("/nonexistent")
    with pytest.raises(UnknownName, match="did you mean mixed"):
        open_dataset(DatasetSpec(name="mixde"), nowhere, nowhere)
    with pytest.raises(ConfigError, match="takes no sources"):
        open_dataset(DatasetSpec(name="pbc", sources=("jtsc",)), nowhere, nowhere)
    with pytest.raises(ConfigError, match="takes no options"):
        open_dataset(MIXED.model_copy(update={"options": {"count": 3}}), nowhere, nowhere)
    assert {"mixed", "synthetic", "bccd"} <= set(dataset_names())


def test_items_name_the_test_images(root: Path, tmp_path: Path) -> None:
    data = open_dataset(MIXED, root, tmp_path / "cache")
    items = data.items("test")
    assert [name for name, _, _ in items] == [data.ids[index] for index in data.splits["test"]]
    assert all(label in LEUKOCYTES and group for _, label, group in items)
