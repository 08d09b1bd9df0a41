"""Trained models tried on what they were not tested on: corrupted images, and further data sets. Floor 5.

Images that a model, or who taught it, was trained or selected on are never tested: that is looked for by name, by what
the sources say they share, by the files' bytes and, where both are decoded alike, by pixels.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import torch
from torch import nn

from kdbench.activity import training
from kdbench.calibration import ece, softmax
from kdbench.data.cache import index_source
from kdbench.data.corruption import CORRUPTIONS
from kdbench.data.dataset import Dataset, listings, open_dataset
from kdbench.data.mixed import UNIONS
from kdbench.data.source import SOURCES
from kdbench.data.views import Views
from kdbench.engine.evaluate import BATCH, measure, predict
from kdbench.engine.tuning import place, settle
from kdbench.environment import collect, usable_cores
from kdbench.errors import DataError, RecordError, SchemaMismatch, SplitLeak, UnknownName, first_line
from kdbench.model import normalisation
from kdbench.paths import cache_root, data_root, without_folders
from kdbench.store import Store
from kdbench.suite.plan import RegistryNames, matching
from kdbench.suite.trained import load_trained, structure_name
from kdbench.types import (
    Corrupted,
    DataCard,
    DatasetSpec,
    EvaluateSpec,
    EvaluationRecord,
    Failure,
    LeftOut,
    Metrics,
    Precision,
    Progress,
    RunRecord,
    RunSpec,
    Tuning,
    evaluation_id,
    items_key,
)

log = logging.getLogger(__name__)
T = TypeVar("T")

Made = Callable[[EvaluationRecord], None]
"""Told of every evaluation that was made just now, a failed one too."""

_DECODING = ("image_size", "fit", "crop_fraction", "stain")
"""Of a further data set, as for the run's own images unless its entry says otherwise."""

_SPLITTING = (
    "val_fraction", "test_fraction", "split_seed", "train_limit", "protocol", "protocol_version", "fold", "held_out",
)  # fmt: skip
"""Nothing of it matters where all images are tested: two ways to split are one evaluation."""

_CHUNK = 512  # images whose pixels are hashed at once


class Images:
    """Data sets, each opened once, and what tells their images apart.

    Args:
        root: the data root, holding a folder for each source.
        cache: where decoded images are kept.
    """

    def __init__(self, root: Path, cache: Path, progress: Progress | None = None) -> None:
        self.root, self.cache, self.progress = root, cache, progress
        self._opened: dict[DatasetSpec, Dataset] = {}
        self._files: dict[DatasetSpec, dict[str, _File]] = {}
        self._pixels: dict[DatasetSpec, dict[str, bytes]] = {}

    def open(self, spec: DatasetSpec) -> Dataset:
        """Raises: UnknownName, MissingData, ConfigError, DataError."""
        if spec not in self._opened:
            self._opened[spec] = open_dataset(spec, self.root, self.cache, self.progress)
        return self._opened[spec]

    def files(self, data: Dataset) -> dict[str, _File]:
        """What each image is made of, by its id."""
        if data.spec not in self._files:
            found: dict[str, _File] = {}
            for source, listed in listings(data.spec, self.root):
                listing, digests, _ = index_source(source, listed, self.cache, data.spec.options, self.progress)
                for item, digest in zip(listing.items, digests, strict=True):
                    found[item.id] = _File(source.name, digest, item.path is None)
            self._files[data.spec] = found
        return self._files[data.spec]

    def pixels(self, data: Dataset, indices: np.ndarray) -> dict[str, bytes]:
        """A hash of the decoded pixels of each of the images of indices, by its id."""
        found = self._pixels.setdefault(data.spec, {})
        missing = [i for i in indices if data.ids[i] not in found]
        for start in range(0, len(missing), _CHUNK):
            part = np.asarray(missing[start : start + _CHUNK])
            for index, image in zip(part, data.images(part), strict=True):
                found[data.ids[index]] = hashlib.blake2b(image.tobytes(), digest_size=16).digest()
        return {data.ids[i]: found[data.ids[i]] for i in indices}


