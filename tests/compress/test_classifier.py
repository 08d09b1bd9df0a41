"""Image files of every kind, in folders and alone: read, asked, or named and skipped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from little import small
from PIL import Image

from kdbench.compress.artefact import Preprocessing
from kdbench.compress.classifier import Classifier, Predictions, image_files, torch_forward
from kdbench.errors import ConfigError, ExportError
from kdbench.types import DatasetSpec, ModelChoice

LABELS = ("a", "b", "c", "d", "e")


def seen(**settings):
    return Preprocessing.of(DatasetSpec(name="x", image_size=16, **settings), ModelChoice(name="resnet8_w16"))


@pytest.fixture(autouse=True)
def _one_core(monkeypatch):
    monkeypatch.setattr("kdbench.data.cache.usable_cores", lambda: 1)


@pytest.fixture
def classifier():
    return Classifier("small", LABELS, seen(), "torch", torch_forward(small()))


def noise(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def images(tmp_path):
    """A folder of images of many kinds, some of which are none."""
    grey = noise((20, 24))
    colour = noise((20, 24, 3))
    kinds = {
        "plain.png": Image.fromarray(colour),
        "alpha.png": Image.fromarray(np.dstack([colour, grey])),
        "cmyk.jpg": Image.fromarray(np.dstack([colour, grey]), mode="CMYK"),
        "grey.bmp": Image.fromarray(grey),
        "palette.png": Image.fromarray(colour).quantize(16),
        "deep/16bit.png": Image.fromarray(grey.astype(np.uint16) * 257),
        "deep/16bit.TIFF": Image.fromarray(grey.astype(np.uint16) * 257),
    }
    for name, image in kinds.items():
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    folder = tmp_path / "images"
    (folder / "empty.png").touch()
    (folder / "text.png").write_text("no image")
    (folder / "half.png").write_bytes((folder / "plain.png").read_bytes()[:300])
    (folder / "notes.txt").write_text("mine")
    (folder / ".hidden.png").write_bytes((folder / "plain.png").read_bytes())
    return folder


GOOD = ("alpha.png", "cmyk.jpg", "deep/16bit.TIFF", "deep/16bit.png", "grey.bmp", "palette.png", "plain.png")


def test_every_kind_of_image_is_read_and_the_rest_is_named(classifier, images):
    files, passed = image_files([images])
    found = classifier.predict(files, batch=2)
    assert [path.relative_to(images).as_posix() for path in found.files] == list(GOOD)
    assert found.logits.shape == (len(GOOD), 5)
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1)
    reasons = {Path(entry.path).name: entry.reason for entry in (*found.skipped, *passed)}
    assert reasons.pop("half.png")  # as the decoder puts it
    assert reasons == {
        "empty.png": "it is empty",
        "text.png": "not an image",
        "notes.txt": "its name is not an image's",
        ".hidden.png": "its name is not an image's",
    }


def test_what_is_in_an_image_does_not_depend_on_how_it_is_stored(classifier, images):
    """Alpha is left out; 16 bits of one grey are its 8."""
    found = classifier.predict([images / name for name in GOOD])
    row = dict(zip(GOOD, found.logits, strict=True))
    np.testing.assert_array_equal(row["plain.png"], row["alpha.png"])
    np.testing.assert_array_equal(row["grey.bmp"], row["deep/16bit.png"])
    np.testing.assert_array_equal(row["grey.bmp"], row["deep/16bit.TIFF"])


@pytest.mark.parametrize("batch", [1, 3, 100])
def test_the_batch_changes_nothing(classifier, images, batch):
    files, _ = image_files([images])
    steps = []
    found = classifier.predict(files, batch, lambda *step: steps.append(step))
    np.testing.assert_allclose(found.logits, classifier.predict(files).logits, atol=1e-6)
    assert steps[-1] == ("predicting", len(files), len(files))
    assert len(steps) == -(-len(files) // batch)


def test_named_files_are_taken_whatever_they_are_called(classifier, images):
    files, passed = image_files([images / "plain.png", images / "notes.txt", images / "plain.png"])
    assert (files, passed) == ([images / "plain.png", images / "notes.txt"], [])
    (skipped,) = classifier.predict(files).skipped
    assert (Path(skipped.path).name, skipped.reason) == ("notes.txt", "not an image")


def test_nothing_is_a_prediction_of_nothing(classifier, images):
    found = classifier.predict([images / "empty.png"])
    assert (found.files, found.logits.shape, found.probabilities.shape) == ((), (0, 5), (0, 5))
    assert classifier.predict([]).skipped == ()


def test_missing_files_are_all_named(tmp_path, images):
    with pytest.raises(ConfigError) as refused:
        image_files([images, tmp_path / "one.png", tmp_path / "two"])
    assert refused.value.problems == tuple(
        f"there is no file or folder {tmp_path / name}; check the path" for name in ("one.png", "two")
    )


@pytest.mark.parametrize(
    ("forward", "said"),
    [
        (lambda images: np.zeros((len(images), 4)), r"gives \(2, 4\) for 2 images and 5 labels"),
        (lambda images: np.full((len(images), 5), np.nan), "gives numbers that are not finite"),
        (lambda images: 1 / 0, "torch cannot run it: division by zero"),
    ],
)
def test_a_network_that_does_not_work(forward, said):
    with pytest.raises(ExportError, match=said):
        Classifier("small", LABELS, seen(), "torch", forward).logits(noise((2, 16, 16, 3)))


def test_normalised_as_the_formula_says():
    pixels = noise((2, 16, 16, 3))
    expected = (pixels / 255 - np.asarray(seen().mean)) / np.asarray(seen().std)
    found = seen().normalised(pixels)
    assert (found.dtype, found.shape) == (np.float32, (2, 3, 16, 16))
    np.testing.assert_allclose(found, expected.transpose(0, 3, 1, 2), atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"fit": "crop", "crop_fraction": 0.75}, "crop the middle square, 0.75 of the shorter side"),
        ({"fit": "stretch"}, "resize to 16 x 16 pixels, bicubic"),
        ({"fit": "pad"}, "pad with the mean colour of the border"),
        ({"stain": "macenko"}, "reference stain: macenko"),
    ],
)
def test_the_steps_for_people(settings, said):
    assert said in " ".join(seen(**settings).steps)


def test_the_network_is_asked_without_a_gradient():
    network = small()
    said = torch_forward(network)(np.zeros((1, 3, 16, 16), np.float32))
    assert isinstance(said, np.ndarray)
    assert all(parameter.grad is None for parameter in network.parameters())
    assert torch.is_grad_enabled()


def test_predictions_hold_together():
    found = Predictions(("a", "b"), (Path("x"),), np.asarray([[0.0, np.log(3)]], np.float32), ())
    np.testing.assert_allclose(found.probabilities, [[0.25, 0.75]], rtol=1e-6)
