"""TensorRT through ONNX Runtime: what it needs, and in which order it is asked."""

import pytest

from kdbench.errors import RuntimeUnavailable
from kdbench.profiling.runtime import RUNTIMES, Setting, usable
from kdbench.profiling.runtimes import tensorrt as module

onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra kdbench[export]")
pytest.importorskip("onnx", reason="needs the extra kdbench[export]")
pytest.importorskip("onnxscript", reason="needs the extra kdbench[export]")

SETTING = Setting("tensorrt", device="cuda")
ALL = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]


@pytest.mark.parametrize(("first", "missing"), [(1, "TensorrtExecutionProvider"), (2, "CUDAExecutionProvider")])
def test_providers_that_are_missing(monkeypatch, with_cuda, first, missing):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ALL[first:])
    with pytest.raises(RuntimeUnavailable, match=f"no {missing}; .*pip install onnxruntime-gpu$"):
        usable(SETTING)


def test_itself_is_missing(monkeypatch, with_cuda):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ALL)
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    monkeypatch.setattr(module.ctypes.util, "find_library", lambda name: None)
    with pytest.raises(RuntimeUnavailable, match=r"pip install tensorrt$"):
        usable(SETTING)


@pytest.mark.parametrize("where", ["pip", "system"])
def test_all_is_there(monkeypatch, with_cuda, where):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ALL)
    monkeypatch.setattr(module, "find_spec", lambda name: name if where == "pip" else None)
    monkeypatch.setattr(module.ctypes.util, "find_library", lambda name: name if where == "system" else None)
    assert usable(SETTING) is RUNTIMES.get("tensorrt")


def test_on_cuda_alone():
    with pytest.raises(RuntimeUnavailable, match="does not run on cpu"):
        usable(Setting("tensorrt"))


def test_it_is_asked_first():
    options = {"device_id": 0}
    assert RUNTIMES.get("tensorrt").providers(options) == [(name, options) for name in ALL[:2]]
