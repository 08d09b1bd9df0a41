"""From a spec to labelled images: unions, labels, groups, the card, and what is refused. Tiny fake data sets."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kdbench.data.dataset import Dataset, dataset_names, labels_of, open_dataset
from kdbench.errors import ConfigError, MissingData, SplitLeak, UnknownName
from kdbench.types import DatasetSpec

LABELS = ("basophil", "eosinophil", "lymphocyte", "monocyte", "neutrophil")
CODES = {"neutrophil": 1, "lymphocyte": 2, "monocyte": 3, "eosinophil": 4, "basophil": 5}
PBC, CROPS = "pbc/PBC_dataset_normal_DIB", "bccd_crops/BCCD_cropped"
EACH = 10  # images of each class in each source


def save(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (18, 18, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, "PNG")  # decoders go by the content, not by the name


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All five sources as their publishers lay them out, 10 images of each class."""
    root, seed = tmp_path_factory.mktemp("data"), 0
    for source, table in (("jtsc", "Class Labels of Dataset 1.csv"), ("cellavision", "Class Labels of Dataset 2.csv")):
        lines = ["image ID,class"]
        for number in range(EACH * len(LABELS)):
            save(root / source / f"{number + 1:03d}.bmp", seed := seed + 1)
            lines.append(f"{number + 1},{CODES[LABELS[number % len(LABELS)]]}")
        (root / source / table).write_text("\n".join(lines) + "\n")
    for label in LABELS:
        for number in range(EACH):
            save(root / PBC / label / f"{number}.jpg", seed := seed + 1)
            save(root / CROPS / label.capitalize() / f"{number}.jpg", seed := seed + 1)
            for part in ("TRAIN", "TEST"):
                if label != "basophil":
                    save(root / "bccd" / "images" / part / label.upper() / f"{number}.jpeg", seed := seed + 1)
    save(root / PBC / "platelet" / "1.jpg", 0)
    return root


