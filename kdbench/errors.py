"""Every error kdbench raises on purpose. Floor 0: imports nothing of kdbench.

A message says what was wrong, the value seen, and what to try next; the command line prints it as one line and
leaves with code 2. Anything else that escapes is a bug.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class KdbenchError(Exception):
    """The root: catch this to catch all that kdbench raises on purpose."""


class UnknownName(KdbenchError):
    """A name that no registry entry carries; lists the nearest ones."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        self.kind, self.name = kind, name
        known = sorted(known)
        self.near = tuple(difflib.get_close_matches(name, known, n=3, cutoff=0.5))
        hint = f"did you mean {', '.join(self.near)}?" if self.near else f"known: {', '.join(known) or 'none'}"
        super().__init__(f"unknown {kind} '{name}'; {hint}")


class DuplicateName(KdbenchError):
    """Two registry entries carry one name; the second is refused, never silently taken."""

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(f"the {kind} '{name}' is registered already; give the new one another name")


class ConfigError(KdbenchError):
    """All problems of one configuration, reported at once."""

    def __init__(self, problems: Sequence[str], where: str = "") -> None:
        self.problems = tuple(problems)
        head = f"{where}: " if where else ""
        if len(self.problems) == 1:
            super().__init__(f"{head}{self.problems[0]}")
        else:
            lines = "".join(f"\n  - {problem}" for problem in self.problems)
            super().__init__(f"{head}{len(self.problems)} problems{lines}")


class DataError(KdbenchError):
    """The data set cannot be used as asked."""


class MissingData(DataError):
    """A data set, or a needed part of it, is not on this disk."""


class BadImage(DataError):
    """One file cannot be decoded as an image; the caller leaves it out by name and goes on."""


class DownloadFailed(DataError):
    """A data set could not be downloaded or unpacked; what lies at its place is untouched."""


class ChecksumMismatch(DataError):
    """A downloaded file is not the one its publisher gives the checksum of; it was removed."""


class SplitLeak(DataError):
    """One group of images would stand on both sides of a split."""


class TrainError(KdbenchError):
    """A training run cannot start or go on."""


class Diverged(TrainError):
    """The loss stopped being finite; the run becomes a record with the status ``diverged``."""

    def __init__(self, run_id: str, step: int, value: float) -> None:
        self.run_id, self.step, self.value = run_id, step, value
        super().__init__(
            f"run {run_id} diverged: loss {value} at step {step}; try a lower learning rate, a longer warm-up "
            "or gradient clipping"
        )


class ShapeMismatch(TrainError):
    """Student and teacher outputs do not fit together."""

    def __init__(self, tap: str, student: Sequence[int], teacher: Sequence[int]) -> None:
        super().__init__(f"'{tap}': student gives shape {tuple(student)}, teacher gives {tuple(teacher)}")


class ProfileError(KdbenchError):
    """A cost cannot be counted or measured."""


class RuntimeUnavailable(ProfileError):
    """The runtime asked for is not installed or cannot run on this machine."""


class RecordError(KdbenchError):
    """A record or the folder of records cannot be read or written."""


class SchemaMismatch(RecordError):
    """A record was written under another schema version, or is not a record at all."""


class Locked(RecordError):
    """Another kdbench process is writing into the same results folder."""


class NoStudentFits(KdbenchError):
    """No candidate keeps all limits; the command line leaves with code 3.

    Args:
        limits: what was asked for.
        misses: the nearest candidates and what they miss.
        relaxations: what would let one pass.
    """

    def __init__(self, count: int, limits: Sequence[str], misses: Sequence[str], relaxations: Sequence[str]) -> None:
        self.limits, self.misses, self.relaxations = tuple(limits), tuple(misses), tuple(relaxations)
        nearest = f"; nearest: {self.misses[0]}" if misses else ""
        advice = f"; {self.relaxations[0]}" if relaxations else "; measure what is missing"
        who = f"none of {count} candidates" if count != 1 else "the one candidate does not"
        verb = " fits" if count != 1 else " fit"
        super().__init__(f"{who}{verb} {', '.join(self.limits) or 'the budget'}{nearest}{advice}")


class CompressError(KdbenchError):
    """A trained network cannot be pruned or quantised, or what came of it cannot be used."""


class ExportError(KdbenchError):
    """A trained network cannot be exported, or an exported folder cannot be used."""


def first_line(error: BaseException) -> str:
    """What an error says, without what follows its first line; its class where it says nothing."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
