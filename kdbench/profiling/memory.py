"""How much memory this process holds and has held, and a GPU for it. Floor 3.

Resident memory is what the system has really given: pages touched, weights mapped from a file and shared libraries
included, reserved address space left out. The kernel counts it in batches on each core, so that a figure may be off by
some 100 KiB for each of them.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from pathlib import Path
from typing import Any

import psutil
import torch

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")


def resident_bytes() -> int:
    """What the process holds now, in bytes."""
    return int(psutil.Process().memory_info().rss)


def reset_peak() -> bool:
    """Let ``peak_resident_bytes`` begin anew at what the process holds now; whether that was possible.

    Only Linux can (proc_pid_clear_refs(5), the value 5), and not in every sandbox. Elsewhere the peak stays that of
    the whole life of the process: it is then that of a later piece of work only if that needed most.
    """
    try:
        _CLEAR_REFS.write_text("5")
    except OSError:
        return False
    return True


def peak_resident_bytes() -> int | None:
    """The most the process has held at once since its start or the last ``reset_peak``, in bytes; None: not told.

    From VmHWM on Linux: ``getrusage`` would also count what the process held before it became Python, thus what a
    large parent held when it forked. From ``ru_maxrss`` on other Unix systems, from the peak working set on Windows.
    """
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    if sys.platform.startswith("linux"):
        return _high_water_mark()
    import resource  # Unix alone has it

    unit = 1 if sys.platform == "darwin" else 1024  # macOS tells bytes, the others KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def release_freed() -> None:
    """Give back what is not in use any more, so that it is not taken for part of what comes next.

    Collects cycles, and has glibc return the free parts of its heap to the system (malloc_trim(3)). What other
    allocators keep, those of runtimes among them, stays.
    """
    gc.collect()
    if sys.platform.startswith("linux"):
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # other C libraries have none
        if trim is not None:
            trim(0)


def reset_cuda_peak(cuda: Any = torch.cuda) -> None:
    """Let ``cuda_peak`` begin anew at what torch holds now on its current device.

    Args:
        cuda: ``torch.cuda``, or what answers like it.
    """
    cuda.synchronize()
    cuda.empty_cache()  # blocks kept from earlier work would count as reserved
    cuda.reset_peak_memory_stats()


def cuda_peak(cuda: Any = torch.cuda) -> tuple[int, int]:
    """Bytes of torch's current device, at most since its start or the last ``reset_cuda_peak``: (allocated, reserved).

    Of torch's own allocator: allocated by tensors; reserved for them, in the larger blocks it asks the driver for.
    What the CUDA context and other runtimes take from the driver is in neither.

    Args:
        cuda: ``torch.cuda``, or what answers like it.
    """
    cuda.synchronize()
    return int(cuda.max_memory_allocated()), int(cuda.max_memory_reserved())


def _high_water_mark() -> int | None:
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        key, _, value = line.partition(":")
        if key == "VmHWM":
            return int(value.split()[0]) * 1024  # "kB" in /proc means KiB
    return None
