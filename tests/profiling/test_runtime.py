"""The registry of runtimes and its contract."""

import pytest

from kdbench.errors import RuntimeUnavailable, UnknownName
from kdbench.profiling import runtime as runtime_module
from kdbench.profiling.runtime import RUNTIMES, Availability, usable
from kdbench.registry import Registry


class Absent:
    name = "absent"
    precision = "fp32"

    def available(self):
        return Availability(False, "install it with: pip install absent")

    def prepare(self, model, example):
        raise AssertionError("never asked")


def test_eager_is_found():
    assert usable("eager") is RUNTIMES.get("eager")


@pytest.mark.parametrize("runtime", list(RUNTIMES), ids=lambda runtime: runtime.name)
def test_contract(runtime):
    assert RUNTIMES.get(runtime.name) is runtime
    assert runtime.precision in ("fp32", "bf16")
    found = runtime.available()
    assert found or found.reason


def test_unknown_runtime():
    with pytest.raises(UnknownName, match="did you mean eager"):
        usable("eagre")


def test_unavailable_runtime_says_why(monkeypatch):
    registry = Registry("runtime")
    registry.add("absent", Absent())
    monkeypatch.setattr(runtime_module, "RUNTIMES", registry)
    with pytest.raises(RuntimeUnavailable, match="pip install absent"):
        usable("absent")
