"""The registry of runtimes and its contract, kept by every one of them."""

import pytest
import torch

from kdbench.errors import ProfileError, RuntimeUnavailable, UnknownName
from kdbench.profiling import runtime as runtime_module
from kdbench.profiling.runtime import RUNTIMES, Availability, Setting, Source, convert, prepare, usable
from kdbench.registry import Registry
from kdbench.types import Device, RunPrecision

OFF = {"fp32": 1e-5, "bf16": 0.05}  # of the largest logit


class Absent:
    name = "absent"
    precisions = ("fp32",)
    devices = ("cpu",)

    def available(self, device="cpu"):
        return Availability(False, "install it with: pip install absent")


class Broken(Absent):
    def convert(self, source, precision):
        raise KeyError("first line\nsecond line")

    def prepare(self, source, setting, example):
        raise MemoryError


def cases(device):
    """Every runtime in every float precision there; torch.compile takes long. What int8 says is not the network's."""
    for runtime in RUNTIMES:
        for precision in runtime.precisions:
            if device in runtime.devices and precision != "int8":
                marks = [pytest.mark.slow] if runtime.name == "compile" and device == "cpu" else []
                yield pytest.param(runtime.name, precision, marks=marks, id=f"{runtime.name}-{precision}")


def check_logits(source, images, networks, kind, setting):
    try:
        runtime = usable(setting)
    except RuntimeUnavailable as reason:
        pytest.skip(str(reason))
    for batch in (1, 3):
        setting = Setting(setting.runtime, setting.precision, batch, 1, setting.device)
        run = prepare(runtime, source(kind, runtime.name), setting, images(batch))
        run()
        logits = torch.as_tensor(run()).float().cpu()
        with torch.inference_mode():
            expected = networks[kind](images(batch))
        assert logits.shape == (batch, 5)
        off = OFF[setting.precision] if setting.device == "cpu" else 0.05  # TF32 is allowed there
        assert (logits - expected).abs().max() <= off * expected.abs().max()


@pytest.mark.parametrize("kind", ["cnn", "vit"])
@pytest.mark.parametrize(("name", "precision"), list(cases("cpu")))
def test_logits_of_the_network(source, images, networks, kind, name, precision):
    check_logits(source, images, networks, kind, Setting(name, precision))


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["cnn", "vit"])
@pytest.mark.parametrize(("name", "precision"), list(cases("cuda")))
def test_logits_of_the_network_on_cuda(source, images, networks, kind, name, precision):
    check_logits(source, images, networks, kind, Setting(name, precision, device="cuda"))


@pytest.mark.parametrize("runtime", list(RUNTIMES), ids=lambda runtime: runtime.name)
def test_facts(runtime):
    assert RUNTIMES.get(runtime.name) is runtime
    assert runtime.precisions
    assert set(runtime.precisions) <= set(RunPrecision.__args__)
    assert runtime.devices
    assert set(runtime.devices) <= set(Device.__args__)


@pytest.mark.parametrize("runtime", list(RUNTIMES), ids=lambda runtime: runtime.name)
def test_availability_is_told_with_a_remedy(runtime):
    for device in runtime.devices:
        found = runtime.available(device)
        assert found or found.reason
        if found and device == "cpu":
            package, version = runtime.library().split()
            assert package.isalpha()
            assert version[0].isdigit()


def test_those_of_torch_are_there():
    assert {"eager", "channels_last", "compile", "cudagraph"} <= set(RUNTIMES.names())
    assert usable(Setting()) is RUNTIMES.get("eager")


@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "tensorrt"])
def test_packages_that_are_not_installed(monkeypatch, with_cuda, name):
    monkeypatch.setattr("kdbench.profiling.conversion.find_spec", lambda package: None)
    device = RUNTIMES.get(name).devices[0]
    with pytest.raises(RuntimeUnavailable, match=r"not installed; pip install 'kdbench\[(export|openvino)\]'"):
        usable(Setting(name, device=device))


@pytest.mark.parametrize("runtime", list(RUNTIMES), ids=lambda runtime: runtime.name)
def test_cuda_without_a_device(without_cuda, runtime):
    with pytest.raises(RuntimeUnavailable, match=r"CUDA device|does not run on cuda"):
        usable(Setting(runtime.name, device="cuda"))
    assert "cuda" not in runtime.devices or not runtime.available("cuda")


def test_unknown_runtime():
    with pytest.raises(UnknownName, match="did you mean eager"):
        usable(Setting("eagre"))


@pytest.fixture
def registry(monkeypatch):
    registry = Registry("runtime")
    monkeypatch.setattr(runtime_module, "RUNTIMES", registry)
    return registry


def test_unavailable_runtime_says_why(registry):
    registry.add("absent", Absent())
    with pytest.raises(RuntimeUnavailable, match="pip install absent"):
        usable(Setting("absent"))


@pytest.mark.parametrize(
    ("setting", "message"),
    [(Setting("absent", "bf16"), "does not run in bf16; it runs in fp32"),
     (Setting("absent", device="cuda"), "does not run on cuda; it runs on cpu")],
)  # fmt: skip
def test_what_a_runtime_does_not_do(registry, setting, message):
    registry.add("absent", Absent())
    with pytest.raises(RuntimeUnavailable, match=message):
        usable(setting)


def test_whatever_is_raised_becomes_one_line(tmp_path):
    source = Source(lambda: None, 8, tmp_path)
    with pytest.raises(ProfileError, match=r"^absent cannot convert the network: 'first line\\nsecond line'$"):
        convert(Broken(), source, "fp32")
    with pytest.raises(ProfileError, match=r"^absent cannot run the network: MemoryError$"):
        prepare(Broken(), source, Setting(), torch.zeros(1, 3, 8, 8))


def test_a_setting_says_what_it_is():
    assert str(Setting()) == "eager fp32, batch 1, 1 thread"
    assert str(Setting("compile", "bf16", 8, 2, "cuda")) == "compile bf16 on cuda, batch 8, 2 threads"
