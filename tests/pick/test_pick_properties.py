"""What holds of every choice, whatever the records and the budget: checked against a second, plain implementation."""

from __future__ import annotations

import math
import operator
import random
from dataclasses import dataclass
from itertools import product
from typing import Any, get_args

import pytest
from contenders import contender
from hypothesis import given, settings
from hypothesis import strategies as st
from record_factory import latency, record, spec, teacher

from kdbench.choices import Budget, Choice, ObjectiveKey, Verdict
from kdbench.pick import judge
from kdbench.types import Memory, RunRecord

BEST_TEACHER = 0.95
RUNTIMES = ("eager", "onnxruntime")


@dataclass(frozen=True)
class Way:
    """One model in one runtime; None is not measured."""

    model: str
    runtime: str | None
    accuracy: float
    params: int | None
    macs: int | None
    bytes: int | None
    latency: float | None
    half_iqr: float
    memory: int | None

    def value(self, key: str) -> float | None:
        found: float | None = BEST_TEACHER - self.accuracy if key == "drop" else getattr(self, key)
        return found

    def judged(self, key: str) -> float | None:
        if key == "latency" and self.latency is not None:
            return self.latency + self.half_iqr
        return self.accuracy if key == "recall" else self.value(key)

    def cost(self, key: str) -> float:
        value = self.value(key)
        return math.inf if value is None else -value if key == "accuracy" else value


# few different values, so that ties and exact hits of a limit are common
ACCURACIES = (0.7, 0.8, 0.9, 0.95, 0.96)
COUNTS = (100, 200, 300)
TIMES = (1.0, 2.0, 4.0)
GRID: dict[str, tuple[float, ...]] = {
    "min_accuracy": (0.75, 0.9, 0.99), "min_recall": (0.8, 0.97), "max_drop": (0.0, 0.05, 0.16),
    "max_params": (150, 200, 300), "max_macs": (50, 200, 300), "max_bytes": (100, 250),
    "max_latency_ms": (0.5, 2.0, 4.5), "max_memory_bytes": (50, 150, 300),
}  # fmt: skip
KEY_OF = {
    "min_accuracy": "accuracy", "min_recall": "recall", "max_drop": "drop", "max_params": "params", "max_macs": "macs",
    "max_bytes": "bytes", "max_latency_ms": "latency", "max_memory_bytes": "memory",
}  # fmt: skip


@st.composite
def fields(draw: st.DrawFn) -> tuple[list[RunRecord], list[Way]]:
    """Records of a few small models and a teacher, and what there is to choose from."""
    records, ways = [record(teacher(), BEST_TEACHER)], []
    for number in range(draw(st.integers(1, 5))):
        model = f"model{number}"
        accuracy = draw(st.sampled_from(ACCURACIES))
        if draw(st.integers(0, 9)) == 0:
            records.append(contender(model, accuracy, counted=False))
            ways.append(Way(model, None, accuracy, None, None, None, None, 0.0, None))
            continue
        params, macs, weight_bytes = (draw(st.sampled_from(COUNTS)) for _ in range(3))
        timed = []
        for runtime in draw(st.lists(st.sampled_from(RUNTIMES), unique=True)):
            median, iqr = draw(st.sampled_from(TIMES)), draw(st.sampled_from((0.0, 1.0)))
            held = draw(st.sampled_from((None, *COUNTS)))
            memory = None if held is None else Memory(peak_rss_bytes=held)
            timed.append(latency(median, runtime=runtime, iqr_ms=iqr, memory=memory))
            ways.append(Way(model, runtime, accuracy, params, macs, weight_bytes, median, iqr / 2, held))
        if not timed:
            ways.append(Way(model, None, accuracy, params, macs, weight_bytes, None, 0.0, None))
        costs: dict[str, Any] = {"params": params, "macs": macs, "weight_bytes": weight_bytes}
        records.append(contender(model, accuracy, latencies=timed, **costs))
    if draw(st.booleans()):
        records.append(record(spec("broken"), status="failed"))
    return records, ways


@st.composite
def budgets(draw: st.DrawFn) -> Budget:
    limits = {name: draw(st.sampled_from(values)) for name, values in GRID.items() if draw(st.integers(0, 3)) == 0}
    objective = draw(st.lists(st.sampled_from(get_args(ObjectiveKey)), min_size=1, max_size=3, unique=True))
    return Budget(objective=tuple(objective), **limits)


def keeps(way: Way, budget: Budget) -> bool:
    for name, key in KEY_OF.items():
        limit, judged = getattr(budget, name), way.judged(key)
        if limit is None:
            continue
        if judged is None:
            return False
        if (judged < limit - 1e-9) if name.startswith("min") else (judged > limit + 1e-9):
            return False
    return True


def costs(way: Way, budget: Budget) -> tuple[float, ...]:
    return tuple(way.cost(key) for key in budget.objective)


def way_of(verdict: Verdict, ways: list[Way]) -> Way:
    runtime = verdict.setting.runtime if verdict.setting is not None else None
    (found,) = [way for way in ways if (way.model, way.runtime) == (verdict.model, runtime)]
    return found


