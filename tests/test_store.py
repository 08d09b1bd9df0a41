"""The results folder: whole files or none, one writer, nothing overwritten, nothing misread."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdbench.errors import DataError, Locked, RecordError, SchemaMismatch
from kdbench.store import Store, find_stores, images_key, load_record, whole_folder, write_atomic
from kdbench.types import DatasetSpec, Environment, RunRecord, RunSpec, content_id


def make_record(seed: int = 0, **changes: Any) -> RunRecord:
    spec = RunSpec(role="student", dataset="synthetic", model="resnet8_w16", method="ce", seed=seed)
    environment = Environment(
        fingerprint="f", cpu="c", cpu_flags=(), cores=1, memory_bytes=1, gpu=None, system="s", python="3", versions={},
        threads=1, kdbench="0", commit=None, dirty=None,
    )  # fmt: skip
    values: dict[str, Any] = {
        "run_id": spec.run_id, "cell_id": spec.cell_id, "status": "ok", "spec": spec, "started": "2026-01-02T03:04:05",
        "train_seconds": 1.0, "environment": environment,
    }  # fmt: skip
    return RunRecord(**(values | changes))


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


# ---------------------------------------------------------------- one file


def test_write_makes_folders_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "c.json"
    write_atomic(path, b"one")
    write_atomic(path, b"two", durable=False)
    assert path.read_bytes() == b"two"
    assert files(tmp_path) == ["a/b/c.json"]


class Stop(BaseException):
    """As KeyboardInterrupt: no Exception."""


@pytest.mark.parametrize("problem", [OSError("disk full"), Stop()])
@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
def test_a_failure_midway_leaves_the_old_content_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, problem: BaseException
) -> None:
    path = tmp_path / "x.json"
    write_atomic(path, b"old")
    reached = []

    def fail(*_: Any) -> None:
        reached.append(step)
        raise problem

    with monkeypatch.context() as patch:
        if step == "fsync":
            patch.setattr(os, "fsync", fail)
        elif step == "replace":
            patch.setattr(Path, "replace", fail)
        content = b"new" if step != "write" else None  # None cannot be written
        with pytest.raises(type(problem) if step != "write" else TypeError):
            write_atomic(path, content)  # type: ignore[arg-type]
    assert reached == ([step] if step != "write" else [])
    assert path.read_bytes() == b"old"
    assert files(tmp_path) == ["x.json"]


def test_content_is_on_the_disk_before_its_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda number: (steps.append("fsync"), fsync(number))[1])
    monkeypatch.setattr(Path, "replace", lambda path, to: (steps.append("replace"), replace(path, to))[1])
    write_atomic(tmp_path / "x", b"1")
    write_atomic(tmp_path / "x", b"2", durable=False)
    assert steps == ["fsync", "replace", "replace"]


# ---------------------------------------------------------------- one folder


@pytest.mark.parametrize("before", [False, True], ids=["new", "empty"])
def test_a_folder_is_there_once_it_is_whole(tmp_path: Path, before: bool) -> None:
    folder = tmp_path / "a" / "b"
    if before:
        folder.mkdir(parents=True)
    with whole_folder(folder, DataError) as made:
        (made / "one").write_text("1")
        assert files(folder) == []
    assert files(tmp_path) == ["a/b/one"]


@pytest.mark.parametrize("problem", [OSError("disk full"), Stop()])
def test_nothing_is_left_of_a_folder_that_was_not_finished(tmp_path: Path, problem: BaseException) -> None:
    def fill() -> None:
        with whole_folder(tmp_path / "a", DataError) as made:
            (made / "one").write_text("1")
            raise problem

    with pytest.raises(type(problem)):
        fill()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_used_is_refused_before_and_after(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path, tmp_path / "file"):
        with pytest.raises(DataError, match="is there and"), whole_folder(folder, DataError):
            pass

    def fill() -> None:
        with whole_folder(tmp_path / "a", DataError) as made:
            (made / "one").touch()
            write_atomic(tmp_path / "a" / "mine", b"mine")

    with pytest.raises(DataError, match="not empty"):
        fill()
    assert files(tmp_path) == ["a/mine", "file"]


# ---------------------------------------------------------------- the lock


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    with Store(tmp_path).lock():
        with pytest.raises(Locked, match="another kdbench run is writing"), Store(tmp_path).lock():
            pass
        with Store(tmp_path / "elsewhere").lock():
            pass
    with Store(tmp_path).lock():  # free again
        pass


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    script = """
import sys
from kdbench.errors import Locked
from kdbench.store import Store
try:
    with Store(sys.argv[1]).lock():
        print("held")
