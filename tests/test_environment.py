"""What a record says of the machine: enough to compare latencies, nothing private."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kdbench import environment
from kdbench.types import Environment

ALLOWED = {
    "fingerprint", "cpu", "cpu_flags", "cores", "memory_bytes", "gpu", "system", "python", "versions", "threads",
    "kdbench", "commit", "dirty",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    for cached in (environment._cpu, environment._commit):
        cached.cache_clear()
    yield
    for cached in (environment._cpu, environment._commit):
        cached.cache_clear()


def leaves(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield str(key)
            yield from leaves(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from leaves(item)
    else:
        yield str(value)


def test_the_fields_are_those_and_no_others() -> None:
    # a new field may carry something private: look at it, then add it here
    assert set(Environment.model_fields) == ALLOWED
    assert set(environment.collect(1).versions) <= {"torch", "torchvision", "timm", "numpy", "fvcore", "pillow"}


def test_nothing_of_the_process_environment_is_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    planted = {name: f"planted-{name.lower()}" for name in ("HOME", "USER", "LOGNAME", "HOSTNAME", "API_TOKEN")}
    for name, value in planted.items():
        monkeypatch.setenv(name, value)
    assert "planted" not in environment.collect(1).model_dump_json()


def test_no_host_user_or_path_is_in_it() -> None:
    found = list(leaves(environment.collect(1).model_dump()))
    for private in (platform.node(), str(Path.home()), str(Path.cwd()), os.environ.get("USER")):
        assert private not in found
    assert [text for text in found if text.startswith(("/", "~"))] == []


def test_values_of_long_variables_are_not_part_of_any_leaf() -> None:
    found = "\n".join(leaves(environment.collect(1).model_dump()))
    known = {platform.system(), platform.machine(), platform.python_version()}
    assert [
        name for name, value in os.environ.items() if len(value) > 8 and value not in known and value in found
    ] == []


def cgroup(monkeypatch: pytest.MonkeyPatch, content: str | None, cores: int = 8) -> None:
    class Fake:
        def __init__(self, path: str) -> None:
            self.path = path

        def read_text(self) -> str:
            if self.path != "/sys/fs/cgroup/cpu.max":
                raise AssertionError(self.path)
            if content is None:
                raise FileNotFoundError(self.path)
            return content

    monkeypatch.setattr(environment, "Path", Fake)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)


@pytest.mark.parametrize(
    ("content", "usable"),
    [
        ("200000 100000\n", 2),
        ("max 100000\n", 8),
        ("50000 100000\n", 1),  # half a core is one core, not none
        ("1000 100000\n", 1),
        ("1600000 100000\n", 8),  # more than the affinity allows
        ("290000 100000\n", 3),
        ("", 8),
        ("nonsense\n", 8),
        (None, 8),  # no cgroup v2
    ],
)
def test_cores_are_cut_by_the_quota(monkeypatch: pytest.MonkeyPatch, content: str | None, usable: int) -> None:
    cgroup(monkeypatch, content)
    assert environment.usable_cores() == usable


def test_cores_without_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    cgroup(monkeypatch, None)
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert environment.usable_cores() == 5
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert environment.usable_cores() == 1


def cpuinfo(monkeypatch: pytest.MonkeyPatch, content: str | None) -> None:
    class Fake:
        def __init__(self, path: str) -> None:
            self.path = path

        def read_text(self) -> str:
            if content is None or self.path != "/proc/cpuinfo":
                raise FileNotFoundError(self.path)
            return content

    monkeypatch.setattr(environment, "Path", Fake)


def test_cpu_is_read_from_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    cpuinfo(monkeypatch, "model name\t: Example CPU 9000: X\nflags\t\t: fpu avx2 secret avx512f\nflags\t: fma\n")
    assert environment._cpu() == ("Example CPU 9000: X", ("avx2", "avx512f"))  # known flags only
    assert not environment.has_fast_bf16()
    environment._cpu.cache_clear()
    cpuinfo(monkeypatch, "model name : Y\nflags : avx512_bf16 avx2\n")
    assert environment.has_fast_bf16()


def test_arm_names_its_flags_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    cpuinfo(monkeypatch, "processor\t: 0\nFeatures\t: fp asimd bf16 i8mm\n")
    assert environment._cpu()[1] == ("asimd", "bf16", "i8mm")
    assert environment.has_fast_bf16()


def test_without_cpuinfo_the_platform_has_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    cpuinfo(monkeypatch, None)
    name, flags = environment._cpu()
    assert name in (platform.processor(), platform.machine())
    assert flags == ()


def test_fingerprint_follows_what_latency_depends_on(monkeypatch: pytest.MonkeyPatch) -> None:
    before = environment.collect(1)
    assert environment.collect(1).fingerprint == before.fingerprint
    assert environment.collect(4).fingerprint == before.fingerprint  # threads stand beside each latency
    assert environment.collect(4).threads == 4
    for name, value in {
        "_gpu": lambda: "another",
        "usable_cores": lambda: 777,
        "_cpu": lambda: ("another", ()),
    }.items():
        with monkeypatch.context() as patch:
            patch.setattr(environment, name, value)
            assert environment.collect(1).fingerprint != before.fingerprint
    with monkeypatch.context() as patch:
        patch.setattr(environment, "_commit", lambda: ("0" * 12, True))
        assert environment.collect(1).fingerprint == before.fingerprint


@pytest.mark.parametrize("problem", [FileNotFoundError("no git"), subprocess.TimeoutExpired("git", 10)])
def test_without_git_there_is_no_commit(monkeypatch: pytest.MonkeyPatch, problem: Exception) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise problem

    monkeypatch.setattr(subprocess, "run", fail)
    assert environment._commit() == (None, None)


@pytest.mark.parametrize(("status", "dirty"), [("", False), (" M kdbench/types.py\n", True)])
def test_commit_of_a_checkout(monkeypatch: pytest.MonkeyPatch, status: str, dirty: bool) -> None:
    def git(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        answers = {"ls-files": "kdbench/environment.py\n", "rev-parse": "0123456789ab\n", "status": status}
        return subprocess.CompletedProcess(command, 0, answers[command[3]], "")

    monkeypatch.setattr(subprocess, "run", git)
    assert environment._commit() == ("0123456789ab", dirty)


def test_somebody_elses_repository_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    def git(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, int(command[3] == "ls-files"), "feedfeedfeed\n", "")

    monkeypatch.setattr(subprocess, "run", git)
    assert environment._commit() == (None, None)
