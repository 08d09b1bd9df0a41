"""One run: its record says everything, its files are there."""

import hashlib
import json
from datetime import UTC, datetime

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from small import make_suite

from kdbench.data.dataset import open_dataset
from kdbench.data.labels import LEUKOCYTES
from kdbench.data.views import Views
from kdbench.engine import teacher as teacher_module
from kdbench.engine import tuning
from kdbench.engine.evaluate import measure, predict
from kdbench.errors import DataError, RecordError
from kdbench.model import build, normalisation
from kdbench.paths import without_folders
from kdbench.profiling.profile import profile_model
from kdbench.store import Store
from kdbench.suite import run as run_module
from kdbench.suite.trained import load_trained
from kdbench.types import DatasetSpec, ModelChoice


@pytest.fixture(autouse=True)
def _one_thread_in_training(monkeypatch):
    """What the spec's `threads: all` means here: all of one."""
    monkeypatch.setattr(tuning, "usable_cores", lambda: 1)


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
        again = predict(model, data, data.splits["test"], Views(None, *normalisation(record.spec.model)))
        np.testing.assert_allclose(again, logits, rtol=1e-3, atol=1e-4)
        items = store.read_items_of(record.spec.dataset)
        assert items == data.items("test")


def test_first_weights_are_the_same_under_every_method(go, monkeypatch):
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
    assert without_folders(message) == kept


# ---------------------------------------------------------------- what is said of teachers


def by_method(records):
    return {record.spec.method.name: record for record in records}


def sha256_of(store, spec):
    return hashlib.sha256(store.weights_path(spec.run_id).read_bytes()).hexdigest()


ROW = 4 * 5 * 70
"""Bytes of one view of the training images, of logits alone."""


@pytest.mark.parametrize(
    ("method", "teaching", "outputs", "size"),
    [
        ("kd", None, "cached", 2 * ROW),
        ("kd", {"outputs": "live"}, "live", 0),
        ("kd", {"maps_limit_bytes": 0}, "cached", 2 * ROW),  # logits are no maps
        ("at", {"maps_limit_bytes": 0}, "live", 0),
        ("at", None, "cached", 2 * 4 * 70 * (5 + 16 * 16 * 16 + 16 * 8 * 8 + 32 * 4 * 4 + 64 * 2 * 2)),
        ("at", {"maps_limit_bytes": 0, "outputs": "cached"}, "cached", 2 * 4 * 70 * 5893),
    ],
    ids=str,
)
def test_record_says_how_the_teacher_was_heard(go, tmp_path, method, teaching, outputs, size):
    train = {"epochs": 2, "batch_size": 16}
    suite = make_suite(methods=["ce", method], train=train, teaching=teaching)
    teacher, baseline, distilled = go(suite, cache=tmp_path / "cache")
    for record in (teacher, baseline):
        assert (record.teacher_outputs, record.teacher_bytes, record.teacher_seconds) == ("none", 0, 0)
        assert record.teacher_weights == ()
    assert (distilled.status, distilled.teacher_outputs, distilled.teacher_bytes) == ("ok", outputs, size)
    assert (distilled.teacher_seconds > 0) == (outputs == "cached")
    kept = sum(path.stat().st_size for path in (tmp_path / "cache").glob("teachers/*/*.npy"))
    assert size <= kept <= size + 2 * 5 * 128  # the headers of two views of at most five arrays
    assert distilled.teacher_weights == (sha256_of(Store(tmp_path / "results"), teacher.spec),)
    for record in (teacher, baseline, distilled):
        how = record.tuning
        assert (how.precision, how.threads, how.memory_format) == ("fp32", 1, "channels_last")
        assert (how.compiled, how.probe_ms, how.note) == (False, {}, "")


def test_a_pool_of_views_bounds_what_the_record_says(go, tmp_path):
    suite = make_suite(train={"epochs": 3, "batch_size": 16}, views={"pool": 2})
    records = go(suite, cache=tmp_path / "cache")
    assert [record.teacher_bytes for record in records] == [0, 0, 2 * ROW]
    again = go(suite, folder="again", cache=tmp_path / "cache")
    assert again[2].teacher_seconds == 0  # replayed
    assert again[2].teacher_bytes == 2 * ROW
    assert again[2].test_metrics == records[2].test_metrics


def test_record_says_how_several_teachers_were_heard(go, tmp_path, monkeypatch):
    suite = make_suite(teachers=["resnet20_w16", "vit_micro"], methods=["ce", "multi_fixed"])
    fixed = by_method(go(suite, only="multi_fixed"))["multi_fixed"]
    assert (fixed.teacher_outputs, fixed.teacher_bytes) == ("cached", 2 * ROW)
    store = Store(tmp_path / "results")
    assert fixed.teacher_weights == tuple(sha256_of(store, teacher) for teacher in fixed.spec.teachers)
    assert len(set(fixed.teacher_weights)) == 2

    original = teacher_module.mode_for
    monkeypatch.setattr(
        teacher_module,
        "mode_for",
        lambda teaching, network, *more: "live" if network.title == "vit_micro" else original(teaching, network, *more),
    )
    mixed = by_method(go(suite, folder="mixed", only="multi_fixed"))["multi_fixed"]
    assert (mixed.teacher_outputs, mixed.teacher_bytes) == ("both", ROW)


