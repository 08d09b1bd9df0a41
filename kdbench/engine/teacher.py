"""What a teacher says of the views a student is shown: computed once for each pass, then replayed.

A view is a pure function of (view seed, epoch, index), so a teacher's logits for a pass over the training images
hold for every student, method and seed that sees the same views. They are always computed in the same order of images
and in the same batches; whether a pass is computed now or read back therefore changes no bit of a student.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from torch import nn

from kdbench.data.dataset import Dataset
from kdbench.data.views import Views, view_epoch
from kdbench.engine.evaluate import predict
from kdbench.errors import TrainError
from kdbench.store import write_atomic
from kdbench.types import Precision, ViewSpec, content_id


class TeacherLogits:
    """Logits of one trained teacher on the training views, kept on the disk.

    Args:
        load: builds the trained teacher; called only if a pass is missing.
        identity: hash of the teacher's weights.
        views: turns images into the teacher's own input (its normalisation may differ from the student's).
        folder: holds one ``<key>/<view epoch>.npy`` for each pass.
    """

    def __init__(
        self,
        load: Callable[[], nn.Module],
        identity: str,
        data: Dataset,
        views: Views,
        folder: Path,
        precision: Precision = "fp32",
    ) -> None:
        if views.spec is None:
            raise TrainError("a teacher needs the views its students are shown")
        self.identity = identity
        self._load, self._data, self._views, self._precision = load, data, views, precision
        self._spec: ViewSpec = views.spec
        self._model: nn.Module | None = None
        seen = views.spec.model_dump(exclude={"pool"})  # the pool says which views occur, not how they look
        self.folder = folder / content_id([identity, data.spec.model_dump(mode="json"), seen, precision])
        self.seconds = 0.0
        """Spent here on computing passes; reading them back is not counted."""

    def __call__(self, epoch: int) -> np.ndarray:
        """Logits (N_train, K) float32, in the order of the training indices, for the views of an epoch."""
        number = view_epoch(self._spec, epoch)
        path = self.folder / f"{number}.npy"
        train = self._data.splits["train"]
        if path.exists():
            try:
                logits = np.load(path, allow_pickle=False)
                if len(logits) == len(train):
                    return logits
            except (OSError, ValueError, EOFError):
                pass  # damaged: computed again below
        started = time.perf_counter()
        if self._model is None:
            self._model = self._load()
        logits = predict(self._model, self._data, train, self._views, epoch=number, precision=self._precision)
        buffer = io.BytesIO()
        np.save(buffer, logits, allow_pickle=False)
        write_atomic(path, buffer.getvalue(), durable=False)
        self.seconds += time.perf_counter() - started
        return logits
