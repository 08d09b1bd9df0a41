"""The machine fingerprint: what a figure depends on, and nothing that is private. Floor 2.

Allow-listed by construction: no user name, host name or path is read into it, and of the environment variables only
those that set threads and arithmetic. What is not told by a machine is None or empty; asking never raises.
"""

from __future__ import annotations

import functools
import importlib
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from kdbench._version import __version__
from kdbench.types import Environment, content_id

# instruction sets that change which kernels run: vector width, int8, bf16 and fp16 arithmetic (x86), their Arm kin
_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx_vnni_int8", "avx512_bf16", "avx512_fp16",
          "amx_bf16", "amx_int8", "amx_fp16", "fma",
          "asimd", "asimddp", "bf16", "i8mm", "sve", "sve2", "sme")  # fmt: skip
_PACKAGES = ("torch", "torchvision", "timm", "numpy", "fvcore", "pillow", "onnx", "onnxruntime", "openvino")
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS", "OMP_WAIT_POLICY", "OMP_PROC_BIND", "OMP_PLACES", "GOMP_SPINCOUNT", "GOMP_CPU_AFFINITY",
    "KMP_BLOCKTIME", "KMP_AFFINITY", "MKL_NUM_THREADS", "MKL_DYNAMIC", "OPENBLAS_NUM_THREADS",
    "ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE", "ONEDNN_MAX_CPU_ISA",
)  # fmt: skip
# all that their documented values are written with; a path has slashes, an address an @
_HARMLESS = re.compile(r"[A-Za-z0-9,:.{}()=_ -]+")
_LONGEST_SETTING = 64  # characters

# MIDR part numbers of Arm's own cores (implementer 0x41), as the kernel gives them
_ARM = "0x41"
_ARM_CORES = {
    "0xc07": "Cortex-A7", "0xc09": "Cortex-A9", "0xc0f": "Cortex-A15", "0xd03": "Cortex-A53", "0xd04": "Cortex-A35",
    "0xd05": "Cortex-A55", "0xd07": "Cortex-A57", "0xd08": "Cortex-A72", "0xd09": "Cortex-A73", "0xd0a": "Cortex-A75",
    "0xd0b": "Cortex-A76", "0xd0c": "Neoverse-N1", "0xd0d": "Cortex-A77", "0xd40": "Neoverse-V1",
    "0xd41": "Cortex-A78", "0xd42": "Cortex-A78AE", "0xd44": "Cortex-X1", "0xd46": "Cortex-A510",
    "0xd47": "Cortex-A710", "0xd48": "Cortex-X2", "0xd49": "Neoverse-N2", "0xd4b": "Cortex-A78C",
    "0xd4d": "Cortex-A715", "0xd4e": "Cortex-X3", "0xd4f": "Neoverse-V2", "0xd80": "Cortex-A520",
    "0xd81": "Cortex-A720", "0xd82": "Cortex-X4", "0xd84": "Neoverse-V3", "0xd85": "Cortex-X925",
    "0xd87": "Cortex-A725", "0xd8e": "Neoverse-N3",
}  # fmt: skip

# bits of NVML's reasons; that a GPU is idle is none: it clocks up as soon as there is work
_THROTTLE = {
    0x02: "clock setting", 0x04: "power cap", 0x08: "hardware slowdown", 0x10: "sync boost",
    0x20: "thermal, by software", 0x40: "thermal, by hardware", 0x80: "power brake", 0x100: "display clock setting",
}  # fmt: skip


def usable_cores() -> int:
    """Cores this process may run on: its affinity, cut by the quota of its control groups where there is one."""
    processors, quota = _processors(), _quota_cores()
    cores = (os.cpu_count() or 1) if processors is None else len(processors)
    return cores if quota is None else min(cores, max(1, round(quota)))


def has_fast_bf16() -> bool:
    """Whether the processor multiplies bf16 itself; elsewhere bf16 is emulated and some ten times slower than fp32."""
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(_cpu()[1]))


