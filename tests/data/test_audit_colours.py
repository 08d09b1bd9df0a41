"""Colours of known pictures come out as they were put in."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest

from kdbench.data.colours import measure_colours, summarise

BACKGROUND, STAIN = (240, 230, 220), (120, 60, 150)


def field(stained_rows: int, fill_rows: int = 0) -> np.ndarray:
    image = np.full((64, 64, 3), BACKGROUND, np.uint8)
    image[:stained_rows] = STAIN
    if fill_rows:
        image[-fill_rows:] = 0
    return image


def test_of_a_plain_field() -> None:
    found = summarise(np.stack([measure_colours(field(0))] * 3), "x")
    assert found.images == 3
    assert found.rgb_mean == BACKGROUND
    assert found.rgb_std == pytest.approx((0, 0, 0), abs=0.05)
    lab = cv2.cvtColor(np.float32([[BACKGROUND]]) / 255, cv2.COLOR_RGB2LAB)[0, 0]
    assert found.lab_mean == pytest.approx(tuple(map(float, lab)), abs=0.05)
    assert found.background == pytest.approx(float(lab[0]), abs=0.05)
    assert (found.density, found.stained, found.fill) == (0, 0, 0)


def test_stain_is_measured_above_the_background() -> None:
    found = summarise(np.stack([measure_colours(field(16))]), "x", "y")
    wanted = np.mean([math.log10(b / s) for b, s in zip(BACKGROUND, STAIN, strict=True)])
    assert found.density == pytest.approx(wanted, abs=1e-3)
    assert found.stained == pytest.approx(0.25)
    lab = cv2.cvtColor(np.float32([[STAIN]]) / 255, cv2.COLOR_RGB2LAB)[0, 0]
    assert found.hue_degrees == pytest.approx(math.degrees(math.atan2(lab[2], lab[1])) % 360, abs=0.1)
    assert found.rgb_mean == pytest.approx(tuple(0.75 * b + 0.25 * s for b, s in zip(BACKGROUND, STAIN, strict=True)))


def test_black_fill_is_left_out_and_told() -> None:
    filled = summarise(np.stack([measure_colours(field(0, fill_rows=32))]), "x")
    assert filled.fill == 0.5
    assert filled.rgb_mean == BACKGROUND


def test_the_blurred_edge_of_fill_is_no_stain() -> None:
    image = field(0, fill_rows=20)
    image[-22:-20] = 70  # as a turned and rescaled image has it
    assert summarise(np.stack([measure_colours(image)]), "x").stained == 0


def test_a_few_black_pixels_are_a_cells() -> None:
    image = field(0)
    image[30:34, 30:34] = 5
    found = summarise(np.stack([measure_colours(image)]), "x")
    assert (found.fill, found.stained) == (0, pytest.approx(16 / 64**2, abs=1e-4))


def test_deviation_is_between_images() -> None:
    dark = (field(16) * 0.8).astype(np.uint8)
    found = summarise(np.stack([measure_colours(field(16)), measure_colours(dark)]), "x")
    levels = [
        cv2.cvtColor(image[-1:, -1:].astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[0, 0, 0] for image in (field(0), dark)
    ]
    assert found.background == pytest.approx(np.mean(levels), abs=0.05)
    assert found.background_std == pytest.approx(np.std(levels), abs=0.05)


def test_of_a_black_image_there_is_nothing_to_say() -> None:
    found = summarise(np.stack([measure_colours(np.zeros((64, 64, 3), np.uint8))]), "x")
    assert (found.fill, found.background, found.density, found.images) == (1, 0, 0, 1)
