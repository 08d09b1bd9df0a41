"""Records to rows: the repetitions of one cell become one line of a table. Floor 6; no torch.

Fractions stay fractions here, and nothing is rounded: rendering is the renderers' business.
"""

from __future__ import annotations

import statistics
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from kdbench.report import stats
from kdbench.report.figures import CellLatency, LatencySetting, fewest_threads, undisplaced
from kdbench.report.outcomes import Answers, Outcomes
from kdbench.report.paired import ALPHA, Paired, paired
from kdbench.report.standing import Standing
from kdbench.report.stats import Grouped
from kdbench.store import newest_profiles, started_at
from kdbench.types import (
    DatasetSpec,
    Environment,
    EvaluationRecord,
    Latency,
    MethodSpec,
    ModelChoice,
    Profile,
    ProfileRecord,
    RunRecord,
    RunSpec,
    Scalar,
)

RowRole = Literal["teacher", "baseline", "student", "compressed"]
BASELINE_METHOD = "ce"

USUAL_PROTOCOL = "usual"
"""How tables call the protocol of a data set that was asked for without one."""


@dataclass(frozen=True)
class Row:
    """One cell: a (dataset, model, method, teachers) with its records over seeds.

    Attributes:
        records: of this cell, by seed; finished, failed and diverged.
        baseline: of the same model trained alone on the same data in the same way; empty for teachers and baselines.
        teachers: the records of the networks it learned from; only those that are there. Of a compressed network
            those that the trained one learned from.
        parents: of a compressed network, the records of what it was one stage before, and `origins` of the trained one
            that its compression began with; only those that are there.
        model, recipe, teacher_names: what tables call them, distinguishable within the data set. `recipe` leaves
            the ground truth out, `method` names it. A compressed network's model names its stages, and the others say
            how the trained one was trained.
        rank: 1 is the best mean accuracy among the small models of the data set; None for teachers and for
            rows without a result.
        profiles: measured apart from the runs: of its trained models, or of untrained ones that cost the same.
        outcomes: where its runs' answers and evaluations are looked up; None where there are records alone.
        standing: how it stands among the rows of its data set; None for a row by itself.
    """

    records: tuple[RunRecord, ...]
    baseline: tuple[RunRecord, ...] = ()
    teachers: tuple[RunRecord, ...] = ()
    parents: tuple[RunRecord, ...] = ()
    origins: tuple[RunRecord, ...] = ()
    model: str = ""
    recipe: str = ""
    teacher_names: tuple[str, ...] = ()
    rank: int | None = None
    profiles: tuple[ProfileRecord, ...] = ()
    outcomes: Outcomes | None = None
    standing: Standing | None = field(default=None, compare=False, repr=False)

    @property
    def spec(self) -> RunSpec:
        """Of the first seed; the others differ in the seed alone."""
        return self.records[0].spec

    @property
    def cell_id(self) -> str:
        return self.records[0].cell_id

    @property
    def dataset(self) -> DatasetSpec:
        return self.spec.dataset

    @property
    def role(self) -> RowRole:
        """teacher, baseline (a small model trained alone), student (a distilled one), or compressed (a stage of the
        compression of one of these).
        """
        return _role(self.spec)

    @property
    def origin(self) -> RunSpec:
        """Of the training: the run itself, or the one that its compression began with."""
        return self.spec.lineage[0]

    @property
    def alone(self) -> bool:
        """Whether it was trained without a teacher, whatever became of it."""
        return _role(self.origin) == "baseline"

    @property
    def stages(self) -> tuple[str, ...]:
        """What was done to the trained network, in order."""
        return tuple(spec.stage for spec in self.spec.lineage[1:])

    @property
    def method(self) -> str:
        """The recipe, with the ground truth named where it is off."""
        return self.recipe if self.origin.method.ground_truth else f"{self.recipe} (no ground truth)"

    @property
    def teacher(self) -> str:
        """Its teachers' names in one; "" if it has none."""
        return " + ".join(self.teacher_names)

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of all its records, ascending."""
        return tuple(record.spec.seed for record in self.records)

    @property
    def n_ok(self) -> int:
        """Runs with a test result."""
        return len(self.accuracies)

    @property
    def n_failed(self) -> int:
        """Runs without one: failed or diverged."""
        return len(self.records) - self.n_ok

    @property
    def failure(self) -> str | None:
        """Why the first run without a result has none; None if all have one."""
        return next((failure_text(record) for record in self.records if _accuracy(record) is None), None)

    @cached_property
    def accuracies(self) -> dict[int, float]:
        """Test accuracy by seed, fractions."""
        return _by_seed(self.records)

    @cached_property
    def accuracy(self) -> float | None:
        """Mean test accuracy over the seeds, a fraction."""
        return _mean(self.accuracies.values())

    @cached_property
    def accuracy_std(self) -> float | None:
        """Sample standard deviation (n - 1) over the seeds; None below two."""
        return _std(self.accuracies.values())

    @cached_property
    def macro_f1(self) -> float | None:
        """Mean over the seeds of the test macro-F1, a fraction."""
        return _mean(self._macro_f1s())

    @cached_property
    def macro_f1_std(self) -> float | None:
        """Sample standard deviation (n - 1) over the seeds; None below two."""
        return _std(self._macro_f1s())

    @cached_property
    def worst_recall(self) -> float | None:
        """Mean over the seeds of the lowest recall of a class, a fraction: what accuracy hides of rare classes."""
        return _mean(
            min(record.test_metrics.recall.values())
            for record in self.records
            if record.test_metrics is not None and record.test_metrics.recall and _accuracy(record) is not None
        )

    @cached_property
    def recalls(self) -> dict[str, float]:
        """Mean over the seeds of the recall of each class that occurs in the test images, fractions."""
        found: defaultdict[str, list[float]] = defaultdict(list)
        for record in self.records:
            if record.test_metrics is not None and _accuracy(record) is not None:
                for label, value in record.test_metrics.recall.items():
                    found[label].append(value)
        return {label: statistics.fmean(values) for label, values in found.items()}

    @cached_property
    def answers(self) -> dict[int, Answers]:
        """By seed, what was answered on the test images; empty unless every run with a result has its answers, and
        all of them are on the same images: else a mean over them is not one over the seeds of the row.
        """
        if self.outcomes is None:
            return {}
        found: dict[int, Answers] = {}
        for record in self.records:
            if _accuracy(record) is not None:
                answers = self.outcomes.answers(record)
                if answers is None:
                    return {}
                found[record.spec.seed] = answers
        images = [answers.images for answers in found.values()]
        alike = all(other is images[0] or other.ids == images[0].ids for other in images)
        return found if alike else {}

    @cached_property
    def interval(self) -> stats.Ends | None:
        """95 % of the mean accuracy, if other test images had been drawn; fractions, None without the answers."""
        if not self.answers:
            return None
        images = next(iter(self.answers.values())).images
        right = np.stack([answers.right for answers in self.answers.values()])
        return stats.clustered(Grouped.of(right, images.groups))

    @cached_property
    def independent(self) -> int | None:
        """Groups of test images that do not depend on each other; None if neither answers nor data card tell."""
        if self.answers:
            return len(next(iter(self.answers.values())).images.group_names)
        told = (record.data.independent.get("test") for record in self.records if record.data is not None)
        return next((count for count in told if count is not None), None)

    @cached_property
    def ece(self) -> float | None:
        """Mean over the seeds of the expected calibration error, a fraction; None without the answers."""
        return _mean(answers.ece for answers in self.answers.values())

    @cached_property
    def brier(self) -> float | None:
        """Mean over the seeds of the Brier score, in [0, 2]; None without the answers."""
        return _mean(answers.brier for answers in self.answers.values())

    @cached_property
    def auroc(self) -> float | None:
        """Mean over the seeds of the macro area under the ROC curve, in [0, 1]; None without the answers."""
        return _mean(answers.auroc for answers in self.answers.values() if answers.auroc is not None)

    @cached_property
    def evaluations(self) -> dict[int, tuple[EvaluationRecord, ...]]:
        """By seed, how its runs with a result did on other and on corrupted images."""
        if self.outcomes is None:
            return {}
        with_result = [record for record in self.records if _accuracy(record) is not None]
        return {record.spec.seed: self.outcomes.evaluations(record) for record in with_result}

    @cached_property
    def train_seconds(self) -> float | None:
        """Mean over the seeds of the time in the training loop, without teacher outputs that were computed ahead."""
        return _mean(record.train_seconds for record in self.records if _accuracy(record) is not None)

    @cached_property
    def gains(self) -> dict[int, float]:
        """Accuracy minus the baseline's at the same seed, by seed, fractions; only seeds that both have."""
        alone = _by_seed(self.baseline)
        return {seed: accuracy - alone[seed] for seed, accuracy in self.accuracies.items() if seed in alone}

    @cached_property
    def gain(self) -> float | None:
        """Mean of the paired differences to the baseline, a fraction; None without a shared seed."""
        return _mean(self.gains.values())

    @cached_property
    def gain_std(self) -> float | None:
        """Sample standard deviation (n - 1) of the paired differences; None below two."""
        return _std(self.gains.values())

    @cached_property
    def gain_test(self) -> Paired | None:
        """The gain with its 95 % interval and p-value, of the answers on the same images at the seeds that both have;
        None unless all of these answers are there.
        """
        return self._against(self.baseline) if self.gains else None

    @cached_property
    def stage_test(self) -> Paired | None:
        """The same of a compressed network against what it was one stage before; None for others."""
        return self._against(self.parents)

    @cached_property
    def lineage_test(self) -> Paired | None:
        """The same of a compressed network against the trained one that its compression began with."""
        return self._against(self.origins)

    def _against(self, others: Sequence[RunRecord]) -> Paired | None:
        shared = [seed for seed in self.accuracies if seed in _by_seed(others)]
        if self.outcomes is None or not shared or not self.answers:
            return None
        theirs = {record.spec.seed: self.outcomes.answers(record) for record in others if record.spec.seed in shared}
        pairs = [(self.answers[seed], theirs[seed]) for seed in shared]
        images = pairs[0][0].images
        if any(other is None or other.images.ids != images.ids for _, other in pairs):
            return None
        right = np.stack([one.right for one, _ in pairs])
        other_right = np.stack([other.right for _, other in pairs if other is not None])
        return paired(Grouped.of(right, images.groups), Grouped.of(other_right, images.groups))

    @property
    def gain_p(self) -> float | None:
        """The p-value of the gain, by Holm over all gains of the data set; None without a test."""
        return None if self.standing is None else self.standing.gain_p.get(self.cell_id)

    @property
    def gain_significant(self) -> bool | None:
        """Whether the gain is more than chance; None if that was not tested."""
        return None if self.gain_p is None else self.gain_p < ALPHA

    @property
    def rank_range(self) -> tuple[int, int] | None:
        """The ranks that it can have, first and last; None if that is not known."""
        return None if self.standing is None else self.standing.rank_ranges.get(self.cell_id)

    @cached_property
    def baseline_accuracy(self) -> float | None:
        """Mean test accuracy of the baseline over all of its seeds, a fraction."""
        return _mean(_by_seed(self.baseline).values())

    @cached_property
    def teacher_accuracy(self) -> float | None:
        """Mean test accuracy of its teachers, a fraction; None unless every one of them is there."""
        found = {record.run_id: _accuracy(record) for record in self.teachers}
        known = [value for value in found.values() if value is not None]
        return _mean(known) if len(known) == len(found) and len(self.teachers) == len(self.origin.teachers) else None

    @cached_property
    def profile(self) -> Profile | None:
        """Of the first record that has one: counts are the same for every seed, unless each was pruned differently."""
        return _profile(self.records)

    @cached_property
    def params(self) -> int | None:
        """Of seeds that were pruned differently the most, as for `macs` and `weight_bytes`: so much has to fit."""
        return max((profile.params for profile in self._profiles), default=None)

    @cached_property
    def macs(self) -> int | None:
        """Multiply-adds of one image."""
        return max((profile.macs for profile in self._profiles), default=None)

    @cached_property
    def weight_bytes(self) -> int | None:
        return max((profile.weight_bytes for profile in self._profiles), default=None)

    @property
    def _profiles(self) -> list[Profile]:
        own = [record.profile for record in self.records if record.profile is not None]
        return own if self.stages else own[:1]

    @cached_property
    def fingerprints(self) -> tuple[str, ...]:
        """The machines its records come from, sorted."""
        return tuple(sorted({record.environment.fingerprint for record in self.records}))

    @property
    def latency_ms(self) -> float | None:
        """Median at batch 1 with the fewest threads; None if unmeasured or measured in settings that cannot be mixed
        (two machines, runtimes or precisions): ask `latency` for one of them.
        """
        settings = latency_settings([self])
        found = self.latency(settings[0]) if len(settings) == 1 else None
        return found.median_ms if found else None

    def latency(self, setting: LatencySetting) -> CellLatency | None:
        """The medians over the cell's figures of that one setting; None if it has none."""
        return self._cell_latencies.get(setting)

    @cached_property
    def _cell_latencies(self) -> dict[LatencySetting, CellLatency]:
        return {setting: CellLatency.over(found) for setting, found in self.latencies.items()}

    @cached_property
    def latencies(self) -> dict[LatencySetting, list[Latency]]:
        """All of its figures by what they were measured under; untrained networks only stand in for trained ones."""
        own: defaultdict[LatencySetting, list[Latency]] = defaultdict(list)
        stand_ins: defaultdict[LatencySetting, list[Latency]] = defaultdict(list)
        for record in self.records:
            for latency in record.profile.latencies if record.profile is not None else ():
                own[LatencySetting.of(record.environment, latency)].append(latency)
        for profile in self.profiles:
            for latency in profile.latencies:
                (own if profile.run_id else stand_ins)[LatencySetting.of(profile.environment, latency)].append(latency)
        return {**stand_ins, **own}

    def _macro_f1s(self) -> list[float]:
        return [
            record.test_metrics.macro_f1
            for record in self.records
            if record.test_metrics is not None and _accuracy(record) is not None
        ]


