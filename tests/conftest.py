"""Fixtures of every test: where real images are, and where decoded ones go. No test writes outside pytest's folders."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from hypothesis.configuration import set_hypothesis_home_dir

if TYPE_CHECKING:
    from deployed import Deployed

_HYPOTHESIS_HOME = tempfile.TemporaryDirectory(prefix="kdbench-hypothesis-")
set_hypothesis_home_dir(_HYPOTHESIS_HOME.name)  # else it makes a folder where pytest was started
settings.register_profile("kdbench", deadline=None, derandomize=True, database=None)
settings.load_profile("kdbench")


@pytest.fixture(scope="session", autouse=True)
def _own_cache_and_temporary_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Whoever asks for the default cache, or for a temporary folder, gets one that goes away with the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDBENCH_CACHE", str(tmp_path_factory.mktemp("default-cache")))
        # trainings leave their marks there, and nobody may time beside one: other tests on this machine are not asked
        temporary = str(tmp_path_factory.mktemp("t"))
        patch.setenv("TMPDIR", temporary)
        patch.setattr(tempfile, "tempdir", temporary)
        yield


@pytest.fixture(scope="session", autouse=True)
def _one_thread_each() -> None:
    """Side by side with other tests, networks this small wait for each other's threads more than they compute."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        import torch

        torch.set_num_threads(1)


@pytest.fixture
def own_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test declares is forgotten after it."""
    from kdbench.data.source import SOURCES

    monkeypatch.setattr(SOURCES, "_entries", {name: SOURCES.get(name) for name in SOURCES.names()})


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The real images, named by KDBENCH_DATA; without it the test skips."""
    named = os.environ.get("KDBENCH_DATA")
    if not named or not Path(named).is_dir():
        pytest.skip("needs real images: set KDBENCH_DATA to their folder")
    return Path(named)


@pytest.fixture(scope="session")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Deployed:
    """Trained runs and their exported folders, shared by all tests; see tests/shared/deployed.py."""
    from deployed import make_deployed

    return make_deployed(tmp_path_factory.mktemp("deployed"))