def evaluate_run(
    record: RunRecord,
    store: Store,
    root: Path,
    cache: Path,
    evaluate: EvaluateSpec,
    *,
    images: Images | None = None,
    command: str = "",
    made: Made | None = None,
    progress: Progress | None = None,
) -> list[EvaluationRecord]:
    """Try the model of a finished run on its own test images, corrupted, and on further data sets.

    What the store holds already is not done again; what was asked for in addition joins it. Each level is written as
    soon as it is there, so an interrupt loses one at most. What cannot be done becomes a record with a failure, which
    the next call tries again, and the rest goes on. Call it with the store locked.

    Args:
        store: holds the run's weights; gets the evaluations.
        root: the data root, holding a folder for each source.
        cache: where decoded images are kept.
        evaluate: what to try; a further data set is decoded like the run's own images where its entry does not say.
        images: of other runs, so that a data set is opened once for all.
    Returns: everything that was asked for, made now or before: the run's own test images first.
    Raises: UnknownName if there is no such corruption; RecordError if the run has no result.
    """
    named = dict.fromkeys(CORRUPTIONS.get(name).name for name in evaluate.corruptions if name != "all")
    names = CORRUPTIONS.names() if "all" in evaluate.corruptions else tuple(named)
    wanted = [(name, level) for name in names for level in sorted(set(evaluate.levels))]
    if record.data is None or record.test_metrics is None:
        raise RecordError(f"{record.spec.title} has no result; run its suite again")
    trial = _Trial(record, store, images or Images(root, cache, progress), command, made, progress)
    done = []
    if wanted:
        done.append(_guarded(trial, record.spec.dataset, "test", partial(_on_own_test, trial, wanted)))
    for on in dict.fromkeys(_decoded_alike(on, record.spec.dataset) for on in evaluate.on):
        done.append(_guarded(trial, on, "all", partial(_on_further, trial, on)))
    return done


def evaluate_results(
    results: Path | str,
    evaluate: EvaluateSpec,
    *,
    root: Path | str | None = None,
    cache: Path | str | None = None,
    only: str | None = None,
    command: str = "",
    made: Made | None = None,
    noted: Callable[[str], None] | None = None,
    progress: Progress | None = None,
) -> list[EvaluationRecord]:
    """Try every trained model of a results folder, teachers too, as `evaluate_run` does.

    Args:
        results: the results folder of one suite, with the weights of its runs.
        evaluate: what to try: further data sets, corruptions of the test images and their levels.
        root: the data root; None is KDBENCH_DATA, else the user's data folder.
        cache: where decoded images are kept; None is KDBENCH_CACHE, else the user's cache folder.
        only: a pattern, or a part of the titles, of the runs wanted.
        command: as the records are to show it.
        made: told of every evaluation that was made just now.
        noted: told of what is passed over.
    Returns: everything that was asked for, made now or before, in the order of the runs' titles.
    Raises: UnknownName, before anything is done; ConfigError if the pattern matches nothing; RecordError if there are
        no weights; Locked. What cannot be done for one model does not raise: its record says so.
    """
    for on in evaluate.on:
        RegistryNames().dataset(on)  # says what is wrong before hours of work
    store = Store(results)
    records = sorted(store.records(), key=lambda record: (record.spec.title, record.run_id))
    finished = [record for record in records if record.status == "ok"]
    if not finished:
        raise RecordError(f"{store.root} holds no finished run; run its suite here first")
    if only is not None:
        chosen = {spec.run_id for spec in matching([record.spec for record in finished], only)}
        finished = [record for record in finished if record.run_id in chosen]
    able = [record for record in finished if store.network_path(record).exists()]
    if not able:
        raise RecordError(
            f"{store.root} holds {len(finished)} finished runs, but not their weights; run its suite here first: "
            "weights are not shared with records"
        )
    if noted and len(able) < len(finished):
        gone = [record.spec.title for record in finished if record not in able]
        noted(f"passed over for want of weights: {', '.join(gone)}")
    images = Images(data_root(root), cache_root(cache), progress)
    found: list[EvaluationRecord] = []
    with store.lock(), training(f"evaluations of {store.root.name}"):
        for record in able:
            found += evaluate_run(
                record, store, images.root, images.cache, evaluate,
                images=images, command=command, made=made, progress=progress,
            )  # fmt: skip
    return found


# ---------------------------------------------------------------- one model


@dataclass(frozen=True)
class _File:
    source: str
    digest: str
    generated: bool


