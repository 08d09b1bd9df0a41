"""Formats that are written when they are asked for, weights in half precision, and files that normalise themselves."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import pickle
import shutil
import sys
import zipfile

import numpy as np
import pytest
import torch
from deployed import one_thread
from safetensors.numpy import load_file, save_file

from kdbench.compress import export as export_module
from kdbench.compress import to_onnx
from kdbench.compress.artefact import ABOUT, IR, IR_WEIGHTS, ONNX, PROGRAM, README, WEIGHTS, digest_of, read_export
from kdbench.errors import ConfigError, ExportError, RuntimeUnavailable
from kdbench.profiling.conversion import Availability
from kdbench.profiling.runtimes.openvino import OpenVino
from kdbench.store import Store
from kdbench.suite.export import export_run, load_export, load_run

onnx = pytest.importorskip("onnx", reason="needs the extra kdbench[export]")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra kdbench[export]")
pytest.importorskip("onnxscript", reason="needs the extra kdbench[export]")

try:
    from kdbench.profiling.conversion import without_telemetry

    with without_telemetry():
        import openvino
except ImportError:
    openvino = None
needs_openvino = pytest.mark.skipif(openvino is None, reason="needs the extra kdbench[openvino]")
HERE = ["safetensors", "onnx", "torch", *(["openvino"] if openvino else [])]


@pytest.fixture(autouse=True)
def _calm():
    with one_thread():
        yield


@pytest.fixture
def export(deployed, tmp_path):
    """Export a run of the shared results folder, the one on files with fit: crop unless another is named."""

    def call(*formats, case="crop", name="x", **more):
        run = deployed.record(case).run_id
        places = {"root": deployed.root, "cache": deployed.cache}
        return export_run(deployed.results, run, tmp_path / name, formats=list(formats) or None, **places, **more)

    return call


@pytest.fixture(scope="module")
def made(deployed, tmp_path_factory):
    """One run in all formats that can be written here: as it is; in half precision, with the preprocessing in it."""
    folder = tmp_path_factory.mktemp("formats")
    places = {"root": deployed.root, "cache": deployed.cache}
    run = deployed.record("crop").run_id
    with one_thread():
        whole = export_run(deployed.results, run, folder / "whole", formats=HERE, **places)
        rest = [name for name in HERE if name != "torch"]
        small = export_run(
            deployed.results, run, folder / "small", formats=rest, half=True, with_preprocessing=True, **places
        )
    return {"whole": whole, "small": small}


def pixels(count=5):
    return np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def normalised(images):
    """By the formula, in double precision."""
    found = (images / 255 - np.asarray([0.485, 0.456, 0.406])) / np.asarray([0.229, 0.224, 0.225])
    return found.transpose(0, 3, 1, 2).astype(np.float32)


@pytest.fixture
def expected(deployed):
    return load_run(deployed.results, deployed.record("crop").run_id).logits(pixels())


# ---------------------------------------------------------------- they are the same network


@pytest.mark.parametrize("kind", ["whole", "small"])
@pytest.mark.parametrize("runtime", ["onnxruntime", "torch", pytest.param("openvino", marks=needs_openvino)])
def test_every_runtime_says_what_the_run_says(made, kind, runtime, expected):
    classifier = load_export(made[kind].folder, runtime)
    assert classifier.runtime == runtime
    for batch in (1, 3):
        np.testing.assert_allclose(classifier.logits(pixels(), batch), expected, atol=1e-4 if kind == "whole" else 2e-2)


def test_the_program_is_the_network_for_any_number_of_images(made, expected):
    network = torch.export.load(made["whole"].folder / PROGRAM).module()
    for count in (1, 2, 5):
        with torch.inference_mode():
            found = network(torch.from_numpy(normalised(pixels(count))))
        np.testing.assert_allclose(found, expected[:count], atol=1e-4)


@needs_openvino
def test_openvino_alone_takes_the_files(made, expected):
    model = openvino.Core().compile_model(made["whole"].folder / IR, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    np.testing.assert_allclose(model(normalised(pixels()))[0], expected, atol=1e-4)


def test_onnxruntime_alone_takes_pixels(made, expected):
    session = onnxruntime.InferenceSession(str(made["small"].folder / ONNX))
    (taken,) = session.get_inputs()
    assert (taken.name, taken.type, taken.shape[1:]) == ("pixels", "tensor(uint8)", [32, 32, 3])
    (found,) = session.run(["logits"], {"pixels": pixels()})
    np.testing.assert_allclose(found, expected, atol=2e-2)


def test_what_a_method_ships_beside_the_student_is_in_every_file(export, deployed):
    """SimKD answers through a projector and its teacher's classifier."""
    done = export(*(name for name in HERE if name != "onnx"), case="simkd")
    expected = load_run(deployed.results, deployed.record("simkd").run_id).logits(pixels())
    for runtime in ("torch", *(["openvino"] if openvino else [])):
        np.testing.assert_allclose(load_export(done.folder, runtime).logits(pixels()), expected, atol=1e-4)
    assert done.about.parities["torch"].max_abs_difference < 1e-5
    assert not (done.folder / ONNX).exists()  # OpenVINO's was made of it


