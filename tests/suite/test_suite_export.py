"""A run written out for others: whole, the same network, seeing images as in training; and what is refused."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import io
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from deployed import ON_FILES, one_thread
from PIL import Image

from kdbench.calibration import softmax
from kdbench.compress import to_onnx
from kdbench.compress.artefact import ABOUT, LABELS, ONNX, PREPROCESSING, README, WEIGHTS, digest_of, read_export
from kdbench.compress.manual import program
from kdbench.errors import ConfigError, ExportError, RecordError, RuntimeUnavailable, UnknownName
from kdbench.profiling.conversion import Availability
from kdbench.profiling.runtimes.onnxruntime import OPSET, OnnxRuntime
from kdbench.store import Store
from kdbench.suite.export import export_run, load_export, load_run
from kdbench.suite.trained import find_run

onnx = pytest.importorskip("onnx", reason="needs the extra kdbench[export]")
pytest.importorskip("onnxruntime", reason="needs the extra kdbench[export]")
pytest.importorskip("onnxscript", reason="needs the extra kdbench[export]")


@pytest.fixture(autouse=True)
def _calm():
    with one_thread():
        yield


@pytest.fixture
def folder(deployed, tmp_path):
    """An exported folder of this test's own, to be damaged."""
    shutil.copytree(deployed.export("crop"), tmp_path / "exported")
    return tmp_path / "exported"


@pytest.fixture
def results(deployed, tmp_path):
    """A results folder of this test's own."""
    shutil.copytree(deployed.results, tmp_path / "results")
    return tmp_path / "results"


def change(folder, name, content, vouched=True):
    """Write other content into a file; vouched: with its hash in export.json, as if it had been exported so."""
    (folder / name).write_bytes(content)
    if vouched:
        about = json.loads((folder / ABOUT).read_text())
        about["files"][name] = hashlib.sha256(content).hexdigest()
        (folder / ABOUT).write_text(json.dumps(about))


# ---------------------------------------------------------------- it is the same network


@pytest.mark.parametrize("case", ON_FILES)
@pytest.mark.parametrize("runtime", ["onnxruntime", "torch"])
def test_files_get_the_logits_that_the_run_stored(deployed, case, runtime):
    found = load_export(deployed.export(case), runtime).predict(deployed.test_files(case), batch=5)
    stored = Store(deployed.results).read_predictions(deployed.record(case).run_id)
    assert len(stored) > 5  # more than one batch
    assert found.skipped == ()
    np.testing.assert_allclose(found.logits, stored, atol=1e-4)


@pytest.mark.parametrize("case", ON_FILES)
def test_a_run_itself_gives_them_too(deployed, case):
    found = load_run(deployed.results, deployed.record(case).run_id).predict(deployed.test_files(case))
    stored = Store(deployed.results).read_predictions(deployed.record(case).run_id)
    np.testing.assert_allclose(found.logits, stored, atol=1e-4)


def test_a_method_that_ships_more_than_the_student_is_exported_whole(deployed):
    """SimKD answers through a projector and its teacher's classifier."""
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    logits = [load_export(deployed.export("simkd"), runtime).logits(images) for runtime in ("onnxruntime", "torch")]
    logits.append(load_run(deployed.results, deployed.record("simkd").run_id).logits(images))
    np.testing.assert_allclose(logits[0], logits[2], atol=1e-4)
    np.testing.assert_allclose(logits[1], logits[2], atol=1e-6)


@pytest.mark.parametrize("case", ["crop", "stretch", "pad"])
def test_the_readme_s_program_needs_no_kdbench_and_gives_the_same(deployed, case, monkeypatch):
    folder, file = deployed.export(case), deployed.test_files(case)[1]
    artefact = read_export(folder)
    code = program(artefact.preprocessing)
    assert code.rstrip() in (folder / README).read_text()
    assert "kdbench" not in code
    assert len([line for line in code.splitlines() if line and "import" not in line]) <= 10
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["ask.py", str(file)])
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(code, {"__name__": "__main__"})
    found = load_export(folder).predict([file])
    expected = dict(zip(found.labels, found.probabilities[0], strict=True))
    assert eval(said.getvalue()) == pytest.approx(expected, abs=2e-4)


