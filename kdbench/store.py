"""The results folder: one record, one file of predictions and one of weights for each run. Floor 2; no torch.

    DIR/records/<run_id>.json             the record; written last, so a run is finished when it is there
    DIR/predictions/<run_id>.safetensors  logits (N, K) float32 of the test images, in the order of the items file
    DIR/items/<dataset>.csv               which images those are: id, label, group; named by a hash of the spec
    DIR/weights/<run_id>.safetensors      the trained model
    DIR/checkpoints/<run_id>.pt           state of an unfinished run

Every file is written beside its place and moved there, so a reader and a killed process see all of it or none.
"""

from __future__ import annotations

import csv
import io
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from kdbench.errors import Locked, RecordError, SchemaMismatch
from kdbench.types import SCHEMA_VERSION, RunRecord

_TEMPORARY = ".partial-"
_FOLDERS = ("records", "predictions", "items", "weights", "checkpoints")


def write_atomic(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Put content at path in one step that survives a kill and, if durable, a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # without the suffix: whoever looks for *.json must not find half a record
    temporary = path.with_name(f"{_TEMPORARY}{secrets.token_hex(6)}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


class Store:
    """One results folder. Reading needs no lock; whoever writes runs holds `lock`."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)

    def record_path(self, run_id: str) -> Path:
        return self.root / "records" / f"{run_id}.json"

    def predictions_path(self, run_id: str) -> Path:
        return self.root / "predictions" / f"{run_id}.safetensors"

    def weights_path(self, run_id: str) -> Path:
        return self.root / "weights" / f"{run_id}.safetensors"

    def checkpoint_path(self, run_id: str) -> Path:
        return self.root / "checkpoints" / f"{run_id}.pt"

    def items_path(self, key: str) -> Path:
        return self.root / "items" / f"{key}.csv"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder for writing; the system frees it when the process ends, however it ends. Raises: Locked."""
        self.root.mkdir(parents=True, exist_ok=True)
        held = FileLock(self.root / ".lock")
        try:
            held.acquire(timeout=0)
        except Timeout:
            raise Locked(
                f"another kdbench run is writing into {self.root}; wait for it, or give --results another folder"
            ) from None
        try:
            for folder in _FOLDERS:  # of this store alone: another one may lie below it
                for left_behind in (self.root / folder).rglob(f"{_TEMPORARY}*"):  # of a killed process
                    left_behind.unlink(missing_ok=True)
            yield
        finally:
            held.release()

    def write_record(self, record: RunRecord) -> Path:
        """Write the record. One that stands there already is kept beside it, never overwritten.

        A record without a result does not take the place of one that has one; it is kept beside it.
        """
        path = self.record_path(record.run_id)
        before = self.read_record(record.run_id)
        if before is not None and before.status == "ok" and record.status != "ok":
            path = self._superseded_path(record.run_id)
        elif before is not None:
            kept = self._superseded_path(record.run_id)
            kept.parent.mkdir(exist_ok=True)
            path.replace(kept)
        write_atomic(path, (record.model_dump_json(indent=1) + "\n").encode())
        return path

    def _superseded_path(self, run_id: str) -> Path:
        folder = self.root / "records" / "superseded"
        numbers = (int(kept.stem.rpartition("-")[2]) for kept in folder.glob(f"{run_id}-*.json"))
        return folder / f"{run_id}-{max(numbers, default=0) + 1}.json"

    def read_record(self, run_id: str) -> RunRecord | None:
        """The record of that run, None if there is none. Raises: SchemaMismatch."""
        path = self.record_path(run_id)
        return load_record(path) if path.exists() else None

    def records(self) -> list[RunRecord]:
        """All records in the order of their ids. Raises: SchemaMismatch."""
        return [load_record(path) for path in sorted((self.root / "records").glob("*.json"))]

    def write_predictions(self, run_id: str, logits: np.ndarray) -> None:
        write_atomic(self.predictions_path(run_id), save({"test_logits": np.ascontiguousarray(logits, np.float32)}))

    def read_predictions(self, run_id: str) -> np.ndarray:
        """Test logits (N, K) float32. Raises: RecordError if they are missing or damaged."""
        path = self.predictions_path(run_id)
        try:
            return load_file(path)["test_logits"]
        except (OSError, KeyError, SafetensorError) as problem:
            raise RecordError(f"no usable predictions in {path}: {problem}; run the suite again") from None

    def write_items(self, key: str, items: Sequence[tuple[str, str, str]]) -> None:
        """Note once which test images the predictions belong to: (id, label, group) in their order."""
        path = self.items_path(key)
        if path.exists():
            return
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("id", "label", "group"))
        writer.writerows(items)
        write_atomic(path, text.getvalue().encode())

    def read_items(self, key: str) -> list[tuple[str, str, str]]:
        """The test images of a data set: (id, label, group). Raises: RecordError if they are missing or damaged."""
        path = self.items_path(key)
        try:
            with path.open(newline="", encoding="utf-8") as file:
                rows = csv.reader(file)
                next(rows, None)
                return [(row[0], row[1], row[2]) for row in rows]
        except (OSError, IndexError, UnicodeDecodeError) as problem:
            raise RecordError(f"no usable list of test images in {path}: {problem}; run the suite again") from None


def load_record(path: Path) -> RunRecord:
    """Read one record file. Raises: SchemaMismatch if it is damaged or of another schema version."""
    try:
        record = RunRecord.model_validate_json(path.read_bytes())
    except ValidationError as problem:
        first = problem.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise SchemaMismatch(f"{path} is no record of schema {SCHEMA_VERSION}: {where}: {first['msg']}; "
                             "move it away or make it again with the suite") from None  # fmt: skip
    if record.schema_version != SCHEMA_VERSION:
        raise SchemaMismatch(f"{path} has schema version {record.schema_version}, this kdbench reads {SCHEMA_VERSION}")
    return record


def find_stores(root: Path | str) -> list[Store]:
    """The results folders at or below root: every folder that holds ``records/*.json``."""
    folders = {path.parent.parent for path in Path(root).rglob("records/*.json")}
    return [Store(folder) for folder in sorted(folders)]
