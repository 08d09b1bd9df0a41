"""The generated source: same bytes always, balanced, told apart by what haematology tells the cells apart by."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdbench.data.source import SOURCES, Item
from kdbench.data.sources.synthetic import draw
from kdbench.errors import BadImage, ConfigError

LABELS = ("basophil", "eosinophil", "lymphocyte", "monocyte", "neutrophil")
NOWHERE = Path("/nonexistent")


def pixels(item: Item, **options: int | float) -> np.ndarray:
    return np.asarray(SOURCES.get("synthetic").read(item, options))


def items(**options: int | float) -> tuple[Item, ...]:
    return SOURCES.get("synthetic").scan(NOWHERE, options).items


def sample(label: str, difficulty: float, count: int = 16) -> np.ndarray:
    """(count, 60, 60, 3) in [0, 1]: the middle of images of one class, where the leukocyte lies."""
    first = LABELS.index(label)
    images = [draw(3, first + 5 * turn, label, difficulty)[18:78, 18:78] for turn in range(count)]
    return np.stack(images).astype(np.float64) / 255


# ---------------------------------------------------------------- the listing


def test_source_keeps_the_order_of_labels() -> None:
    assert SOURCES.get("synthetic").labels == LABELS


def test_default_count_is_3000() -> None:
    assert len(items()) == 3000


@pytest.mark.parametrize("count", [50, 1000, 53])
def test_labels_are_balanced_and_ids_unique(count: int) -> None:
    listed = items(count=count)
    numbers = Counter(item.label for item in listed)
    assert set(numbers) == set(LABELS)
    assert max(numbers.values()) - min(numbers.values()) <= (0 if count % 5 == 0 else 1)
    assert len({item.id for item in listed}) == count
    assert all(item.path is None and item.group is None and item.fold is None for item in listed)


def test_ids_sort_in_the_order_of_the_images() -> None:
    ids = [item.id for item in items(count=1200)]
    assert ids == sorted(ids)
    assert ids[123] == "synthetic/000123"


# ---------------------------------------------------------------- the bytes


def test_image_is_96_pixels_rgb() -> None:
    image = SOURCES.get("synthetic").read(items()[0], {})
    assert isinstance(image, Image.Image)
    assert (image.mode, image.size) == ("RGB", (96, 96))


def test_same_bytes_again_and_in_any_order() -> None:
    chosen = items(count=50)[:10]
    forward = [pixels(item).tobytes() for item in chosen]
    backward = [pixels(item).tobytes() for item in reversed(chosen)]
    assert forward == backward[::-1]
    assert len(set(forward)) == 10


def test_numpys_global_stream_neither_moves_nor_matters() -> None:
    np.random.seed(1)
    follows = np.random.random()
    np.random.seed(1)
    image = pixels(items()[4])
    assert np.random.random() == follows
    np.random.seed(2)
    assert np.array_equal(pixels(items()[4]), image)


def test_bytes_are_the_same_on_every_machine() -> None:
    digest = hashlib.sha256(b"".join(pixels(item).tobytes() for item in items()[:20])).hexdigest()
    # changes only on purpose: another drawing is another data set
    assert digest[:16] == "187a0edff31e7c95"


def test_image_does_not_depend_on_the_count() -> None:
    few, many = items(count=100)[7], items(count=1000)[7]
    assert few == many
    assert np.array_equal(pixels(few, count=100), pixels(many, count=1000))


def test_seed_and_difficulty_and_label_change_the_image() -> None:
    base = draw(0, 7, "lymphocyte", 0.5)
    for other in (
        draw(1, 7, "lymphocyte", 0.5),
        draw(0, 12, "lymphocyte", 0.5),
        draw(0, 7, "lymphocyte", 0.6),
        draw(0, 7, "monocyte", 0.5),
    ):
        assert not np.array_equal(base, other)


def test_defaults_are_what_missing_options_mean() -> None:
    item = items()[11]
    assert np.array_equal(pixels(item), pixels(item, count=3000, seed=0, difficulty=0.5))


def test_difficulty_one_may_be_written_as_a_whole_number() -> None:
    item = items()[3]
    assert np.array_equal(pixels(item, difficulty=1), pixels(item, difficulty=1.0))


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"cuont": 100}, "cuont"),
        ({"count": 49}, "49"),
        ({"count": 100.0}, "100.0"),
        ({"count": True}, "True"),
        ({"count": "many"}, "many"),
        ({"count": 1_000_001}, "1000001"),
        ({"seed": -1}, "-1"),
        ({"seed": 0.5}, "0.5"),
        ({"difficulty": 1.01}, "1.01"),
        ({"difficulty": -0.1}, "-0.1"),
        ({"difficulty": float("nan")}, "nan"),
        ({"difficulty": "hard"}, "hard"),
        ({"difficulty": False}, "False"),
    ],
)
def test_wrong_option_is_named_with_its_value(options: dict[str, int | float | str], says: str) -> None:
    source = SOURCES.get("synthetic")
    with pytest.raises(ConfigError, match="synthetic") as caught:
        source.scan(NOWHERE, options)
    (problem,) = caught.value.problems
    assert next(iter(options)) in problem
    assert says in problem
    with pytest.raises(ConfigError):
        source.read(Item("synthetic/000000", "basophil"), options)


def test_all_wrong_options_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        items(count=1, seed=-1, difficulty=2, extra=0)
    assert len(caught.value.problems) == 4


@pytest.mark.parametrize("item", [Item("synthetic/000001", "erythroblast"), Item("pbc/a.jpg", "monocyte")])
def test_foreign_item_is_a_bad_image(item: Item) -> None:
    with pytest.raises(BadImage, match=item.label):
        SOURCES.get("synthetic").read(item, {})


# ---------------------------------------------------------------- what is in the pictures


def whites(images: np.ndarray) -> np.ndarray:
    """Part of each picture's middle that is blue or purple: leukocyte, since red cells and plasma are neither."""
    red, green, blue = np.moveaxis(images, -1, 0)
    return ((blue - green > 0.06) & (blue > red - 0.02)).mean(axis=(1, 2))