@pytest.mark.parametrize("form", ["torch", pytest.param("openvino", marks=needs_openvino), "pixels"])
def test_the_readme_s_program_gives_the_same(export, deployed, form, monkeypatch):
    done = export(*([form] if form != "pixels" else ["onnx"]), with_preprocessing=form == "pixels")
    file = deployed.test_files("crop")[1]
    code = (done.folder / README).read_text().partition("```python\n")[2].partition("```")[0]
    assert "kdbench" not in code
    monkeypatch.chdir(done.folder)
    monkeypatch.setattr(sys, "argv", ["ask.py", str(file)])
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(code, {"__name__": "__main__"})
    found = load_run(deployed.results, deployed.record("crop").run_id).predict([file])
    assert eval(said.getvalue()) == pytest.approx(
        dict(zip(found.labels, found.probabilities[0], strict=True)), abs=2e-4
    )


def test_the_readme_of_a_stained_program_prepares_with_kdbench(export, deployed, monkeypatch):
    done, file = export("torch", case="stain"), deployed.test_files("stain")[0]
    code = (done.folder / README).read_text().partition("```python\n")[2].partition("```")[0]
    monkeypatch.chdir(done.folder)
    monkeypatch.setattr(sys, "argv", ["ask.py", str(file)])
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(code, {"__name__": "__main__"})
    found = load_run(deployed.results, deployed.record("stain").run_id).predict([file])
    assert eval(said.getvalue()) == pytest.approx(
        dict(zip(found.labels, found.probabilities[0], strict=True)), abs=1e-4
    )


# ---------------------------------------------------------------- what is written


def test_what_the_folder_says(made):
    whole, small = made["whole"].about, made["small"].about
    networks = {WEIGHTS, ONNX, PROGRAM, *({IR, IR_WEIGHTS} if openvino else set())}
    assert networks < set(whole.files)
    assert set(small.files) == set(whole.files) - {PROGRAM}
    for done in made.values():
        assert done.about.files == {
            path.name: digest_of(path) for path in done.folder.iterdir() if path.name != ABOUT
        }  # fmt: skip
    assert set(whole.parities) == set(HERE) - {"safetensors"}  # that is a copy of the run's own
    assert set(small.parities) == set(HERE) - {"torch"}
    assert {parity.tolerance for parity in whole.parities.values()} == {1e-3}
    assert {parity.tolerance for parity in small.parities.values()} == {0.05}
    for parity in (*whole.parities.values(), *small.parities.values()):
        assert (parity.against, parity.of) == ("torch", "test images")
        assert parity.top1_agreement == 1
    assert max(parity.max_abs_difference for parity in whole.parities.values()) < 1e-5
    assert (whole.weights, small.weights) == ("fp32", "fp16")
    assert (whole.onnx_input, small.onnx_input) == ("image", "pixels")
    assert made["small"].preprocessing.onnx_input == "pixels"
    assert any('"pixels"' in step for step in made["small"].preprocessing.steps)
    assert not any('"pixels"' in step for step in made["whole"].preprocessing.steps)
    readme = (made["small"].folder / README).read_text()
    assert "weights in fp16" in readme
    assert '{"pixels": pixels}' in readme
    assert "unpickles" in (made["whole"].folder / README).read_text()