@dataclass(frozen=True)
class _Trial:
    """A finished run whose model is tried on something."""

    record: RunRecord
    store: Store
    images: Images
    command: str
    made: Made | None
    progress: Progress | None

    @property
    def classes(self) -> tuple[str, ...]:
        return self.record.data.classes if self.record.data else ()

    @cached_property
    def network(self) -> tuple[nn.Module, Precision]:
        """The trained model, placed as it was run in training, and its precision; loaded when it is first needed.

        Raises: RecordError if its weights are missing or damaged.
        """
        spec = self.record.spec
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model = load_trained(spec, len(self.classes), self.store)
        if spec.quantise is not None:
            return model, "fp32"  # a file, which is run as it is
        tuning = self.record.tuning or settle(
            spec.train, model, spec.dataset.image_size, name=structure_name(spec), device=device, purpose="inference",
            cache=self.images.cache, batch_size=BATCH,
        )  # fmt: skip
        return place(model, tuning, device), tuning.precision

    def predict(
        self, data: Dataset, indices: np.ndarray, change: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None
    ) -> np.ndarray:
        model, precision = self.network
        views = Views(None, *normalisation(self.record.spec.model))
        with _threads(self.record.tuning):
            return predict(model, data, indices, views, precision=precision, change=change)

    @cached_property
    def weights(self) -> str:
        """SHA-256 of the trained weights; "" if they are not there."""
        try:
            return hashlib.sha256(self.store.network_path(self.record).read_bytes()).hexdigest()
        except OSError:
            return ""

    def before(self, identity: str) -> EvaluationRecord | None:
        """What an evaluation left, if it is of these weights and can be read; else it is made anew."""
        try:
            found = self.store.read_evaluation(identity)
        except SchemaMismatch as problem:
            log.warning("%s", problem)
            return None
        return found if found is not None and found.weights == self.weights else None

    def write(self, on: DatasetSpec, side: Literal["test", "all"], **facts: object) -> EvaluationRecord:
        """Write what is known of one evaluation and return it; a failure leaves what was there before."""
        identity = evaluation_id(self.record.run_id, on, side)
        before = self.before(identity)
        if "failure" in facts and before is not None and side == "test":  # what levels there are holds
            facts = {"metrics": before.metrics, "corrupted": before.corrupted, "data": before.data, **facts}
        record = EvaluationRecord.model_validate(
            {
                "evaluation_id": identity,
                "run_id": self.record.run_id,
                "title": self.record.spec.title,
                "on": on,
                "side": side,
                "weights": self.weights,
                "started": datetime.now(UTC).isoformat(timespec="seconds"),
                "environment": collect(_thread_count(self.record.tuning)),
                "command": self.command,
                **facts,
            }
        )
        self.store.write_evaluation(record)
        return record

    def step(self, what: str, done: int, total: int) -> None:
        if self.progress:
            self.progress(f"{self.record.spec.title} {what}", done, total)


def _guarded(
    trial: _Trial, on: DatasetSpec, side: Literal["test", "all"], work: Callable[[], EvaluationRecord]
) -> EvaluationRecord:
    """What the work makes; what goes wrong in it becomes a record with the reason."""
    try:
        return work()
    except Exception as problem:  # whatever went wrong here must not take the other evaluations down
        log.debug("%s on %s failed", trial.record.spec.title, on.name, exc_info=problem)
        failure = Failure(kind=type(problem).__name__, message=without_folders(first_line(problem)))
    failed = trial.write(on, side, failure=failure)
    if trial.made:
        trial.made(failed)
    return failed


# ---------------------------------------------------------------- its own test images, corrupted


def _on_own_test(trial: _Trial, wanted: Sequence[tuple[str, int]]) -> EvaluationRecord:
    """Raises: KdbenchError, as the data or the weights are not there, or not what they were."""
    on = trial.record.spec.dataset
    before = trial.before(evaluation_id(trial.record.run_id, on, "test"))
    figures = {(one.corruption, one.level): one for one in before.corrupted} if before else {}
    missing = [key for key in wanted if key not in figures]
    if before is not None and before.failure is None and not missing:
        return before
    trial.step("on corrupted images", 0, len(missing))
    data = trial.images.open(on)
    indices = data.splits["test"]
    labels = data.labels[indices]
    metrics = measure(trial.predict(data, indices), labels, trial.classes)
    _check_unchanged(metrics, trial.record)

    def write() -> EvaluationRecord:
        corrupted = tuple(figures[key] for key in sorted(figures))
        return trial.write(on, "test", metrics=metrics, corrupted=corrupted, data=data.card)

    for number, (name, level) in enumerate(missing, start=1):
        logits = trial.predict(data, indices, partial(_corrupt, name, level))
        found = measure(logits, labels, trial.classes)
        figures[name, level] = Corrupted(
            corruption=name,
            level=level,
            accuracy=found.accuracy,
            macro_f1=found.macro_f1,
            ece=ece(softmax(logits), labels),
        )
        written = write()
        trial.step("on corrupted images", number, len(missing))
    if not missing:  # what failed before had nothing left to do
        written = write()
    if trial.made:
        trial.made(written)
    return written


