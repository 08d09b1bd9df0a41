"""How a data set is split, by name and version: the contract of a file in ``data/protocols/``. Floor 3.

A split that lets a model see at test time what it knows from training is refused, unless its protocol says that it
leaks: then every table says so too.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

from kdbench.data.mixed import UNIONS
from kdbench.data.source import SOURCES
from kdbench.data.splits import Member
from kdbench.errors import ConfigError
from kdbench.registry import Registry
from kdbench.types import DatasetSpec, SplitName


@dataclass(frozen=True)
class Arrangement:
    """Members with the sides they must be on, and those that can be on none.

    Attributes:
        members: in the order they came in, with their sides and groups set.
        left_out: why, by the place in that order.
    """

    members: tuple[Member, ...]
    left_out: Mapping[int, str] = field(default_factory=dict)


class Protocol(ABC):
    """A named way to share images out. A subclass registers an instance: ``PROTOCOLS.add(name, MyProtocol())``."""

    name: ClassVar[str]
    title: ClassVar[str]
    """What it does, in one line."""
    version: ClassVar[int] = 1
    """Raised when the same images would be shared out in another way."""
    leak: ClassVar[str] = ""
    """Why a model may know test images from training; empty: it does not."""
    folds: ClassVar[int] = 1
    datasets: ClassVar[tuple[str, ...]] = ()
    """The data sets it is for; empty: all."""
    from_file: ClassVar[bool] = False
    """Whether the sides stand in a file beside the images; its content then belongs to the data."""

    @abstractmethod
    def arrange(self, members: Sequence[Member], spec: DatasetSpec, root: Path) -> Arrangement:
        """Say which side each member must be on; what has none is shared out by the fractions of the spec.

        Args:
            members: their groups are what belongs together, their sides what the publisher gives.
            root: the data root.
        Raises: DataError, MissingData, SplitLeak.
        """

    @property
    def label(self) -> str:
        """Its name and version, as tables show it."""
        return f"{self.name} v{self.version}"


PROTOCOLS: Registry[Protocol] = Registry("protocol", "kdbench.data.protocols")


def usual_protocol(dataset: str) -> str:
    """The protocol of a data set where none is named."""
    return SOURCES.get(dataset).protocol if dataset in SOURCES else "stratified-grouped"


def protocol_of(spec: DatasetSpec) -> Protocol:
    """The protocol a spec asks for.

    Raises: UnknownName; ConfigError if it is not for this data set, or its fold or held-out source does not exist.
    """
    protocol = PROTOCOLS.get(spec.protocol or usual_protocol(spec.name))
    problems = []
    if protocol.datasets and spec.name not in protocol.datasets:
        problems.append(f"protocol '{protocol.name}' is for {', '.join(protocol.datasets)}, not for '{spec.name}'")
    if spec.fold >= protocol.folds:
        known = f"0 to {protocol.folds - 1}" if protocol.folds > 1 else "0 alone"
        problems.append(f"protocol '{protocol.name}' has no fold {spec.fold}; it has {known}")
    if protocol.name == LEAVE_ONE_OUT:
        parts = (spec.sources or UNIONS.get(spec.name).sources) if spec.name in UNIONS else ()
        if not parts:
            problems.append(f"protocol '{protocol.name}' is for a union of sources, not for '{spec.name}'")
        elif spec.held_out not in parts:
            said = f"'{spec.held_out}' is none of them" if spec.held_out else "held_out names it"
            problems.append(f"protocol '{protocol.name}' tests on one of {', '.join(parts)}; {said}")
    elif spec.held_out:
        problems.append(f"held_out goes with protocol '{LEAVE_ONE_OUT}', not with '{protocol.name}'")
    if problems:
        raise ConfigError([f"dataset '{spec.name}': {problem}" for problem in problems])
    return protocol


LEAVE_ONE_OUT = "leave-one-source-out"


def resolved_protocol(spec: DatasetSpec) -> dict[str, object]:
    """What of it stands in a resolved spec: the usual one has no name there, whether it was asked for or not."""
    protocol = protocol_of(spec)
    name = "" if protocol.name == usual_protocol(spec.name) else protocol.name
    return {"protocol": name, "protocol_version": protocol.version}


def as_published(members: Sequence[Member]) -> Arrangement:
    """Keep the sides the publisher gives, less the training images that belong together with one tested on.

    The test images stay as published, so figures can be compared; of a group on two sides the later side keeps its own.
    """
    sides: dict[str, set[SplitName]] = {}
    for member in members:
        if member.fold:
            sides.setdefault(member.group, set()).add(member.fold)
    order: tuple[SplitName, ...] = ("train", "val", "test")
    last = {group: max(found, key=order.index) for group, found in sides.items()}
    left_out = {
        number: f"belongs together with images of the {last[member.group]} side"
        for number, member in enumerate(members)
        if member.fold and member.fold != last[member.group]
    }
    return Arrangement(tuple(members), left_out)


def without_sides(members: Sequence[Member]) -> tuple[Member, ...]:
    """The same, the publisher's sides forgotten."""
    return tuple(replace(member, fold=None) for member in members)
