"""Identities stay the same for ever, and a record read back means what it meant when written."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from pydantic import ValidationError

from kdbench.types import (
    DatasetSpec,
    Environment,
    EpochLog,
    Failure,
    LeftOut,
    MethodSpec,
    Metrics,
    ModelChoice,
    RunRecord,
    RunSpec,
    TrainSpec,
    ViewSpec,
    content_id,
)


def spec(**changes: Any) -> RunSpec:
    return RunSpec(
        **{
            "role": "student",
            "dataset": "synthetic",
            "model": "resnet8_w16",
            "method": {"name": "kd", "options": {"temperature": 2.0}},
            **changes,
        }
    )


# What `spec()` is, written out by hand: every default, floats with no fraction as whole numbers.
WRITTEN_OUT = {
    "role": "student",
    "dataset": {
        "name": "synthetic",
        "image_size": 64,
        "fit": "crop",
        "crop_fraction": 1,
        "val_fraction": 0.1,
        "test_fraction": 0.2,
        "split_seed": 0,
        "train_limit": None,
        "sources": [],
        "options": {},
        "content": "",
    },
    "model": {"name": "resnet8_w16", "pretrained": False, "patch_size": None},
    "method": {"name": "kd", "ground_truth": True, "options": {"temperature": 2}},
    "teachers": [],
    "views": {
        "seed": 0,
        "pool": None,
        "horizontal_flip": True,
        "vertical_flip": True,
        "quarter_turns": True,
        "rotation_degrees": 10,
        "scale": 0.1,
        "translation": 0.05,
        "brightness": 0.1,
        "contrast": 0.1,
        "saturation": 0.1,
        "stain": 0.05,
    },
    "train": {
        "epochs": 10,
        "batch_size": 64,
        "optimizer": "adamw",
        "learning_rate": 0.001,
        "weight_decay": 0.05,
        "momentum": 0.9,
        "warmup_epochs": 1,
        "schedule": "cosine",
        "label_smoothing": 0,
        "ema_decay": None,
        "clip_norm": None,
        "precision": "fp32",
        "channels_last": True,
    },
    "seed": 0,
    "engine_version": 1,
}


def by_hand(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:16]


def test_run_id_stays_what_it_was() -> None:
    # A run is finished when the record of this id is there. If this value changes, every finished run of every user
    # is trained again: change it only together with ENGINE_VERSION or a field of the specs, and say so.
    assert spec().run_id == "b422c17d32d1dba3"
    assert spec().run_id == by_hand(WRITTEN_OUT)


def test_cell_id_leaves_the_seed_out() -> None:
    assert spec(seed=1).run_id != spec(seed=2).run_id
    assert spec(seed=1).cell_id == spec(seed=2).cell_id
    assert spec().cell_id == by_hand({key: value for key, value in WRITTEN_OUT.items() if key != "seed"})


@pytest.mark.parametrize(
    "change",
    [
        {"role": "teacher"},
        {"dataset": {"name": "synthetic", "content": "abc"}},
        {"model": {"name": "resnet8_w16", "pretrained": True}},
        {"method": {"name": "kd", "ground_truth": False, "options": {"temperature": 2}}},
        {"views": {"seed": 1}},
        {"train": {"clip_norm": 1}},
        {"teachers": [spec(role="teacher")]},
        {"teachers": [spec(role="teacher", seed=1)]},
        {"engine_version": 2},
    ],
)
def test_everything_asked_for_is_in_the_ids(change: dict[str, Any]) -> None:
    assert spec(**change).run_id != spec().run_id
    assert spec(**change).cell_id != spec().cell_id


def test_seed_of_a_teacher_is_part_of_the_cell() -> None:
    cells = {spec(teachers=[spec(role="teacher", seed=seed)]).cell_id for seed in (0, 1)}
    assert len(cells) == 2


def test_1_and_1_0_are_one() -> None:
    whole = spec(method={"name": "kd", "options": {"temperature": 2}}, train={"warmup_epochs": 1})
    broken = spec(method={"name": "kd", "options": {"temperature": 2.0}}, train={"warmup_epochs": 1.0})
    assert whole.run_id == broken.run_id
    assert whole == broken
    assert hash(whole) == hash(broken)
    assert content_id({"a": [1, (2.0, -0.0)]}) == content_id({"a": [1.0, [2, 0]]})
    assert content_id(1.5) != content_id(1)
    assert content_id(True) != content_id(1)
    assert content_id("1") != content_id(1)


def test_order_of_options_changes_nothing() -> None:
    one = MethodSpec(name="kd", options={"a": 1, "b": 2})
    other = MethodSpec(name="kd", options={"b": 2, "a": 1})
    assert one == other
    assert hash(one) == hash(other)
    assert len({spec(method=one), spec(method=other)}) == 1
    assert spec(method=one).run_id == spec(method=other).run_id


def test_order_of_a_list_does_change_an_id() -> None:
    assert content_id([1, 2]) != content_id([2, 1])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": [float("-inf")]}])
def test_content_id_refuses_what_is_no_number(value: object) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        content_id(value)


@pytest.mark.parametrize(
    ("kind", "values", "key"),
    [
        (TrainSpec, {"epocs": 3}, "epocs"),
        (DatasetSpec, {"name": "pbc", "size": 3}, "size"),
        (ViewSpec, {"hue": 0.1}, "hue"),
        (RunRecord, {"verdict": "good"}, "verdict"),
    ],
)
def test_unknown_key_is_refused(kind: type, values: dict[str, Any], key: str) -> None:
    with pytest.raises(ValidationError) as caught:
        kind(**values)
    assert {(key,)} <= {error["loc"] for error in caught.value.errors() if error["type"] == "extra_forbidden"}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_refused(value: float) -> None:
    with pytest.raises(ValidationError, match="finite number"):
        TrainSpec(learning_rate=value)
    with pytest.raises(ValidationError, match="finite number"):
        EpochLog(epoch=0, train_loss=value, val_loss=1, val_accuracy=0.5, learning_rate=0.1, seconds=1)
    with pytest.raises(ValidationError, match="finite number"):
        MethodSpec(name="kd", options={"temperature": value})


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (DatasetSpec, {"name": "x", "image_size": 15}),
        (DatasetSpec, {"name": "x", "test_fraction": 0.5}),
        (DatasetSpec, {"name": "x", "val_fraction": 0}),
        (DatasetSpec, {"name": "x", "crop_fraction": 1.01}),
        (TrainSpec, {"epochs": 0}),
        (TrainSpec, {"ema_decay": 1}),
        (ViewSpec, {"pool": 0}),
        (ViewSpec, {"rotation_degrees": 181}),
        (Metrics, {"accuracy": 1.1, "macro_f1": 1, "loss": 0, "recall": {}, "count": 1}),
        (Metrics, {"accuracy": 1, "macro_f1": 1, "loss": 0, "recall": {}, "count": 0}),
    ],
)
def test_values_out_of_bounds_are_refused(kind: type, values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        kind(**values)


def test_types_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        spec().seed = 3  # type: ignore[misc]


def test_a_bare_name_is_enough() -> None:
    assert ModelChoice.model_validate("resnet18") == ModelChoice(name="resnet18")
    assert spec().dataset == DatasetSpec(name="synthetic")


def test_title_tells_teacher_and_lesson() -> None:
    taught = spec(
        method={"name": "kd", "ground_truth": False}, teachers=[spec(role="teacher", model="resnet18")], seed=3
    )
    assert taught.title == "synthetic/resnet8_w16/kd (no ground truth) < resnet18/seed3"
    assert spec(method="ce").title == "synthetic/resnet8_w16/ce/seed0"


def record() -> RunRecord:
    asked = spec(
        teachers=[spec(role="teacher", model={"name": "vit_micro", "patch_size": 8})],
        dataset={"name": "synthetic", "options": {"count": 100, "difficulty": 0.5, "mode": "x", "flag": True}},
    )
    return RunRecord(
        run_id=asked.run_id,
        cell_id=asked.cell_id,
        status="ok",
        spec=asked,
        started="2026-01-02T03:04:05+00:00",
        train_seconds=0.1 + 0.2,  # no short decimal: has to come back to the last bit
        history=(EpochLog(epoch=0, train_loss=1 / 3, val_loss=1, val_accuracy=0.5, learning_rate=1e-300, seconds=1),),
        test_metrics=Metrics(accuracy=2 / 3, macro_f1=0.1, loss=5e-324, recall={"ä": 1.0}, count=3),
        environment=Environment(
            fingerprint="f",
            cpu="c",
            cpu_flags=("avx2",),
            cores=2,
            memory_bytes=2**40 + 1,
            gpu=None,
            system="s",
            python="3",
            versions={"torch": "2"},
            threads=1,
            kdbench="0",
            commit=None,
            dirty=None,
        ),
        data={
            "name": "synthetic",
            "sources": {"synthetic": 3},
            "classes": ["a"],
            "splits": {"train": {"a": 3}},
            "content_hash": "c",
            "left_out": [LeftOut(path="p", reason="r", count=2)],
        },
        failure=Failure(kind="k", message="m\nn"),
    )


def test_record_comes_back_from_json_as_it_was() -> None:
    written = record()
    read = RunRecord.model_validate_json(written.model_dump_json(indent=1))
    assert read == written
    assert hash(read) == hash(written)
    assert read.model_dump_json() == written.model_dump_json()
    assert read.spec.run_id == written.run_id
    assert read.spec.cell_id == written.cell_id
    # the options keep their types: true is no 1
    assert read.spec.dataset.options == {"count": 100, "difficulty": 0.5, "mode": "x", "flag": True}
    assert [type(value) for value in read.spec.dataset.options.values()] == [int, float, str, bool]