def test_the_readme_of_a_stained_network_asks_kdbench(deployed, monkeypatch):
    folder, file = deployed.export("stain"), deployed.test_files("stain")[0]
    code = (folder / README).read_text().partition("```python\n")[2].partition("```")[0]
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["ask.py", str(file)])
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(code, {"__name__": "__main__"})
    assert eval(said.getvalue()).keys() == set(read_export(folder).labels)
    assert "bring to kdbench's reference stain: reinhard" in (folder / README).read_text()


# ---------------------------------------------------------------- what is written


def test_what_the_folder_says(deployed):
    record, artefact = deployed.record("crop"), read_export(deployed.export("crop"))
    about = artefact.about
    assert sorted(path.name for path in artefact.folder.iterdir()) == sorted(
        (README, ABOUT, LABELS, ONNX, WEIGHTS, PREPROCESSING)
    )
    assert about.files == {
        path.name: digest_of(path) for path in artefact.folder.iterdir() if path.name != ABOUT
    }  # fmt: skip
    assert (about.run_id, about.title, about.spec) == (record.run_id, record.spec.title, record.spec)
    assert about.spec.run_id == about.run_id
    assert (about.test_accuracy, about.test_images) == (record.test_metrics.accuracy, record.test_metrics.count)
    assert (about.num_classes, about.method, about.dataset) == (5, "ce", "jtsc")
    assert about.content == record.data.content_hash
    assert about.protocol == record.data.protocol
    assert about.licence == "Apache-2.0"
    assert set(about.data_licences) == set(about.data_citations) == {"jtsc"}
    assert artefact.labels == record.data.classes
    seen = artefact.preprocessing
    assert (seen.image_size, seen.fit, seen.crop_fraction, seen.stain) == (32, "crop", 0.8, "none")
    assert seen.mean == (0.485, 0.456, 0.406)
    assert "crop the middle square, 0.8 of the shorter side" in " ".join(seen.steps)
    text = (artefact.folder / README).read_text()
    for part in (record.spec.title, about.run_id, "arXiv:", "Apache-2.0", *artefact.labels):
        assert part in text
    assert str(deployed.folder) not in text + (artefact.folder / ABOUT).read_text()


def test_the_onnx_file_knows_itself(deployed):
    model = onnx.load(deployed.export("crop") / ONNX)
    facts = {entry.key: entry.value for entry in model.metadata_props}
    about = read_export(deployed.export("crop")).about
    assert facts["run_id"] == about.run_id
    assert json.loads(facts["labels"]) == list(read_export(deployed.export("crop")).labels)
    assert facts["image_size"] == "32"
    assert [float(part) for part in facts["mean"].split()] == [0.485, 0.456, 0.406]
    assert [float(part) for part in facts["std"].split()] == [0.229, 0.224, 0.225]
    assert model.opset_import[0].version == about.opset == OPSET
    (image,) = model.graph.input
    assert image.type.tensor_type.shape.dim[0].dim_param  # any number of images
    # the exporter notes on each node whose file it came from
    assert b"site-packages" not in (deployed.export("crop") / ONNX).read_bytes()


def test_parity_is_of_test_images_where_they_are_here(deployed):
    record = deployed.record("crop")
    parity = read_export(deployed.export("crop")).about.parity
    assert (parity.images, parity.of) == (record.test_metrics.count, "test images")
    assert parity.max_abs_difference < 1e-5
    assert parity.top1_agreement == 1


def test_parity_is_of_drawn_cells_elsewhere(deployed, tmp_path):
    done = export_run(
        deployed.results, deployed.record("pad").run_id, tmp_path / "x", root=tmp_path / "none", cache=tmp_path / "c"
    )
    assert done.about.parity.of == "drawn cells (the test images are not on this disk)"
    assert done.about.parity.images == 60


