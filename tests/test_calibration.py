"""Calibration: closed forms, and torchmetrics as an independent source."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import entropy as scipy_entropy
from scipy.stats import mannwhitneyu

from kdbench.calibration import auroc, brier, ece, entropy, softmax


def some(count: int = 500, classes: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits of a classifier that is right more often than not, and labels."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, classes, count)
    logits = 1.5 * draw.standard_normal((count, classes))
    logits[np.arange(count), labels] += 1.0
    return logits, labels


def test_softmax_is_the_one_of_torch_and_survives_large_logits() -> None:
    logits, _ = some()
    np.testing.assert_allclose(softmax(logits), torch.softmax(torch.from_numpy(logits), 1).numpy(), rtol=1e-12)
    np.testing.assert_array_equal(softmax(np.array([[1e4, 0.0, -1e4]], np.float32)), [[1.0, 0.0, 0.0]])


@pytest.mark.parametrize("classes", [2, 5, 8])
@pytest.mark.parametrize("bins", [10, 15])
def test_ece_is_the_one_of_torchmetrics(classes: int, bins: int) -> None:
    metrics = pytest.importorskip("torchmetrics.classification")
    logits, labels = some(classes=classes)
    probabilities = softmax(logits)
    theirs = metrics.MulticlassCalibrationError(classes, n_bins=bins, norm="l1")(
        torch.from_numpy(probabilities), torch.from_numpy(labels)
    )
    assert ece(probabilities, labels, bins) == pytest.approx(float(theirs), abs=1e-6)


def test_ece_is_zero_where_confidence_is_accuracy() -> None:
    probabilities = np.tile([0.75, 0.25], (8, 1))
    labels = np.array([0, 0, 0, 1, 0, 0, 0, 1])
    assert ece(probabilities, labels) == pytest.approx(0, abs=1e-15)


def test_ece_of_one_bin_is_the_distance_of_confidence_and_accuracy() -> None:
    probabilities = np.tile([0.9, 0.1], (10, 1))
    labels = np.array([0] * 4 + [1] * 6)
    assert ece(probabilities, labels) == pytest.approx(0.5)


def test_errors_of_two_bins_do_not_cancel() -> None:
    probabilities = np.array([[0.95, 0.05]] * 2 + [[0.55, 0.45]] * 2)
    labels = np.array([1, 1, 0, 0])  # sure and wrong, unsure and right
    assert ece(probabilities, labels) == pytest.approx((0.95 + 0.45) / 2)


def test_a_sure_classifier_is_wholly_right_or_wholly_wrong() -> None:
    probabilities = np.eye(3)
    assert ece(probabilities, np.array([0, 1, 2])) == 0
    assert ece(probabilities, np.array([1, 2, 0])) == 1
    assert brier(probabilities, np.array([0, 1, 2])) == 0
    assert brier(probabilities, np.array([1, 2, 0])) == 2


def test_brier_of_someone_who_knows_nothing() -> None:
    classes = 5
    probabilities = np.full((7, classes), 1 / classes)
    assert brier(probabilities, np.arange(7) % classes) == pytest.approx(1 - 1 / classes)


def test_brier_of_two_classes_is_twice_the_square_of_the_error() -> None:
    probabilities = np.array([[0.7, 0.3], [0.2, 0.8]])
    assert brier(probabilities, np.array([0, 0])) == pytest.approx((2 * 0.3**2 + 2 * 0.8**2) / 2)


@pytest.mark.parametrize("classes", [2, 5, 8])
@pytest.mark.parametrize("digits", [1, 15])  # rounded, most pairs are ties
def test_auroc_is_the_one_of_torchmetrics(classes: int, digits: int) -> None:
    metrics = pytest.importorskip("torchmetrics.classification")
    logits, labels = some(classes=classes)
    probabilities = softmax(logits).round(digits)
    theirs = metrics.MulticlassAUROC(classes, average="macro")(
        torch.from_numpy(probabilities), torch.from_numpy(labels)
    )
    assert auroc(probabilities, labels) == pytest.approx(float(theirs), abs=1e-6)


def test_auroc_is_mann_and_whitneys_u_over_the_classes_that_occur() -> None:
    logits, labels = some(classes=4, seed=1)
    logits, labels = logits[labels != 2], labels[labels != 2]
    probabilities = softmax(logits).round(2)
    areas = []
    for label in (0, 1, 3):
        own, others = probabilities[labels == label, label], probabilities[labels != label, label]
        areas.append(mannwhitneyu(own, others).statistic / (len(own) * len(others)))
    assert auroc(probabilities, labels) == pytest.approx(np.mean(areas), abs=1e-12)


def test_auroc_at_its_ends_at_chance_and_where_there_is_none() -> None:
    labels = np.array([0, 0, 1, 1])
    sure = np.eye(2)[labels]
    assert auroc(sure, labels) == 1
    assert auroc(1 - sure, labels) == 0
    assert auroc(np.full((4, 2), 0.5), labels) == 0.5
    assert auroc(sure[:2], labels[:2]) is None


def test_entropy_is_the_one_of_scipy() -> None:
    probabilities = softmax(some()[0])
    assert entropy(probabilities) == pytest.approx(scipy_entropy(probabilities, axis=1).mean(), abs=1e-12)
    assert entropy(np.eye(3)) == 0
    assert entropy(np.full((2, 5), 0.2)) == pytest.approx(np.log(5))


@pytest.mark.parametrize("score", [ece, brier, auroc])
def test_shapes_that_do_not_fit(score) -> None:
    with pytest.raises(ValueError, match=r"\(3, 2\) and labels \(2,\)"):
        score(np.full((3, 2), 0.5), np.zeros(2, dtype=int))
    with pytest.raises(ValueError, match="are needed"):
        score(np.zeros((0, 2)), np.zeros(0, dtype=int))
