"""Stages of compression in suites: what is planned, run, kept and refused."""

from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
from safetensors.torch import load_file, save_file
from small import Notes, make_suite

from kdbench.calibration import softmax
from kdbench.config import CompressEntry
from kdbench.data.dataset import open_dataset
from kdbench.data.views import Views
from kdbench.engine.evaluate import predict
from kdbench.errors import ConfigError, ExportError, ProfileError, RecordError
from kdbench.model import normalisation
from kdbench.profiling.conversion import installed
from kdbench.profiling.session import Sampling
from kdbench.report import build_rows
from kdbench.store import Store
from kdbench.suite import compress as compress_module
from kdbench.suite import run as run_module
from kdbench.suite.api import compress_run, run_suite
from kdbench.suite.compress import balanced
from kdbench.suite.evaluate import evaluate_results
from kdbench.suite.export import export_run, load_export, load_run
from kdbench.suite.plan import make_plan
from kdbench.suite.profile import Measures, profile, profile_results
from kdbench.suite.trained import load_trained
from kdbench.types import Compression, EvaluateSpec, RunRecord

PIPELINE = {"of": "/kd", "prune": {"macs": 0.5}, "train": {"learning_rate": 5e-4}, "quantise": "int8"}
DISTILLED = "synthetic/resnet8_w16/kd < resnet20_w16"
PRUNED, INT8 = f"{DISTILLED} > macs 50 %", f"{DISTILLED} > macs 50 % > int8"


@pytest.fixture(scope="module")
def compressed(tmp_path_factory):
    """A student, pruned and quantised: its results folder and records by title."""
    folder = tmp_path_factory.mktemp("compressed")
    places = {"root": folder / "data", "cache": folder / "cache"}
    records = run_suite(make_suite(compress=[PIPELINE]), folder / "results", **places)
    return folder, {record.spec.title.removesuffix("/seed0"): record for record in records}


def titles(plan):
    return [run.title.removesuffix("/seed0") for run in plan.runs]


def test_stages_follow_the_students_they_begin_with():
    plan = make_plan(make_suite(compress=[PIPELINE]))
    assert titles(plan)[-3:] == [DISTILLED, PRUNED, INT8]
    student, pruned, small = plan.runs[-3:]
    assert pruned.parent == student
    assert small.parent == pruned
    assert pruned.teachers == (student,)  # its unpruned self
    assert pruned.train.learning_rate == 5e-4
    assert pruned.train.epochs == student.train.epochs
    assert small.method == pruned.method


def test_all_students_are_compressed_where_none_is_named():
    plan = make_plan(make_suite(compress=[{"quantise": "int8"}], seeds=2))
    assert [run.quantise is not None for run in plan.runs] == [
        False,
        False,
        False,
        True,
        True,
        False,
        False,
        True,
        True,
    ]


def test_a_stage_is_taught_by_the_teacher_of_its_student_where_that_is_asked_for():
    entry = {**PIPELINE, "teacher": "teacher", "of": ""}
    plan = make_plan(make_suite(compress=[entry]))
    pruned = {run.parent.title: run for run in plan.runs if run.prune}
    assert [one.model.name for one in pruned[f"{DISTILLED}/seed0"].teachers] == ["resnet20_w16"]
    alone = pruned["synthetic/resnet8_w16/ce/seed0"]
    assert alone.teachers == (alone.parent,)  # a network that had no teacher stays without one


def test_pruning_can_go_in_steps_that_are_each_fine_tuned():
    plan = make_plan(make_suite(compress=[{**PIPELINE, "prune": [{"macs": 0.7}, {"params": 0.7}], "quantise": None}]))
    assert titles(plan)[-2:] == [f"{DISTILLED} > macs 70 %", f"{DISTILLED} > macs 70 % > params 70 %"]