def test_what_was_tuned_is_in_the_record(go):
    train = {"epochs": 1, "batch_size": 16, "channels_last": False, "precision": "bf16"}
    for record in go(make_suite(train=train)):
        assert (record.tuning.memory_format, record.tuning.precision) == ("contiguous", "bf16")


# ---------------------------------------------------------------- chains, and what is shipped


def test_a_chain_hands_on_the_weights_of_each_link(go, tmp_path):
    suite = make_suite(methods=["ce", {"name": "takd", "options": {"assistant": "mobilenetv3_small_050"}}])
    records = by_method(go(suite, only="takd"))
    assert {name: record.status for name, record in records.items()} == {"ce": "ok", "kd": "ok", "takd": "ok"}
    store = Store(tmp_path / "results")
    assert records["kd"].teacher_weights == (sha256_of(store, records["ce"].spec),)
    assert records["takd"].teacher_weights == (sha256_of(store, records["kd"].spec),)
    assert records["takd"].spec.teachers == (records["kd"].spec,)


def test_methods_without_a_teacher_go_the_whole_way(go, tmp_path):
    records = by_method(go(make_suite(teachers=None, methods=["ce", "dml", "tfkd", "born_again"])))
    assert {record.status for record in records.values()} == {"ok"}
    assert {name for name, record in records.items() if record.teacher_outputs == "none"} == {"ce", "dml", "tfkd"}
    assert records["born_again"].teacher_weights == (sha256_of(Store(tmp_path / "results"), records["ce"].spec),)
    assert records["dml"].profile.params == records["ce"].profile.params  # the peer is left behind


@pytest.mark.parametrize(
    ("student", "teacher"),
    [("resnet8_w16", "resnet20_w16"), ("mobilenetv3_small_050", "vit_micro"), ("vit_micro", "resnet20_w16")],
)
def test_what_simkd_ships_is_loaded_with_its_parts(go, tmp_path, cache, student, teacher):
    suite = make_suite(students=[student], teachers=[teacher], methods=["ce", "simkd"])
    records = by_method(go(suite, only="simkd"))
    record, store = records["simkd"], Store(tmp_path / "results")
    assert record.status == "ok"
    data = open_dataset(record.spec.dataset, tmp_path, cache)
    model = load_trained(record.spec, 5, store)
    assert not model.training
    norm = normalisation(record.spec.model)
    logits = predict(model, data, data.splits["test"], Views(None, *norm))
    np.testing.assert_allclose(logits, store.read_predictions(record.run_id), rtol=1e-3, atol=1e-4)
    # the classifier is the teacher's, and what is shipped is what is counted
    taught_by = load_trained(record.spec.teachers[0], 5, store).get_classifier()
    assert torch.equal(model.head.weight, taught_by.weight)
    assert record.profile.params == sum(parameter.numel() for parameter in model.parameters())


# ---------------------------------------------------------------- weight files


def test_a_weight_file_is_where_training_begins_and_its_folder_is_nowhere(go, tmp_path, monkeypatch):
    folder = tmp_path / "home" / "of-lovelace"
    folder.mkdir(parents=True)
    torch.manual_seed(3)
    given = build(ModelChoice(name="resnet8_w16"), 5, 32).state_dict()
    save_file(given, folder / "mine.safetensors")
    first, original = {}, run_module.train

    def spy(spec, model, *arguments, **more):
        first[spec.role, spec.method.name] = model.state_dict()["conv1.0.weight"].clone()
        return original(spec, model, *arguments, **more)

    monkeypatch.setattr(run_module, "train", spy)
    entry = {"model": {"name": "resnet8_w16", "pretrained": str(folder / "mine.safetensors")}}
    records = go(make_suite(students=[entry], teachers=[entry]))
    assert [record.status for record in records] == ["ok"] * 3
    assert all(torch.equal(weight, given["conv1.0.weight"]) for weight in first.values())
    digest = hashlib.sha256((folder / "mine.safetensors").read_bytes()).hexdigest()
    store = Store(tmp_path / "results")
    for record in records:
        text = store.record_path(record.run_id).read_text()
        assert "lovelace" not in text
        for spec in (record.spec, *record.spec.teachers):
            assert (spec.model.pretrained, spec.model.weights) == ("mine.safetensors", digest)
        assert record.spec.run_id == record.run_id  # the shown spec is the same run
    # the record is of the spec that was planned: nothing is done again
    del first["student", "ce"]
    assert go(make_suite(students=[entry], teachers=[entry])) == records
    assert ("student", "ce") not in first


def test_a_weight_file_that_is_another_by_now_is_a_failed_run(go, tmp_path, monkeypatch):
    path = tmp_path / "mine.safetensors"
    save_file(build(ModelChoice(name="resnet8_w16"), 5, 32).state_dict(), path)
    original = run_module._train_and_measure

    def changed(*arguments):
        save_file(build(ModelChoice(name="resnet8_w16"), 5, 32).state_dict(), path)
        return original(*arguments)

    monkeypatch.setattr(run_module, "_train_and_measure", changed)
    entry = {"model": {"name": "resnet8_w16", "pretrained": str(path)}}
    (record,) = go(make_suite(students=[entry], teachers=None, methods=["ce"]))
    assert record.status == "failed"
    assert record.failure.message == "pretrained: 'mine.safetensors' changed since the run was planned; run it again"
