"""A latency is taken beside no training and beside no other timing; nothing else stops for it."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import filelock
import pytest

from kdbench import activity
from kdbench.activity import Trainer, timing, trainers, training
from kdbench.errors import ProfileError

SECONDS = 60  # a process that has not got there by then never will

TRAINS = """
import sys, time
from kdbench.activity import training
with training("their suite"), training("a run of it"):
    print("ready", flush=True)
    sys.stdin.readline()
print("over", flush=True)
sys.stdin.readline()
"""
TIMES = TRAINS.replace("training", "timing").replace('("their suite")', "()").replace('("a run of it")', "()")

Start = Callable[[str], "subprocess.Popen[str]"]


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for temporary files of this test's own, for the processes it starts as well."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a process and waits until it is ready."""
    processes = []

    def begin(source: str) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        process = subprocess.Popen([sys.executable, "-c", source], stdin=pipe, stdout=pipe, text=True)
        processes.append(process)
        says(process, "ready")
        return process

    yield begin
    for process in processes:
        process.kill()
        process.communicate()


def says(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == f"{word}\n"


def go_on(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


# ---------------------------------------------------------------- another process


def test_another_process_that_trains_is_seen_until_it_ends_its_training(start: Start, temporary: Path) -> None:
    process = start(TRAINS)
    them = Trainer(process.pid, "their suite")
    assert trainers() == trainers(others=False) == [them]
    message = f"^process {process.pid} trains their suite, which would slow .*; wait for it to end, or stop it$"
    with pytest.raises(ProfileError, match=message) as problem, timing():
        pytest.fail("timed beside a training")
    assert "\n" not in str(problem.value)
    with training("mine"):
        assert trainers() == [them]
        assert sorted(trainers(others=False), key=lambda each: each.what) == [Trainer(os.getpid(), "mine"), them]
    go_on(process)
    says(process, "over")
    assert trainers() == []
    with timing():
        pass
    assert process.poll() is None
    assert names(temporary) == [f"kdbench-{os.getuid()}", "timing.lock"]


def test_a_process_that_is_killed_trains_no_more(start: Start, temporary: Path) -> None:
    process = start(TRAINS)
    assert len(trainers()) == 1
    process.send_signal(signal.SIGKILL)
    process.wait(SECONDS)
    folder = temporary / f"kdbench-{os.getuid()}"
    assert len(list(folder.iterdir())) == 2  # it could not tidy up
    assert trainers() == []
    assert list(folder.iterdir()) == []
    with timing():
        pass


def test_two_do_not_time_at_once(start: Start) -> None:
    process = start(TIMES)
    with pytest.raises(ProfileError, match=r"^another kdbench process is timing .*; wait for it to end$"), timing():
        pytest.fail("timed beside another timing")
    go_on(process)
    says(process, "over")
    with timing(), timing():  # by its own calls a process is not held up
        pass


def test_a_process_that_times_and_is_killed_holds_nobody_up(start: Start) -> None:
    process = start(TIMES)
    process.kill()
    process.wait(SECONDS)
    with timing():
        pass


def test_whoever_trains_may_time_its_own_runs(start: Start) -> None:
    with training("a suite"):
        with timing():
            assert trainers() == []
        start(TRAINS)
        with pytest.raises(ProfileError, match="their suite"), timing():
            pytest.fail("timed beside a training")
    with pytest.raises(ProfileError, match="their suite"), timing():
        pytest.fail("timed beside a training")


def test_a_training_may_begin_while_another_process_times(start: Start) -> None:
    with timing():
        start(TRAINS)
        assert [each.what for each in trainers()] == ["their suite"]


# ---------------------------------------------------------------- this process


def test_nested_calls_count_once(temporary: Path) -> None:
    def marks() -> int:
        return len(list(temporary.rglob("*.txt")))

    with training("outer"):
        with training("inner"):
            assert marks() == 1
            assert trainers(others=False) == [Trainer(os.getpid(), "outer")]
        assert marks() == 1
    assert trainers(others=False) == []
    assert names(temporary) == []
    with training("again"):
        assert trainers(others=False) == [Trainer(os.getpid(), "again")]


def test_the_last_of_overlapping_threads_takes_the_mark_away(temporary: Path) -> None:
    inside, leave = threading.Event(), threading.Event()

    def work() -> None:
        with training("thread"):
            inside.set()
            leave.wait(SECONDS)

    thread = threading.Thread(target=work)
    with training("main"):
        thread.start()
        assert inside.wait(SECONDS)
    # the thread that set it has left, the other one has not
    mark = next(temporary.rglob("*.lock"))
    with pytest.raises(filelock.Timeout):
        filelock.FileLock(mark).acquire(timeout=0)
    assert [each.what for each in trainers(others=False)] == ["main"]
    leave.set()
    thread.join(SECONDS)
    assert names(temporary) == []


def test_many_threads(temporary: Path) -> None:
    problems = []

    def work(number: int) -> None:
        for _ in range(20):
            try:
                with training(str(number)), timing():
                    if len(trainers(others=False)) != 1:
                        problems.append("not one")
            except Exception as problem:
                problems.append(str(problem))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    assert problems == []
    assert trainers(others=False) == []
    assert names(temporary) == [f"kdbench-{os.getuid()}", "timing.lock"]


@pytest.mark.parametrize("hold", [lambda: training("x"), timing])
def test_an_error_inside_gets_out_and_frees(temporary: Path, hold: Callable[[], AbstractContextManager[None]]) -> None:
    with pytest.raises(KeyError, match="mine"), hold():
        raise KeyError("mine")
    assert trainers(others=False) == []
    assert [name for name in names(temporary) if name.startswith("training")] == []


def test_a_name_is_one_short_line(temporary: Path) -> None:
    with training("a\nlong\tname \ud800" + "x" * 1000):
        said = trainers(others=False)[0].what
        assert next(temporary.rglob("*.txt")).read_text("utf-8").startswith("a long name ?xxx")
    assert said.startswith("a long name \ud800xxx")
    assert len(said) == 80


# ---------------------------------------------------------------- where it does not work


def in_a_file(folder: Path, patch: pytest.MonkeyPatch) -> None:
    (folder / "file").touch()
    patch.setattr(tempfile, "tempdir", str(folder / "file"))


def no_temporary_folder(_: Path, patch: pytest.MonkeyPatch) -> None:
    def fail() -> str:
        raise FileNotFoundError("No usable temporary directory found")

    patch.setattr(tempfile, "gettempdir", fail)


def a_link_of_that_name(folder: Path, patch: pytest.MonkeyPatch) -> None:
    (folder / "elsewhere").mkdir()
    (folder / f"kdbench-{os.getuid()}").symlink_to(folder / "elsewhere")


def somebody_elses(folder: Path, patch: pytest.MonkeyPatch) -> None:
    stranger = os.getuid() + 1
    (folder / f"kdbench-{stranger}").mkdir()
    patch.setattr(os, "getuid", lambda: stranger)


def no_locks(_: Path, patch: pytest.MonkeyPatch) -> None:
    class Unlockable(filelock.FileLock):
        def acquire(self, *_: object, **__: object) -> filelock.AcquireReturnProxy:
            raise NotImplementedError("no locks on this file system")

    patch.setattr(activity, "FileLock", Unlockable)


def full_disk(_: Path, patch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    patch.setattr(activity, "write_atomic", fail)


@pytest.mark.parametrize(
    "broken", [in_a_file, no_temporary_folder, a_link_of_that_name, somebody_elses, no_locks, full_disk]
)
def test_without_a_folder_of_its_own_everything_goes_on(
    temporary: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    broken: Callable[[Path, pytest.MonkeyPatch], None],
) -> None:
    broken(temporary, monkeypatch)
    before = names(temporary)
    caplog.set_level(logging.DEBUG, "kdbench")
    ran = []
    with training("a suite"):
        assert trainers() == []
        assert [each.what for each in trainers(others=False)] == ["a suite"]  # of itself it knows
        ran.append("training")
        with timing():
            ran.append("timing")
    assert ran == ["training", "timing"]
    assert [record.levelno for record in caplog.records if record.name == "kdbench.activity"][:1] == [logging.DEBUG]
    assert [name for name in names(temporary) if name.startswith("training")] == []
    if broken is not full_disk:
        assert {*names(temporary)} - {*before} <= {f"kdbench-{os.getuid()}"}


def test_a_lock_that_cannot_be_looked_at_is_nobodys(
    start: Start, monkeypatch: pytest.MonkeyPatch, temporary: Path
) -> None:
    start(TRAINS)
    no_locks(temporary, monkeypatch)
    assert trainers() == []
    with timing():
        pass


def test_locks_that_are_files_only(monkeypatch: pytest.MonkeyPatch, temporary: Path) -> None:
    monkeypatch.setattr(activity, "FileLock", filelock.SoftFileLock)
    with training("a suite"), timing():
        assert trainers() == []
    left = temporary / f"kdbench-{os.getuid()}"
    left.mkdir(exist_ok=True)
    (left / "training-1-ab.txt").write_text("ended")
    assert trainers() == []
    assert list(left.iterdir()) == []


def test_foreign_files_are_left_alone(temporary: Path) -> None:
    folder = temporary / f"kdbench-{os.getuid()}"
    folder.mkdir()
    for name in ("training-x.txt", "notes.txt", ".partial-ab", "training-1-ab.lock"):
        (folder / name).touch()
    assert trainers() == []
    with training("a suite"):
        pass
    assert len(list(folder.iterdir())) == 4


def test_the_folder_is_closed_to_others(temporary: Path) -> None:
    with training("a suite"):
        assert (temporary / f"kdbench-{os.getuid()}").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("before", [True, False])
def test_a_folder_that_goes_away_meanwhile_is_made_again(
    monkeypatch: pytest.MonkeyPatch, temporary: Path, before: bool
) -> None:
    """A process that ends takes the empty folder with it, while another one is about to lock in it."""
    original, folder, calls = activity._folder, temporary / f"kdbench-{os.getuid()}", []

    def vanishing() -> Path:
        calls.append(before)
        if len(calls) > 1:
            return original()
        if before:
            folder.rmdir()
            return original()
        found = original()
        folder.rmdir()
        return found

    monkeypatch.setattr(activity, "_folder", vanishing)
    with training("a suite"):
        assert len(list(folder.glob("*.txt"))) == 1
        assert folder.stat().st_mode & 0o777 == 0o700
    assert len(calls) > 1


def test_a_folder_that_always_goes_away_stops_nothing(monkeypatch: pytest.MonkeyPatch, temporary: Path) -> None:
    def gone() -> Path:
        raise FileNotFoundError("gone")

    monkeypatch.setattr(activity, "_folder", gone)
    with training("a suite"), timing():
        assert trainers() == []


def test_a_look_at_a_lock_takes_no_time_for_those_who_train_alone() -> None:
    with training("a suite"):
        before = time.monotonic()
        trainers()
        assert time.monotonic() - before < activity._PATIENCE_S
