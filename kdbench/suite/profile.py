"""What networks cost, measured: architectures by their names, or what a results folder has trained. Floor 5."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import product
from pathlib import Path

import torch
from torch import nn

from kdbench.environment import collect, finished
from kdbench.errors import ConfigError, ProfileError, RecordError
from kdbench.model import build, check_choice, full_name, weights_hash
from kdbench.paths import without_folders
from kdbench.profiling.child import Subject
from kdbench.profiling.params import flushes_denormals
from kdbench.profiling.profile import profile_model
from kdbench.profiling.runtime import RUNTIMES, Setting, usable
from kdbench.profiling.session import DEFAULT, Sampling, measure
from kdbench.store import Store
from kdbench.suite.plan import matching
from kdbench.suite.trained import load_trained
from kdbench.types import Device, Latency, ModelChoice, Profile, ProfileRecord, Progress, RunPrecision, RunRecord


@dataclass(frozen=True)
class Measures:
    """What is measured of every network: all combinations of these.

    Attributes:
        counts_only: count, and time nothing.
        layers: list what every layer costs.
        check: count with a second counter as well.
    """

    runtimes: tuple[str, ...] = ("eager",)
    precisions: tuple[RunPrecision, ...] = ("fp32",)
    batch_sizes: tuple[int, ...] = (1,)
    threads: tuple[int, ...] = (1,)
    device: Device = "cpu"
    sampling: Sampling = DEFAULT
    counts_only: bool = False
    layers: bool = False
    check: bool = True

    def settings(self) -> list[Setting]:
        """What there is to time; a precision that one of several runtimes does not have is left out for that one.

        Raises: UnknownName; RuntimeUnavailable, if a runtime or the device is not there, or one has none of the
            precisions.
        """
        if self.counts_only:
            return []
        found = []
        for name in self.runtimes:
            able = [precision for precision in self.precisions if precision in RUNTIMES.get(name).precisions]
            for precision in able or self.precisions[:1]:
                usable(Setting(name, precision, device=self.device))  # says what is wrong before anything is counted
                found += [
                    Setting(name, precision, batch_size, threads, self.device)
                    for batch_size, threads in product(self.batch_sizes, self.threads)
                ]
        return list(dict.fromkeys(found))


def profile(
    models: Sequence[str | ModelChoice],
    *,
    image_size: int = 64,
    num_classes: int = 5,
    measures: Measures = Measures(),
    command: str = "",
    progress: Progress | None = None,
) -> list[ProfileRecord]:
    """What architectures cost: counts, and latencies in processes of their own that take turns.

    Their weights are untrained, drawn with seed 0, unless a ``ModelChoice`` names a file of them.

    Args:
        models: of the registry, or of timm.
        image_size: pixels, both sides.
        num_classes: of the classifier.
        command: as the records are to show it.

    Returns: one record for each model, in their order.
    Raises: UnknownName, ConfigError, RuntimeUnavailable, before anything is measured; ProfileError.
    """
    if "int8" in measures.precisions:
        raise ProfileError(
            "int8 needs a quantised file, and an architecture has none; make one with "
            "`kdbench compress RUN --quantise int8`, and profile its results folder"
        )
    choices = [ModelChoice.model_validate(model) for model in models]
    choices = [choice.model_copy(update={"name": full_name(choice.name)}) for choice in choices]
    if twice := sorted({choice.name for choice in choices if choices.count(choice) > 1}):
        raise ConfigError([f"{', '.join(twice)} is asked for twice; name every model once"])
    for choice in choices:
        check_choice(choice, image_size)
    candidates = [
        _Candidate(
            choice.name,
            _shareable(choice),
            num_classes,
            image_size,
            partial(untrained, choice, num_classes, image_size),
        )
        for choice in choices
    ]
    return _profile(candidates, measures, command, progress)


def profile_results(
    store: Store,
    *,
    measures: Measures = Measures(),
    only: str | Collection[str] | None = None,
    command: str = "",
    progress: Progress | None = None,
) -> list[ProfileRecord]:
    """What the trained students of a results folder cost, baselines included; the first seed of each cell.

    Quantised ones are timed in int8 alone, the others in every other precision. What no setting is for is left out.

    Args:
        only: a pattern, or a part of the titles, of the runs wanted; or their ids.
    Raises: ConfigError if the pattern matches nothing; RecordError, if it has none with its weights, or no quantised
        one where int8 is all that is asked; RuntimeUnavailable; ProfileError.
    """
    first: dict[str, _Candidate] = {}
    records = sorted(store.records(), key=lambda record: (record.spec.title, record.spec.seed, record.run_id))
    finished_ones = [record for record in records if record.status == "ok" and record.spec.role == "student"]
    if only is not None and finished_ones:
        specs = [record.spec for record in finished_ones]
        chosen = {spec.run_id for spec in matching(specs, only)} if isinstance(only, str) else set(only)
        finished_ones = [record for record in finished_ones if record.run_id in chosen]
    for record in finished_ones:
        if record.cell_id not in first and (found := _stored(store, record)) is not None:
            first[record.cell_id] = found
    if not first:
        what = (
            f"{len(finished_ones)} trained students, but not their weights" if finished_ones else "no trained student"
        )
        raise RecordError(f"{store.root} holds {what}; run its suite here first: weights are not shared with records")
    settings = measures.settings()
    candidates = [each for each in first.values() if not settings or any(map(each.subject.takes, settings))]
    if not candidates:
        raise RecordError(
            f"{store.root} holds no quantised student to time in int8; make one with "
            "`kdbench compress RUN --quantise int8`"
            if set(measures.precisions) == {"int8"}
            else f"{store.root} holds quantised students alone, and they are timed in int8; add --precision int8"
        )
    return _profile(candidates, measures, command, progress)


def profiles_name(taken: Sequence[ProfileRecord]) -> str:
    """Of the file that a results folder keeps them in: when and where they were measured."""
    return f"{taken[0].started[:19].replace(':', '')}-{taken[0].environment.fingerprint[:4]}"


# ---------------------------------------------------------------- parts


@dataclass(frozen=True)
class _Candidate:
    """A network that is to be measured."""

    name: str
    choice: ModelChoice
    num_classes: int
    image_size: int
    load: Callable[[], nn.Module]
    run_id: str = ""
    title: str = ""
    artefact: Path | None = None

    @property
    def subject(self) -> Subject:
        return Subject(self.title or self.name, self.load, self.image_size, self.artefact)


def _stored(store: Store, record: RunRecord) -> _Candidate | None:
    """The student of a record; None, if what it left is not here. A quantised one is counted as what it was made of."""
    spec = record.spec
    counted = spec.parent if spec.quantise is not None and spec.parent is not None else spec
    artefact = store.artefact_path(record.run_id) if spec.quantise is not None else None
    needed = [store.weights_path(counted.run_id), *([artefact] if artefact else [])]
    if record.data is None or not all(path.is_file() for path in needed):
        return None
    return _Candidate(
        spec.model.name,
        spec.model,
        len(record.data.classes),
        spec.dataset.image_size,
        partial(trained, str(store.root), counted.run_id),
        record.run_id,
        spec.title,
        artefact.resolve() if artefact else None,
    )


def _profile(
    candidates: Sequence[_Candidate], measures: Measures, command: str, progress: Progress | None
) -> list[ProfileRecord]:
    settings = measures.settings()
    environment = collect(max(measures.threads), flush_denormal=flushes_denormals())
    started = datetime.now(UTC).isoformat(timespec="seconds")
    counted: list[tuple[Profile, dict[str, str]]] = []
    for number, each in enumerate(candidates):
        if progress:
            progress(f"counting {each.name}", number, len(candidates))
        counted.append(_count(each, measures))
    subjects = [each.subject for each in candidates]
    timed = measure(subjects, settings, measures.sampling, progress) if settings else [{} for _ in subjects]
    environment = finished(environment)
    records = []
    for each, (counts, failures), outcomes in zip(candidates, counted, timed, strict=True):
        latencies = tuple(found for found in outcomes.values() if isinstance(found, Latency))
        reasons = failures | {str(setting): found for setting, found in outcomes.items() if isinstance(found, str)}
        records.append(
            ProfileRecord(
                **dict(counts.model_copy(update={"latencies": latencies})),
                model=each.name,
                choice=each.choice,
                num_classes=each.num_classes,
                run_id=each.run_id,
                title=each.title,
                started=started,
                environment=environment,
                failures={what: without_folders(reason) for what, reason in reasons.items()},
                command=command,
            )
        )
    return records


def _count(candidate: _Candidate, measures: Measures) -> tuple[Profile, dict[str, str]]:
    """The counts, and why the second counter has none, if it has none: ours stand without it."""
    counts, failures = _count_network(candidate, measures)
    if candidate.artefact is not None:  # all else is that of the network it was made of
        counts = counts.model_copy(update={"weight_bytes": candidate.artefact.stat().st_size})
    return counts, failures


def _count_network(candidate: _Candidate, measures: Measures) -> tuple[Profile, dict[str, str]]:
    model, layers = candidate.load(), measures.layers
    if measures.check:
        try:
            return profile_model(model, candidate.image_size, counts_only=True, layers=layers, check=True), {}
        except ProfileError as problem:
            counts = profile_model(model, candidate.image_size, counts_only=True, layers=layers)
            return counts, {"second counter": str(problem)}
    return profile_model(model, candidate.image_size, counts_only=True, layers=layers), {}


def untrained(choice: ModelChoice, num_classes: int, image_size: int) -> nn.Module:
    """A network in evaluation mode, always with the same weights: those of seed 0, or of the choice's file."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build(choice, num_classes, image_size).eval()


def trained(root: str, run_id: str) -> nn.Module:
    """What a finished run of a results folder deploys. Raises: RecordError, if it is not there."""
    store = Store(root)
    record = store.read_record(run_id)
    if record is None or record.data is None:
        raise RecordError(f"the record of run {run_id} is gone from {root}; run the suite again")
    return load_trained(record.spec, len(record.data.classes), store)


def _shareable(choice: ModelChoice) -> ModelChoice:
    """A choice as a record shows it: of a weight file its name and content, not the folder."""
    if not isinstance(choice.pretrained, str):
        return choice
    return choice.model_copy(
        update={"pretrained": Path(choice.pretrained).name, "weights": weights_hash(choice.pretrained)}
    )