@settings(max_examples=150)
@given(fields(), budgets())
def test_the_choice_keeps_every_limit_and_nothing_that_does_is_better(
    field: tuple[list[RunRecord], list[Way]], budget: Budget
) -> None:
    records, ways = field
    choice = judge(records, budget)
    able = [way for way in ways if keeps(way, budget)]
    passing = [verdict for verdict in choice.verdicts if verdict.state in ("chosen", "passes")]
    assert {verdict.model for verdict in passing} == {way.model for way in able}
    assert all(keeps(way_of(verdict, ways), budget) for verdict in passing)
    assert (choice.chosen is None) == (not able)
    if choice.chosen is not None:
        best = way_of(choice.chosen, ways)
        assert costs(best, budget) == min(costs(way, budget) for way in able)
        assert choice.run_id == choice.chosen.run_id != ""
    rejected = [verdict for verdict in choice.verdicts if verdict.state == "rejected"]
    assert all(verdict.failed and verdict.reason for verdict in rejected)
    assert {verdict.model for verdict in choice.verdicts} >= {way.model for way in ways}


@settings(max_examples=100)
@given(fields(), budgets())
def test_the_front_is_what_brute_force_finds(field: tuple[list[RunRecord], list[Way]], budget: Budget) -> None:
    records, ways = field
    passing = [verdict for verdict in judge(records, budget).verdicts if verdict.state in ("chosen", "passes")]
    keys = sorted({"accuracy", *budget.objective})
    points = [[way_of(verdict, ways).cost(key) for key in keys] for verdict in passing]
    for verdict, own in zip(passing, points, strict=True):
        better = [other for other in points if all(map(operator.le, other, own)) and other != own]
        assert verdict.on_front == (not better)
        assert bool(verdict.dominated_by) == bool(better)


@settings(max_examples=150)
@given(fields(), budgets(), st.data())
def test_a_looser_limit_never_makes_it_worse(
    field: tuple[list[RunRecord], list[Way]], budget: Budget, data: st.DataObject
) -> None:
    records, ways = field
    name = data.draw(st.sampled_from(sorted(GRID)))
    limit = getattr(budget, name)
    looser = [value for value in GRID[name] if limit is not None and (value < limit) == name.startswith("min")]
    freer = budget.model_copy(update={name: data.draw(st.sampled_from([None, *looser]))})
    before, after = judge(records, budget).chosen, judge(records, freer).chosen
    if before is not None:
        assert after is not None
        assert costs(way_of(after, ways), budget) <= costs(way_of(before, ways), budget)


@settings(max_examples=50)
@given(fields(), budgets(), st.randoms(use_true_random=False))
def test_the_order_of_the_records_does_not_matter(
    field: tuple[list[RunRecord], list[Way]], budget: Budget, chance: random.Random
) -> None:
    records, _ = field
    shuffled = [*records]
    chance.shuffle(shuffled)
    assert judge(shuffled, budget) == judge(records, budget)


@settings(max_examples=150)
@given(fields(), budgets())
def test_what_is_said_to_do_does(field: tuple[list[RunRecord], list[Way]], budget: Budget) -> None:
    records, ways = field
    choice = judge(records, budget)
    assert not choice.relaxations or choice.chosen is None
    for relaxation in choice.relaxations:
        changes = {name: relaxation.changes[key] for name, key in KEY_OF.items() if key in relaxation.changes}  # type: ignore[index]
        after = judge(records, budget.model_copy(update=changes))
        assert after.chosen is not None
    alone = [relaxation for relaxation in choice.relaxations if len(relaxation.changes) == 1]
    for name, limit in ((name, getattr(budget, name)) for name in GRID):
        if choice.chosen is None and limit is not None:
            key, best = KEY_OF[name], max if name.startswith("min") else min
            would_do = [judged for way in ways if keeps(way, budget.model_copy(update={name: None}))
                        and (judged := way.judged(key)) is not None]  # fmt: skip
            said = [relaxation.changes[key] for relaxation in alone if key in relaxation.changes]  # type: ignore[index]
            assert said == ([pytest.approx(best(would_do), rel=1e-2, abs=1e-4)] if would_do else [])
    if choice.chosen is None and not choice.relaxations:  # only measuring helps
        asked = [key for name, key in KEY_OF.items() if getattr(budget, name) is not None]
        assert all(any(way.judged(key) is None for key in asked) for way in ways)


def test_ties_are_settled_alike_in_every_order() -> None:
    records = [contender(name, 0.9) for name in "abc"]
    found = {judge(list(order), Budget()).run_id for order in (records, records[::-1], [*records[1:], records[0]])}
    assert found == {records[0].run_id}


def test_every_pair_of_limits_finds_its_choice() -> None:
    """A small grid by hand: accuracy against size."""
    records = [contender(f"m{size}", 0.7 + size / 20, params=size) for size in range(1, 5)]
    for least, most in product((0.0, 0.8, 0.85, 0.95), range(1, 6)):
        fit = [size for size in range(1, 5) if 0.7 + size / 20 >= least - 1e-9 and size <= most]
        choice: Choice = judge(records, Budget(min_accuracy=least, max_params=most))
        assert (choice.chosen.model if choice.chosen else None) == (f"m{max(fit)}" if fit else None)
