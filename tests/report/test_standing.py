"""What rows say together: gains that are more than chance, ranks that a row can have, and how the page says it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from record_factory import answered, record, spec, study, tables, teacher
from scipy.stats import binomtest

from kdbench.report import Outcomes, render, standing, to_frame
from kdbench.report.paired import holm
from kdbench.report.rows import Row, build_rows
from kdbench.store import Store
from kdbench.types import RunRecord

IMAGES = 200
ALONE = [f"{number}" for number in range(IMAGES)]
"""Every image is its own group."""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results")


def right(wrong: int, first: int = 0) -> np.ndarray:
    """All right but so many, from that image on."""
    made = np.ones(IMAGES, dtype=bool)
    made[first : first + wrong] = False
    return made


def three_rows(store: Store, seeds: Sequence[int] = (0,)) -> list[RunRecord]:
    """A baseline with 60 errors, a student with 20 of them, another with 58 of them."""
    found = []
    for seed in seeds:
        found.append(answered(store, spec(seed=seed), right(60), ALONE))
        for method, wrong in (("kd", 20), ("dkd", 58)):
            found.append(answered(store, spec(method=method, seed=seed, teachers=[teacher()]), right(wrong), ALONE))
    return found


def by_method(rows: Sequence[Row]) -> dict[str, Row]:
    return {row.method: row for row in rows}


def test_one_seed_is_mcnemar_with_holm_over_the_gains(store: Store) -> None:
    rows = by_method(build_rows(three_rows(store), outcomes=Outcomes.below(store.root)))
    kd, dkd = rows["kd"].gain_test, rows["dkd"].gain_test
    assert kd is not None
    assert dkd is not None
    assert (kd.gain, kd.exact, kd.seeds) == (pytest.approx(0.2), True, 1)
    assert kd.p == pytest.approx(binomtest(0, 40).pvalue)
    assert dkd.p == pytest.approx(0.5)
    assert [rows["kd"].gain_p, rows["dkd"].gain_p] == pytest.approx(holm([kd.p, dkd.p]))
    assert [rows["kd"].gain_significant, rows["dkd"].gain_significant] == [True, False]
    assert rows["ce"].gain_test is rows["ce"].gain_p is rows["ce"].gain_significant is None


def test_ranks_say_what_the_tests_allow(store: Store) -> None:
    rows = by_method(build_rows(three_rows(store), outcomes=Outcomes.below(store.root)))
    assert {name: row.rank for name, row in rows.items()} == {"kd": 1, "dkd": 2, "ce": 3}
    assert {name: row.rank_range for name, row in rows.items()} == {"kd": (1, 1), "dkd": (2, 3), "ce": (2, 3)}


def test_the_page_says_all_of_it(store: Store) -> None:
    records = three_rows(store)
    page = render(records, "md", outcomes=Outcomes.below(store.root))
    main, bought = tables(page)[:2]
    assert [row[0] for row in main[2:]] == ["1 (1)", "2 (2 to 3)", "3 (2 to 3)"]
    cells = dict(
        zip((row[3] for row in main[2:]), (row[main[0].index("gain (points)")] for row in main[2:]), strict=True)
    )
    assert cells == {"kd": "**+20.0**", "dkd": "+1.0 n.s.", "ce": "–"}
    assert bought[0][5:8] == ["gain with ground truth (points)", "95 % interval", "p (Holm)"]
    assert [row[7] for row in bought[2:]] == ["0.50", "<0.001"]
    assert all(" to " in row[6] for row in bought[2:])
    assert "1 of 2 gains are significant" in page
    assert "**One seed each: interval and p hold for these very trainings on other test images,**" in page
    assert "in brackets the ranks that a row can have" in page


def test_few_seeds_are_said(store: Store) -> None:
    page = render(three_rows(store, (0, 1, 2)), "md", outcomes=Outcomes.below(store.root))
    assert "**3 seeds are few:**" in page
    assert "these very trainings" not in page


def test_raw_numbers_have_it_too(store: Store) -> None:
    records = three_rows(store)
    frame = to_frame(records, outcomes=Outcomes.below(store.root))
    kd = frame[frame["method"] == "kd"].iloc[0]
    row = by_method(build_rows(records, outcomes=Outcomes.below(store.root)))["kd"]
    assert row.gain_test is not None
    assert (kd["rank_low"], kd["rank_high"]) == (1, 1)
    assert (kd["gain_interval_low"], kd["gain_interval_high"]) == (row.gain_test.low, row.gain_test.high)
    assert kd["gain_p"] == row.gain_p


def test_without_answers_nothing_is_tested_and_ties_are_marked() -> None:
    rows = build_rows(study())
    assert {row.rank_range for row in rows} == {row.gain_p for row in rows} == {None}
    page = render(study(), "md")
    assert [row[0] for row in tables(page)[0][2:]].count("8 =") == 2
    assert "n.s." not in tables(page)[0][2][7]
    assert "**#**: the rank by mean accuracy; = marks rows of the same accuracy" in page


def test_a_row_without_answers_can_stand_anywhere(store: Store) -> None:
    records = three_rows(store)
    lone = record(spec("mobilenetv3_small_100"), 0.6)
    store.write_record(lone)
    rows = build_rows([*records, lone], outcomes=Outcomes.below(store.root))
    found = {row.method: row.rank_range for row in rows if row.model == "mobilenetv3_small_050"}
    assert found == {"kd": (1, 2), "dkd": (2, 4), "ce": (2, 4)}
    assert next(row for row in rows if row.model == "mobilenetv3_small_100").rank_range is None


def test_rows_are_compared_at_the_seeds_that_both_have(store: Store) -> None:
    records = [answered(store, spec(seed=seed), right(60), ALONE) for seed in (0, 1)]
    kd = [answered(store, spec(method="kd", seed=seed, teachers=[teacher()]), right(20), ALONE) for seed in (1, 2)]
    other = answered(store, spec(method="dkd", seed=7, teachers=[teacher()]), right(199), ALONE)
    rows = by_method(build_rows([*records, *kd, other], outcomes=Outcomes.below(store.root)))
    assert rows["kd"].gain_test is not None
    assert rows["kd"].gain_test.seeds == 1
    assert rows["dkd"].gain_test is None
    assert {name: row.rank_range for name, row in rows.items()} == {"kd": (1, 2), "ce": (2, 3), "dkd": (1, 3)}


def test_a_missing_answer_of_the_baseline_leaves_the_gain_untested(store: Store) -> None:
    records = three_rows(store, (0, 1))
    store.predictions_path(spec(seed=1).run_id).unlink()
    row = by_method(build_rows(records, outcomes=Outcomes.below(store.root)))["kd"]
    assert row.gain == pytest.approx(0.2)
    assert row.gain_test is None
    assert row.gain_p is None
    page = render(records, "md", outcomes=Outcomes.below(store.root))
    assert "n.s." not in tables(page)[0][2][7]


def test_nothing_is_read_until_it_is_asked_for(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    records = three_rows(store)
    read: list[str] = []
    real = Store.read_predictions
    monkeypatch.setattr(Store, "read_predictions", lambda self, run_id: read.append(run_id) or real(self, run_id))
    rows = build_rows(records, outcomes=Outcomes.below(store.root))
    assert [row.rank for row in rows] == [1, 2, 3]
    assert read == []


def test_too_many_rows_have_no_ranges(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standing, "MOST_ROWS", 2)
    rows = build_rows(three_rows(store), outcomes=Outcomes.below(store.root))
    assert {row.rank_range for row in rows} == {None}
    assert by_method(rows)["kd"].gain_p is not None


def test_many_records_without_answers_cost_nothing_more(tmp_path: Path) -> None:
    records = [record(spec(f"model_{number}"), 0.5 + number / 5000) for number in range(1500)]
    rows = build_rows(records, outcomes=Outcomes.below(tmp_path))
    start = time.perf_counter()
    assert {row.rank_range for row in rows} == {None}
    assert {row.gain_p for row in rows} == {None}
    assert time.perf_counter() - start < 0.5