def build_rows(
    records: Sequence[RunRecord], profiles: Iterable[ProfileRecord] = (), outcomes: Outcomes | None = None
) -> list[Row]:
    """One row for each cell: data sets by name, within each the best accuracy first and rows without a result last.

    Neither the order of the records nor that of the profiles matters. Where a run_id occurs twice, the run that
    started last counts.

    Args:
        records: of any number of data sets.
        profiles: measured apart from the runs. That of a trained network joins the row of its run; that of an
            untrained one joins every row of its architecture that has the same image size, classes, parameters and
            multiply-adds. A method may deploy layers of its own, and then the counts tell that it does not fit.
        outcomes: where the answers of the runs are looked up; without it no figure that needs them is there.
    """
    records = newest(records)
    joined = _Joined(newest_profiles(profiles))
    teacher_ids: dict[str, str] = {}

    def teacher_id(teacher: RunSpec) -> str:
        text = teacher.model_dump_json()  # far cheaper than the id, and many students have one teacher
        if text not in teacher_ids:
            teacher_ids[text] = teacher.run_id
        return teacher_ids[text]

    by_run = {record.run_id: record for record in records}
    cells: defaultdict[str, list[RunRecord]] = defaultdict(list)
    for record in records:
        cells[record.cell_id].append(record)
    for cell in cells.values():
        cell.sort(key=lambda record: record.spec.seed)

    # a baseline's options are sorted first, so that a plain one wins where several would do
    baselines: dict[str, list[RunRecord]] = {}
    for cell in sorted(cells.values(), key=lambda cell: (len(cell[0].spec.method.options), cell[0].cell_id)):
        if _role(cell[0].spec) == "baseline":
            baselines.setdefault(_trained_alike(cell[0].spec), cell)

    by_dataset: defaultdict[str, list[Row]] = defaultdict(list)
    for cell in cells.values():
        spec = cell[0].spec
        alone = baselines.get(_trained_alike(spec), []) if _role(spec) == "student" else []
        origin = spec.lineage[0]
        taught_by = [by_run[run_id] for run_id in map(teacher_id, origin.teachers) if run_id in by_run]
        row = Row(
            tuple(cell),
            tuple(alone),
            tuple(taught_by),
            tuple(cells.get(spec.parent.cell_id, ()) if spec.parent is not None else ()),
            tuple(cells.get(origin.cell_id, ()) if spec.parent is not None else ()),
            profiles=joined.of(cell),
            outcomes=outcomes,
        )
        by_dataset[dataset_key(spec.dataset)].append(row)
    return [row for key in sorted(by_dataset) for row in _ranked(_labelled(by_dataset[key]))]


