"""What is done to ONNX files: weights in half precision, preprocessing in the graph. Of a vision transformer."""

import numpy as np
import pytest
import torch

from kdbench.compress.artefact import Preprocessing
from kdbench.compress.classifier import onnx_forward, open_ir, open_onnx_file
from kdbench.compress.to_onnx import store_half, take_pixels
from kdbench.compress.to_openvino import write_ir
from kdbench.compress.to_torch import write_program, written_program
from kdbench.errors import ExportError
from kdbench.model import build
from kdbench.profiling.conversion import installed
from kdbench.profiling.runtimes.onnxruntime import export_onnx
from kdbench.types import DatasetSpec, ModelChoice

onnx = pytest.importorskip("onnx", reason="needs the extra kdbench[export]")
pytest.importorskip("onnxruntime", reason="needs the extra kdbench[export]")
pytest.importorskip("onnxscript", reason="needs the extra kdbench[export]")

CHOICE = ModelChoice(name="vit_micro")
SEEN = Preprocessing.of(DatasetSpec(name="x", image_size=32), CHOICE, "pixels")
PIXELS = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
IMAGES = ((PIXELS / 255 - np.asarray(SEEN.mean)) / np.asarray(SEEN.std)).transpose(0, 3, 1, 2).astype(np.float32)


@pytest.fixture(scope="module")
def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build(CHOICE, 5, 32).eval()


@pytest.fixture(scope="module")
def logits(network):
    with torch.inference_mode():
        return network(torch.from_numpy(IMAGES)).numpy()


@pytest.fixture(scope="module")
def original(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    export_onnx(network, 32).save(path, external_data=False)
    return path


@pytest.fixture
def path(original, tmp_path):
    """A file of this test's own."""
    (tmp_path / "model.onnx").write_bytes(original.read_bytes())
    return tmp_path / "model.onnx"


def test_pixels_give_what_their_normalised_image_gives(path, logits):
    take_pixels(path, SEEN)
    onnx.checker.check_model(onnx.load(path), full_check=True)
    opened = open_onnx_file(path, 1)
    assert opened.takes == "pixels"
    np.testing.assert_allclose(opened.forward(PIXELS), logits, atol=1e-4)
    np.testing.assert_allclose(opened.forward(PIXELS[:1]), logits[:1], atol=1e-4)
    with pytest.raises(ExportError, match="takes pixels, not an image"):
        onnx_forward(path, 1)


def test_half_precision_is_that_of_the_weights_alone(path, logits):
    before = path.stat().st_size
    store_half(path)
    assert path.stat().st_size < 0.52 * before
    found = open_onnx_file(path, 1).forward(IMAGES)
    assert found.dtype == np.float32
    assert 0 < np.abs(found - logits).max() < 1e-2


def test_a_weight_that_does_not_fit_is_named(path):
    model = onnx.load(path)
    tensor = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 2)
    values = onnx.numpy_helper.to_array(tensor).copy()
    values[0, 0] = 1e5
    name = tensor.name
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, name))
    onnx.save(model, path)
    with pytest.raises(ExportError) as refused:
        store_half(path)
    assert f"fp16 cannot hold {name} of model.onnx: its largest value is 1e+05" in str(refused.value)


@pytest.mark.parametrize("half", [False, True])
def test_openvino_takes_both_along(path, logits, half):
    if not (found := installed("openvino", "openvino")):
        pytest.skip(found.reason)
    if half:
        store_half(path)
    take_pixels(path, SEEN)
    write_ir(path, path.parent)
    opened = open_ir(path.parent / "model.xml", path.parent / "model.bin", 1)
    assert opened.takes == "pixels"
    np.testing.assert_allclose(opened.forward(PIXELS), logits, atol=1e-2 if half else 1e-4)
    # neither format folds the weights into what it had before
    assert (path.parent / "model.bin").stat().st_size == pytest.approx(path.stat().st_size, rel=0.05)


def test_openvino_says_what_it_cannot_convert(tmp_path):
    if not (found := installed("openvino", "openvino")):
        pytest.skip(found.reason)
    (tmp_path / "model.onnx").write_bytes(b"no network")
    with pytest.raises(ExportError, match=r"openvino cannot convert model.onnx: .+; leave openvino out") as refused:
        write_ir(tmp_path / "model.onnx", tmp_path)
    assert "\n" not in str(refused.value)


def test_a_program_gives_the_same_logits(network, logits, tmp_path):
    write_program(network, 32, tmp_path / "model.pt2")
    forward = written_program(tmp_path / "model.pt2")
    for count in (1, 3):
        np.testing.assert_allclose(forward(IMAGES[:count]), logits[:count], atol=1e-5)
