"""The results folder: whole files or none, one writer, nothing overwritten."""

from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest

from kdbench.environment import collect
from kdbench.errors import Locked, RecordError, SchemaMismatch
from kdbench.store import Store, find_stores, write_atomic
from kdbench.types import RunRecord, RunSpec


def record(seed: int = 0, **changes: object) -> RunRecord:
    spec = RunSpec.model_validate(
        {"role": "student", "dataset": "synthetic", "model": "resnet8_w16", "method": "ce", "seed": seed}
    )
    base = {
        "run_id": spec.run_id,
        "cell_id": spec.cell_id,
        "status": "failed",
        "spec": spec,
        "started": "2026-01-01T00:00:00+00:00",
        "train_seconds": 1.5,
        "environment": collect(1),
    }
    return RunRecord.model_validate({**base, **changes})


# ---------------------------------------------------------------- atomic writes


def test_a_write_makes_folders_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.txt"
    write_atomic(path, b"one")
    write_atomic(path, b"two")
    assert path.read_bytes() == b"two"
    assert [entry.name for entry in path.parent.iterdir()] == ["b.txt"]


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_content_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    path = tmp_path / "b.txt"
    write_atomic(path, b"one")

    def fail(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os if broken == "fsync" else Path, broken, fail)
    with pytest.raises(OSError, match="no space"):
        write_atomic(path, b"two")
    assert path.read_bytes() == b"one"
    assert [entry.name for entry in tmp_path.iterdir()] == ["b.txt"]


# ---------------------------------------------------------------- lock


def _try_lock(root: str, answer: multiprocessing.Queue) -> None:
    try:
        with Store(root).lock():
            answer.put("got it")
    except Locked as problem:
        answer.put(str(problem))


def test_another_process_is_kept_out_and_let_in_afterwards(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()

    def ask() -> str:
        process = context.Process(target=_try_lock, args=(str(tmp_path), answer))
        process.start()
        said = answer.get(timeout=60)
        process.join(timeout=60)
        return said

    with Store(tmp_path).lock():
        assert "another kdbench run is writing" in ask()
    assert ask() == "got it"


def test_what_a_killed_process_left_is_swept(tmp_path: Path) -> None:
    left = tmp_path / "records" / ".partial-0123"
    left.parent.mkdir()
    left.write_text("{")
    with Store(tmp_path).lock():
        assert not left.exists()


# ---------------------------------------------------------------- records


def test_a_record_comes_back_as_it_was(tmp_path: Path) -> None:
    store, one = Store(tmp_path), record()
    store.write_record(one)
    assert store.read_record(one.run_id) == one
    assert store.records() == [one]
    assert store.read_record("0" * 16) is None


def test_a_record_is_superseded_not_overwritten(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for seconds in (1.0, 2.0, 3.0):
        store.write_record(record(train_seconds=seconds))
    (newest,) = store.records()
    assert newest.train_seconds == 3.0
    older = sorted((tmp_path / "records" / "superseded").glob("*.json"))
    assert [json.loads(path.read_text())["train_seconds"] for path in older] == [1.0, 2.0]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"run_id": 3}'])
def test_a_damaged_record_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "records" / "x.json"
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(SchemaMismatch, match=r"x\.json is no record"):
        Store(tmp_path).records()


def test_another_schema_version_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write_record(record(schema_version=99))
    with pytest.raises(SchemaMismatch, match="schema version 99"):
        store.records()


def test_stores_are_found_below_a_folder(tmp_path: Path) -> None:
    for name in ("b", "a/c"):
        Store(tmp_path / name).write_record(record())
    Store(tmp_path / "b").write_record(record())  # leaves records/superseded, which is no store of its own
    assert [store.root for store in find_stores(tmp_path)] == [tmp_path / "a" / "c", tmp_path / "b"]
    assert find_stores(tmp_path / "nowhere") == []


# ---------------------------------------------------------------- predictions and items


def test_predictions_come_back(tmp_path: Path) -> None:
    logits = np.random.default_rng(0).normal(size=(7, 3))
    Store(tmp_path).write_predictions("x", logits)
    read = Store(tmp_path).read_predictions("x")
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, logits.astype(np.float32))


@pytest.mark.parametrize("content", [None, b"", b"not tensors"])
def test_predictions_that_cannot_be_read(tmp_path: Path, content: bytes | None) -> None:
    store = Store(tmp_path)
    if content is not None:
        write_atomic(store.predictions_path("x"), content)
    with pytest.raises(RecordError, match="no usable predictions"):
        store.read_predictions("x")


def test_items_with_any_name_come_back_and_are_written_once(tmp_path: Path) -> None:
    items = [("a/b,c.jpg", "neutrophil", "a/b,c.jpg"), ('quo"te\n.jpg', "monocyte", "äöü")]
    store = Store(tmp_path)
    store.write_items("k", items)
    store.write_items("k", [])
    assert store.read_items("k") == items
