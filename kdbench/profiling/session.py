"""Timing several networks so that their order survives a noisy machine. Floor 3.

All of them are made ready first, each in a process of its own. Then they take turns, round after round, in an order
that is shuffled anew: whatever else the machine does hits all of them alike, and a drift of its clock favours none.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from kdbench.activity import timing, trainers
from kdbench.errors import ProfileError
from kdbench.profiling.child import Ready, Subject, Taken, Turn, convert_there, time_there
from kdbench.profiling.process import Child
from kdbench.profiling.profile import to_latency
from kdbench.profiling.runtime import Setting, usable
from kdbench.types import Latency, Progress

_MEMORY_OF_ONE = 400 * 2**20  # bytes: what a process with a small network in it holds of its own, generously
_MOST_AT_ONCE = 24


@dataclass(frozen=True)
class Sampling:
    """How much is timed of each network in each setting."""

    rounds: int = 20
    samples: int = 100
    """Undisturbed passes that are wanted, in all rounds together."""
    min_samples: int = 2
    """In each round, however long they take."""
    round_s: float = 0.2
    """A round ends after so many seconds, once it has ``min_samples``."""

    @property
    def turn(self) -> Turn:
        each = max(self.min_samples, -(-self.samples // self.rounds))
        return Turn(each, self.min_samples, self.round_s)


Outcome = Latency | str
"""A latency, or why there is none."""

DEFAULT = Sampling()


@dataclass
class _Task:
    """One network in one setting, and what is known of it so far."""

    subject: Subject
    setting: Setting
    folder: Path
    child: Child | None = None
    ready: Ready | None = None
    turns: list[Taken] = field(default_factory=list)
    note: str = ""
    problem: str = ""

    def outcome(self) -> Outcome:
        if self.problem or self.ready is None:
            return self.problem
        return to_latency(
            self.setting,
            [turn.samples for turn in self.turns],
            library=self.ready.library,
            prepare_ms=self.ready.prepare_ms,
            warm=self.ready.warm,
            isolated=True,
            memory=self.ready.memory,
            energy_j=self._energy_j(),
            note=self.note,
        )

    def _energy_j(self) -> float | None:
        """Of one pass: over all turns, since one is shorter than the steps in which some counters move."""
        total = sum(turn.energy_j or 0.0 for turn in self.turns)
        passes = sum(len(turn.samples.times_ms) + len(turn.samples.disturbed_ms) for turn in self.turns)
        # a counter that stands still, as in a virtual machine, tells nothing
        return total / passes if total > 0 else None


def measure(
    subjects: Sequence[Subject],
    settings: Sequence[Setting],
    sampling: Sampling = DEFAULT,
    progress: Progress | None = None,
) -> list[dict[Setting, Outcome]]:
    """Time every network in every setting.

    One that a runtime cannot convert or run does not stop the others: the reason takes the place of its latency.

    Returns: for each subject, in their order, the outcome of every setting.
    Raises: UnknownName, RuntimeUnavailable, before anything is done; ProfileError, if another kdbench process trains or
        times on this machine.
    """
    for setting in settings:
        usable(setting)
    with timing(), tempfile.TemporaryDirectory(prefix="kdbench-profile-") as scratch:
        folders = [Path(scratch) / str(number) for number in range(len(subjects))]
        for folder in folders:
            folder.mkdir()
        # setting by setting: those that will stand in one column of a table are to take turns with each other
        tasks = [
            [_Task(subject, setting, folder) for subject, folder in zip(subjects, folders, strict=True)]
            for setting in settings
        ]
        _convert(tasks, progress)
        able = [task for column in tasks for task in column if not task.problem]
        at_once = max(1, min(_MOST_AT_ONCE, psutil.virtual_memory().available // 2 // _MEMORY_OF_ONE))
        done, total = 0, len(able) * (1 + sampling.rounds)
        for start in range(0, len(able), at_once):
            group = able[start : start + at_once]
            _take_turns(group, sampling, progress, done, total)
            done += len(group) * (1 + sampling.rounds)
    return [{column[number].setting: column[number].outcome() for column in tasks} for number in range(len(subjects))]


def _convert(tasks: Sequence[Sequence[_Task]], progress: Progress | None) -> None:
    """Let each runtime make its files of every network, once for all settings that share them."""
    kinds: dict[tuple[str, str], list[Sequence[_Task]]] = {}
    for column in tasks:
        if column:
            kinds.setdefault((column[0].setting.runtime, column[0].setting.precision), []).append(column)
    done, total = 0, sum(len(columns[0]) for columns in kinds.values())
    for columns in kinds.values():
        for sharing in zip(*columns, strict=True):
            first = sharing[0]
            if progress:
                progress(f"converting {first.subject.name} for {first.setting.runtime}", done, total)
            done += 1
            child = Child(convert_there, first.subject, first.setting, str(first.folder))
            try:
                child.answer()
            except ProfileError as problem:
                for task in sharing:
                    task.problem = str(problem)
            finally:
                child.end()


def _take_turns(tasks: Sequence[_Task], sampling: Sampling, progress: Progress | None, done: int, total: int) -> None:
    shuffle = random.Random(0)
    try:
        for task in tasks:
            if progress:
                progress(f"preparing {task.subject.name}, {task.setting}", done, total)
            done += 1
            task.child = Child(time_there, task.subject, task.setting, str(task.folder))
            try:
                task.ready = task.child.answer()
            except ProfileError as problem:
                task.problem = str(problem)
            task.child.stop()
        for number in range(sampling.rounds):
            for task in shuffle.sample(tasks, len(tasks)):  # nobody always follows the same one
                if progress:
                    progress(f"round {number + 1} of {sampling.rounds}: {task.subject.name}", done, total)
                done += 1
                if not task.problem and task.child is not None:
                    try:
                        task.turns.append(task.child.ask(sampling.turn))
                    except ProfileError as problem:
                        task.problem = str(problem)
            if disturbing := trainers():
                for task in tasks:
                    task.note = f"another kdbench process ({disturbing[0].what}) trained meanwhile"
    finally:
        for task in tasks:
            if task.child is not None:
                task.child.end()
