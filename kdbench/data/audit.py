"""What there is to say of a data set before anything is trained on it. Floor 3."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kdbench.data.cache import in_threads
from kdbench.data.dataset import LABEL_CONFLICT, listings, open_dataset, published_differences
from kdbench.data.files import StoredFile
from kdbench.data.source import Item, Source
from kdbench.findings import ODD_KINDS, OddFiles, OddKind
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
        odd: files that are no plain 8-bit RGB images under their own name, by kind.
        left_out: what is not in the data set, by reason.
        conflicts: groups of byte-identical images under different labels.
        warnings: a line for each kind of finding; empty if there is nothing to say.
    """

    card: DataCard
    sizes: ImageSizes | None
    odd: tuple[OddFiles, ...]
    left_out: dict[str, tuple[LeftOut, ...]]
    conflicts: tuple[str, ...]
    warnings: tuple[str, ...]


def audit(spec: DatasetSpec, root: Path, cache: Path, progress: Progress | None = None) -> Audit:
    """Decode every image of a data set and look at its labels, sides and files.

    Raises: what `open_dataset` raises: then nothing can be trained on it.
    """
    data = open_dataset(spec, root, cache, progress)
    card = data.card
    left_out = by_reason(card)
    conflicts = tuple(caveat for caveat in card.caveats if caveat.startswith(LABEL_CONFLICT))
    parts = listings(data.spec, root)
    warnings = [*_thin_classes(card), *published_differences(parts)]
    if conflicts:
        warnings.append(f"groups of byte-identical images under different labels: {len(conflicts)}")
    if card.duplicates:
        kept = "" if card.leak else "; each group is kept on one side"
        warnings.append(f"{card.duplicates} images share their bytes with another{kept}")
    if left_out:
        warnings.append(f"files or lines left out: {sum(entry.count for entry in card.left_out)}")
    files = [(source, item) for source, found in parts for item in found.items]
    odd, stored = odd_files(files, data.bad, spec.name, progress)
    sizes = _sizes([file for _, file in stored])
    return Audit(card, sizes, odd, left_out, conflicts, tuple(warnings))


def by_reason(card: DataCard) -> dict[str, tuple[LeftOut, ...]]:
    """What is not in a data set, by reason."""
    found: defaultdict[str, list[LeftOut]] = defaultdict(list)
    for entry in card.left_out:
        found[entry.reason].append(entry)
    return {reason: tuple(entries) for reason, entries in found.items()}


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


def odd_files(
    files: Sequence[tuple[Source, Item]], bad: Mapping[str, str], name: str, progress: Progress | None
) -> tuple[tuple[OddFiles, ...], list[tuple[Source, StoredFile]]]:
    """Look at the heads of files.

    Args:
        files: all of a data set, those that cannot be decoded too.
        bad: why, by id, of those.
        name: of the data set.
    Returns: what is odd, by kind; and the files that can be decoded, as they are stored. Nothing of drawn images.
    """
    files = [(source, item) for source, item in files if item.path is not None]

    def head(one: tuple[Source, Item]) -> StoredFile:
        source, item = one
        return source.look(item)

    stored = in_threads(head, files, f"looking at the files of {name}", progress)
    named: dict[OddKind, list[str]] = {kind: [] for kind in ODD_KINDS}
    for (_, item), file in zip(files, stored, strict=True):
        odd = dict(file.odd)
        if item.id in bad and not {"empty", "foreign"} & set(odd):
            odd["damaged"] = bad[item.id]
        for kind, seen in odd.items():
            named[kind].append(f"{item.id} ({seen})" if seen else item.id)
    decoded = [(source, file) for (source, item), file in zip(files, stored, strict=True) if item.id not in bad]
    found = [
        OddFiles(kind=kind, count=len(every), named=tuple(every[:NAMED])) for kind, every in named.items() if every
    ]
    return tuple(found), decoded


def _sizes(files: Sequence[StoredFile]) -> ImageSizes | None:
    """From the heads of the files: the decoded images have all one size."""
    if not files:
        return None
    modes = Counter(file.mode for file in files)
    return ImageSizes(
        spread([file.width for file in files]), spread([file.height for file in files]), dict(modes.most_common())
    )


def spread(values: Sequence[int]) -> tuple[int, float, int]:
    """The smallest, the median and the largest."""
    return min(values), statistics.median(values), max(values)
