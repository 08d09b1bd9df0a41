"""From a Suite to the runs it asks for, teachers before their students. Floor 5."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kdbench.compress.importance import IMPORTANCES
from kdbench.config import StudentEntry, Suite, TeacherEntry, parse_suite, read_suite
from kdbench.data.corruption import CORRUPTIONS
from kdbench.data.dataset import dataset_names
from kdbench.data.declared import declare
from kdbench.data.protocol import protocol_of
from kdbench.data.source import SOURCES
from kdbench.errors import ConfigError, UnknownName
from kdbench.method import METHODS, resolve_options
from kdbench.model import check_choice, resolve, weights_hash
from kdbench.profiling.runtime import RUNTIMES
from kdbench.suite.stages import compression_problems, stages_of
from kdbench.types import (
    DatasetSpec,
    MethodSpec,
    ModelChoice,
    PruneSpec,
    RunSpec,
    Scalar,
    SourceDeclaration,
    TeachingSpec,
)


class RegistryNames:
    """Checks the names of a suite against the registries.

    Args:
        base: the folder that relative paths of declared data sets begin at.
    """

    def __init__(self, base: Path = Path()) -> None:
        self.base = base

    def declare(self, declaration: SourceDeclaration) -> SourceDeclaration:
        return declare(declaration, self.base).declaration

    def model(self, choice: ModelChoice) -> None:
        resolve(choice.name)

    def dataset(self, spec: DatasetSpec) -> None:
        known = dataset_names()
        if spec.name not in known:  # whether a declared one is on this disk is asked when it is opened
            raise UnknownName("dataset", spec.name, known)
        for source in spec.sources:
            SOURCES.get(source)
        if spec.name in SOURCES:
            SOURCES.get(spec.name).check_options(spec.options)
        protocol_of(spec)

    def method(self, method: MethodSpec) -> dict[str, Scalar]:
        return resolve_options(method)

    def corruption(self, name: str) -> None:
        if name != "all":
            CORRUPTIONS.get(name)

    def pruning(self, spec: PruneSpec) -> None:
        IMPORTANCES.get(spec.importance)
        RUNTIMES.get(spec.runtime)


@dataclass(frozen=True)
class Plan:
    """The runs of a suite in an order in which every teacher comes before its students."""

    suite: Suite
    runs: tuple[RunSpec, ...]


def load_suite(name_or_path: str) -> Suite:
    """A shipped suite by name, or a file. Raises: UnknownName, MissingData, ConfigError with every problem."""
    text, where = read_suite(name_or_path)
    return parse_suite(text, where, RegistryNames(Path(name_or_path).parent))


def make_plan(
    suite: Suite,
    resolved: Mapping[DatasetSpec, DatasetSpec] | None = None,
    *,
    seeds: Sequence[int] | None = None,
    only: str | None = None,
) -> Plan:
    """Expand a suite: every student x (baseline + every method x teacher) x seed, seeds outermost; then the stages of
    their compression.

    Seeds outermost, so that an interrupted suite has compared everything once rather than half of it thrice.

    Args:
        resolved: each data set of the suite with its content filled in; None leaves them as asked for.
        seeds: instead of the suite's own.
        only: a pattern as in file names, or a part of a run's title; the teachers of chosen students stay.
    Raises: ConfigError if methods need a teacher and there is none, an image size does not fit a model, or the
        pattern matches nothing.
    """
    methods = [method.model_copy(update={"options": resolve_options(method)}) for method in suite.methods]
    if all(method.name != "ce" for method in methods):
        methods.insert(0, MethodSpec(name="ce"))  # what distillation bought cannot be said without its baseline
    suite = suite.model_copy(update={"methods": tuple(methods)})
    problems = [_too_few_teachers(method, len(suite.teachers)) for method in suite.methods]
    problems += [problem for entry in suite.compress for problem in compression_problems(entry)]
    for entry in (*suite.teachers, *suite.students):
        problems += _model_problems(entry.model, suite.datasets)
    if any(problems):
        raise ConfigError(list(dict.fromkeys(filter(None, problems))), suite.name)
    suite = suite.model_copy(
        update={
            "teachers": tuple(entry.model_copy(update={"model": _weighed(entry.model)}) for entry in suite.teachers),
            "students": tuple(entry.model_copy(update={"model": _weighed(entry.model)}) for entry in suite.students),
        }
    )

    runs: dict[RunSpec, None] = {}
    for asked in suite.datasets:
        dataset = (resolved or {}).get(asked, asked)
        teachers = [_teacher(suite, dataset, entry) for entry in suite.teachers]
        for teacher in teachers:
            _add(runs, teacher)
        for seed in suite.seeds if seeds is None else seeds:
            students = [run for student in suite.students for run in _students(suite, dataset, student, teachers, seed)]
            for run in students:
                _add(runs, run)
            for compression in suite.compress:
                for run in (student for student in students if fits(student, compression.of)):
                    for stage in stages_of(run, compression, suite):
                        _add(runs, stage)
    for compression in suite.compress:
        if compression.of:  # of any data set and seed, but of one at least
            matching([run for run in runs if run.role == "student" and not run.parent], compression.of, "compress: of:")
    # a method may bring networks of its own, as an assistant between teacher and student
    named = {entry.model for entry in (*suite.teachers, *suite.students)}
    for run in runs:
        if run.model not in named:
            problems += _model_problems(run.model, [run.dataset])
    if any(problems):
        raise ConfigError(list(dict.fromkeys(filter(None, problems))), suite.name)
    if only is not None:
        chosen: dict[RunSpec, None] = {}
        for run in matching(list(runs), only):
            _add(chosen, run)
        runs = {run: None for run in runs if run in chosen}
    return Plan(suite, tuple(runs))


def matching(runs: Sequence[RunSpec], only: str, option: str = "--only") -> list[RunSpec]:
    """The runs whose titles hold a text, or match a pattern with ``*``, ``?`` or ``[``.

    Args:
        option: what the text was given to, for messages.
    Raises: ConfigError if there is none.
    """
    chosen = [run for run in runs if fits(run, only)]
    if not chosen:
        raise ConfigError([f"{option} '{only}' matches none of {len(runs)} runs; a title is like '{runs[-1].title}'"])
    return chosen


def fits(run: RunSpec, only: str) -> bool:
    """Whether its title holds that text, or matches that pattern."""
    pattern = only if any(sign in only for sign in "*?[") else f"*{only}*"
    return fnmatch.fnmatchcase(run.title, pattern)


def _add(runs: dict[RunSpec, None], run: RunSpec) -> None:
    """Append a run after all that it learns from, and that it begins with."""
    if run in runs:
        return
    for before in run.needed:
        _add(runs, before)
    runs[run] = None


def _too_few_teachers(method: MethodSpec, given: int) -> str:
    wanted = METHODS.get(method.name).suite_teachers()
    if given >= wanted:
        return ""
    if wanted == 1:
        return f"method '{method.name}' needs a teacher, and the suite has none; add one under teachers:"
    return (
        f"method '{method.name}' needs {wanted} teachers, and the suite has {given or 'none'}; add more under teachers:"
    )


def _model_problems(model: ModelChoice, datasets: Sequence[DatasetSpec]) -> list[str]:
    """Why a model cannot be built for these images."""
    problems: list[str] = []
    for dataset in datasets:
        try:
            check_choice(model, dataset.image_size)
        except ConfigError as problem:
            problems += [f"{model.name} on {dataset.name}: {text}" for text in problem.problems]
        except UnknownName as problem:
            problems.append(str(problem))
    return problems


def _weighed(model: ModelChoice) -> ModelChoice:
    """With the hash of its weight file, so that a run's id follows the content and not the path."""
    if not isinstance(model.pretrained, str):
        return model
    return model.model_copy(update={"weights": weights_hash(model.pretrained)})


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
    for spec in suite.methods:
        method = METHODS.get(spec.name)
        untaught = RunSpec(
            role="student",
            dataset=dataset,
            model=entry.model,
            method=spec,
            views=suite.views,
            train=entry.train_spec(suite.train),
            seed=seed,
        )
        for taught_by in method.lessons(method.Options.model_validate(spec.options), teachers, untaught):
            teaching = suite.teaching if taught_by else TeachingSpec()  # of no teacher, nothing is to be said
            runs.append(untaught.model_copy(update={"teachers": taught_by, "teaching": teaching}))
    return runs