def test_files_do_not_say_where_they_were_made(made):
    places = [str(made["whole"].folder.parent).encode(), b"site-packages"]
    for path in made["whole"].folder.iterdir():
        held = path.read_bytes()
        if path.name == PROGRAM:
            with zipfile.ZipFile(path) as archive:
                held = b"".join(archive.read(name) for name in archive.namelist())
        assert not [place for place in places if place in held], path.name


def test_half_is_half_the_bytes_and_rounded_as_ieee_754_says(made):
    names = [WEIGHTS, ONNX, *([IR_WEIGHTS] if openvino else [])]
    for name in names:
        whole, small = (made[kind].folder / name for kind in ("whole", "small"))
        # beside the weights there is a header or a graph
        assert small.stat().st_size < (0.6 if name != IR_WEIGHTS else 0.51) * whole.stat().st_size
    before, after = (load_file(made[kind].folder / WEIGHTS) for kind in ("whole", "small"))
    assert set(before) == set(after)
    for name, values in before.items():
        stored = np.float16 if values.dtype == np.float32 and values.size > 1 else values.dtype
        assert after[name].dtype == stored
        np.testing.assert_allclose(after[name], values, rtol=2**-11, atol=2**-25)


def test_half_weights_compute_in_fp32(made):
    network = onnx.load(made["small"].folder / ONNX)
    halves = {tensor.name for tensor in network.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT16}
    assert halves
    users = [node for node in network.graph.node if halves & set(node.input)]
    assert {node.op_type for node in users} == {"Cast"}
    onnx.checker.check_model(network, full_check=True)


def test_an_export_of_before_is_read(made, tmp_path):
    """Without the fields that came later."""
    shutil.copytree(made["whole"].folder, tmp_path / "old")
    about = json.loads((tmp_path / "old" / ABOUT).read_text())
    for name in ("onnx_input", "weights", "other_parity"):
        del about[name]
    del about["parity"]["against"]
    seen = json.loads((tmp_path / "old" / "preprocessing.json").read_text())
    del seen["onnx_input"]
    held = json.dumps(seen).encode()
    (tmp_path / "old" / "preprocessing.json").write_bytes(held)
    about["files"]["preprocessing.json"] = hashlib.sha256(held).hexdigest()
    (tmp_path / "old" / ABOUT).write_text(json.dumps(about))
    artefact = read_export(tmp_path / "old")
    assert list(artefact.about.parities) == ["onnx"]
    assert load_export(tmp_path / "old").takes == "image"


# ---------------------------------------------------------------- what cannot be


class Planted:
    """What an unpickler runs."""

    def __reduce__(self):
        return os.mkdir, ("planted",)


def test_a_program_is_not_opened_for_whoever_vouches_for_it(export, tmp_path, monkeypatch):
    """Its digest is right: who makes a file makes its digest, too."""
    monkeypatch.chdir(tmp_path)
    done = export("torch")
    held = pickle.dumps(Planted())
    (done.folder / PROGRAM).write_bytes(held)
    about = json.loads((done.folder / ABOUT).read_text())
    about["files"][PROGRAM] = hashlib.sha256(held).hexdigest()
    (done.folder / ABOUT).write_text(json.dumps(about))
    for runtime in (None, "torch", "onnxruntime", "openvino"):
        with pytest.raises(ExportError, match=r"unpickles what it reads|has no model\."):
            load_export(done.folder, runtime)
    assert not (tmp_path / "planted").exists()
    pickle.loads(held)
    assert (tmp_path / "planted").exists()  # so it is a pickle that does something


