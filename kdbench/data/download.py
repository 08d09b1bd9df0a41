"""Get a data set: download, verify, unpack, and move it to its place in one step. Floor 3.

    ROOT/.downloads/<source>/<file>            what is downloaded and verified; removed when the data set is in place
    ROOT/.downloads/<source>/<file>.part       what came so far; the next try goes on from there
    ROOT/.partial-<source>/                    what is being unpacked
    ROOT/<source>/                             whole, or not there

Folders whose names begin with a dot are looked at by no source, so a killed process leaves nothing that counts.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit
from urllib.request import url2pathname

import pooch
import requests
from filelock import FileLock, Timeout
from urllib3.exceptions import HTTPError, MaxRetryError, ReadTimeoutError

from kdbench._version import __version__
from kdbench.data.source import Download, Listing, Source
from kdbench.data.unpack import NoRoom, check_room, size_text, unpack
from kdbench.errors import ChecksumMismatch, DataError, DownloadFailed, MissingData
from kdbench.store import write_atomic
from kdbench.types import Progress

TIMEOUT_S = 30.0
"""Seconds without a byte after which a server counts as silent."""
ATTEMPTS = 4
"""Tries without any more bytes before a server that fails is given up."""
WAIT_S = 1.0
"""Seconds before the second try; twice as long before each further one."""
CHUNK = 1 << 18
"""Bytes written at once."""


@dataclass(frozen=True)
class Presence:
    """What lies at a source's place.

    Attributes:
        folder: the place.
        images: that can be used.
        trouble: what is wrong with them; empty: nothing.
        there: whether anything lies there at all.
    """

    folder: Path
    images: int
    trouble: str
    there: bool


@dataclass(frozen=True)
class Got:
    """What was put in its place.

    Attributes:
        images: that can be used.
        differences: from the published counts; empty: none.
        kept: where what lay there before was moved; None: nothing lay there.
        archives: the downloaded files, where they were to be kept.
    """

    folder: Path
    images: int
    differences: str
    kept: Path | None
    archives: tuple[Path, ...]


def look(source: Source, root: Path) -> Presence:
    """What of a source lies below the data root."""
    folder = root / source.name
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return Presence(folder, 0, "", False)
    try:
        found = source.scan(root, {})
    except MissingData:
        return Presence(folder, 0, f"it holds no images laid out as {source.layout}", True)
    except DataError as problem:
        return Presence(folder, 0, str(problem), True)
    return Presence(folder, len(found.items), source.count_differences(found.items), True)


def plan(source: Source, root: Path, mirror: str | None = None) -> list[tuple[Download, str]]:
    """The files to get, with their addresses.

    Args:
        root: the data root, for the steps of a person.
        mirror: the address of the file itself, or, ending in a slash, of a folder that holds all of them.
    Raises: DownloadFailed if there is no address, or it is none of http, https and file.
    """
    if not source.downloads:
        raise DownloadFailed(f"{source.name}: there is nothing to download")
    if mirror is None:
        if source.manual or any(download.url is None for download in source.downloads):
            raise _by_hand(source, root, f"{source.name} cannot be downloaded automatically: {source.manual}")
        return [(download, download.url) for download in source.downloads if download.url]
    if mirror.endswith("/"):
        jobs = [(download, mirror + quote(download.file_name)) for download in source.downloads]
    elif len(source.downloads) == 1:
        jobs = [(source.downloads[0], mirror)]
    else:
        files = ", ".join(download.file_name for download in source.downloads)
        raise DownloadFailed(f"{source.name} is made of several files ({files}); give --mirror the address of a folder "
                             "that holds them, ending in /")  # fmt: skip
    for _, url in jobs:
        _scheme(url)
    return jobs


def get(
    source: Source,
    root: Path,
    mirror: str | None = None,
    keep_archive: bool = False,
    progress: Progress | None = None,
) -> Got:
    """Download a source and put it below the data root; what lies there is moved aside, never removed.

    Args:
        mirror: as for `plan`.
        keep_archive: leave the downloaded files where they are.
    Raises: DownloadFailed, ChecksumMismatch; then nothing changed at its place. OSError.
    """
    jobs = plan(source, root, mirror)
    place = root / ".downloads" / source.name
    staging = root / f".partial-{source.name}"
    place.mkdir(parents=True, exist_ok=True)
    with _alone(place.with_name(f"{source.name}.lock"), source):
        try:
            files = [_fetch(source, download, url, place, progress) for download, url in jobs]
        except _NotThere as problem:
            if mirror is not None:
                raise
            raise _by_hand(source, root, str(problem)) from None
        shutil.rmtree(staging, ignore_errors=True)  # of a killed process; the lock says nobody works in it
        try:
            for (download, _), file in zip(jobs, files, strict=True):
                _lay_out(source, download, file, staging / source.name, progress)
            found = _scanned(source, staging)
            differences = source.count_differences(found.items)
            kept = _aside(root / source.name)
            try:
                (staging / source.name).rename(root / source.name)
            except BaseException:
                if kept:
                    kept.rename(root / source.name)
                raise
        except NoRoom:
            raise  # there may be some the next time, and the archive is a good one
        except DataError:
            shutil.rmtree(place, ignore_errors=True)  # it would be no better the next time
            raise
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        if not keep_archive:
            shutil.rmtree(place, ignore_errors=True)
        return Got(root / source.name, len(found.items), differences, kept, tuple(files) if keep_archive else ())


class _NotThere(DownloadFailed):
    """The address does not give the file: nobody answers, or something else does."""


class _Again(Exception):
    """A try failed in a way that may pass."""


def shown(url: str) -> str:
    """An address as messages show it: without a user's password or token."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _mark(url: str) -> str:
    """What tells an address from others on the disk: itself it may hold a password."""
    return hashlib.sha256(url.encode()).hexdigest()