def test_a_student_of_one_seed_alone_may_be_compressed():
    plan = make_plan(make_suite(compress=[{"of": "*/kd*seed1", "quantise": "int8"}], seeds=2))
    assert [run.seed for run in plan.runs if run.quantise] == [1]


def test_two_suites_share_a_stage():
    one, other = (
        {run.run_id for run in make_plan(make_suite(compress=compress)).runs if run.parent}
        for compress in ([PIPELINE], [{**PIPELINE, "quantise": None}])
    )
    assert len(one) == 2
    assert other < one


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({}, "nothing is compressed; give prune, quantise or both"),
        ({"quantise": "int4"}, "int8 is the only format, not 'int4'"),
        ({"prune": {"macs": 1.5}}, r"compress\[0\].prune\[0\].macs: input should be less than 1, not 1.5"),
        ({"prune": {"macs": 0.5, "importance": "beauty"}}, "beauty"),
        ({"prune": {"macs": 0.5}, "distil": "simkd"}, "cannot fine-tune a compressed one"),
        ({"prune": {"macs": 0.5}, "distil": "takd"}, "cannot fine-tune a compressed one"),
        ({"prune": {"macs": 0.5}, "distil": "multi_fixed"}, "needs several teachers"),
        ({"prune": {"latency": 0.5, "runtime": "abacus"}}, "unknown runtime 'abacus'"),
        ({"quantise": "int8", "of": "nobody"}, "compress: of: 'nobody' matches none"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_runs(entry, message):
    with pytest.raises(ConfigError, match=message):
        make_plan(make_suite(compress=[entry]))


def test_every_stage_has_a_record_with_its_parent(compressed):
    _, records = compressed
    assert {title: record.status for title, record in records.items()} == dict.fromkeys(records, "ok")
    student, pruned, small = (records[title] for title in (DISTILLED, PRUNED, INT8))
    assert pruned.spec.parent.run_id == student.run_id
    assert small.spec.parent.run_id == pruned.run_id
    assert pruned.profile.macs <= 0.5 * student.profile.macs
    assert pruned.profile.params < student.profile.params
    assert pruned.history
    assert pruned.teacher_outputs == "cached"
    assert small.profile.macs == pruned.profile.macs
    assert not small.history
    assert small.train_seconds == 0.0
    assert not small.profile.latencies  # measured in a runtime of its own, not in passing
    facts = pruned.compression
    assert facts.reached["macs"] == pruned.profile.macs / student.profile.macs
    assert 0 <= facts.untuned_accuracy <= 1
    assert small.compression.versions["onnxruntime"] == onnxruntime.__version__
    assert small.compression.operators["Conv"] > 5
    assert RunRecord.model_validate_json(small.model_dump_json()) == small


def test_parents_are_known_by_their_weights(compressed):
    import hashlib

    folder, records = compressed
    store = Store(folder / "results")
    for before, after in ((DISTILLED, PRUNED), (PRUNED, INT8)):
        weights = store.weights_path(records[before].run_id).read_bytes()
        assert records[after].compression.parent_weights == hashlib.sha256(weights).hexdigest()


def test_a_pruned_network_is_loaded_as_it_was_tested(compressed):
    folder, records = compressed
    store, record = Store(folder / "results"), records[PRUNED]
    data = open_dataset(record.spec.dataset, folder / "data", folder / "cache")
    network = load_trained(record.spec, len(data.classes), store)
    logits = predict(network, data, data.splits["test"], Views(None, *normalisation(record.spec.model)))
    kept = store.read_predictions(record.run_id)
    np.testing.assert_allclose(logits, kept, atol=2e-3)  # stored in half precision
    assert not store.start_path(record.run_id).exists()
    assert not store.checkpoint_path(record.run_id).exists()


def test_what_int8_scores_is_what_its_file_says(compressed):
    """By onnxruntime alone, on the test images."""
    folder, records = compressed
    store, record = Store(folder / "results"), records[INT8]
    data = open_dataset(record.spec.dataset, folder / "data", folder / "cache")
    session = onnxruntime.InferenceSession(str(store.artefact_path(record.run_id)))
    images = Views(None, *normalisation(record.spec.model)).batch(data, data.splits["test"], 0).contiguous().numpy()
    logits = session.run(["logits"], {"image": images})[0]
    labels = data.labels[data.splits["test"]]
    assert (logits.argmax(1) == labels).mean() == pytest.approx(record.test_metrics.accuracy)
    assert record.profile.weight_bytes == store.artefact_path(record.run_id).stat().st_size
    facts = session.get_modelmeta().custom_metadata_map
    assert facts["run_id"] == record.run_id
    assert facts["labels"].count('"') == 2 * len(data.classes)
    # nothing but rounding stands between it and its parent
    parent = load_trained(record.spec.parent, len(data.classes), store)
    before = softmax(predict(parent, data, data.splits["test"], Views(None, *normalisation(record.spec.model))))
    assert np.abs(softmax(logits) - before).mean() < 0.05


def test_a_finished_stage_is_not_done_again(compressed, trainings):
    folder, _ = compressed
    notes = Notes()
    places = {"root": folder / "data", "cache": folder / "cache"}
    run_suite(make_suite(compress=[PIPELINE]), folder / "results", listener=notes, **places)
    assert notes.plan == (0, 5)
    assert not trainings


def test_a_parent_without_weights_is_trained_again_for_a_new_stage(go, tmp_path, trainings):
    """As in a fresh copy of published results."""
    go(make_suite(methods=["ce"], teachers=None))
    store = Store(tmp_path / "results")
    (record,) = store.records()
    before = store.weights_path(record.run_id).read_bytes()
    store.weights_path(record.run_id).unlink()
    go(make_suite(methods=["ce"], teachers=None, compress=[{"quantise": "int8"}]))
    assert len(trainings) == 2
    assert store.weights_path(record.run_id).read_bytes() == before


def test_an_interrupted_fine_tuning_goes_on_with_the_same_pruned_network(go, tmp_path, monkeypatch):
    """A latency is not measured alike twice, so what was pruned is kept."""
    suite = make_suite(methods=["ce"], teachers=None, compress=[{"prune": {"macs": 0.5}, "train": {"epochs": 2}}])
    whole = go(suite, "whole")
    original, calls = run_module.train, []

    def interrupted(spec, *arguments, progress=None, **more):
        def stop(what, done, total):
            if spec.prune and done > total // 2:
                raise KeyboardInterrupt

        return original(spec, *arguments, progress=stop, **more)

    monkeypatch.setattr(run_module, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        go(suite, "halves")
    monkeypatch.setattr(run_module, "train", original)
    pruning = compress_module.prune
    monkeypatch.setattr(compress_module, "prune", lambda *a, **k: calls.append(1) or pruning(*a, **k))
    halves = go(suite, "halves")
    assert not calls
    assert halves[-1].test_metrics == whole[-1].test_metrics
    assert halves[-1].history[-1].val_loss == whole[-1].history[-1].val_loss
    assert halves[-1].compression.reached == whole[-1].compression.reached


def test_what_was_pruned_of_another_parent_is_not_gone_on_with(go, tmp_path, monkeypatch):
    suite = make_suite(methods=["ce"], teachers=None, compress=[{"prune": {"macs": 0.5}}])
    whole = go(suite)[-1]
    store = Store(tmp_path / "results")
    # as an interrupted fine-tuning of a network that was since trained again would leave it
    tensors = load_file(store.weights_path(whole.run_id))
    facts = Compression(parent_weights="of another one").model_dump_json()
    store.start_path(whole.run_id).parent.mkdir(exist_ok=True)
    save_file(
        {name: tensor * 0 for name, tensor in tensors.items()}, store.start_path(whole.run_id), {"compression": facts}
    )
    store.checkpoint_path(whole.run_id).write_bytes(b"of another one")
    store.record_path(whole.run_id).unlink()
    again = go(suite)[-1]
    assert again.status == "ok"
    assert again.test_metrics == whole.test_metrics
    assert again.compression.parent_weights == whole.compression.parent_weights


def test_a_latency_target_is_measured(go, monkeypatch):
    """With a clock that counts parameters: what is left of them is what is left of the time."""
    asked = []

    def clock(network, image_size, setting, samples):
        asked.append(setting.runtime)
        return SimpleNamespace(median_ms=sum(parameter.numel() for parameter in network.parameters()) / 1000)

    monkeypatch.setattr(compress_module, "time_model", clock)
    compress = [{"prune": {"latency": 0.7, "runtime": "channels_last"}, "train": {"epochs": 1}}]
    records = go(make_suite(methods=["ce"], teachers=None, compress=compress))
    assert records[-1].spec.title.endswith("> latency 70 %/seed0")
    assert records[-1].status == "ok"
    assert set(asked) == {"channels_last"}
    reached = records[-1].compression.reached
    assert reached["latency"] == pytest.approx(reached["params"])
    assert 0.5 < reached["latency"] <= 0.7


def test_a_parent_that_failed_takes_its_stages_with_it_and_nobody_else(go, monkeypatch):
    original = run_module.train

    def failing(spec, *arguments, **more):
        if spec.method.name == "kd" and spec.parent is None:
            raise RuntimeError("the power went out")
        return original(spec, *arguments, **more)

    monkeypatch.setattr(run_module, "train", failing)
    records = go(make_suite(compress=[PIPELINE]))
    by_title = {record.spec.title.removesuffix("/seed0"): record for record in records}
    assert by_title[PRUNED].status == by_title[INT8].status == "failed"
    assert "its parent" in by_title[PRUNED].failure.message
    assert by_title["synthetic/resnet8_w16/ce"].status == "ok"


def test_calibration_images_are_of_every_class_alike(go, tmp_path, cache):
    spec = make_plan(make_suite()).runs[0].dataset
    data = open_dataset(spec, tmp_path / "data", cache)
    chosen = balanced(data, 20, seed=0)
    assert len(set(chosen.tolist())) == 20
    assert set(chosen.tolist()) <= set(data.splits["train"].tolist())
    counts = np.bincount(data.labels[chosen], minlength=len(data.classes))
    assert counts.max() - counts.min() <= 1
    assert balanced(data, 20, seed=0).tolist() == chosen.tolist()
    assert balanced(data, 20, seed=1).tolist() != chosen.tolist()
    # more than there are: all of them, once
    assert sorted(balanced(data, 10**6, seed=0).tolist()) == sorted(data.splits["train"].tolist())


# ---------------------------------------------------------------- taken along


def ask(folder, record, artefact, runtime):
    """What an exported folder says of the test images, (N, K)."""
    data = open_dataset(record.spec.dataset, folder / "data", folder / "cache")
    return load_export(artefact, runtime).logits(data.images(data.splits["test"]))


@pytest.mark.parametrize("runtime", ["torch", "onnxruntime"])
def test_a_pruned_run_is_exported_as_any_other(compressed, tmp_path, runtime):
    folder, records = compressed
    done = export_run(folder / "results", records[PRUNED].run_id, tmp_path / "out", root=folder / "data")
    assert done.about.parity.top1_agreement == 1.0
    about = done.about
    assert (about.method, about.teachers, about.stages) == ("kd", ("resnet20_w16",), ("macs 50 %",))
    assert "taught by resnet20_w16, then compressed (macs 50 %) on synthetic" in (done.folder / "README.md").read_text()
    logits = ask(folder, records[PRUNED], done.folder, runtime)
    kept = Store(folder / "results").read_predictions(records[PRUNED].run_id)
    np.testing.assert_allclose(logits, kept, atol=2e-3)


def test_a_quantised_run_is_exported_as_its_file(compressed, tmp_path):
    folder, records = compressed
    record = records[INT8]
    done = export_run(folder / "results", record.run_id, tmp_path / "out", root=folder / "data")
    store = Store(folder / "results")
    assert (done.folder / "model.onnx").read_bytes() == store.artefact_path(record.run_id).read_bytes()
    assert not (done.folder / "model.safetensors").exists()
    readme = (done.folder / "README.md").read_text()
    assert "model.safetensors" not in readme
    assert "int8" in readme
    logits = ask(folder, record, done.folder, "onnxruntime")
    np.testing.assert_allclose(logits, store.read_predictions(record.run_id), atol=2e-3)
    with pytest.raises(ExportError, match="is quantised, and is an ONNX file; take --format onnx"):
        export_run(folder / "results", record.run_id, tmp_path / "other", formats=["safetensors"], root=folder / "data")
    assert done.about.parity.top1_agreement > 0.5
    with pytest.raises(ExportError, match="has no"):
        load_export(done.folder, "torch")


def test_a_pruned_run_is_exported_in_every_format(compressed, tmp_path):
    folder, records = compressed
    extra = ["openvino"] if installed("openvino", "openvino") else []
    kept = Store(folder / "results").read_predictions(records[PRUNED].run_id)
    for half in (False, True):
        done = export_run(
            folder / "results",
            records[PRUNED].run_id,
            tmp_path / f"half-{half}",
            formats=["safetensors", *([] if half else ["torch"]), *extra],
            half=half,
            root=folder / "data",
        )
        assert {parity.top1_agreement for parity in done.about.parities.values()} == {1.0}
        for runtime in ("torch", *extra):
            logits = ask(folder, records[PRUNED], done.folder, runtime)
            np.testing.assert_allclose(logits, kept, atol=2e-2 if half else 2e-3)


@pytest.mark.skipif(not installed("openvino", "openvino"), reason="needs the extra kdbench[openvino]")
@pytest.mark.parametrize("pixels", [False, True])
def test_a_quantised_run_is_exported_for_openvino(compressed, tmp_path, pixels):
    folder, records = compressed
    record = records[INT8]
    done = export_run(
        folder / "results",
        record.run_id,
        tmp_path / "out",
        formats=["onnx", "openvino"],
        with_preprocessing=pixels,
        root=folder / "data",
    )
    parities = done.about.parities
    assert parities["openvino"].against == "the run's int8 file"
    assert parities["onnx"].against == ("the run's int8 file" if pixels else "itself before it was quantised")
    kept = softmax(Store(folder / "results").read_predictions(record.run_id))
    assert load_export(done.folder).takes == ("pixels" if pixels else "image")
    for runtime in ("onnxruntime", "openvino"):
        # a value between two steps may be rounded otherwise
        np.testing.assert_allclose(softmax(ask(folder, record, done.folder, runtime)), kept, atol=0.05)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"half": True}, "its weights are int8 already; leave --half out$"),
        ({"formats": ["torch"]}, "is an ONNX file; take --format onnx or openvino$"),
        ({"formats": ["onnx", "torch"]}, "is an ONNX file; take --format onnx or openvino$"),
    ],
)
def test_what_a_quantised_run_does_not_have(compressed, tmp_path, more, said):
    folder, records = compressed
    with pytest.raises(ExportError, match=said):
        export_run(folder / "results", records[INT8].run_id, tmp_path / "out", root=folder / "data", **more)
    assert list(tmp_path.iterdir()) == []


