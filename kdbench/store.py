"""The results folder: one record, one file of predictions and one of weights for each run. Floor 2; no torch.

    DIR/records/<run_id>.json             the record; written last, so a run is finished when it is there
    DIR/predictions/<run_id>.safetensors  logits (N, K) float32 of the test images, in the order of the items file
    DIR/items/<dataset>.csv               which images those are: id, label, group; named by `images_key`
    DIR/weights/<run_id>.safetensors      the trained model
    DIR/checkpoints/<run_id>.pt           state of an unfinished run
    DIR/profiles/<name>.json              a list of profile records: what models cost, measured apart from their runs
    DIR/evaluations/<evaluation_id>.json  a trained model on corrupted test images or on a further data set; of the
                                          latter, predictions and items lie beside those of the runs

Every file is written beside its place and moved there, so a reader and a killed process see all of it or none.
"""

from __future__ import annotations

import csv
import io
import os
import secrets
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from filelock import FileLock, Timeout
from pydantic import ValidationError
from pydantic_core import from_json, to_json
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from kdbench import types
from kdbench.errors import KdbenchError, Locked, RecordError, SchemaMismatch
from kdbench.findings import AUDIT_SCHEMA_VERSION, AuditRecord
from kdbench.types import (
    EVALUATION_SCHEMA_VERSION,
    PROFILE_SCHEMA_VERSION,
    SCHEMA_VERSION,
    Corrupted,
    DatasetSpec,
    EvaluationRecord,
    Latency,
    ProfileRecord,
    RunRecord,
    RunSpec,
    content_id,
    identity,
)

T = TypeVar("T")

_TEMPORARY = ".partial-"
_FOLDERS = ("records", "predictions", "items", "weights", "checkpoints", "profiles", "evaluations")
_KIND = "kdbench-profile"
_EVALUATION_KIND = "kdbench-evaluation"


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


def refuse_used(folder: Path, problem: type[KdbenchError]) -> None:
    """Raises: that kind of error, if something is at folder that would be lost or left in the way."""
    if folder == Path.cwd():
        raise problem(f"{folder} is the folder you are in, which cannot be replaced; name a new one")
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise problem(f"{folder} is there and no folder; name a new one")
    if folder.is_dir() and any(folder.iterdir()):
        raise problem(f"{folder} is there and not empty; nothing is overwritten: name a new folder, or remove it")


@contextmanager
def whole_folder(folder: Path, problem: type[KdbenchError]) -> Iterator[Path]:
    """A folder to write into, beside its place; once that went well it is moved there, else nothing is left of it.

    Args:
        folder: absolute; new or empty.
    Raises: that kind of error, if something is in the folder, before and after it was written.
    """
    refuse_used(folder, problem)
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f"{_TEMPORARY}{folder.name}-{secrets.token_hex(4)}")
    partial.mkdir()
    try:
        yield partial
        refuse_used(folder, problem)
        if folder.is_dir():
            folder.rmdir()
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
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

    def artefact_path(self, run_id: str) -> Path:
        """The file of a quantised run."""
        return self.root / "weights" / f"{run_id}.onnx"

    def network_path(self, run: RunSpec | RunRecord) -> Path:
        """What a run leaves of its network: weights, or a file that a runtime runs."""
        spec = run.spec if isinstance(run, RunRecord) else run
        return self.weights_path(run.run_id) if spec.quantise is None else self.artefact_path(run.run_id)

    def network_paths(self, run_id: str) -> tuple[Path, Path]:
        """Where that may be, of a run of which only the id is known."""
        return self.weights_path(run_id), self.artefact_path(run_id)

    def checkpoint_path(self, run_id: str) -> Path:
        return self.root / "checkpoints" / f"{run_id}.pt"

    def start_path(self, run_id: str) -> Path:
        """The pruned network that a fine-tuning starts with; only while it goes on."""
        return self.root / "checkpoints" / f"{run_id}.safetensors"

    def items_path(self, key: str) -> Path:
        return self.root / "items" / f"{key}.csv"

    def profiles_path(self, name: str) -> Path:
        return self.root / "profiles" / f"{name}.json"

    def evaluation_path(self, evaluation_id: str) -> Path:
        return self.root / "evaluations" / f"{evaluation_id}.json"

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
        # by name: comparing whole paths takes a tenth of the time of a large folder
        paths = sorted((self.root / "records").glob("*.json"), key=lambda path: path.name)
        return [load_record(path) for path in paths]

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
        except (OSError, IndexError, UnicodeDecodeError, csv.Error) as problem:
            raise RecordError(f"no usable list of test images in {path}: {problem}; run the suite again") from None

    def read_items_of(self, dataset: DatasetSpec) -> list[tuple[str, str, str]]:
        """The test images of that data set, resolved: (id, label, group). Raises: RecordError as `read_items`."""
        key = images_key(dataset)
        if not self.items_path(key).exists():
            # the name has not always left out what is at its default
            by_all_fields = content_id(dataset.model_dump(mode="json"))
            key = by_all_fields if self.items_path(by_all_fields).exists() else key
        return self.read_items(key)

    def write_profiles(self, name: str, profiles: Sequence[ProfileRecord]) -> Path:
        """Write the profiles as one list, in place of what that name held. Raises: RecordError for a bad name."""
        path = self.profiles_path(name)
        if not name or name.startswith(".") or path.name != f"{name}.json" or "\\" in name:
            raise RecordError(f"'{name}' cannot name a file of profiles; take letters, digits, '-' and '_'")
        write_atomic(path, to_json(list(profiles), indent=1) + b"\n")
        return path

    def write_evaluation(self, evaluation: EvaluationRecord) -> Path:
        """Write the evaluation in place of what its id held; whoever adds to it carries over what was there."""
        path = self.evaluation_path(evaluation.evaluation_id)
        write_atomic(path, (evaluation.model_dump_json(indent=1) + "\n").encode())
        return path

    def read_evaluation(self, evaluation_id: str) -> EvaluationRecord | None:
        """The evaluation of that id, None if there is none. Raises: SchemaMismatch."""
        path = self.evaluation_path(evaluation_id)
        return load_evaluation(path) if path.exists() else None


