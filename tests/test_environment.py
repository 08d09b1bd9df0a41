"""The fingerprint says what a figure depends on, and nothing private."""

from __future__ import annotations

import getpass
import os
import platform
import sys

import pytest

from kdbench import environment
from kdbench.environment import collect, usable_cores


def test_nothing_private_is_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "hunter2-hunter2")
    text = collect(1).model_dump_json()
    private = ["hunter2-hunter2", os.path.expanduser("~"), platform.node(), os.getcwd(), sys.prefix]  # noqa: PTH109, PTH111
    user = getpass.getuser()
    if len(user) > 4:
        private.append(user)
    assert [word for word in private if word and word in text] == []


def test_the_fingerprint_depends_on_the_machine_and_not_on_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    assert collect(1).fingerprint == collect(2).fingerprint
    before = collect(1).fingerprint
    monkeypatch.setattr(environment, "usable_cores", lambda: 99)
    assert collect(1).fingerprint != before


def test_cores_are_at_least_one_and_at_most_what_the_machine_has() -> None:
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)


@pytest.mark.parametrize(
    ("quota", "cores"), [("max 100000", 8), ("200000 100000", 2), ("50000 100000", 1), ("junk", 8)]
)
def test_the_cgroup_quota_counts(monkeypatch: pytest.MonkeyPatch, quota: str, cores: int) -> None:
    class Quota:
        def __init__(self, name: str) -> None:
            assert name == "/sys/fs/cgroup/cpu.max"

        def read_text(self) -> str:
            return quota

    monkeypatch.setattr(environment, "Path", Quota)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert usable_cores() == cores


def test_versions_are_those_installed() -> None:
    import torch

    assert collect(1).versions["torch"] == torch.__version__.partition("+")[0]
    assert collect(3).threads == 3