@pytest.mark.parametrize("form", [pytest.param("openvino", marks=needs_openvino), "torch", "safetensors"])
def test_another_network_is_an_error_and_nothing_is_left(export, tmp_path, monkeypatch, form):
    """What the trained network says is changed instead, so that every file is off."""
    truth = export_module.Material.by_torch.func
    monkeypatch.setattr(export_module.Material, "by_torch", property(lambda self: np.roll(truth(self), 1, axis=1)))
    with pytest.raises(ExportError, match=r"is not the same network: over \d+ test images") as refused:
        export(form, half=form == "safetensors")
    assert ("leave --half out" in str(refused.value)) == (form == "safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_value_that_fp16_does_not_have(deployed, tmp_path):
    shutil.copytree(deployed.results, tmp_path / "results")
    run = deployed.record("crop").run_id
    path = Store(tmp_path / "results").weights_path(run)
    tensors = load_file(path)
    name = next(name for name, values in tensors.items() if "running_var" in name)
    tensors[name][0] = 70000.0
    save_file(tensors, path)
    with pytest.raises(ExportError, match=r"leave --half out$") as refused:
        export_run(tmp_path / "results", run, tmp_path / "x", formats=["safetensors"], half=True, root=tmp_path)
    assert f"fp16 cannot hold {name} of {WEIGHTS}: its largest value is 7e+04, 65504 is the most" in str(refused.value)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("formats", "more", "said"),
    [
        (["torch"], {"half": True}, "stays in fp32; leave --half or torch out"),
        (["safetensors"], {"with_preprocessing": True}, "safetensors has none; add onnx or openvino"),
        (["torch", "safetensors"], {"with_preprocessing": True}, "torch and safetensors has none; add onnx"),
    ],
)
def test_wishes_that_do_not_go_together(export, tmp_path, formats, more, said):
    with pytest.raises(ConfigError, match=said):
        export(*formats, **more)
    assert list(tmp_path.iterdir()) == []


def test_without_openvino_it_is_said(export, tmp_path, monkeypatch):
    missing = Availability(False, "openvino is not installed; pip install 'kdbench[openvino]'")
    monkeypatch.setattr(OpenVino, "available", lambda *_: missing)
    with pytest.raises(RuntimeUnavailable, match="openvino is not installed; pip install"):
        export("onnx", "openvino")
    assert list(tmp_path.iterdir()) == []


def test_what_torch_export_cannot_express(export, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise ValueError("no such operator\nand more")

    monkeypatch.setattr(torch.export, "export", refuse)
    with pytest.raises(ExportError, match=r"cannot express the network: no such operator; leave torch out$"):
        export("torch")
    assert list(tmp_path.iterdir()) == []


def test_pixels_are_never_left_out_silently(export, tmp_path, monkeypatch):
    """Without them the folder may lack its ONNX file."""

    def refuse(network, image_size):
        raise ValueError("no such operator")

    monkeypatch.setattr(to_onnx, "export_onnx", refuse)
    with pytest.raises(ExportError, match="no such operator"):
        export(with_preprocessing=True)
    assert list(tmp_path.iterdir()) == []


@needs_openvino
@pytest.mark.parametrize("name", [IR, IR_WEIGHTS])
def test_changed_files_of_openvino(made, tmp_path, name):
    shutil.copytree(made["whole"].folder, tmp_path / "copy")
    path = tmp_path / "copy" / name
    path.write_bytes(path.read_bytes()[:-1] + b" ")
    with pytest.raises(ExportError, match=f"{name} is not the file that was exported"):
        load_export(tmp_path / "copy", "openvino")
    path.write_bytes(b"no network")
    about = json.loads((tmp_path / "copy" / ABOUT).read_text())
    about["files"][name] = digest_of(path)
    (tmp_path / "copy" / ABOUT).write_text(json.dumps(about))
    with pytest.raises(ExportError, match=r"model.xml cannot be loaded \(.+\); export the run again") as refused:
        load_export(tmp_path / "copy", "openvino")
    assert "\n" not in str(refused.value)


@needs_openvino
def test_a_folder_of_openvino_alone_is_run_by_it(export, deployed):
    done = export("openvino")
    assert load_export(done.folder).runtime == "openvino"
    file = deployed.test_files("crop")[0]
    stored = Store(deployed.results).read_predictions(deployed.record("crop").run_id)
    np.testing.assert_allclose(load_export(done.folder).predict([file]).logits, stored[:1], atol=1e-4)
    with pytest.raises(ExportError, match=r"has no model.onnx"):
        load_export(done.folder, "onnxruntime")