def collect(threads: int, *, flush_denormal: bool | None = None) -> Environment:
    """The environment of a run that trains with so many threads.

    Args:
        flush_denormal: whether the run takes denormal numbers for 0; None: not told.
    Returns: with the load of now for start and end; `finished` puts in the one at the end.
    """
    cpu, flags = _cpu()
    versions = {name: version for name in _PACKAGES if (version := _version(name))}
    cores, gpu, gpu_state, load = usable_cores(), _gpu(), _gpu_state(), _load()
    processors = _processors()
    commit, dirty = _commit()
    quota_cores, governor, clock_mhz, thread_settings = _quota_cores(), _governor(), _clock_mhz(), _thread_settings()
    what_latency_depends_on = {
        "cpu": cpu, "flags": flags, "cores": cores, "gpu": gpu, "system": platform.system(),
        "torch": versions.get("torch"),
    }  # fmt: skip
    looked_at_later = {
        "quota_cores": quota_cores, "governor": governor, "clock_mhz": clock_mhz, "gpu_driver": gpu_state.driver,
        # every figure states the number of its own threads, which is set whatever these say
        "thread_settings": {name: value for name, value in thread_settings.items() if "NUM_THREADS" not in name},
    }  # fmt: skip
    # only what is there: where nothing of it is, the fingerprint is that of records from before it was looked at
    what_latency_depends_on |= {name: fact for name, fact in looked_at_later.items() if fact}
    return Environment(
        fingerprint=content_id(what_latency_depends_on),
        cpu=cpu,
        cpu_flags=flags,
        cores=cores,
        memory_bytes=psutil.virtual_memory().total,
        gpu=gpu,
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        versions=versions,
        threads=threads,
        kdbench=__version__,
        commit=commit,
        dirty=dirty,
        affinity=None if processors is None else len(processors),
        quota_cores=quota_cores,
        governor=governor,
        clock_mhz=clock_mhz,
        load=None if load is None else (load, load),
        flush_denormal=flush_denormal,
        thread_settings=thread_settings,
        gpu_driver=gpu_state.driver,
        gpu_clock_mhz=gpu_state.clock_mhz,
        gpu_throttle=gpu_state.throttle,
    )


def finished(environment: Environment) -> Environment:
    """The same with the load at the end of the run in it; call it on the machine that `collect` was called on."""
    load = _load()
    if environment.load is None or load is None:
        return environment
    return environment.model_copy(update={"load": (environment.load[0], load)})


# ---------------------------------------------------------------- the processor


@functools.cache
def _cpu() -> tuple[str, tuple[str, ...]]:
    name, flags, cores = "", set[str](), dict[str, None]()
    implementer = ""
    for line in (_content("/proc/cpuinfo") or "").splitlines():
        key, _, value = (part.strip() for part in line.partition(":"))
        if key == "model name":
            name = name or value
        elif key in ("flags", "Features"):
            flags = flags or set(value.split())
        elif key == "CPU implementer":
            implementer = value
        elif key == "CPU part":
            known = _ARM_CORES.get(value) if implementer == _ARM else None
            cores[known or f"Arm {implementer}/{value}"] = None
    if not name or name.startswith("ARMv"):  # the architecture alone: a Raspberry Pi 2 and 3 would be one machine
        board = (_content("/proc/device-tree/model") or "").strip("\0 \n")
        # virtual machines say "linux,dummy-virt"
        name = (board if "dummy" not in board else "") or " + ".join(cores) or name
    name = name or _macos_name() or platform.processor() or platform.machine()
    return name, tuple(flag for flag in _FLAGS if flag in flags)


