"""What a runtime is: one way to run a trained network and be timed. Floor 3."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from kdbench.errors import ProfileError, RuntimeUnavailable, first_line
from kdbench.registry import Registry
from kdbench.types import Device, RunPrecision, setting_text


@dataclass(frozen=True)
class Setting:
    """What a forward pass is timed under."""

    runtime: str = "eager"
    precision: RunPrecision = "fp32"
    batch_size: int = 1
    threads: int = 1
    device: Device = "cpu"

    def __str__(self) -> str:
        return setting_text(self.runtime, self.precision, self.device, self.batch_size, self.threads)


@dataclass(frozen=True)
class Source:
    """Where a runtime gets the network from."""

    load: Callable[[], nn.Module]
    """Makes the trained network: on the CPU, in fp32, in evaluation mode. Whoever calls it may change what it gets."""
    image_size: int
    folder: Path
    """Files that ``convert`` made of this network; the runtimes of one network share it."""
    artefact: Path | None = None
    """The network as an int8 file, for runtimes that run it in int8."""


@dataclass(frozen=True)
class Availability:
    """Whether a runtime can run here; true in a condition if it can."""

    ok: bool
    reason: str = ""
    """If not: what is missing, and the command that would bring it."""

    def __bool__(self) -> bool:
        return self.ok


class Runtime(Protocol):
    """The contract of an entry of ``RUNTIMES``."""

    @property
    def name(self) -> str:
        """As tables print it."""

    @property
    def precisions(self) -> tuple[RunPrecision, ...]:
        """What it can be timed in."""

    @property
    def devices(self) -> tuple[Device, ...]:
        """Where it can run, given the hardware."""

    def available(self, device: Device = "cpu") -> Availability:
        """Whether it is installed and runs on that device of this machine; cheap, and never raises."""

    def library(self) -> str:
        """What runs the network, with its version, as ``onnxruntime 1.20.0``."""

    def convert(self, source: Source, precision: RunPrecision) -> None:
        """Make the files that ``prepare`` reads, in ``source.folder``, unless they are there; nothing if it reads none.

        Called in another process than ``prepare``, so that the memory a conversion takes is not taken for the
        network's. Raises: ProfileError, if this network cannot be converted.
        """

    def prepare(self, source: Source, setting: Setting, example: Tensor) -> Callable[[], object]:
        """A function that runs one forward pass of the example (B, 3, H, W) and returns the logits once it is finished.

        On the CPU torch's number of threads is set already; a runtime with threads of its own takes
        ``setting.threads`` of them. The example is float32 on the CPU; it is brought to the device and into the type
        and memory format of the network here, outside of what is timed. On CUDA the function only queues the work: the
        timer waits for it.

        Raises: ProfileError, if this network cannot run so.
        """


RUNTIMES: Registry[Runtime] = Registry("runtime", "kdbench.profiling.runtimes")


def usable(setting: Setting) -> Runtime:
    """The setting's runtime, if it runs here. Raises: UnknownName; RuntimeUnavailable, with the reason."""
    runtime = RUNTIMES.get(setting.runtime)
    if setting.device not in runtime.devices:
        raise RuntimeUnavailable(
            f"the runtime '{runtime.name}' does not run on {setting.device}; it runs on {' and '.join(runtime.devices)}"
        )
    if setting.precision not in runtime.precisions:
        raise RuntimeUnavailable(
            f"the runtime '{runtime.name}' does not run in {setting.precision}; it runs in "
            f"{' and '.join(runtime.precisions)}"
        )
    if setting.device == "cuda" and not torch.cuda.is_available():
        raise RuntimeUnavailable("there is no CUDA device that torch can use here; time on the cpu")
    found = runtime.available(setting.device)
    if not found:
        raise RuntimeUnavailable(f"the runtime '{runtime.name}' is not available: {found.reason}")
    return runtime


def convert(runtime: Runtime, source: Source, precision: RunPrecision) -> None:
    """``runtime.convert``, with everything a converter may raise as a ProfileError."""
    try:
        runtime.convert(source, precision)
    except ProfileError:
        raise
    except Exception as error:  # exporters trace the network's own code, which may raise anything
        raise ProfileError(f"{runtime.name} cannot convert the network: {first_line(error)}") from error


def prepare(runtime: Runtime, source: Source, setting: Setting, example: Tensor) -> Callable[[], object]:
    """``runtime.prepare``, with everything a runtime may raise as a ProfileError."""
    try:
        return runtime.prepare(source, setting, example)
    except ProfileError:
        raise
    except Exception as error:
        raise ProfileError(f"{runtime.name} cannot run the network: {first_line(error)}") from error
