"""Decode once: every image of a source as uint8 in one memory-mapped array.

    CACHE/<source>/index/<listing>.json     content hash of each file, trusted while names, sizes and times are the same
    CACHE/<source>/<content>-<pixels>/      images.npy (N, S, S, 3) uint8, bad.json: what could not be decoded and why;
                                            of stain normalisation, kept.json: what was left as it is and why

A folder is made beside its place and moved there, so it is whole or not there; a lock keeps two processes from decoding
the same images twice.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock
from PIL import Image, ImageOps

from kdbench.data.source import Item, Listing, Source
from kdbench.data.stain import STAIN_VERSION, normalise_stain, quiet
from kdbench.environment import usable_cores
from kdbench.errors import BadImage, DataError, MissingData
from kdbench.store import write_atomic
from kdbench.types import DatasetSpec, LeftOut, Progress, Scalar, content_id

DECODER_VERSION = 1
"""Part of the cache's key: raised when the same file would give other pixels."""


@dataclass(frozen=True)
class CachedSource:
    """One source at one size. Row i of images belongs to items[i]; rows named in bad hold no image.

    Those named in kept were not brought to the stain asked for; it says why.
    """

    source: Source
    items: tuple[Item, ...]
    digests: tuple[str, ...]
    images: np.ndarray
    bad: Mapping[str, str]
    left_out: tuple[LeftOut, ...]
    content: str
    kept: Mapping[str, str] = field(default_factory=dict)


def open_source(
    source: Source, found: Listing, spec: DatasetSpec, cache: Path, progress: Progress | None = None
) -> CachedSource:
    """The listed images of a source at the size of the spec, decoded now if they were not before.

    Raises: MissingData; DataError if no image can be decoded or the cache cannot be written.
    """
    listing, digests, content = index_source(source, found, cache, spec.options, progress)
    folder = cache / source.name / f"{content}-{_pixels(spec)}"
    try:
        if not folder.is_dir():
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(folder.parent / f"{folder.name}.lock"):
                if not folder.is_dir():
                    _decode(source, listing, spec, folder, progress)
        bad = json.loads((folder / "bad.json").read_text())
        kept = json.loads((folder / "kept.json").read_text()) if spec.stain != "none" else {}
        images = np.load(folder / "images.npy", mmap_mode="r")
    except (OSError, ValueError, EOFError) as problem:
        raise DataError(f"the image cache {folder} cannot be used ({problem}); free room or remove it") from None
    return CachedSource(source, listing.items, digests, images, bad, listing.left_out, content, kept)


def index_source(
    source: Source, found: Listing, cache: Path, options: Mapping[str, Scalar], progress: Progress | None = None
) -> tuple[Listing, tuple[str, ...], str]:
    """Hash the files of a source: (listing in the order of ids, SHA-256 of each file, hash of it all).

    The second call is quick: a file's hash is kept while its name, size and modification time stay the same.
    """
    listing = Listing(tuple(sorted(found.items, key=lambda item: item.id)), found.left_out)
    if not listing.items:
        raise MissingData(f"{source.name}: its folder holds no images; expected {source.layout}")
    if all(item.path is None for item in listing.items):
        resolved = {**source.options, **options}
        digests = tuple(content_id([source.name, source.version, resolved, item.id]) for item in listing.items)
    else:
        digests = _file_digests(source, listing, cache, progress)
    content = content_id([[i.id, i.label, i.group, i.fold, d] for i, d in zip(listing.items, digests, strict=True)])
    return listing, digests, content


def fit_image(image: Image.Image, spec: DatasetSpec) -> np.ndarray:
    """Bring an RGB image to (S, S, 3) uint8 as the spec says: centre crop, stretch, or pad with its border's mean."""
    size = (spec.image_size, spec.image_size)
    if spec.fit == "crop":
        side = max(1, round(min(image.size) * spec.crop_fraction))
        left, top = (image.width - side) // 2, (image.height - side) // 2
        box = (left, top, left + side, top + side)
        return np.asarray(image.resize(size, Image.Resampling.BICUBIC, box=box))
    if spec.fit == "stretch":
        return np.asarray(image.resize(size, Image.Resampling.BICUBIC))
    pixels = np.asarray(image)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    colour = tuple(int(value) for value in border.mean(axis=0).round())
    return np.asarray(ImageOps.pad(image, size, Image.Resampling.BICUBIC, color=colour))


