"""Evaluations in the results folder: written whole, read back, found below a folder, and put together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kdbench.errors import SchemaMismatch
from kdbench.store import Store, find_evaluations, load_evaluation, newest_evaluations
from kdbench.types import Corrupted, DatasetSpec, Environment, EvaluationRecord, Failure, Metrics, evaluation_id

ON = DatasetSpec(name="synthetic", content="abc")
METRICS = Metrics(accuracy=0.5, macro_f1=0.5, loss=1.0, recall={"a": 0.5}, count=10)
ENVIRONMENT = Environment(
    fingerprint="f", cpu="c", cpu_flags=(), cores=1, memory_bytes=1, gpu=None, system="s", python="3", versions={},
    threads=1, kdbench="0", commit=None, dirty=None,
)  # fmt: skip


def evaluation(run_id: str = "r", day: int = 1, figures: dict[tuple[str, int], float] | None = None, **more: Any):
    corrupted = tuple(
        Corrupted(corruption=name, level=level, accuracy=accuracy, macro_f1=accuracy, ece=0.1)
        for (name, level), accuracy in (figures or {}).items()
    )
    facts = {"metrics": METRICS, "corrupted": corrupted, "started": f"2026-01-{day:02d}T00:00:00+00:00", **more}
    return EvaluationRecord(
        evaluation_id=evaluation_id(run_id, ON, "test"), run_id=run_id, on=ON, side="test", environment=ENVIRONMENT,
        **facts,
    )  # fmt: skip


def test_the_id_is_of_run_images_and_side() -> None:
    ids = {
        evaluation_id("r", ON, "test"),
        evaluation_id("q", ON, "test"),
        evaluation_id("r", ON, "all"),
        evaluation_id("r", ON.model_copy(update={"image_size": 32}), "all"),
    }
    assert len(ids) == 4
    assert evaluation_id("r", ON, "test") == "fb90b2cc16831ba1"  # ids of files that are there must hold


def test_round_trip(tmp_path: Path) -> None:
    store, one = Store(tmp_path), evaluation(figures={("jpeg", 1): 0.4})
    assert store.read_evaluation(one.evaluation_id) is None
    path = store.write_evaluation(one)
    assert path == tmp_path / "evaluations" / f"{one.evaluation_id}.json"
    assert store.read_evaluation(one.evaluation_id) == load_evaluation(path) == one
    more = evaluation(figures={("jpeg", 1): 0.4, ("jpeg", 2): 0.3})
    store.write_evaluation(more)
    assert store.read_evaluation(one.evaluation_id) == more


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("{", "EOF"),
        ("[]", "the kind is None"),
        ('{"kind": "kdbench-profile"}', "the kind is 'kdbench-profile'"),
        ('{"kind": "kdbench-evaluation", "schema_version": 9}', "the schema version is 9"),
        ('{"kind": "kdbench-evaluation", "schema_version": 1}', "evaluation_id: Field required"),
    ],
)
def test_a_file_that_is_none_is_named(tmp_path: Path, content: str, what: str) -> None:
    path = tmp_path / "evaluations" / "x.json"
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(SchemaMismatch, match=what) as caught:
        find_evaluations(tmp_path)
    assert str(path) in str(caught.value)
    assert "kdbench evaluate" in str(caught.value)


def test_they_are_found_below_a_folder_in_it_and_alone(tmp_path: Path) -> None:
    one, two = evaluation("r"), evaluation("q")
    path = Store(tmp_path / "a").write_evaluation(one)
    Store(tmp_path / "b" / "c").write_evaluation(two)
    (tmp_path / "a" / "evaluations" / ".partial-0").write_text("half")
    both = sorted((one, two), key=lambda each: each.evaluation_id)
    assert find_evaluations(tmp_path) == both
    assert find_evaluations(path.parent) == find_evaluations(path) == [one]
    assert find_evaluations(tmp_path / "nowhere") == []


def test_of_one_evaluation_the_newest_figures_count_and_none_is_lost() -> None:
    old = evaluation(day=1, figures={("jpeg", 1): 0.4, ("jpeg", 2): 0.3})
    new = evaluation(day=2, figures={("jpeg", 2): 0.35, ("contrast", 1): 0.2})
    for order in ((old, new), (new, old), (new, old, new)):
        (one,) = newest_evaluations(order)
        assert {(each.corruption, each.level): each.accuracy for each in one.corrupted} == {
            ("contrast", 1): 0.2,
            ("jpeg", 1): 0.4,
            ("jpeg", 2): 0.35,
        }
        assert one.started == new.started


def test_one_with_a_result_counts_more_than_a_later_failure() -> None:
    good = evaluation(day=1, figures={("jpeg", 1): 0.4})
    bad = evaluation(day=2, metrics=None, failure=Failure(kind="MissingData", message="gone"))
    assert newest_evaluations([bad, good]) == [good]
    assert newest_evaluations([bad]) == [bad]