@pytest.fixture
def root(whole: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return shutil.copytree(whole, tmp_path / "data")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def opened(root: Path, cache: Path, **asked: Any) -> Dataset:
    return open_dataset(DatasetSpec(**{"name": "mixed", "image_size": 18, **asked}), root, cache)


def side_of(data: Dataset, name: str) -> str:
    (side,) = (side for side, indices in data.splits.items() for index in indices if data.ids[index] == name)
    return side


def test_names_and_labels() -> None:
    assert set(dataset_names()) >= {"mixed", "bccd", "synthetic", "pbc"}
    assert labels_of("mixed") == LABELS
    assert labels_of("bccd") == LABELS[1:]
    with pytest.raises(UnknownName, match="unknown dataset 'mixd'; did you mean mixed"):
        labels_of("mixd")


def test_union_of_four(whole: Path, cache: Path) -> None:
    data = opened(whole, cache)
    assert data.card.sources == dict.fromkeys(("pbc", "jtsc", "cellavision", "bccd_crops"), 50)
    assert data.spec.sources == ("pbc", "jtsc", "cellavision", "bccd_crops")
    assert data.classes == data.card.classes == LABELS
    assert len(data.ids) == len(set(data.ids)) == 200
    assert Counter(data.labels.tolist()) == dict.fromkeys(range(5), 40)
    # labels are harmonised: the folder's or the table's word, whatever its case or code
    for name, label in zip(data.ids, data.labels, strict=True):
        if name.startswith((PBC, CROPS)):
            assert name.split("/")[2].lower() == LABELS[label]
        else:
            assert (int(Path(name).stem) - 1) % len(LABELS) == label
    assert data.card.duplicates == 0
    assert {entry.path for entry in data.card.left_out} == {f"{PBC}/platelet/"}
    assert any("jtsc" in caveat for caveat in data.card.caveats)


def test_card_counts_are_those_of_the_splits(whole: Path, cache: Path) -> None:
    data = opened(whole, cache, train_limit=60)
    for side, indices in data.splits.items():
        counted = Counter(LABELS[data.labels[index]] for index in indices)
        assert data.card.splits[side] == counted
    assert sum(data.card.splits["train"].values()) == 60
    assert data.card.splits["test"] == dict.fromkeys(LABELS, 8)  # of each source 2 of 10
    assert data.card.splits["val"] == dict.fromkeys(LABELS, 4)
    assert data.card.content_hash == data.spec.content != ""
    assert data.items("val") == [
        (data.ids[i], LABELS[data.labels[i]], data.groups[i]) for i in data.splits["val"].tolist()
    ]


def test_images_are_those_of_the_files(whole: Path, cache: Path) -> None:
    data = opened(whole, cache)
    indices = np.random.default_rng(0).permutation(len(data.ids))[:90]
    got = data.images(indices)
    assert got.shape == (90, 18, 18, 3)
    for image, index in zip(got, indices, strict=True):
        np.testing.assert_array_equal(image, np.asarray(Image.open(whole / data.ids[index])))
    for source in ("pbc", "jtsc"):  # the single source gives the same rows
        single = opened(whole, cache, name=source)
        assert single.card.sources == {source: 50}
        here = np.asarray([index for index, name in enumerate(data.ids) if name.startswith(f"{source}/")])
        np.testing.assert_array_equal(data.images(here), single.images(np.arange(50)))
    assert data.images(np.asarray([3, 3])).shape == (2, 18, 18, 3)
    assert data.images(np.asarray([], dtype=np.int64)).shape == (0, 18, 18, 3)


def test_bad_files_shift_no_rows(root: Path, cache: Path) -> None:
    (root / PBC / "basophil" / "3.jpg").write_bytes(b"")
    (root / "jtsc" / "007.bmp").write_bytes(b"no image")
    data = opened(root, cache)
    assert len(data.ids) == 198
    assert data.card.sources["pbc"] == data.card.sources["jtsc"] == 49
    left_out = {entry.path: entry.reason for entry in data.card.left_out}
    assert left_out[f"{PBC}/basophil/3.jpg"] == left_out["jtsc/007.bmp"] == "not an image"
    for index, image in enumerate(data.images(np.arange(198))):
        np.testing.assert_array_equal(image, np.asarray(Image.open(root / data.ids[index])))


def test_spec_comes_back_resolved_and_stays_so(whole: Path, cache: Path) -> None:
    data = opened(whole, cache)
    again = open_dataset(data.spec, whole, cache)
    assert again.spec == data.spec
    assert all(np.array_equal(again.splits[side], data.splits[side]) for side in data.splits)


# ---------------------------------------------------------------- which sources


def test_missing_sources_are_skipped_and_said(root: Path, cache: Path) -> None:
    full = opened(root, cache).spec.content
    for source in ("jtsc", "bccd_crops"):
        shutil.rmtree(root / source)
    data = opened(root, cache)
    assert data.card.sources == {"pbc": 50, "cellavision": 50}
    assert data.spec.sources == ("pbc", "cellavision")
    assert data.spec.content != full


def test_none_of_them_is_one_clear_message(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(MissingData) as caught:
        opened(tmp_path, cache)
    message = str(caught.value)
    assert "\n" not in message
    for part in ("mixed", "pbc, jtsc, cellavision, bccd_crops", str(tmp_path), "kdbench data show mixed"):
        assert part in message


def test_sources_asked_for_by_name_are_required(root: Path, cache: Path) -> None:
    shutil.rmtree(root / "jtsc")
    assert opened(root, cache, sources=("pbc",)).card.sources == {"pbc": 50}
    with pytest.raises(MissingData, match="jtsc: nothing at"):
        opened(root, cache, sources=("pbc", "jtsc"))


def test_bccd_and_its_crops_do_not_go_together(whole: Path, cache: Path) -> None:
    for sources in (("bccd", "bccd_crops"), ("bccd_crops", "bccd")):
        with pytest.raises(SplitLeak, match="bccd_crops shares its originals with bccd"):
            opened(whole, cache, sources=sources)
    assert set(opened(whole, cache, sources=("bccd", "pbc")).card.sources) == {"bccd", "pbc"}


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"name": "pbc", "sources": ("pbc",)}, "single source and takes no sources"),
        ({"options": {"count": 100}}, "takes no options"),
        ({"sources": ("pbc", "pbc")}, "a source stands twice"),
    ],
)
def test_what_makes_no_sense_is_refused(whole: Path, cache: Path, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        opened(whole, cache, **asked)


def test_unknown_source_is_refused(whole: Path, cache: Path) -> None:
    with pytest.raises(UnknownName, match="did you mean pbc"):
        opened(whole, cache, sources=("pbcc",))


def test_bccd_keeps_its_sides(whole: Path, cache: Path) -> None:
    data = opened(whole, cache, name="bccd")
    assert all(("/TEST/" in data.ids[index]) == (side == "test") for side in data.splits for index in data.splits[side])
    assert data.card.splits["test"] == dict.fromkeys(LABELS[1:], 10)
    assert data.card.splits["val"] == dict.fromkeys(LABELS[1:], 1)


# ---------------------------------------------------------------- the same image twice


def test_byte_identical_images_stay_together(root: Path, cache: Path) -> None:
    twins = []
    for number in range(EACH):  # half of pbc's neutrophils lie in cellavision too
        first, second = f"{PBC}/neutrophil/{number}.jpg", f"cellavision/{5 * (number + 1):03d}.bmp"
        shutil.copy(root / first, root / second)
        twins.append((first, second))
    data = opened(root, cache, sources=("pbc", "cellavision"))
    assert data.card.duplicates == 2 * EACH
    group = dict(zip(data.ids, data.groups, strict=True))
    for first, second in twins:
        assert side_of(data, first) == side_of(data, second)
        assert group[first] == group[second]
    assert not any("different labels" in caveat for caveat in data.card.caveats)
    assert len({side_of(data, first) for first, _ in twins}) > 1  # else this shows nothing


def test_conflicting_labels_are_a_caveat(root: Path, cache: Path) -> None:
    first, second = f"{PBC}/neutrophil/4.jpg", f"{PBC}/monocyte/2.jpg"
    shutil.copy(root / first, root / second)
    data = opened(root, cache)
    assert side_of(data, first) == side_of(data, second)
    assert f"byte-identical images carry different labels: {second} = {first}" in data.card.caveats
    assert data.card.duplicates == 2


def test_one_image_on_both_given_sides_is_a_leak(root: Path, cache: Path) -> None:
    for part in ("TRAIN", "TEST"):
        save(root / "bccd" / "images" / part / "MONOCYTE" / "same.jpeg", 99)
    with pytest.raises(SplitLeak, match=r"TEST/MONOCYTE/same.jpeg and .*TRAIN/MONOCYTE/same.jpeg belong together"):
        opened(root, cache, name="bccd", protocol="stratified-grouped")
    (dropped,) = (entry for entry in opened(root, cache, name="bccd").card.left_out if "same.jpeg" in entry.path)
    assert dropped.path == "bccd/images/TRAIN/MONOCYTE/same.jpeg"
