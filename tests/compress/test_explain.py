"""Covering parts of an image finds what an answer rests on."""

from __future__ import annotations

import numpy as np
import pytest

from kdbench.compress.artefact import Preprocessing
from kdbench.compress.classifier import Classifier
from kdbench.compress.explain import occlusion
from kdbench.types import DatasetSpec, ModelChoice


def looking_at(size, rows, columns):
    """A classifier for which only the red of one place counts: more of it makes the first of two classes likelier."""
    seen = Preprocessing.of(DatasetSpec(name="x", image_size=size), ModelChoice(name="resnet8_w16"))

    def forward(images):
        red = images[:, 0, rows, columns].mean(axis=(1, 2))
        return np.stack([red, -red], axis=1)

    return Classifier("looking", ("red", "other"), seen, "torch", forward)


@pytest.mark.parametrize("size", [16, 32, 33, 48])
def test_the_place_that_counts_is_found(size):
    rows, columns = slice(size // 4, size // 4 + 4), slice(size // 2, size // 2 + 4)
    pixels = np.full((size, size, 3), 40, np.uint8)
    pixels[rows, columns, 0] = 255
    heat = occlusion(looking_at(size, rows, columns), pixels, 0, batch=7)
    assert heat.shape == (size, size)
    hottest = np.unravel_index(heat.argmax(), heat.shape)
    assert rows.start - 1 <= hottest[0] <= rows.stop
    assert columns.start - 1 <= hottest[1] <= columns.stop
    assert heat.min() >= -1e-6
    assert heat[-1, 0] == pytest.approx(0, abs=1e-6)  # far away nothing happens
    # of the other class the same place takes probability away
    np.testing.assert_allclose(occlusion(looking_at(size, rows, columns), pixels, 1), -heat, atol=1e-6)


def test_an_image_of_one_colour_has_no_such_place():
    steps = []
    pixels = np.full((32, 32, 3), 90, np.uint8)
    heat = occlusion(looking_at(32, slice(8), slice(8)), pixels, 0, batch=32, progress=lambda *step: steps.append(step))
    np.testing.assert_allclose(heat, 0, atol=1e-7)
    assert steps[-1] == ("covering parts of the image", 361, 361)


def test_the_edges_are_covered_as_often_as_the_middle():
    """A network that looks everywhere alike finds no place hotter than another by how often it was covered."""
    size = 32
    pixels = np.full((size, size, 3), 200, np.uint8)
    pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1] = 0, 0, 0, 0
    heat = occlusion(looking_at(size, slice(size), slice(size)), pixels, 0)
    assert heat[4:-4, 4:-4].min() > 0
    assert heat[0, 0] > 0.2 * heat.max()