def test_a_quantised_run_is_asked_without_an_export(compressed):
    folder, records = compressed
    classifier = load_run(folder / "results", records[INT8].run_id)
    assert classifier.runtime == "onnxruntime"
    data = open_dataset(records[INT8].spec.dataset, folder / "data", folder / "cache")
    logits = classifier.logits(data.images(data.splits["test"]))
    kept = Store(folder / "results").read_predictions(records[INT8].run_id)
    np.testing.assert_allclose(logits, kept, atol=2e-3)


def test_stages_are_tried_on_corrupted_images_like_any_other_run(compressed):
    folder, records = compressed
    places = {"root": folder / "data", "cache": folder / "cache"}
    found = evaluate_results(
        folder / "results", EvaluateSpec(corruptions=("jpeg",), levels=(1,)), only="> macs 50 %", **places
    )
    assert {one.run_id for one in found} == {records[PRUNED].run_id, records[INT8].run_id}
    assert all(one.failure is None for one in found)
    small = next(one for one in found if one.run_id == records[INT8].run_id)
    assert small.metrics.accuracy == records[INT8].test_metrics.accuracy


def test_stages_are_timed_each_in_what_it_computes_in(compressed):
    folder, records = compressed
    store = Store(folder / "results")
    wanted = {records[title].run_id for title in (PRUNED, INT8)}
    measures = Measures(
        runtimes=("eager", "onnxruntime"), precisions=("fp32", "int8"), sampling=Sampling(3, 6), check=False
    )
    taken = {found.run_id: found for found in profile_results(store, measures=measures, only=wanted)}
    assert set(taken) == wanted
    pruned, small = taken[records[PRUNED].run_id], taken[records[INT8].run_id]
    assert not pruned.failures
    assert not small.failures
    assert {(one.runtime, one.precision) for one in pruned.latencies} == {("eager", "fp32"), ("onnxruntime", "fp32")}
    assert {(one.runtime, one.precision) for one in small.latencies} == {("onnxruntime", "int8")}
    assert small.macs == pruned.macs == records[PRUNED].profile.macs
    assert small.weight_bytes == records[INT8].profile.weight_bytes
    # and they join their rows in a report
    rows = {row.model: row for row in build_rows(list(records.values()), list(taken.values()))}
    settings = {setting.precision for setting in rows["resnet8_w16 > macs 50 % > int8"].latencies}
    assert settings == {"int8"}


