"""torch.compile: operators are fused, and compiled for this processor or GPU and this very shape."""

from __future__ import annotations

import importlib
import os
import shlex
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from kdbench.profiling.conversion import quiet
from kdbench.profiling.runtime import RUNTIMES, Availability, Setting, Source
from kdbench.profiling.runtimes.eager import Eager, cuda_available, inference
from kdbench.types import Device

# what torch looks for where CXX does not name another one, and how to get it
_COMPILERS = {
    "darwin": ("clang++", "xcode-select --install"),
    "win32": ("cl", "winget install Microsoft.VisualStudio.2022.BuildTools, and its developer command prompt"),
}
_ELSEWHERE = ("g++", "apt install g++")


class Compile(Eager):
    """``torch.compile`` with its own defaults, less dynamic shapes."""

    def available(self, device: Device = "cpu") -> Availability:
        """On the CPU it takes a C++ compiler and Python's headers, on a GPU Triton and a C compiler."""
        if device == "cpu":
            return _cpp_available()
        found = cuda_available()
        if found and find_spec("triton") is None:
            return Availability(False, "triton is not installed; pip install triton")
        if found and not any(map(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang", "cl"))):
            return Availability(False, "triton finds no C compiler; apt install gcc")
        return found

    def library(self) -> str:
        """See ``Runtime.library``. Loads the compiler, whose memory is the runtime's and not that of a network."""
        importlib.import_module("torch._inductor.compile_fx")
        return super().library()

    def prepare(self, source: Source, setting: Setting, example: Tensor) -> Callable[[], object]:
        """See ``Runtime.prepare``. Compiles, which takes seconds to minutes.

        What was compiled before in this process is forgotten, and compiled anew when it is called again.
        """
        network, image = self.load(source, setting, example)
        # all networks of one class share a limit of compiled forms, and beyond it the rest would run uncompiled
        torch._dynamo.reset()
        run = inference(torch.compile(network, dynamic=False), image)
        with quiet(), _by_itself(source.folder):
            run()
        return run


@contextmanager
def _by_itself(folder: Path) -> Iterator[None]:
    """Compile in this process alone, so that none works on while others are timed, and without what was kept of
    earlier compilations, so that the time it takes is the same every time."""
    import torch._inductor.config as inductor

    name, value = "TORCHINDUCTOR_CACHE_DIR", os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    with tempfile.TemporaryDirectory(dir=folder) as cache, inductor.patch(compile_threads=1, fx_graph_cache=False):
        os.environ[name] = cache
        try:
            yield
        finally:
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _cpp_available() -> Availability:
    default, remedy = _COMPILERS.get(sys.platform, _ELSEWHERE)
    asked = os.environ.get("CXX", default)
    try:
        command = [asked] if sys.platform == "win32" else shlex.split(asked)
    except ValueError:  # a quotation without an end
        command = []
    if not command or shutil.which(command[0]) is None:
        return Availability(False, f"it needs a C++ compiler, and there is no '{asked}'; {remedy}")
    # python.org's builds for macOS and Windows carry them where torch finds them, wherever that is
    if sys.platform == "linux" and not Path(sysconfig.get_path("include"), "Python.h").is_file():
        return Availability(False, "it needs Python's headers; apt install python3-dev")
    return Availability(True)


RUNTIMES.add("compile", Compile("compile"))
