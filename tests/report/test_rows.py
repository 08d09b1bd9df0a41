"""Rows against figures worked out by hand."""

from __future__ import annotations

import math
import random

import pytest
from record_factory import DATASET, environment, latency, profile, record, spec, study, teacher

from kdbench.report import rows as rows_module
from kdbench.report.rows import Row, build_rows, latency_settings, newest, started_at
from kdbench.types import MethodSpec, ModelChoice, RunRecord, TrainSpec, ViewSpec


def row_of(rows: list[Row], role: str, method: str | None = None) -> Row:
    (found,) = [row for row in rows if row.role == role and method in (None, row.method)]
    return found


def kd(**options: float) -> MethodSpec:
    return MethodSpec(name="kd", options=dict(options))


def test_mean_and_sample_deviation_by_hand() -> None:
    (row,) = build_rows([record(spec(seed=seed), accuracy) for seed, accuracy in enumerate((0.80, 0.84, 0.91))])
    assert row.accuracy == pytest.approx(0.85)
    # deviations -0.05, -0.01, +0.06: squares add up to 0.0062, over n - 1 = 2
    assert row.accuracy_std == pytest.approx(math.sqrt(0.0031))
    assert row.macro_f1 == pytest.approx(0.84)
    assert row.macro_f1_std == pytest.approx(math.sqrt(0.0031))
    assert (row.seeds, row.n_ok, row.n_failed, row.rank) == ((0, 1, 2), 3, 0, 1)


def test_one_seed_has_no_spread() -> None:
    (row,) = build_rows([record(spec(), 0.8)])
    assert row.accuracy == 0.8
    assert row.accuracy_std is None
    assert row.macro_f1_std is None


def test_gain_is_paired_by_seed() -> None:
    big = teacher()
    records = [record(big, 0.95)]
    records += [record(spec(seed=seed), accuracy) for seed, accuracy in ((0, 0.80), (1, 0.90), (7, 0.10))]
    records += [record(spec(method="kd", seed=seed, teachers=[big]), a) for seed, a in ((0, 0.86), (1, 0.92), (2, 0.5))]
    rows = build_rows(records)
    student = row_of(rows, "student")
    # +0.06 at seed 0 and +0.02 at seed 1; seeds 2 and 7 have no partner
    assert student.gains == pytest.approx({0: 0.06, 1: 0.02})
    assert student.gain == pytest.approx(0.04)
    assert student.gain_std == pytest.approx(math.sqrt(2 * 0.02**2))
    assert student.teacher_accuracy == 0.95
    assert row_of(rows, "teacher").gain is None
    assert row_of(rows, "baseline").gain is None


@pytest.mark.parametrize(
    "other",
    [
        spec(train=TrainSpec(epochs=11)),
        spec(views=ViewSpec(rotation_degrees=0)),
        spec(ModelChoice(name="mobilenetv3_small_050", pretrained=True)),
        spec(dataset=DATASET.model_copy(update={"image_size": 96})),
        spec(seed=5),
        spec(role="teacher"),
        spec(method="tfkd"),
    ],
    ids=["train", "views", "pretrained", "dataset", "seed", "role", "method"],
)
def test_no_gain_over_another_kind_of_run(other: RunRecord) -> None:
    distilled = record(spec(method="kd", teachers=[teacher()]), 0.9)
    student = next(row for row in build_rows([record(other), distilled]) if row.method == "kd")
    assert student.gain is None


def test_a_failed_baseline_gives_no_gain() -> None:
    rows = build_rows([record(spec(), status="failed"), record(spec(method="kd", teachers=[teacher()]), 0.9)])
    assert row_of(rows, "student").gain is None


def test_teacher_accuracy_needs_every_teacher() -> None:
    first, second = teacher("resnet50"), teacher("vit_tiny")
    student = record(spec(method="kd", teachers=[first, second]), 0.9)
    both = build_rows([student, record(first, 0.96), record(second, 0.94)])
    assert row_of(both, "student").teacher_accuracy == pytest.approx(0.95)
    assert row_of(both, "student").teacher == "resnet50 + vit_tiny"
    assert row_of(build_rows([student, record(first, 0.96)]), "student").teacher_accuracy is None
    failed = build_rows([student, record(first, 0.96), record(second, status="failed")])
    assert row_of(failed, "student").teacher_accuracy is None


