"""Named things found by themselves: drop a file into the package and it is there.

Floor 1. A registry imports the modules of its package at the first look-up, so that ``import kdbench`` stays cheap,
and it refuses what it cannot tell apart: a duplicate or an unknown name is an error, with near matches.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Generic, TypeVar

from kdbench.errors import DuplicateName, UnknownName

T = TypeVar("T")


class Registry(Generic[T]):
    """A mapping from names to entries of one kind.

    Args:
        kind: what an entry is, for messages ("model", "method").
        package: the dotted package whose modules register entries when imported; None if entries are added by hand.
    """

    def __init__(self, kind: str, package: str | None = None) -> None:
        self.kind = kind
        self._package = package
        self._entries: dict[str, T] = {}
        self._discovered = package is None

    def add(self, name: str, entry: T) -> T:
        """Register and return the entry. Raises: DuplicateName."""
        if name in self._entries:
            raise DuplicateName(self.kind, name)
        self._entries[name] = entry
        return entry

    def get(self, name: str) -> T:
        """The entry of that name. Raises: UnknownName, with near matches."""
        self._discover()
        try:
            return self._entries[name]
        except KeyError:
            raise UnknownName(self.kind, name, self._entries) from None

    def names(self) -> tuple[str, ...]:
        """All names, sorted."""
        self._discover()
        return tuple(sorted(self._entries))

    def __contains__(self, name: object) -> bool:
        self._discover()
        return name in self._entries

    def __iter__(self) -> Iterator[T]:
        """All entries in the order of their names."""
        return iter([self._entries[name] for name in self.names()])

    def __len__(self) -> int:
        self._discover()
        return len(self._entries)

    def _discover(self) -> None:
        if self._discovered or self._package is None:
            return
        self._discovered = True  # set first: a module of the package may look up its neighbours while it is imported
        try:
            package = importlib.import_module(self._package)
            for module in sorted(pkgutil.iter_modules(package.__path__), key=lambda found: found.name):
                importlib.import_module(f"{self._package}.{module.name}")
        except BaseException:
            self._discovered = False  # a half-filled registry must not pass for a whole one
            raise
