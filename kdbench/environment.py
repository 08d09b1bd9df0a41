"""The machine fingerprint: what a figure depends on, and nothing that is private. Floor 2.

Allow-listed by construction: no user name, host name, path or environment variable is read into it.
"""

from __future__ import annotations

import functools
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import psutil

from kdbench._version import __version__
from kdbench.types import Environment, content_id

# instruction sets that change which kernels run: vector width, int8 and bf16 arithmetic (x86), their Arm kin
_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "fma",
          "asimd", "asimddp", "bf16", "i8mm", "sve")  # fmt: skip
_PACKAGES = ("torch", "torchvision", "timm", "numpy", "fvcore", "pillow")


def usable_cores() -> int:
    """Cores this process may run on: its affinity, cut by the cgroup quota where there is one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    quota = Path("/sys/fs/cgroup/cpu.max")
    try:
        allowed, period = quota.read_text().split()
        if allowed != "max":
            cores = min(cores, max(1, round(int(allowed) / int(period))))
    except (OSError, ValueError):
        pass  # no cgroup v2 here: affinity alone counts
    return cores


def has_fast_bf16() -> bool:
    """Whether the processor multiplies bf16 itself; elsewhere bf16 is emulated and some ten times slower than fp32."""
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(_cpu()[1]))


def collect(threads: int) -> Environment:
    """The environment of a run that trains with so many threads."""
    cpu, flags = _cpu()
    versions = {name: version for name in _PACKAGES if (version := _version(name))}
    cores, gpu = usable_cores(), _gpu()
    commit, dirty = _commit()
    what_latency_depends_on = {
        "cpu": cpu, "flags": flags, "cores": cores, "gpu": gpu, "system": platform.system(),
        "torch": versions.get("torch"),
    }  # fmt: skip
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
    )


@functools.cache
def _cpu() -> tuple[str, tuple[str, ...]]:
    name, flags = platform.processor() or platform.machine(), set[str]()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                name = value.strip()
            elif key.strip() in ("flags", "Features"):
                flags = set(value.split())
                break
    except OSError:
        pass  # not Linux: the platform's own name has to do
    return name, tuple(flag for flag in _FLAGS if flag in flags)


def _gpu() -> str | None:
    torch = sys.modules.get("torch")  # asked only where torch is loaded anyway: a report needs no torch
    if torch is not None and torch.cuda.is_available():
        return str(torch.cuda.get_device_name(0))
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
