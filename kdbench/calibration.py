"""Whether a classifier means the probabilities it gives. Floor 1: numpy alone, so tables need no torch."""

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


def _checked(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    probabilities, labels = np.asarray(probabilities, dtype=np.float64), np.asarray(labels)
    if probabilities.ndim != 2 or labels.shape != probabilities.shape[:1] or not len(labels):
        raise ValueError(
            f"probabilities have shape {probabilities.shape} and labels {labels.shape}; (N, K) and (N,) are needed"
        )
    return probabilities, labels
