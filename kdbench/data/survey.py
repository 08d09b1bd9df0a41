"""The whole audit of a data set: its images compared with each other, its files and its colours looked at. Floor 3."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from kdbench import environment
from kdbench.data.audit import NAMED, odd_files, spread
from kdbench.data.cache import in_threads, index_source, open_source
from kdbench.data.colours import measure_colours, summarise
from kdbench.data.dataset import Dataset, listings, open_dataset, published_differences
from kdbench.data.matching import Augmented, match_source, summarise_originals
from kdbench.data.source import SOURCES, Item, Listing, Source
from kdbench.data.twins import SIDE, TURNS, Twins, find_twins, limits, turned
from kdbench.errors import BadImage, ConfigError, DataError
from kdbench.findings import AuditRecord, Colours, ImagePair, OriginalsFound, PairCounts, PairedImage, StoredShapes
from kdbench.store import write_atomic
from kdbench.types import DatasetSpec, LeftOut, Progress, SplitName

PAIRS_NAMED = 200
"""Pairs of one kind that a record names; the rest is counted."""

_BLOCK = 256  # images at once in memory at full size


@dataclass(frozen=True)
class _Image:
    """One image that is compared."""

    item: Item
    source: Source
    digest: str
    side: SplitName | str

    @property
    def paired(self) -> PairedImage:
        return PairedImage.model_validate(
            {"id": self.item.id, "source": self.source.name, "label": self.item.label, "side": self.side}
        )

    @property
    def origins(self) -> set[str]:
        """The names of what it is a copy or a part of, where the source says so. Elsewhere what is known to show one
        cell is still worth a line: only of copies made by the thousand the number is enough.
        """
        original = self.source.origin(self.item, self.digest) if self.source.augmented else None
        groups = {f"group {self.source.name}/{self.item.group}"} if self.item.group else set()
        return groups | ({f"original {original}"} if original else set())


def survey(
    spec: DatasetSpec,
    root: Path,
    cache: Path,
    progress: Progress | None = None,
    command: str = "",
    mapping: Path | None = None,
) -> AuditRecord:
    """Compare all images of a data set, and look at its files and colours.

    Args:
        spec: image_size is what images are compared and coloured at, SIDE or more; whole images are stretched to it.
        command: what asked for it, for the record.
        mapping: a CSV file to write, with the original of each image and how sure that is, where there are originals.
    Raises: what `open_dataset` raises; ConfigError if the images would be too small to compare.
    """
    if spec.image_size < SIDE:
        raise ConfigError([f"image size {spec.image_size} is too small to compare images; take {SIDE} or more"])
    began, started = time.perf_counter(), datetime.now(UTC).isoformat(timespec="seconds")
    machine = environment.collect(environment.usable_cores())
    # whole images: of a centre crop a quarter turn would not be the same picture, and corners would not count
    data = open_dataset(spec.model_copy(update={"fit": "stretch", "crop_fraction": 1.0}), root, cache, progress)
    parts = listings(data.spec, root)
    images = _members(data, parts, cache, progress)
    nearby = [(source, Listing(source.beside(root))) for source, _ in parts]
    extra, extra_left_out, read_extra = _beside(data, nearby, cache, progress)

    def read(rows: np.ndarray) -> np.ndarray:
        own = rows < len(images)
        taken = [data.images(rows[own])] if own.any() else []
        return np.concatenate([*taken, read_extra(rows[~own] - len(images))]) if not own.all() else taken[0]

    every = [*images, *extra]
    thumbs, measures = _look(read, len(every), spec.image_size, f"looking at {spec.name}", progress)
    exact = _exact(every)
    near, copies, blank = _near(every, exact, thumbs, progress, spec.name)
    pairs = {"exact": [_exact_pair(every, group[0], other) for group in exact for other in group[1:]], "near": near}
    left_out = (*data.card.left_out, *extra_left_out)
    files = [(source, item) for source, found in (*parts, *nearby) for item in found.items]
    bad = {**data.bad, **{entry.path: entry.reason for entry in extra_left_out}}
    odd, stored = odd_files(files, bad, spec.name, progress)
    return AuditRecord(
        name=spec.name,
        sources=data.card.sources,
        classes=data.classes,
        splits=data.card.splits,
        protocol=data.card.protocol,
        content_hash=data.spec.content,
        images=len(every),
        beside=dict(Counter(image.source.name for image in extra)),
        exact_groups=len(exact),
        exact_images=sum(map(len, exact)),
        counts={"exact": _counts(pairs["exact"]), "near": _counts(pairs["near"])},
        copies=copies,
        blank=blank,
        pairs=tuple(pair for kind in ("exact", "near") for pair in sorted(pairs[kind], key=_order)[:PAIRS_NAMED]),
        odd=odd,
        left_out=_shortened(left_out),
        differences=tuple(published_differences(parts)),
        shapes=tuple(
            StoredShapes(
                source=source.name,
                width=spread([file.width for file in here]),
                height=spread([file.height for file in here]),
                formats=dict(Counter(file.format for file in here).most_common()),
                modes=dict(Counter(file.mode for file in here).most_common()),
            )
            for source, _ in parts
            if (here := [file for own, file in stored if own is source])
        ),
        colours=_colours(every, measures, data.classes),
        originals=_originals(parts, every, root, mapping, progress),
        limits=limits(),
        image_size=spec.image_size,
        seconds=round(time.perf_counter() - began, 1),
        environment=environment.finished(machine),
        command=command,
        started=started,
    )


def _members(
    data: Dataset, parts: Sequence[tuple[Source, Listing]], cache: Path, progress: Progress | None
) -> list[_Image]:
    """The images of the data set, in its order, with their sides."""
    side: dict[str, str] = {data.ids[index]: name for name, rows in data.splits.items() for index in rows}
    known: dict[str, _Image] = {}
    for source, found in parts:
        listing, digests, _ = index_source(source, found, cache, data.spec.options, progress)
        for item, digest in zip(listing.items, digests, strict=True):
            known[item.id] = _Image(item, source, digest, side.get(item.id, "none"))
    return [known[name] for name in data.ids]


def _beside(
    data: Dataset, nearby: Sequence[tuple[Source, Listing]], cache: Path, progress: Progress | None
) -> tuple[list[_Image], list[LeftOut], Callable[[np.ndarray], np.ndarray]]:
    """The images that lie beside the data set; those of them that cannot be decoded; what reads them by number."""
    images: list[_Image] = []
    left_out: list[LeftOut] = []
    arrays: list[np.ndarray] = []
    for source, found in nearby:
        if not found.items:
            continue
        opened = open_source(source, found, data.spec, cache, progress)
        good = [row for row, item in enumerate(opened.items) if item.id not in opened.bad]
        images += [_Image(opened.items[row], source, opened.digests[row], "none") for row in good]
        left_out += [LeftOut(path=name, reason=reason) for name, reason in sorted(opened.bad.items())]
        arrays.append(np.asarray(opened.images[good]))
    together = np.concatenate(arrays) if arrays else np.zeros((0, data.spec.image_size, data.spec.image_size, 3), "u1")
    return images, left_out, lambda rows: together[rows]


def _look(
    read: Callable[[np.ndarray], np.ndarray], count: int, size: int, what: str, progress: Progress | None
) -> tuple[np.ndarray, np.ndarray]:
    """Every image small enough to compare, (N, SIDE, SIDE, 3) uint8, and the measures of its colours, (N, 20)."""
    thumbs = np.empty((count, SIDE, SIDE, 3), np.uint8)

    def block(start: int) -> list[np.ndarray]:
        rows = np.arange(start, min(start + _BLOCK, count))
        images = read(rows)
        for row, image in zip(rows, images, strict=True):
            thumbs[row] = image if size == SIDE else cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        return [measure_colours(image) for image in images]

    measured = in_threads(block, range(0, count, _BLOCK), what, progress)
    return thumbs, np.stack([row for part in measured for row in part])


def _exact(images: Sequence[_Image]) -> list[list[int]]:
    """Groups of images with the same bytes, each in the order of the images."""
    same: dict[str, list[int]] = defaultdict(list)
    for index, image in enumerate(images):
        same[image.digest].append(index)
    return [group for group in same.values() if len(group) > 1]


def _near(
    images: Sequence[_Image], exact: Sequence[Sequence[int]], thumbs: np.ndarray, progress: Progress | None, name: str
) -> tuple[list[ImagePair], int, int]:
    """Pairs of images that show the same; how many more are copies of one original; how many images are blank."""
    repeats = {other for group in exact for other in group[1:]}
    rows = np.asarray([index for index in range(len(images)) if index not in repeats])
    twins, blank = find_twins(thumbs[rows], progress, name)
    found: list[ImagePair] = []
    copies = 0
    origins: dict[int, set[str]] = {}
    for number, (first, second) in enumerate(rows[twins.pairs].tolist()):
        for index in (first, second):
            if index not in origins:
                origins[index] = images[index].origins
        pair = _near_pair(images[first], images[second], twins, number)
        # a copy under another label, or on another side, is what an audit is for
        if origins[first] & origins[second] and not pair.conflict and not pair.sides:
            copies += 1
        else:
            found.append(pair)
    return found, copies, int(blank.sum())


def _near_pair(first: _Image, second: _Image, twins: Twins, number: int) -> ImagePair:
    return ImagePair(
        kind="near",
        first=first.paired,
        second=second.paired,
        turn=TURNS[twins.turns[number]],
        hash_distance=int(twins.distances[number]),
        detail=round(float(twins.details[number]), 4),
    )


def _exact_pair(images: Sequence[_Image], first: int, second: int) -> ImagePair:
    return ImagePair(kind="exact", first=images[first].paired, second=images[second].paired)


def _counts(pairs: Sequence[ImagePair]) -> PairCounts:
    return PairCounts(
        pairs=len(pairs),
        conflicts=sum(pair.conflict for pair in pairs),
        across_sides=sum(bool(pair.sides) for pair in pairs),
        by_sides=dict(sorted(Counter(" / ".join(pair.sides) for pair in pairs if pair.sides).items())),
        across_sources=sum(pair.across_sources for pair in pairs),
    )


def _order(pair: ImagePair) -> tuple[bool, bool, bool, bool, float, str, str]:
    """What matters most first, then what is surest."""
    return (
        not pair.conflict,
        "test" not in pair.sides,
        not pair.sides,
        not pair.across_sources,
        -pair.detail,
        pair.first.id,
        pair.second.id,
    )


def _shortened(left_out: Sequence[LeftOut]) -> tuple[LeftOut, ...]:
    """The first of each reason, then how many more; what is left out stays counted."""
    by_reason: dict[str, list[LeftOut]] = defaultdict(list)
    for entry in left_out:
        by_reason[entry.reason].append(entry)
    short: list[LeftOut] = []
    for reason, entries in by_reason.items():
        short += entries[:NAMED]
        if more := sum(entry.count for entry in entries[NAMED:]):
            short.append(LeftOut(path=f"and {more} more", reason=reason, count=more))
    return tuple(short)


def _colours(images: Sequence[_Image], measures: np.ndarray, classes: Sequence[str]) -> tuple[Colours, ...]:
    by_source: dict[str, list[int]] = defaultdict(list)
    for index, image in enumerate(images):
        by_source[image.source.name].append(index)

    def groups() -> Iterator[Colours]:
        for source, rows in by_source.items():
            yield summarise(measures[rows], source)
            for label in classes:
                if own := [row for row in rows if images[row].item.label == label]:
                    yield summarise(measures[own], source, label)

    return tuple(groups())


def _originals(
    parts: Sequence[tuple[Source, Listing]],
    images: Sequence[_Image],
    root: Path,
    mapping: Path | None,
    progress: Progress | None,
) -> OriginalsFound | None:
    """Of the first source that has originals on this disk."""
    for source, _ in parts:
        asked = [
            # the side its publisher gives: what a protocol leaves out of a split must be seen here
            Augmented(image.item.id, image.item.path, image.item.label, image.item.fold or image.side, image.digest)
            for image in images
            if image.source is source and image.item.path is not None
        ]
        matching = match_source(source, root, asked, progress)
        if matching is not None:
            if mapping is not None:
                write_atomic(mapping, matching.table().encode())
            return summarise_originals(source, root, matching)
    return None


# ---------------------------------------------------------------- pictures for people


def write_pictures(
    record: AuditRecord, root: Path, folder: Path, options: Mapping[str, bool | int | float | str] | None = None
) -> list[Path]:
    """Every named pair side by side, the first turned onto the second, as PNG files; for people, never for a page.

    Args:
        options: of a generated source.
    Returns: the files, in the order of the record's pairs.
    Raises: DataError if an image of the record is not there any more, or the folder holds something: pictures of
        another audit would pass for these; OSError if they cannot be written.
    """
    items = {
        item.id: (source, item)
        for source in map(SOURCES.get, record.sources)
        for item in (*source.scan(root, options or {}).items, *source.beside(root))
    }

    def read(image: PairedImage, turn: str) -> Image.Image:
        if image.id not in items:
            raise DataError(f"{image.id} is not below the data root any more; make the audit anew")
        source, item = items[image.id]
        try:
            picture = source.read(item, options or {})
        except BadImage as problem:
            raise DataError(f"{image.id} cannot be decoded ({problem}); make the audit anew") from None
        return Image.fromarray(np.ascontiguousarray(turned(np.asarray(picture), TURNS.index(turn))))

    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise DataError(f"{folder} is not empty; name a new folder for the pictures, or empty it")
    written: list[Path] = []
    for number, pair in enumerate(record.pairs, start=1):
        left, right = read(pair.first, pair.turn), read(pair.second, "")
        if left.size != right.size:  # another scale of the same picture
            left = left.resize(right.size, Image.Resampling.BICUBIC)
        both = Image.new("RGB", (left.width + right.width + 4, right.height), "white")
        both.paste(left, (0, 0))
        both.paste(right, (left.width + 4, 0))
        path = folder / f"{number:03d}-{pair.kind}{'-conflict' if pair.conflict else ''}.png"
        both.save(path)
        written.append(path)
    return written