def test_what_was_never_quantised_has_no_int8_latency(compressed):
    folder, records = compressed
    int8 = Measures(runtimes=("onnxruntime",), precisions=("int8",), check=False)
    with pytest.raises(ProfileError, match="quantise"):
        profile(["resnet8_w16"], image_size=32, measures=int8)
    with pytest.raises(RecordError, match="holds no quantised student to time in int8"):
        profile_results(Store(folder / "results"), measures=int8, only={records[PRUNED].run_id})


# ---------------------------------------------------------------- one run by itself


def test_a_run_is_compressed_without_a_suite(go, tmp_path, cache):
    go(make_suite(methods=["ce"], teachers=None))
    places = {"root": tmp_path / "data", "cache": cache}
    entry = CompressEntry.model_validate({"prune": {"params": 0.6}, "train": {"epochs": 1}, "quantise": "int8"})
    first, pruned, small = compress_run(tmp_path / "results", "ce", entry, **places)
    assert (pruned.status, small.status) == ("ok", "ok")
    assert first.spec == pruned.spec.parent
    assert pruned.profile.params <= 0.6 * first.profile.params
    # by a suite that asks for the same, nothing is left to do
    notes = Notes()
    compress = [{"prune": {"params": 0.6}, "train": {"epochs": 1}, "quantise": "int8"}]
    go(make_suite(methods=["ce"], teachers=None, compress=compress), listener=notes)
    assert notes.plan == (0, 3)
    with pytest.raises(ConfigError, match="is quantised, and that is the last stage"):
        compress_run(tmp_path / "results", small.run_id, entry, **places)
    Store(tmp_path / "results").weights_path(first.run_id).unlink()
    with pytest.raises(RecordError, match="but not its weights"):
        compress_run(tmp_path / "results", first.run_id, entry, **places)