def images_key(dataset: DatasetSpec) -> str:
    """What the file of a data set's test images is called: fields that come later leave it as it is."""
    return content_id(identity(dataset))


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
    # folder by folder: a path object for each of many records takes seven times as long
    found = (folder for folder in Path(root).rglob("records") if folder.is_dir() and any(folder.glob("*.json")))
    return [Store(folder) for folder in sorted({folder.parent for folder in found})]


def load_profiles(path: Path | str) -> list[ProfileRecord]:
    """Read a file that holds one profile or a list of them.

    Raises: SchemaMismatch if it is damaged, of another kind or of another schema version; OSError if it is not there.
    """
    again = "make it again with `kdbench profile`"
    return _read(Path(path), _each(_profile), "profile", f"profiles of schema {PROFILE_SCHEMA_VERSION}", again)


def _profile(item: Any) -> ProfileRecord:
    """Raises: ValueError."""
    _check_kind(item, _KIND, PROFILE_SCHEMA_VERSION)
    return ProfileRecord.model_validate(item)


def _check_kind(item: Any, kind: str, version: int) -> None:
    """Raises: ValueError; kind and version are looked at first, as they explain every other difference."""
    if not isinstance(item, dict) or item.get("kind") != kind:
        found = item.get("kind") if isinstance(item, dict) else None
        raise ValueError(f"the kind is {found!r}, not {kind!r}")
    if item.get("schema_version") != version:
        raise ValueError(f"the schema version is {item.get('schema_version')!r}")


def find_profiles(root: Path | str) -> list[ProfileRecord]:
    """The profiles of every ``profiles/*.json`` at or below root; root may be such a folder itself, or one file.

    What was measured twice is there once (see `newest_profiles`). Raises: SchemaMismatch if a file cannot be read.
    """
    return newest_profiles(profile for path in _json_files(Path(root), "profiles") for profile in load_profiles(path))


def _json_files(root: Path, folder: str) -> list[Path]:
    """Every ``folder/*.json`` at or below root, sorted; root may be such a folder itself, or one file."""
    if root.is_file():
        return [root]
    own = root.glob("*.json") if root.resolve().name == folder else ()
    return sorted({*own, *root.rglob(f"{folder}/*.json")})


def newest_profiles(profiles: Iterable[ProfileRecord]) -> list[ProfileRecord]:
    """What was measured twice, once: of one network on one machine, each setting counts as it was measured last.

    A profile keeps those of its latencies and failures that no later one has; without any left it goes. Neither the
    order of the profiles nor that of the files they come from matters.
    """
    groups: defaultdict[tuple[str, ...], list[ProfileRecord]] = defaultdict(list)
    for profile in profiles:
        network = (profile.model, profile.choice.model_dump_json(), profile.run_id)
        shape = (f"{profile.image_size:05d}", f"{profile.num_classes:05d}")
        groups[(*network, *shape, profile.environment.fingerprint)].append(profile)
    kept: list[ProfileRecord] = []
    for _, group in sorted(groups.items()):
        if len(group) > 1:  # the text tells those apart that say they started at one time
            group.sort(key=lambda profile: (started_at(profile), profile.model_dump_json()), reverse=True)
        kept += _not_measured_again(group)
    return kept


def load_evaluation(path: Path | str) -> EvaluationRecord:
    """Read a file that holds one evaluation.

    Raises: SchemaMismatch if it is damaged, of another kind or of another schema version; OSError if it is not there.
    """
    again = "remove it and make it again with `kdbench evaluate`"
    return _read(Path(path), _evaluation, "evaluation", f"evaluation of schema {EVALUATION_SCHEMA_VERSION}", again)


def _evaluation(item: Any) -> EvaluationRecord:
    """Raises: ValueError."""
    _check_kind(item, _EVALUATION_KIND, EVALUATION_SCHEMA_VERSION)
    return EvaluationRecord.model_validate(item)


