"""A data set out of memory: split as any other, and wrong input is named before anything is trained."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from kdbench.data.cache import fit_image
from kdbench.data.dataset import Dataset
from kdbench.data.memory import from_arrays, from_torch
from kdbench.errors import ConfigError, DataError, SplitLeak
from kdbench.types import DatasetSpec, SplitName

SIDE, COUNT = 16, 60
SIDES: tuple[SplitName, ...] = ("train", "val", "test")
LABELS = np.arange(COUNT) % 3


def noise(count: int = COUNT, side: int = SIDE, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def side_of(data: Dataset) -> dict[int, SplitName]:
    return {int(index): side for side, indices in data.splits.items() for index in indices}


class Items:
    """A torch data set of anything."""

    def __init__(self, make: Callable[[int], Any], count: int = COUNT, **attributes: Any) -> None:
        self.make, self.count = make, count
        for name, value in attributes.items():
            setattr(self, name, value)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> Any:
        return self.make(number)


# ---------------------------------------------------------------- arrays


def test_arrays_become_a_data_set() -> None:
    images = noise()
    data = from_arrays(images, LABELS, classes=["a", "b", "c"], name="mine")
    assert (data.spec.name, data.spec.image_size, data.classes) == ("mine", SIDE, ("a", "b", "c"))
    order = np.random.default_rng(1).permutation(COUNT)
    np.testing.assert_array_equal(data.images(order), images[order])
    np.testing.assert_array_equal(data.labels, LABELS)
    assert data.labels.dtype == np.int64
    assert len(set(data.ids)) == COUNT
    # every image on one side, every class in the same proportions
    assert sorted(side_of(data)) == list(range(COUNT))
    for side, per_class in (("train", 14), ("val", 2), ("test", 4)):
        assert np.bincount(data.labels[data.splits[side]]).tolist() == [per_class] * 3  # type: ignore[index]
    assert data.card.splits["test"] == {"a": 4, "b": 4, "c": 4}
    assert data.card.sources == {"mine": COUNT}
    assert data.card.duplicates == 0
    assert data.items("val")[0][1] in "abc"


@pytest.mark.parametrize("kind", [list, tuple, np.asarray, torch.tensor], ids=["list", "tuple", "array", "tensor"])
def test_labels_may_be_any_whole_numbers(kind: Callable[[Any], Any]) -> None:
    data = from_arrays(noise(), kind(LABELS.tolist()))
    np.testing.assert_array_equal(data.labels, LABELS)
    assert data.classes == ("0", "1", "2")


def test_images_may_be_a_tensor_and_labels_bytes() -> None:
    ours = from_arrays(torch.from_numpy(noise()), LABELS.astype(np.uint8))  # type: ignore[arg-type]
    theirs = from_arrays(noise(), LABELS)
    assert ours.spec == theirs.spec
    np.testing.assert_array_equal(ours.images(np.arange(5)), theirs.images(np.arange(5)))


def test_content_is_of_pixels_labels_and_names() -> None:
    base = from_arrays(noise(), LABELS).spec
    assert from_arrays(noise(), LABELS).spec == base
    one_pixel = noise()
    one_pixel[7, 3, 3, 0] ^= 1
    one_label = LABELS.copy()
    one_label[0] = 2
    others = [
        from_arrays(one_pixel, LABELS).spec,
        from_arrays(noise(), one_label).spec,
        from_arrays(noise(), LABELS, classes=["a", "b", "c"]).spec,
        from_arrays(noise()[::-1], LABELS).spec,
    ]
    assert len({spec.content for spec in (base, *others)}) == 5
    assert from_arrays(noise(), LABELS).card.content_hash == base.content


def test_the_split_follows_its_settings() -> None:
    base = side_of(from_arrays(noise(), LABELS))
    assert side_of(from_arrays(noise(), LABELS)) == base
    assert side_of(from_arrays(noise(), LABELS, split_seed=1)) != base
    halved = from_arrays(noise(), LABELS, val_fraction=0.25, test_fraction=0.25)
    assert {side: len(halved.splits[side]) for side in SIDES} == {"train": 30, "val": 15, "test": 15}
    assert halved.spec.val_fraction == 0.25
    limited = from_arrays(noise(), LABELS, train_limit=12)
    assert np.bincount(limited.labels[limited.splits["train"]]).tolist() == [4, 4, 4]


def test_equal_images_stay_on_one_side() -> None:
    for seed in range(10):
        images = noise(seed=seed)
        pairs = np.random.default_rng(seed).permutation(COUNT).reshape(-1, 2)[:20]
        images[pairs[:, 1]] = images[pairs[:, 0]]
        data = from_arrays(images, LABELS, split_seed=seed)
        sides = side_of(data)
        assert all(sides[first] == sides[second] for first, second in pairs.tolist())
        assert data.card.duplicates == 40
        for first, second in pairs.tolist():
            assert data.groups[first] == data.groups[second]


def test_groups_stay_on_one_side_and_may_be_joined_by_equal_images() -> None:
    images, groups = noise(), [f"patient {number // 4}" for number in range(COUNT)]
    images[9] = images[30]  # of patients 2 and 7
    for seed in range(10):
        data = from_arrays(images, LABELS, groups=groups, split_seed=seed)
        sides = side_of(data)
        for patient in set(groups):
            assert len({sides[number] for number in range(COUNT) if groups[number] == patient}) == 1
        assert sides[9] == sides[30]
        assert data.groups[8] == data.groups[31]
        assert data.groups[8] != data.groups[0]


def test_given_sides_are_kept() -> None:
    sides = [SIDES[number % 5 % 3] for number in range(COUNT)]
    data = from_arrays(noise(), LABELS, splits=sides)
    assert [side_of(data)[number] for number in range(COUNT)] == sides
    # what is not given is cut from the training images
    two: list[SplitName] = ["test" if number < 20 else "train" for number in range(COUNT)]
    cut = from_arrays(noise(), LABELS, splits=two)
    np.testing.assert_array_equal(cut.splits["test"], np.arange(20))
    assert 0 < len(cut.splits["val"]) < 10
    assert not set(cut.splits["val"]) & set(cut.splits["test"])


def test_what_belongs_together_may_not_be_given_to_two_sides() -> None:
    sides: list[SplitName] = [SIDES[number % 3] for number in range(COUNT)]
    images = noise()
    images[3] = images[1]
    with pytest.raises(SplitLeak, match=r"0000001 and 0000003 belong together, .*'val' and 'train'"):
        from_arrays(images, LABELS, splits=sides)
    with pytest.raises(SplitLeak, match="belong together"):
        from_arrays(noise(), LABELS, splits=sides, groups=["one"] * COUNT)


@pytest.mark.parametrize(
    ("changes", "problem", "message"),
    [
        ({"images": noise().astype(np.float32)}, DataError, r"images are float32 of shape \(60, 16, 16, 3\); .*uint8"),
        ({"images": noise().astype(np.int64)}, DataError, "int64"),
        ({"images": noise()[0]}, DataError, r"\(16, 16, 3\)"),
        ({"images": noise()[..., :1]}, DataError, r"\(60, 16, 16, 1\)"),
        ({"images": noise().transpose(0, 3, 1, 2)}, DataError, r"\(60, 3, 16, 16\)"),
        ({"images": noise()[:, 2:]}, DataError, "square"),
        ({"images": noise(0), "labels": []}, DataError, "labels are float64 of shape"),
        ({"images": noise(0), "labels": np.empty(0, dtype=int)}, DataError, "labels go from 0 to 0"),
        ({"images": noise(side=8)}, ConfigError, "^data set 'arrays', image_size: [^\n]* to 16, not 8$"),
        ({"labels": LABELS[1:]}, DataError, r"labels are int64 of shape \(59,\); 60 integers are needed"),
        ({"labels": LABELS.astype(float)}, DataError, "labels are float64"),
        ({"labels": LABELS > 1}, DataError, "labels are bool"),
        ({"labels": np.eye(3, dtype=int)[LABELS]}, DataError, r"of shape \(60, 3\)"),
        ({"labels": LABELS - 1}, DataError, "labels go from -1 to 1; 0 to 1 is needed"),
        ({"labels": LABELS * 0}, DataError, "0 to 1 is needed"),
        ({"classes": ["a", "b"]}, DataError, "labels go from 0 to 2; 0 to 1 is needed"),
        ({"labels": LABELS * 0, "classes": ["a"]}, DataError, "0 to 1 is needed"),
        ({"classes": ["a", "b", "a"]}, DataError, "'a' is named twice"),
        ({"groups": ["a"] * 3}, DataError, "3 groups are given for 60 images"),
        ({"splits": ["train"] * 61}, DataError, "61 splits are given for 60 images"),
        ({"splits": ["train"] * 59 + ["dev"]}, DataError, "splits has 'dev'; train, val and test are known"),
        ({"splits": ["train"] * 30 + ["val"] * 30, "test_fraction": 0.01}, DataError, "the test split is empty"),
        ({"val_fraction": 0.0}, ConfigError, "^data set 'arrays', val_fraction: [^\n]*, not 0.0$"),
        ({"size": 3}, ConfigError, "^data set 'arrays', size: [^\n]*, not 3$"),
        ({"images": noise(3), "labels": [0, 1, 2]}, DataError, "split is empty with 3 images"),
    ],
)
def test_what_does_not_fit_is_named(changes: dict[str, Any], problem: type[Exception], message: str) -> None:
    with pytest.raises(problem, match=message):
        from_arrays(**{"images": noise(), "labels": LABELS, **changes})


def test_a_class_may_have_no_image() -> None:
    data = from_arrays(noise(), LABELS, classes=["a", "b", "c", "none yet"])
    assert data.classes[3] == "none yet"
    assert "none yet" not in data.card.splits["train"]


# ---------------------------------------------------------------- torch data sets


def pixels(number: int, side: int = SIDE) -> np.ndarray:
    image: np.ndarray = noise(1, side, seed=number)[0]
    return image


KINDS: dict[str, Callable[[int], Any]] = {
    "PIL": lambda number: Image.fromarray(pixels(number)),
    "array": pixels,
    "tensor": lambda number: torch.from_numpy(pixels(number)),
    "channels first": lambda number: torch.from_numpy(pixels(number)).permute(2, 0, 1),
}


@pytest.mark.parametrize("label", [int, np.int64, torch.tensor], ids=["int", "numpy", "tensor"])
@pytest.mark.parametrize("kind", KINDS)
def test_items_of_every_kind_are_the_same_images(kind: str, label: Callable[[int], Any]) -> None:
    expected = np.stack([pixels(number) for number in range(COUNT)])
    data = from_torch(Items(lambda number: (KINDS[kind](number), label(number % 3))), SIDE)
    np.testing.assert_array_equal(data.images(np.arange(COUNT)), expected)
    np.testing.assert_array_equal(data.labels, LABELS)
    assert data.spec == from_arrays(expected, LABELS).spec


def test_grey_and_transparent_images_become_rgb() -> None:
    for mode in ("L", "RGBA", "P"):
        data = from_torch(Items(lambda n, mode=mode: (Image.fromarray(pixels(n)).convert(mode), n % 3)), SIDE)  # type: ignore[misc]
        expected = np.asarray(Image.fromarray(pixels(4)).convert(mode).convert("RGB"))
        np.testing.assert_array_equal(data.images(np.asarray([4]))[0], expected)


@pytest.mark.parametrize("fit", ["crop", "stretch", "pad"])
def test_images_of_any_size_are_fitted_as_the_disks_are(fit: Any) -> None:
    def image(number: int) -> Image.Image:
        return Image.fromarray(noise(1, 40, seed=number)[0][:, : 24 + number % 9])

    data = from_torch(Items(lambda number: (image(number), number % 3)), SIDE, fit=fit)
    spec = DatasetSpec(name="any", image_size=SIDE, fit=fit)
    for number in (0, 5, 8):
        np.testing.assert_array_equal(data.images(np.asarray([number]))[0], fit_image(image(number), spec))


def test_an_image_of_three_rows_is_not_taken_for_three_channels() -> None:
    rows = np.random.default_rng(0).integers(0, 256, (COUNT, 3, 30, 3), dtype=np.uint8)
    data = from_torch(Items(lambda number: (rows[number], number % 3)), SIDE)
    expected = fit_image(Image.fromarray(rows[5]), DatasetSpec(name="any", image_size=SIDE))
    np.testing.assert_array_equal(data.images(np.asarray([5]))[0], expected)


def test_names_of_classes_are_the_data_sets_own_unless_given() -> None:
    def items(**attributes: Any) -> Items:
        return Items(lambda number: (pixels(number), number % 3), **attributes)

    assert from_torch(items(), SIDE).classes == ("0", "1", "2")
    assert from_torch(items(classes=["x", "y", "z"]), SIDE).classes == ("x", "y", "z")
    assert from_torch(items(classes=("x", "y", "z")), SIDE).classes == ("x", "y", "z")
    assert from_torch(items(classes=["x", "y", "z"]), SIDE, classes=["k", "l", "m"]).classes == ("k", "l", "m")
    assert from_torch(items(classes=3), SIDE).classes == ("0", "1", "2")  # a number of classes names none


def test_everything_else_is_as_of_arrays() -> None:
    items = Items(lambda number: (pixels(number), number % 3))
    sides = [SIDES[number % 5 % 3] for number in range(COUNT)]
    data = from_torch(items, SIDE, name="mine", splits=sides)
    assert (data.spec.name, [side_of(data)[number] for number in range(COUNT)]) == ("mine", sides)
    grouped = from_torch(items, SIDE, groups=[str(number // 4) for number in range(COUNT)])
    assert len(set(grouped.groups)) == COUNT // 4


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (lambda n: (pixels(n) / 255, 0), "item 0 is float64 of shape .*before ToTensor and Normalize"),
        (lambda n: (torch.rand(3, SIDE, SIDE), 0), "item 0 is float32"),
        (lambda n: (pixels(n)[..., 0], 0), r"item 0 is uint8 of shape \(16, 16\)"),
        (lambda n: (pixels(n) if n != 7 else pixels(n)[..., :2], n % 3), r"item 7 is uint8 of shape \(16, 16, 2\)"),
        (lambda n: pixels(n), r"item 0 is no \(image, label\)"),
        (lambda n: (pixels(n), n % 3, "id"), r"item 0 is no \(image, label\)"),
        (lambda n: (pixels(n), n % 3 if n != 5 else None), "item 5 is no .*whole number"),
        (lambda n: (pixels(n), 1.5), "item 0 is no .*whole number"),
        (lambda n: (pixels(n), "cat"), "item 0 is no .*whole number"),
        (lambda n: (pixels(n), [0, 1, 0]), "item 0 is no .*whole number"),
        (lambda n: (pixels(n), n % 3 - 1), "labels go from -1"),
    ],
)
def test_items_that_do_not_fit_are_named(item: Callable[[int], Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        from_torch(Items(item), SIDE)


@pytest.mark.parametrize(
    ("image_size", "fit", "message"),
    [(8, "crop", "image_size: .*, not 8"), (SIDE, "squeeze", "fit: .*, not 'squeeze'")],
)
def test_settings_that_cannot_be_are_refused(image_size: int, fit: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=f"data set 'items', {message}"):
        from_torch(Items(lambda number: (pixels(number), number % 3)), image_size, fit=fit)


def test_an_empty_data_set_is_refused() -> None:
    with pytest.raises(DataError, match="labels go from 0 to 0"):
        from_torch(Items(lambda number: (pixels(number), 0), count=0), SIDE)


def test_pixels_are_not_copied_more_than_needed_and_never_changed() -> None:
    images = noise()
    before = hashlib.sha256(images.tobytes()).hexdigest()
    data = from_arrays(images, LABELS)
    data.images(np.arange(3))[:] = 0
    assert hashlib.sha256(images.tobytes()).hexdigest() == before


@pytest.mark.parametrize(
    ("key", "value"), [("protocol", "grouped"), ("fold", 1), ("held_out", "pbc"), ("sources", ("pbc",))]
)
def test_settings_that_images_in_memory_cannot_have_are_refused(key: str, value: object) -> None:
    images = np.zeros((4, 16, 16, 3), np.uint8)
    with pytest.raises(ConfigError, match=f"{key} is no setting of images in memory; known: crop_fraction, fit"):
        from_arrays(images, np.array([0, 1, 0, 1]), **{key: value})
