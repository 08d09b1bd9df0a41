"""Sources that no committed result was made of: how they lie on a disk, and what of them is taken."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from kdbench.data.audit import audit
from kdbench.data.dataset import listings, open_dataset
from kdbench.data.mixed import UNIONS
from kdbench.data.source import SOURCES, Item, Listing
from kdbench.errors import BadImage, DataError, MissingData, SplitLeak
from kdbench.types import DatasetSpec


def scan(name: str, root: Path) -> Listing:
    return SOURCES.get(name).scan(root, {})


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())


def test_raabin(tmp_path: Path) -> None:
    touch(
        tmp_path,
        *(f"raabin/{part}/{kind}/1.jpg" for part in ("Train", "TestA", "TestB") for kind in ("Basophil", "Neutrophil")),
        "raabin/Train/Artifact/1.jpg",
        "raabin/more/x.jpg",
    )
    found = scan("raabin", tmp_path)
    assert {item.id: (item.label, item.fold) for item in found.items} == {
        f"raabin/{part}/{kind}/1.jpg": (kind.lower(), fold)
        for part, fold in (("Train", "train"), ("TestA", "test"))
        for kind in ("Basophil", "Neutrophil")
    }
    assert {(entry.path, entry.count): entry.reason for entry in found.left_out} == {
        ("raabin/TestB/", 2): "taken with another microscope and camera, and of two classes only",
        ("raabin/Train/Artifact/", 1): "class outside the task",
        ("raabin/more/", 1): "none of the given parts Train, TestA",
    }


@pytest.mark.parametrize("there", ["Train", "TestA"])
def test_raabin_needs_both_parts(there: str, tmp_path: Path) -> None:
    touch(tmp_path, f"raabin/{there}/Basophil/1.jpg")
    with pytest.raises(MissingData, match="raabin: nothing at "):
        scan("raabin", tmp_path)


def test_lisc(tmp_path: Path) -> None:
    kinds = ("Baso", "eosi", "lymp", "mixt", "mono", "neut")
    touch(tmp_path, *(f"lisc/Main Dataset/{kind}/{number}.bmp" for kind in kinds for number in (1, 2)))
    found = scan("lisc", tmp_path)
    assert Counter(item.label for item in found.items) == dict.fromkeys(SOURCES.get("lisc").labels, 2)
    assert [(entry.path, entry.count) for entry in found.left_out] == [("lisc/Main Dataset/mixt/", 2)]


# ---------------------------------------------------------------- arrays


def arrays(root: Path, **changed: np.ndarray) -> Path:
    """A file like MedMNIST's with 30 images for each class and side, all different."""
    path = root / "bloodmnist/bloodmnist.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    held: dict[str, np.ndarray] = {}
    for side in ("train", "val", "test"):
        held[f"{side}_images"] = rng.integers(0, 256, (240, 28, 28, 3), dtype=np.uint8)
        held[f"{side}_labels"] = np.arange(240, dtype=np.uint8).reshape(-1, 1) % 8
    np.savez(path, **(held | changed))
    return path


def test_bloodmnist(tmp_path: Path) -> None:
    path = arrays(tmp_path)
    data = open_dataset(DatasetSpec(name="bloodmnist", image_size=28), tmp_path, tmp_path / "cache")
    assert data.card.sources == {"bloodmnist": 450}
    assert {side: len(indices) for side, indices in data.splits.items()} == {"train": 150, "val": 150, "test": 150}
    assert {(entry.path, entry.count) for entry in data.card.left_out} == {
        (f"bloodmnist/bloodmnist.npz: {name}", 90) for name in ("erythroblast", "immature granulocyte", "platelet")
    }
    with np.load(path, allow_pickle=False) as held:
        index = data.ids.index("bloodmnist/val/00006")
        assert (data.images(np.asarray([index]))[0] == held["val_images"][6]).all()
        assert data.classes[data.labels[index]] == "neutrophil"
    assert data.card.duplicates == 0  # each image is its own, though all lie in one file


def test_bloodmnist_changes_its_content_with_its_pixels(tmp_path: Path) -> None:
    spec = DatasetSpec(name="bloodmnist", image_size=16)
    arrays(tmp_path)
    before = open_dataset(spec, tmp_path, tmp_path / "cache").spec.content
    pixels = np.random.default_rng(1).integers(0, 256, (240, 28, 28, 3), dtype=np.uint8)
    arrays(tmp_path, val_images=pixels)
    assert open_dataset(spec, tmp_path, tmp_path / "cache").spec.content != before


