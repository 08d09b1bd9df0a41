"""Augmented images matched to their originals: the summary, the evidence, the table; on made-up photographs."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from kdbench.data.matching import Augmented, match_source, summarise_originals
from kdbench.data.source import SOURCES
from kdbench.data.survey import survey
from kdbench.errors import DataError
from kdbench.report.audits import render_audit
from kdbench.types import DatasetSpec

LABELS = ("eosinophil", "lymphocyte", "monocyte", "neutrophil")


def photograph(seed: int, width: int = 640, height: int = 480) -> np.ndarray:
    """Cells of many sizes and shades (H, W, 3) uint8."""
    draw = np.random.default_rng(seed)
    image = np.full((height, width, 3), 215, np.uint8)
    for _ in range(260):
        centre = (int(draw.integers(0, width)), int(draw.integers(0, height)))
        axes = (int(draw.integers(8, 36)), int(draw.integers(8, 36)))
        shade = tuple(float(value) for value in draw.integers(40, 200, 3))
        cv2.ellipse(image, centre, axes, float(draw.integers(0, 180)), 0, 360, shade, -1)
        cv2.circle(image, centre, 5, tuple(float(value) for value in draw.integers(20, 230, 3)), -1)
    return cv2.GaussianBlur(image, (0, 0), 1.5)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight originals, the last a second look at the first and labelled otherwise; five copies of each, half mirrored.

    The first four are trained on, so the place of the first is on both sides.
    """
    root = tmp_path_factory.mktemp("data")
    wide = photograph(99, 760, 560)
    shots = [wide[:480, :640], *(photograph(seed) for seed in range(6)), wide[60:540, 80:720]]
    (root / "bccd" / "Original_Images").mkdir(parents=True)
    lines, draw = [",Image,Category"], np.random.default_rng(0)
    for number, shot in enumerate(shots):
        Image.fromarray(np.ascontiguousarray(shot)).save(root / f"bccd/Original_Images/BloodImage_{number:05d}.jpg")
        lines.append(f",{number},{LABELS[number % 4].upper()}")
        part = "TRAIN" if number < 4 else "TEST"
        folder = root / "bccd" / "images" / part / LABELS[number % 4].upper()
        folder.mkdir(parents=True, exist_ok=True)
        small = cv2.resize(np.ascontiguousarray(shot), (320, 240), interpolation=cv2.INTER_AREA)
        for copy in range(5):
            turn = cv2.getRotationMatrix2D((160, 120), float(draw.uniform(-15, 15)), float(draw.uniform(0.95, 1.05)))
            view = cv2.warpAffine(small[:, :: 1 - 2 * (copy % 2)].copy(), turn, (320, 240))
            Image.fromarray(view).save(folder / f"_{number}_{copy}.jpeg", quality=95)
    (root / "bccd" / "labels.csv").write_text("\n".join([*lines, ",8,", ',9,"NEUTROPHIL, EOSINOPHIL"']) + "\n")
    return root


def augmented(root: Path) -> list[Augmented]:
    sides = {"TRAIN": "train", "TEST": "test"}
    return [
        Augmented(path.name, path, path.parent.name.lower(), sides[path.parent.parent.name], "00" * 32)
        for path in sorted((root / "bccd" / "images").rglob("*.jpeg"))
    ]


def test_what_is_found_and_what_speaks_for_it(root: Path) -> None:
    source = SOURCES.get("bccd")
    matching = match_source(source, root, augmented(root))
    assert matching is not None
    for image, match in zip(matching.images, matching.matches, strict=True):
        # the first and the last original show one place, so either may be the nearer one
        same = {0: {0, 7}, 7: {0, 7}}.get(number := int(image.id.split("_")[1]), {number})
        assert match.original is not None
        assert int(match.original[-5:]) in same
        assert match.mirrored == (image.id.split("_")[2] in ("1.jpeg", "3.jpeg"))
    (overlap,) = matching.overlaps
    assert (overlap.first, overlap.second) == ("BloodImage_00000", "BloodImage_00007")
    assert overlap.correlation > 0.95

    found = summarise_originals(source, root, matching)
    assert (found.images, found.originals, found.found, found.share) == (40, 8, 40, 1.0)
    assert (found.overlapping, found.overlapping_across) == (1, ("BloodImage_00000 = BloodImage_00007",))
    assert found.inliers_p5 > found.runner_up_median
    facts = {fact.what: fact.figure for fact in found.validation}
    assert facts["originals of one place under two labels"] == (
        "BloodImage_00000 eosinophil = BloodImage_00007 neutrophil"
    )
    agree, of = facts["images whose label is that of their original, which the matching never saw"].split()[0:3:2]
    assert int(agree) >= 38
    assert int(of) == 40
    assert "images with the original that the package's table gives" not in facts  # these files are in no table


def test_the_table_names_every_image_with_its_confidence(root: Path) -> None:
    matching = match_source(SOURCES.get("bccd"), root, augmented(root)[:3])
    assert matching is not None
    rows = list(csv.DictReader(matching.table().splitlines()))
    assert [row["image"] for row in rows] == [image.id for image in augmented(root)[:3]]
    for row in rows:
        assert int(row["inliers"]) > int(row["runner_up"])
        assert row["mirrored"] in ("yes", "no")
        assert row["original"].startswith("BloodImage_")


def test_without_originals_there_is_nothing_to_match(tmp_path: Path, root: Path) -> None:
    assert match_source(SOURCES.get("bccd"), tmp_path, augmented(root)) is None
    assert match_source(SOURCES.get("jtsc"), root, augmented(root)) is None
    assert match_source(SOURCES.get("bccd"), root, []) is None


def test_an_original_that_is_no_image_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = root / "broken.jpg"
    broken.write_bytes(b"no image")
    source = SOURCES.get("bccd")
    known: Mapping[str, Path] = source.originals(root)
    monkeypatch.setattr(source, "originals", lambda root: {**known, "broken": broken})
    with pytest.raises(DataError, match=r"broken\.jpg cannot be decoded"):
        match_source(source, root, augmented(root)[:1])


def test_the_audit_has_it_all_on_its_page(root: Path, tmp_path: Path) -> None:
    mapping = tmp_path / "mapping.csv"
    record = survey(
        DatasetSpec(name="bccd", image_size=64, val_fraction=0.3), root, tmp_path / "cache", mapping=mapping
    )
    assert record.originals is not None
    assert record.originals.found == 40
    assert record.originals.by_split.keys() == {"train", "test"}
    page = render_audit(record)
    assert "BloodImage\\_00000 = BloodImage\\_00007" in page or "BloodImage_00000 = BloodImage_00007" in page
    assert len(mapping.read_text().splitlines()) == 41
