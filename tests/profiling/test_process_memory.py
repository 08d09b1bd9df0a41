"""Memory of a real process, which is another one so that it holds what the test says; and of a made-up GPU."""

import json
import subprocess
import sys
import weakref
from types import SimpleNamespace

import psutil
import pytest

from kdbench.profiling import memory

MIB = 2**20
LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux can reset the peak")


def child(code):
    """What the code puts into ``found``, in a process of its own."""
    script = f"import json\nfrom kdbench.profiling.memory import *\nfound = {{}}\n{code}\nprint(json.dumps(found))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    return json.loads(done.stdout)


@LINUX
def test_the_peak_rises_with_what_is_held_and_falls_back_when_reset():
    found = child("""
release_freed()
found["reset"] = reset_peak()
found["before"] = resident_bytes(), peak_resident_bytes()
block = b"x" * (64 * 2**20)
found["held"] = resident_bytes(), peak_resident_bytes()
del block
found["freed"] = resident_bytes(), peak_resident_bytes()
reset_peak()
found["anew"] = resident_bytes(), peak_resident_bytes()
""")
    if not found["reset"]:
        pytest.skip("this system does not let a process reset its peak")
    (now, peak), (now_held, peak_held) = found["before"], found["held"]
    assert now_held - now == pytest.approx(64 * MIB, abs=4 * MIB)
    assert peak_held - peak == pytest.approx(64 * MIB, abs=4 * MIB)
    now_freed, peak_freed = found["freed"]
    assert now_freed < now + 4 * MIB
    assert peak_freed == pytest.approx(peak_held, abs=MIB)
    now_anew, peak_anew = found["anew"]
    assert peak_anew == pytest.approx(now_anew, abs=4 * MIB)
    assert peak_anew < peak_held - 56 * MIB


@LINUX
def test_a_large_parent_is_no_part_of_the_peak():
    block = b"x" * (768 * MIB)
    found = child('found["all"] = resident_bytes(), peak_resident_bytes()')
    assert memory.resident_bytes() > len(block)
    now, peak = found["all"]
    assert now <= peak + MIB
    assert peak < now + 128 * MIB  # what imports took for a while


@pytest.mark.skipif(
    sys.platform == "win32" or not hasattr(memory.ctypes.CDLL(None), "malloc_trim"), reason="glibc only"
)
def test_freed_small_pieces_go_back_to_the_system():
    found = child("""
import ctypes
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
pieces = []
for _ in range(4000):
    pieces.append(libc.malloc(16000))  # too small to be mapped alone: they lie on the heap
    ctypes.memset(pieces[-1], 1, 16000)
found["held"] = resident_bytes()
for piece in pieces[:-1]:  # the last one holds the heap's end up
    libc.free(piece)
found["freed"] = resident_bytes()
release_freed()
found["released"] = resident_bytes()
""")
    assert found["freed"] > found["held"] - 8 * MIB
    assert found["released"] < found["held"] - 48 * MIB


def test_cycles_are_collected():
    class Node:
        pass

    node = Node()
    node.itself = node
    watched = weakref.ref(node)
    del node
    memory.release_freed()
    assert watched() is None


def test_resident_is_what_the_system_says():
    assert memory.resident_bytes() == pytest.approx(psutil.Process().memory_info().rss, abs=8 * MIB)
    assert 10 * MIB < memory.resident_bytes() < psutil.virtual_memory().total


def test_no_reset_where_the_file_is_missing_or_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "_CLEAR_REFS", tmp_path / "no folder" / "clear_refs")
    assert memory.reset_peak() is False


def test_the_reset_writes_what_the_kernel_wants(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "_CLEAR_REFS", tmp_path / "clear_refs")
    assert memory.reset_peak() is True
    assert (tmp_path / "clear_refs").read_text() == "5"


@pytest.mark.parametrize(
    ("status", "expected"),
    [("VmPeak:\t 900 kB\nVmHWM:\t   1234 kB\nVmRSS:\t 7 kB\n", 1234 * 1024), ("VmRSS:\t 7 kB\n", None), (None, None)],
)
def test_peak_is_read_from_the_status_on_linux(tmp_path, monkeypatch, status, expected):
    if status is not None:
        (tmp_path / "status").write_text(status)
    monkeypatch.setattr(memory.sys, "platform", "linux")
    monkeypatch.setattr(memory, "_STATUS", tmp_path / "status")
    assert memory.peak_resident_bytes() == expected


@pytest.mark.parametrize(("platform", "expected"), [("darwin", 5000), ("freebsd14", 5000 * 1024)])
def test_peak_has_the_unit_of_the_system(monkeypatch, platform, expected):
    fake = SimpleNamespace(RUSAGE_SELF=0, getrusage=lambda who: SimpleNamespace(ru_maxrss=5000))
    monkeypatch.setitem(sys.modules, "resource", fake)
    monkeypatch.setattr(memory.sys, "platform", platform)
    assert memory.peak_resident_bytes() == expected


def test_peak_is_the_working_set_on_windows(monkeypatch):
    info = SimpleNamespace(memory_info=lambda: SimpleNamespace(peak_wset=777))
    monkeypatch.setattr(memory.psutil, "Process", lambda: info)
    monkeypatch.setattr(memory.sys, "platform", "win32")
    assert memory.peak_resident_bytes() == 777


def test_cuda_peak_begins_anew_without_what_the_allocator_kept():
    diary = []
    cuda = SimpleNamespace(
        synchronize=lambda: diary.append("synchronize"),
        empty_cache=lambda: diary.append("empty_cache"),
        reset_peak_memory_stats=lambda: diary.append("reset"),
        max_memory_allocated=lambda: diary.append("allocated") or 300,
        max_memory_reserved=lambda: diary.append("reserved") or 2000,
    )
    memory.reset_cuda_peak(cuda)
    assert diary == ["synchronize", "empty_cache", "reset"]
    diary.clear()
    assert memory.cuda_peak(cuda) == (300, 2000)
    assert diary[0] == "synchronize"


@pytest.mark.gpu
def test_cuda_peak_of_a_real_device():
    torch = memory.torch
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    memory.reset_cuda_peak()
    before, _ = memory.cuda_peak()
    block = torch.zeros(64 * MIB, dtype=torch.uint8, device="cuda")
    del block
    allocated, reserved = memory.cuda_peak()
    assert allocated - before == pytest.approx(64 * MIB, abs=MIB)
    assert reserved >= allocated
    memory.reset_cuda_peak()
    assert memory.cuda_peak()[0] == before
