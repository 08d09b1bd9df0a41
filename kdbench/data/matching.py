"""Augmented images and the originals they were made from: what was found, and what speaks for it. Floor 3."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from kdbench.data.audit import NAMED
from kdbench.data.originals import Match, Overlap, match_originals, overlaps
from kdbench.data.source import Source
from kdbench.errors import DataError
from kdbench.findings import Fact, OriginalsFound
from kdbench.types import Progress

SIZE = (320, 240)
"""Width and height in pixels at which images are compared: that of augmented BCCD's images, half of its originals'."""


@dataclass(frozen=True)
class Augmented:
    """An image that was made from an original."""

    id: str
    path: Path
    label: str
    side: str
    digest: str


@dataclass(frozen=True)
class Matching:
    """All that was found of one source.

    Attributes:
        matches: one for each image, in their order.
        overlaps: the originals that show one place.
    """

    images: tuple[Augmented, ...]
    matches: tuple[Match, ...]
    overlaps: tuple[Overlap, ...]

    def table(self) -> str:
        """CSV with a line for each image: its original, and how sure that is."""
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("image", "sha256", "original", "inliers", "runner_up", "second", "mirrored", "scale"))
        for image, match in zip(self.images, self.matches, strict=True):
            found = (match.original or "", match.inliers, match.runner_up, match.second or "")
            writer.writerow((image.id, image.digest, *found, "yes" if match.mirrored else "no", f"{match.scale:.3f}"))
        return text.getvalue()


def match_source(
    source: Source, root: Path, images: Sequence[Augmented], progress: Progress | None = None
) -> Matching | None:
    """Match the images of a source to its originals; None if none are on this disk.

    Raises: DataError if an original cannot be read.
    """
    originals = source.originals(root)
    if not originals or not images:
        return None
    places = {**{image.id: image.path for image in images}, **originals}
    names = sorted(originals)

    def read(name: str) -> np.ndarray:
        grey = cv2.imread(str(places[name]), cv2.IMREAD_GRAYSCALE)
        if grey is None:
            raise DataError(f"{places[name]} cannot be decoded; get it again, or move the originals away")
        return grey if grey.shape == SIZE[::-1] else cv2.resize(grey, SIZE, interpolation=cv2.INTER_AREA)

    matches = match_originals([image.id for image in images], names, read, progress)
    return Matching(tuple(images), tuple(matches), tuple(overlaps(names, read, progress)))


def summarise_originals(source: Source, root: Path, matching: Matching) -> OriginalsFound:
    """What an audit says of a matching: how much was found, on which sides, and what speaks for it."""
    sides: defaultdict[str, set[str]] = defaultdict(set)
    for image, match in zip(matching.images, matching.matches, strict=True):
        if match.original:
            sides[image.side].add(match.original)
    on = {original: {side for side, held in sides.items() if original in held} for held in sides.values()
          for original in held}  # fmt: skip
    found = [match for match in matching.matches if match.original]
    inliers = [match.inliers for match in found] or [0]
    runners_up = [match.runner_up for match in found] or [0]
    crossing = [pair for pair in matching.overlaps if _across(on.get(pair.first, set()), on.get(pair.second, set()))]
    return OriginalsFound(
        source=source.name,
        images=len(matching.images),
        originals=len(source.originals(root)),
        found=len(found),
        share=len(found) / len(matching.images),
        validation=tuple(_evidence(source, root, matching)),
        by_split={side: len(held) for side, held in sorted(sides.items())},
        in_several_splits=sum(len(where - {"none"}) > 1 for where in on.values()),
        overlapping=len(matching.overlaps),
        overlapping_across=tuple(f"{pair.first} = {pair.second}" for pair in crossing),
        inliers_median=float(np.median(inliers)),
        inliers_p5=float(np.percentile(inliers, 5)),
        runner_up_median=float(np.median(runners_up)),
        runner_up_p95=float(np.percentile(runners_up, 95)),
    )


def _across(first: set[str], second: set[str]) -> bool:
    """Whether two originals of one place have images on two sides."""
    return any(one != other for one in first - {"none"} for other in second - {"none"})


def _evidence(source: Source, root: Path, matching: Matching) -> list[Fact]:
    """What the matching did not see and agrees with it."""
    facts: list[Fact] = []
    labels = source.original_labels(root)
    known = [
        (image, match, labels[match.original])
        for image, match in zip(matching.images, matching.matches, strict=True)
        if match.original and match.original in labels
    ]
    if known:
        odd = [(image, match) for image, match, label in known if label != image.label]
        said = "; ".join(f"{image.id} is {image.label}, {match.original} is not" for image, match in odd[:NAMED])
        facts.append(
            Fact(
                what="images whose label is that of their original, which the matching never saw",
                figure=f"{len(known) - len(odd):,} of {len(known):,}" + (f" ({said})" if said else ""),
            )
        )
    same_place = {frozenset((pair.first, pair.second)) for pair in matching.overlaps}
    others = [
        match.runner_up
        for match in matching.matches
        if match.original and match.second and frozenset((match.original, match.second)) not in same_place
    ]
    if others:
        facts.append(
            Fact(what="most inliers of an original that shows another place", figure=f"{max(others)}, of every image")
        )
        least = min(match.inliers for match in matching.matches if match.original)
        facts.append(Fact(what="fewest inliers of an original that was found", figure=str(least)))
    table = [
        (source.original_name(image.digest), match.original)
        for image, match in zip(matching.images, matching.matches, strict=True)
    ]
    if any(name for name, _ in table):
        agree = sum(name == original for name, original in table)
        facts.append(
            Fact(what="images with the original that the package's table gives", figure=f"{agree:,} of {len(table):,}")
        )
    if matching.overlaps:
        correlations = [pair.correlation for pair in matching.overlaps]
        facts.append(
            Fact(
                what="correlation of the pixels where two originals show one place",
                figure=f"{min(correlations):.2f} to {max(correlations):.2f}",
            )
        )
        clash = [
            f"{pair.first} {labels[pair.first]} = {pair.second} {labels[pair.second]}"
            for pair in matching.overlaps
            if pair.first in labels and pair.second in labels and labels[pair.first] != labels[pair.second]
        ]
        facts.append(Fact(what="originals of one place under two labels", figure="; ".join(clash) or "none"))
    return facts
