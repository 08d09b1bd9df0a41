"""`kdbench data download` against a server on this machine: good answers, bad ones, and archives that mean harm."""

from __future__ import annotations

import hashlib
import io
import socket
import socketserver
import stat
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType

import pytest

from kdbench.cli.app import main
from kdbench.data import download as loading
from kdbench.data import unpack as unpacking
from kdbench.data.download import get, look, plan, shown
from kdbench.data.layouts import class_folders
from kdbench.data.source import SOURCES, Download, Listing, Move, Source
from kdbench.data.unpack import size_text, unpack
from kdbench.errors import ChecksumMismatch, DataError, DownloadFailed

CELLS = {f"cells/{kind}/{number}.png": f"{kind}{number}".encode() * 300 for kind in ("a", "b") for number in range(3)}


def zipped(files: dict[str, bytes], around: str = "cells-main/") -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in files.items():
            archive.writestr(f"{around}{name}", content)
    return out.getvalue()


def tarred(files: dict[str, bytes], mode: str = "w:gz") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


ARCHIVE = zipped(CELLS)
SHA = f"sha256:{hashlib.sha256(ARCHIVE).hexdigest()}"


class Cells(Source):
    name = "cells"
    title = "Cells of a test"
    url = "https://example.org/cells"
    licence = "CC0-1.0"
    citation = ""
    labels = ("a", "b")
    layout = "cells/cells/<class>/*.png"
    counts = MappingProxyType({"a": 3, "b": 3})
    steps = ("open https://example.org/cells", "move the folder cells to {folder}/cells")

    def __init__(self, *downloads: Download, manual: str = "") -> None:
        self.downloads = downloads  # type: ignore[misc]
        self.manual = manual  # type: ignore[misc]

    def scan(self, root: Path, options: object) -> Listing:
        folder = root / "cells" / "cells"
        if not folder.is_dir():
            raise self.missing(folder)
        items, left_out = class_folders(root, folder, {"a": "a", "b": "b"})
        return Listing(tuple(items), tuple(left_out))


def cells(url: str | None, checksum: str | None = SHA, **more: object) -> Cells:
    return Cells(Download(url, "cells.zip", "zip", checksum, moves=(Move("cells", "cells"),), **more))  # type: ignore[arg-type]


# ---------------------------------------------------------------- the server


