"""The sides its publisher gives."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kdbench.data.protocol import PROTOCOLS, Arrangement, Protocol, as_published
from kdbench.data.splits import Member
from kdbench.errors import DataError
from kdbench.types import DatasetSpec


class Official(Protocol):
    name = "official"
    title = "the publisher's sides; images that belong together with those of a later side are left out"

    def arrange(self, members: Sequence[Member], spec: DatasetSpec, root: Path) -> Arrangement:
        if not any(member.fold == "test" for member in members):
            raise DataError(
                f"{spec.name}: its publisher gives no test side, so there is no official split; "
                "take protocol: stratified-grouped"
            )
        return as_published(members)


PROTOCOLS.add("official", Official())
