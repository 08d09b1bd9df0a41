"""What is read beside the records: lazily, once, and never at the price of the page."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from record_factory import CLASSES, answered, card, evaluation, record, spec

from kdbench import calibration
from kdbench.errors import RecordError
from kdbench.report import Outcomes, render
from kdbench.report.rows import build_rows
from kdbench.store import Store, images_key
from kdbench.types import Failure, Metrics

RIGHT = [True, True, False, True, True, False]
GROUPS = ["a", "a", "b", "b", "c", "c"]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results")


def test_answers_are_the_stored_logits_against_the_stored_labels(store: Store) -> None:
    made = answered(store, spec(), RIGHT, GROUPS)
    answers = Outcomes.below(store.root).answers(made)
    assert answers is not None
    assert answers.right.tolist() == RIGHT
    assert answers.images.group_names == ("a", "b", "c")
    assert answers.images.groups.tolist() == [0, 0, 1, 1, 2, 2]
    probabilities = calibration.softmax(store.read_predictions(made.run_id))
    labels = np.arange(6) % 2
    assert answers.ece == calibration.ece(probabilities, labels)
    assert answers.brier == calibration.brier(probabilities, labels)
    assert answers.auroc == calibration.auroc(probabilities, labels)
    assert answers.entropy == calibration.entropy(probabilities)
    assert answers.of_truth == pytest.approx(np.where(RIGHT, probabilities.max(), probabilities.min()))


def test_nothing_is_read_before_it_is_asked_for_and_nothing_twice(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [answered(store, spec(seed=seed), RIGHT, GROUPS) for seed in range(2)]
    read: list[str] = []
    for name in ("read_predictions", "read_items"):
        real = getattr(Store, name)
        monkeypatch.setattr(Store, name, lambda self, key, real=real, name=name: read.append(name) or real(self, key))
    outcomes = Outcomes.below(store.root)
    assert read == []
    found = [outcomes.answers(one) for one in (*made, *made)]
    assert read == ["read_items", "read_predictions", "read_predictions"]
    assert found[0] is found[2] is not None
    assert found[0].images is found[1].images  # type: ignore[union-attr]


def test_what_is_not_there_is_none_and_no_note(store: Store) -> None:
    alone, failed = record(spec(seed=5)), record(spec(seed=6), status="failed")
    answered(store, spec(), RIGHT, GROUPS)
    outcomes = Outcomes.below(store.root)
    assert outcomes.answers(alone) is None
    assert outcomes.answers(failed) is None
    assert outcomes.evaluations(alone) == ()
    assert outcomes.notes([alone, failed]) == []
    assert Outcomes().answers(alone) is None


@pytest.mark.parametrize(
    ("damage", "note"),
    [
        ("bytes", "predictions/{run}.safetensors cannot be read"),
        ("shape", "predictions/{run}.safetensors: shape (5, 2), where (6, 2) is wanted"),
        ("nan", "predictions/{run}.safetensors: not all logits are finite"),
        ("others", "predictions/{run}.safetensors: they do not give the accuracy of the record"),
        ("no items", "items of bccd, 64 px: the list of test images is missing or cannot be read"),
        ("empty items", "items of bccd, 64 px: the list of test images is missing or cannot be read"),
        ("classes", "predictions/{run}.safetensors: the test images have a label that the record does not name: "
         "lymphocyte"),
        ("no card", "predictions/{run}.safetensors: the record does not name the classes"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_a_note_and_no_figure(store: Store, damage: str, note: str) -> None:
    facts = {"classes": {"data": card(classes=("eosinophil", "x"))}, "no card": {"data": None}}.get(damage, {})
    made = answered(store, spec(), RIGHT, GROUPS, **facts)
    logits = store.read_predictions(made.run_id)
    items = store.items_path(images_key(made.spec.dataset))
    if damage == "bytes":
        store.predictions_path(made.run_id).write_bytes(b"x")
    elif damage == "shape":
        store.write_predictions(made.run_id, logits[:5])
    elif damage == "nan":
        store.write_predictions(made.run_id, np.full_like(logits, np.nan))
    elif damage == "others":
        store.write_predictions(made.run_id, -logits)
    elif damage == "no items":
        items.unlink()
    elif damage == "empty items":
        items.write_text("id,label,group\n", encoding="utf-8")
    outcomes = Outcomes.below(store.root)
    assert outcomes.notes([made]) == [note.format(run=made.run_id)]
    row = build_rows([made], outcomes=outcomes)[0]
    assert (row.interval, row.ece, row.brier, row.auroc) == (None, None, None, None)
    page = render([made], "md", outcomes=Outcomes.below(store.root))
    assert "## Files that could not be used" in page
    assert str(store.root) not in page
    for format in ("csv", "json"):
        assert render([made], format, outcomes=outcomes)


def test_of_a_run_in_two_folders_the_answers_that_give_its_accuracy_count(tmp_path: Path) -> None:
    other = answered(Store(tmp_path / "a"), spec(), [False] * 6, GROUPS)
    made = answered(Store(tmp_path / "b"), spec(), RIGHT, GROUPS)
    outcomes = Outcomes.below(tmp_path)
    answers = outcomes.answers(made)
    assert answers is not None
    assert answers.right.tolist() == RIGHT
    assert other.run_id == made.run_id


def test_evaluations_by_run_each_once_and_what_failed_is_noted(store: Store) -> None:
    made = answered(store, spec(), RIGHT, GROUPS)
    metrics = Metrics(accuracy=0.5, macro_f1=0.5, loss=1.0, recall={CLASSES[0]: 0.5}, count=10)
    broken = Failure(kind="MissingData", message="no\nimages")
    further = evaluation(spec(), metrics=metrics, failure=broken)
    store.write_evaluation(further)
    store.evaluation_path("damaged").write_text("{", encoding="utf-8")
    outcomes = Outcomes.below(store.root)
    assert outcomes.evaluations(made) == (further,)
    assert outcomes.evaluations(record(spec(seed=9))) == ()
    assert outcomes.notes([made]) == [
        f"{made.spec.title} on bccd: MissingData: no images",
        "evaluations/damaged.json cannot be read; make it again with `kdbench evaluate`",
    ]


def test_rows_need_the_answers_of_every_run_with_a_result(store: Store) -> None:
    made = [answered(store, spec(seed=seed), RIGHT, GROUPS) for seed in range(2)]
    broken = record(spec(seed=2), status="failed")
    row = build_rows([*made, broken], outcomes=Outcomes.below(store.root))[0]
    assert sorted(row.answers) == [0, 1]
    assert row.independent == 3
    assert row.interval is not None
    assert row.interval[0] < row.accuracy < row.interval[1]  # type: ignore[operator]
    assert build_rows([*made, record(spec(seed=2))], outcomes=Outcomes.below(store.root))[0].interval is None
    assert build_rows(made)[0].answers == {}


def test_rows_without_answers_take_the_number_of_groups_from_the_card() -> None:
    assert build_rows([record(spec(), data=card(independent={"test": 71}))])[0].independent == 71
    assert build_rows([record(spec())])[0].independent is None


def test_an_unusable_list_of_images_raises_where_it_is_asked_for_by_name(store: Store) -> None:
    with pytest.raises(RecordError):
        store.read_items_of(spec().dataset)
