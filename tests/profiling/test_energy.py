"""Energy from a made-up sysfs and a made-up NVML; and from this machine, where it has a counter."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from kdbench.errors import ProfileError
from kdbench.profiling.energy import meter_for

SPAN = 262_143_328_850


def zone(root, folder, name="package-0", energy=1_000_000, span=SPAN):
    path = root / folder
    path.mkdir(parents=True, exist_ok=True)
    for file, value in (("name", name), ("energy_uj", energy), ("max_energy_range_uj", span)):
        (path / file).write_text(f"{value}\n")
    return path / "energy_uj"


def read_after(meter, counter, energy):
    counter.write_text(f"{energy}\n")
    return meter.read()


def test_joules_since_it_was_made(tmp_path):
    counter = zone(tmp_path, "intel-rapl:0", energy=5_000_000)
    meter = meter_for("cpu", tmp_path)
    assert meter.read() == 0
    assert read_after(meter, counter, 7_500_000) == 2.5
    assert read_after(meter, counter, 7_500_001) == 2.500001
    assert meter.read() == 2.500001


def test_wrapped_counters_go_on(tmp_path):
    counter = zone(tmp_path, "intel-rapl:0", energy=9_000_000, span=10_000_000)
    meter = meter_for("cpu", tmp_path)
    assert read_after(meter, counter, 500_000) == 1.5
    assert read_after(meter, counter, 9_500_000) == 10.5
    assert read_after(meter, counter, 0) == 11
    assert read_after(meter, counter, 1_000_000) == 12


def test_packages_are_summed_and_each_wraps_by_itself(tmp_path):
    first = zone(tmp_path, "intel-rapl:0", "package-0", 1_000_000, 10_000_000)
    second = zone(tmp_path, "intel-rapl:1", "package-1", 19_000_000, 20_000_000)
    meter = meter_for("cpu", tmp_path)
    first.write_text("3000000")
    assert read_after(meter, second, 4_000_000) == 2 + 5


def test_parts_doubles_and_the_whole_platform_are_left_out(tmp_path):
    package = zone(tmp_path, "intel-rapl:0")
    others = [
        zone(tmp_path, "intel-rapl:0:0", "core"),
        zone(tmp_path, "intel-rapl:0:1", "package-like"),
        zone(tmp_path, "intel-rapl:1", "psys"),
        zone(tmp_path, "intel-rapl-mmio:0", "package-0"),
    ]
    (tmp_path / "intel-rapl").mkdir()
    meter = meter_for("cpu", tmp_path)
    for counter in others:
        assert read_after(meter, counter, 99_000_000) == 0
    assert read_after(meter, package, 3_000_000) == 2


def test_sysfs_links_are_followed(tmp_path):
    counter = zone(tmp_path / "devices", "intel-rapl:0", "package-0-die-0")
    (tmp_path / "class").mkdir()
    (tmp_path / "class" / "intel-rapl:0").symlink_to(tmp_path / "devices" / "intel-rapl:0")
    assert read_after(meter_for("cpu", tmp_path / "class"), counter, 2_000_000) == 1


def test_none_without_counters(tmp_path):
    assert meter_for("cpu", tmp_path / "none") is None
    assert meter_for("cpu", tmp_path) is None
    zone(tmp_path, "intel-rapl:0", "psys")
    assert meter_for("cpu", tmp_path) is None


@pytest.mark.parametrize("file", ["energy_uj", "name", "max_energy_range_uj"])
def test_none_where_one_package_may_not_be_read(tmp_path, monkeypatch, file):
    zone(tmp_path, "intel-rapl:0")
    zone(tmp_path, "intel-rapl:1", "package-1")
    real = Path.read_text

    def refuse(path, *args, **options):
        if path == tmp_path / "intel-rapl:1" / file:  # permissions would not hold back a root that runs the tests
            raise PermissionError(13, "Permission denied")
        return real(path, *args, **options)

    monkeypatch.setattr(Path, "read_text", refuse)
    assert meter_for("cpu", tmp_path) is None


def test_none_where_the_counter_is_no_number(tmp_path):
    zone(tmp_path, "intel-rapl:0", energy="soon")
    assert meter_for("cpu", tmp_path) is None


def test_a_counter_that_goes_away_is_told(tmp_path):
    counter = zone(tmp_path, "intel-rapl:0")
    meter = meter_for("cpu", tmp_path)
    counter.unlink()
    with pytest.raises(ProfileError, match="measure without energy"):
        meter.read()


class NvmlError(Exception):
    pass


class FakeNvml:
    """The two GPUs of a machine; the process is shown the second alone, so that torch calls it 0."""

    NVMLError = NvmlError

    def __init__(self, fails=""):
        self.energy, self.fails, self.ready = {"GPU-a": 5_000, "GPU-b": 700_000}, fails, False

    def _maybe_fail(self, where):
        if where == self.fails:
            raise NvmlError("Not Supported")

    def nvmlInit(self):  # noqa: N802 - the library's name
        self._maybe_fail("init")
        self.ready = True

    def nvmlDeviceGetHandleByUUID(self, uuid):  # noqa: N802 - the library's name
        self._maybe_fail("handle")
        assert self.ready
        return uuid

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):  # noqa: N802 - the library's name
        self._maybe_fail("energy")
        return self.energy[handle]


def fake_cuda(available=True):
    return SimpleNamespace(
        is_available=lambda: available,
        current_device=lambda: 0,
        get_device_properties=lambda index: SimpleNamespace(uuid=["b"][index]),
    )


def test_millijoules_of_the_gpu_that_torch_means():
    nvml = FakeNvml()
    meter = meter_for("cuda", nvml=nvml, cuda=fake_cuda())
    before = meter.read()
    nvml.energy["GPU-a"] += 1_000
    assert meter.read() == before
    nvml.energy["GPU-b"] += 2_500
    assert meter.read() - before == 2.5


@pytest.mark.parametrize("fails", ["init", "handle", "energy"])
def test_none_where_nvml_refuses(fails):
    assert meter_for("cuda", nvml=FakeNvml(fails), cuda=fake_cuda()) is None


def test_none_without_a_gpu():
    assert meter_for("cuda", nvml=FakeNvml(), cuda=fake_cuda(available=False)) is None


def test_none_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)  # importing it raises ImportError
    assert meter_for("cuda", cuda=fake_cuda()) is None


def test_the_package_is_used_where_it_is_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml())
    assert meter_for("cuda", cuda=fake_cuda()).read() == 700


def test_a_gpu_that_goes_away_is_told():
    nvml = FakeNvml()
    meter = meter_for("cuda", nvml=nvml, cuda=fake_cuda())
    nvml.fails = "energy"
    with pytest.raises(ProfileError, match="measure without energy"):
        meter.read()


def test_a_processor_is_never_asked_through_nvml(tmp_path):
    assert meter_for("cpu", tmp_path, nvml=FakeNvml(), cuda=fake_cuda()) is None


def test_this_machine_has_a_counter_that_never_goes_back_or_none():
    meter = meter_for("cpu")
    if meter is not None:
        assert 0 <= meter.read() <= meter.read()


@pytest.mark.gpu
def test_a_real_gpu_takes_energy():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    meter = meter_for("cuda")
    if meter is None:
        pytest.skip("needs nvidia-ml-py and a GPU that counts its energy")
    factor = torch.randn(4096, 4096, device="cuda")
    before = meter.read()
    for _ in range(500):
        factor @ factor
    torch.cuda.synchronize()
    assert meter.read() > before
