"""A whole suite in one call: what the command line does, for Python."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kdbench.activity import training
from kdbench.config import Suite
from kdbench.data.dataset import open_dataset
from kdbench.errors import MissingData
from kdbench.paths import cache_root, data_root
from kdbench.store import Store
from kdbench.suite.executors.local import Listener, execute
from kdbench.suite.plan import Plan, load_suite, make_plan
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