def dark(images: np.ndarray) -> np.ndarray:
    """Part of each picture's middle that has the purple of a nucleus or of basophil granules."""
    red, green, _ = np.moveaxis(images, -1, 0)
    return ((red < 0.62) & (green < 0.5)).mean(axis=(1, 2))


def orange(images: np.ndarray) -> np.ndarray:
    """Part of each picture's middle that has the colour of eosin, as eosinophil granules and red cells do."""
    red, green, blue = np.moveaxis(images, -1, 0)
    return ((red - blue > 0.12) & (green < 0.72)).mean(axis=(1, 2))


@pytest.fixture(scope="module", params=[0.0, 0.5])
def fields(request: pytest.FixtureRequest) -> dict[str, np.ndarray]:
    return {label: sample(label, request.param) for label in LABELS}


def test_lymphocyte_is_small_and_mostly_nucleus(fields: dict[str, np.ndarray]) -> None:
    size = {label: whites(fields[label]).mean() for label in LABELS}
    assert size["lymphocyte"] < 0.65 * size["monocyte"]
    ratio = {label: (dark(fields[label]) / whites(fields[label])).mean() for label in ("lymphocyte", "monocyte")}
    assert ratio["lymphocyte"] > 1.4 * ratio["monocyte"]


def test_eosinophil_is_the_most_orange(fields: dict[str, np.ndarray]) -> None:
    share = {label: orange(fields[label]).mean() for label in LABELS}
    assert max(share, key=share.__getitem__) == "eosinophil"
    assert share["eosinophil"] > 2 * share["neutrophil"]


def test_basophil_is_darker_than_the_other_granulocytes(fields: dict[str, np.ndarray]) -> None:
    share = {label: dark(fields[label]).mean() for label in LABELS}
    assert share["basophil"] > 1.1 * max(share["neutrophil"], share["eosinophil"])


def test_neutrophil_is_paler_than_eosinophil_and_basophil(fields: dict[str, np.ndarray]) -> None:
    green = {label: fields[label][..., 1].mean() for label in LABELS}
    assert green["neutrophil"] > max(green["eosinophil"], green["basophil"])


def test_background_is_bright_and_uneven_stain_grows_with_difficulty() -> None:
    def spread(difficulty: float) -> float:
        skies = []
        for index in range(20):
            image = draw(5, index, LABELS[index % 5], difficulty)
            sky = np.percentile(image.reshape(-1, 3), 80, axis=0)
            assert sky.min() > 150
            skies.append(sky)
        return float(np.std(skies, axis=0).mean())

    assert spread(1.0) > 1.5 * spread(0.0)


def test_textbook_cells_are_easier_for_a_nearest_mean_than_hard_ones() -> None:
    def accuracy(difficulty: float) -> float:
        features, labels = [], []
        for number, label in enumerate(LABELS):
            images = sample(label, difficulty, count=24)
            features.append(np.stack([whites(images), dark(images), orange(images)], axis=1))
            labels += [number] * len(images)
        table, truth = np.concatenate(features), np.array(labels)
        table = (table - table.mean(axis=0)) / table.std(axis=0)
        train = np.arange(len(table)) % 2 == 0
        means = np.stack([table[train & (truth == number)].mean(axis=0) for number in range(5)])
        guess = ((table[~train, None] - means) ** 2).sum(axis=2).argmin(axis=1)
        return float((guess == truth[~train]).mean())

    easy, hard = accuracy(0.0), accuracy(1.0)
    assert easy > hard
    assert hard > 0.3  # chance is 0.2