def _corrupt(name: str, level: int, images: np.ndarray, indices: np.ndarray) -> np.ndarray:
    return CORRUPTIONS.get(name)(images, indices, level)


def _check_unchanged(now: Metrics, record: RunRecord) -> None:
    """Raises: RecordError if the model does not do on its test images what its record says."""
    then = record.test_metrics
    if then is None or now.count != then.count or abs(now.accuracy - then.accuracy) * then.count > 1.5:
        said = f"{100 * then.accuracy:.2f} % of {then.count}" if then else "nothing"
        raise RecordError(
            f"on its clean test images {record.spec.title} is right for {100 * now.accuracy:.2f} % of {now.count}, its "
            f"record says {said}: its weights or its images changed; run its suite again"
        )


# ---------------------------------------------------------------- further data sets


def _decoded_alike(on: DatasetSpec, own: DatasetSpec) -> DatasetSpec:
    """A further data set, decoded as the run's own images where its entry does not say, split in no way."""
    decoding = {name: getattr(own, name) for name in _DECODING if name not in on.model_fields_set}
    return _unsplit(on.model_copy(update=decoding))


def _unsplit(spec: DatasetSpec) -> DatasetSpec:
    return spec.model_copy(update={name: DatasetSpec.model_fields[name].default for name in _SPLITTING})


def _on_further(trial: _Trial, asked: DatasetSpec) -> EvaluationRecord:
    """Raises: KdbenchError, as the data set is unknown or not there."""
    data = trial.images.open(asked)
    on = _unsplit(data.spec)
    if on != asked:  # an earlier failure to find out which images these are
        trial.store.evaluation_path(evaluation_id(trial.record.run_id, asked, "all")).unlink(missing_ok=True)
    return _guarded(trial, on, "all", partial(_measure_further, trial, data, on))


def _measure_further(trial: _Trial, data: Dataset, on: DatasetSpec) -> EvaluationRecord:
    """Raises: KdbenchError, as it cannot be tested on, or the model cannot be loaded."""
    identity = evaluation_id(trial.record.run_id, on, "all")
    before = trial.before(identity)
    unchecked = before is not None and before.data is not None and before.data.leak  # by now it may be possible
    if (
        before is not None
        and before.failure is None
        and not unchecked
        and trial.store.predictions_path(identity).exists()
    ):
        return before
    number = {label: index for index, label in enumerate(trial.classes)}
    indices = np.asarray([i for i, label in enumerate(data.labels) if data.classes[label] in number], dtype=np.int64)
    if not len(indices):
        raise DataError(
            f"{on.name} has no image of a class the model knows: it has {', '.join(data.classes)}, the model "
            f"{', '.join(trial.classes)}; classes are matched by name"
        )
    leak = _check_unseen(trial, data, indices)
    trial.step(f"on {on.name}", 0, 1)
    logits = trial.predict(data, indices)
    labels = np.asarray([number[data.classes[label]] for label in data.labels[indices]], dtype=np.int64)
    card = _card(data, indices, trial.classes, leak)
    items = [(data.ids[i], data.classes[data.labels[i]], data.groups[i]) for i in indices]
    trial.store.write_predictions(identity, logits)
    trial.store.write_items(items_key(on, card.classes), items)
    # the record comes last: where it is, everything is
    written = trial.write(on, "all", metrics=measure(logits, labels, trial.classes), data=card)
    trial.step(f"on {on.name}", 1, 1)
    if trial.made:
        trial.made(written)
    return written


def _card(data: Dataset, indices: np.ndarray, known: Sequence[str], leak: str) -> DataCard:
    """What a record says of the images that were tested: all of them, less those the model has no class for."""
    counts = Counter(data.classes[label] for label in data.labels)
    unknown = [
        LeftOut(path=f"{data.card.name}/{label}", reason=f"the model has no class '{label}'", count=count)
        for label, count in sorted(counts.items())
        if label not in known
    ]
    return data.card.model_copy(
        update={
            "classes": tuple(label for label in data.classes if label in known),
            "splits": {"test": {label: counts[label] for label in data.classes if label in known and counts[label]}},
            "independent": {"test": len({data.groups[i] for i in indices})},
            "left_out": (*data.card.left_out, *unknown),
            "protocol": "",
            "leak": leak,
        }
    )


