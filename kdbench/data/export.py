"""A data set with its split, written out for other tools. Floor 3.

    folders    DIR/{train,val,test}/<class>/<file>, the files as they are; DIR/images.csv says what each is
    csv        DIR/images.csv alone, with the paths of the files where they lie
    npz        DIR/images.npz: decoded images, labels and ids of each side

Beside them lie README.md and manifest.json, with the licence and the citation of every source, what has to be said of
the data, and the hash of its content; beside images.csv also dataset.yaml, which declares it to kdbench as own data.

A folder is made beside its place and moved there, so it is whole or not there.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import yaml

from kdbench._version import __version__
from kdbench.data.cache import in_threads, index_source
from kdbench.data.dataset import Dataset, listings, open_dataset
from kdbench.data.source import SOURCES, Item, Source
from kdbench.errors import DataError
from kdbench.store import refuse_used, whole_folder
from kdbench.types import DatasetSpec, Progress, Scalar, SplitName

ExportFormat = Literal["folders", "csv", "npz"]

COLUMNS = ("path", "label", "source", "group", "split", "sha256")
"""Of images.csv."""

_NAME_BYTES = 200
"""Of a file's name, at most: file systems allow 255, and some of it is for the source and a number."""

_CHUNK = 256
"""Images written to an array at once."""


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        images: by side.
        how: files by what was done with them: linked, copied, drawn, listed or decoded.
    """

    folder: Path
    images: dict[SplitName, int]
    how: dict[str, int]


@dataclass(frozen=True)
class _Image:
    """One image of the data set, and where it comes from.

    Attributes:
        path: its file, where its bytes are a picture; None: it is drawn, or lies in an archive.
    """

    item: Item
    source: Source
    digest: str
    group: str
    side: SplitName
    path: Path | None


def export(
    spec: DatasetSpec,
    root: Path,
    cache: Path,
    folder: Path,
    form: ExportFormat = "folders",
    *,
    copy: bool = False,
    progress: Progress | None = None,
) -> Exported:
    """Write a data set out, into a new or an empty folder.

    Args:
        spec: image_size, fit and the like matter for npz; for the others they only say what can be decoded.
        root: the data root.
        cache: where decoded images are kept.
        copy: of folders: copy files, where else they become hard links if the system can.
    Raises: DataError if something is in the folder, or the data has no files to list; what `open_dataset` raises.
    """
    folder = Path(os.path.abspath(folder))  # noqa: PTH100 (a link at its place has to be seen)
    refuse_used(folder, DataError)
    if form != "npz" and spec.stain != "none":
        raise DataError(f"the files of {spec.name} are written as they are; stain: {spec.stain} goes with npz alone")
    data = open_dataset(spec, root, cache, progress)
    with whole_folder(folder, DataError) as partial:
        if form == "folders":
            how = _write_folders(partial, data, _images(data, root, cache), copy, progress)
        elif form == "csv":
            how = _write_table(partial, data, _images(data, root, cache))
        else:
            how = _write_arrays(partial, data, progress)
        _write_about(partial, data, form)
    return Exported(folder, {side: len(indices) for side, indices in data.splits.items()}, dict(how))


def _images(data: Dataset, root: Path, cache: Path) -> list[_Image]:
    """Every image that is on a side, by side and in the order of ids."""
    found: dict[str, tuple[Item, Source, str]] = {}
    for source, listing in listings(data.spec, root):
        indexed, digests, _ = index_source(source, listing, cache, data.spec.options)
        for item, digest in zip(indexed.items, digests, strict=True):
            found[item.id] = (item, source, digest)
    images: list[_Image] = []
    for side, indices in data.splits.items():
        for index in indices.tolist():
            if data.ids[index] not in found:
                raise DataError(
                    f"{data.ids[index]} went away while {data.spec.name} was written; run the command again"
                )
            item, source, digest = found[data.ids[index]]
            pictured = item.path is not None and type(source).read is Source.read
            images.append(_Image(item, source, digest, data.groups[index], side, item.path if pictured else None))
    return images


# ---------------------------------------------------------------- the three forms


def _write_folders(
    folder: Path, data: Dataset, images: list[_Image], copy: bool, progress: Progress | None
) -> Mapping[str, int]:
    several = len(data.card.sources) > 1
    classes = dict(zip(data.classes, _distinct(safe_name(label) for label in data.classes), strict=True))
    wanted = []
    for image in images:
        name = image.item.id.rpartition("/")[2]
        name = name if image.path else f"{name}.png"
        name = safe_name(f"{image.source.name}-{name}" if several else name)
        wanted.append(f"{image.side}/{classes[image.item.label]}/{name}")
    places = _distinct(wanted)

    def write(one: tuple[_Image, str]) -> str:
        image, place = one
        path = folder / place
        if image.path is None:
            image.source.read(image.item, _options(data, image.source)).save(path, "PNG")
            return "drawn"
        original = image.path.resolve()  # of a link the file that it leads to
        if not copy:
            try:
                os.link(original, path)
                return "linked"
            except OSError:  # another disk, or a file system without links
                pass
        shutil.copyfile(original, path)
        return "copied"

    for parent in sorted({place.rpartition("/")[0] for place in places}):
        (folder / parent).mkdir(parents=True)
    how = in_threads(write, list(zip(images, places, strict=True)), f"writing {data.spec.name}", progress)
    _write_csv(folder, data, images, places, root=None)
    return Counter(how)


def _write_table(folder: Path, data: Dataset, images: list[_Image]) -> Mapping[str, int]:
    paths = [image.path.resolve() for image in images if image.path is not None]
    if len(paths) < len(images):
        without = next(image for image in images if image.path is None).source.name
        raise DataError(f"{without} has no file for each image that a table could name; export it as folders or npz")
    root = Path(os.path.commonpath([path.parent for path in paths]))
    _write_csv(folder, data, images, [path.relative_to(root).as_posix() for path in paths], root)
    return {"listed": len(images)}


def _write_arrays(folder: Path, data: Dataset, progress: Progress | None) -> Mapping[str, int]:
    done, total = 0, sum(len(indices) for indices in data.splits.values())
    with zipfile.ZipFile(folder / "images.npz", "w") as archive:
        _add_array(archive, "classes", np.asarray(data.classes))
        for side, indices in data.splits.items():
            _add_array(archive, f"{side}_labels", data.labels[indices])
            _add_array(archive, f"{side}_ids", np.asarray([data.ids[index] for index in indices]))
            # in parts: of a large data set not all of it fits into memory
            member = zipfile.ZipInfo(f"{side}_images.npy")
            with archive.open(member, "w", force_zip64=True) as file:
                size = data.spec.image_size
                header = {"descr": "|u1", "fortran_order": False, "shape": (len(indices), size, size, 3)}
                np.lib.format.write_array_header_1_0(file, header)
                for start in range(0, len(indices), _CHUNK):
                    part = indices[start : start + _CHUNK]
                    file.write(np.ascontiguousarray(data.images(part)).tobytes())
                    done += len(part)
                    if progress:
                        progress(f"writing {data.spec.name}", done, total)
    return {"decoded": total}


def _add_array(archive: zipfile.ZipFile, name: str, array: np.ndarray) -> None:
    content = io.BytesIO()
    np.lib.format.write_array(content, array, allow_pickle=False)
    archive.writestr(zipfile.ZipInfo(f"{name}.npy"), content.getvalue())  # without a date: the same bytes each time


def _options(data: Dataset, source: Source) -> Mapping[str, Scalar]:
    return data.spec.options if data.spec.name == source.name else {}


# ---------------------------------------------------------------- names


def safe_name(name: str) -> str:
    """A name without what file systems refuse, one part of a path, not hidden; letters of any script stay.

    Names may become equal; `_distinct` tells them apart.
    """
    stem, dot, suffix = re.sub(r"[^\w.-]+", "_", name).strip("._-").rpartition(".")
    stem, end = (stem, f"{dot}{suffix}") if stem else (suffix, "")
    room = max(1, _NAME_BYTES - len(end.encode()))
    return (stem.encode()[:room].decode(errors="ignore") or "unnamed") + end.encode()[:_NAME_BYTES].decode(
        errors="ignore"
    )


def _distinct(names: Iterator[str] | list[str]) -> list[str]:
    """The names, with a number where one was there before; upper and lower case are one on many disks."""
    used: set[str] = set()
    out: list[str] = []
    for name in names:
        stem, dot, suffix = name.rpartition(".")
        if "/" in suffix or not stem:
            stem, dot, suffix = name, "", ""
        distinct, number = name, 1
        while distinct.casefold() in used:
            number += 1
            distinct = f"{stem}-{number}{dot}{suffix}"
        used.add(distinct.casefold())
        out.append(distinct)
    return out


# ---------------------------------------------------------------- what is said of it


def _write_csv(folder: Path, data: Dataset, images: list[_Image], paths: list[str], root: Path | None) -> None:
    text = io.StringIO(newline="")
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(COLUMNS)
    for image, path in zip(images, paths, strict=True):
        lines.writerow([path, image.item.label, image.source.name, image.group, image.side, image.digest])
    (folder / "images.csv").write_text(text.getvalue(), encoding="utf-8")
    there = {image.item.label for image in images}
    sources = [SOURCES.get(name) for name in data.card.sources]
    declaration: dict[str, object] = {
        "name": f"{safe_name(data.spec.name)}-exported",
        "csv": "images.csv",
        "image": "path",
        "label": "label",
        "split": "split",
        # of a leaky split no group stays on one side, and whoever reads groups would refuse it
        **({} if data.card.leak else {"group": "group"}),
        **({} if root is None else {"root": root.as_posix()}),
        "labels": [label for label in data.classes if label in there],
        "title": f"{data.spec.name} as kdbench {__version__} wrote it, content {data.card.content_hash}",
        "licence": "; ".join(f"{source.name}: {source.licence}" for source in sources),
        "citation": "; ".join(dict.fromkeys(source.citation for source in sources if source.citation)),
    }
    (folder / "dataset.yaml").write_text(yaml.safe_dump(declaration, sort_keys=False, allow_unicode=True), "utf-8")


def _write_about(folder: Path, data: Dataset, form: ExportFormat) -> None:
    card = data.card
    sources = [
        {
            "name": source.name,
            "title": source.title,
            "images": card.sources[source.name],
            "url": source.url,
            "licence": source.licence,
            "citation": source.citation,
        }
        for source in map(SOURCES.get, card.sources)
    ]
    manifest = {
        "name": card.name,
        "format": form,
        "content_hash": card.content_hash,
        "classes": card.classes,
        "splits": card.splits,
        "sources": sources,
        "protocol": card.protocol,
        "leak": card.leak,
        "independent": card.independent,
        "caveats": card.caveats,
        "duplicates": card.duplicates,
        "left_out": [entry.model_dump(mode="json") for entry in card.left_out],
        "spec": data.spec.model_dump(mode="json"),
        "kdbench": __version__,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "README.md").write_text("\n".join(_readme(data, form, sources)) + "\n", encoding="utf-8")


_ABOUT: Mapping[ExportFormat, str] = {
    "folders": (
        "The files are the originals, byte for byte, in a folder for each side and class. They may be hard links: who "
        "changes one in place changes the original. What has no file of its own is drawn as PNG. `images.csv` says of "
        "each its label, source, group, side and the SHA-256 of the original; `dataset.yaml` declares it to kdbench."
    ),
    "csv": (
        "`images.csv` names the files where they lie, below `root` of `dataset.yaml`, which declares it to kdbench."
    ),
    "npz": (
        "`images.npz` holds of each side `SIDE_images` (N, S, S, 3) uint8 RGB, `SIDE_labels` (N,) and `SIDE_ids` (N,), "
        "and `classes`, the names of the labels."
    ),
}


def _readme(data: Dataset, form: ExportFormat, sources: list[dict[str, object]]) -> list[str]:
    card = data.card
    lines = [
        f"# {card.name}",
        "",
        _ABOUT[form],
        "",
        f"Content: `{card.content_hash}`. Written by kdbench {__version__}.",
    ]
    lines += ["", "| class | " + " | ".join(card.splits) + " |", "|:--|" + "--:|" * len(card.splits)]
    for label in card.classes:
        shown = label.replace("|", "\\|")
        lines.append(f"| {shown} | " + " | ".join(str(counts.get(label, 0)) for counts in card.splits.values()) + " |")
    independent = ", ".join(f"{side} {count}" for side, count in card.independent.items())
    lines += ["", f"Split by the protocol {card.protocol}. Groups that do not depend on each other: {independent}."]
    lines += ["", f"**It leaks:** {card.leak}." if card.leak else "Images of one group stand on one side."]
    lines += ["", "## Sources", ""]
    for source in sources:
        facts = [f"{source['images']} images", f"licence: {source['licence']}"]
        facts += [f"cite {source['citation']}"] if source["citation"] else []
        facts += [f"from {source['url']}"] if source["url"] else []
        lines.append(f"- **{source['name']}**, {source['title']}: {'; '.join(facts)}")
    if card.caveats:
        lines += ["", "## To be said of it", "", *(f"- {caveat}" for caveat in card.caveats)]
    if card.left_out:
        reasons: Counter[str] = Counter()
        for entry in card.left_out:
            reasons[entry.reason] += entry.count
        lines += ["", "## Left out", "", *(f"- {count}: {reason}" for reason, count in sorted(reasons.items()))]
        lines += ["", "`manifest.json` names them."]
    return lines
