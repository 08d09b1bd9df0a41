"""The contract of every column, and how figures are written."""

from __future__ import annotations

from pathlib import Path

import pytest
from record_factory import environment, latency, profile, record, spec, study, teacher

import kdbench.report.columns
from kdbench.report import render, to_frame, to_json
from kdbench.report.column import (
    COLUMNS,
    MISSING,
    NOT_APPLICABLE,
    Column,
    columns_for,
    percent,
    points,
    scaled,
    spread_percent,
)
from kdbench.report.rows import build_rows


def show(key: str, *records: object) -> list[str]:
    rows = build_rows(records)  # type: ignore[arg-type]
    (column,) = [column for column in columns_for(rows) if column.key == key]
    return [column.show(row) for row in rows]


def test_one_file_one_column() -> None:
    folder = Path(kdbench.report.columns.__file__).parent
    assert set(COLUMNS.names()) == {path.stem for path in folder.glob("*.py")} - {"__init__"}
    assert set(COLUMNS.names()) >= {
        "accuracy", "macro_f1", "gain", "teacher_accuracy", "params", "macs", "bytes", "latency", "seeds"
    }  # fmt: skip


@pytest.mark.parametrize("name", COLUMNS.names())
def test_contract(name: str) -> None:
    column = COLUMNS.get(name)
    assert column.key
    assert column.title
    assert column.note
    assert column.key.isidentifier()
    assert column.key == column.key.lower()
    assert column.better in ("max", "min", None)
    nothing = build_rows([record(spec(), status="failed")])[0]
    assert column.value(nothing) in (None, 0)
    assert column.show(nothing) in (NOT_APPLICABLE, "0 of 1")
    bare = build_rows([record(spec(), profile=None)])[0]
    assert column.show(bare)


def test_order_and_keys_are_unique() -> None:
    assert len({column.order for column in COLUMNS}) == len(COLUMNS)
    keys = [column.key for column in columns_for(build_rows(study()))]
    assert len(set(keys)) == len(keys)
    assert keys[0] == "accuracy"
    assert keys[-1] == "seeds"


def test_a_new_column_shows_up_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    COLUMNS.names()  # found before the copy is made
    monkeypatch.setattr(COLUMNS, "_entries", dict(COLUMNS._entries))
    flops = Column("flops", "FLOPs", "", "min", 55, lambda row: None if row.macs is None else 2 * row.macs)
    COLUMNS.add("flops", flops)
    assert "FLOPs" in render(study(), "md")
    assert "flops" in to_frame(study()).columns
    assert to_json(study())["rows"][0]["flops"] == 676_000_000


def test_missing_is_said() -> None:
    distilled = record(spec(method="kd", teachers=[teacher()]), profile=None)
    for key in ("gain", "teacher_accuracy", "params", "macs", "weight_bytes", "latency_ms"):
        assert show(key, distilled) == [MISSING]
    assert show("gain", record(spec())) == [NOT_APPLICABLE]
    assert show("teacher_accuracy", record(spec())) == [NOT_APPLICABLE]


def test_figures() -> None:
    records = [record(spec(seed=seed), accuracy) for seed, accuracy in enumerate((0.949, 0.957))]
    assert show("accuracy", *records) == ["95.3 ± 0.6"]
    assert show("accuracy", records[0]) == ["94.9"]
    assert show("params", *records) == ["0.57 M"]
    assert show("macs", *records) == ["2.1 M"]
    assert show("weight_bytes", *records) == ["2.3 MB"]
    assert show("latency_ms", *records) == ["1.9 ± 0.1"]
    assert show("seeds", *records) == ["2"]
    assert show("seeds", *records, record(spec(seed=2), status="failed")) == ["2 of 3"]


def test_unstable_latencies_are_marked() -> None:
    shaky = record(spec(), profile=profile("x", [latency(0.5, iqr_ms=0.2, unstable=True)]))
    assert show("latency_ms", shaky) == ["0.50 ± 0.20 †"]


def test_a_latency_column_for_each_machine() -> None:
    rows = build_rows(
        [
            record(spec(), environment=environment("aaaa1111"), profile=profile("x", [latency(2.0)])),
            record(spec("other"), environment=environment("bbbb2222"), profile=profile("x", [latency(8.0)])),
        ]
    )
    columns = [column for column in columns_for(rows) if column.key.startswith("latency")]
    assert [(column.key, column.title) for column in columns] == [
        ("latency_ms_aaaa1111", "latency on aaaa"),
        ("latency_ms_bbbb2222", "latency on bbbb"),
    ]
    by_model = {row.model: [column.value(row) for column in columns] for row in rows}
    assert by_model == {"mobilenetv3_small_050": [2.0, None], "other": [None, 8.0]}


def test_runtimes_are_not_mixed() -> None:
    timed = profile("x", [latency(2.0), latency(1.0, runtime="onnxruntime")])
    columns = columns_for(build_rows([record(spec(), profile=timed)]))
    titles = [column.title for column in columns if column.key.startswith("latency")]
    assert titles == ["latency eager", "latency onnxruntime"]


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (999, "999"), (4_200, "4.2 k"), (99_999, "100 k"), (570_000, "0.57 M"), (6_100_000, "6.1 M"),
     (338e6, "338 M"), (1.254e9, "1.3 G")],
)  # fmt: skip
def test_scaled(count: float, text: str) -> None:
    assert scaled(count) == text


def test_percent_and_points() -> None:
    assert percent(0.9534) == "95.3"
    assert percent(1.0) == "100.0"
    assert (points(0.042), points(-0.013), points(-0.0001), points(0.0)) == ("+4.2", "-1.3", "0.0", "0.0")
    assert (spread_percent(None), spread_percent(0.0), spread_percent(0.0004), spread_percent(0.004)) == (
        "", " ± 0.0", " ± <0.1", " ± 0.4"
    )  # fmt: skip
