"""A budget and records to a choice, with a reason for every candidate that was not chosen. Floor 6; no torch.

>>> from kdbench.pick import pick_student
>>> from kdbench.choices import Budget
>>> from kdbench.report import Outcomes, collect
>>> budget = Budget(max_bytes="1MB", min_accuracy="90%")
>>> choice = pick_student(collect("results"), budget, outcomes=Outcomes.below("results"))  # doctest: +SKIP
>>> choice.run_id  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kdbench.choices import Budget, Choice, DeviceProfile
from kdbench.errors import NoStudentFits, RecordError
from kdbench.pick import words
from kdbench.pick.candidates import candidates_of
from kdbench.pick.page import render_choice
from kdbench.pick.rules import Judged, judge_all, relaxations_of, verdicts_of
from kdbench.pick.scope import Scope, of_one_dataset, scope_of
from kdbench.report.outcomes import Outcomes
from kdbench.report.rows import Row, build_rows
from kdbench.types import ProfileRecord, RunRecord

__all__ = ["judge", "no_student_fits", "pick_student", "render_choice"]


def pick_student(
    records: Sequence[RunRecord],
    budget: Budget,
    *,
    device: DeviceProfile | None = None,
    profiles: Iterable[ProfileRecord] = (),
    outcomes: Outcomes | None = None,
    dataset: str | None = None,
    machine: str | None = None,
) -> Choice:
    """Choose a student. Arguments and errors are those of `judge`, and NoStudentFits where nothing fits."""
    choice = judge(
        records, budget, device=device, profiles=profiles, outcomes=outcomes, dataset=dataset, machine=machine
    )
    if choice.chosen is None:
        raise no_student_fits(choice)
    return choice


def judge(
    records: Sequence[RunRecord],
    budget: Budget,
    *,
    device: DeviceProfile | None = None,
    profiles: Iterable[ProfileRecord] = (),
    outcomes: Outcomes | None = None,
    dataset: str | None = None,
    machine: str | None = None,
) -> Choice:
    """Judge every small model of a data set; the choice has no run where nothing fits.

    Args:
        records: of any number of data sets, in any order.
        device: its limits count beside those of the budget, the tighter of each; latencies count only where they were
            measured on it.
        profiles: measured apart from the runs.
        outcomes: where the answers of the runs are; without it there are no intervals of what they can.
        dataset: name or title; None where there is but one.
        machine: first digits of the fingerprint of the machine whose latencies count; None where there is but one.

    Raises: ConfigError, where it is not clear which data set or machine is meant; UnknownName; RecordError, where
        there is no candidate.
    """
    title, rows = of_one_dataset(build_rows(records, profiles, outcomes), dataset)
    small = [row for row in rows if budget.teachers or row.role != "teacher"]
    with_result = [row for row in small if row.n_ok]
    if not with_result:
        what = "a result" if small else "a student"
        raise RecordError(f"no record of {title} has {what}; run a suite with students first: `kdbench run SUITE`")
    scope = scope_of(with_result, budget, device, machine)
    teachers = [row for row in rows if row.role == "teacher" and row.n_ok]
    candidates = candidates_of(with_result, teachers, scope, device)
    passing, rejected = judge_all(candidates, scope.limits, budget.objective)
    verdicts = verdicts_of(passing, rejected, [row for row in small if not row.n_ok], budget.objective)
    return Choice(
        dataset=title,
        budget=budget,
        device=device,
        machine=scope.machine,
        machine_title=scope.machine_title,
        limits=scope.limits,
        run_id=passing[0].candidate.run_id if passing else "",
        verdicts=verdicts,
        relaxations=() if passing else relaxations_of(candidates, scope.limits),
        notes=(*_leaks(small), *scope.notes, *_not_in_the_order(scope, budget, passing)),
    )


def _leaks(rows: Sequence[Row]) -> list[str]:
    """Why accuracies may be too good to be true, as the runs' data cards say."""
    cards = [record.data for row in rows for record in row.records if record.data is not None]
    return [f"Leaky protocol: {leak}." for leak in sorted({card.leak.rstrip(".") for card in cards}) if leak]


def _not_in_the_order(scope: Scope, budget: Budget, passing: Sequence[Judged]) -> list[str]:
    """What the objective names and nobody has a figure of."""
    notes = []
    for key in budget.objective:
        if passing and all(way.value(key) is None for way in passing):
            why = scope.unjudged if key == "latency" and scope.unjudged else "no candidate that passes has a figure"
            notes.append(f"Not in the order: {words.NAMES[key]}; {why}.")
    return notes


def no_student_fits(choice: Choice) -> NoStudentFits:
    """The error that says of a choice without a run how near it was, and what would do."""
    rejected = [verdict for verdict in choice.verdicts if verdict.state == "rejected"]
    return NoStudentFits(
        len(rejected),
        [words.limit_text(limit) for limit in choice.limits],
        [f"{verdict.label}: {verdict.reason}" for verdict in rejected[:3]],
        [f"the smallest change: {relaxation.text}" for relaxation in choice.relaxations],
    )
