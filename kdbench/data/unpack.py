"""Unpack an archive that came from somewhere else: all of it is looked at before any of it is written. Floor 3.

A zip or tar is refused whole if one member is absolute, leads up, is a link, a device or a pipe, or if what it would
unpack to is absurd. Only what is asked for is written.
"""

from __future__ import annotations

import lzma
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from gzip import BadGzipFile
from pathlib import Path
from typing import IO

from kdbench.data.source import Move
from kdbench.errors import DownloadFailed
from kdbench.types import Progress

MAX_RATIO = 100
"""Unpacked bytes to bytes of the archive, where the unpacked size is not declared: images shrink by 10 at most."""
MAX_MEMBERS = 1_000_000
CHUNK = 1 << 18
"""Bytes read at once."""


class NoRoom(DownloadFailed):
    """The disk is too full for what is to be written."""


@dataclass(frozen=True)
class _Member:
    name: str
    size: int
    is_file: bool
    odd: str
    """Why it is neither a file nor a folder; empty: it is."""
    open: Callable[[], IO[bytes] | None]


def unpack(
    archive: Path,
    target: Path,
    moves: Sequence[Move],
    unpacked_bytes: int | None = None,
    what: str = "unpacking",
    progress: Progress | None = None,
) -> int:
    """Write the files of a zip or tar that the moves name below target; two archives may go to one target.

    Args:
        unpacked_bytes: of all its members, as declared.
    Returns: the number of files.
    Raises: DownloadFailed if it is no archive, damaged, not to be trusted, or holds nothing of what is meant, or if
        there is no room for it; files written before that stay.
    """
    packed = archive.stat().st_size
    limit = 2 * unpacked_bytes if unpacked_bytes else MAX_RATIO * packed
    with _members(archive) as members:
        wanted: list[tuple[_Member, Path]] = []
        names: list[str] = []
        total = 0
        for member in members:
            parts = _parts(archive, member)
            total += member.size
            if total > limit or len(names) >= MAX_MEMBERS:
                raise _refused(archive, f"'{member.name}' brings it to {len(names) + 1} members and "
                                        f"{size_text(total)}, from an archive of {size_text(packed)}")  # fmt: skip
            names.append(member.name)
            if member.is_file and parts and parts[0] != "__MACOSX":
                place = next((place for move in moves if (place := move.to(parts)) is not None), None)
                if place:
                    wanted.append((member, target.joinpath(*place)))
        if not wanted:
            meant = ", ".join(f"'{move.place}'" for move in moves)
            there = ", ".join(f"'{name}'" for name in names[:3]) or "nothing"
            raise DownloadFailed(f"{archive.name} holds no files of {meant}; it begins with {there}")
        target.mkdir(parents=True, exist_ok=True)
        check_room(target, sum(member.size for member, _ in wanted))
        for number, (member, path) in enumerate(wanted, start=1):
            _write(archive, member, path)
            if progress and (number % 64 == 0 or number == len(wanted)):
                progress(what, number, len(wanted))
    return len(wanted)


def check_room(folder: Path, needed: int) -> None:
    """Raises: NoRoom if fewer than so many bytes are free there."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise NoRoom(f"{folder} has room for {size_text(free)}, and {size_text(needed)} are needed; make "
                             "room, or give --data-root another folder")  # fmt: skip


def size_text(count: int) -> str:
    """Bytes for people: 999 bytes, 1.0 kB, 38.2 MB; a kB is 1,000 bytes."""
    size, unit = float(count), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{count} bytes" if unit == "bytes" else f"{size:.1f} {unit}"


def _refused(archive: Path, why: str) -> DownloadFailed:
    return DownloadFailed(f"{archive.name} is not to be trusted, nothing of it was unpacked: {why}")


def _parts(archive: Path, member: _Member) -> tuple[str, ...]:
    """The folders and the name of a member. Raises: DownloadFailed if it is not plainly below where it is unpacked."""
    name = member.name.replace("\\", "/")  # what some systems take for a separator is one for all
    if name.startswith("/") or re.match(r"[A-Za-z]:", name):
        raise _refused(archive, f"'{member.name}' is an absolute path")
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if ".." in parts or "\0" in name:
        raise _refused(archive, f"{member.name!r} leads out of it")
    if member.odd:
        raise _refused(archive, f"'{member.name}' is {member.odd}")
    return parts


def _write(archive: Path, member: _Member, place: Path) -> None:
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with place.open("xb") as file:
            source = member.open()
            if source is None:
                raise DownloadFailed(f"{archive.name} is damaged: '{member.name}' cannot be read")
            with source:
                shutil.copyfileobj(source, file, CHUNK)
    except (FileExistsError, NotADirectoryError):
        raise _refused(archive, f"'{member.name}' would be written over another of its files") from None


@contextmanager
def _members(archive: Path) -> Iterator[Iterator[_Member]]:
    """The members of a zip or a tar, whatever its name says: mirrors repack."""
    try:
        if tarfile.is_tarfile(archive):  # first: a tar that ends in a zip would pass for one
            with tarfile.open(archive) as tape:
                yield _on_tape(tape)
        elif zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as packed:
                yield (_of_zip(packed, info) for info in packed.infolist())
        else:
            raise DownloadFailed(f"{archive.name} is neither a zip nor a tar archive")
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, BadGzipFile, EOFError) as problem:
        raise DownloadFailed(f"{archive.name} is damaged: {problem}") from None
    except (NotImplementedError, RuntimeError) as problem:  # of zipfile: a password, an unknown compression
        raise DownloadFailed(f"{archive.name} cannot be unpacked: {problem}") from None


def _of_zip(packed: zipfile.ZipFile, info: zipfile.ZipInfo) -> _Member:
    kind = stat.S_IFMT(info.external_attr >> 16)
    odd = "" if kind in (0, stat.S_IFREG, stat.S_IFDIR) else "a link" if kind == stat.S_IFLNK else "a device or a pipe"
    # as it stands in the archive: zipfile's own reading cuts a name at a null byte
    name = info.orig_filename
    return _Member(name, info.file_size, not name.endswith(("/", "\\")), odd, lambda: packed.open(info))


def _on_tape(tape: tarfile.TarFile) -> Iterator[_Member]:
    """The members of a tar. Raises: ReadError if it breaks off, which tarfile takes for its end."""
    for info in tape:
        yield _of_tar(tape, info)
    if tape.fileobj is not None:
        tape.fileobj.seek(tape.offset)
        if tape.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("it breaks off in the middle")


def _of_tar(tape: tarfile.TarFile, info: tarfile.TarInfo) -> _Member:
    if info.issym() or info.islnk():
        odd = f"a link to '{info.linkname}'"
    else:
        odd = "" if info.isfile() or info.isdir() else "a device or a pipe"
    return _Member(info.name, info.size, info.isfile(), odd, lambda: tape.extractfile(info))
