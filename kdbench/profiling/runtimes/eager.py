"""torch as it is: operators are called one by one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from kdbench.profiling.runtime import RUNTIMES, Availability, Setting, Source
from kdbench.types import Device, RunPrecision

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Eager:
    """``network(image)`` in evaluation mode under ``torch.inference_mode``; in bf16 the weights are kept in it, too.

    Args:
        name: as tables print it.
        memory_format: of weights and images.
    """

    precisions: tuple[RunPrecision, ...] = ("fp32", "bf16")
    devices: tuple[Device, ...] = ("cpu", "cuda")

    def __init__(self, name: str = "eager", memory_format: torch.memory_format = torch.contiguous_format) -> None:
        self.name = name
        self._memory_format = memory_format

    def available(self, device: Device = "cpu") -> Availability:
        """Always on the CPU: torch is a dependency."""
        return cuda_available() if device == "cuda" else Availability(True)

    def library(self) -> str:
        """See ``Runtime.library``."""
        return torch_version()

    def convert(self, source: Source, precision: RunPrecision) -> None:
        """Nothing: torch runs the network itself."""

    def prepare(self, source: Source, setting: Setting, example: Tensor) -> Callable[[], object]:
        """See ``Runtime.prepare``."""
        return inference(*self.load(source, setting, example))

    def load(self, source: Source, setting: Setting, example: Tensor) -> tuple[nn.Module, Tensor]:
        """The network and the example (B, 3, H, W), on the setting's device, in its precision."""
        dtype = DTYPES[setting.precision]
        network = source.load().eval().to(setting.device, dtype)
        # training in another memory format may not leak into the timing; channels_last is defined for tensors of
        # 4 axes only, and Module.to leaves the others as they are
        network = network.to(memory_format=self._memory_format)
        return network, example.to(setting.device, dtype).contiguous(memory_format=self._memory_format)


def inference(network: Callable[[Tensor], object], image: Tensor) -> Callable[[], object]:
    """A function that runs the network on the image, and gives what it gives."""
    kind = image.device.type

    def run() -> object:
        with torch.inference_mode():
            # no autocast around the caller may change the precision that is reported; only asked for, since turning
            # it off takes longer than some layers
            if torch.is_autocast_enabled(kind):
                with torch.autocast(kind, enabled=False):
                    return network(image)
            return network(image)

    return run


def cuda_available() -> Availability:
    """Whether torch can use a CUDA device."""
    if torch.cuda.is_available():
        return Availability(True)
    if torch.version.cuda is None:
        return Availability(False, "this torch is built for the CPU alone; see https://pytorch.org/get-started/locally")
    return Availability(False, "torch finds no CUDA device; see what its driver says: nvidia-smi")


def torch_version() -> str:
    """As ``torch 2.14.1``."""
    return f"torch {torch.__version__.partition('+')[0]}"


RUNTIMES.add("eager", Eager())
