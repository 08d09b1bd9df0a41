"""The eager network as one CUDA graph: its kernels are launched all at once, not one by one from Python."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kdbench.profiling.runtime import RUNTIMES, Availability, Setting, Source
from kdbench.profiling.runtimes.eager import Eager, cuda_available, inference
from kdbench.types import Device

_WARM_UP = 3  # passes before the capture: libraries choose their kernels and take their memory, which a graph cannot


class CudaGraph(Eager):
    """Captured once, and replayed on the same memory."""

    devices: tuple[Device, ...] = ("cuda",)

    def available(self, device: Device = "cuda") -> Availability:
        """Where torch has a CUDA device."""
        return cuda_available()

    def prepare(self, source: Source, setting: Setting, example: Tensor) -> Callable[[], object]:
        """See ``Runtime.prepare``. Every call gives the same tensor, with the logits of the last one in it."""
        run = inference(*self.load(source, setting, example))
        # a capture is not allowed on the stream that everybody uses, and wants to be warmed up where it will be made
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(_WARM_UP):
                run()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            logits = run()

        def replay() -> object:
            graph.replay()
            return logits

        return replay


RUNTIMES.add("cudagraph", CudaGraph("cudagraph"))
