"""From candidates to a choice: limits, order, front, and the smallest change of a budget that fits. Floor 6; no torch.

The order is that of the objective, key by key. Of equals the more accurate, quicker and cheaper one comes first, and
then the one whose name does, so that nothing depends on the order of the records.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

from kdbench.choices import FLOORS, KINDS, Check, Limit, LimitKey, ObjectiveKey, Relaxation, State, Verdict
from kdbench.pick import words
from kdbench.pick.candidates import Candidate, Option
from kdbench.report.judged import label
from kdbench.report.rows import Row

TIE_BREAKERS: tuple[ObjectiveKey, ...] = ("accuracy", "latency", "macs", "params", "bytes", "memory")
"""What decides between candidates that are equal in all of the objective."""


@dataclass(frozen=True)
class Judged:
    """A candidate in one of its settings against all limits."""

    candidate: Candidate
    option: Option
    checks: tuple[Check, ...]

    @property
    def failed(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if not check.passed)

    @property
    def missing(self) -> int:
        """Limits with no figure to hold against them."""
        return sum(check.judged is None for check in self.checks)

    def value(self, key: LimitKey) -> float | None:
        figure = self.option.figures.get(key)
        return None if figure is None else figure.value

    def cost(self, key: LimitKey) -> float:
        """Less is better; what is missing is worst."""
        value = self.value(key)
        return math.inf if value is None else -value if key == "accuracy" else value

    def order(self, objective: Sequence[ObjectiveKey]) -> tuple[object, ...]:
        """Ascending: the best first."""
        setting = self.option.setting
        return (
            *(self.cost(key) for key in objective),
            *(self.cost(key) for key in TIE_BREAKERS if key not in objective),
            self.candidate.label,
            self.candidate.row.cell_id,
            setting.model_dump_json() if setting is not None else "",
        )

    def distance(self) -> tuple[float, ...]:
        """How far from passing: what is missing, then how many limits it misses, then by how much together."""
        over = [
            -check.relative if check.relative is not None else 1.0 for check in self.failed if check.judged is not None
        ]
        return (self.missing, len(self.failed), math.fsum(over))


def judge_all(
    candidates: Iterable[Candidate], limits: Sequence[Limit], objective: Sequence[ObjectiveKey]
) -> tuple[list[Judged], list[Judged]]:
    """Those that pass, best first, each in its best setting that does; and the others, nearest first and in the
    setting that comes nearest.
    """
    passing, rejected = [], []
    for candidate in candidates:
        ways = [Judged(candidate, option, _checks(candidate, option, limits)) for option in candidate.options]
        if able := [way for way in ways if not way.failed]:
            passing.append(min(able, key=lambda way: way.order(objective)))
        else:
            rejected.append(min(ways, key=lambda way: (way.distance(), way.order(objective))))
    passing.sort(key=lambda way: way.order(objective))
    rejected.sort(key=lambda way: (way.distance(), way.order(objective)))
    return passing, rejected


def _checks(candidate: Candidate, option: Option, limits: Iterable[Limit]) -> tuple[Check, ...]:
    checks = []
    for limit in limits:
        figure = option.figures.get(limit.key)
        text = words.check_text(limit, figure, candidate.missing[limit.key])
        if figure is None:
            checks.append(Check(limit=limit, passed=False, text=text))
            continue
        margin = words.margin_of(limit, figure)
        relative = margin / limit.value if limit.value else None
        checks.append(
            Check(limit=limit, judged=figure.judged, passed=margin >= 0, margin=margin, relative=relative, text=text)
        )
    return tuple(checks)


# ---------------------------------------------------------------- the front


def dimensions(passing: Sequence[Judged], objective: Sequence[ObjectiveKey]) -> tuple[ObjectiveKey, ...]:
    """What the front is over: accuracy, and those costs of the objective that any candidate has a figure of."""
    return (
        "accuracy",
        *(key for key in objective if key != "accuracy" and any(way.value(key) is not None for way in passing)),
    )


def dominates(one: Judged, other: Judged, keys: Sequence[ObjectiveKey]) -> bool:
    """Whether one is at least as good in everything and better in something."""
    own, theirs = [one.cost(key) for key in keys], [other.cost(key) for key in keys]
    return all(a <= b for a, b in zip(own, theirs, strict=True)) and own != theirs


# ---------------------------------------------------------------- verdicts


def verdicts_of(
    passing: Sequence[Judged], rejected: Sequence[Judged], failed: Sequence[Row], objective: Sequence[ObjectiveKey]
) -> tuple[Verdict, ...]:
    """One for each candidate and for each row without a result, in that order."""
    keys = dimensions(passing, objective)
    found = []
    for place, way in enumerate(passing):
        above = [other for other in passing if dominates(other, way, keys)]
        tied = place > 0 and _tied(way, passing[0], objective[0])
        if place == 0:
            reason = _why_chosen(passing, objective)
        else:
            reason = _why_lower(way, passing[0], above[0] if above else None, objective, keys)
            if tied:
                reason += _tie_text(passing[0], objective[0], named=above[:1] in ([], passing[:1]))
        found.append(
            _verdict(
                way,
                "chosen" if place == 0 else "passes",
                reason,
                on_front=not above,
                dominated_by=above[0].candidate.label if above else "",
                tied_with=passing[0].candidate.label if tied else "",
            )
        )
    found += [_verdict(way, "rejected", "; ".join(check.text for check in way.failed)) for way in rejected]
    for row in sorted(failed, key=lambda row: (label(row), row.cell_id)):
        found.append(
            Verdict(
                state="no result",
                label=label(row),
                model=row.model,
                role=row.role,
                method=row.method,
                teacher=row.teacher,
                cell_id=row.cell_id,
                failed_runs=row.n_failed,
                reason=f"no result: {row.failure}",
            )
        )
    return tuple(found)


def _verdict(
    way: Judged, state: State, reason: str, on_front: bool = False, dominated_by: str = "", tied_with: str = ""
) -> Verdict:
    row = way.candidate.row
    return Verdict(
        state=state,
        label=way.candidate.label,
        model=row.model,
        role=row.role,
        method=row.method,
        teacher=row.teacher,
        cell_id=row.cell_id,
        run_id=way.candidate.run_id,
        seeds=tuple(sorted(row.accuracies)),
        failed_runs=row.n_failed,
        setting=way.option.setting,
        figures=dict(way.option.figures),
        checks=way.checks,
        on_front=on_front,
        dominated_by=dominated_by,
        tied_with=tied_with,
        reason=reason,
    )


def _why_chosen(passing: Sequence[Judged], objective: Sequence[ObjectiveKey]) -> str:
    best = passing[0]
    if len(passing) == 1:
        return "the only one that passes"
    said = f"{words.BEST[objective[0]]} of {len(passing)} that pass"
    after = [key for key in objective[1:] if any(other.cost(key) != best.cost(key) for other in passing)]
    level = [other for other in passing if other.cost(objective[0]) == best.cost(objective[0])]
    if len(level) > 1:
        said += f"; {len(level) - 1} equal to it in that" + (f", decided by {words.NAMES[after[0]]}" if after else "")
    if all(other.cost(key) == best.cost(key) for key in objective for other in passing[1:2]):
        said += f"; equal to {passing[1].candidate.label} in all that was asked for, and first by what breaks ties"
    return said


def _why_lower(
    way: Judged,
    best: Judged,
    dominating: Judged | None,
    objective: Sequence[ObjectiveKey],
    keys: Sequence[ObjectiveKey],
) -> str:
    """Of a candidate that passes: who is better in everything, else in what it falls behind the best one."""
    if dominating is not None:
        compared = [words.difference(key, dominating.value(key), way.value(key)) for key in keys]
        return f"dominated by {dominating.candidate.label}: {' and '.join(filter(None, compared))}"
    every = (*objective, *(key for key in TIE_BREAKERS if key not in objective))
    compared_to_best = {key: text for key in every if (text := words.difference(key, way.value(key), best.value(key)))}
    behind = [text for key, text in compared_to_best.items() if way.cost(key) > best.cost(key)]
    gains = [text for key, text in compared_to_best.items() if way.cost(key) < best.cost(key) and key in keys]
    if not behind:
        return f"ranks lower: equal to {best.candidate.label}, and later by name"
    return f"ranks lower: {behind[0]} than {best.candidate.label}" + (
        f", though {' and '.join(gains)}" if gains else ""
    )


def _tie_text(best: Judged, key: ObjectiveKey, named: bool) -> str:
    """What is said of a candidate that may be as good as the best one; `named`: which that is was said already."""
    return f"; not distinguishable from {'it' if named else best.candidate.label} in {words.NAMES[key]}"


def _tied(one: Judged, other: Judged, key: ObjectiveKey) -> bool:
    """Whether their order in that figure may be chance: equal figures, or intervals that overlap."""
    figure, against = one.option.figures.get(key), other.option.figures.get(key)
    if figure is None or against is None:
        return figure is against
    if figure.interval is None or against.interval is None:
        return figure.value == against.value
    return figure.interval[0] <= against.interval[1] and against.interval[0] <= figure.interval[1]


# ---------------------------------------------------------------- nothing fits


def relaxations_of(candidates: Iterable[Candidate], limits: Sequence[Limit]) -> tuple[Relaxation, ...]:
    """Of each limit alone the value that lets somebody pass, the smallest change first; where no single one does, the
    fewest that do together. Nothing where only measuring helps.
    """
    ways = [
        way
        for candidate in candidates
        for option in candidate.options
        if (way := Judged(candidate, option, _checks(candidate, option, limits))).failed and not way.missing
    ]
    single: dict[LimitKey, Judged] = {}
    for way in sorted(ways, key=lambda way: (*_change(way), way.candidate.label, way.order(("accuracy",)))):
        if len(way.failed) == 1:
            single.setdefault(way.failed[0].limit.key, way)
    if single:
        found = [_relaxation(way) for way in single.values()]
    else:
        found = [_relaxation(way) for way in sorted(ways, key=lambda way: (*_change(way), way.candidate.label))[:1]]
    return tuple(sorted(found, key=lambda one: (one.relative is None, one.relative or 0.0, one.text)))


def _change(way: Judged) -> tuple[float, float]:
    """How many limits have to change, and by how much of themselves at most."""
    return len(way.failed), max(
        math.inf if check.relative is None else -check.relative for check in way.failed if check.margin is not None
    )


def _relaxation(way: Judged) -> Relaxation:
    changes: dict[LimitKey, float] = {}
    for check in way.failed:
        if check.judged is not None:
            changes[check.limit.key] = outward(check.judged, check.limit.key)
    by_key = {check.limit.key: check.limit for check in way.failed}
    shares = [
        abs(value - by_key[key].value) / by_key[key].value if by_key[key].value else None
        for key, value in changes.items()
    ]
    known = [share for share in shares if share is not None]
    relative = max(known) if len(known) == len(shares) else None
    said = []
    for key, value in changes.items():
        limit = by_key[key]
        share = f", {abs(value - limit.value) / limit.value:.1%}".replace("%", " %") if limit.value else ""
        off = f"{'lower' if key in FLOORS else 'higher'} by {words.gap(value - limit.value, key)}{share}"
        ask = words.option_value(key, value)
        said.append(f"{ask} ({off})" if limit.by == "budget" else
                    f"a device with {words.NAMES[key]} of {words.amount(value, key)} ({off})")  # fmt: skip
    verb = "lets" if len(said) == 1 else "together let"
    text = f"{' and '.join(said)} {verb} {way.candidate.label} pass"
    return Relaxation(changes=changes, relative=relative, label=way.candidate.label, text=text)


def outward(value: float, key: LimitKey) -> float:
    """A limit that is easily typed and that the value just keeps: three digits, of fractions four places."""
    exact = Decimal(repr(float(value)))
    step = Decimal("0.0001") if KINDS[key] == "fraction" else Decimal(1).scaleb(exact.adjusted() - 2)
    return max(0.0, float(exact.quantize(step, rounding=ROUND_FLOOR if key in FLOORS else ROUND_CEILING)))
