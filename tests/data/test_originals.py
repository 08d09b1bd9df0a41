"""Originals found again: known transforms of made-up scenes, and the tables of the published images."""

from __future__ import annotations

import csv
import hashlib
from collections import Counter, defaultdict
from pathlib import Path

import cv2
import numpy as np
import pytest

from kdbench.data import originals
from kdbench.data.originals import describe, match_originals, overlaps
from kdbench.data.origins import DIGITS, bccd_originals, bccd_place, bccd_places

HEIGHT, WIDTH = 240, 320


def scene(seed: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Round cells of many sizes and shades on a bright ground, with texture inside."""
    draw = np.random.default_rng(seed)
    image = np.full((height, width), 210, np.float32)
    for _ in range(height * width // 1200):
        centre = (int(draw.integers(0, width)), int(draw.integers(0, height)))
        axes = (int(draw.integers(6, 22)), int(draw.integers(6, 22)))
        shade = float(draw.integers(60, 190))
        cv2.ellipse(image, centre, axes, float(draw.integers(0, 180)), 0, 360, shade, -1)
        cv2.circle(image, centre, 3, float(draw.integers(30, 220)), -1)
    image += cv2.GaussianBlur(draw.normal(0, 30, image.shape).astype(np.float32), (0, 0), 2)
    return cv2.GaussianBlur(image, (0, 0), 1).clip(0, 255).astype(np.uint8)


def moved(image: np.ndarray, degrees: float, zoom: float, shift: tuple[float, float], mirrored: bool) -> np.ndarray:
    image = image[:, ::-1].copy() if mirrored else image
    transform = cv2.getRotationMatrix2D((WIDTH / 2, HEIGHT / 2), degrees, zoom)
    transform[:, 2] += shift
    return cv2.warpAffine(image, transform, (WIDTH, HEIGHT), borderMode=cv2.BORDER_CONSTANT)


SCENES = {f"scene {number}": scene(number) for number in range(12)}


def test_known_transforms_are_found() -> None:
    draw, images, truth = np.random.default_rng(0), dict(SCENES), {}
    for number in range(36):
        name, original = f"copy {number}", f"scene {number % 12}"
        mirrored, zoom = bool(number % 2), float(draw.uniform(0.9, 1.1))
        shift = (float(draw.uniform(-30, 30)), float(draw.uniform(-25, 25)))
        images[name] = moved(SCENES[original], float(draw.uniform(-20, 20)), zoom, shift, mirrored)
        truth[name] = (original, mirrored, zoom)
    found = match_originals(list(truth), list(SCENES), images.__getitem__)
    assert [match.image for match in found] == list(truth)
    for match in found:
        original, mirrored, zoom = truth[match.image]
        assert (match.original, match.mirrored) == (original, mirrored)
        assert match.scale == pytest.approx(1 / zoom, rel=0.03)
        assert match.inliers >= 2 * match.runner_up


def test_what_is_of_no_original_is_not_given_one() -> None:
    strangers = {f"stranger {number}": scene(100 + number) for number in range(8)}
    flat = {"flat": np.full((HEIGHT, WIDTH), 128, np.uint8)}
    images = {**SCENES, **strangers, **flat}
    found = match_originals([*strangers, *flat], list(SCENES), images.__getitem__)
    assert [match.original for match in found] == [None] * 9
    assert max(match.inliers for match in found) < originals.ENOUGH
    assert (found[-1].inliers, found[-1].second) == (0, None)


def test_plain_originals_have_no_copies() -> None:
    plain = {f"plain {shade}": np.full((HEIGHT, WIDTH), shade, np.uint8) for shade in (90, 200)}
    images = {**SCENES, **plain}
    (match,) = match_originals(["scene 1"], list(plain), images.__getitem__)
    assert (match.original, match.inliers) == (None, 0)
    assert overlaps(list(plain), images.__getitem__) == []


def test_an_original_may_overlap_two_others() -> None:
    wide = scene(51, HEIGHT, WIDTH + 300)
    images = {**SCENES, **{f"shot {left}": wide[:, left : left + WIDTH].copy() for left in (0, 150, 300)}}
    found = {(pair.first, pair.second) for pair in overlaps(list(images), images.__getitem__)}
    assert {("shot 0", "shot 150"), ("shot 150", "shot 300")} <= found
    assert all(first.startswith("shot") and second.startswith("shot") for first, second in found)


def test_nothing_asked_nothing_found() -> None:
    assert match_originals([], list(SCENES), SCENES.__getitem__) == []


def test_descriptors_of_the_mirror_image_without_looking_at_it() -> None:
    image = SCENES["scene 0"]
    turned, seen = describe(image).mirrored(WIDTH), describe(image[:, ::-1].copy())
    distance = np.linalg.norm(turned.spots[:, None] - seen.spots[None], axis=2)
    same = distance.min(axis=1) < 1.0
    assert same.mean() > 0.8
    cosine = (turned.descriptors[same] * seen.descriptors[distance.argmin(axis=1)[same]]).sum(axis=1)
    assert np.median(cosine) > 0.97


def test_the_second_look_finds_what_the_first_misses(monkeypatch: pytest.MonkeyPatch) -> None:
    copy = moved(SCENES["scene 3"], 15.0, 0.9, (10.0, -10.0), mirrored=True)
    images = {**SCENES, "copy": copy}
    monkeypatch.setattr(originals, "QUICK", originals.Effort(1, 1, 1))
    (match,) = match_originals(["copy"], list(SCENES), images.__getitem__)
    assert (match.original, match.mirrored) == ("scene 3", True)


def test_progress_counts_images() -> None:
    told: list[tuple[str, int, int]] = []
    match_originals(["scene 1"], list(SCENES), SCENES.__getitem__, lambda *said: told.append(said))
    assert ("finding originals", 1, 1) in told


def test_two_photographs_of_one_place_overlap() -> None:
    wide = scene(50, HEIGHT + 80, WIDTH + 100)
    images = {
        **SCENES,
        "here": wide[:HEIGHT, :WIDTH].copy(),
        "there": cv2.convertScaleAbs(wide[80:, 100:], alpha=0.95, beta=4),
    }
    (found,) = overlaps(list(images), images.__getitem__)
    assert {found.first, found.second} == {"here", "there"}
    share = (WIDTH - 100) * (HEIGHT - 80) / (WIDTH * HEIGHT)
    assert found.share == pytest.approx(share, abs=0.03)
    assert found.correlation > 0.95


# ---------------------------------------------------------------- the tables in the package


def test_tables_are_whole() -> None:
    table = bccd_originals()
    assert len(table) == 12_513  # of 12,444 images and the 71 of TEST_SIMPLE, of which two pairs are equal
    assert len(set(table.values())) == 348
    assert all(len(digest) == DIGITS for digest in table)
    places = bccd_places()
    assert all(place <= number and places.get(place) == place for number, place in places.items())
    assert bccd_place(277) == bccd_place(204) == "BloodImage_00204"
    assert bccd_place(0) == "BloodImage_00000"


def labels(root: Path) -> dict[int, str]:
    rows = csv.reader((root / "bccd" / "labels.csv").read_text().splitlines())
    return {int(row[1]): row[2].strip() for row in rows if row[1].isdigit() and "," not in row[2] and row[2].strip()}


def files(root: Path) -> list[Path]:
    return sorted((root / "bccd" / "images").rglob("*.jpeg"))


@pytest.mark.realdata
def test_labels_of_the_originals_agree_with_the_folders(data_root: Path) -> None:
    """The originals have labels of their own, which the matching never saw."""
    known, table = labels(data_root), bccd_originals()
    folders = {path: table[hashlib.sha256(path.read_bytes()).hexdigest()[:DIGITS]] for path in files(data_root)}
    assert len(folders) == 12_515
    agree = Counter(path.parent.name == known.get(original) for path, original in folders.items())
    assert agree[True] / len(folders) > 0.999
    odd = [original for path, original in folders.items() if path.parent.name != known.get(original)]
    assert set(odd) <= {206, 278}  # one cell, photographed twice and labelled in two ways
    sides: dict[str, set[int]] = defaultdict(set)
    for path, original in folders.items():
        sides[path.parent.parent.name].add(original)
    assert len(sides["TRAIN"]) == 277
    assert {bccd_place(number) for number in sides["TRAIN"]} & {bccd_place(number) for number in sides["TEST"]}


@pytest.mark.realdata
def test_some_images_matched_again(data_root: Path) -> None:
    def read(name: str) -> np.ndarray:
        grey = cv2.imread(name, cv2.IMREAD_GRAYSCALE)
        assert grey is not None
        return cv2.resize(grey, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)

    gallery = sorted(str(path) for path in (data_root / "bccd" / "Original_Images").glob("*.jpg"))[:80]
    numbers = {int(Path(name).stem[-5:]) for name in gallery}
    table = bccd_originals()
    known = {
        str(path): table[hashlib.sha256(path.read_bytes()).hexdigest()[:DIGITS]] for path in files(data_root)[::50]
    }
    asked = [name for name, number in known.items() if number in numbers][:40]
    found = match_originals(asked, gallery, read)
    assert len(found) == 40
    assert all(match.original and int(Path(match.original).stem[-5:]) == known[match.image] for match in found)