def _by_hand(source: Source, root: Path, why: str) -> DownloadFailed:
    steps = f"by hand: {source.by_hand(root)}; or " if source.steps else ""
    return DownloadFailed(f"{why}; {steps}give --mirror the address of a copy")


def _scheme(url: str) -> str:
    """Raises: DownloadFailed if it is none that is loaded from."""
    try:
        parts = urlsplit(url)
    except ValueError as problem:
        raise DownloadFailed(f"{url!r} is no address: {problem}") from None
    if parts.scheme not in ("http", "https", "file") or (parts.scheme != "file" and not parts.hostname):
        raise DownloadFailed(
            f"{shown(url)!r} is no address to load from; it has to begin with https://, http:// or file://"
        )
    if parts.scheme == "file" and parts.netloc not in ("", "localhost"):
        raise DownloadFailed(f"{shown(url)!r} names another machine; a file address begins with file:///")
    return parts.scheme


@contextmanager
def _alone(lock: Path, source: Source) -> Iterator[None]:
    held = FileLock(lock)
    try:
        held.acquire(timeout=0)
    except Timeout:
        raise DownloadFailed(f"another kdbench is downloading {source.name} to the same folder; wait for it") from None
    try:
        yield
    finally:
        held.release()


def _fetch(source: Source, download: Download, url: str, place: Path, progress: Progress | None) -> Path:
    """The downloaded and verified file; one that is there from the same address is not loaded again."""
    file = place / download.file_name
    origin = file.with_name(f"{file.name}.origin")
    known = origin.read_text("utf-8") if origin.exists() else ""
    if download.checksum is None and known != _mark(url):
        file.unlink(missing_ok=True)  # without a checksum only its address says what it is
    downloader = ResumingDownloader(source.name, download, file.with_name(f"{file.name}.part"), progress)
    pooch.get_logger().setLevel("WARNING")  # the command line says what happens
    try:
        pooch.retrieve(url, download.checksum, fname=file.name, path=place, downloader=downloader)
    except ValueError:
        raise ChecksumMismatch(
            f"{source.name}: {file.name} from {shown(url)} is not the file that was published, whose checksum is "
            f"{download.checksum}; it was removed; try again, or another --mirror"
        ) from None
    write_atomic(origin, _mark(url).encode(), durable=False)
    return file