class Server(ThreadingHTTPServer):
    """Serves one file, as badly as it is told to.

    Attributes:
        answers: what to do with the next requests; then all is well.
        asked: the Range of each request, and its If-Range.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = ARCHIVE
        self.etag = '"v1"'
        self.answers: list[str] = []
        self.always = ""
        self.asked: list[tuple[str | None, str | None]] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}/cells.zip"

    def server_bind(self) -> None:
        """Without asking for the name of this machine, which takes long where nobody knows it."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "localhost", self.server_address[1]

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is no news."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        server, wanted = self.server, self.headers.get("Range")
        server.asked.append((wanted, self.headers.get("If-Range")))
        answer = server.answers.pop(0) if server.answers else server.always
        body = server.content
        if answer.isdecimal():
            self.send_error(int(answer))
            return
        if answer == "silent":
            time.sleep(1)
            return
        if answer == "page":
            self._send(200, b"<!DOCTYPE html><title>Log in</title>", {"Content-Type": "text/html; charset=utf-8"})
            return
        if answer == "hidden page":
            self._send(200, b"\n<html><title>Log in</title>", {"Content-Type": "application/zip"})
            return
        headers = {"Content-Type": "application/zip"} | ({"ETag": server.etag} if server.etag else {})
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        same = self.headers.get("If-Range") in (None, server.etag)
        if answer == "wrong part":
            self._send(206, body[1:], {"Content-Range": f"bytes 1-{len(body) - 1}/{len(body)}"})
        elif wanted and same and answer != "ignores range":
            if start >= len(body):
                self._send(416, b"", {"Content-Range": f"bytes */{len(body)}"})
            else:
                span = f"bytes {start}-{len(body) - 1}/{len(body)}"
                self._send(206, body[start:], headers | {"Content-Range": span})
        elif answer == "half":
            self._send(200, body[: len(body) // 2], headers, len(body))
        elif answer == "endless":
            self.send_response(200)
            self.send_header("Content-Type", "application/zip")
            self.end_headers()
            self.wfile.write(body)
        else:
            self._send(200, body, headers)

    def _send(self, code: int, body: bytes, headers: dict[str, str], length: int | None = None) -> None:
        self.send_response(code)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setattr(loading, "WAIT_S", 0.0)
    monkeypatch.setattr(loading, "CHUNK", 500)
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def leave_half(server: Server, source: Source, root: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Break the download in the middle, as a person or a lost connection does. Returns: the bytes that are kept."""
    server.answers = ["half"]
    with monkeypatch.context() as patch:
        patch.setattr(loading, "ATTEMPTS", 1)
        with pytest.raises(DownloadFailed, match="the connection broke"):
            get(source, root)
    server.asked.clear()
    return (root / ".downloads/cells/cells.zip.part").stat().st_size


def placed(root: Path) -> dict[str, bytes]:
    folder = root / "cells"
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def hidden(root: Path) -> list[str]:
    """What a download left behind, its lock aside."""
    return sorted(
        path.relative_to(root).as_posix()
        for path in root.rglob("*")
        if path.relative_to(root).parts[0].startswith(".") and path.is_file() and path.suffix != ".lock"
    )


# ---------------------------------------------------------------- good answers


def test_a_download_is_put_in_place(server: Server, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    got = get(cells(server.url, size_bytes=len(ARCHIVE)), tmp_path, progress=lambda *what: seen.append(what))
    assert placed(tmp_path) == CELLS
    assert (got.folder, got.images, got.differences, got.kept, got.archives) == (tmp_path / "cells", 6, "", None, ())
    assert hidden(tmp_path) == []
    assert server.asked == [(None, None)]
    kilobytes = [(done, total) for what, done, total in seen if what == "downloading cells (kB)"]
    assert kilobytes == sorted(kilobytes)
    assert len(kilobytes) > 5
    assert kilobytes[-1] == (-(-len(ARCHIVE) // 1000),) * 2
    assert seen[-1] == ("unpacking cells", 6, 6)


def test_without_a_length_the_end_is_known_all_the_same(server: Server, tmp_path: Path) -> None:
    server.answers = ["endless"]
    seen: list[tuple[str, int, int]] = []
    get(cells(server.url), tmp_path, progress=lambda *what: seen.append(what))
    assert placed(tmp_path) == CELLS
    assert seen[0] == ("downloading cells (kB, of unknown length)", 0, 1)
    assert ("downloading cells (kB)", *(-(-len(ARCHIVE) // 1000),) * 2) in seen


@pytest.mark.parametrize("checksum", [SHA, f"md5:{hashlib.md5(ARCHIVE).hexdigest()}", None])
def test_archives_can_be_kept_and_are_not_loaded_again(server: Server, tmp_path: Path, checksum: str | None) -> None:
    source = cells(server.url, checksum)
    (archive,) = get(source, tmp_path, keep_archive=True).archives
    assert archive.read_bytes() == ARCHIVE
    (tmp_path / "cells/cells/a/0.png").unlink()
    again = get(source, tmp_path)
    assert len(server.asked) == 1
    assert placed(tmp_path) == CELLS
    assert again.kept == tmp_path / "cells.before-1"
    assert not (again.kept / "cells/a/0.png").exists()


def test_a_kept_archive_of_another_address_is_not_taken_for_it(server: Server, tmp_path: Path) -> None:
    source = cells(server.url, None)
    get(source, tmp_path, keep_archive=True)
    get(source, tmp_path, mirror=f"{server.url}?other")
    assert len(server.asked) == 2


@pytest.mark.parametrize("make", [zipped, tarred, lambda files: tarred(files, "w")])
def test_a_mirror_may_be_packed_otherwise(make, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    copy = tmp_path / "a copy.bin"
    copy.write_bytes(make(CELLS))
    get(cells(None, None), tmp_path / "data", mirror=copy.as_uri())
    assert placed(tmp_path / "data") == CELLS


def test_a_mirror_may_be_a_folder(server: Server, tmp_path: Path) -> None:
    source = cells(None, None)
    assert [url for _, url in plan(source, tmp_path, "https://x.org/sets/")] == ["https://x.org/sets/cells.zip"]
    get(source, tmp_path, mirror=server.url.removesuffix("cells.zip"))
    assert placed(tmp_path) == CELLS


def test_a_plain_file_goes_where_it_belongs(server: Server, tmp_path: Path) -> None:
    server.content = b"pixels"
    source = Cells(Download(server.url, "1.png", "plain", into="cells/a"))
    assert get(source, tmp_path).differences == "a 1 instead of 3, b 0 instead of 3"
    assert placed(tmp_path) == {"cells/a/1.png": b"pixels"}


# ---------------------------------------------------------------- going on


@pytest.mark.parametrize("checksum", [SHA, None])
def test_the_next_try_goes_on(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checksum: str | None
) -> None:
    source = cells(server.url, checksum)
    half = leave_half(server, source, tmp_path, monkeypatch)
    assert half == len(ARCHIVE) // 2
    assert not (tmp_path / "cells").exists()
    get(source, tmp_path)
    assert server.asked == [(f"bytes={half}-", '"v1"')]
    assert placed(tmp_path) == CELLS
    assert hidden(tmp_path) == []


def test_a_broken_connection_goes_on_by_itself(server: Server, tmp_path: Path) -> None:
    server.answers = ["half"]
    get(cells(server.url), tmp_path)
    assert server.asked == [(None, None), (f"bytes={len(ARCHIVE) // 2}-", '"v1"')]
    assert placed(tmp_path) == CELLS


@pytest.mark.parametrize("answer", ["ignores range", "wrong part"])
def test_a_server_that_cannot_go_on_begins_anew(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    source = cells(server.url)
    leave_half(server, source, tmp_path, monkeypatch)
    server.answers = [answer]
    get(source, tmp_path)
    assert placed(tmp_path) == CELLS


def test_a_file_that_changed_meanwhile_begins_anew(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = cells(server.url, None)
    leave_half(server, source, tmp_path, monkeypatch)
    server.etag, server.content = '"v2"', zipped({name: content[::-1] for name, content in CELLS.items()})
    get(source, tmp_path)
    assert [asked for _, asked in server.asked] == ['"v1"']
    assert placed(tmp_path) == {name: content[::-1] for name, content in CELLS.items()}


def test_a_part_that_nobody_vouches_for_is_not_used(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.etag = 'W/"weak"'
    source = cells(server.url, None)
    leave_half(server, source, tmp_path, monkeypatch)
    get(source, tmp_path)
    assert server.asked == [(None, None)]


def test_a_part_that_is_all_of_it_is_enough(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = cells(server.url)
    leave_half(server, source, tmp_path, monkeypatch)
    (tmp_path / ".downloads/cells/cells.zip.part").write_bytes(ARCHIVE)
    get(source, tmp_path)
    assert placed(tmp_path) == CELLS


def test_an_interrupt_keeps_what_came(server: Server, tmp_path: Path) -> None:
    source = cells(server.url)

    def interrupt(what: str, done: int, total: int) -> None:
        if done > 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        get(source, tmp_path, progress=interrupt)
    assert hidden(tmp_path) == [f".downloads/cells/cells.zip.{end}" for end in ("part", "part.json")]
    get(source, tmp_path)
    assert server.asked[1][0] is not None
    assert placed(tmp_path) == CELLS


def test_an_interrupt_while_unpacking_leaves_nothing_half(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = cells(server.url, None)
    with monkeypatch.context() as patch:
        patch.setattr(Cells, "scan", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            get(source, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {".downloads"}
    get(source, tmp_path)
    assert len(server.asked) == 1  # the archive was there
    assert placed(tmp_path) == CELLS


# ---------------------------------------------------------------- bad answers


@pytest.mark.parametrize(
    ("always", "message", "requests"),
    [
        ("404", "the server answers 404 Not Found", 1),
        ("403", "the server answers 403 Forbidden", 1),
        ("500", "the server answers 500 Internal Server Error, 4 times; try again later", 4),
        ("503", "the server answers 503 Service Unavailable, 4 times", 4),
        ("page", "it gives a web page instead of the file", 1),
        ("hidden page", "it gives a web page instead of the file", 1),
    ],
)
def test_bad_answers(server: Server, tmp_path: Path, always: str, message: str, requests: int) -> None:
    server.always = always
    with pytest.raises(DownloadFailed, match=message) as failed:
        get(cells(server.url), tmp_path)
    assert str(failed.value).startswith(f"cells: {server.url}: ")
    assert "\n" not in str(failed.value)
    assert len(server.asked) == requests
    assert hidden(tmp_path) == []
    assert not (tmp_path / "cells").exists()


def test_a_server_that_recovers(server: Server, tmp_path: Path) -> None:
    server.answers = ["500", "502", "429"]
    get(cells(server.url), tmp_path)
    assert placed(tmp_path) == CELLS


def test_a_body_that_is_always_cut_short(server: Server, tmp_path: Path) -> None:
    server.etag = ""
    server.always = "half"
    with pytest.raises(DownloadFailed, match="the connection broke, 4 times"):
        get(cells(server.url, None), tmp_path)
    assert len(server.asked) == 4


def test_a_silent_server(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "TIMEOUT_S", 0.1)
    monkeypatch.setattr(loading, "ATTEMPTS", 2)
    server.always = "silent"
    with pytest.raises(DownloadFailed, match=r"no answer within 0\.1 s, 2 times"):
        get(cells(server.url), tmp_path)


def test_another_length_is_refused_before_it_is_loaded(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadFailed, match=f"it has {len(ARCHIVE)} bytes there instead of 7"):
        get(cells(server.url, size_bytes=7), tmp_path)
    server.answers = ["endless"]
    with pytest.raises(DownloadFailed, match=f"it had {len(ARCHIVE)} bytes instead of 7"):
        get(cells(server.url, size_bytes=7), tmp_path)
    assert hidden(tmp_path) == []


def test_another_checksum_is_refused_before_anything_is_unpacked(server: Server, tmp_path: Path) -> None:
    wrong = "sha256:" + "0" * 64
    with pytest.raises(ChecksumMismatch, match=f"cells: cells.zip from .* is not the file .* {wrong}; it was removed"):
        get(cells(server.url, wrong), tmp_path)
    assert hidden(tmp_path) == []
    assert not (tmp_path / "cells").exists()
    with pytest.raises(ChecksumMismatch):  # of a mirror, too
        get(cells(None, wrong), tmp_path, mirror=server.url)


def test_without_a_connection_the_steps_are_said(tmp_path: Path, server: Server) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(DownloadFailed) as failed:
        get(cells(f"http://127.0.0.1:{port}/x.zip"), tmp_path)
    assert str(failed.value) == (
        "cells: 127.0.0.1 cannot be reached (no connection?); by hand: 1. open https://example.org/cells; 2. move the "
        f"folder cells to {tmp_path}/cells/cells; or give --mirror the address of a copy"
    )


@pytest.mark.parametrize("url", ["ftp://x.org/a.zip", "a.zip", "http:///a.zip", "file://elsewhere/a.zip", "http://[x/"])
def test_other_addresses_are_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(DownloadFailed, match="address"):
        get(cells(None), tmp_path, mirror=url)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DownloadFailed, match=r"it cannot be read \(No such file or directory\)"):
        get(cells(None), tmp_path, mirror=(tmp_path / "none.zip").as_uri())
    with pytest.raises(DownloadFailed, match=r"it cannot be read \(Is a directory\)"):
        get(cells(None), tmp_path, mirror=tmp_path.as_uri())


def test_passwords_are_not_shown() -> None:
    assert shown("https://me:secret@x.org:80/a.zip?token=1") == "https://x.org:80/a.zip"


def test_no_room(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil_usage(free=1000)
    monkeypatch.setattr(unpacking.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DownloadFailed, match=r"has room for 1\.0 kB, and .* kB are needed"):
        get(cells(server.url), tmp_path)
    assert not (tmp_path / "cells").exists()


def shutil_usage(free: int) -> object:
    return type("Usage", (), {"free": free})()


def test_without_room_for_what_is_in_it_the_archive_is_kept(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = cells(server.url, None)
    with monkeypatch.context() as patch:
        patch.setattr(loading, "check_room", lambda *_: None)
        patch.setattr(unpacking.shutil, "disk_usage", lambda _: shutil_usage(free=1000))
        with pytest.raises(DownloadFailed, match=r"has room for 1\.0 kB, and 3\.6 kB are needed"):
            get(source, tmp_path)
    get(source, tmp_path)
    assert len(server.asked) == 1
    assert placed(tmp_path) == CELLS


def test_two_at_once_are_refused(server: Server, tmp_path: Path) -> None:
    source = cells(server.url)

    def second(what: str, done: int, total: int) -> None:
        with pytest.raises(DownloadFailed, match="another kdbench is downloading cells"):
            get(source, tmp_path)

    get(source, tmp_path, progress=second)
    assert placed(tmp_path) == CELLS


def test_what_is_laid_out_otherwise_does_not_take_the_place(server: Server, tmp_path: Path) -> None:
    (tmp_path / "cells/mine").mkdir(parents=True)
    server.content = zipped({"cells/readme.txt": b"moved"})
    with pytest.raises(DownloadFailed, match="what was downloaded has no images laid out as cells/cells/<class>"):
        get(cells(server.url, None), tmp_path)
    assert (tmp_path / "cells/mine").is_dir()
    assert hidden(tmp_path) == []


# ---------------------------------------------------------------- archives that mean harm, or are broken


def linked(target: str, kind: bytes = tarfile.SYMTYPE) -> bytes:
    out = io.BytesIO(tarred(CELLS, "w"))
    with tarfile.open(fileobj=out, mode="a") as archive:
        info = tarfile.TarInfo("cells/a/link.png")
        info.type, info.linkname = kind, target
        archive.addfile(info)
    return out.getvalue()


def zip_with_mode(mode: int) -> bytes:
    out = io.BytesIO(zipped(CELLS))
    with zipfile.ZipFile(out, "a") as archive:
        info = zipfile.ZipInfo("cells/a/odd.png")
        info.external_attr = mode << 16
        archive.writestr(info, "../../../out")
    return out.getvalue()


HARM = {
    "zip, up": (zipped(CELLS | {"../../out.png": b"x"}), "leads out of it"),
    "zip, up inside": (zipped(CELLS | {"cells/a/../../../out.png": b"x"}), "leads out of it"),
    "zip, absolute": (zipped(CELLS | {"/cells/a/out.png": b"x"}, ""), "is an absolute path"),
    "zip, drive": (zipped(CELLS | {"C:/cells/a/out.png": b"x"}, ""), "is an absolute path"),
    "zip, backslashes": (zipped(CELLS | {"cells\\a\\..\\..\\..\\out.png": b"x"}), "leads out of it"),
    "zip, link": (zip_with_mode(stat.S_IFLNK | 0o777), "is a link"),
    "zip, device": (zip_with_mode(stat.S_IFCHR | 0o666), "is a device or a pipe"),
    "tar, up": (tarred(CELLS | {"../out.png": b"x"}), "leads out of it"),
    "tar, absolute": (tarred(CELLS | {"/out.png": b"x"}), "is an absolute path"),
    "tar, link": (linked("../../../etc/passwd"), "is a link to '../../../etc/passwd'"),
    "tar, absolute link": (linked("/etc/passwd"), "is a link to '/etc/passwd'"),
    "tar, hard link": (linked("../../x", tarfile.LNKTYPE), "is a link to '../../x'"),
    "tar, device": (linked("", tarfile.CHRTYPE), "is a device or a pipe"),
    "tar, pipe": (linked("", tarfile.FIFOTYPE), "is a device or a pipe"),
    "twice": (zipped(CELLS | {"deep/cells/a/0.png": b"x"}), "would be written over another of its files"),
    "file and folder": (zipped(CELLS | {"deep/cells/a/0.png/x.png": b"x"}), "over another of its files"),
}


@pytest.mark.parametrize("name", HARM)
def test_archives_that_mean_harm_are_refused_whole(name: str, tmp_path: Path) -> None:
    content, why = HARM[name]
    copy = tmp_path / "copy.bin"
    copy.write_bytes(content)
    root = tmp_path / "deep/er/root"
    with pytest.raises(DownloadFailed, match=r"cells\.zip is not to be trusted, nothing of it was ") as refused:
        get(cells(None, None), root, mirror=copy.as_uri())
    assert why in str(refused.value)
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"] == [copy]


def zeros(count: int) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("cells/a/0.png", bytes(count))
    return out.getvalue()


@pytest.mark.parametrize("make", [zeros, lambda count: tarred({"cells/a/0.png": bytes(count)})])
@pytest.mark.parametrize("declared", [None, 400_000])
def test_bombs_are_refused(make, declared: int | None, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    archive = tmp_path / "bomb"
    archive.write_bytes(make(1_000_000))
    with pytest.raises(DownloadFailed, match=r"brings it to 1 members and 1\.0 MB, from an archive of "):
        unpack(archive, tmp_path / "out", [Move("cells")], declared)
    assert not (tmp_path / "out").exists()
    assert unpack(archive, tmp_path / "out", [Move("cells")], 600_000) == 1  # declared, it is no bomb


def test_endless_members_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacking, "MAX_MEMBERS", 5)
    archive = tmp_path / "many.zip"
    archive.write_bytes(ARCHIVE)
    with pytest.raises(DownloadFailed, match="brings it to 6 members"):
        unpack(archive, tmp_path / "out", [Move("cells")])


def damaged_zip() -> bytes:
    content = bytearray(zipped(CELLS))
    content[100] ^= 255
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no archive at all", "cells.zip is neither a zip nor a tar archive"),
        (b"", "cells.zip is neither a zip nor a tar archive"),
        (ARCHIVE[:-100], "cells.zip is neither a zip nor a tar archive"),
        (damaged_zip(), "cells.zip is damaged: Bad CRC-32"),
        (tarred(CELLS)[:-20], "cells.zip is damaged: "),
        (tarred(CELLS, "w")[:2000], "cells.zip is damaged: "),
        (
            zipped({"other/a/0.png": b"x"}),
            "cells.zip holds no files of 'cells'; it begins with 'cells-main/other/a/0.png'",
        ),
    ],
)
def test_broken_archives(content: bytes, message: str, tmp_path: Path) -> None:
    copy = tmp_path / "copy.bin"
    copy.write_bytes(content)
    with pytest.raises(DownloadFailed, match=message):
        get(cells(None, None), tmp_path / "data", mirror=copy.as_uri())
    assert placed(tmp_path / "data") == {}
    assert hidden(tmp_path / "data") == []


def test_moves() -> None:
    assert Move("a/b", "c/d").to(("x", "a", "b", "e", "f.png")) == ("c", "d", "e", "f.png")
    assert Move("a").to(("a", "a", "f.png")) == ("f.png",)
    assert Move("a").to(("ab", "f.png")) is None
    assert Move("a", suffix=".bmp").to(("a", "1.BMP")) == ("1.BMP",)
    assert Move("a", suffix=".bmp").to(("a", "1.png")) is None
    assert Move("list.csv", "labels.csv").to(("x", "list.csv")) == ("labels.csv",)


def test_what_a_system_adds_is_not_taken(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    archive.write_bytes(zipped(CELLS | {"__MACOSX/cells/a/9.png": b"x"}, ""))
    assert unpack(archive, tmp_path / "out", [Move("cells")]) == 6


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (38_200_000, "38.2 MB")]
)
def test_sizes(count: int, text: str) -> None:
    assert size_text(count) == text


# ---------------------------------------------------------------- what lies there, and the command


def test_look(tmp_path: Path) -> None:
    source = cells(None)
    assert not look(source, tmp_path).there
    (tmp_path / "cells").mkdir()
    assert not look(source, tmp_path).there
    (tmp_path / "cells/x").mkdir()
    assert look(source, tmp_path).trouble == "it holds no images laid out as cells/cells/<class>/*.png"
    for name, content in CELLS.items():
        (tmp_path / "cells" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "cells" / name).write_bytes(content)
    assert (look(source, tmp_path).images, look(source, tmp_path).trouble) == (6, "")
    (tmp_path / "cells/cells/b/0.png").unlink()
    assert look(source, tmp_path).trouble == "b 2 instead of 3"


@pytest.fixture
def kdbench(monkeypatch, capsys, tmp_path, own_sources):  # type: ignore[no-untyped-def]
    """Call `kdbench data download` on a folder: (exit code, lines of stdout, stderr)."""

    def call(*arguments):  # type: ignore[no-untyped-def]
        monkeypatch.setattr(sys, "argv", ["kdbench", "data", "download", *arguments, "--data-root", str(tmp_path)])
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return left.value.code or 0, out.splitlines(), err

    return call


def test_the_command(kdbench, server: Server, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    SOURCES.add("cells", cells(server.url, size_bytes=len(ARCHIVE)))
    code, out, err = kdbench("cells")
    assert (code, err) == (
        2,
        "error: cells: nobody can be asked whether its licence suits (CC0-1.0); add --yes\n",
    )
    assert server.asked == []
    code, out, err = kdbench("cells", "--yes")
    assert (code, out[-1]) == (0, f"cells: 6 images at {tmp_path / 'cells'}, as many as are published")
    assert f"  downloading: {server.url}, {size_text(len(ARCHIVE))}" in out
    assert "  licence: CC0-1.0" in out
    assert not any(line.startswith("note:") for line in out)
    code, out, err = kdbench("cells", "--yes")
    assert (code, err) == (0, "")
    assert out == [f"cells: 6 images at {tmp_path / 'cells'}, as many as are published; nothing to do"]
    assert len(server.asked) == 1
    (tmp_path / "cells/cells/a/1.png").unlink()
    code, out, err = kdbench("cells", "--yes", "--keep-archive")
    assert code == 0
    assert f"note: {tmp_path / 'cells'} is not what is published and will be moved aside: a 2 instead of 3" in out
    assert f"note: what was at {tmp_path / 'cells'} is now at {tmp_path / 'cells.before-1'}" in out
    assert f"kept: {tmp_path / '.downloads/cells/cells.zip'}" in out


class Typed(io.StringIO):
    """What somebody types at a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("typed", "there"), [("y\n", True), ("n\n", False), ("\n", False)])
def test_the_command_asks(  # type: ignore[no-untyped-def]
    kdbench, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: str, there: bool
) -> None:
    SOURCES.add("cells", cells(server.url))
    monkeypatch.setattr(sys, "stdin", Typed(typed))
    code, out, _ = kdbench("cells")
    assert code == 0
    assert any("Download cells under its licence (CC0-1.0)? [y/N]" in line for line in out)
    assert bool(server.asked) == (tmp_path / "cells").exists() == there


def test_the_command_says_what_nobody_verified(kdbench, server: Server) -> None:  # type: ignore[no-untyped-def]
    server.content = zipped(dict(list(CELLS.items())[:5]))
    SOURCES.add("cells", cells(None, None))
    code, out, _ = kdbench("cells", "--yes", "--mirror", server.url)
    assert code == 0
    assert "note: no checksum of cells.zip is known: what comes is counted, not verified" in out
    assert "warning: cells does not hold what is published: b 2 instead of 3" in out


def test_the_command_is_interrupted(kdbench, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    SOURCES.add("cells", cells(server.url))

    def interrupt(self: object, what: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("kdbench.cli.screen.Screen.__call__", interrupt)
        code, _, err = kdbench("cells", "--yes")
    assert (code, err) == (130, "interrupted; what came so far is kept: the same command goes on where it stopped\n")
    assert kdbench("cells", "--yes")[0] == 0


def test_the_command_fails_in_one_line(kdbench, server: Server) -> None:  # type: ignore[no-untyped-def]
    SOURCES.add("cells", cells(server.url))
    server.always = "404"
    code, _, err = kdbench("cells", "--yes")
    assert code == 2
    assert err.startswith(f"error: cells: {server.url}: the server answers 404 Not Found; by hand: 1. open https://")
    assert err.count("\n") == 1
    code, _, err = kdbench("cells", "--yes", "--mirror", server.url)  # the steps would lead to what was not asked for
    assert (code, err) == (2, f"error: cells: {server.url}: the server answers 404 Not Found\n")
    code, _, err = kdbench("cels", "--yes")
    assert code == 2
    assert err.startswith("error: unknown dataset 'cels'; did you mean cells")


def test_the_command_where_nothing_is_to_be_done(kdbench) -> None:  # type: ignore[no-untyped-def]
    assert kdbench("synthetic") == (0, ["synthetic: nothing to download (nothing: drawn on demand)"], "")


def test_the_command_says_what_a_person_has_to_do(kdbench, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    code, _, err = kdbench("pbc", "--yes")
    assert code == 2
    assert err.startswith("error: pbc cannot be downloaded automatically: Mendeley Data ")
    for text in (
        "by hand: 1. open https://data.mendeley.com/",
        "; 3. move ",
        str(tmp_path / "pbc"),
        "or give --mirror ",
    ):
        assert text in err
    assert err.count("\n") == 1


def test_a_union_is_downloaded_source_by_source(kdbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    code, _, err = kdbench("mixed", "--yes", "--mirror", "https://x.org/a.zip")
    assert (code, "mixed is made of pbc, jtsc, cellavision, bccd_crops; give --mirror a folder" in err) == (2, True)
    copies = tmp_path / "copies"
    copies.mkdir()
    (copies / "BCCD.zip").write_bytes(zipped({"BCCD_cropped/Basophil/1.jpg": b"x"}, "BCCD-7751/"))
    code, out, err = kdbench("mixed", "--yes", "--mirror", f"{copies.as_uri()}/")
    assert code == 2  # what is not there is said for each
    lines = err.partition("error: ")[2].splitlines()
    assert [line.split(":")[0] for line in lines] == ["pbc", "jtsc", "cellavision"]
    assert out[-1] == f"bccd_crops: 1 images at {tmp_path / 'bccd_crops'}"


# ---------------------------------------------------------------- the declarations

SHIPPED = [name for name in SOURCES.names() if SOURCES.get(name).downloads]


def test_every_source_of_files_can_be_got() -> None:
    assert set(SOURCES.names()) - set(SHIPPED) == {"synthetic"}


@pytest.mark.parametrize("name", SHIPPED)
def test_declarations_are_whole(name: str, tmp_path: Path) -> None:
    source = SOURCES.get(name)
    assert set(source.counts) == set(source.labels)
    assert source.steps
    assert str(tmp_path / name) in source.by_hand(tmp_path)
    assert len({download.file_name for download in source.downloads}) == len(source.downloads)
    for download in source.downloads:
        assert (download.url is None) == bool(source.manual)
        assert bool(download.moves) == (download.kind != "plain")
    with pytest.raises(DataError, match=f"kdbench data download {name}` {'says how' if source.manual else 'does it'}"):
        source.scan(tmp_path, {})


@pytest.mark.parametrize(("name", "number", "count"), [("jtsc", 1, 300), ("cellavision", 2, 100)])
def test_the_repository_of_zheng_is_laid_out_as_its_sources_want(
    name: str, number: int, count: int, tmp_path: Path
) -> None:
    codes = {"neutrophil": "1", "lymphocyte": "2", "monocyte": "3", "eosinophil": "4", "basophil": "5"}
    source = SOURCES.get(name)
    labels = [codes[label] for label, many in source.counts.items() for _ in range(many)]
    table = "image ID,class label\n" + "".join(f"{index},{code}\n" for index, code in enumerate(labels, start=1))
    files = {f"Class Labels of Dataset {number}.csv": table.encode(), "LICENSE": b"x", "README.rst": b"x"}
    for index in range(1, count + 1):
        files |= {f"Dataset {number}/{index:03d}.bmp": b"x", f"Dataset {number}/{index:03d}.png": b"mask"}
        files |= {f"Dataset {3 - number}/{index:03d}.bmp": b"other"}
    copy = tmp_path / "master.zip"
    copy.write_bytes(zipped(files, "segmentation_WBC-fa9c016/"))
    got = get(source, tmp_path, mirror=copy.as_uri())
    assert (got.images, got.differences) == (count, "")
    assert source.scan(tmp_path, {}).left_out == ()
