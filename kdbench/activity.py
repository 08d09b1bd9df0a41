"""Who trains and who times on this machine, so that no latency is taken beside a training. Floor 2; no torch.

    TEMP/kdbench-<uid>/training-<pid>-<random>.lock  held for as long as that process trains
    TEMP/kdbench-<uid>/training-<pid>-<random>.txt   what it trains; there only while the lock is held
    TEMP/kdbench-<uid>/timing.lock                   held by the one process that times

The system frees a lock when its process ends, however it ends. Seen are the processes of one user that share a folder
for temporary files: not those of another user, nor those in another container. Where that folder cannot be written,
nobody is seen, and nothing stops for it.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from kdbench.errors import ProfileError
from kdbench.store import write_atomic

log = logging.getLogger(__name__)

_NOTE = re.compile(r"training-([0-9]+)-[0-9a-f]+\.txt")
_LONGEST_WHAT = 80  # characters: it stands in a message of one line
_PATIENCE_S = 0.1  # for whoever else looks at this moment whether a lock is held: that takes hold of it, too
_NO_LOCK = (OSError, NotImplementedError)
"""What filelock raises where a file cannot be locked; its Timeout is an OSError, too."""


@dataclass(frozen=True)
class Trainer:
    """A process that trains.

    Attributes:
        what: the suite's name, or what else it called itself; may be empty.
    """

    pid: int
    what: str


@contextmanager
def training(what: str) -> Iterator[None]:
    """For its duration, other processes see that this one trains.

    Calls may be nested and may overlap in several threads: the first sets the mark, the last takes it away.

    Args:
        what: for people, as the name of a suite.
    Raises: nothing of its own; where no mark can be set, the training goes on without.
    """
    trainer = Trainer(os.getpid(), " ".join(what.split())[:_LONGEST_WHAT])
    with _TRAINING.held(lambda: _marked(trainer)):
        yield


def trainers(others: bool = True) -> list[Trainer]:
    """The processes that train at this moment; marks that ended processes left behind are taken away.

    Args:
        others: leave this process out.
    """
    found = [] if others else list(_own.values())
    try:
        notes = sorted(_folder().iterdir())
    except OSError:  # nobody has trained yet, or nobody can be seen
        return found
    for note in notes:
        if (named := _NOTE.fullmatch(note.name)) and note.name not in _own and _is_held(note):
            with suppress(OSError):  # it has ended meanwhile
                found.append(Trainer(int(named[1]), note.read_text("utf-8", errors="replace")))
    return found


@contextmanager
def timing() -> Iterator[None]:
    """For its duration, no other process times; entered only while no other process trains.

    A process that trains may time, too: a suite profiles its own runs. Calls may be nested. A training that begins
    later is not held up; ask `trainers` again.

    Raises: ProfileError, if another process trains or times.
    """
    with _TIMING.held(_alone):
        yield


class _Once:
    """Something that a process takes hold of once, however many of its calls and threads ask for it."""

    def __init__(self) -> None:
        self._mutex, self._calls, self._taken = threading.Lock(), 0, ExitStack()

    @contextmanager
    def held(self, take: Callable[[], AbstractContextManager[None]]) -> Iterator[None]:
        with self._mutex:
            if not self._calls:
                self._taken.enter_context(take())
            self._calls += 1
        try:
            yield
        finally:
            with self._mutex:
                self._calls -= 1
                if not self._calls:
                    self._taken.close()


_TRAINING, _TIMING = _Once(), _Once()
_own: dict[str, Trainer] = {}  # by the name of its note; a process that was forked while training is no other one


@contextmanager
def _marked(trainer: Trainer) -> Iterator[None]:
    note = f"training-{trainer.pid}-{secrets.token_hex(4)}.txt"
    _own[note] = trainer
    try:
        with ExitStack() as mark:
            try:
                _set_mark(note, trainer.what, mark)
            except _NO_LOCK as problem:
                log.debug("other processes do not see that this one trains: %s", problem)
            yield
    finally:
        del _own[note]


def _set_mark(name: str, what: str, mark: ExitStack) -> None:
    """Leave lock and note; `mark` gets how they are taken away. Raises: _NO_LOCK."""
    lock = _lock(Path(name).stem)
    note = _folder() / name
    mark.callback(_quietly, note.parent.rmdir)  # only if it is empty: nothing is left behind
    mark.callback(_quietly, lambda: note.with_suffix(".lock").unlink(missing_ok=True))
    mark.callback(_quietly, lock.release)
    # last to come, first to go: so a note whose lock is free was left by a process that was killed
    mark.callback(_quietly, lambda: note.unlink(missing_ok=True))
    write_atomic(note, what.encode(errors="replace"), durable=False)


def _is_held(note: Path) -> bool:
    """Whether the process that left the note still runs; if not, note and lock are deleted."""
    path = note.with_suffix(".lock")
    try:
        with FileLock(path, thread_local=False).acquire(timeout=_PATIENCE_S, poll_interval=_PATIENCE_S / 5):
            note.unlink(missing_ok=True)
    except Timeout:
        return True
    except _NO_LOCK as problem:
        log.debug("cannot tell whether %s is of a process that still runs: %s", note.name, problem)
        return False
    _quietly(lambda: path.unlink(missing_ok=True))
    return False


@contextmanager
def _alone() -> Iterator[None]:
    with ExitStack() as held:
        try:
            held.callback(_quietly, _lock("timing").release)  # the file stays: others may be about to lock it
        except Timeout:
            raise ProfileError(
                "another kdbench process is timing on this machine, and each would slow the other; wait for it to end"
            ) from None
        except _NO_LOCK as problem:
            log.debug("other processes do not see that this one times: %s", problem)
        if beside := trainers():
            each = ", ".join(f"process {trainer.pid} trains {trainer.what or 'a network'}" for trainer in beside)
            raise ProfileError(f"{each}, which would slow what is timed beside it; wait for it to end, or stop it")
        yield


def _lock(name: str) -> BaseFileLock:
    """The lock of that name, held. Raises: _NO_LOCK; Timeout, if another process holds it."""
    tries = 5
    while True:
        try:
            with suppress(FileExistsError):
                _path().mkdir(mode=0o700)
            # not of a thread: the last call to end may run in another one than the first
            lock = FileLock(_folder() / f"{name}.lock", thread_local=False)
            lock.acquire(timeout=0)
            _folder().chmod(0o700)  # if it went away just now, filelock has made it again, open to others
            return lock
        except FileNotFoundError:  # a process that ended just now took the empty folder with it
            tries -= 1
            if not tries:
                raise


def _folder() -> Path:
    """The folder of the locks. Raises: OSError, if it is not there or somebody else's."""
    folder = _path()
    facts = folder.lstat()  # where everybody may write, somebody could have put one, or a link, in its place
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != _uid():
        raise PermissionError(f"{folder} is not a folder of this user's own")
    return folder


def _path() -> Path:
    return Path(tempfile.gettempdir()) / f"kdbench-{_uid()}"


def _uid() -> int:
    return os.getuid() if hasattr(os, "getuid") else 0  # Windows: a folder for temporary files for each user anyway


def _quietly(tidy_up: Callable[[], None]) -> None:
    with suppress(*_NO_LOCK):
        tidy_up()
