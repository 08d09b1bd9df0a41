"""torch.compile as a runtime: compiled once, before it is timed, and without what was compiled earlier."""

import sys
from functools import partial

import little
import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from kdbench.errors import ProfileError
from kdbench.profiling.runtime import Setting, Source, prepare
from kdbench.profiling.runtimes import compile as compiling
from kdbench.profiling.runtimes.compile import Compile

EXAMPLE = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))

needs_a_compiler = pytest.mark.skipif(not Compile().available(), reason=Compile().available().reason)


class Failing(nn.Module):
    def forward(self, image):
        raise ValueError("no such layer\nand more about it")


def graphs():
    """How many torch has compiled so far."""
    return counters["stats"]["unique_graphs"]


@pytest.fixture
def ready(tmp_path):
    def of(load, precision="fp32"):
        return prepare(Compile("compile"), Source(load, 16, tmp_path), Setting("compile", precision, 2), EXAMPLE)

    return of


@needs_a_compiler
def test_compiled_once_and_before(ready, capfd):
    before = graphs()
    run = ready(little.small)
    assert graphs() == before + 1
    logits = [run() for _ in range(3)]
    assert graphs() == before + 1
    with torch.inference_mode():
        expected = little.small()(EXAMPLE)
    assert all(torch.allclose(given, expected, atol=1e-6) for given in logits)
    assert capfd.readouterr() == ("", "")


@needs_a_compiler
@pytest.mark.slow
def test_in_bf16(ready):
    logits = ready(little.small, "bf16")()
    with torch.inference_mode():
        expected = little.small()(EXAMPLE)
    assert logits.dtype is torch.bfloat16
    assert torch.allclose(logits.float(), expected, atol=0.01)


@needs_a_compiler
@pytest.mark.slow
def test_many_networks_of_one_class(ready):
    for classes in range(2, 2 + torch._dynamo.config.recompile_limit + 2):
        before = graphs()
        ready(partial(little.small, classes))
        assert graphs() == before + 1  # beyond the limit, torch would run it uncompiled


def test_errors_are_one_line(ready):
    with pytest.raises(ProfileError, match=r"^compile cannot run the network: no such layer$"):
        ready(Failing)


@pytest.mark.skipif(sys.platform == "win32", reason="the compiler is found in another way")
def test_a_compiler_that_does_not_work(ready, monkeypatch):
    import torch._inductor.config as config

    monkeypatch.setattr(config.cpp, "cxx", (None, "/no/such/compiler"))
    with pytest.raises(ProfileError, match=r"^compile cannot run the network: .*C\+\+ compiler.*/no/such/compiler"):
        ready(partial(little.small, 7))


@pytest.mark.parametrize(
    ("platform", "command", "remedy"),
    [("linux", "g++", "apt install g"), ("darwin", "clang++", "xcode-select"), ("win32", "cl", "winget install")],
)
def test_no_compiler(monkeypatch, platform, command, remedy):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(compiling.shutil, "which", lambda name: None)
    found = Compile().available()
    assert not found
    assert f"'{command}'; {remedy}" in found.reason


def test_the_compiler_that_is_asked_for(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    asked = []
    monkeypatch.setattr(compiling.shutil, "which", lambda name: asked.append(name))
    monkeypatch.setenv("CXX", "ccache g++")
    assert "'ccache g++'" in Compile().available().reason
    for senseless in ("", "'g++"):
        monkeypatch.setenv("CXX", senseless)
        assert not Compile().available()
    assert asked == ["ccache"]


def test_no_headers(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(compiling.shutil, "which", lambda name: name)
    monkeypatch.setattr(compiling.sysconfig, "get_path", lambda which: str(tmp_path))
    assert Compile().available().reason.endswith("apt install python3-dev")
    (tmp_path / "Python.h").touch()
    assert Compile().available()


def test_on_cuda(monkeypatch, with_cuda):
    monkeypatch.setattr(compiling, "find_spec", lambda name: None)
    assert Compile().available("cuda").reason.endswith("pip install triton")
    monkeypatch.setattr(compiling, "find_spec", lambda name: name)
    monkeypatch.setattr(compiling.shutil, "which", lambda name: None)
    assert Compile().available("cuda").reason.endswith("apt install gcc")
    monkeypatch.setattr(compiling.shutil, "which", lambda name: name)
    assert Compile().available("cuda")
