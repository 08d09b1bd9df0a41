"""What each run answered on its test images, and how it did on others: read from the results folders when it is asked
for, so that a report over many records reads no more than it shows. Floor 6; no torch.

What is not there is None and nothing more; what is there and cannot be used is None as well, and `Outcomes.notes` says
why. Neither is ever an error: a table of figures must not fail for one damaged file.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from kdbench import calibration
from kdbench.errors import RecordError, SchemaMismatch
from kdbench.store import Store, find_stores, load_evaluation, newest_evaluations
from kdbench.types import DatasetSpec, EvaluationRecord, RunRecord


@dataclass(frozen=True, eq=False)
class ImageList:
    """The test images of a data set, in the order of the predictions.

    Attributes:
        group_names: of the groups that there are; images of one group do not count as independent.
        groups: (N,) the place of each image's group among them.
    """

    ids: tuple[str, ...]
    labels: tuple[str, ...]
    group_names: tuple[str, ...]
    groups: np.ndarray

    @classmethod
    def of(cls, items: Iterable[tuple[str, str, str]]) -> ImageList:
        """Of (id, label, group), as a results folder notes them."""
        ids, labels, groups = zip(*items, strict=True)
        names = {name: place for place, name in enumerate(dict.fromkeys(groups))}
        return cls(ids, labels, tuple(names), np.array([names[group] for group in groups], dtype=np.intp))


@dataclass(frozen=True, eq=False)
class Answers:
    """Of one run on its test images.

    Attributes:
        right: (N,) bool, whether the largest logit is that of the label.
        classes: of the network, in the order of its logits.
        labels, predicted: (N,) places among the classes.
        confidence: (N,) largest probability, in (0, 1].
        ece: expected calibration error (`kdbench.calibration.ece`), in [0, 1].
        brier: Brier score (`kdbench.calibration.brier`), in [0, 2].
        auroc: macro area under the ROC curve (`kdbench.calibration.auroc`); None where one class alone occurs.
        of_truth: (N,) probability of the true class, in [0, 1].
        entropy: of the probabilities, mean over the images, nats.
    """

    images: ImageList
    right: np.ndarray
    classes: tuple[str, ...]
    labels: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray
    ece: float
    brier: float
    auroc: float | None
    of_truth: np.ndarray
    entropy: float


class Outcomes:
    """Answers and evaluations of any number of runs, by their records. Nothing is read twice.

    Args:
        stores: results folders; a run may be in several.
    """

    def __init__(self, stores: Iterable[Store] = ()) -> None:
        self._stores = tuple(stores)
        self._answers: dict[str, Answers | None] = {}
        self._images: dict[tuple[Path, str], ImageList | None] = {}
        self._notes: dict[str, None] = {}

    @classmethod
    def below(cls, root: Path | str) -> Outcomes:
        """Of all results folders at or below root."""
        return cls(find_stores(root))

    def answers(self, record: RunRecord) -> Answers | None:
        """What the run of that record answered; None if that is not known, or the run has no result."""
        if record.status != "ok" or record.test_metrics is None:
            return None
        if record.run_id not in self._answers:
            found = (self._read(store, record) for store in self._holding.get(record.run_id, ()))
            self._answers[record.run_id] = next((answers for answers in found if answers is not None), None)
        return self._answers[record.run_id]

    def evaluations(self, record: RunRecord) -> tuple[EvaluationRecord, ...]:
        """How the run of that record did elsewhere, each evaluation once; what failed in one is among the notes."""
        return self._evaluations.get(record.run_id, ())

    def notes(self, records: Iterable[RunRecord]) -> list[str]:
        """What is there of these runs and could not be used, one line each, sorted."""
        for record in records:
            self.answers(record)
        _ = self._evaluations
        return sorted(self._notes)

    @cached_property
    def _holding(self) -> dict[str, list[Store]]:
        """The folders that have predictions of a run: one look at each folder, not one for each run."""
        holding: defaultdict[str, list[Store]] = defaultdict(list)
        for store in self._stores:
            for path in store.predictions_path("").parent.glob("*.safetensors"):
                holding[path.stem].append(store)
        return dict(holding)

    @cached_property
    def _evaluations(self) -> dict[str, tuple[EvaluationRecord, ...]]:
        found = []
        for store in self._stores:
            for path in sorted(store.evaluation_path("").parent.glob("*.json")):
                try:
                    found.append(load_evaluation(path))
                except (OSError, SchemaMismatch):
                    self._note(f"evaluations/{path.name} cannot be read; make it again with `kdbench evaluate`")
        by_run: defaultdict[str, list[EvaluationRecord]] = defaultdict(list)
        for evaluation in newest_evaluations(found):
            by_run[evaluation.run_id].append(evaluation)
            if evaluation.failure is not None:
                self._note(f"{evaluation.title or evaluation.run_id} on {evaluation.on.name}: "
                           f"{evaluation.failure.kind}: {evaluation.failure.message}")  # fmt: skip
        return {run_id: tuple(every) for run_id, every in by_run.items()}

    def _note(self, text: str) -> None:
        self._notes[" ".join(text.split())] = None

    def _read(self, store: Store, record: RunRecord) -> Answers | None:
        """Raises nothing: what is wrong is noted, without the folder, which is nobody's business."""
        images = self._images_of(store, record.spec.dataset)
        if images is None:
            return None
        try:
            logits = store.read_predictions(record.run_id)
        except RecordError:
            self._note(f"predictions/{record.run_id}.safetensors cannot be read")
            return None
        problem, answers = _answers(logits, images, record)
        if problem:
            self._note(f"predictions/{record.run_id}.safetensors: {problem}")
        return answers

    def _images_of(self, store: Store, dataset: DatasetSpec) -> ImageList | None:
        key = (store.root, dataset.model_dump_json())  # far cheaper than its hash
        if key not in self._images:
            try:
                items = store.read_items_of(dataset)
                self._images[key] = ImageList.of(items) if items else None
            except RecordError:
                self._images[key] = None
            if self._images[key] is None:
                self._note(f"items of {dataset.name}, {dataset.image_size} px: the list of test images is missing or "
                           "cannot be read")  # fmt: skip
        return self._images[key]


def _answers(logits: np.ndarray, images: ImageList, record: RunRecord) -> tuple[str, Answers | None]:
    """What is wrong with these logits, "" if nothing is; and what they answer."""
    if record.data is None or record.test_metrics is None:
        return "the record does not name the classes", None
    shape = (len(images.ids), len(record.data.classes))
    if logits.shape != shape:
        return f"shape {logits.shape}, where {shape} is wanted", None
    if not np.isfinite(logits).all():
        return "not all logits are finite", None
    places = {label: place for place, label in enumerate(record.data.classes)}
    if unknown := sorted(set(images.labels) - set(places)):
        return f"the test images have a label that the record does not name: {unknown[0]}", None
    labels = np.array([places[label] for label in images.labels])
    predicted = logits.argmax(axis=1)
    right = predicted == labels
    # the record is what counts; ties between logits may fall another way on another machine
    if abs(float(right.mean()) - record.test_metrics.accuracy) > 1.5 / len(labels):
        return "they do not give the accuracy of the record", None
    probabilities = calibration.softmax(logits)
    answers = Answers(
        images,
        right,
        record.data.classes,
        labels,
        predicted,
        confidence=probabilities.max(axis=1),
        ece=calibration.ece(probabilities, labels),
        brier=calibration.brier(probabilities, labels),
        auroc=calibration.auroc(probabilities, labels),
        of_truth=probabilities[np.arange(len(labels)), labels],
        entropy=calibration.entropy(probabilities),
    )
    return "", answers
