"""Timing several networks so that their order survives a noisy machine. Floor 3.

All of them are made ready first, each in a process of its own. Then they take turns, round after round, in an order
that is shuffled anew: whatever else the machine does hits all of them alike, and a drift of its clock favours none.
"""

from __future__ import annotations

import math
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from kdbench.activity import timing, trainers
from kdbench.errors import ConfigError, ProfileError
from kdbench.profiling.child import Ready, Subject, Taken, Turn, convert_there, time_there
from kdbench.profiling.latency import MIN_SAMPLES
from kdbench.profiling.process import Child
from kdbench.profiling.profile import to_latency
from kdbench.profiling.runtime import Setting, usable
from kdbench.types import Latency, Progress

_MEMORY_OF_ONE = 200 * 2**20  # bytes: what a process with a small network in it holds of its own, generously
_MOST_AT_ONCE = 32
_FEWEST_ROUNDS = 3
_clock = time.perf_counter
_BURST_S = 1.0  # some ten steps of NVML's counter
_BURST_PASSES = 10**9  # as many as there is time for


@dataclass(frozen=True)
class Sampling:
    """How much is timed of each network in each setting."""

    rounds: int = 40
    samples: int = 200
    """Undisturbed passes that are wanted, in all rounds together."""
    min_samples: int = 2
    """In each round, however long they take."""
    round_s: float = 0.2
    """A turn ends after so many seconds, once it has ``min_samples``. A network whose turns take more than twice as
    long sits out rounds in between, down to a third of them."""

    def __post_init__(self) -> None:
        if min(self.rounds, self.samples, self.min_samples) < 1:
            raise ConfigError([f"rounds, samples and min_samples have to be 1 or more: {self}"])

    @property
    def turn(self) -> Turn:
        fewest = max(self.min_samples, -(-MIN_SAMPLES // self.rounds))  # all rounds together have to give a figure
        return Turn(max(fewest, -(-self.samples // self.rounds)), fewest, self.round_s)


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
    burst: Taken | None = None
    among: int = 1
    stride: int = 1
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
            among=self.among,
            note=self.note,
        )

    def _energy_j(self) -> float | None:
        """Of one pass; a counter that stands still, as in a virtual machine, tells nothing."""
        if self.burst is None or not self.burst.energy_j:
            return None
        return self.burst.energy_j / (len(self.burst.samples.times_ms) + len(self.burst.samples.disturbed_ms))


def measure(
    subjects: Sequence[Subject],
    settings: Sequence[Setting],
    sampling: Sampling = DEFAULT,
    progress: Progress | None = None,
) -> list[dict[Setting, Outcome]]:
    """Time every network in every setting that is one for it (`Subject.takes`).

    One that a runtime cannot convert or run does not stop the others: the reason takes the place of its latency.

    Returns: for each subject, in their order, the outcome of each of its settings.
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
            [
                _Task(subject, setting, folder)
                for subject, folder in zip(subjects, folders, strict=True)
                if subject.takes(setting)
            ]
            for setting in settings
        ]
        _convert(tasks, progress)
        able = [[task for task in column if not task.problem] for column in tasks]
        at_once = max(1, min(_MOST_AT_ONCE, psutil.virtual_memory().available // 2 // _MEMORY_OF_ONE))
        done, total = 0, sum(map(len, able)) * (1 + sampling.rounds)
        for group in _groups(able, at_once):
            _take_turns(group, sampling, progress, done, total)
            done += len(group) * (1 + sampling.rounds)
    return [
        {task.setting: task.outcome() for column in tasks for task in column if task.folder == folder}
        for folder in folders
    ]


def _groups(columns: Sequence[Sequence[_Task]], most: int) -> list[list[_Task]]:
    """What is in memory at once. A column is split only where it alone is too large, and then evenly."""
    groups: list[list[_Task]] = [[]]
    for column in columns:
        parts = -(-len(column) // most)
        for number in range(parts):
            part = column[number::parts]
            if len(groups[-1]) + len(part) > most or parts > 1:
                groups.append([])
            groups[-1] += part
            for task in part:
                task.among = len(part)
    return [group for group in groups if group]


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
            on_turn = [task for task in tasks if number % task.stride == 0]
            done += len(tasks) - len(on_turn)
            for task in shuffle.sample(on_turn, len(on_turn)):  # nobody always follows the same one
                if progress:
                    progress(f"round {number + 1} of {sampling.rounds}: {task.subject.name}", done, total)
                done += 1
                if not task.problem and task.child is not None:
                    began = _clock()
                    try:
                        task.turns.append(task.child.ask(sampling.turn))
                    except ProfileError as problem:
                        task.problem = str(problem)
                    if number == 0:
                        stride = math.ceil((_clock() - began) / (2 * sampling.round_s))
                        task.stride = max(1, min(stride, sampling.rounds // _FEWEST_ROUNDS))
            if disturbing := trainers():
                for task in tasks:
                    task.note = f"another kdbench process ({disturbing[0].what}) trained meanwhile"
        for task in tasks:
            if task.child is not None and task.ready is not None and task.ready.metered and not task.problem:
                task.burst = _burst(task.child)
    finally:
        started = [task.child for task in tasks if task.child is not None]
        for child in started:  # all first: a second interrupt may not leave one behind that is stopped
            child.kill()
        for child in started:
            child.end()


def _burst(child: Child) -> Taken | None:
    """Passes without a break for the sake of energy alone, whose counters move too seldom for a turn."""
    try:
        taken: Taken = child.ask(Turn(samples=_BURST_PASSES, min_samples=1, budget_s=_BURST_S))
    except ProfileError:
        return None  # its latency is known all the same
    return taken
