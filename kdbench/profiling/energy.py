"""What the platform's own counters say of energy. Floor 3.

A counter knows no processes: it takes in the whole processor package, or the whole GPU board, with whatever else runs
there and with what it takes when idle. And it moves in steps, of about 1 ms with RAPL (Haehnel et al. 2012,
"Measuring Energy Consumption for Short Code Paths Using RAPL"), of 20 to 100 ms with NVML (PETSc's manual,
PetscLogGpuEnergyMeter), so take the difference over many calls, over seconds, and divide. Main memory beside a package
and losses of the power supply are in neither; and beside a GPU, the processor that feeds it is not counted.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from kdbench.errors import ProfileError
from kdbench.types import Device


class EnergyMeter(Protocol):
    """A counter of energy; only differences between two readings mean anything."""

    def read(self) -> float:
        """Joules since some moment before, never going back. Raises: ProfileError, if the counter is gone."""


def meter_for(
    device: Device, root: Path = Path("/sys/class/powercap"), nvml: Any = None, cuda: Any = torch.cuda
) -> EnergyMeter | None:
    """The meter of what runs there; None where there is none or this user may not read it.

    On the CPU: RAPL through Linux's powercap, on Intel and AMD, all processor packages together. Since Linux 5.10 only
    root may read it unless the administrator allows it: finely read, it tells what others compute (CVE-2020-8694).
    On CUDA: NVML's count for torch's current GPU, Volta or newer, through the package nvidia-ml-py.

    Args:
        root: where powercap lies.
        nvml: the module ``pynvml``, or what answers like it; None: imported, if it is installed.
        cuda: ``torch.cuda``, or what answers like it: says which GPU is meant.
    """
    return _nvml_meter(nvml, cuda) if device == "cuda" else _rapl_meter(root)


# ---------------------------------------------------------------- the processor


@dataclass
class _Zone:
    """One counter of RAPL, in microjoules. It begins at 0 again after its range, within minutes at full power."""

    counter: Path
    span: int
    last: int
    total: int = 0

    def read(self) -> int:
        """Microjoules since it was made. More than one turn of the counter between two readings is not seen."""
        now = _number(self.counter)
        self.total += now - self.last if now >= self.last else now + self.span - self.last
        self.last = now
        return self.total


@dataclass(frozen=True)
class _RaplMeter:
    zones: Sequence[_Zone]

    def read(self) -> float:
        return sum(zone.read() for zone in self.zones) / 1e6


def _rapl_meter(root: Path) -> EnergyMeter | None:
    try:
        # intel-rapl:0:0 is a part of intel-rapl:0, intel-rapl-mmio:0 the same again, and the zone "psys" all of it
        folders = [
            folder
            for folder in sorted(root.glob("intel-rapl:*"))
            if folder.name.count(":") == 1 and (folder / "name").read_text().startswith("package")
        ]
        zones = [
            _Zone(
                counter=folder / "energy_uj",
                span=_number(folder / "max_energy_range_uj"),
                last=_number(folder / "energy_uj"),
            )
            for folder in folders
        ]
    except (OSError, ProfileError):  # one package unread would make the sum a wrong figure, so there is none
        return None
    return _RaplMeter(zones) if zones else None


def _number(path: Path) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError) as error:
        raise ProfileError(f"the energy counter {path} cannot be read: {error}; measure without energy") from error


# ---------------------------------------------------------------- the GPU


@dataclass(frozen=True)
class _NvmlMeter:
    nvml: Any
    handle: Any

    def read(self) -> float:
        try:
            return int(self.nvml.nvmlDeviceGetTotalEnergyConsumption(self.handle)) / 1e3
        except self.nvml.NVMLError as error:
            raise ProfileError(f"NVML gives no energy any more: {error}; measure without energy") from error


def _nvml_meter(nvml: Any, cuda: Any) -> EnergyMeter | None:
    if nvml is None:
        try:
            nvml = importlib.import_module("pynvml")
        except ImportError:
            return None
    if not cuda.is_available():
        return None
    try:
        nvml.nvmlInit()  # held until the process ends: a meter is read until then
        # by its UUID: torch numbers the GPUs it is shown (CUDA_VISIBLE_DEVICES), NVML all there are
        uuid = f"GPU-{cuda.get_device_properties(cuda.current_device()).uuid}"
        meter = _NvmlMeter(nvml, nvml.nvmlDeviceGetHandleByUUID(uuid))
        meter.read()
    except (nvml.NVMLError, ProfileError):  # no driver, an older GPU, or a slice of one, which has no meter of its own
        return None
    return meter