def newest(records: Iterable[RunRecord]) -> list[RunRecord]:
    """One record for each run_id, in the order of the ids: of those with a result, if any has one, the one that
    started last. Of two that started at one time the text decides, so their order does not.
    """

    def rank(record: RunRecord) -> tuple[bool, datetime]:
        return (record.status == "ok", started_at(record))

    latest: dict[str, RunRecord] = {}
    for record in records:
        other = latest.get(record.run_id)
        if (
            other is None
            or rank(record) > rank(other)
            or (rank(record) == rank(other) and record.model_dump_json() > other.model_dump_json())
        ):
            latest[record.run_id] = record
    return [latest[run_id] for run_id in sorted(latest)]


def failure_text(record: RunRecord) -> str:
    """Why the run has no result, in one line."""
    if record.failure is None:
        return "no test result" if record.status == "ok" else record.status
    return " ".join(f"{record.failure.kind}: {record.failure.message}".split())


def dataset_key(dataset: DatasetSpec) -> str:
    """Equal for equal data sets; sorts by name, then by image size."""
    return f"{dataset.name}\x1f{dataset.image_size:05d}\x1f{dataset.model_dump_json()}"


def dataset_titles(datasets: Sequence[DatasetSpec]) -> list[str]:
    """Name and image size, and whatever else is needed to tell two of one name and size apart.

    Of a protocol that says what tells it apart, and of data sets that differ in more than their content, no more is
    said than that.
    """
    titles = []
    for dataset in datasets:
        alike = [other for other in datasets if (other.name, other.image_size) == (dataset.name, dataset.image_size)]
        facts = [_facts(other, alike) for other in alike]
        keys = [key for key in differing(facts) if key != "content"]
        if len({tuple(str(other.get(key)) for key in keys) for other in facts}) < len(set(alike)):
            keys.append("content")
        own = facts[alike.index(dataset)]
        said = [
            option_text(key, "+".join(own[key]) if isinstance(own[key], tuple) else own[key])
            for key in keys
            if key in own
        ]
        titles.append(", ".join([dataset.name, f"{dataset.image_size} px", *said]))
    return titles


