"""torch as it is: operators are called one by one, in fp32."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from kdbench.profiling.runtime import RUNTIMES, Availability
from kdbench.types import Precision


class Eager:
    """``model(example)`` in evaluation mode under ``torch.inference_mode``."""

    name = "eager"
    precision: Precision = "fp32"

    def available(self) -> Availability:
        """Always: torch is a dependency."""
        return Availability(True)

    def prepare(self, model: nn.Module, example: Tensor) -> Callable[[], object]:
        """See ``Runtime.prepare``."""
        wide = example.is_contiguous(memory_format=torch.channels_last) and not example.is_contiguous()
        # the weights follow the example: training in channels_last would otherwise leak into the timing
        memory_format = torch.channels_last if wide else torch.contiguous_format
        # channels_last is defined for tensors of 4 axes only, and Module.to leaves the others as they are
        network = copy.deepcopy(model).eval().to(device=example.device, dtype=torch.float32)
        network = network.to(memory_format=memory_format)
        image = example.float()

        def run() -> object:
            # no autocast around the caller may change the precision that is reported
            with torch.inference_mode(), torch.autocast(image.device.type, enabled=False):
                output = network(image)
            if image.is_cuda:
                torch.cuda.synchronize(image.device)
            return output

        return run


RUNTIMES.add(Eager.name, Eager())
