"""ONNX Runtime: the export, the session, and what may be wrong with either."""

import shutil

import pytest
import torch
from torch import nn

from kdbench.errors import ProfileError
from kdbench.profiling.conversion import REFERENCE
from kdbench.profiling.runtime import RUNTIMES, Setting, Source, convert, prepare
from kdbench.profiling.runtimes.onnxruntime import MODEL, OPSET

onnx = pytest.importorskip("onnx", reason="needs the extra kdbench[export]")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra kdbench[export]")
pytest.importorskip("onnxscript", reason="needs the extra kdbench[export]")

RUNTIME = RUNTIMES.get("onnxruntime")


class Branching(nn.Module):
    """Looks at the values of its images to decide what to do."""

    def forward(self, image):
        flat = image.flatten(1)
        return flat[:, :5] if image.sum() > 0 else flat[:, 5:10]


class NoSuchOperator(nn.Module):
    def forward(self, image):
        return torch.linalg.svdvals(image.flatten(1)[:, :16].unflatten(1, (4, 4)))


class ForTwo(nn.Module):
    """Takes two images and no other number of them."""

    def forward(self, image):
        return image.reshape(2, -1)[:, :5]


@pytest.fixture
def copied(source, tmp_path):
    """The files of a CNN, to be damaged."""
    own = source("cnn", "onnxruntime")
    shutil.copytree(own.folder, tmp_path / "copy")
    return Source(own.load, own.image_size, tmp_path / "copy")


@pytest.fixture
def sessions(monkeypatch):
    """The sessions that are made meanwhile."""
    made = []

    class Recorded(onnxruntime.InferenceSession):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            made.append(self)

    monkeypatch.setattr(onnxruntime, "InferenceSession", Recorded)
    return made


def test_one_file_for_any_batch_size(source):
    folder = source("vit", "onnxruntime").folder
    model = onnx.load(folder / MODEL)
    onnx.checker.check_model(model)
    assert {path.name for path in folder.iterdir()} >= {MODEL, REFERENCE}
    assert not list(folder.glob("*.data"))
    assert next(opset.version for opset in model.opset_import if not opset.domain) == OPSET
    shapes = [[dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
              for value in (*model.graph.input, *model.graph.output)]  # fmt: skip
    assert shapes == [["batch", 3, 32, 32], ["batch", 5]]
    assert [value.name for value in (*model.graph.input, *model.graph.output)] == ["image", "logits"]


def test_converted_once(copied):
    before = {path.name: path.stat().st_mtime_ns for path in copied.folder.iterdir()}
    convert(RUNTIME, Source(lambda: pytest.fail("loaded again"), 32, copied.folder), "fp32")
    assert {path.name: path.stat().st_mtime_ns for path in copied.folder.iterdir()} == before


def test_a_lost_file_is_made_again(copied):
    (copied.folder / REFERENCE).unlink()
    convert(RUNTIME, copied, "fp32")
    assert (copied.folder / REFERENCE).is_file()


@pytest.mark.parametrize(
    ("network", "message"),
    [(Branching, "Could not guard on data-dependent expression"), (NoSuchOperator, "linalg_svd")],
)
def test_networks_that_cannot_be_exported(tmp_path, capfd, recwarn, network, message):
    with pytest.raises(ProfileError, match=f"^torch.onnx cannot export the network: .*{message}") as problem:
        convert(RUNTIME, Source(network, 8, tmp_path), "fp32")
    assert "\n" not in str(problem.value)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list


def test_silent(tmp_path, capfd, recwarn):
    source = Source(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 5)).eval(), 8, tmp_path)
    convert(RUNTIME, source, "fp32")
    prepare(RUNTIME, source, Setting("onnxruntime", batch_size=2), torch.randn(2, 3, 8, 8))()
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list


def test_a_network_for_one_batch_size_only(tmp_path):
    source = Source(ForTwo, 8, tmp_path)
    convert(RUNTIME, source, "fp32")
    with pytest.raises(ProfileError):
        prepare(RUNTIME, source, Setting("onnxruntime", batch_size=3), torch.randn(3, 3, 8, 8))


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_and_batch_are_the_settings(source, images, sessions, threads):
    setting = Setting("onnxruntime", batch_size=3, threads=threads)
    prepare(RUNTIME, source("cnn", "onnxruntime"), setting, images(3))
    (session,) = sessions
    options = session.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (threads, 1)
    assert options.graph_optimization_level == onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    assert session.get_providers() == ["CPUExecutionProvider"]
    assert session.get_inputs()[0].shape == [3, 3, 32, 32]


def test_any_memory_format_of_the_example(source, images, networks):
    example = images(3).to(memory_format=torch.channels_last)
    run = prepare(RUNTIME, source("cnn", "onnxruntime"), Setting("onnxruntime", batch_size=3), example)
    with torch.inference_mode():
        assert torch.allclose(torch.as_tensor(run()), networks["cnn"](images(3)), atol=1e-5)


@pytest.mark.parametrize("content", [None, b"", b"no such format", "half"])
def test_a_damaged_file(copied, images, capfd, content):
    path = copied.folder / MODEL
    whole = path.read_bytes()
    path.unlink()
    if content is not None:
        path.write_bytes(whole[: len(whole) // 2] if content == "half" else content)
    with pytest.raises(ProfileError, match=r"^onnxruntime cannot run the network: ") as problem:
        prepare(RUNTIME, copied, Setting("onnxruntime"), images(1))
    assert "\n" not in str(problem.value)
    assert capfd.readouterr() == ("", "")


def test_another_network_is_found_out(copied, source, images):
    shutil.copy(source("vit", "onnxruntime").folder / MODEL, copied.folder / MODEL)
    with pytest.raises(ProfileError, match="onnxruntime gives other logits than torch: they differ by"):
        prepare(RUNTIME, copied, Setting("onnxruntime"), images(1))


def test_providers(monkeypatch, with_cuda):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    assert RUNTIME.available()
    found = RUNTIME.available("cuda")
    assert not found
    assert "no CUDAExecutionProvider" in found.reason
    assert found.reason.endswith("pip install onnxruntime-gpu")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    assert RUNTIME.available("cuda")


def test_a_broken_installation_is_told(monkeypatch, with_cuda):
    def broken():
        raise OSError("libcudart.so: cannot open")

    monkeypatch.setattr(onnxruntime, "get_available_providers", broken)
    found = RUNTIME.available("cuda")
    assert not found
    assert "libcudart.so: cannot open" in found.reason


@pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="it would start here")
def test_a_provider_that_does_not_start(source):
    # onnxruntime itself would go on with the processor
    with pytest.raises(ProfileError, match="CUDAExecutionProvider does not start"):
        RUNTIME._session(source("cnn", "onnxruntime"), Setting("onnxruntime"), [("CUDAExecutionProvider", {})])