def test_another_network_is_an_error_and_nothing_is_left(deployed, tmp_path, monkeypatch):
    original = to_onnx.export_onnx

    def wrong(network, image_size):
        other = copy.deepcopy(network)
        with torch.no_grad():
            next(other.parameters()).mul_(3)
        return original(other, image_size)

    monkeypatch.setattr(to_onnx, "export_onnx", wrong)
    with pytest.raises(ExportError, match=r"model.onnx is not the same network: over \d+ test images its prob"):
        export_run(
            deployed.results, deployed.record("crop").run_id, tmp_path / "x", root=deployed.root, cache=deployed.cache
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("formats", [["safetensors"], ["onnx"]])
def test_one_format_alone(deployed, tmp_path, formats):
    out = tmp_path / "x"
    run = deployed.record("crop").run_id
    done = export_run(deployed.results, run, out, formats=formats, root=deployed.root, cache=deployed.cache)
    assert (done.has_weights, done.has_onnx) == ("safetensors" in formats, "onnx" in formats)
    assert (done.about.parity is None) == ("onnx" not in formats)
    other = {"safetensors": "onnxruntime", "onnx": "torch"}[formats[0]]
    assert load_export(out).runtime != other
    with pytest.raises(ExportError, match="take --runtime"):
        load_export(out, other)
    code = (out / README).read_text()
    assert ("import onnxruntime" in code or "onnxruntime" in code.split("```")[1]) == ("onnx" in formats)


def test_without_the_extra_it_is_said(deployed, tmp_path, monkeypatch):
    monkeypatch.setattr(OnnxRuntime, "available", lambda *_: Availability(False, "onnx is not installed; pip install"))
    run = deployed.record("crop").run_id
    done = export_run(deployed.results, run, tmp_path / "x", root=deployed.root, cache=deployed.cache)
    assert not done.has_onnx
    assert done.about.notes == ("there is no ONNX file: onnx is not installed; pip install",)
    with pytest.raises(RuntimeUnavailable, match="onnx is not installed"):
        export_run(deployed.results, run, tmp_path / "y", formats=["onnx"])
    assert not (tmp_path / "y").exists()


def test_a_network_that_onnx_cannot_express(deployed, tmp_path, monkeypatch):
    def refuse(network, image_size):
        raise ValueError("no such operator\nand more")

    monkeypatch.setattr(to_onnx, "export_onnx", refuse)
    run = deployed.record("crop").run_id
    done = export_run(deployed.results, run, tmp_path / "x", root=deployed.root, cache=deployed.cache)
    assert not done.has_onnx
    assert "no such operator" in done.about.notes[0]
    for formats in (["onnx"], ["onnx", "safetensors"]):
        with pytest.raises(ExportError, match="no such operator; take --format safetensors"):
            export_run(deployed.results, run, tmp_path / "y", formats=formats, root=deployed.root, cache=deployed.cache)
    assert not (tmp_path / "y").exists()


def test_an_interrupt_leaves_nothing(deployed, tmp_path):
    def stop(what, done, total):
        if what.startswith("exporting") and done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_run(
            deployed.results,
            deployed.record("crop").run_id,
            tmp_path / "x",
            formats=["safetensors"],
            root=deployed.root,
            cache=deployed.cache,
            progress=stop,
        )
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(deployed, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ExportError, match="not empty; nothing is overwritten"):
        export_run(deployed.results, "crop", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(("formats", "kind"), [(["tflite"], UnknownName), ([], ConfigError)])
def test_formats_that_are_none(deployed, tmp_path, formats, kind):
    with pytest.raises(kind):
        export_run(deployed.results, deployed.record("crop").run_id, tmp_path / "x", formats=formats)


# ---------------------------------------------------------------- which run


def test_a_run_is_found_by_its_id_or_its_title(deployed):
    store, record = Store(deployed.results), deployed.record("simkd")
    for name in (record.run_id, record.run_id[:6], record.spec.title, "simkd", "*/simkd < *"):
        assert find_run(store, name) == record


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("jtsc", "'jtsc' is 4 runs of"),
        ("*", "'*' is 7 runs of"),
        ("zebra", "there is no run 'zebra' among the 7 of"),
        ("abcde", "an id needs 6 digits"),
        ("000000000", "there is no run '000000000' among the 7"),
    ],
)
def test_no_run_or_several(deployed, name, said):
    with pytest.raises(RecordError) as refused:
        find_run(Store(deployed.results), name)
    assert said in str(refused.value)
    if "is 4" in said:
        for case in ON_FILES:
            assert f"\n  {deployed.record(case).run_id}  jtsc/resnet8_w16/ce/seed0" in str(refused.value)