def test_bloodmnist_leaves_out_what_stands_on_two_sides(tmp_path: Path) -> None:
    with np.load(arrays(tmp_path), allow_pickle=False) as held:
        train, test = held["train_images"], held["test_images"]
    train[[0, 8, 7]] = test[[0, 0, 7]]  # 7 is a platelet
    arrays(tmp_path, train_images=train)
    found = scan("bloodmnist", tmp_path)
    twice = [entry.path for entry in found.left_out if entry.reason == "its pixels are those of an image of test"]
    assert twice == ["bloodmnist/train/00000", "bloodmnist/train/00008"]
    assert len(found.items) == 448
    said = SOURCES.get("bloodmnist").count_differences(found.items)
    assert "basophil 90 instead of 1218" in said  # as the file has them, not as they are taken


def test_bloodmnist_can_be_checked(tmp_path: Path) -> None:
    arrays(tmp_path)
    found = audit(DatasetSpec(name="bloodmnist", image_size=16), tmp_path, tmp_path / "cache")
    assert found.sizes is not None
    assert (found.sizes.width, found.sizes.height, found.sizes.modes) == ((28, 28.0, 28), (28, 28.0, 28), {"RGB": 450})
    assert any(text.startswith("bloodmnist does not hold what is published: basophil 90 ") for text in found.warnings)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"val_labels": np.full((240, 1), 8)}, "val_labels hold other codes than 0 to 7"),
        ({"val_labels": np.full((240, 1), -1)}, "val_labels hold other codes than 0 to 7"),
        ({"val_labels": np.zeros((239, 1), dtype=int)}, "for 240 images"),
        ({"val_labels": np.zeros((240, 1))}, "val_labels are float64"),
        ({"val_images": np.zeros((240, 64, 64, 3), dtype=np.uint8)}, "val_images are uint8"),
        ({"val_images": np.zeros((240, 28, 28, 3))}, "val_images are float64"),
        ({"val_images": np.asarray([{}], dtype=object)}, "allow_pickle=False"),
    ],
)
def test_arrays_that_are_not_bloodmnist(changed: dict[str, np.ndarray], message: str, tmp_path: Path) -> None:
    arrays(tmp_path, **changed)
    with pytest.raises(DataError, match=message):
        scan("bloodmnist", tmp_path)


def test_files_that_are_not_bloodmnist(tmp_path: Path) -> None:
    path = arrays(tmp_path)
    whole = path.read_bytes()
    np.savez(path, train_images=np.zeros(3))
    for content in (path.read_bytes(), whole[:-1000], b"", b"text", b"\x93NUMPY"):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"bloodmnist\.npz is not MedMNIST's file of 28 pixels"):
            scan("bloodmnist", tmp_path)
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(DataError, match="a single array"):
        scan("bloodmnist", tmp_path)


@pytest.mark.parametrize("name", ["bloodmnist/val/99999", "bloodmnist/dev/0", "bloodmnist/val/x", "x"])
def test_items_of_another_source(name: str, tmp_path: Path) -> None:
    with pytest.raises(BadImage, match=r"not an image of bloodmnist\.npz"):
        SOURCES.get("bloodmnist").read(Item(name, "basophil", path=arrays(tmp_path)), {})


def test_mixed_takes_more_only_by_name(tmp_path: Path) -> None:
    """What committed results were made of does not change because somebody has another set on the disk."""
    assert UNIONS.get("mixed").sources == ("pbc", "jtsc", "cellavision", "bccd_crops")
    touch(tmp_path, "pbc/PBC_dataset_normal_DIB/basophil/1.jpg", "lisc/Main Dataset/Baso/1.bmp")
    arrays(tmp_path)
    assert [source.name for source, _ in listings(DatasetSpec(name="mixed"), tmp_path)] == ["pbc"]
    both = DatasetSpec(name="mixed", sources=("pbc", "lisc"))
    assert [source.name for source, _ in listings(both, tmp_path)] == ["pbc", "lisc"]
    with pytest.raises(SplitLeak, match="bloodmnist shares its originals with pbc"):
        listings(DatasetSpec(name="mixed", sources=("pbc", "bloodmnist")), tmp_path)
