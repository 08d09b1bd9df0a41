"""Execute a plan on this machine, one run after the other."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Protocol

import torch

from kdbench.data.dataset import Dataset, open_dataset
from kdbench.environment import has_fast_bf16
from kdbench.store import Store
from kdbench.suite.evaluate import Images, evaluate_run
from kdbench.suite.plan import Plan
from kdbench.suite.run import run
from kdbench.types import DatasetSpec, EvaluationRecord, Progress, RunRecord, RunSpec

log = logging.getLogger(__name__)


class Listener(Protocol):
    """Told how a plan goes on; every method may do nothing."""

    def planned(self, pending: int, skipped: int) -> None: ...
    def started(self, spec: RunSpec) -> None: ...
    def finished(self, record: RunRecord) -> None: ...
    def evaluated(self, evaluation: EvaluationRecord) -> None: ...
    def noted(self, text: str) -> None: ...


def pending_runs(plan: Plan, store: Store) -> list[RunSpec]:
    """The runs still to do, in the plan's order.

    Finished and diverged runs are not done again (the same spec gives the same result); failed ones are. A teacher
    whose record is there, but whose weights are not, as in a fresh copy of published results, is trained again if a
    student needs it; so is the parent of a stage of compression.
    """
    pending = {spec for spec in plan.runs if not _is_done(spec, store)}
    for spec in reversed(plan.runs):  # students come after their teachers: backwards, a whole chain is found
        if spec in pending:
            pending |= {before for before in spec.needed if _lost_its_weights(before, store)}
    return [spec for spec in plan.runs if spec in pending]


def execute(
    plan: Plan,
    store: Store,
    root: Path,
    cache: Path,
    *,
    command: str = "",
    listener: Listener | None = None,
    progress: Progress | None = None,
) -> list[RunRecord]:
    """Execute what is not done yet; a run that fails becomes a failed record and the rest goes on.

    What the suite wants its models tried on besides follows each run, those that were finished before too.

    Call it with the store locked. Returns: the records of the whole plan, in its order.
    """
    opened: dict[DatasetSpec, Dataset] = {}

    def data_of(spec: DatasetSpec) -> Dataset:
        if spec not in opened:
            opened.clear()  # a plan goes through one data set after the other
            opened[spec] = open_dataset(spec, root, cache, progress)
        return opened[spec]

    pending = pending_runs(plan, store)
    if listener:
        listener.planned(len(pending), len(plan.runs) - len(pending))
    if any(spec.train.precision == "bf16" for spec in pending) and not (torch.cuda.is_available() or has_fast_bf16()):
        log.warning("this processor emulates bf16, some ten times slower than fp32; set precision: fp32")
    to_do = set(pending)
    images = Images(root, cache, progress)
    evaluate = plan.suite.evaluate
    without_weights = 0
    for spec in plan.runs:
        if spec in to_do:
            if listener:
                listener.started(spec)
            record = run(
                spec,
                partial(data_of, spec.dataset),
                store,
                cache,
                profile=plan.suite.profile,
                command=command,
                notice=listener.noted if listener else None,
                progress=progress,
            )
            if listener:
                listener.finished(record)
        if not (evaluate.on or evaluate.corruptions):
            continue
        known = store.read_record(spec.run_id)
        if known is None or known.status != "ok":
            continue
        if not store.network_path(spec).exists():  # a copy of published results: its evaluations come with it
            without_weights += 1
            continue
        evaluate_run(
            known,
            store,
            root,
            cache,
            evaluate,
            images=images,
            command=command,
            made=listener.evaluated if listener else None,
            progress=progress,
        )
    if without_weights and listener:
        listener.noted(f"{without_weights} runs have no weights here: what they were not tried on before stays so")
    records = [store.read_record(spec.run_id) for spec in plan.runs]
    return [record for record in records if record is not None]


def _lost_its_weights(needed: RunSpec, store: Store) -> bool:
    if store.network_path(needed).exists():
        return False
    record = store.read_record(needed.run_id)
    return record is None or record.status != "diverged"  # a diverged one never had any


def _is_done(spec: RunSpec, store: Store) -> bool:
    record = store.read_record(spec.run_id)
    return record is not None and record.status != "failed"
