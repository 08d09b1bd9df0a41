"""Whether a classifier means the probabilities it gives, and whether they tell the classes apart. Floor 1: numpy alone,
so tables need no torch.
"""

from __future__ import annotations

import numpy as np

BINS = 15
"""Of confidence, all of equal width: Guo et al., arXiv:1706.04599, section 4."""


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities (N, K) float64 of logits (N, K)."""
    shifted = np.asarray(logits, dtype=np.float64)
    shifted = np.exp(shifted - shifted.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def ece(probabilities: np.ndarray, labels: np.ndarray, bins: int = BINS) -> float:
    """Expected calibration error, how far confidence lies from accuracy (Guo et al., arXiv:1706.04599, eq. 3).

    The images are put into bins ((m - 1) / bins, m / bins] by their confidence, the largest probability; the distance
    of mean confidence and accuracy of each bin is weighted with the bin's share of the images.

    Args:
        probabilities: (N, K), each row sums to 1.
        labels: (N,) integers, the true classes.
    Returns: in [0, 1]; 0 is the best.
    Raises: ValueError if the shapes do not fit or there are no images.
    """
    probabilities, labels = _checked(probabilities, labels)
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    inner = np.linspace(0, 1, bins + 1)[1:-1]
    place = np.searchsorted(inner, confidence, side="left")  # a bin holds its upper edge
    # of a bin with n of N images: n / N * |hits / n - sum / n| = |hits - sum| / N
    gaps = np.bincount(place, weights=right - confidence, minlength=bins)
    return min(1.0, float(np.abs(gaps).sum() / len(labels)))


def brier(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Brier score: the squared distance to the true class (Brier, Monthly Weather Review 78 (1950), eq. 2).

    Args:
        probabilities: (N, K), each row sums to 1.
        labels: (N,) integers, the true classes.
    Returns: in [0, 2], summed over classes, mean over images; 0 is the best.
    Raises: ValueError if the shapes do not fit or there are no images.
    """
    probabilities, labels = _checked(probabilities, labels)
    truth = np.zeros_like(probabilities)
    truth[np.arange(len(labels)), labels] = 1.0
    return float(((probabilities - truth) ** 2).sum(axis=1).mean())


def auroc(probabilities: np.ndarray, labels: np.ndarray) -> float | None:
    """Area under the ROC curve, each class against all others, mean over the classes that occur (macro).

    Of a class it is the share of pairs, an image of the class and one of another, in which the former has the higher
    probability of the class, equal ones counted half (Hanley and McNeil, Radiology 143 (1982) 29).

    Args:
        probabilities: (N, K), each row sums to 1.
        labels: (N,) integers, the true classes.
    Returns: in [0, 1], 0.5 for chance; None where fewer than two classes occur, which leaves no pair.
    Raises: ValueError if the shapes do not fit or there are no images.
    """
    probabilities, labels = _checked(probabilities, labels)
    classes = np.unique(labels)
    if len(classes) < 2:
        return None
    areas = []
    for label in classes:
        of_class = labels == label
        others = np.sort(probabilities[~of_class, label])
        own = np.sort(probabilities[of_class, label])  # sorted questions are answered several times as quickly
        below = np.searchsorted(others, own, side="left").sum() + np.searchsorted(others, own, side="right").sum()
        areas.append(below / (2 * len(own) * len(others)))
    return float(np.mean(areas))


def entropy(probabilities: np.ndarray) -> float:
    """Of the probabilities (N, K), mean over the images, nats: 0 where all is sure, log K where nothing is known."""
    probabilities = np.asarray(probabilities, dtype=np.float64)
    terms = probabilities * np.log(np.where(probabilities > 0, probabilities, 1.0))
    return float(-terms.sum(axis=1).mean())


def _checked(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    probabilities, labels = np.asarray(probabilities, dtype=np.float64), np.asarray(labels)
    if probabilities.ndim != 2 or labels.shape != probabilities.shape[:1] or not len(labels):
        raise ValueError(
            f"probabilities have shape {probabilities.shape} and labels {labels.shape}; (N, K) and (N,) are needed"
        )
    return probabilities, labels