def test_failed_rows_stay_and_stand_last() -> None:
    rows = build_rows(study())
    assert rows[-1].recipe == "fitnet"
    assert (rows[-1].n_ok, rows[-1].n_failed, rows[-1].rank, rows[-1].accuracy) == (0, 3, None, None)
    assert rows[-1].failure == "OutOfMemory: 12 GB asked, 8 GB there"


def test_a_partly_failed_row_counts_what_finished() -> None:
    (row,) = build_rows([record(spec(), 0.8), record(spec(seed=1), status="diverged")])
    assert (row.accuracy, row.n_ok, row.n_failed, row.failure) == (0.8, 1, 1, "Diverged: loss nan at step 17")


def test_rank_leaves_teachers_out_and_shares_equal_places() -> None:
    records = [record(teacher(), 0.99)]
    records += [record(spec(method=name), accuracy) for name, accuracy in (("a", 0.8), ("b", 0.9), ("c", 0.8))]
    records.append(record(spec(method="d"), 0.7))
    assert [(row.method, row.rank) for row in build_rows(records)] == [
        ("ce", None), ("b", 1), ("a", 2), ("c", 2), ("d", 4)
    ]  # fmt: skip


def test_the_order_of_records_does_not_matter() -> None:
    records = study()
    shuffled = random.Random(0).sample(records, len(records))
    assert build_rows(shuffled) == build_rows(records)


def test_the_newest_of_one_run_counts() -> None:
    old = record(spec(), 0.1, started="2026-03-02T00:30:00+02:00")  # 22:30 of the day before, UTC
    new = record(spec(), 0.9, started="2026-03-01T23:00:00Z")
    for records in ([old, new], [new, old]):
        assert newest(records) == [new]
        assert build_rows(records)[0].accuracy == 0.9


def test_a_later_failure_takes_no_result_away() -> None:
    old = record(spec(), 0.9, started="2026-03-01T00:00:00Z")
    failed = record(spec(), status="failed", started="2026-03-02T00:00:00Z")
    for records in ([old, failed], [failed, old]):
        assert newest(records) == [old]
    twin = old.model_copy(update={"train_seconds": 1.0})
    assert newest([old, twin]) == newest([twin, old])


def test_a_start_that_is_no_date_is_the_earliest() -> None:
    assert started_at(record(spec(), started="soon")) < started_at(record(spec(), started="1970-01-01"))


# ---------------------------------------------------------------- latency


def test_latency_is_the_median_at_batch_one_with_fewest_threads() -> None:
    records = []
    for seed, median in enumerate((3.0, 9.0, 4.0)):
        timed = [latency(median, iqr_ms=median / 10), latency(1.0, threads=2), latency(50.0, batch_size=32)]
        records.append(record(spec(seed=seed), profile=profile("x", timed)))
    (row,) = build_rows(records)
    assert row.latency_ms == 4.0
    (setting,) = latency_settings([row])
    found = row.latency(setting)
    assert found is not None
    assert found.iqr_ms == pytest.approx(0.4)
    assert not found.unstable


def test_two_machines_are_never_mixed() -> None:
    records = [
        record(spec(seed=0), environment=environment("aaaa1111"), profile=profile("x", [latency(2.0)])),
        record(spec(seed=1), environment=environment("bbbb2222"), profile=profile("x", [latency(8.0)])),
    ]
    (row,) = build_rows(records)
    assert row.latency_ms is None  # 5.0 would be nobody's latency
    here, there = latency_settings([row])
    found = [row.latency(setting) for setting in (here, there)]
    assert [(s.fingerprint, f and f.median_ms) for s, f in zip((here, there), found, strict=True)] == [
        ("aaaa1111", 2.0),
        ("bbbb2222", 8.0),
    ]


