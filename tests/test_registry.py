"""Registries find their entries by themselves and refuse what they cannot tell apart."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kdbench.errors import DuplicateName, KdbenchError, UnknownName
from kdbench.registry import Registry


@pytest.fixture
def make_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """A package on the disk that holds a registry REG and these modules."""
    made: list[str] = []

    def make(**modules: str) -> str:
        name = f"kdbench_planted_{len(made)}"
        folder = tmp_path / name
        folder.mkdir()
        (folder / "__init__.py").write_text(
            f"from kdbench.registry import Registry\nREG = Registry('thing', '{name}.parts')\n"
        )
        (folder / "parts").mkdir()
        (folder / "parts" / "__init__.py").write_text("")
        for module, text in modules.items():
            text = f"from {name} import REG\n{textwrap.dedent(text)}"
            (folder / "parts" / f"{module}.py").write_text(text)
        made.append(name)
        return name

    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield make
    for module in [module for module in sys.modules if module.startswith("kdbench_planted_")]:
        del sys.modules[module]


def registry_of(name: str) -> Registry[int]:
    return __import__(name).REG


def test_modules_are_found_at_the_first_look(make_package: Callable[..., str]) -> None:
    name = make_package(b="REG.add('bee', 2)", a="REG.add('ant', 1)")
    registry = registry_of(name)
    assert f"{name}.parts.a" not in sys.modules
    assert registry.names() == ("ant", "bee")
    assert list(registry) == [1, 2]
    assert len(registry) == 2
    assert "bee" in registry
    assert "cow" not in registry
    assert registry.get("bee") == 2


def test_a_dropped_in_file_is_an_entry(make_package: Callable[..., str], tmp_path: Path) -> None:
    name = make_package()
    (tmp_path / name / "parts" / "late.py").write_text(f"from {name} import REG\nREG.add('late', 3)\n")
    assert registry_of(name).names() == ("late",)


def test_unknown_name_lists_near_ones() -> None:
    registry: Registry[int] = Registry("model")
    for entry in ("resnet18", "resnet50", "vit_tiny"):
        registry.add(entry, 1)
    with pytest.raises(UnknownName, match="unknown model 'resnet19'; did you mean") as caught:
        registry.get("resnet19")
    assert caught.value.near[0] == "resnet18"
    assert "vit_tiny" not in caught.value.near
    assert isinstance(caught.value, KdbenchError)
    assert caught.value.__cause__ is None


def test_unknown_name_without_near_ones_lists_all() -> None:
    registry: Registry[int] = Registry("model")
    registry.add("resnet18", 1)
    with pytest.raises(UnknownName, match="unknown model 'zzz'; known: resnet18"):
        registry.get("zzz")
    with pytest.raises(UnknownName, match="known: none"):
        Registry("model").get("zzz")


def test_duplicate_is_refused_and_the_first_stays() -> None:
    registry: Registry[int] = Registry("method")
    assert registry.add("kd", 1) == 1
    with pytest.raises(DuplicateName, match="the method 'kd' is registered already"):
        registry.add("kd", 2)
    assert registry.get("kd") == 1


def test_a_duplicate_in_a_file_is_no_silent_replacement(make_package: Callable[..., str]) -> None:
    registry = registry_of(make_package(a="REG.add('kd', 1)", b="REG.add('kd', 2)"))
    with pytest.raises(DuplicateName):
        registry.names()


def test_modules_may_look_up_their_neighbours(make_package: Callable[..., str]) -> None:
    registry = registry_of(make_package(a="REG.add('base', 1)", b="REG.add('twice', 2 * REG.get('base'))"))
    assert registry.get("twice") == 2


def test_a_broken_module_is_not_hidden_at_the_second_look(make_package: Callable[..., str]) -> None:
    registry = registry_of(make_package(a="REG.add('ant', 1)", b="raise RuntimeError('broken file')"))
    for _ in range(2):
        with pytest.raises(RuntimeError, match="broken file"):
            registry.get("ant")


@pytest.mark.parametrize(
    ("module", "registry", "some"),
    [
        ("kdbench.model", "MODELS", {"resnet18", "vit_micro"}),
        ("kdbench.method", "METHODS", {"ce", "kd"}),
        ("kdbench.data.source", "SOURCES", {"bccd", "bccd_crops", "cellavision", "jtsc", "pbc", "synthetic"}),
        ("kdbench.report.column", "COLUMNS", {"accuracy", "gain"}),
    ],
)
def test_shipped_registries_are_filled(module: str, registry: str, some: set[str]) -> None:
    found = getattr(__import__(module, fromlist=[registry]), registry)
    assert some <= set(found.names())
