"""Unions of sources under the five harmonised labels."""

from __future__ import annotations

from dataclasses import dataclass

from kdbench.data.labels import LEUKOCYTES
from kdbench.registry import Registry


@dataclass(frozen=True)
class Union:
    """A data set made of several sources; those that are on the disk take part, and the record says which."""

    name: str
    title: str
    sources: tuple[str, ...]
    labels: tuple[str, ...] = LEUKOCYTES


UNIONS: Registry[Union] = Registry("union of sources")

UNIONS.add(
    "mixed",
    Union("mixed", "leukocytes of several laboratories, five classes", ("pbc", "jtsc", "cellavision", "bccd_crops")),
)
