"""What there is to say of a data set before anything is trained on it. Floor 3."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kdbench.data.cache import in_threads
from kdbench.data.dataset import LABEL_CONFLICT, Dataset, listings, open_dataset, published_differences
from kdbench.data.source import Item, Listing, Source
from kdbench.types import DataCard, DatasetSpec, LeftOut, Progress

FEW_IMAGES = 10
"""Of a class on one side: with fewer, one image is more than 10 points of that class's recall."""

NAMED = 20
"""Examples given of one finding; the rest is counted."""


@dataclass(frozen=True)
class ImageSizes:
    """Of the files as they lie on the disk: (smallest, median, largest) in pixels, and images by PIL's mode."""

    width: tuple[int, float, int]
    height: tuple[int, float, int]
    modes: dict[str, int]


@dataclass(frozen=True)
class Audit:
    """What was found.

    Attributes:
        sizes: None for drawn images.
        left_out: what is not in the data set, by reason.
        conflicts: groups of byte-identical images under different labels.
        warnings: a line for each kind of finding; empty if there is nothing to say.
    """

    card: DataCard
    sizes: ImageSizes | None
    left_out: dict[str, tuple[LeftOut, ...]]
    conflicts: tuple[str, ...]
    warnings: tuple[str, ...]


def audit(spec: DatasetSpec, root: Path, cache: Path, progress: Progress | None = None) -> Audit:
    """Decode every image of a data set and look at its labels, sides and files.

    Raises: what `open_dataset` raises: then nothing can be trained on it.
    """
    data = open_dataset(spec, root, cache, progress)
    card = data.card
    left_out: dict[str, list[LeftOut]] = defaultdict(list)
    for entry in card.left_out:
        left_out[entry.reason].append(entry)
    conflicts = tuple(caveat for caveat in card.caveats if caveat.startswith(LABEL_CONFLICT))
    parts = listings(data.spec, root)
    warnings = [*_thin_classes(card), *published_differences(parts)]
    if conflicts:
        warnings.append(f"groups of byte-identical images under different labels: {len(conflicts)}")
    if card.duplicates:
        warnings.append(f"{card.duplicates} images share their bytes with another; each group is kept on one side")
    if left_out:
        warnings.append(f"files or lines left out: {sum(entry.count for entry in card.left_out)}")
    sizes = _sizes(data, parts, progress)
    return Audit(card, sizes, {why: tuple(found) for why, found in left_out.items()}, conflicts, tuple(warnings))


def _thin_classes(card: DataCard) -> list[str]:
    warnings: list[str] = []
    for side, counts in card.splits.items():
        none = [label for label in card.classes if not counts.get(label)]
        few = [f"{label} ({counts[label]})" for label in card.classes if 0 < counts.get(label, 0) < FEW_IMAGES]
        if none:
            warnings.append(f"{side} has no image of {_first(none)}")
        if few:
            warnings.append(f"{side} has fewer than {FEW_IMAGES} images of {_first(few)}")
    return warnings


def _first(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _sizes(data: Dataset, parts: Sequence[tuple[Source, Listing]], progress: Progress | None) -> ImageSizes | None:
    """From the heads of the files: the decoded images have all one size."""
    taken = set(data.ids)
    stored = [(source, item) for source, found in parts for item in found.items if item.path and item.id in taken]
    if not stored:
        return None

    def head(one: tuple[Source, Item]) -> tuple[int, int, str]:
        source, item = one
        return source.measure(item)

    widths, heights, modes = zip(*in_threads(head, stored, f"measuring {data.spec.name}", progress), strict=True)
    return ImageSizes(_spread(widths), _spread(heights), dict(Counter(modes).most_common()))


def _spread(values: Sequence[int]) -> tuple[int, float, int]:
    return min(values), statistics.median(values), max(values)