def _macos_name() -> str:
    if platform.system() != "Darwin":
        return ""
    command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _processors() -> list[int] | None:
    """The processors this process may be put on; None where the system does not say."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def _governor() -> str | None:
    found = set(_of_each_processor("scaling_governor"))
    return found.pop() if len(found) == 1 else "mixed" if found else None


def _clock_mhz() -> tuple[float, float] | None:
    """The lowest and the highest clock that is set for any of these processors."""
    try:
        lowest = [int(khz) / 1000 for khz in _of_each_processor("scaling_min_freq")]
        highest = [int(khz) / 1000 for khz in _of_each_processor("scaling_max_freq")]
    except ValueError:  # "<unsupported>"
        return None
    return (min(lowest), max(highest)) if lowest and highest else None


def _of_each_processor(fact: str) -> list[str]:
    paths = (f"/sys/devices/system/cpu/cpu{number}/cpufreq/{fact}" for number in _processors() or ())
    return [text.strip() for path in paths if (text := _content(path)) and text.strip()]


def _load() -> float | None:
    """Processes that ran or waited to, on average over the last minute."""
    try:
        return round(os.getloadavg()[0], 2)
    except (AttributeError, OSError):  # Windows has none
        return None


# ---------------------------------------------------------------- what this process is granted


def _quota_cores() -> float | None:
    """The least that the control groups around this process grant it, in cores; None: no limit."""
    groups = _content("/proc/self/cgroup") or "0::/"
    granted = [cores for line in groups.splitlines() for cores in _quotas(line)]
    return min(granted, default=None)


def _quotas(line: str) -> Iterator[float]:
    """The quotas of one control group and of those above it, in cores, from its line in /proc/self/cgroup."""
    _, _, rest = line.partition(":")
    controllers, _, group = rest.partition(":")
    # "..": the group lies outside of what is mounted here, whose top is then the nearest one above it
    names = [] if ".." in group.split("/") else [name for name in group.split("/") if name]
    folders = ["".join(f"/{name}" for name in names[:depth]) for depth in range(len(names) + 1)]
    files: list[tuple[str, ...]] = []
    if not controllers:  # version 2
        files = [(f"/sys/fs/cgroup{folder}/cpu.max",) for folder in folders]
    elif "cpu" in controllers.split(","):  # version 1, mounted under all its names or under this one
        roots = [f"/sys/fs/cgroup/{mount}{folder}" for mount in {controllers, "cpu"} for folder in folders]
        files = [(f"{root}/cpu.cfs_quota_us", f"{root}/cpu.cfs_period_us") for root in roots]
    for paths in files:
        try:
            allowed, period = (int(word) for path in paths for word in (_content(path) or "").split())
        except ValueError:  # "max", or no such file
            continue
        if allowed > 0 and period > 0:  # version 1 writes -1 for no limit
            yield allowed / period


def _thread_settings() -> dict[str, str]:
    found = {name: " ".join(os.environ.get(name, "").split())[:_LONGEST_SETTING] for name in _THREAD_VARIABLES}
    return {name: value for name, value in found.items() if _HARMLESS.fullmatch(value)}


# ---------------------------------------------------------------- the GPU


class _GpuState(NamedTuple):
    driver: str | None = None
    clock_mhz: tuple[int, int] | None = None
    throttle: tuple[str, ...] = ()


def _gpu() -> str | None:
    torch = _torch_with_gpu()
    return None if torch is None else str(torch.cuda.get_device_name(0))


def _gpu_state() -> _GpuState:
    """What NVIDIA's driver tells of the first GPU that torch sees, if nvidia-ml-py is there to ask it."""
    torch = _torch_with_gpu()
    if torch is None:
        return _GpuState()
    try:
        nvml: Any = importlib.import_module("pynvml")
        nvml.nvmlInit()
    except Exception:  # not installed, or no such driver: its errors are known only once it is imported
        return _GpuState()
    try:
        driver = _answer(lambda: nvml.nvmlSystemGetDriverVersion())
        # by its id: torch counts only the GPUs that CUDA_VISIBLE_DEVICES leaves, in an order of its own
        gpu = _answer(lambda: nvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(0).uuid}"))
        now = _answer(lambda: nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_SM))
        highest = _answer(lambda: nvml.nvmlDeviceGetMaxClockInfo(gpu, nvml.NVML_CLOCK_SM))
        reasons = _answer(lambda: nvml.nvmlDeviceGetCurrentClocksEventReasons(gpu))
        return _GpuState(
            driver=driver.decode() if isinstance(driver, bytes) else driver,
            clock_mhz=None if now is None or highest is None else (now, highest),
            throttle=tuple(name for bit, name in _THROTTLE.items() if (reasons or 0) & bit),
        )
    finally:
        _answer(lambda: nvml.nvmlShutdown())


def _answer(question: Callable[[], Any]) -> Any:
    try:
        return question()
    except Exception:  # this card, driver or version of the library does not tell
        return None


def _torch_with_gpu() -> Any:
    torch = sys.modules.get("torch")  # asked only where torch is loaded anyway: a report needs no torch
    return torch if torch is not None and torch.cuda.is_available() else None


# ---------------------------------------------------------------- software and files


def _content(path: str) -> str | None:
    """The text of a file of the system; None where there is none."""
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


@functools.cache
def _commit() -> tuple[str | None, bool | None]:
    """The commit of the checkout kdbench is imported from and whether its code differs; (None, None) elsewhere."""
    root = Path(__file__).resolve().parent.parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    # an installed copy may lie inside somebody else's repository: only one that tracks this file counts
    if git("ls-files", "--error-unmatch", "kdbench/environment.py") is None:
        return None, None
    commit, status = git("rev-parse", "--short=12", "HEAD"), git("status", "--porcelain", "--", "kdbench")
    return commit, None if status is None else bool(status)
