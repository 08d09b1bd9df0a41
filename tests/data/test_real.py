"""The real images, where they are: counts as their publishers give them, and no image on two sides."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from kdbench.data.dataset import Dataset, open_dataset
from kdbench.data.source import SOURCES
from kdbench.types import DatasetSpec

pytestmark = pytest.mark.realdata

COUNTS = {"pbc": 10298, "jtsc": 300, "cellavision": 100, "bccd_crops": 351}


@pytest.fixture(scope="module")
def mixed(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return open_dataset(DatasetSpec(name="mixed", image_size=16), data_root, tmp_path_factory.mktemp("cache"))


def hashed(root: Path, names: tuple[str, ...]) -> dict[str, list[int]]:
    """Where each content occurs, counted here once more, from the files."""
    found: dict[str, list[int]] = defaultdict(list)
    for index, name in enumerate(names):
        found[hashlib.sha256((root / name).read_bytes()).hexdigest()].append(index)
    return found


def test_mixed_counts(mixed: Dataset) -> None:
    assert mixed.card.sources == COUNTS
    assert len(mixed.ids) == len(set(mixed.ids)) == sum(COUNTS.values()) == 11_049
    assert sum(len(indices) for indices in mixed.splits.values()) == 11_049
    assert set(mixed.labels.tolist()) == set(range(5))


@pytest.mark.parametrize("name", [*COUNTS, "bccd"])
def test_as_many_as_are_published(name: str, data_root: Path) -> None:
    source = SOURCES.get(name)
    found = source.scan(data_root, {})
    assert source.count_differences(found.items) == ""
    assert len(found.items) == sum(source.counts.values())


def test_mixed_left_out_by_name(mixed: Dataset) -> None:
    left_out = {entry.path: entry for entry in mixed.card.left_out}
    hidden = left_out["pbc/PBC_dataset_normal_DIB/neutrophil/.DS_169665.jpg"]
    assert hidden.reason == "not an image file by its name"
    others = {path for path in left_out if path.endswith("/")}
    assert others == {f"pbc/PBC_dataset_normal_DIB/{name}/" for name in ("erythroblast", "ig", "platelet")}
    assert len(left_out) == 4


def test_mixed_leaks_nothing(mixed: Dataset, data_root: Path) -> None:
    side = {int(index): name for name, indices in mixed.splits.items() for index in indices}
    same = hashed(data_root, mixed.ids)
    assert [indices for indices in same.values() if len({side[index] for index in indices}) > 1] == []
    repeated = [indices for indices in same.values() if len(indices) > 1]
    assert mixed.card.duplicates == sum(len(indices) for indices in repeated)


def test_mixed_says_which_images_have_two_labels(mixed: Dataset, data_root: Path) -> None:
    conflicts = [
        {mixed.ids[index] for index in indices}
        for indices in hashed(data_root, mixed.ids).values()
        if len({int(mixed.labels[index]) for index in indices}) > 1
    ]
    start = "byte-identical images carry different labels: "
    said = [set(text.removeprefix(start).split(" = ")) for text in mixed.card.caveats if text.startswith(start)]
    assert sorted(map(sorted, said)) == sorted(map(sorted, conflicts))
    assert said  # there is one in the published set


def test_mixed_shares_every_source_and_class_out(mixed: Dataset) -> None:
    def strata(indices: np.ndarray) -> Counter[tuple[str, int]]:
        return Counter((mixed.ids[index].split("/")[0], int(mixed.labels[index])) for index in indices)

    total, test, val = strata(np.arange(len(mixed.ids))), strata(mixed.splits["test"]), strata(mixed.splits["val"])
    # a place of a smear, photographed up to three times with one class each, goes as a whole
    for stratum, count in total.items():
        assert abs(test[stratum] - 0.2 * count) <= 3
        assert abs(val[stratum] - 0.1 * count) <= 3


def test_images_are_images(mixed: Dataset) -> None:
    sample = mixed.images(np.arange(0, len(mixed.ids), 50))
    assert (sample.reshape(len(sample), -1).std(axis=1) > 5).all()
    assert 100 < sample.mean() < 230


def test_bccd_given_parts(data_root: Path) -> None:
    found = SOURCES.get("bccd").scan(data_root, {})
    assert Counter(item.fold for item in found.items) == {"train": 9957, "test": 2487}
    (left_out,) = found.left_out
    assert (left_out.path, left_out.count) == ("bccd/images/TEST_SIMPLE/", 71)


def test_bccd_has_no_image_on_both_given_sides(data_root: Path) -> None:
    items = SOURCES.get("bccd").scan(data_root, {}).items
    same = hashed(data_root, tuple(item.id for item in items))
    assert all(len({items[index].fold for index in indices}) == 1 for indices in same.values())


@pytest.mark.slow
def test_bccd_decodes(data_root: Path, tmp_path: Path) -> None:
    data = open_dataset(DatasetSpec(name="bccd", image_size=16, fit="stretch"), data_root, tmp_path)
    sides = {side: len(indices) for side, indices in data.splits.items()}
    assert sides["test"] == 2487
    assert sides["train"] + sides["val"] == 9957
    assert data.card.sources == {"bccd": 12_444}
