"""A whole suite in one call: what the command line does, for Python."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kdbench.activity import training
from kdbench.config import CompressEntry, StudentEntry, Suite
from kdbench.data.dataset import open_dataset
from kdbench.errors import ConfigError, MissingData, RecordError
from kdbench.paths import cache_root, data_root
from kdbench.store import Store
from kdbench.suite.executors.local import Listener, execute
from kdbench.suite.plan import Plan, load_suite, make_plan
from kdbench.suite.stages import compression_problems, stages_of
from kdbench.suite.trained import find_run
from kdbench.types import DatasetSpec, Progress, RunRecord


def plan_suite(
    suite: Suite | str,
    *,
    root: Path | str | None = None,
    cache: Path | str | None = None,
    seeds: Sequence[int] | None = None,
    only: str | None = None,
    missing_ok: bool = False,
    progress: Progress | None = None,
) -> Plan:
    """The runs of a suite, with its data sets opened (decoded if they were not before) and identified by content.

    Args:
        suite: a Suite, a shipped suite's name or a file.
        missing_ok: plan even if a data set is not on this disk; its runs then have no final id.
    """
    suite = load_suite(suite) if isinstance(suite, str) else suite
    make_plan(suite, seeds=seeds, only=only)  # says what is wrong before hours of decoding
    resolved: dict[DatasetSpec, DatasetSpec] = {}
    for spec in suite.datasets:
        try:
            resolved[spec] = open_dataset(spec, data_root(root), cache_root(cache), progress).spec
        except MissingData:
            if not missing_ok:
                raise
    return make_plan(suite, resolved, seeds=seeds, only=only)


def run_suite(
    suite: Suite | str,
    results: Path | str | None = None,
    *,
    root: Path | str | None = None,
    cache: Path | str | None = None,
    seeds: Sequence[int] | None = None,
    only: str | None = None,
    command: str = "",
    listener: Listener | None = None,
    progress: Progress | None = None,
) -> list[RunRecord]:
    """Run a suite and return its records; what is in the results folder already is not done again.

    Args:
        suite: a Suite, a shipped suite's name or a file.
        results: the results folder; None is ``results/<suite>``.
        root: the data root; None is KDBENCH_DATA, else the user's data folder.
        cache: where decoded images are kept; None is KDBENCH_CACHE, else the user's cache folder.
        seeds: instead of the suite's own.
        only: a pattern, or a part of the titles, of the runs wanted.
    Raises: KdbenchError. A run that fails does not raise: its record says so.
    """
    suite = load_suite(suite) if isinstance(suite, str) else suite
    store = Store(results if results is not None else Path("results") / suite.name)
    with store.lock():
        plan = plan_suite(suite, root=root, cache=cache, seeds=seeds, only=only, progress=progress)
        with training(suite.name):
            return execute(
                plan, store, data_root(root), cache_root(cache), command=command, listener=listener, progress=progress
            )


def compress_run(
    results: Path | str,
    run: str,
    entry: CompressEntry,
    *,
    root: Path | str | None = None,
    cache: Path | str | None = None,
    command: str = "",
    listener: Listener | None = None,
    progress: Progress | None = None,
) -> list[RunRecord]:
    """Prune and quantise a trained run of a results folder; each stage becomes a run of that folder, too.

    Args:
        results: the results folder, with the weights of the run, and of its teachers where one fine-tunes it.
        run: the first digits of its id, six at least, or a part or a pattern of its title that fits no other run.
        entry: what is to be done; its `of` is not looked at.
        root: the data root; None is KDBENCH_DATA, else the user's data folder.
        cache: where decoded images are kept; None is KDBENCH_CACHE, else the user's cache folder.
    Returns: the record of the run, and of each stage in order.
    Raises: KdbenchError. A stage that fails does not raise: its record says so.
    """
    store = Store(results)
    record = find_run(store, run)
    spec = record.spec
    if record.status != "ok":
        raise RecordError(f"{spec.title} has no result ({record.status}); run its suite again")
    if spec.quantise is not None:
        raise ConfigError([f"{spec.title} is quantised, and that is the last stage; name what it was before"])
    if spec.role == "teacher":
        raise ConfigError([f"{spec.title} is a teacher; students are compressed: name one of them"])
    if problems := compression_problems(entry):
        raise ConfigError(problems)
    suite = Suite(name="compress", datasets=(spec.dataset,), students=(StudentEntry(model=spec.model),))
    stages = stages_of(spec, entry, suite)
    made = {stage.run_id for stage in stages}
    for needed in {needed for stage in stages for needed in stage.needed if needed.run_id not in made}:
        if not store.network_path(needed).is_file():
            raise RecordError(
                f"{store.root} holds the record of {needed.title}, but not its weights, which are not shared with "
                "records; run its suite here first"
            )
    with store.lock(), training("compress"):
        open_dataset(spec.dataset, data_root(root), cache_root(cache), progress)  # says what is wrong before all else
        done = execute(
            Plan(suite, tuple(stages)),
            store,
            data_root(root),
            cache_root(cache),
            command=command,
            listener=listener,
            progress=progress,
        )
    return [record, *done]