def _facts(dataset: DatasetSpec, alike: Sequence[DatasetSpec]) -> dict[str, Any]:
    """What may tell a data set from others of its name and size, flat; without what its protocol has but one of."""
    facts = {**dataset.model_dump(exclude={"options"}), **dataset.options}
    siblings = [other for other in alike if other.protocol == dataset.protocol]
    for key in ("protocol_version", "fold", "held_out"):
        if facts[key] == type(dataset).model_fields[key].default and len({getattr(s, key) for s in siblings}) == 1:
            del facts[key]
    if not dataset.protocol:
        facts["protocol"] = USUAL_PROTOCOL
    return facts


def latency_settings(rows: Iterable[Row]) -> list[LatencySetting]:
    """The settings that get a column: batch 1 with the fewest threads, for each machine, runtime, precision, device
    and library. Where a setting was measured in isolation for any row, other figures of it have no column.
    """
    return fewest_threads(undisplaced({setting for row in rows for setting in row.latencies}))


def environments_of(rows: Iterable[Row]) -> dict[str, Environment]:
    """The machines that these rows were trained and measured on, by fingerprint."""
    found: dict[str, Environment] = {}
    for row in rows:
        measured = [record.environment for record in row.records] + [profile.environment for profile in row.profiles]
        for environment in measured:
            found.setdefault(environment.fingerprint, environment)
    return found


