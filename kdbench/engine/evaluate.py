"""Logits of a model on a side of the data, and the metrics of logits."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from kdbench.data.dataset import Dataset
from kdbench.data.views import Views
from kdbench.types import Metrics, Precision

BATCH = 256
"""Images at once where no gradient is kept; large enough to fill the cores, small enough for a laptop."""


@torch.inference_mode()
def predict(
    model: nn.Module,
    data: Dataset,
    indices: np.ndarray,
    views: Views,
    *,
    epoch: int = 0,
    precision: Precision = "fp32",
    change: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
) -> np.ndarray:
    """Logits (N, K) float32 for the images of indices (N,), in their order.

    The model is run in eval mode, so no statistics move, and is put back into its mode afterwards.

    Args:
        change: called with stored images (B, S, S, 3) uint8 and their indices (B,); what it returns of the same shape
            is shown in their place, as corrupted images are. Nothing is mixed then.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    try:
        logits = []
        for start in range(0, len(indices), BATCH):
            part = indices[start : start + BATCH]
            if change is None:
                pixels = views.batch(data, part, epoch).to(device)
            else:
                pixels = views(change(data.images(part), part), part, epoch).to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                logits.append(model(pixels).float().cpu().numpy())
        return np.concatenate(logits)
    finally:
        model.train(was_training)


def measure(logits: np.ndarray, labels: np.ndarray, classes: tuple[str, ...]) -> Metrics:
    """Metrics of logits (N, K) against labels (N,); classes that do not occur among the labels have no recall.

    Macro-F1 is the mean over the classes that occur, a class that is never predicted counting 0.
    """
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    predicted = logits.argmax(axis=1)
    count = len(classes)
    confusion = np.bincount(labels * count + predicted, minlength=count * count).reshape(count, count)
    hits, truth, guessed = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    occurs = np.flatnonzero(truth)
    return Metrics(
        accuracy=float(hits.sum() / len(labels)),
        macro_f1=float(np.mean(2 * hits[occurs] / (truth[occurs] + guessed[occurs]))),
        loss=max(0.0, float(-log_probabilities[np.arange(len(labels)), labels].mean())),
        recall={classes[index]: float(hits[index] / truth[index]) for index in occurs},
        count=len(labels),
    )
