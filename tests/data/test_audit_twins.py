"""Near duplicates: planted among drawn cells they are found, whatever was done to them, and nothing else is."""

from __future__ import annotations

import io
from collections.abc import Callable

import imagehash
import numpy as np
import pytest
from PIL import Image

from kdbench.data.sources.synthetic import draw
from kdbench.data.twins import (
    HASH_LIMIT,
    SIDE,
    TURNS,
    _hashes,
    correlation,
    detail_of,
    find_twins,
    turned,
)

LABELS = ("basophil", "eosinophil", "lymphocyte", "monocyte", "neutrophil")
CELLS = [Image.fromarray(draw(3, number, LABELS[number % 5], 0.5)) for number in range(300)]


def encoded(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def brightened(image: Image.Image, gain: float) -> Image.Image:
    return image.point([min(255, round(value * gain)) for value in range(256)] * 3)


def warmer(image: Image.Image) -> Image.Image:
    gains = (1.06, 1.0, 0.94)
    return image.point([min(255, round(value * gain)) for gain in gains for value in range(256)])


def rescaled(image: Image.Image, side: int) -> Image.Image:
    return image.resize((side, side), Image.Resampling.BICUBIC)


def shifted(image: Image.Image, pixels: int) -> Image.Image:
    """As if cut out that far from where it was: what is new at the edge is its mirror image."""
    wide = np.pad(np.asarray(image), ((0, 0), (0, pixels), (0, 0)), mode="reflect")
    return Image.fromarray(np.ascontiguousarray(wide[:, pixels:]))


def filled(image: Image.Image) -> Image.Image:
    """With black corners, as an augmented image has."""
    return image.rotate(8, Image.Resampling.BICUBIC, fillcolor=(0, 0, 0))


Change = Callable[[Image.Image], Image.Image]
CHANGES: dict[str, Change] = {
    "quarter turn": lambda image: image.transpose(Image.Transpose.ROTATE_90),
    "half turn": lambda image: image.transpose(Image.Transpose.ROTATE_180),
    "flip": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "flip over": lambda image: image.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
    "transposed": lambda image: image.transpose(Image.Transpose.TRANSPOSE),
    "JPEG": lambda image: encoded(image, 75),
    "poor JPEG": lambda image: encoded(image, 30),
    "brighter": lambda image: brightened(image, 1.1),
    "darker": lambda image: brightened(image, 0.85),
    "warmer": warmer,
    "smaller": lambda image: rescaled(image, 60),
    "larger": lambda image: rescaled(image, 200),
    "shifted": lambda image: shifted(image, 2),
    "all at once": lambda image: rescaled(
        encoded(brightened(image.transpose(Image.Transpose.ROTATE_270), 1.05), 60), 150
    ),
}


def small(images: list[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for image in images])


@pytest.fixture(scope="module")
def planted() -> list[tuple[int, str]]:
    """Which cell each planted image was made of, and how: five cells for every change."""
    return [(5 * place + number, name) for place, name in enumerate(CHANGES) for number in range(5)]


def test_planted_twins_are_found_and_nothing_else(planted: list[tuple[int, str]]) -> None:
    images = small([*CELLS, *(CHANGES[name](CELLS[cell]) for cell, name in planted)])
    twins, blank = find_twins(images)
    found = {(int(first), int(second)) for first, second in twins.pairs}
    missed = [planted[number] for number in range(len(planted)) if (planted[number][0], 300 + number) not in found]
    assert missed == []
    assert found == {(cell, 300 + number) for number, (cell, _) in enumerate(planted)}  # and no two different cells
    assert not blank.any()


@pytest.mark.parametrize("turn", range(8))
def test_the_turn_that_is_named_lays_one_on_the_other(turn: int) -> None:
    image = small(CELLS[:1])[0]
    twins, _ = find_twins(np.stack([image, turned(image, turn)]))
    assert twins.pairs.tolist() == [[0, 1]]
    assert (TURNS[twins.turns[0]], int(twins.distances[0])) == (TURNS[turn], 0)
    assert twins.details[0] == pytest.approx(1, abs=1e-3)
    assert np.array_equal(turned(image, int(twins.turns[0])), turned(image, turn))


def test_the_hash_is_the_librarys() -> None:
    image = small(CELLS[:1])
    for turn, words in enumerate(_hashes(image, "x", None)[:, 0]):
        grey = Image.fromarray(turned(np.asarray(Image.fromarray(image[0]).convert("L")), turn))
        bits = np.unpackbits(words.view(np.uint8)).reshape(16, 16).astype(bool)
        assert imagehash.ImageHash(bits) == imagehash.phash(grey, hash_size=16)


def test_black_corners_do_not_make_twins() -> None:
    """They are the same in every image turned by one angle, and the strongest thing in it."""
    images = small([filled(image) for image in CELLS[:120]])
    twins, _ = find_twins(images)
    assert len(twins.pairs) == 0
    twice, _ = find_twins(np.concatenate([images, small([encoded(filled(CELLS[7]), 50)])]))
    assert twice.pairs.tolist() == [[7, 120]]


def test_plain_areas_are_no_twins_of_each_other() -> None:
    plain = [np.full((SIDE, SIDE, 3), value, np.uint8) for value in (0, 90, 90, 255)]
    twins, blank = find_twins(np.stack([*plain, small(CELLS[:1])[0]]))
    assert len(twins.pairs) == 0
    assert blank.tolist() == [True, True, True, True, False]


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_to_compare(count: int) -> None:
    twins, blank = find_twins(small(CELLS[:1])[:count])
    assert (len(twins.pairs), len(blank)) == (0, count)


def test_every_candidate_is_compared_whatever_block_it_is_in(monkeypatch: pytest.MonkeyPatch) -> None:
    images = small([*CELLS[:20], CELLS[3], CELLS[19]])
    whole, _ = find_twins(images)
    monkeypatch.setattr("kdbench.data.twins._BLOCK", 3)
    parts, _ = find_twins(images)
    assert whole.pairs.tolist() == parts.pairs.tolist() == [[3, 20], [19, 21]]
    assert max(whole.distances) <= HASH_LIMIT


def test_detail_has_unit_length_and_forgets_gain_and_offset() -> None:
    image = small(CELLS[:1])[0] // 2 + 20
    detail, strength = detail_of(image)
    brighter, stronger = detail_of((image.astype(int) * 3 // 2 + 10).clip(0, 255).astype(np.uint8))
    assert np.square(detail).sum() == pytest.approx(1, abs=1e-4)
    assert detail.mean() == pytest.approx(0, abs=1e-6)
    assert correlation(detail, brighter) == pytest.approx(1, abs=0.01)
    assert stronger == pytest.approx(1.5 * strength, rel=0.05)
    assert correlation(detail, -detail) < 0.5


def test_half_the_size_settles_nothing_wrongly(planted: list[tuple[int, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    images = small([*CELLS[:80], *(CHANGES[name](CELLS[cell]) for cell, name in planted)])
    quick, _ = find_twins(images)
    monkeypatch.setattr("kdbench.data.twins.COARSE_SLACK", 2.0)  # every candidate is looked at in full
    thorough, _ = find_twins(images)
    assert quick.pairs.tolist() == thorough.pairs.tolist()
    assert quick.details.tolist() == thorough.details.tolist()