def test_an_ambiguous_prefix_lists_both(results, deployed):
    record = deployed.record("crop")
    twin = record.run_id[:6] + "0" * 10
    path = Store(results).record_path(record.run_id)
    path.with_stem(twin).write_text(path.read_text().replace(record.run_id, twin))
    with pytest.raises(RecordError) as refused:
        find_run(Store(results), record.run_id[:6])
    assert f"is 2 runs of {results}" in str(refused.value)
    assert record.run_id in str(refused.value)
    assert twin in str(refused.value)


def test_no_results_there(tmp_path):
    with pytest.raises(RecordError, match="holds no records; give the results folder"):
        find_run(Store(tmp_path / "none"), "crop")


def test_results_folders_below_are_named(deployed):
    with pytest.raises(RecordError, match=rf"holds no records; there are some in {deployed.results}$"):
        find_run(Store(deployed.folder), "crop")


def test_a_network_that_was_tested_in_bf16_says_so(results, deployed, tmp_path):
    record = deployed.record("crop")
    tuning = record.tuning.model_copy(update={"precision": "bf16"})
    Store(results).record_path(record.run_id).write_text(record.model_copy(update={"tuning": tuning}).model_dump_json())
    done = export_run(results, record.run_id, tmp_path / "x", formats=["safetensors"])
    assert done.about.notes == (
        "its test accuracy was measured in bf16, as it was trained; the files here answer in fp32",
    )
    assert done.about.notes[0] in (tmp_path / "x" / README).read_text()


def test_a_data_set_that_is_not_known_here_has_no_licence_to_state(results, deployed, tmp_path):
    record = deployed.record("crop")
    card = record.data.model_copy(update={"sources": {"clinic": 60}})
    Store(results).record_path(record.run_id).write_text(record.model_copy(update={"data": card}).model_dump_json())
    done = export_run(results, record.run_id, tmp_path / "x", formats=["safetensors"])
    assert done.about.data_licences == {"clinic": "not stated"}


def test_a_run_without_its_weights(results, deployed, tmp_path):
    run = deployed.record("crop").run_id
    Store(results).weights_path(run).unlink()
    with pytest.raises(RecordError, match="but not its weights, which are not shared with records"):
        export_run(results, run, tmp_path / "x")
    Store(results).weights_path(run).write_bytes(b"not weights")
    with pytest.raises(RecordError, match="cannot be used"):
        export_run(results, run, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_run_without_a_result(results, deployed, tmp_path):
    record = deployed.record("crop")
    failure = {"kind": "Diverged", "message": "loss nan"}
    path = Store(results).record_path(record.run_id)
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {"status": "diverged", "test_metrics": None, "failure": failure})
    )
    with pytest.raises(RecordError, match=r"has no result \(diverged: loss nan\); run its suite again"):
        export_run(results, record.run_id, tmp_path / "x")


# ---------------------------------------------------------------- what is wrong with a folder


def test_not_an_exported_folder(tmp_path, deployed):
    with pytest.raises(ExportError, match="is no folder; name an exported one"):
        load_export(tmp_path / "none")
    with pytest.raises(ExportError, match=r"holds no export.json; `kdbench export RUN"):
        load_export(tmp_path)


@pytest.mark.parametrize(
    ("name", "runtime"),
    [(WEIGHTS, "torch"), (ONNX, "onnxruntime"), (LABELS, None), (PREPROCESSING, None)],
)
def test_changed_and_missing_files(folder, name, runtime):
    content = (folder / name).read_bytes()
    change(folder, name, content[:-1] + b" ", vouched=False)
    with pytest.raises(ExportError, match=f"{name} is not the file that was exported: its SHA-256 is"):
        load_export(folder, runtime)
    (folder / name).unlink()
    with pytest.raises(ExportError, match=f"{name} cannot be read"):
        load_export(folder, runtime)