def find_evaluations(root: Path | str) -> list[EvaluationRecord]:
    """The evaluations of every ``evaluations/*.json`` at or below root; root may be such a folder itself, or one file.

    What was evaluated in two folders is there once (see `newest_evaluations`). Raises: SchemaMismatch if a file cannot
    be read.
    """
    return newest_evaluations(load_evaluation(path) for path in _json_files(Path(root), "evaluations"))


def newest_evaluations(evaluations: Iterable[EvaluationRecord]) -> list[EvaluationRecord]:
    """One record for each evaluation: the last one that has a result, with what only earlier ones have of corruptions.

    The order of the evaluations does not matter. Returns: in the order of their ids.
    """
    groups: defaultdict[str, list[EvaluationRecord]] = defaultdict(list)
    for evaluation in evaluations:
        groups[evaluation.evaluation_id].append(evaluation)
    kept: list[EvaluationRecord] = []
    for _, group in sorted(groups.items()):
        # without a result it is worth less than any that has one; the text tells those of one time apart
        group.sort(key=lambda one: (one.metrics is not None, started_at(one), one.model_dump_json()))
        figures: dict[tuple[str, int], Corrupted] = {}
        for evaluation in group:
            if evaluation.weights == group[-1].weights:  # other weights are another model, whatever its run is called
                figures |= {(figure.corruption, figure.level): figure for figure in evaluation.corrupted}
        together = tuple(figure for _, figure in sorted(figures.items()))
        last = group[-1]
        kept.append(last if together == last.corrupted else last.model_copy(update={"corrupted": together}))
    return kept


def _not_measured_again(group: Sequence[ProfileRecord]) -> Iterator[ProfileRecord]:
    """Of the profiles of one network on one machine, the last one first: each with what is not in those before it."""
    measured: set[tuple[Any, ...]] = set()
    told: set[str] = set()
    for number, profile in enumerate(group):
        latencies = tuple(latency for latency in profile.latencies if _setting(latency) not in measured)
        failures = {setting: reason for setting, reason in profile.failures.items() if setting not in told}
        measured |= {_setting(latency) for latency in latencies}
        told |= failures.keys() | {setting_text(latency) for latency in latencies}
        if number == 0:  # counts alone are worth a profile, too
            yield profile
        elif latencies or failures:
            whole = len(latencies) == len(profile.latencies) and len(failures) == len(profile.failures)
            # itself, where all of it is kept: whoever asks twice has to recognise it
            yield profile if whole else profile.model_copy(update={"latencies": latencies, "failures": failures})


def _setting(latency: Latency) -> tuple[Any, ...]:
    return (setting_text(latency), latency.library, latency.isolated)


def setting_text(latency: Latency) -> str:
    """What it was measured under, as ``failures`` of a profile names a setting that has no figure."""
    return types.setting_text(latency.runtime, latency.precision, latency.device, latency.batch_size, latency.threads)


def write_audits(path: Path, records: Sequence[AuditRecord]) -> None:
    """Write one audit as an object, several as a list."""
    plain = records[0] if len(records) == 1 else list(records)
    write_atomic(path, to_json(plain, indent=1) + b"\n")


def load_audits(path: Path | str) -> list[AuditRecord]:
    """Read a file that holds one audit or a list of them.

    Raises: SchemaMismatch if it is damaged, of another kind or of another schema version; OSError if it is not there.
    """
    again = "make it again with `kdbench data audit`"
    return _read(Path(path), _each(_audit), "audit", f"audits of schema {AUDIT_SCHEMA_VERSION}", again)


def _audit(item: Any) -> AuditRecord:
    """Raises: ValueError."""
    record = AuditRecord.model_validate(item)
    if record.schema_version != AUDIT_SCHEMA_VERSION:
        raise ValueError(f"the schema version is {record.schema_version}")
    return record


def _each(one: Callable[[Any], T]) -> Callable[[Any], list[T]]:
    """What reads one record, for a file that holds one or a list of them."""
    return lambda found: [one(item) for item in (found if isinstance(found, list) else [found])]


def _read(path: Path, parse: Callable[[Any], T], what: str, wanted: str, again: str) -> T:
    """What a file of records holds.

    Args:
        parse: makes it of plain JSON; raises ValueError.
        what, wanted, again: one record, what the file should hold, and how it is made anew, for the message.
    Raises: SchemaMismatch; OSError if the file is not there.
    """
    try:
        return parse(from_json(path.read_bytes()))
    except ValidationError as problem:
        first = problem.errors()[0]
        trouble = f"{'.'.join(str(part) for part in first['loc']) or f'the {what}'}: {first['msg']}"
    except ValueError as problem:
        trouble = str(problem)
    raise SchemaMismatch(f"{path} holds no {wanted}: {trouble}; {again}")


def started_at(record: RunRecord | ProfileRecord | EvaluationRecord) -> datetime:
    """When it started, in UTC; the earliest time there is where the record's text is no date."""
    try:
        when = datetime.fromisoformat(record.started)
    except ValueError:
        return datetime.min.replace(tzinfo=UTC)
    return when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)
