"""A fresh process to do one thing in, and to be stopped and woken. Floor 3; no torch.

The processes are forked from a server that has imported what they need and done nothing else, so a new one is there in
a moment and has inherited nothing: no threads, no caches, no allocator in use.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import signal
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from kdbench.errors import KdbenchError, ProfileError

LONGEST_S = 600.0
"""Of one answer: a conversion, or making one network ready (torch.compile takes its time)."""

_PRELOAD = ["kdbench.profiling.server", "timm", "kdbench.profiling.child", "kdbench.suite.profile"]
_DEATH_OF_PARENT = 1  # PR_SET_PDEATHSIG of Linux's prctl(2)
_SERVED = "forkserver" in multiprocessing.get_all_start_methods()  # not on Windows


def start_server() -> None:
    """Let the server import what processes need while this one does something else; otherwise the first ``Child`` waits
    for it."""
    if _SERVED:
        forkserver.set_forkserver_preload(_PRELOAD)
        with _no_main():
            forkserver.ensure_running()


@dataclass(frozen=True)
class _Problem:
    text: str


class Child:
    """The process, from the side of who started it."""

    def __init__(self, work: Callable[..., None], *arguments: Any) -> None:
        start_server()
        context: Any = multiprocessing.get_context("forkserver" if _SERVED else "spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, work, *arguments), daemon=True)
        with _no_main():
            self._process.start()
        theirs.close()

    def answer(self) -> Any:
        """What it sends next. Raises: ProfileError, with its own message or what became of it."""
        try:
            if not self._pipe.poll(LONGEST_S):
                raise ProfileError(f"no answer within {LONGEST_S:.0f} s")
            answer = self._pipe.recv()
        except (EOFError, OSError):
            raise ProfileError(self._how_it_ended()) from None
        if isinstance(answer, _Problem):
            raise ProfileError(answer.text)
        return answer

    def ask(self, question: Any) -> Any:
        """Wake it, put a question, wait for the answer, and stop it again. Raises: ProfileError."""
        try:
            self._pipe.send(question)
        except OSError:
            raise ProfileError(self._how_it_ended()) from None
        self._signal("SIGCONT")
        try:
            return self.answer()
        finally:
            self.stop()

    def stop(self) -> None:
        """Take the processor away from it, and with it from threads of it that spin; ``ask`` wakes it."""
        self._signal("SIGSTOP")

    def kill(self) -> None:
        """It has nothing to lose."""
        self._process.kill()

    def end(self) -> None:
        """Kill it, and wait until it is gone."""
        self._process.kill()
        self._process.join()
        self._pipe.close()

    def _signal(self, name: str) -> None:
        number = getattr(signal, name, None)  # Windows has neither: there it only waits for the next question
        if number is not None and self._process.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, number)

    def _how_it_ended(self) -> str:
        self._process.join(5)
        code = self._process.exitcode
        if code is not None and code < 0:
            with suppress(ValueError):
                name = signal.Signals(-code).name
                return f"its process was ended by {name}" + (": out of memory?" if name == "SIGKILL" else "")
        return f"its process ended without an answer (exit code {code})"


@contextmanager
def _no_main() -> Iterator[None]:
    """Keep a new process from running the user's script again: nothing in it is needed there."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


# ---------------------------------------------------------------- in the process


def _work(pipe: Connection, work: Callable[..., None], *arguments: Any) -> None:
    """Do it; what goes wrong is sent as one line."""
    gc.freeze()  # what was imported stays: walking through it would copy all of its memory into this process
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is interrupted too, and ends this process
    if _SERVED:
        # the server lives as long as anybody holds its other pipe, which it hands to its children: without it, it goes
        # when the user's process goes, however that happens, and takes this one along, stopped or not
        for name in list(Path("/dev/fd").iterdir()):
            if (number := int(name.name)) > 2 and number != pipe.fileno():
                with suppress(OSError):  # the listing itself was one of them
                    os.close(number)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DEATH_OF_PARENT, signal.SIGKILL)
    silence = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # exporters and runtimes print what only their developers understand
        os.dup2(silence, stream)
    try:
        work(pipe, *arguments)
    except KdbenchError as problem:
        pipe.send(_Problem(str(problem)))
    except Exception as problem:  # a runtime may raise anything, also while it runs
        text = str(problem).strip().splitlines() or [""]
        pipe.send(_Problem(f"{type(problem).__name__}: {text[0]}"))
