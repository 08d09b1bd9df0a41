"""What records and leaderboards look like, as JSON Schema, and whether files made elsewhere do. Floor 6; no torch.

The schemas are made from the types that read the files and from the registry of columns, so they cannot say anything
else; those in `kdbench/docs/schema` are compared with them by a test.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json, to_json

from kdbench.errors import RecordError
from kdbench.report.column import COLUMNS, Better
from kdbench.report.outcomes import Outcomes
from kdbench.report.tabular import REPORT_SCHEMA_VERSION
from kdbench.store import find_stores
from kdbench.types import (
    EVALUATION_SCHEMA_VERSION,
    PROFILE_SCHEMA_VERSION,
    SCHEMA_VERSION,
    EvaluationRecord,
    ProfileRecord,
    RunRecord,
    evaluation_id,
)

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_FOLDERS = ("records", "profiles", "evaluations")
_PLACE = re.compile(r"(?<![\w.])(?:/home/|/Users/|/root/|[A-Za-z]:\\\\?Users)")
"""The beginning of a path in somebody's own folder."""


class ColumnFacts(BaseModel):
    """What a key of the rows means."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: str
    title: str
    better: Better | None = Field(description="which end is the good one; null for what is not ranked")
    note: str


class LeaderboardRow(BaseModel):
    """One cell; its figures stand beside these, by the keys of the columns. null is a missing figure."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)
    __pydantic_extra__: dict[str, bool | int | float | str | None]

    dataset: str
    image_size: int = Field(description="pixels, both sides")
    protocol: str | None = Field(default=None, description="how the images were split, with its version")
    fold: int = 0
    held_out: str | None = Field(default=None, description="the source that is the test set")
    leak: str | None = Field(default=None, description="why a model may know test images already")
    content: str | None = Field(default=None, description="hash of the images' bytes and labels")
    rank: int | None
    rank_low: int | None = Field(default=None, description="the best rank that paired tests allow")
    rank_high: int | None = Field(default=None, description="the worst rank that paired tests allow")
    role: Literal["teacher", "baseline", "student", "compressed"]
    model: str
    method: str
    stages: str | None = Field(default=None, description="of a compressed network, what was done to the trained one")
    ground_truth: bool
    teacher: str | None
    failed: int = Field(ge=0, description="runs without a result")
    failure: str | None
    machines: str = Field(description="fingerprints of the environments, with spaces between")
    cell_id: str
    run_ids: tuple[str, ...]