@pytest.mark.parametrize(
    ("name", "content", "runtime", "said"),
    [
        (WEIGHTS, b"no weights", "torch", "cannot be used"),
        (WEIGHTS, b"", "torch", "cannot be used"),
        (ONNX, b"no network", "onnxruntime", "model.onnx cannot be loaded"),
        (LABELS, b"{broken", None, "labels.json cannot be used"),
        (LABELS, b'["one", "two"]', None, "has 2 labels, not 5"),
        (LABELS, b'["a", "a", "b", "c", "d"]', None, "has 4 labels, not 5"),
        (LABELS, b'{"a": 1}', None, "labels.json cannot be used"),
        (PREPROCESSING, b"[]", None, "preprocessing.json cannot be used"),
        (PREPROCESSING, b'{"schema_version": 2}', None, "its schema version is 2, this kdbench reads 1"),
    ],
)
def test_damaged_files(folder, name, content, runtime, said):
    change(folder, name, content)
    with pytest.raises(ExportError, match=said) as refused:
        load_export(folder, runtime)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff\xfe", b'{"kind": "other", "schema_version": 1}'])
def test_a_damaged_export_json(folder, content):
    (folder / ABOUT).write_bytes(content)
    with pytest.raises(ExportError, match=r"export.json cannot be used \(.+\); copy the folder again"):
        load_export(folder)


def test_weights_of_another_network(folder, deployed):
    change(folder, WEIGHTS, Store(deployed.results).weights_path(deployed.record("simkd").run_id).read_bytes())
    with pytest.raises(ExportError) as refused:
        load_export(folder, "torch")
    assert "\n" not in str(refused.value)


def test_images_decoded_in_another_way(folder):
    raw = json.loads((folder / PREPROCESSING).read_text())
    change(folder, PREPROCESSING, json.dumps(raw | {"decoder_version": 99}).encode())
    with pytest.raises(ExportError, match="another way to decode images"):
        load_export(folder)
    change(folder, PREPROCESSING, json.dumps(raw | {"stain_version": 99}).encode())
    load_export(folder)  # no stain is normalised: its version does not matter


def test_an_unknown_runtime(folder):
    with pytest.raises(UnknownName, match="unknown runtime 'tvm'"):
        load_export(folder, "tvm")


def test_where_onnxruntime_is_not_installed_torch_takes_over(folder, monkeypatch):
    for module in ("kdbench.suite.export", "kdbench.compress.classifier"):
        monkeypatch.setattr(f"{module}.installed", lambda *_: Availability(False, "onnxruntime is not installed"))
    assert load_export(folder).runtime == "torch"
    with pytest.raises(RuntimeUnavailable, match="onnxruntime is not installed; or take --runtime torch"):
        load_export(folder, "onnxruntime")


def test_an_onnx_file_of_another_network(folder, deployed):
    """It loads, and then takes or gives something else."""
    graph = onnx.load(folder / ONNX)
    graph.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 48
    change(folder, ONNX, graph.SerializeToString())
    with pytest.raises(ExportError, match=r"onnxruntime cannot run it|cannot be loaded") as refused:
        load_export(folder).predict(deployed.test_files("crop")[:1])
    assert "\n" not in str(refused.value)


def test_a_folder_works_where_nothing_else_is(folder, deployed, tmp_path, monkeypatch):
    """Neither records nor data sets nor a cache."""
    file = tmp_path / "one.png"
    Image.open(deployed.test_files("crop")[0]).save(file)
    for name in ("KDBENCH_CACHE", "KDBENCH_DATA"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    found = [load_export(folder, runtime).predict([file]) for runtime in ("onnxruntime", "torch")]
    np.testing.assert_allclose(found[0].probabilities, found[1].probabilities, atol=1e-5)
    np.testing.assert_allclose(found[0].probabilities, softmax(found[0].logits))
    assert not (tmp_path / "none").exists()
    assert Path(found[0].files[0]) == file
