"""From a trained student to the runs that compress it. Floor 5."""

from __future__ import annotations

from collections.abc import Sequence

from kdbench.config import CompressEntry, Suite, changed_training
from kdbench.errors import ConfigError
from kdbench.method import METHODS, Method, resolve_options
from kdbench.types import MethodSpec, PruneSpec, QuantiseSpec, RunSpec, TeachingSpec, TrainSpec


def stages_of(run: RunSpec, entry: CompressEntry, suite: Suite) -> list[RunSpec]:
    """The stages of one student, each the parent of the next.

    Raises: ConfigError if the fine-tuning's method cannot teach this student so.
    """
    method = entry.distil.model_copy(update={"options": resolve_options(entry.distil)})
    train = changed_training(run.train, entry.train)
    found: list[RunSpec] = []
    for pruning in entry.prune:
        found.append(_tuned(found[-1] if found else run, method, entry, train, suite.teaching, prune=pruning))
    last = found[-1] if found else run
    if entry.quantise is not None and entry.quantise.kind == "aware":
        found.append(_tuned(last, method, entry, train, suite.teaching, quantise=entry.quantise))
    elif entry.quantise is not None:
        # nothing is trained: how it was trained is its parent's business
        found.append(RunSpec(**{**dict(last), "parent": last, "prune": None, "quantise": entry.quantise}))
    return found


def compression_problems(entry: CompressEntry) -> list[str]:
    """Why an entry cannot work, whichever student it is for."""
    tunes = bool(entry.prune) or (entry.quantise is not None and entry.quantise.kind == "aware")
    method = METHODS.get(entry.distil.name)
    own_lessons = getattr(method.lessons, "__func__", None) is not getattr(Method.lessons, "__func__", None)
    if tunes and (method.deploy is not Method.deploy or own_lessons):
        return [f"compress: '{method.name}' ships or trains networks of its own, and cannot fine-tune a compressed "
                "one; take kd or another method of one teacher"]  # fmt: skip
    if tunes and method.teachers == "many" and entry.teacher == "unpruned":
        return [f"compress: '{method.name}' needs several teachers, and the network before its compression is one; "
                "take teacher: teacher, or a method of one teacher"]  # fmt: skip
    return []


def _tuned(
    parent: RunSpec,
    method: MethodSpec,
    entry: CompressEntry,
    train: TrainSpec,
    teaching: TeachingSpec,
    *,
    prune: PruneSpec | None = None,
    quantise: QuantiseSpec | None = None,
) -> RunSpec:
    teachers = _teachers(parent, method, entry)
    return RunSpec(
        role="student",
        dataset=parent.dataset,
        model=parent.model,
        method=method,
        teachers=teachers,
        views=parent.views,
        train=train,
        seed=parent.seed,
        teaching=teaching if teachers else TeachingSpec(),
        parent=parent,
        prune=prune,
        quantise=quantise,
    )


def _teachers(parent: RunSpec, method: MethodSpec, entry: CompressEntry) -> tuple[RunSpec, ...]:
    wanted = METHODS.get(method.name).teachers
    if wanted == "none":
        return ()
    first: Sequence[RunSpec] = parent.lineage[0].teachers if entry.teacher == "teacher" else ()
    given = tuple(first) or (parent,)
    if wanted == "many" and len(given) < 2:
        raise ConfigError([f"compress: '{method.name}' needs several teachers, and {parent.title} has {len(given)}; "
                           "name the students it is for under of:, or take a method of one teacher"])  # fmt: skip
    return given if wanted == "many" else given[:1]