class ResumingDownloader:
    """A downloader for pooch that goes on where an earlier try stopped, and tries again where that may help.

    What came so far stays in the partial file; beside it is written which file of the server it is a part of. It is
    used again if the server says the file is still the same, or a checksum will tell.
    """

    def __init__(self, name: str, download: Download, partial: Path, progress: Progress | None = None) -> None:
        self._name, self._download, self._partial, self._progress = name, download, partial, progress
        self._state = partial.with_name(f"{partial.name}.json")

    def __call__(self, url: str, output_file: str, pooch: object) -> None:
        """Load the address into the file. Raises: DownloadFailed; what came so far is kept."""
        if _scheme(url) == "file":
            self._copy(url)
        else:
            self._load(url)
        self._refuse_other(url)
        self._partial.replace(output_file)
        self._state.unlink(missing_ok=True)

    def _load(self, url: str) -> None:
        best, failures = self._have(url)[0], 0
        while True:
            try:
                return self._try(url)
            except _Again as problem:
                have = self._partial.stat().st_size if self._partial.exists() else 0
                best, failures = max(best, have), 1 if have > best else failures + 1
                if failures >= ATTEMPTS:
                    raise self._failed(
                        url, f"{problem}, {ATTEMPTS} times; try again later: what came is kept"
                    ) from None
                time.sleep(WAIT_S * 2 ** (failures - 1))

    def _have(self, url: str) -> tuple[int, str]:
        """Bytes that are here and can be gone on from, and what the server called their file."""
        try:
            state = json.loads(self._state.read_text("utf-8"))
            size = self._partial.stat().st_size
            if state["url"] == _mark(url) and (state["validator"] or self._download.checksum):
                return size, str(state["validator"])
        except (OSError, ValueError, KeyError, TypeError):
            pass  # nothing is here, or nobody knows what of
        self._partial.unlink(missing_ok=True)
        return 0, ""

    def _try(self, url: str) -> None:
        have, validator = self._have(url)
        # as it is stored: a server that packs it on the way would count other bytes
        headers = {"Accept-Encoding": "identity", "User-Agent": f"kdbench/{__version__}"}
        if have:
            headers["Range"] = f"bytes={have}-"
            if validator:
                headers["If-Range"] = validator
        try:
            with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_S) as response:
                self._receive(url, response, have)
        except (requests.exceptions.Timeout, ReadTimeoutError):
            raise _Again(f"no answer within {TIMEOUT_S:g} s") from None
        except requests.exceptions.SSLError as problem:
            raise self._failed(url, f"no secure connection: {problem}") from None
        except requests.exceptions.ConnectionError as problem:
            if not isinstance(problem.args[0] if problem.args else None, MaxRetryError):
                raise _Again("the connection broke") from None
            raise _NotThere(f"{self._name}: {urlsplit(url).hostname} cannot be reached (no connection?)") from None
        except (
            requests.exceptions.RequestException,
            ValueError,
        ) as problem:  # an address that is none, no end of detours
            raise self._failed(url, str(problem)) from None
        except HTTPError:
            raise _Again("the connection broke") from None

    def _receive(self, url: str, response: requests.Response, have: int) -> None:
        """Write what the server sends behind the bytes that are here, or in their place if it begins anew."""
        total = self._answer(url, response, have)
        if response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return
        at = have if response.status_code == HTTPStatus.PARTIAL_CONTENT else 0
        expected = self._download.size_bytes
        if expected is not None and total is not None and total != expected:
            raise self._failed(
                url, f"it has {total} bytes there instead of {expected}: not the file that was published"
            )
        if response.headers.get("Content-Type", "").startswith("text/html"):
            raise self._page(url)
        unpacked = self._download.unpacked_bytes or 0
        check_room(self._partial.parent, (total or expected or at) - at + unpacked)
        validator = response.headers.get("ETag", "")
        if not validator or validator.startswith("W/"):  # a weak one does not vouch for every byte
            validator = response.headers.get("Last-Modified", "")
        write_atomic(self._state, json.dumps({"url": _mark(url), "validator": validator}).encode(), durable=False)
        with self._partial.open("ab" if at else "wb") as file:
            self._report(at, total)
            for chunk in response.raw.stream(CHUNK, decode_content=False):
                file.write(chunk)
                at += len(chunk)
                self._report(at, total)
        if total is not None and at < total:
            raise _Again(f"the connection broke after {size_text(at)} of {size_text(total)}")
        self._report(at, at)

    def _answer(self, url: str, response: requests.Response, have: int) -> int | None:
        """The bytes of the whole file, if the server says. Raises: DownloadFailed; _Again if another try may help."""
        code = response.status_code
        said = f"the server answers {code} {response.reason or ''}".rstrip()
        if code == HTTPStatus.OK:
            length = response.headers.get("Content-Length", "")
            return int(length) if length.isdecimal() else None
        about = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", response.headers.get("Content-Range", ""))
        start, whole = about.groups() if about else (None, None)
        if code == HTTPStatus.PARTIAL_CONTENT and start == str(have):
            return int(whole) if whole and whole != "*" else None
        if code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have and whole == str(have):
            return have  # all of it is here already
        if code in (HTTPStatus.PARTIAL_CONTENT, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE) and have:
            self._partial.unlink(missing_ok=True)
            raise _Again(f"{said} for another part of the file than was asked for")
        if code in (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS) or code >= 500:
            raise _Again(said)
        raise _NotThere(str(self._failed(url, said)))

    def _copy(self, url: str) -> None:
        path = Path(url2pathname(urlsplit(url).path))
        try:
            total = path.stat().st_size
            with path.open("rb") as source, self._partial.open("wb") as file:
                check_room(self._partial.parent, total)
                while chunk := source.read(CHUNK):
                    file.write(chunk)
                    self._report(file.tell(), total)
        except (FileNotFoundError, IsADirectoryError, PermissionError) as problem:
            raise self._failed(url, f"it cannot be read ({problem.strerror})") from None

    def _report(self, done: int, total: int | None) -> None:
        if self._progress is None:
            return
        if total is None:
            self._progress(f"downloading {self._name} (kB, of unknown length)", done // 1000, done // 1000 + 1)
        else:
            self._progress(f"downloading {self._name} (kB)", -(-done // 1000), -(-total // 1000))

    def _refuse_other(self, url: str) -> None:
        """Raises: DownloadFailed, and removes what came, if its length or its beginning say that it is another file."""
        with self._partial.open("rb") as file:
            begin = file.read(512).lstrip().lower()
        size, expected = self._partial.stat().st_size, self._download.size_bytes
        problem = None
        if begin.startswith((b"<!doctype html", b"<html")):
            problem = self._page(url)
        elif expected is not None and size != expected:
            problem = self._failed(url, f"it had {size} bytes instead of {expected}: not the file that was published")
        if problem:
            self._partial.unlink()
            self._state.unlink(missing_ok=True)
            raise problem

    def _page(self, url: str) -> DownloadFailed:
        return _NotThere(str(self._failed(url, "it gives a web page instead of the file (a form, a login?)")))

    def _failed(self, url: str, why: str) -> DownloadFailed:
        return DownloadFailed(f"{self._name}: {shown(url)}: {why}")


def _lay_out(source: Source, download: Download, file: Path, folder: Path, progress: Progress | None) -> None:
    """Put what a file holds where it belongs below the folder. Raises: DownloadFailed."""
    if download.kind != "plain":
        unpack(file, folder, download.moves, download.unpacked_bytes, f"unpacking {source.name}", progress)
        return
    place = folder / download.into / download.file_name
    place.parent.mkdir(parents=True, exist_ok=True)
    check_room(place.parent, file.stat().st_size)
    shutil.copyfile(file, place)


def _scanned(source: Source, staging: Path) -> Listing:
    try:
        found = source.scan(staging, {})
    except MissingData:
        found = Listing(())
    if not found.items:
        raise DownloadFailed(f"{source.name}: what was downloaded has no images laid out as {source.layout}; "
                             f"look at {source.url} for what has changed")  # fmt: skip
    return found


def _aside(folder: Path) -> Path | None:
    """Make room at a place. Returns: where what lay there is now."""
    if not folder.exists():
        return None
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
        return None
    number = 1
    while (kept := folder.with_name(f"{folder.name}.before-{number}")).exists():
        number += 1
    folder.rename(kept)
    return kept