def differing(items: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys that do not have one and the same value in all items, in the order they occur."""
    keys = dict.fromkeys(key for item in items for key in item)
    missing = object()
    return [key for key in keys if any(item.get(key, missing) != items[0].get(key, missing) for item in items)]


def option_text(key: str, value: Scalar | None) -> str:
    """An option as labels show it: ``T=4``, not ``T=4.0``."""
    if isinstance(value, bool):
        return f"{key}={'true' if value else 'false'}"
    return f"{key}={value:.12g}" if isinstance(value, float) else f"{key}={'none' if value is None else value}"


# ---------------------------------------------------------------- parts


def _role(spec: RunSpec) -> RowRole:
    if spec.role == "teacher":
        return "teacher"
    if spec.parent is not None:
        return "compressed"
    return "baseline" if spec.method.name == BASELINE_METHOD and not spec.teachers else "student"


class _Joined:
    """Profiles by what says which row they belong to."""

    def __init__(self, profiles: Iterable[ProfileRecord]) -> None:
        self._by_run: defaultdict[str, list[ProfileRecord]] = defaultdict(list)
        self._by_network: defaultdict[tuple[Any, ...], list[ProfileRecord]] = defaultdict(list)
        for profile in profiles:
            if profile.run_id:
                self._by_run[profile.run_id].append(profile)
            elif not profile.choice.pretrained:  # else it is of weights that no run of these rows has
                choice, counts = profile.choice, (profile.params, profile.macs)
                network = (choice.name, choice.patch_size, profile.image_size, profile.num_classes, *counts)
                self._by_network[network].append(profile)

    def of(self, cell: Sequence[RunRecord]) -> tuple[ProfileRecord, ...]:
        found = [profile for record in cell for profile in self._by_run.get(record.run_id, ())]
        card = next((record.data for record in cell if record.data is not None), None)
        costs = _profile(cell)
        # an untrained network stands for every one of its structure, but not for a file in int8
        if card is not None and costs is not None and cell[0].spec.quantise is None:
            choice, image_size = cell[0].spec.model, cell[0].spec.dataset.image_size
            network = (choice.name, choice.patch_size, image_size, len(card.classes), costs.params, costs.macs)
            found += self._by_network.get(network, ())
        return tuple(found)


def _trained_alike(spec: RunSpec) -> str:
    """What a student and its baseline have in common: all but the method and the teachers."""
    return spec.model_dump_json(include={"dataset", "model", "train", "views", "engine_version"})


def _profile(cell: Iterable[RunRecord]) -> Profile | None:
    return next((record.profile for record in cell if record.profile is not None), None)


def _accuracy(record: RunRecord) -> float | None:
    return record.test_metrics.accuracy if record.status == "ok" and record.test_metrics is not None else None


def _by_seed(records: Iterable[RunRecord]) -> dict[int, float]:
    return {record.spec.seed: value for record in records if (value := _accuracy(record)) is not None}


def _mean(values: Iterable[float]) -> float | None:
    known = list(values)
    return statistics.fmean(known) if known else None


def _std(values: Iterable[float]) -> float | None:
    known = list(values)
    return statistics.stdev(known) if len(known) > 1 else None


def _ranked(rows: list[Row]) -> list[Row]:
    """Best mean accuracy first, the smaller model first among equals; equal accuracies share a rank."""

    def order(row: Row) -> tuple[Any, ...]:
        params = row.params
        return (
            row.accuracy is None,
            -_accuracy_to_rank(row),
            params is None,
            params or 0,
            row.role,
            row.model,
            row.method,
            row.teacher,
            row.cell_id,
        )

    def has_rank(row: Row) -> bool:
        return row.role != "teacher" and row.accuracy is not None

    best_first = sorted(-_accuracy_to_rank(row) for row in rows if has_rank(row))
    standing = Standing()
    ranked = [
        replace(
            row, rank=1 + bisect_left(best_first, -_accuracy_to_rank(row)) if has_rank(row) else None, standing=standing
        )
        for row in sorted(rows, key=order)
    ]
    standing.rows = tuple(ranked)
    return ranked


def _accuracy_to_rank(row: Row) -> float:
    """Without the last digits, in which two equal means may differ by the order of their sums."""
    return round(row.accuracy or 0.0, 12)


# ---------------------------------------------------------------- labels


def _labelled(rows: list[Row]) -> list[Row]:
    """Name the rows of one data set so that no two carry the same name: what differs is said, and nothing else."""
    models = _model_labels(spec.model for row in rows for spec in (row.origin, *row.origin.teachers))
    methods = _method_labels(row.origin.method for row in rows)
    named = [
        replace(
            row,
            model=" > ".join([models[_key(row.spec.model)], *row.stages]),
            recipe=methods[_key(row.origin.method)],
            teacher_names=tuple(models[_key(teacher.model)] for teacher in row.origin.teachers),
        )
        for row in rows
    ]
    groups: defaultdict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in named:
        groups[(row.role, row.model, row.recipe, row.teacher_names)].append(row)
    return [row for group in groups.values() for row in _told_apart(group)]


def _told_apart(group: list[Row]) -> list[Row]:
    """Rows of one name: append what differs in how they, or their teachers, were trained."""
    recipes = [_recipe(row.spec) for row in group]
    own = differing(recipes)
    taught = [[_teacher_recipe(teacher) for teacher in row.origin.teachers] for row in group]
    apart: list[Row] = []
    for row, recipe, teachers in zip(group, recipes, taught, strict=True):
        names = list(row.teacher_names)
        for place, teacher in enumerate(teachers):
            keys = _telling([other[place] for other in taught])
            said = ", ".join(option_text(key, teacher[key]) for key in keys if key in teacher)
            names[place] += f" ({said})" if said else ""
        said = " ".join(option_text(key, recipe[key]) for key in own if key in recipe)
        apart.append(replace(row, recipe=f"{row.recipe} {said}".strip(), teacher_names=tuple(names)))
    seen = Counter((row.method, row.teacher) for row in apart)
    return [
        row if seen[(row.method, row.teacher)] == 1 else replace(row, recipe=f"{row.recipe} #{row.cell_id[:6]}")
        for row in apart
    ]


def _telling(teachers: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys that tell teachers of one model apart; who taught them, where that alone is enough."""
    keys = differing(teachers)
    different = {tuple(str(teacher.get(key)) for key in keys) for teacher in teachers}
    by_whom = {str(teacher.get("taught by")) for teacher in teachers}
    return ["taught by"] if "taught by" in keys and len(by_whom) == len(different) else keys


def _model_labels(choices: Iterable[ModelChoice]) -> dict[str, str]:
    """By the choice's key. Pretrained weights are always named: they were paid for on other images."""
    found = {_key(choice): choice for choice in choices}
    patch_sizes: defaultdict[str, set[int | None]] = defaultdict(set)
    for choice in found.values():
        patch_sizes[choice.name].add(choice.patch_size)
    labels = {}
    for key, choice in found.items():
        facts = []
        if len(patch_sizes[choice.name]) > 1:
            facts.append(f"patch {choice.patch_size or 'auto'}")
        if isinstance(choice.pretrained, str):
            facts.append(f"pretrained: {Path(choice.pretrained).name}")  # the folder is nobody's business
        elif choice.pretrained:
            facts.append("pretrained")
        labels[key] = f"{choice.name} ({', '.join(facts)})" if facts else choice.name
    return labels


def _method_labels(methods: Iterable[MethodSpec]) -> dict[str, str]:
    """By the method's key: its name and those options that differ between the methods of that name."""
    found = {_key(method): method for method in methods}
    labels = {}
    for key, method in found.items():
        keys = differing([other.options for other in found.values() if other.name == method.name])
        said = [option_text(option, method.options[option]) for option in keys if option in method.options]
        labels[key] = " ".join([method.name, *said])
    return labels


def _recipe(spec: RunSpec) -> dict[str, Any]:
    """How one network was trained, flat, and what else may tell its stages of compression apart."""
    origin, *stages = spec.lineage
    views = {f"views.{key}": value for key, value in origin.views.model_dump().items()}
    facts = {**origin.train.model_dump(), **views, "engine_version": spec.engine_version}
    for number, stage in enumerate(stages, start=1):
        own = {
            **(stage.prune or stage.quantise or stage).model_dump(include={"steps", "round_to", "images"}),
            "method": stage.method.label,
            "by": "+".join("itself" if one == stage.parent else one.model.name for one in stage.teachers) or None,
            **stage.train.model_dump(),
        }
        facts |= {f"stage{number}.{key}": value for key, value in own.items()}
    return facts


def _teacher_recipe(teacher: RunSpec) -> dict[str, Any]:
    """What may tell two teachers of one model apart, flat."""
    return {
        **_recipe(teacher),
        "method": teacher.method.label,
        **{f"method.{key}": value for key, value in teacher.method.options.items()},
        "taught by": "+".join(other.model.name for other in teacher.teachers) or None,
        "data": f"{teacher.dataset.name} {teacher.dataset.image_size} px",
        "seed": teacher.seed,
    }


def _key(spec: ModelChoice | MethodSpec) -> str:
    return spec.model_dump_json()
