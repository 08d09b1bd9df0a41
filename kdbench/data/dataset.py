"""From a DatasetSpec to labelled images in memory-mapped arrays, with its splits and its card."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from kdbench.data.cache import CachedSource, open_source
from kdbench.data.mixed import UNIONS
from kdbench.data.protocol import Protocol, protocol_of, resolved_protocol
from kdbench.data.source import SOURCES, Listing, Source
from kdbench.data.splits import Member, merge_groups, split
from kdbench.data.stain import stain_caveats
from kdbench.errors import ConfigError, DataError, MissingData, SplitLeak, UnknownName
from kdbench.types import DataCard, DatasetSpec, LeftOut, Progress, SplitName, content_id

LABEL_CONFLICT = "byte-identical images carry different labels: "
"""How a caveat of such images begins; their ids follow."""


@dataclass(frozen=True)
class Dataset:
    """Decoded images with labels and splits.

    Attributes:
        spec: resolved: sources named, content hash filled in.
        classes: label names; labels are indices into them.
        labels: (N,) int64.
        ids: the name of each image.
        groups: the name of the group each image belongs to: equal files, copies of one original, one patient.
        splits: ascending indices for each side.
        card: what a record says of the data.
        bad: why, by id, of the files that could not be decoded; the card names them among what is left out.
    """

    spec: DatasetSpec
    classes: tuple[str, ...]
    labels: np.ndarray
    ids: tuple[str, ...]
    groups: tuple[str, ...]
    splits: dict[SplitName, np.ndarray]
    card: DataCard
    _arrays: tuple[np.ndarray, ...]
    _array: np.ndarray
    _row: np.ndarray
    bad: Mapping[str, str] = field(default_factory=dict)

    def images(self, indices: np.ndarray) -> np.ndarray:
        """Images (B, S, S, 3) uint8, RGB, in the order of indices (B,)."""
        if len(self._arrays) == 1:
            return self._arrays[0][self._row[indices]]
        out = np.empty((len(indices), *self._arrays[0].shape[1:]), dtype=np.uint8)
        holder = self._array[indices]
        for number, array in enumerate(self._arrays):
            here = np.flatnonzero(holder == number)
            if here.size:
                out[here] = array[self._row[indices[here]]]
        return out

    def items(self, side: SplitName) -> list[tuple[str, str, str]]:
        """(id, label, group) of each image of a side, in the order of its indices."""
        return [(self.ids[i], self.classes[self.labels[i]], self.groups[i]) for i in self.splits[side]]


def dataset_names() -> tuple[str, ...]:
    """Every name a DatasetSpec may carry: single sources and unions."""
    return tuple(sorted((*SOURCES.names(), *UNIONS.names())))


def labels_of(name: str) -> tuple[str, ...]:
    """The classes of a data set. Raises: UnknownName."""
    if name in UNIONS:
        return UNIONS.get(name).labels
    if name in SOURCES:
        return SOURCES.get(name).labels
    raise UnknownName("dataset", name, dataset_names())


def open_dataset(spec: DatasetSpec, root: Path, cache: Path, progress: Progress | None = None) -> Dataset:
    """Find, decode once, split.

    Args:
        root: the data root, holding a folder for each source.
        cache: where decoded images are kept.
    Raises: UnknownName, MissingData, ConfigError, SplitLeak.
    """
    classes = labels_of(spec.name)
    parts = [open_source(source, found, spec, cache, progress) for source, found in listings(spec, root)]
    number = {label: index for index, label in enumerate(classes)}

    members: list[Member] = []
    keys: list[tuple[str, ...]] = []
    origins: list[str] = []
    array: list[int] = []
    row: list[int] = []
    for position, part in enumerate(parts):
        for index, (item, digest) in enumerate(zip(part.items, part.digests, strict=True)):
            if item.id in part.bad:
                continue
            stratum = f"{part.source.name}/{item.label}"
            origin = part.source.origin(item, digest)
            members.append(Member(item.id, item.label, stratum, item.id, item.fold, part.source.name))
            keys.append((digest, *filter(None, (item.group, origin and f"original {origin}"))))
            origins.append(origin or "")
            array.append(position)
            row.append(index)
    components = merge_groups(keys)
    members = [replace(m, group=members[first].id) for m, first in zip(members, components, strict=True)]
    protocol = protocol_of(spec)
    arranged = protocol.arrange(members, spec, root)
    contents: list[object] = [[part.source.name, part.content] for part in parts]
    if classes != tuple(sorted({item.label for part in parts for item in part.items})):
        contents.append(classes)  # the numbers of the classes, where the images do not tell: weights depend on them
    if any(origins):
        contents.append(origins)
    if protocol.from_file:
        contents.append([member.fold for member in arranged.members])
    resolved = spec.model_copy(
        update={
            "sources": tuple(part.source.name for part in parts) if spec.name in UNIONS else (),
            "options": {**parts[0].source.options, **spec.options} if spec.name in SOURCES else {},
            "content": content_id(contents),
            **resolved_protocol(spec),
        }
    )
    if spec.content and spec.content != resolved.content:
        raise DataError(
            f"{spec.name}: the images below the data root changed since this run was planned (content "
            f"{resolved.content}, planned {spec.content}); run the command again"
        )
    taken = [index for index in range(len(members)) if index not in arranged.left_out]
    sides = split([arranged.members[index] for index in taken], resolved)
    splits = {side: np.asarray(taken, dtype=np.int64)[indices] for side, indices in sides.items()}
    groups = tuple(member.group for member in members)
    _refuse_leaks(protocol, members, splits)
    labels = np.asarray([number[member.label] for member in members], dtype=np.int64)
    return Dataset(
        spec=resolved,
        classes=classes,
        labels=labels,
        ids=tuple(member.id for member in members),
        groups=groups,
        splits=splits,
        card=_card(resolved, classes, parts, members, keys, labels, splits, protocol, arranged.left_out),
        _arrays=tuple(part.images for part in parts),
        _array=np.asarray(array, dtype=np.int64),
        _row=np.asarray(row, dtype=np.int64),
        bad={name: reason for part in parts for name, reason in part.bad.items()},
    )


def _refuse_leaks(protocol: Protocol, members: Sequence[Member], splits: Mapping[SplitName, np.ndarray]) -> None:
    """Raises: SplitLeak if what belongs together is on two sides and the protocol does not say that it leaks."""
    if protocol.leak:
        return
    side: dict[str, SplitName] = {}
    for name, indices in splits.items():
        for index in indices:
            member = members[index]
            if side.setdefault(member.group, name) != name:
                raise SplitLeak(
                    f"protocol '{protocol.name}' puts {member.id} on the {name} side, and what belongs together with "
                    f"it on the {side[member.group]} side, and does not say that it leaks"
                )


def listings(spec: DatasetSpec, root: Path) -> list[tuple[Source, Listing]]:
    """The sources of a data set that are on this disk, with their items.

    Raises: MissingData, ConfigError, SplitLeak.
    """
    if spec.name not in UNIONS:
        if spec.sources:
            raise ConfigError([f"dataset '{spec.name}' is a single source and takes no sources"])
        single = SOURCES.get(spec.name)
        return [(single, single.scan(root, spec.options))]
    union = UNIONS.get(spec.name)
    if spec.options:
        raise ConfigError([f"dataset '{spec.name}' takes no options"])
    if len(set(spec.sources)) < len(spec.sources):
        raise ConfigError([f"dataset '{spec.name}': a source stands twice in {', '.join(spec.sources)}; keep one"])
    present: list[tuple[Source, Listing]] = []
    for source in [SOURCES.get(name) for name in (spec.sources or union.sources)]:
        if foreign := set(source.labels) - set(union.labels):
            raise ConfigError([f"source '{source.name}' has labels outside '{union.name}': {sorted(foreign)}"])
        try:
            present.append((source, source.scan(root, {})))
        except MissingData:
            if spec.sources:
                raise
    if not present:
        raise MissingData(
            f"{spec.name}: none of its sources {', '.join(union.sources)} is below {root}; `kdbench data show "
            f"{spec.name}` says where to get them; the data root is --data-root, else KDBENCH_DATA, else the user's "
            "data folder"
        )
    names = {source.name for source, _ in present}
    for source, _ in present:
        if shared := names & set(source.shares_images_with):
            raise SplitLeak(f"{source.name} shares its originals with {', '.join(shared)}; take one of them")
    return present


def published_differences(parts: Sequence[tuple[Source, Listing]]) -> list[str]:
    """A line for each source whose images by class are not as many as its publisher counts."""
    return [
        f"{source.name} does not hold what is published: {differences}"
        for source, found in parts
        if (differences := source.count_differences(found.items))
    ]


def _unknown_origins(part: CachedSource) -> list[str]:
    """What is to be said of copies of originals whose originals are not known."""
    taken = [(item, digest) for item, digest in zip(part.items, part.digests, strict=True) if item.id not in part.bad]
    unknown = sum(part.source.origin(item, digest) is None for item, digest in taken) if part.source.augmented else 0
    if not unknown:
        return []
    return [
        f"{part.source.name}: of {unknown:,} of {len(taken):,} images the original is not known, as their files are "
        "not the published ones: copies of one original may stand on two sides, and intervals are too narrow"
    ]


def _card(
    spec: DatasetSpec,
    classes: tuple[str, ...],
    parts: list[CachedSource],
    members: list[Member],
    keys: list[tuple[str, ...]],
    labels: np.ndarray,
    splits: dict[SplitName, np.ndarray],
    protocol: Protocol,
    not_split: Mapping[int, str],
) -> DataCard:
    by_digest: dict[str, list[int]] = defaultdict(list)
    for index, key in enumerate(keys):
        by_digest[key[0]].append(index)
    repeated = [indices for indices in by_digest.values() if len(indices) > 1]
    conflicts = [indices for indices in repeated if len({members[index].label for index in indices}) > 1]
    caveats = [caveat for part in parts for caveat in (*part.source.caveats, *_unknown_origins(part))]
    caveats += [LABEL_CONFLICT + " = ".join(members[index].id for index in indices) for indices in conflicts]
    caveats += stain_caveats(spec.stain, {part.source.name: tuple(part.kept.values()) for part in parts})
    left_out = [entry for part in parts for entry in part.left_out]
    left_out += [LeftOut(path=name, reason=reason) for part in parts for name, reason in sorted(part.bad.items())]
    left_out += [LeftOut(path=members[index].id, reason=reason) for index, reason in sorted(not_split.items())]
    counts = {
        side: {classes[label]: int(count) for label, count in sorted(Counter(labels[indices].tolist()).items())}
        for side, indices in splits.items()
    }
    return DataCard(
        name=spec.name,
        sources={part.source.name: len(part.items) - len(part.bad) for part in parts},
        classes=classes,
        splits=counts,
        content_hash=spec.content,
        duplicates=sum(len(indices) for indices in repeated),
        left_out=tuple(left_out),
        caveats=tuple(caveats),
        protocol=protocol.label,
        leak=protocol.leak,
        independent={side: len({members[index].group for index in indices}) for side, indices in splits.items()},
    )