def test_no_profile_is_none_not_zero() -> None:
    (row,) = build_rows([record(spec(), profile=None)])
    assert (row.params, row.macs, row.weight_bytes, row.latency_ms) == (None, None, None, None)


# ---------------------------------------------------------------- names


def test_only_options_that_differ_are_named() -> None:
    methods = [kd(T=2, alpha=0.5), kd(T=4.0, alpha=0.5), MethodSpec(name="dkd", options={"T": 4})]
    rows = build_rows([record(spec(method=method, teachers=[teacher()])) for method in methods])
    assert {row.method for row in rows} == {"kd T=2", "kd T=4", "dkd"}


def test_an_option_only_one_has() -> None:
    rows = build_rows([record(spec(method=method)) for method in (kd(), kd(hard=True))])
    assert {row.method for row in rows} == {"kd", "kd hard=true"}


def test_ground_truth_is_named() -> None:
    rows = build_rows([record(spec(method=MethodSpec(name="kd", ground_truth=truth))) for truth in (True, False)])
    assert {(row.recipe, row.method) for row in rows} == {("kd", "kd"), ("kd", "kd (no ground truth)")}


def test_pretrained_and_patch_size_are_named() -> None:
    choices = [
        ModelChoice(name="vit"),
        ModelChoice(name="vit", pretrained=True),
        ModelChoice(name="vit", pretrained="/home/someone/w.safetensors"),
        ModelChoice(name="vit", patch_size=8),
    ]
    rows = build_rows([record(spec(choice)) for choice in choices])
    assert {row.model for row in rows} == {
        "vit (patch auto)",
        "vit (patch auto, pretrained)",
        "vit (patch auto, pretrained: w.safetensors)",
        "vit (patch 8)",
    }


def test_training_that_differs_is_named() -> None:
    specs = [
        spec(train=TrainSpec(epochs=5)),
        spec(train=TrainSpec(epochs=10)),
        spec("other", train=TrainSpec(epochs=5)),
    ]
    rows = build_rows([record(one) for one in specs])
    assert {(row.model, row.method) for row in rows} == {
        ("mobilenetv3_small_050", "ce epochs=5"),
        ("mobilenetv3_small_050", "ce epochs=10"),
        ("other", "ce"),
    }


def test_views_that_differ_are_named() -> None:
    rows = build_rows([record(spec(views=ViewSpec(pool=pool))) for pool in (None, 4)])
    assert {row.method for row in rows} == {"ce views.pool=none", "ce views.pool=4"}


def test_teachers_that_differ_are_named() -> None:
    teachers = [teacher(seed=0), teacher(seed=1, train=TrainSpec(epochs=20))]
    rows = build_rows([record(spec(method="kd", teachers=[one])) for one in teachers])
    assert {row.teacher for row in rows} == {"resnet50 (epochs=10, seed=0)", "resnet50 (epochs=20, seed=1)"}


def test_what_cannot_be_named_is_numbered() -> None:
    choices = [ModelChoice(name="vit", pretrained=f"/{folder}/w.pt") for folder in "ab"]
    rows = build_rows([record(spec(choice)) for choice in choices])
    assert {row.method for row in rows} == {f"ce #{row.cell_id[:6]}" for row in rows}
    assert len({row.method for row in rows}) == 2


def test_names_are_unique_in_a_data_set() -> None:
    rows = build_rows(study())
    assert len({(row.model, row.method, row.teacher, row.role) for row in rows}) == len(rows)


def test_who_taught_an_assistant_is_enough_to_tell_it_apart() -> None:
    one, two = {"taught by": "resnet18", "epochs": 8, "lr": 1}, {"taught by": "vit_micro", "epochs": 16, "lr": 1}
    assert rows_module._telling([one, two, one]) == ["taught by"]
    assert rows_module._telling([one, {**one, "epochs": 9}]) == ["epochs"]
    assert rows_module._telling([one, two, {**two, "lr": 2}]) == ["taught by", "epochs", "lr"]
    assert rows_module._telling([one]) == []
