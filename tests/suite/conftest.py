"""Fixtures of the suite's tests."""

import pytest
import torch

from kdbench.suite import run as run_module
from kdbench.suite.api import run_suite


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.setattr(run_module, "usable_cores", lambda: 1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """Decoded images, shared by all tests: the same whoever makes them."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def go(tmp_path, cache):
    """Run a suite into this test's own folder."""

    def run(suite, folder="results", **more):
        return run_suite(suite, tmp_path / folder, **{"root": tmp_path / "data", "cache": cache, **more})

    return run


@pytest.fixture
def trainings(monkeypatch):
    """The titles of the runs that were really trained, in order."""
    titles, original = [], run_module.train

    def spy(spec, *arguments, **more):
        titles.append(spec.title)
        return original(spec, *arguments, **more)

    monkeypatch.setattr(run_module, "train", spy)
    return titles