class Leaderboard(BaseModel):
    """What `kdbench report --format json` writes. Fractions, bytes, milliseconds; nothing is rounded."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1]
    columns: tuple[ColumnFacts, ...]
    rows: tuple[LeaderboardRow, ...]


def schemas() -> dict[str, dict[str, Any]]:
    """By file name, with the version in it."""
    return {
        f"record-v{SCHEMA_VERSION}.json": _schema(RunRecord, SCHEMA_VERSION),
        f"profile-v{PROFILE_SCHEMA_VERSION}.json": _schema(ProfileRecord, PROFILE_SCHEMA_VERSION),
        f"evaluation-v{EVALUATION_SCHEMA_VERSION}.json": _schema(EvaluationRecord, EVALUATION_SCHEMA_VERSION),
        f"leaderboard-v{REPORT_SCHEMA_VERSION}.json": _leaderboard(),
    }


def _schema(model: type[BaseModel], version: int) -> dict[str, Any]:
    made = model.model_json_schema()
    made["properties"]["schema_version"] = {"const": version}
    return {"$schema": DIALECT, **made}


def _leaderboard() -> dict[str, Any]:
    made = Leaderboard.model_json_schema()
    row = made["$defs"]["LeaderboardRow"]
    numbers = {"anyOf": [{"type": "number"}, {"type": "null"}]}
    row["patternProperties"] = {}
    for column in sorted(COLUMNS, key=lambda column: column.order):
        facts = {"title": column.heading, "description": column.note}
        if column.variants:  # one key for each class, machine, corruption
            row["patternProperties"][f"^{column.key}(_.+)?$"] = {**facts, **numbers}
            continue
        row["properties"][column.key] = {**facts, **numbers}
        if column.spread is not None:
            row["properties"][f"{column.key}_{column.spread_name}"] = numbers
        if column.interval is not None:
            row["properties"] |= {f"{column.key}_interval_{end}": numbers for end in ("low", "high")}
    return {"$schema": DIALECT, **made}


# ---------------------------------------------------------------- files made elsewhere


def validate(path: Path | str) -> tuple[int, list[str]]:
    """Look at a file, or at every record, profile and evaluation at or below a folder.

    Returns: how many files were looked at, and every problem in one line, sorted.
    Raises: RecordError if there is nothing to look at.
    """
    path = Path(path)
    if path.is_file():
        return 1, sorted(set(_file(path, path.name)))
    if not path.is_dir():
        raise RecordError(f"{path} is no file or folder; name a record, a leaderboard in JSON, or a results folder")
    own = path.rglob("*.json") if path.resolve().name in _FOLDERS else ()
    found = sorted({*own, *(file for folder in _FOLDERS for file in path.rglob(f"{folder}/**/*.json"))})
    if not found:
        raise RecordError(f"{path} holds no records/*.json, profiles/*.json or evaluations/*.json")
    problems = {problem for file in found for problem in _file(file, str(file.relative_to(path)))}
    if not problems:
        problems |= set(_answers(path))
    return len(found), sorted(problems)


def _file(path: Path, name: str) -> Iterator[str]:
    try:
        text = path.read_bytes()
        found = from_json(text, allow_inf_nan=False)
    except (ValueError, OSError) as problem:
        yield f"{name}: no JSON: {' '.join(str(problem).split())}"
        return
    several = isinstance(found, list)
    for number, item in enumerate(found if several else [found]):
        where = f"{name}[{number}]" if several else name
        yield from (f"{where}: {problem}" for problem in _item(item, path))
    if place := _PLACE.search(text.decode("utf-8", "replace")):
        yield f"{name}: names a folder of somebody's own ({place[0]}…); leave it out"


def _item(item: Any, path: Path) -> Iterator[str]:
    if not isinstance(item, dict):
        yield f"an object is wanted, not {type(item).__name__}"
        return
    model, version, check = _kind(item)
    if item.get("schema_version") != version:
        yield f"schema_version: {item.get('schema_version')!r}, where this kdbench reads {version}"
        return
    try:
        made = model.model_validate_json(to_json(item))
    except ValidationError as problem:
        for error in problem.errors(include_url=False):
            yield f"{'.'.join(map(str, error['loc'])) or 'the whole'}: {' '.join(error['msg'].split())}"
        return
    yield from check(made, path)


Check = Callable[[Any, Path], Iterator[str]]


def _kind(item: dict[str, Any]) -> tuple[type[BaseModel], int, Check]:
    if item.get("kind") == "kdbench-profile":
        return ProfileRecord, PROFILE_SCHEMA_VERSION, lambda made, path: iter(())
    if item.get("kind") == "kdbench-evaluation":
        return EvaluationRecord, EVALUATION_SCHEMA_VERSION, _check_evaluation
    if "rows" in item and "columns" in item:
        return Leaderboard, REPORT_SCHEMA_VERSION, _check_leaderboard
    return RunRecord, SCHEMA_VERSION, _check_record


def _check_record(record: RunRecord, path: Path) -> Iterator[str]:
    """What the types cannot say: that its parts fit each other."""
    if record.run_id != record.spec.run_id:
        yield f"run_id: {record.run_id}, where the spec gives {record.spec.run_id}"
    if record.cell_id != record.spec.cell_id:
        yield f"cell_id: {record.cell_id}, where the spec gives {record.spec.cell_id}"
    if path.parent.name == "records" and path.stem != record.run_id:
        yield f"the file's name is not its run_id, {record.run_id}"
    if record.status == "ok" and record.test_metrics is None:
        yield "test_metrics: missing, though the status is ok"
    if record.status != "ok" and record.failure is None:
        yield f"failure: missing, though the status is {record.status}"
    metrics = record.test_metrics
    if metrics is None:
        return
    if record.data is not None and (test := record.data.splits.get("test")) is not None:
        if sum(test.values()) != metrics.count:
            yield f"test_metrics.count: {metrics.count}, where data.splits.test has {sum(test.values())}"
        elif set(metrics.recall) <= set(test):
            mean = sum(metrics.recall[label] * test[label] for label in metrics.recall) / metrics.count
            if set(metrics.recall) >= {label for label, many in test.items() if many} and (
                abs(mean - metrics.accuracy) > 0.51 / metrics.count
            ):
                yield f"test_metrics: the recalls give an accuracy of {mean:.4f}, not {metrics.accuracy:.4f}"
    if outside := sorted(label for label, value in metrics.recall.items() if not 0 <= value <= 1):
        yield f"test_metrics.recall: {outside[0]} is not in [0, 1]"
    if record.profile is not None and record.profile.flops != 2 * record.profile.macs:
        yield "profile.flops: not 2 x macs"


def _check_evaluation(evaluation: EvaluationRecord, path: Path) -> Iterator[str]:
    wanted = evaluation_id(evaluation.run_id, evaluation.on, evaluation.side)
    if evaluation.evaluation_id != wanted:
        yield f"evaluation_id: {evaluation.evaluation_id}, where run, data set and side give {wanted}"


def _check_leaderboard(board: Leaderboard, path: Path) -> Iterator[str]:
    keys = [column.key for column in board.columns]
    for number, row in enumerate(board.rows):
        extra = row.__pydantic_extra__ or {}
        if missing := [key for key in keys if key not in extra]:
            yield f"rows.{number}: lacks {', '.join(missing)}"


def _answers(root: Path) -> Iterator[str]:
    """Predictions that are there and do not fit their record; missing ones only leave figures out."""
    for store in find_stores(root):
        yield from Outcomes([store]).notes(store.records())
