"""Names are found, duplicates and unknown names are errors."""

from __future__ import annotations

import pytest

from kdbench.errors import DuplicateName, UnknownName
from kdbench.registry import Registry


def test_entries_come_back_in_the_order_of_names() -> None:
    registry = Registry[int]("number")
    registry.add("two", 2)
    registry.add("one", 1)
    assert registry.names() == ("one", "two")
    assert list(registry) == [1, 2]
    assert len(registry) == 2
    assert "one" in registry
    assert "three" not in registry


def test_a_duplicate_is_refused_and_the_first_stays() -> None:
    registry = Registry[int]("number")
    registry.add("one", 1)
    with pytest.raises(DuplicateName, match="number 'one' is registered already"):
        registry.add("one", 2)
    assert registry.get("one") == 1


def test_an_unknown_name_lists_near_ones() -> None:
    registry = Registry[int]("model")
    for name in ("resnet18", "resnet50", "vit_tiny"):
        registry.add(name, 0)
    with pytest.raises(UnknownName, match="unknown model 'resnet81'; did you mean resnet18") as caught:
        registry.get("resnet81")
    assert "vit_tiny" not in caught.value.near


def test_nothing_near_lists_all() -> None:
    registry = Registry[int]("model")
    registry.add("a", 0)
    with pytest.raises(UnknownName, match="known: a"):
        registry.get("zzzzzz")


def test_a_package_is_discovered_at_the_first_look() -> None:
    from kdbench.data.source import SOURCES

    assert {"bccd", "pbc", "jtsc", "cellavision", "bccd_crops", "synthetic"} <= set(SOURCES.names())


def test_a_package_that_cannot_be_imported_does_not_pass_for_an_empty_one() -> None:
    registry = Registry[int]("thing", "kdbench.no_such_room")
    for _ in range(2):
        with pytest.raises(ModuleNotFoundError):
            registry.names()
