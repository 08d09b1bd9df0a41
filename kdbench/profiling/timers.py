"""How one call is timed: on the processor by a clock, on a GPU by its own events. Floor 3."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

from kdbench.profiling.latency import Clock, Timer
from kdbench.types import Device


@dataclass(frozen=True)
class CpuTimer:
    """Wall time from before the call until it returns; the function must have finished its work by then.

    Waiting for a core is part of it. The two readings of the clock add less than a microsecond.
    """

    clock: Clock = time.perf_counter_ns

    def __call__(self, run: Callable[[], object]) -> float:
        """Milliseconds of one call."""
        before = self.clock()
        run()
        return (self.clock() - before) / 1e6


@dataclass(frozen=True)
class CudaTimer:
    """Time between two events on the device's current stream, one before and one after the work of the call.

    The device is idle when the call begins, so that what the processor takes to launch the kernels is part of it
    wherever the device waits for them: that is the latency of a single request. The resolution is about half a
    microsecond (CUDA Runtime API, cudaEventElapsedTime). Work the function starts on another stream counts only if
    the function waits for it, or has the current stream wait.
    """

    cuda: Any = torch.cuda
    """The event API: ``torch.cuda``, or what answers like it."""
    device: torch.device | int | str | None = None
    """None: torch's current one."""

    def __call__(self, run: Callable[[], object]) -> float:
        """Milliseconds of one call."""
        stream = self.cuda.current_stream(self.device)
        start, end = self.cuda.Event(enable_timing=True), self.cuda.Event(enable_timing=True)
        self.cuda.synchronize(self.device)  # copies and warm-up still under way would be taken for the call's own work
        start.record(stream)
        run()
        end.record(stream)
        end.synchronize()
        return float(start.elapsed_time(end))


def preemptions() -> int:
    """How often the system has taken the processor away from a thread of this process (involuntary context switches,
    getrusage(2)); always 0 where it does not tell, as on Windows."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw if resource else 0


def timer_for(device: Device) -> Timer:
    """The timer of what runs there."""
    return CudaTimer() if device == "cuda" else CpuTimer()
