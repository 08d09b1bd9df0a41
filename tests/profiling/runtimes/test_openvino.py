"""OpenVINO: the conversion, the compiled network, and what may be wrong with either."""

import shutil
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from kdbench.environment import usable_cores
from kdbench.errors import ProfileError
from kdbench.profiling.conversion import REFERENCE
from kdbench.profiling.runtime import RUNTIMES, Setting, Source, convert, prepare
from kdbench.profiling.runtimes import openvino as module
from kdbench.profiling.runtimes.openvino import MODEL, WEIGHTS

if not RUNTIMES.get("openvino").available():
    pytest.skip("needs the extra kdbench[openvino]", allow_module_level=True)

RUNTIME = RUNTIMES.get("openvino")


class NoSuchOperator(nn.Module):
    def forward(self, image):
        return torch.linalg.svdvals(image.flatten(1)[:, :16].unflatten(1, (4, 4)))


class Failing(nn.Module):
    """Cannot be traced, though it runs."""

    def forward(self, image):
        if torch.jit.is_tracing():
            raise ValueError("not to be traced\nand more about it")
        return image.mean((2, 3))


@pytest.fixture
def copied(source, tmp_path):
    """The files of a CNN, to be damaged."""
    own = source("cnn", "openvino")
    shutil.copytree(own.folder, tmp_path / "copy")
    return Source(own.load, own.image_size, tmp_path / "copy")


@pytest.fixture
def compiled(monkeypatch):
    """The compiled networks that are made meanwhile; ``hints`` are put over those asked for."""
    openvino = module._openvino()
    made = SimpleNamespace(networks=[], hints={})

    class Recorded(openvino.Core):
        def compile_model(self, model, device, hints):
            made.networks.append(super().compile_model(model, device, hints | made.hints))
            return made.networks[-1]

    monkeypatch.setattr(module, "_openvino", lambda: SimpleNamespace(Core=Recorded, Type=openvino.Type))
    return made


def test_files(source):
    folder = source("vit", "openvino").folder
    assert {path.name for path in folder.iterdir()} >= {MODEL, WEIGHTS, REFERENCE}
    model = module._openvino().Core().read_model(folder / MODEL)
    assert str(model.input().partial_shape) == "[?,3,32,32]"
    weights = sum(value.numel() * 4 for value in source("vit", "openvino").load().parameters())
    assert (folder / WEIGHTS).stat().st_size > 0.95 * weights  # fp32, not the half that is its default


def test_converted_once(copied):
    before = {path.name: path.stat().st_mtime_ns for path in copied.folder.iterdir()}
    convert(RUNTIME, Source(lambda: pytest.fail("loaded again"), 32, copied.folder), "bf16")
    assert {path.name: path.stat().st_mtime_ns for path in copied.folder.iterdir()} == before


def test_its_makers_are_told_nothing(source):
    source("cnn", "openvino")
    assert not [name for name in sys.modules if name.split(".")[0] == "openvino_telemetry"]


@pytest.mark.parametrize(
    ("network", "message"),
    [(NoSuchOperator, "No conversion rule found for operations: .*svd.*"), (Failing, "not to be traced")],
)
def test_networks_that_cannot_be_converted(tmp_path, capfd, recwarn, network, message):
    with pytest.raises(ProfileError, match=f"^openvino cannot convert the network: {message}$"):
        convert(RUNTIME, Source(network, 8, tmp_path), "fp32")
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list


def test_silent(tmp_path, capfd, recwarn, caplog):
    source = Source(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 5)).eval(), 8, tmp_path)
    convert(RUNTIME, source, "fp32")
    prepare(RUNTIME, source, Setting("openvino", batch_size=2), torch.randn(2, 3, 8, 8))()
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list
    assert not caplog.records


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_and_batch_are_the_settings(source, images, compiled, threads):
    if threads > usable_cores():
        pytest.skip(f"needs {threads} cores")
    prepare(RUNTIME, source("cnn", "openvino"), Setting("openvino", batch_size=3, threads=threads), images(3))
    (network,) = compiled.networks
    assert network.get_property("INFERENCE_NUM_THREADS") == threads
    assert network.get_property("NUM_STREAMS") == 1
    assert str(network.get_property("PERFORMANCE_HINT")).endswith("LATENCY")
    assert network.get_property("INFERENCE_PRECISION_HINT") == module._openvino().Type.f32
    assert list(network.input().shape) == [3, 3, 32, 32]


def test_more_threads_than_it_takes(source, images):
    with pytest.raises(ProfileError, match=r"openvino takes \d+ threads here, not 4000"):
        prepare(RUNTIME, source("cnn", "openvino"), Setting("openvino", threads=4000), images(1))


def test_a_processor_without_bf16(source, images, compiled):
    compiled.hints = {"INFERENCE_PRECISION_HINT": "f32"}  # what openvino falls back to there
    with pytest.raises(ProfileError, match="openvino does not run in bf16 on this processor"):
        prepare(RUNTIME, source("cnn", "openvino"), Setting("openvino", "bf16"), images(1))


@pytest.mark.parametrize("name", [MODEL, WEIGHTS])
@pytest.mark.parametrize("damage", ["lost", "cut"])
def test_damaged_files(copied, images, capfd, name, damage):
    path = copied.folder / name
    whole = path.read_bytes()
    path.unlink()
    if damage == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ProfileError, match=r"^openvino cannot run the network: ") as problem:
        prepare(RUNTIME, copied, Setting("openvino"), images(1))
    assert "\n" not in str(problem.value)
    assert capfd.readouterr() == ("", "")


def test_another_network_is_found_out(copied, source, images):
    for name in (MODEL, WEIGHTS):
        shutil.copy(source("vit", "openvino").folder / name, copied.folder / name)
    for precision in ("fp32", "bf16"):
        with pytest.raises(ProfileError, match="openvino gives other logits than torch: they differ by"):
            prepare(RUNTIME, copied, Setting("openvino", precision), images(1))
