"""The real images: what is on the disk is what is known of it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from kdbench.data.dataset import Dataset, open_dataset
from kdbench.types import DatasetSpec

pytestmark = pytest.mark.realdata


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def mixed(data_root: Path, cache: Path) -> Dataset:
    return open_dataset(DatasetSpec(name="mixed", image_size=16), data_root, cache)


@pytest.fixture(scope="module")
def bccd(data_root: Path, cache: Path) -> Dataset:
    return open_dataset(DatasetSpec(name="bccd", image_size=16, fit="stretch"), data_root, cache)


def test_mixed_is_complete(mixed: Dataset) -> None:
    assert mixed.card.sources == {"pbc": 10_298, "jtsc": 300, "cellavision": 100, "bccd_crops": 351}
    left = {entry.path.rpartition("DIB/")[2]: entry.count for entry in mixed.card.left_out}
    assert left == {"neutrophil/.DS_169665.jpg": 1, "ig/": 20, "platelet/": 20, "erythroblast/": 20}


def test_bccd_is_complete(bccd: Dataset) -> None:
    assert sum(bccd.card.splits["test"].values()) == 2487
    assert sum(bccd.card.splits["train"].values()) + sum(bccd.card.splits["val"].values()) == 9957
    assert [(entry.path, entry.count) for entry in bccd.card.left_out] == [("bccd/images/TEST_SIMPLE/", 71)]


@pytest.mark.parametrize("name", ["mixed", "bccd"])
def test_no_bytes_stand_on_two_sides(name: str, data_root: Path, request: pytest.FixtureRequest) -> None:
    data: Dataset = request.getfixturevalue(name)
    where: dict[bytes, set[str]] = {}
    for side in data.splits:
        for item, _, _ in data.items(side):
            where.setdefault(hashlib.sha256((data_root / item).read_bytes()).digest(), set()).add(side)
    assert [sides for sides in where.values() if len(sides) > 1] == []


def test_the_known_label_conflict_is_said(mixed: Dataset) -> None:
    (caveat,) = [text for text in mixed.card.caveats if "different labels" in text]
    assert "EO_225902.jpg" in caveat
    assert "BNE_191112.jpg" in caveat
    assert mixed.card.duplicates >= 2 * 15
