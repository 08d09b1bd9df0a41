"""Identity of runs, and what the types refuse."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from kdbench.types import DatasetSpec, MethodSpec, ModelChoice, RunSpec, TrainSpec, content_id


def spec(**changes: object) -> RunSpec:
    base = {"role": "student", "dataset": "synthetic", "model": "resnet8_w16", "method": "ce"}
    return RunSpec.model_validate({**base, **changes})


def test_the_id_of_a_spec_does_not_drift() -> None:
    # A changed value here means that every published record belongs to no run any more: raise ENGINE_VERSION only if
    # results change, and give a new field a place in the id only if it has to be there.
    assert spec().run_id == "fc58406181e57186"


def test_equal_numbers_give_equal_ids() -> None:
    whole = MethodSpec(name="kd", options={"temperature": 2})
    fraction = MethodSpec(name="kd", options={"temperature": 2.0})
    assert spec(method=whole).run_id == spec(method=fraction).run_id
    assert content_id({"a": 1, "b": [1.0, 2]}) == content_id({"b": [1, 2.0], "a": 1.0})
    assert content_id(True) != content_id(1)


def test_defaults_filled_in_or_written_out_are_one_run() -> None:
    written = spec(train={"epochs": TrainSpec().epochs, "learning_rate": 0.001}, views={"seed": 0})
    assert written.run_id == spec().run_id


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"train": {"epochs": 11}},
        {"dataset": {"name": "synthetic", "content": "0123"}},
        {"model": {"name": "resnet8_w16", "pretrained": True}},
        {"views": {"seed": 1}},
        {"engine_version": 99},
        {"teachers": [spec(role="teacher").model_dump()]},
    ],
)
def test_every_change_is_another_run(change: dict[str, object]) -> None:
    assert spec(**change).run_id != spec().run_id


def test_a_cell_is_a_run_without_its_own_seed() -> None:
    teacher = spec(role="teacher")
    assert spec(seed=1).cell_id == spec(seed=2).cell_id
    other = teacher.model_copy(update={"seed": 5})
    assert spec(teachers=(teacher,)).cell_id != spec(teachers=(other,)).cell_id


def test_specs_can_be_keys_whatever_they_hold() -> None:
    held = {DatasetSpec(name="synthetic", options={"count": 100}): 1}
    assert held[DatasetSpec(name="synthetic", options={"count": 100})] == 1


@pytest.mark.parametrize(
    ("model", "values"),
    [
        (TrainSpec, {"epoch": 3}),
        (TrainSpec, {"epochs": 0}),
        (TrainSpec, {"learning_rate": float("nan")}),
        (TrainSpec, {"learning_rate": float("inf")}),
        (TrainSpec, {"precision": "fp8"}),
        (DatasetSpec, {"name": "x", "image_size": 4}),
        (DatasetSpec, {"name": "x", "crop_fraction": 0}),
        (ModelChoice, {"name": "x", "patch_size": 0}),
    ],
)
def test_nonsense_is_refused(model: type, values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        model(**values)


def test_types_are_frozen() -> None:
    with pytest.raises(ValidationError):
        spec().seed = 3  # type: ignore[misc]


def test_a_spec_survives_json() -> None:
    whole = spec(teachers=(spec(role="teacher"),), method=MethodSpec(name="kd", options={"temperature": 4.0}))
    again = RunSpec.model_validate_json(whole.model_dump_json())
    assert again == whole
    assert again.run_id == whole.run_id
