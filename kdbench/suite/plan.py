"""From a Suite to the runs it asks for, teachers before their students. Floor 5."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kdbench.config import StudentEntry, Suite, TeacherEntry, parse_suite, read_suite
from kdbench.data.dataset import labels_of
from kdbench.data.source import SOURCES
from kdbench.errors import ConfigError
from kdbench.method import METHODS, resolve_options
from kdbench.model import check_choice, resolve
from kdbench.types import DatasetSpec, MethodSpec, ModelChoice, RunSpec, Scalar


class RegistryNames:
    """Checks the names of a suite against the registries."""

    def model(self, choice: ModelChoice) -> None:
        resolve(choice.name)

    def dataset(self, spec: DatasetSpec) -> None:
        labels_of(spec.name)
        for source in spec.sources:
            SOURCES.get(source)
        if spec.name in SOURCES:
            SOURCES.get(spec.name).check_options(spec.options)

    def method(self, method: MethodSpec) -> dict[str, Scalar]:
        return resolve_options(method)


@dataclass(frozen=True)
class Plan:
    """The runs of a suite in an order in which every teacher comes before its students."""

    suite: Suite
    runs: tuple[RunSpec, ...]


def load_suite(name_or_path: str) -> Suite:
    """A shipped suite by name, or a file. Raises: UnknownName, MissingData, ConfigError with every problem."""
    text, where = read_suite(name_or_path)
    return parse_suite(text, where, RegistryNames())


def make_plan(
    suite: Suite,
    resolved: Mapping[DatasetSpec, DatasetSpec] | None = None,
    *,
    seeds: Sequence[int] | None = None,
    only: str | None = None,
) -> Plan:
    """Expand a suite: every student x (baseline + every method x teacher) x seed, seeds outermost.

    Seeds outermost, so that an interrupted suite has compared everything once rather than half of it thrice.

    Args:
        resolved: each data set of the suite with its content filled in; None leaves them as asked for.
        seeds: instead of the suite's own.
        only: a pattern as in file names, or a part of a run's title; the teachers of chosen students stay.
    Raises: ConfigError if methods need a teacher and there is none, an image size does not fit a model, or the
        pattern matches nothing.
    """
    methods = [method.model_copy(update={"options": resolve_options(method)}) for method in suite.methods]
    if all(METHODS.get(method.name).needs_teacher for method in methods):
        methods.insert(0, MethodSpec(name="ce"))  # what distillation bought cannot be said without its baseline
    suite = suite.model_copy(update={"methods": tuple(methods)})
    problems = [
        f"method '{method.name}' needs a teacher, and the suite has none; add one under teachers:"
        for method in suite.methods
        if METHODS.get(method.name).needs_teacher and not suite.teachers
    ]
    for entry in (*suite.teachers, *suite.students):
        for dataset in suite.datasets:
            try:
                check_choice(entry.model, dataset.image_size)
            except ConfigError as problem:
                problems += [f"{entry.model.name} on {dataset.name}: {text}" for text in problem.problems]
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)), suite.name)

    runs: list[RunSpec] = []
    for asked in suite.datasets:
        dataset = (resolved or {}).get(asked, asked)
        teachers = [_teacher(suite, dataset, entry) for entry in suite.teachers]
        runs += teachers
        for seed in suite.seeds if seeds is None else seeds:
            for student in suite.students:
                runs += _students(suite, dataset, student, teachers, seed)
    runs = list(dict.fromkeys(runs))
    if only is not None:
        pattern = only if any(sign in only for sign in "*?[") else f"*{only}*"
        chosen = [run for run in runs if fnmatch.fnmatchcase(run.title, pattern)]
        if not chosen:
            raise ConfigError([f"--only '{only}' matches none of {len(runs)} runs; a title is like '{runs[-1].title}'"])
        needed = {teacher for run in chosen for teacher in run.teachers} | set(chosen)
        runs = [run for run in runs if run in needed]
    return Plan(suite, tuple(runs))


def _teacher(suite: Suite, dataset: DatasetSpec, entry: TeacherEntry) -> RunSpec:
    return RunSpec(
        role="teacher",
        dataset=dataset,
        model=entry.model,
        method=MethodSpec(name="ce"),
        views=suite.views,
        train=entry.train_spec(suite.train),
        seed=entry.seed,
    )


def _students(
    suite: Suite, dataset: DatasetSpec, entry: StudentEntry, teachers: Sequence[RunSpec], seed: int
) -> list[RunSpec]:
    runs: list[RunSpec] = []
    for method in suite.methods:
        lessons = [(teacher,) for teacher in teachers] if METHODS.get(method.name).needs_teacher else [()]
        for taught_by in lessons:
            runs.append(
                RunSpec(
                    role="student",
                    dataset=dataset,
                    model=entry.model,
                    method=method,
                    teachers=taught_by,
                    views=suite.views,
                    train=entry.train_spec(suite.train),
                    seed=seed,
                )
            )
    return runs
