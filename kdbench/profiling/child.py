"""What is done in the process that each network gets for itself. Floor 3.

Thread pools of one runtime spin for a while after a call and slow another one down, caches and allocators carry over,
and the peak of memory is a whole process's. So every (network, setting) is loaded, run and timed in a fresh one
(``kdbench.profiling.process``), which is stopped while it is not on turn.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch import nn

from kdbench.profiling.energy import meter_for
from kdbench.profiling.latency import Samples, WarmUp, sample, warm_up
from kdbench.profiling.memory import (
    cuda_peak,
    peak_resident_bytes,
    release_freed,
    reset_cuda_peak,
    reset_peak,
    resident_bytes,
)
from kdbench.profiling.profile import noise_images
from kdbench.profiling.runtime import Setting, Source, convert, prepare, usable
from kdbench.profiling.timers import preemptions, timer_for
from kdbench.types import Memory

_UNTIMED = 2  # calls at the begin of a turn: the processor's caches belong to whoever was on turn before


@dataclass(frozen=True)
class Subject:
    """A network to be timed.

    Attributes:
        name: as messages call it.
        load: makes it, on the CPU, in fp32 and evaluation mode; a function of a module, or a ``functools.partial`` of
            one with plain arguments, because another process calls it.
        image_size: pixels, both sides.
        artefact: a file that is this network in int8. It is what is timed then, and int8 is all it is timed in.
    """

    name: str
    load: Callable[[], nn.Module]
    image_size: int
    artefact: Path | None = None

    def takes(self, setting: Setting) -> bool:
        """Whether the setting is one for this network."""
        return (setting.precision == "int8") == (self.artefact is not None)


@dataclass(frozen=True)
class Ready:
    """What a process says once its network runs."""

    library: str
    prepare_ms: float
    warm: WarmUp
    memory: Memory
    metered: bool = False
    """Whether energy can be told here."""


@dataclass(frozen=True)
class Turn:
    """How much is to be timed in one turn."""

    samples: int
    min_samples: int
    budget_s: float


@dataclass(frozen=True)
class Taken:
    """What was timed in one turn."""

    samples: Samples
    energy_j: float | None
    """Of all calls together."""


def convert_there(pipe: Connection, subject: Subject, setting: Setting, folder: str) -> None:
    """Make the files a runtime needs of a network; answers ``None`` when they are there."""
    source = Source(subject.load, subject.image_size, Path(folder), subject.artefact)
    convert(usable(setting), source, setting.precision)
    pipe.send(None)


def time_there(pipe: Connection, subject: Subject, setting: Setting, folder: str) -> None:
    """Load a network and warm it up; answers ``Ready``, and then every ``Turn`` with a ``Taken``."""
    torch.set_num_threads(setting.threads)
    runtime, timer, meter = usable(setting), timer_for(setting.device), meter_for(setting.device)
    library = runtime.library()
    source = Source(subject.load, subject.image_size, Path(folder), subject.artefact)
    example = noise_images(setting.batch_size, subject.image_size)
    on_cuda = setting.device == "cuda" and library.startswith("torch ")  # others have allocators of their own
    release_freed()
    before = resident_bytes()
    if on_cuda:
        reset_cuda_peak()
    started = time.perf_counter()
    run = prepare(runtime, source, setting, example)
    prepared = 1e3 * (time.perf_counter() - started)
    release_freed()
    reset_peak()  # where it cannot be reset, what loading takes for a moment is part of it
    warm = warm_up(run, timer)
    peak = peak_resident_bytes()
    allocated, reserved = cuda_peak() if on_cuda else (None, None)
    memory = Memory(
        peak_rss_bytes=None if peak is None else max(0, peak - before),
        cuda_allocated_bytes=allocated,
        cuda_reserved_bytes=reserved,
    )
    pipe.send(Ready(library, prepared, warm, memory, metered=meter is not None))
    while True:
        try:
            turn: Turn = pipe.recv()
        except EOFError:  # nobody will ask any more
            return
        for _ in range(_UNTIMED):
            timer(run)
        joules = meter.read() if meter else 0.0
        taken = sample(
            run,
            timer,
            samples=turn.samples,
            min_samples=turn.min_samples,
            budget_s=turn.budget_s,
            preemptions=preemptions,
        )
        pipe.send(Taken(taken, meter.read() - joules if meter else None))