# ---------------------------------------------------------------- images that were seen


def _check_unseen(trial: _Trial, data: Dataset, indices: np.ndarray) -> str:
    """Refuse images that the model, or who taught it, was trained or selected on.

    Returns: what could not be looked at, as the images it was trained on are not there; empty: all was.
    Raises: SplitLeak, naming what both have.
    """
    leaks = [_check_unseen_by(trial, spec, data, indices) for spec in dict.fromkeys(_lessons(trial.record.spec))]
    return next(filter(None, leaks), "")


def _lessons(spec: RunSpec) -> Iterator[DatasetSpec]:
    """The data sets of a run and of all it learned from."""
    yield spec.dataset
    for teacher in spec.teachers:
        yield from _lessons(teacher)


def _check_unseen_by(trial: _Trial, learned: DatasetSpec, data: Dataset, indices: np.ndarray) -> str:
    images, name = trial.images, data.spec.name
    tested = images.files(data)
    here = {tested[data.ids[i]].source: tested[data.ids[i]].generated for i in indices}
    try:
        own = images.open(learned)
    except (DataError, UnknownName) as problem:
        named = trial.record.data.sources if trial.record.data and learned == trial.record.spec.dataset else ()
        _check_names(name, here, named or learned.sources or (learned.name,))
        reason = without_folders(first_line(problem)).partition(";")[0]
        return f"whether the model was trained on some of these images could not be looked at: {reason}"
    lessons = _learned(own)
    files = images.files(own)
    _check_names(name, here, dict.fromkeys(files[own.ids[i]].source for i in lessons))
    _check_apart(
        name, "bytes", {data.ids[i]: tested[data.ids[i]].digest for i in indices},
        {own.ids[i]: files[own.ids[i]].digest for i in lessons},
    )  # fmt: skip
    if all(getattr(own.spec, key) == getattr(data.spec, key) for key in _DECODING):
        _check_apart(name, "pixels", images.pixels(data, indices), images.pixels(own, lessons))
    return ""


def _learned(data: Dataset) -> np.ndarray:
    """Indices of the images that a model of this data set was trained or selected on."""
    return np.concatenate([data.splits["train"], data.splits["val"]])


def _check_names(name: str, here: Mapping[str, bool], learned: Iterable[str]) -> None:
    """Look at the sources alone.

    Args:
        here: the sources of what is tested, and whether they are generated.
        learned: the sources of what the model was trained or selected on.
    Raises: SplitLeak if one of these is among those, or shares its originals with one.
    """
    known = tuple(learned)
    for source, generated in here.items():
        if source in known and not generated:  # of drawn images the settings say whether they are the same
            if name in UNIONS:
                raise SplitLeak(
                    f"{name} holds {source}, which the model was trained on; name the other ones under sources:"
                )
            raise SplitLeak(f"{name} is what the model was trained on; name a data set it has not seen")
        for other in known:
            theirs = SOURCES.get(other).shares_images_with if other in SOURCES else ()
            if source in theirs or other in SOURCES.get(source).shares_images_with:
                raise SplitLeak(
                    f"{source} shares its originals with {other}, which the model was trained on; name another data set"
                )


def _check_apart(name: str, what: str, tested: Mapping[str, T], learned: Mapping[str, T]) -> None:
    """Raises: SplitLeak if what some image is made of occurs on both sides, with one such pair."""
    by_content = {content: image for image, content in learned.items()}
    shared = [(image, by_content[content]) for image, content in tested.items() if content in by_content]
    if shared:
        first, other = shared[0]
        raise SplitLeak(
            f"{len(shared)} of {len(tested)} images of {name} have the {what} of images the model was trained or "
            f"selected on, as {first} those of {other}; take them out, or name another data set"
        )


# ---------------------------------------------------------------- how it is run


def _thread_count(tuning: Tuning | None) -> int:
    cores = usable_cores()
    return min(tuning.threads, cores) if tuning else cores


@contextmanager
def _threads(tuning: Tuning | None) -> Iterator[None]:
    """As many threads as the run had, for the sum of floats depends on them; torch's number is put back."""
    before = torch.get_num_threads()
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    torch.set_num_threads(_thread_count(tuning))
    try:
        yield
    finally:
        torch.set_num_threads(before)
