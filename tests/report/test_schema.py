"""The published schemas are those of the types and columns, and files made elsewhere are held to them.

KDBENCH_UPDATE_GOLDEN=1 pytest tests/report/test_schema.py    writes kdbench/docs/schema anew
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from record_factory import answered, card, corrupted, costs, evaluation, profile, record, spec, study

import kdbench
from kdbench.errors import RecordError
from kdbench.report import Outcomes, collect, render
from kdbench.report.schema import Leaderboard, schemas, validate
from kdbench.store import Store
from kdbench.types import Metrics, RunRecord

PUBLISHED = Path(kdbench.__file__).parent / "docs" / "schema"
ROOT = Path(__file__).resolve().parents[2]


def test_the_published_schemas_are_up_to_date_and_packaged() -> None:
    made = {name: json.dumps(schema, indent=1, ensure_ascii=False) + "\n" for name, schema in schemas().items()}
    if os.environ.get("KDBENCH_UPDATE_GOLDEN"):
        PUBLISHED.mkdir(exist_ok=True)
        for name, text in made.items():
            (PUBLISHED / name).write_text(text, encoding="utf-8")
    assert {path.name: path.read_text("utf-8") for path in PUBLISHED.iterdir()} == made
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    assert "docs/schema/*.json" in project["tool"]["setuptools"]["package-data"]["kdbench"]


def problems_by_hand(schema: dict[str, Any], value: Any, root: dict[str, Any], where: str = "") -> list[str]:
    """As much of JSON Schema as these schemas use; independent of the types that read the files."""
    if "$ref" in schema:
        target: Any = root
        for part in schema["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        return problems_by_hand(target, value, root, where)
    if "anyOf" in schema:
        found = [problems_by_hand(each, value, root, where) for each in schema["anyOf"]]
        return [] if [] in found else min(found, key=len)
    if "const" in schema:
        return [] if value == schema["const"] else [f"{where}: not {schema['const']!r}"]
    if "enum" in schema and value not in schema["enum"]:
        return [f"{where}: not one of {schema['enum']}"]
    kinds = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool,
             "null": type(None)}  # fmt: skip
    kind = schema.get("type")
    if kind and (not isinstance(value, kinds[kind]) or (isinstance(value, bool) and kind in ("integer", "number"))):
        return [f"{where}: no {kind}"]
    found_all: list[str] = []
    if isinstance(value, dict):
        own = schema.get("properties", {})
        found_all += [f"{where}: lacks {key}" for key in schema.get("required", []) if key not in value]
        for key, item in value.items():
            patterns = [
                each for pattern, each in schema.get("patternProperties", {}).items() if re.search(pattern, key)
            ]
            further = schema.get("additionalProperties", True)
            if key in own or patterns:
                for each in [own[key]] if key in own else patterns:
                    found_all += problems_by_hand(each, item, root, f"{where}.{key}")
            elif further is False:
                found_all.append(f"{where}: {key} is unknown")
            elif isinstance(further, dict):
                found_all += problems_by_hand(further, item, root, f"{where}.{key}")
    if isinstance(value, list) and isinstance(schema.get("items"), dict):
        for number, item in enumerate(value):
            found_all += problems_by_hand(schema["items"], item, root, f"{where}[{number}]")
    if isinstance(value, int | float) and not isinstance(value, bool):
        found_all += [f"{where}: below {schema['minimum']}"] if value < schema.get("minimum", value) else []
        found_all += [f"{where}: above {schema['maximum']}"] if value > schema.get("maximum", value) else []
    return found_all


def by_schema(name: str, value: Any) -> list[str]:
    schema = schemas()[name]
    return problems_by_hand(schema, value, schema)


def test_records_profiles_and_evaluations_are_what_the_schemas_say() -> None:
    for one in study():
        assert by_schema("record-v1.json", json.loads(one.model_dump_json())) == []
    for cost in costs():
        assert by_schema("profile-v1.json", json.loads(cost.model_dump_json())) == []
    tried = evaluation(spec(), corrupted=corrupted([("jpeg", 1, 0.5)]))
    assert by_schema("evaluation-v1.json", json.loads(tried.model_dump_json())) == []


@pytest.mark.parametrize("name", ["bccd-small", "methods-small", "mixed-small"])
def test_the_committed_results_are_what_the_schemas_say(name: str) -> None:
    results = ROOT / "results" / name
    for path in sorted((results / "records").glob("*.json"))[:5]:
        assert by_schema("record-v1.json", json.loads(path.read_text("utf-8"))) == []
    board = json.loads(render(collect(results), "json", outcomes=Outcomes.below(results)))
    assert by_schema("leaderboard-v1.json", board) == []
    assert Leaderboard.model_validate(board)


def test_the_schema_of_the_leaderboard_knows_every_figure() -> None:
    board = json.loads(render(study(), "json", costs()))
    row = schemas()["leaderboard-v1.json"]["$defs"]["LeaderboardRow"]
    for key in board["rows"][0]:
        assert key in row["properties"] or any(re.search(pattern, key) for pattern in row["patternProperties"]), key
    board["rows"][0]["accuracy"] = "high"
    board["rows"][1].pop("model")
    assert by_schema("leaderboard-v1.json", board) == [".rows[0].accuracy: no number", ".rows[1]: lacks model"]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"run_id": None}, ".run_id: no string"),
        ({"colour": 1}, ": colour is unknown"),
        ({"status": "fine"}, ".status: not one of"),
        ({"schema_version": 2}, ".schema_version: not 1"),
        ({"train_seconds": -1}, ".train_seconds: below 0"),
    ],
)
def test_the_schema_of_records_refuses_what_the_type_refuses(change: dict[str, Any], problem: str) -> None:
    plain = json.loads(record(spec()).model_dump_json()) | change
    (found,) = by_schema("record-v1.json", plain)
    assert found.startswith(problem)
    if "schema_version" not in change:
        with pytest.raises(ValueError, match="validation error"):
            RunRecord.model_validate(plain)


# ---------------------------------------------------------------- files made elsewhere


def written(path: Path, **changes: Any) -> Path:
    path.write_text(json.dumps(json.loads(record(spec()).model_dump_json()) | changes), encoding="utf-8")
    return path


def sound(**facts: Any) -> RunRecord:
    return record(spec(), **({"data": card()} | facts))


def test_a_sound_folder_has_no_problems(tmp_path: Path) -> None:
    store = Store(tmp_path / "mine")
    store.write_record(sound())
    store.write_profiles("board", costs())
    store.write_evaluation(evaluation(spec()))
    assert validate(tmp_path) == (3, [])
    assert validate(tmp_path / "mine" / "profiles") == (1, [])
    assert validate(store.record_path(spec().run_id)) == (1, [])


@pytest.mark.parametrize("name", ["bccd-small", "methods-small", "mixed-small", "profiles"])
def test_the_committed_results_have_no_problems(name: str) -> None:
    assert validate(ROOT / "results" / name)[1] == []


def test_every_problem_is_a_line(tmp_path: Path) -> None:
    folder = tmp_path / "records"
    folder.mkdir()
    written(folder / "a.json", colour="red", train_seconds="long")
    (folder / "b.json").write_text("{", encoding="utf-8")
    (folder / "c.json").write_text('{"schema_version": 7}', encoding="utf-8")
    (folder / "d.json").write_text("[3]", encoding="utf-8")
    (folder / "e.json").write_text('{"accuracy": NaN}', encoding="utf-8")
    looked_at, problems = validate(tmp_path)
    assert looked_at == 5
    assert all("\n" not in problem for problem in problems)
    for part in ("records/a.json: colour: Extra inputs", "records/a.json: train_seconds: Input should",
                 "records/b.json: no JSON: EOF", "records/c.json: schema_version: 7, where this kdbench reads 1",
                 "records/d.json[0]: an object is wanted, not int", "records/e.json: no JSON"):  # fmt: skip
        assert len([problem for problem in problems if problem.startswith(part)]) == 1, part
    assert len(problems) == 6


@pytest.mark.parametrize(
    ("facts", "problem"),
    [
        ({"run_id": "0" * 16}, "run_id: 0000000000000000, where the spec gives"),
        ({"cell_id": "0" * 16}, "cell_id: 0000000000000000, where the spec gives"),
        ({"test_metrics": None}, "test_metrics: missing, though the status is ok"),
        ({"status": "failed", "test_metrics": None, "failure": None}, "failure: missing, though the status is failed"),
        ({"data": card(splits={"test": {"eosinophil": 7}})}, "test_metrics.count: 200, where data.splits.test has 7"),
        (
            {"test_metrics": Metrics(accuracy=0.9, macro_f1=0.9, loss=1, count=200,
                                     recall={"eosinophil": 0.5, "lymphocyte": 0.5})},
            "test_metrics: the recalls give an accuracy of 0.5000, not 0.9000",
        ),
        ({"profile": profile("x").model_copy(update={"flops": 1})}, "profile.flops: not 2 x macs"),
        ({"command": "kdbench run /home/jo/suite.yaml"}, "names a folder of somebody's own (/home/…); leave it out"),
    ],
)  # fmt: skip
def test_what_the_types_cannot_say_is_looked_at_too(tmp_path: Path, facts: dict[str, Any], problem: str) -> None:
    path = tmp_path / "mine.json"
    path.write_text(sound(**facts).model_dump_json(), encoding="utf-8")
    (found,) = validate(path)[1]
    assert found.startswith(f"mine.json: {problem}")


def test_a_record_under_another_name_is_found(tmp_path: Path) -> None:
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "mine.json").write_text(sound().model_dump_json(), encoding="utf-8")
    (found,) = validate(tmp_path)[1]
    assert found == f"records/mine.json: the file's name is not its run_id, {spec().run_id}"


def test_predictions_that_do_not_fit_are_found(tmp_path: Path) -> None:
    store = Store(tmp_path)
    made = answered(store, spec(), [True, False] * 100, [f"{number}" for number in range(200)])
    assert validate(tmp_path) == (1, [])
    store.write_predictions(made.run_id, np.zeros((3, 2), np.float32))
    (found,) = validate(tmp_path)[1]
    assert found.startswith(f"predictions/{made.run_id}.safetensors: shape (3, 2)")


def test_a_leaderboard_made_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "board.json"
    path.write_text(render(study(), "json"), encoding="utf-8")
    assert validate(path) == (1, [])
    board = json.loads(path.read_text("utf-8"))
    del board["rows"][2]["accuracy"]
    path.write_text(json.dumps(board), encoding="utf-8")
    assert validate(path)[1] == ["board.json: rows.2: lacks accuracy"]


@pytest.mark.parametrize("name", ["", "nowhere", "nowhere.json"])
def test_nothing_to_look_at_is_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(RecordError):
        validate(tmp_path / name)