def _pixels(spec: DatasetSpec) -> str:
    crop = f"-{spec.crop_fraction:g}" if spec.fit == "crop" and spec.crop_fraction < 1 else ""
    stain = f"-{spec.stain}{STAIN_VERSION}" if spec.stain != "none" else ""
    return f"{spec.image_size}px-{spec.fit}{crop}-v{DECODER_VERSION}{stain}"


def _file_digests(source: Source, listing: Listing, cache: Path, progress: Progress | None) -> tuple[str, ...]:
    try:
        stats = [item.path.stat() if item.path else None for item in listing.items]
    except OSError as problem:  # a link to nowhere, or a file removed since it was listed
        raise DataError(f"{problem.filename} cannot be read ({problem.strerror}); put it back or remove it") from None
    seen = [[i.id, s.st_size, s.st_mtime_ns] if s else [i.id] for i, s in zip(listing.items, stats, strict=True)]
    path = cache / source.name / "index" / f"{content_id([str(listing.items[0].path), seen])}.json"
    try:
        known = json.loads(path.read_text())
        if isinstance(known, list) and len(known) == len(listing.items):
            return tuple(known)
    except (OSError, ValueError):
        pass  # never hashed, or a damaged index: hash again

    def digest(item: Item) -> str:
        if item.path is None:
            raise DataError(f"{source.name}: {item.id} has no file, others have")
        try:
            return source.digest(item)
        except OSError as problem:
            raise DataError(f"{item.path} cannot be read ({problem.strerror}); check its permissions") from None

    digests = tuple(in_threads(digest, listing.items, f"hashing {source.name}", progress))
    write_atomic(path, json.dumps(digests).encode())
    return digests


def _decode(source: Source, listing: Listing, spec: DatasetSpec, folder: Path, progress: Progress | None) -> None:
    partial = folder.with_name(f".partial-{folder.name}")
    shutil.rmtree(partial, ignore_errors=True)  # of a killed process; the lock says nobody works in it
    partial.mkdir()
    outcomes = _fill(partial / "images.npy", source, listing, spec, progress)
    bad = {item.id: out.bad for item, out in zip(listing.items, outcomes, strict=True) if out.bad is not None}
    kept = {item.id: out.kept for item, out in zip(listing.items, outcomes, strict=True) if out.kept}
    if len(bad) == len(listing.items):
        raise DataError(f"{source.name}: none of {len(bad)} files can be decoded, the first: {next(iter(bad.items()))}")
    (partial / "bad.json").write_text(json.dumps(bad, indent=1))
    if spec.stain != "none":
        (partial / "kept.json").write_text(json.dumps(kept, indent=1))
    os.replace(partial, folder)  # noqa: PTH105 (a folder, not a file)


class _Outcome(NamedTuple):
    """What became of one image: why it could not be decoded, and why its stain was kept; None and "": neither."""

    bad: str | None = None
    kept: str = ""


def _fill(path: Path, source: Source, listing: Listing, spec: DatasetSpec, progress: Progress | None) -> list[_Outcome]:
    """Decode into a new array file. Returns: what became of each item."""
    shape = (len(listing.items), spec.image_size, spec.image_size, 3)
    images = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)

    def decode(numbered: tuple[int, Item]) -> _Outcome:
        number, item = numbered
        try:
            pixels = fit_image(source.read(item, spec.options), spec)
        except BadImage as problem:
            return _Outcome(bad=str(problem))
        images[number], kept = normalise_stain(pixels, spec.stain)
        return _Outcome(kept=kept)

    with quiet() if spec.stain == "macenko" else nullcontext():
        outcomes = in_threads(decode, list(enumerate(listing.items)), f"decoding {source.name}", progress)
    images.flush()
    return outcomes


def in_threads(work: Callable[[Any], Any], items: Sequence[Any], what: str, progress: Progress | None) -> list[Any]:
    """Map in the order of items; PIL and hashlib let go of the interpreter lock, so threads use every core."""
    results: list[Any] = []
    with ThreadPoolExecutor(usable_cores()) as pool:
        try:
            for result in pool.map(work, items):
                results.append(result)
                if progress and (len(results) % 64 == 0 or len(results) == len(items)):
                    progress(what, len(results), len(items))
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)  # an interrupt must not wait for ten thousand images
            raise
    return results
