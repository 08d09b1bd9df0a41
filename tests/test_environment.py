"""What a record says of the machine: enough to compare latencies, nothing private."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kdbench import environment
from kdbench.types import Environment

ALLOWED = {
    "fingerprint", "cpu", "cpu_flags", "cores", "memory_bytes", "gpu", "system", "python", "versions", "threads",
    "kdbench", "commit", "dirty", "affinity", "quota_cores", "governor", "clock_mhz", "load", "flush_denormal",
    "thread_settings", "gpu_driver", "gpu_clock_mhz", "gpu_throttle",
}  # fmt: skip
PACKAGES = {"torch", "torchvision", "timm", "numpy", "fvcore", "pillow", "onnx", "onnxruntime", "openvino"}


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    for cached in (environment._cpu, environment._commit):
        cached.cache_clear()
    yield
    for cached in (environment._cpu, environment._commit):
        cached.cache_clear()


def leaves(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield str(key)
            yield from leaves(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from leaves(item)
    else:
        yield str(value)


def test_the_fields_are_those_and_no_others() -> None:
    # a new field may carry something private: look at it, then add it here
    assert set(Environment.model_fields) == ALLOWED
    assert set(environment.collect(1).versions) <= PACKAGES


def test_nothing_of_the_process_environment_is_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    planted = {name: f"planted-{name.lower()}" for name in ("HOME", "USER", "LOGNAME", "HOSTNAME", "API_TOKEN")}
    for name, value in planted.items():
        monkeypatch.setenv(name, value)
    assert "planted" not in environment.collect(1).model_dump_json()


def test_no_host_user_or_path_is_in_it() -> None:
    found = list(leaves(environment.collect(1).model_dump()))
    for private in (platform.node(), str(Path.home()), str(Path.cwd()), os.environ.get("USER")):
        assert private not in found
    assert [text for text in found if text.startswith(("/", "~"))] == []


def test_values_of_long_variables_are_not_part_of_any_leaf() -> None:
    found = "\n".join(leaves(environment.collect(1).model_dump()))
    known = {platform.system(), platform.machine(), platform.python_version()}
    shown = set(environment._THREAD_VARIABLES)
    assert [
        name
        for name, value in os.environ.items()
        if name not in shown and len(value) > 8 and value not in known and value in found
    ] == []


def test_of_thread_settings_only_harmless_values_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in environment._THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert environment.collect(1).thread_settings == {}
    kept = {
        "OMP_NUM_THREADS": "4,2",
        "OMP_PLACES": "{0:4},{4:4}",
        "GOMP_CPU_AFFINITY": "0 3 1-2",
        "KMP_AFFINITY": "granularity=fine,compact,1,0",
        "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_AMX",
    }
    dropped = {
        "OMP_WAIT_POLICY": "/home/somebody",
        "OMP_PROC_BIND": "somebody@example.org",
        "KMP_BLOCKTIME": "~somebody",
        "GOMP_SPINCOUNT": "$HOME",
        "MKL_DYNAMIC": "",
        "MKL_NUM_THREADS": "\u0664",
    }
    foreign = {"OMP_STACKSIZE": "16M", "KMP_SETTINGS": "1", "TORCH_HOME": "planted"}
    for name, value in (kept | dropped | foreign).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1," * 1000)
    assert environment.collect(1).thread_settings == {**kept, "OPENBLAS_NUM_THREADS": "1," * 32}


def files(monkeypatch: pytest.MonkeyPatch, content: dict[str, str], cores: int = 8) -> None:
    """A system that has these files and no others."""
    monkeypatch.setattr(environment, "_content", content.get)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)


def v2(**groups: str) -> dict[str, str]:
    """A process in the group /a/b of version 2."""
    folders = {"top": "", "a": "/a", "b": "/a/b", "other": "/other"}
    content = {f"/sys/fs/cgroup{folders[name]}/cpu.max": text for name, text in groups.items()}
    return {"/proc/self/cgroup": "0::/a/b\n", **content}


def v1(mount: str, **groups: str) -> dict[str, str]:
    """A process in the group /a of version 1, whose line names both controllers."""
    content = {"/proc/self/cgroup": "12:pids:/x\n4:cpu,cpuacct:/a\n1:name=systemd:/\n0::/\n"}
    for name, text in groups.items():
        folder = f"/sys/fs/cgroup/{mount}{'/a' if name == 'a' else ''}"
        quota, period = text.split()
        content |= {f"{folder}/cpu.cfs_quota_us": f"{quota}\n", f"{folder}/cpu.cfs_period_us": f"{period}\n"}
    return content


@pytest.mark.parametrize(
    ("content", "quota", "usable"),
    [
        ({}, None, 8),  # no control groups
        ({"/sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2, 2),  # as a container sees its own
        (v2(top="200000 100000\n"), 2, 2),
        (v2(b="150000 100000\n"), 1.5, 2),
        (v2(b="max 100000\n"), None, 8),
        (v2(b="max 100000\n", a="300000 100000\n"), 3, 3),  # of the group above
        (v2(b="400000 100000\n", a="300000 100000\n", top="max 100000\n"), 3, 3),
        (v2(b="50000 100000\n"), 0.5, 1),  # half a core is one core, not none
        (v2(b="1000 100000\n"), 0.01, 1),
        (v2(b="1600000 100000\n"), 16, 8),  # more than the affinity allows
        (v2(b="290000 100000\n"), 2.9, 3),
        (v2(b=""), None, 8),
        (v2(b="nonsense\n"), None, 8),
        (v2(b="100000 0\n"), None, 8),
        (v2(other="100000 100000\n"), None, 8),  # of somebody else
        ({**v2(other="100000 100000\n", top="200000 100000\n"), "/proc/self/cgroup": "0::/../other\n"}, 2, 2),
        ({"/proc/self/cgroup": "nonsense\n:\n\n"}, None, 8),
        (v1("cpu,cpuacct", a="200000 100000"), 2, 2),
        (v1("cpu", a="200000 100000"), 2, 2),
        (v1("cpu", a="-1 100000"), None, 8),
        (v1("cpu", a="-1 100000", top="400000 100000"), 4, 4),
        (v1("cpuset", a="100000 100000"), None, 8),
    ],
)
def test_cores_are_cut_by_the_quota(
    monkeypatch: pytest.MonkeyPatch, content: dict[str, str], quota: float | None, usable: int
) -> None:
    files(monkeypatch, content)
    assert environment.usable_cores() == usable
    found = environment.collect(1)
    assert (found.quota_cores, found.cores, found.affinity) == (quota, usable, 8)


def test_cores_without_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    files(monkeypatch, {})
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert environment.usable_cores() == 5
    assert environment.collect(1).affinity is None
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert environment.usable_cores() == 1


def cpufreq(**facts: list[str]) -> dict[str, str]:
    return {
        f"/sys/devices/system/cpu/cpu{number}/cpufreq/scaling_{fact}": f"{value}\n"
        for fact, values in facts.items()
        for number, value in enumerate(values)
    }


@pytest.mark.parametrize(
    ("content", "governor", "clock_mhz"),
    [
        ({}, None, None),
        (cpufreq(governor=["performance", "performance"]), "performance", None),
        (cpufreq(governor=["performance", "powersave"]), "mixed", None),
        (cpufreq(governor=["", "schedutil"], min_freq=["400000", "600000"]), "schedutil", None),
        (cpufreq(min_freq=["400000", "600000"], max_freq=["1800000", "2399999"]), None, (400, 2399.999)),
        (cpufreq(min_freq=["<unsupported>"], max_freq=["1800000"]), None, None),
        # of processors that this process is not put on
        (cpufreq(governor=["a", "a", "b"], min_freq=["1", "1", "0"], max_freq=["2", "2", "3"]), "a", (0.001, 0.002)),
    ],
)
def test_the_clock_as_it_is_set(
    monkeypatch: pytest.MonkeyPatch,
    content: dict[str, str],
    governor: str | None,
    clock_mhz: tuple[float, float] | None,
) -> None:
    files(monkeypatch, content, cores=2)
    found = environment.collect(1)
    assert (found.governor, found.clock_mhz) == (governor, clock_mhz)


def test_load_at_start_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    loads = iter([(0.251, 9, 9), (1.5, 9, 9), (2.0, 9, 9)])
    monkeypatch.setattr(os, "getloadavg", lambda: next(loads))
    start = environment.collect(1, flush_denormal=True)
    end = environment.finished(start)
    assert (start.load, end.load) == ((0.25, 0.25), (0.25, 1.5))
    assert end.model_copy(update={"load": start.load}) == start
    assert (start.flush_denormal, environment.collect(1).flush_denormal) == (True, None)


def test_where_there_is_no_load(monkeypatch: pytest.MonkeyPatch) -> None:
    known = environment.collect(1)
    monkeypatch.delattr(os, "getloadavg")
    assert environment.finished(known) == known
    unknown = environment.collect(1)
    assert unknown.load is None
    assert environment.finished(unknown) == unknown


def cpuinfo(monkeypatch: pytest.MonkeyPatch, content: str, board: str | None = None) -> None:
    environment._cpu.cache_clear()
    files(monkeypatch, {"/proc/cpuinfo": content} | ({} if board is None else {"/proc/device-tree/model": board}))


def test_cpu_is_read_from_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    cpuinfo(monkeypatch, "model name\t: Example CPU 9000: X\nflags\t\t: fpu avx2 secret avx512f\nflags\t: fma\n")
    assert environment._cpu() == ("Example CPU 9000: X", ("avx2", "avx512f"))  # known flags only
    assert not environment.has_fast_bf16()
    cpuinfo(monkeypatch, "model name : Y\nflags : avx512_bf16 avx2\n")
    assert environment.has_fast_bf16()


def test_arm_names_its_flags_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    cpuinfo(monkeypatch, "processor\t: 0\nFeatures\t: fp asimd bf16 i8mm\n")
    assert environment._cpu()[1] == ("asimd", "bf16", "i8mm")
    assert environment.has_fast_bf16()


def arm(*parts: str, implementer: str = "0x41", more: str = "") -> str:
    return "".join(
        f"processor\t: {number}\n{more}Features\t: fp asimd\nCPU implementer\t: {implementer}\nCPU part\t: {part}\n\n"
        for number, part in enumerate(parts)
    ) + "Serial\t\t: 10000000planted\n"  # fmt: skip


@pytest.mark.parametrize(
    ("content", "board", "name"),
    [
        (arm("0xd08"), "Raspberry Pi 4 Model B Rev 1.4\0", "Raspberry Pi 4 Model B Rev 1.4"),
        # a kernel of 32 bits names the architecture, which many processors share
        (arm("0xd08", more="model name\t: ARMv7 Processor rev 3 (v7l)\n"), "Raspberry Pi 4\0", "Raspberry Pi 4"),
        (arm("0xd08", more="model name\t: ARMv7 Processor rev 3 (v7l)\n"), None, "Cortex-A72"),
        ("model name\t: ARMv7 Processor rev 3 (v7l)\n", None, "ARMv7 Processor rev 3 (v7l)"),
        (arm("0xd0c", "0xd0c"), None, "Neoverse-N1"),
        (arm("0xd0c", "0xd0c"), "linux,dummy-virt\0", "Neoverse-N1"),
        (arm("0xd05", "0xd05", "0xd0b"), None, "Cortex-A55 + Cortex-A76"),
        (arm("0xd03"), None, "Cortex-A53"),
        (arm("0xd41"), "", "Cortex-A78"),
        (arm("0xfff"), None, "Arm 0x41/0xfff"),
        (arm("0xd03", implementer="0x61"), None, "Arm 0x61/0xd03"),  # the numbers are the implementer's own
        ("model name\t: Example CPU\n", "Board\0", "Example CPU"),
    ],
)
def test_arm_is_named_by_board_or_cores(
    monkeypatch: pytest.MonkeyPatch, content: str, board: str | None, name: str
) -> None:
    cpuinfo(monkeypatch, content, board)
    assert environment.collect(1).cpu == name
    assert "planted" not in environment.collect(1).model_dump_json()


def test_without_cpuinfo_the_platform_has_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    files(monkeypatch, {})
    name, flags = environment._cpu()
    assert name in (platform.processor(), platform.machine())
    assert flags == ()


@pytest.mark.parametrize(
    ("answer", "name"),
    [
        (subprocess.CompletedProcess([], 0, "Apple M3 Pro\n", ""), "Apple M3 Pro"),
        (subprocess.CompletedProcess([], 1, "", "unknown oid"), "arm"),
        (FileNotFoundError("sysctl"), "arm"),
        (subprocess.TimeoutExpired("sysctl", 10), "arm"),
    ],
)
def test_macos_names_its_processor(monkeypatch: pytest.MonkeyPatch, answer: Any, name: str) -> None:
    def sysctl(command: list[str], **more: Any) -> Any:
        assert command[1:] == ["-n", "machdep.cpu.brand_string"]
        assert more["timeout"] <= 10
        if isinstance(answer, Exception):
            raise answer
        return answer

    files(monkeypatch, {})
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(platform, "processor", lambda: "arm")
    monkeypatch.setattr(subprocess, "run", sysctl)
    assert environment._cpu() == (name, ())


# ---------------------------------------------------------------- the GPU


class Nvml(types.SimpleNamespace):
    """nvidia-ml-py with one GPU that is too warm."""

    NVML_CLOCK_SM = 1

    def __init__(self, **changes: Any) -> None:
        super().__init__(
            inits=0,
            nvmlSystemGetDriverVersion=lambda: "580.1.2",
            nvmlDeviceGetHandleByUUID={"GPU-1-2-3": "gpu"}.__getitem__,
            nvmlDeviceGetClockInfo=lambda gpu, kind: {("gpu", 1): 1200}[gpu, kind],
            nvmlDeviceGetMaxClockInfo=lambda gpu, kind: {("gpu", 1): 1980}[gpu, kind],
            nvmlDeviceGetCurrentClocksEventReasons=lambda gpu: {"gpu": 0x01 | 0x04 | 0x40}[gpu],
        )
        self.__dict__.update(changes)

    def nvmlInit(self) -> None:  # noqa: N802 - its name
        self.inits += 1

    def nvmlShutdown(self) -> None:  # noqa: N802 - its name
        self.inits -= 1


def gpu(monkeypatch: pytest.MonkeyPatch, nvml: Any, available: bool = True) -> None:
    cuda = types.SimpleNamespace(
        is_available=lambda: available,
        get_device_name=["NVIDIA Example"].__getitem__,
        get_device_properties=[types.SimpleNamespace(uuid="1-2-3")].__getitem__,
    )
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(cuda=cuda))
    monkeypatch.setitem(sys.modules, "pynvml", nvml)  # None: importing it fails


def refuse(*_: Any) -> None:
    raise RuntimeError("not supported")


def test_the_gpu_tells_driver_clock_and_throttling(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = Nvml()
    gpu(monkeypatch, nvml)
    found = environment.collect(1)
    assert (found.gpu, found.gpu_driver, found.gpu_clock_mhz) == ("NVIDIA Example", "580.1.2", (1200, 1980))
    assert found.gpu_throttle == ("power cap", "thermal, by hardware")  # being idle is no reason
    assert nvml.inits == 0


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"nvmlSystemGetDriverVersion": lambda: b"470.1"}, ("470.1", (1200, 1980), 2)),
        ({"nvmlSystemGetDriverVersion": refuse}, (None, (1200, 1980), 2)),
        ({"nvmlDeviceGetHandleByUUID": refuse}, ("580.1.2", None, 0)),
        ({"nvmlDeviceGetMaxClockInfo": refuse}, ("580.1.2", None, 2)),
        ({"nvmlDeviceGetCurrentClocksEventReasons": refuse}, ("580.1.2", (1200, 1980), 0)),
        ({"nvmlShutdown": refuse}, ("580.1.2", (1200, 1980), 2)),
        ({"nvmlInit": refuse}, (None, None, 0)),
    ],
)
def test_what_the_gpu_does_not_tell_is_left_open(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], told: tuple[Any, ...]
) -> None:
    gpu(monkeypatch, Nvml(**changes))
    found = environment.collect(1)
    assert (found.gpu_driver, found.gpu_clock_mhz, len(found.gpu_throttle)) == told


@pytest.mark.parametrize(("nvml", "available"), [(None, True), (Nvml(), False)])
def test_without_library_or_gpu_nothing_is_told(monkeypatch: pytest.MonkeyPatch, nvml: Any, available: bool) -> None:
    gpu(monkeypatch, nvml, available)
    found = environment.collect(1)
    assert found.gpu == ("NVIDIA Example" if available else None)
    assert (found.gpu_driver, found.gpu_clock_mhz, found.gpu_throttle) == (None, None, ())


def test_without_torch_no_gpu_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu(monkeypatch, Nvml(nvmlInit=refuse))
    monkeypatch.delitem(sys.modules, "torch")
    assert environment._gpu_state() == (None, None, ())
    assert environment._gpu() is None


# ---------------------------------------------------------------- the fingerprint


def known_before(monkeypatch: pytest.MonkeyPatch, flags: str = "fpu avx2 fma") -> None:
    """A machine of which nothing is known but what the first records say."""
    for name in environment._THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    environment._cpu.cache_clear()
    files(monkeypatch, {"/proc/cpuinfo": f"model name : AMD EPYC\nflags : {flags}\n"}, cores=2)
    monkeypatch.setattr(environment, "_gpu", lambda: None)
    monkeypatch.setattr(environment, "_version", {"torch": "2.14.1", "onnxruntime": "1.20.0"}.get)
    monkeypatch.setattr(platform, "system", lambda: "Linux")


def test_fingerprints_of_the_first_records_still_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    known_before(monkeypatch)
    assert environment.collect(2).fingerprint == "f69bca848593a38a"  # as in results/bccd-small
    known_before(monkeypatch, "avx2 avx512f avx512_vnni avx512_bf16 fma")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3}, raising=False)
    assert environment.collect(1).fingerprint == "a6a57e5eefe45190"  # as in results/methods-small


def test_whatever_else_is_known_makes_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()
    for name, value in {
        "_load": 3.0,
        "_quota_cores": 1.7,  # two cores, as before
        "_governor": "powersave",
        "_clock_mhz": (400.0, 3000.0),
        "_thread_settings": {"OMP_WAIT_POLICY": "ACTIVE"},
        "_gpu_state": environment._GpuState("580.1.2", (1200, 1980), ("power cap",)),
    }.items():
        with monkeypatch.context() as patch:
            known_before(patch)
            patch.setattr(environment, name, lambda value=value: value)
            seen.add(environment.collect(2).fingerprint)
    with monkeypatch.context() as patch:  # nor is a number of threads: every figure states its own
        known_before(patch)
        patch.setattr(environment, "_thread_settings", lambda: {"OMP_NUM_THREADS": "1"})
        assert environment.collect(2).fingerprint == "f69bca848593a38a"
    known_before(monkeypatch, "avx2 fma avx512_fp16")
    seen.add(environment.collect(2, flush_denormal=True).fingerprint)
    assert len(seen) == 7
    assert "f69bca848593a38a" in seen  # the load is no part of it


def test_what_the_gpu_does_at_the_moment_is_no_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    known_before(monkeypatch)
    monkeypatch.setattr(environment, "_gpu_state", lambda: environment._GpuState("580.1.2", (1200, 1980), ("a",)))
    before = environment.collect(2).fingerprint
    monkeypatch.setattr(environment, "_gpu_state", lambda: environment._GpuState("580.1.2"))
    assert environment.collect(2).fingerprint == before


def test_fingerprint_follows_what_latency_depends_on(monkeypatch: pytest.MonkeyPatch) -> None:
    before = environment.collect(1)
    assert environment.collect(1).fingerprint == before.fingerprint
    assert environment.collect(4).fingerprint == before.fingerprint  # threads stand beside each latency
    assert environment.collect(4).threads == 4
    for name, value in {
        "_gpu": lambda: "another",
        "usable_cores": lambda: 777,
        "_cpu": lambda: ("another", ()),
    }.items():
        with monkeypatch.context() as patch:
            patch.setattr(environment, name, value)
            assert environment.collect(1).fingerprint != before.fingerprint
    with monkeypatch.context() as patch:
        patch.setattr(environment, "_commit", lambda: ("0" * 12, True))
        assert environment.collect(1).fingerprint == before.fingerprint


@pytest.mark.parametrize("problem", [FileNotFoundError("no git"), subprocess.TimeoutExpired("git", 10)])
def test_without_git_there_is_no_commit(monkeypatch: pytest.MonkeyPatch, problem: Exception) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise problem

    monkeypatch.setattr(subprocess, "run", fail)
    assert environment._commit() == (None, None)


@pytest.mark.parametrize(("status", "dirty"), [("", False), (" M kdbench/types.py\n", True)])
def test_commit_of_a_checkout(monkeypatch: pytest.MonkeyPatch, status: str, dirty: bool) -> None:
    def git(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        answers = {"ls-files": "kdbench/environment.py\n", "rev-parse": "0123456789ab\n", "status": status}
        return subprocess.CompletedProcess(command, 0, answers[command[3]], "")

    monkeypatch.setattr(subprocess, "run", git)
    assert environment._commit() == ("0123456789ab", dirty)


def test_somebody_elses_repository_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    def git(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, int(command[3] == "ls-files"), "feedfeedfeed\n", "")

    monkeypatch.setattr(subprocess, "run", git)
    assert environment._commit() == (None, None)
