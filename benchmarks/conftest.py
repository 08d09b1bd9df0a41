"""What the timings share: images in memory, threads fixed, real images where KDBENCH_DATA has them, tables at the end.

Every goal is a ratio and every ratio is of two things that took turns in one run. A goal that is missed is said, in the
table and in the benchmark's extra_info, and fails no test: what else the machine does decides about it too.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from timing import Row

from kdbench.data.dataset import Dataset, open_dataset
from kdbench.environment import collect, usable_cores
from kdbench.types import DatasetSpec

_ROWS = pytest.StashKey[list[Row]]()


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """Baselines are committed: what they were measured on belongs there, whose machine it is does not."""
    for private in ("node", "release"):
        machine_info.pop(private, None)
    told = {"fingerprint", "cores", "versions"}
    machine_info["kdbench"] = collect(usable_cores()).model_dump(mode="json", include=told)


@pytest.fixture(scope="session", autouse=True)
def _threads() -> None:
    torch.set_num_threads(usable_cores())


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """1,000 drawn images at 64 px; timings do not depend on what is in a picture."""
    spec = DatasetSpec(name="synthetic", image_size=64, options={"count": 1000})
    return open_dataset(spec, Path(), tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def real_root() -> Path:
    """The data root with real images; skips without."""
    root = os.environ.get("KDBENCH_DATA")
    if not root:
        pytest.skip("KDBENCH_DATA names no folder with real images")
    return Path(root)


@pytest.fixture
def note_row(
    request: pytest.FixtureRequest, benchmark: Any, capsys: pytest.CaptureFixture[str]
) -> Callable[[Row], None]:
    """Prints a row, keeps it in the benchmark's extra_info and for the table at the end."""

    def note(row: Row) -> None:
        with capsys.disabled():
            print(f"\n{row.table}: {row}")
        request.config.stash.setdefault(_ROWS, []).append(row)
        kept = {"table": row.table, "label": row.label, "ratios": row.ratios, "median": row.median, "goal": row.goal}
        benchmark.extra_info.setdefault("rows", []).append({**kept, "met": row.met, "note": row.note})

    return note


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    tables: dict[str, list[Row]] = {}
    for row in config.stash.get(_ROWS, []):
        tables.setdefault(row.table, []).append(row)
    for title, rows in tables.items():
        terminalreporter.section(f"{title}: median of the pairs (least to most)")
        for row in rows:
            terminalreporter.write_line(str(row))
        terminalreporter.write_line(f"{sum(row.met for row in rows)} of {len(rows)} meet the goal")