except Locked:
    print("locked")
"""

    def other() -> str:
        command = [sys.executable, "-c", script, str(tmp_path)]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()

    with Store(tmp_path).lock():
        assert other() == "locked"
    assert other() == "held"


def test_the_lock_is_freed_by_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), Store(tmp_path).lock():
        raise ZeroDivisionError
    with Store(tmp_path).lock():
        pass


def test_leftovers_of_a_killed_process_are_swept(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write_record(make_record())
    kept = files(tmp_path)
    for place in (tmp_path / "records", tmp_path / "checkpoints"):
        place.mkdir(parents=True, exist_ok=True)
        (place / ".partial-0123456789ab").write_bytes(b"half")
    assert store.records() == [make_record()]  # a reader does not see them either
    with store.lock():
        assert files(tmp_path) == sorted([*kept, ".lock"])


def test_a_refused_writer_sweeps_nothing(tmp_path: Path) -> None:
    half = tmp_path / ".partial-0123456789ab"
    with Store(tmp_path).lock():
        half.write_bytes(b"being written")
        with pytest.raises(Locked), Store(tmp_path).lock():
            pass
        assert half.exists()


# ---------------------------------------------------------------- records


def test_record_round_trip(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    records = [make_record(seed) for seed in (3, 1, 2)]
    for record in records:
        path = store.write_record(record)
        assert path == store.record_path(record.run_id)
        assert store.read_record(record.run_id) == record == load_record(path)
    assert store.records() == sorted(records, key=lambda record: record.run_id)
    assert store.read_record("0" * 16) is None
    assert Store(tmp_path / "nowhere").records() == []


def test_a_superseded_record_is_kept(tmp_path: Path) -> None:
    store, older = Store(tmp_path), tmp_path / "records" / "superseded"
    for seconds in (1.0, 2.0, 3.0):
        store.write_record(make_record(train_seconds=seconds))
    store.write_record(make_record(seed=1))
    assert [record.train_seconds for record in store.records() if record.spec.seed == 0] == [3.0]
    name = make_record().run_id
    assert [load_record(older / f"{name}-{n}.json").train_seconds for n in (1, 2)] == [1.0, 2.0]
    # somebody tidied up: the next one must not overwrite what is left
    (older / f"{name}-1.json").unlink()
    store.write_record(make_record(train_seconds=4.0))
    assert sorted(load_record(path).train_seconds for path in older.iterdir()) == [2.0, 3.0]


def test_a_record_without_a_result_does_not_hide_one_that_has_one(tmp_path: Path) -> None:
    store, older = Store(tmp_path), tmp_path / "records" / "superseded"
    store.write_record(make_record(train_seconds=1.0))
    store.write_record(make_record(status="failed", train_seconds=2.0))
    assert [record.status for record in store.records()] == ["ok"]
    assert [load_record(path).status for path in older.iterdir()] == ["failed"]
    store.write_record(make_record(train_seconds=3.0))
    assert [record.train_seconds for record in store.records()] == [3.0]
    assert len(list(older.iterdir())) == 2


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "JSON"),
        (b"{", "JSON"),
        (b"\xff\xfe", "the file"),
        (b"[]", "the file"),
        (b"null", "the file"),
        (b"{}", "run_id"),
    ],
)
def test_a_damaged_record_is_named(tmp_path: Path, content: bytes, what: str) -> None:
    path = Store(tmp_path).record_path("abc")
    path.parent.mkdir()
    path.write_bytes(content)
    for read in (lambda: load_record(path), Store(tmp_path).records, lambda: Store(tmp_path).read_record("abc")):
        with pytest.raises(SchemaMismatch, match="is no record of schema 1") as caught:
            read()
        assert str(path) in str(caught.value)
        assert what in str(caught.value)


def test_half_a_record_and_a_key_too_many_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    text = make_record().model_dump_json()
    path.write_text(text[: len(text) // 2])
    with pytest.raises(SchemaMismatch, match="is no record"):
        load_record(path)
    path.write_text(json.dumps({**json.loads(text), "verdict": "good"}))
    with pytest.raises(SchemaMismatch, match="verdict"):
        load_record(path)


@pytest.mark.parametrize("version", [0, 2])
def test_another_schema_version_is_refused(tmp_path: Path, version: int) -> None:
    path = tmp_path / "x.json"
    path.write_text(make_record(schema_version=version).model_dump_json())
    with pytest.raises(SchemaMismatch, match=f"has schema version {version}, this kdbench reads 1"):
        load_record(path)


# ---------------------------------------------------------------- predictions and items


def test_predictions_round_trip(tmp_path: Path) -> None:
    store = Store(tmp_path)
    logits = np.random.default_rng(0).normal(size=(7, 5))
    store.write_predictions("abc", logits.T.copy().T)  # in another memory order, in float64
    read = store.read_predictions("abc")
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, logits.astype(np.float32))


def test_missing_or_damaged_predictions_are_an_error_with_advice(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(RecordError, match=r"no usable predictions in .*; run the suite again"):
        store.read_predictions("abc")
    store.write_predictions("abc", np.zeros((3, 2)))
    path = store.predictions_path("abc")
    whole = path.read_bytes()
    for damaged in (b"", whole[:20], whole[:-4], b"x" * len(whole)):
        path.write_bytes(damaged)
        with pytest.raises(RecordError, match="no usable predictions"):
            store.read_predictions("abc")


def test_items_round_trip_and_are_written_once(tmp_path: Path) -> None:
    store = Store(tmp_path)
    items = [("a/1.jpg", "x", "a/1.jpg"), ('with, "signs"\n', "ä", "g")]
    store.write_items("c", items)
    assert store.read_items("c") == items
    store.write_items("c", [("other", "x", "y")])
    assert store.read_items("c") == items
    assert b"\r" not in store.items_path("c").read_bytes()


def test_items_of_a_data_set_are_found_under_their_name_and_under_the_one_they_had(tmp_path: Path) -> None:
    store, plain = Store(tmp_path), DatasetSpec(name="bccd", content="c0ffee")
    other = plain.model_copy(update={"protocol": "pooled-random"})
    assert images_key(plain) == content_id({
        key: value for key, value in plain.model_dump(mode="json").items()
        if key not in ("protocol", "protocol_version", "fold", "held_out", "stain")
    })  # fmt: skip
    assert images_key(other) != images_key(plain)
    with pytest.raises(RecordError, match=images_key(plain)):
        store.read_items_of(plain)
    store.write_items(content_id(plain.model_dump(mode="json")), [("old", "x", "g")])
    assert store.read_items_of(plain) == [("old", "x", "g")]
    store.write_items(images_key(plain), [("new", "x", "g")])
    assert store.read_items_of(plain) == [("new", "x", "g")]
    store.write_items(images_key(other), [("other", "x", "g")])
    assert store.read_items_of(other) == [("other", "x", "g")]


def test_missing_or_damaged_items_are_an_error_with_advice(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(RecordError, match="no usable list of test images"):
        store.read_items("c")
    write_atomic(store.items_path("c"), b"id,label,group\nonly one\n")
    with pytest.raises(RecordError, match="run the suite again"):
        store.read_items("c")


# ---------------------------------------------------------------- finding


def test_stores_are_found_below_a_folder(tmp_path: Path) -> None:
    for name in ("b", "a/deep"):
        Store(tmp_path / name).write_record(make_record())
        Store(tmp_path / name).write_record(make_record())  # a superseded record makes no store
    (tmp_path / "empty" / "records").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x.json").write_text("{}")
    assert [store.root for store in find_stores(tmp_path)] == [tmp_path / "a" / "deep", tmp_path / "b"]
    assert [store.root for store in find_stores(str(tmp_path / "b"))] == [tmp_path / "b"]
    assert find_stores(tmp_path / "other") == []
    assert find_stores(tmp_path / "nowhere") == []
