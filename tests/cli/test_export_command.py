"""`kdbench export`: a folder and what is in it, and one clear line for what cannot be."""

import shutil

import pytest
from deployed import one_thread

from kdbench.compress.artefact import read_export
from kdbench.profiling.conversion import Availability
from kdbench.profiling.runtimes.onnxruntime import OnnxRuntime

pytest.importorskip("onnxscript", reason="needs the extra kdbench[export]")
pytest.importorskip("onnxruntime", reason="needs the extra kdbench[export]")


@pytest.fixture(autouse=True)
def _calm():
    with one_thread():
        yield


@pytest.fixture
def export(kdbench, deployed):
    """Export a run of the shared results folder."""

    def call(*arguments, results=deployed.results):
        return kdbench("export", *arguments, "--results", results, "--data-root", deployed.root)

    return call


def test_a_run_by_the_beginning_of_its_id(export, deployed, tmp_path):
    record = deployed.record("stretch")
    code, out, err = export(record.run_id[:8], "--out", "x")
    assert code == 0
    first, second = out.splitlines()
    names = "README.md, export.json, labels.json, model.onnx, model.safetensors, preprocessing.json"
    assert first.startswith(f"{tmp_path / 'x'}: jtsc/resnet8_w16/ce/seed0 ({record.run_id}), {names}; 0.")
    assert f"on {record.test_metrics.count} test images: probabilities differ by" in second
    assert "100.0% of the answers agree" in second
    assert "note:" not in err
    assert read_export(tmp_path / "x").about.run_id == record.run_id


def test_a_run_by_its_title_and_one_format(export, deployed, tmp_path):
    code, out, _ = export("simkd", "--out", "x", "--format", "safetensors")
    assert code == 0
    assert "model.onnx" not in out
    assert read_export(tmp_path / "x").about.run_id == deployed.record("simkd").run_id


def test_what_is_asked_for_is_written_and_compared(export, tmp_path):
    code, out, _ = export("simkd", "--out", "x", "--format", "onnx,safetensors", "--half", "--with-preprocessing")
    assert code == 0
    about = read_export(tmp_path / "x").about
    assert (about.weights, about.onnx_input) == ("fp16", "pixels")
    _, *compared = out.splitlines()
    for name in ("model.onnx", "model.safetensors"):
        assert [line for line in compared if line.startswith(f"{name} against torch on ")]
    code, out, _ = export("simkd", "--out", "y", "--format", "torch")
    assert code == 0
    assert "model.pt2 against torch on" in out


def test_without_the_extra_it_is_said_and_not_an_error_unless_asked_for(export, tmp_path, monkeypatch):
    monkeypatch.setattr(OnnxRuntime, "available", lambda *_: Availability(False, "onnx is missing; pip install it"))
    code, _, err = export("simkd", "--out", "x")
    assert code == 0
    assert "note: there is no ONNX file: onnx is missing; pip install it" in err
    code, out, err = export("simkd", "--out", "y", "--format", "onnx,safetensors")
    assert (code, out) == (2, "")
    assert err == "error: the runtime 'onnxruntime' is not available: onnx is missing; pip install it\n"
    assert not (tmp_path / "y").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("zebra", "--out", "x"), "error: there is no run 'zebra' among the 7 of"),
        (("jtsc", "--out", "x"), "error: 'jtsc' is 4 runs of"),
        (
            ("simkd", "--out", "x", "--format", "tflite"),
            "error: unknown format 'tflite'; known: onnx, openvino, safetensors, torch",
        ),
        (("simkd", "--out", "x", "--format", " , "), "error: no format is named"),
        (("simkd", "--out", "."), "error: "),
        (("simkd", "--out", "x", "--format", "torch", "--half"), "stays in fp32; leave --half or torch out"),
        (("simkd", "--out", "x", "--format", "torch", "--with-preprocessing"), "add onnx or openvino"),
    ],
)
def test_what_cannot_be(export, tmp_path, arguments, said):
    code, out, err = export(*arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert not (tmp_path / "x").exists()


def test_records_without_weights(export, deployed, tmp_path):
    shutil.copytree(deployed.results / "records", tmp_path / "shared" / "records")
    code, _, err = export("simkd", "--out", "x", results=tmp_path / "shared")
    assert code == 2
    assert "but not its weights" in err
    assert export("simkd", "--out", "x", results=tmp_path / "none")[0] == 2


def test_an_interrupt_is_told(export, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("kdbench.suite.export.write_export", interrupted)
    code, _, err = export("simkd", "--out", "x")
    assert code == 130
    assert "interrupted; nothing is at x" in err
    assert not (tmp_path / "x").exists()


def test_data_sets_of_your_own_are_declared(export, deployed, tmp_path, own_sources):
    (tmp_path / "mine.yaml").write_text("name: cells\nfolder: cells\nnonsense: 1\n")
    code, _, err = export("simkd", "--out", "x", "--sources", "mine.yaml")
    assert code == 2
    assert "nonsense" in err
    (tmp_path / "mine.yaml").write_text("name: cells\nfolder: cells\n")
    assert export("simkd", "--out", "x", "--sources", "mine.yaml", "--format", "safetensors")[0] == 0
