"""One run: its record says everything, its files are there."""

import json
from datetime import UTC, datetime

import numpy as np
import pytest
import torch
from PIL import Image
from small import make_suite

from kdbench.data.dataset import open_dataset
from kdbench.data.labels import LEUKOCYTES
from kdbench.engine.evaluate import measure, predict
from kdbench.errors import DataError, RecordError
from kdbench.model import build, normalisation
from kdbench.profiling.profile import profile_model
from kdbench.store import Store
from kdbench.suite.run import _without_folders, load_trained
from kdbench.types import DatasetSpec, ModelChoice, content_id


@pytest.fixture
def finished(go, tmp_path):
    # a cache of its own: what a teacher said in another test would be replayed
    records = go(make_suite(train={"epochs": 2, "batch_size": 16}), cache=tmp_path / "cache")
    return records, Store(tmp_path / "results")


def test_record_has_what_tables_are_made_of(finished):
    records, store = finished
    for record in records:
        raw = json.loads(store.record_path(record.run_id).read_text())
        assert raw["run_id"] == record.spec.run_id
        assert raw["cell_id"] == record.spec.cell_id
        assert raw["status"] == "ok"
        assert raw["spec"]["train"]["epochs"] == 2
        assert 0 <= raw["val_metrics"]["accuracy"] <= 1
        assert 0 <= raw["test_metrics"]["accuracy"] <= 1
        assert (raw["val_metrics"]["count"], raw["test_metrics"]["count"]) == (10, 20)
        assert raw["profile"]["params"] > 0
        assert raw["profile"]["macs"] > 0
        assert raw["profile"]["flops"] == 2 * raw["profile"]["macs"]
        assert raw["environment"]["threads"] == 1
        assert str(torch.__version__).startswith(raw["environment"]["versions"]["torch"])
        assert raw["data"]["content_hash"] == raw["spec"]["dataset"]["content"] != ""
        assert raw["train_seconds"] > 0
        assert len(raw["history"]) == 2
        assert raw["best_epoch"] in (0, 1)
        assert abs((datetime.now(UTC) - datetime.fromisoformat(raw["started"])).total_seconds()) < 300


def test_profile_is_of_the_student_alone(finished):
    teacher, baseline, distilled = finished[0]
    model = build(ModelChoice(name="resnet8_w16"), 5, 32)
    expected = profile_model(model, 32, counts_only=True)
    for record in (baseline, distilled):
        assert (record.profile.params, record.profile.macs) == (expected.params, expected.macs)
    assert teacher.profile.params > distilled.profile.params


def test_teacher_time_is_told_apart(finished):
    teacher, baseline, distilled = finished[0]
    assert (teacher.teacher_outputs, baseline.teacher_outputs, distilled.teacher_outputs) == ("none", "none", "cached")
    assert teacher.teacher_seconds == baseline.teacher_seconds == 0
    assert distilled.teacher_seconds > 0


def test_weights_and_predictions_are_those_of_the_metrics(finished, tmp_path, cache):
    records, store = finished
    for record in records:
        data = open_dataset(record.spec.dataset, tmp_path, cache)
        logits = store.read_predictions(record.run_id)
        labels = data.labels[data.splits["test"]]
        assert measure(logits, labels, data.classes) == record.test_metrics
        model = load_trained(record.spec, 5, store)
        assert not model.training
        from kdbench.data.views import Views

        again = predict(model, data, data.splits["test"], Views(None, *normalisation(record.spec.model)))
        np.testing.assert_allclose(again, logits, rtol=1e-3, atol=1e-4)
        items = store.read_items(content_id(record.spec.dataset.model_dump(mode="json")))
        assert items == data.items("test")


def test_first_weights_are_the_same_under_every_method(go, monkeypatch):
    from kdbench.suite import run as run_module

    first, original = {}, run_module.train

    def spy(spec, model, *arguments, **more):
        first[spec.method.label, spec.model.name, spec.seed] = model.state_dict()["conv1.0.weight"].clone()
        return original(spec, model, *arguments, **more)

    monkeypatch.setattr(run_module, "train", spy)
    go(make_suite(), seeds=[0, 1])
    ce, kd = (first[method, "resnet8_w16", 0] for method in ("ce", "kd"))
    assert torch.equal(ce, kd)
    assert not torch.equal(ce, first["ce", "resnet8_w16", 1])


def test_missing_and_damaged_weights_are_record_errors(finished):
    records, store = finished
    path = store.weights_path(records[0].run_id)
    path.write_bytes(b"no tensors")
    with pytest.raises(RecordError, match="cannot be used"):
        load_trained(records[0].spec, 5, store)
    path.unlink()
    with pytest.raises(RecordError, match=path.name):
        load_trained(records[0].spec, 5, store)


def test_bf16_and_averaged_weights_go_the_whole_way(go):
    records = go(make_suite(train={"epochs": 1, "batch_size": 16, "precision": "bf16", "ema_decay": 0.9}))
    assert [record.status for record in records] == ["ok"] * 3


def write_pbc(root, damaged):
    """Twelve JPEG files for each of the five classes; those named in damaged are cut in half."""
    rng = np.random.default_rng(0)
    for number, label in enumerate(LEUKOCYTES):
        folder = root / "pbc/PBC_dataset_normal_DIB" / label
        folder.mkdir(parents=True)
        for index in range(12):
            pixels = rng.integers(0, 80, (40, 40, 3)) + 30 * number
            path = folder / f"{label[:2].upper()}_{index}.jpg"
            Image.fromarray(pixels.astype(np.uint8)).save(path, quality=90)
            if path.name in damaged:
                path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_truncated_image_is_left_out_by_name_and_the_run_goes_on(go, tmp_path):
    write_pbc(tmp_path / "data", {"MO_3.jpg", "EO_7.jpg"})
    records = go(make_suite(datasets=[{"name": "pbc", "image_size": 32}]))
    assert [record.status for record in records] == ["ok"] * 3
    for record in records:
        assert sorted(entry.path for entry in record.data.left_out) == [
            "pbc/PBC_dataset_normal_DIB/eosinophil/EO_7.jpg",
            "pbc/PBC_dataset_normal_DIB/monocyte/MO_3.jpg",
        ]
        assert all("truncated" in entry.reason for entry in record.data.left_out)
        assert record.data.sources == {"pbc": 58}
        assert sum(sum(side.values()) for side in record.data.splits.values()) == 58


def test_changed_images_do_not_pass_for_the_planned_ones(tmp_path):
    planned = DatasetSpec(name="synthetic", image_size=32, options={"count": 100}, content="0123456789abcdef")
    with pytest.raises(DataError, match="changed since this run was planned"):
        open_dataset(planned, tmp_path, tmp_path / "cache")


@pytest.mark.parametrize(
    ("message", "kept"),
    [
        ("the image cache /home/ada/.cache/kdbench/pbc/01ab cannot be used", "the image cache 01ab cannot be used"),
        ("'/data/pbc/a.bmp': no", "'a.bmp': no"),
        ("nan at step 3/4, see a/b and https://example.org/x", "nan at step 3/4, see a/b and https://example.org/x"),
    ],
)
def test_messages_of_failures_carry_no_folders_of_this_machine(message, kept):
    assert _without_folders(message) == kept
