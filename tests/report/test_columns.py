"""The contract of every column, and how figures are written."""

from __future__ import annotations

from pathlib import Path

import pytest
from record_factory import (
    CLASSES,
    answered,
    card,
    corrupted,
    environment,
    evaluation,
    latency,
    profile,
    record,
    spec,
    study,
    tables,
    teacher,
)

import kdbench.report.columns
from kdbench.report import Outcomes, render, to_frame, to_json
from kdbench.report.column import (
    COLUMNS,
    MISSING,
    NOT_APPLICABLE,
    Column,
    columns_for,
    named_apart,
    percent,
    points,
    scaled,
    spread_percent,
)
from kdbench.report.rows import build_rows
from kdbench.store import Store
from kdbench.types import DatasetSpec, Metrics, RunRecord


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


# ---------------------------------------------------------------- from answers and evaluations


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def two_seeds(store: Store) -> list[RunRecord]:
    """40 images in groups of two, 36 and 38 of them right."""
    groups = [str(number // 2) for number in range(40)]
    return [
        answered(store, spec(seed=seed), [True] * (40 - wrong) + [False] * wrong, groups)
        for seed, wrong in enumerate((4, 2))
    ]


def shown(store: Store, records: list[RunRecord]) -> dict[str, str]:
    """What the first row shows, by the column's key."""
    rows = build_rows(records, outcomes=Outcomes.below(store.root))
    return {column.key: column.show(rows[0]) for column in columns_for(rows)}


def test_interval_and_calibration_come_from_the_answers(store: Store) -> None:
    records = two_seeds(store)
    row = build_rows(records, outcomes=Outcomes.below(store.root))[0]
    low, high = row.interval or (0.0, 0.0)
    cells = shown(store, records)
    assert cells["interval_width"] == f"{100 * low:.1f} to {100 * high:.1f}"
    assert cells["independent"] == "20"
    # confidence is 0.881 throughout, accuracy 0.90 and 0.95
    assert cells["ece"] == "4.4"
    wrong, right = 2 * 0.8808**2, 2 * 0.1192**2
    assert cells["brier"] == f"{0.075 * wrong + 0.925 * right:.3f}"
    # of two classes each has the other's area; wrong are 2 + 2 and 1 + 1 of 20 + 20: U = right pairs + half of the ties
    areas = [(18 * 18 + 0.5 * 2 * (18 * 2)) / 400, (19 * 19 + 0.5 * 2 * 19) / 400]
    assert row.auroc == pytest.approx(sum(areas) / 2, abs=1e-12)
    assert cells["auroc"] == f"{sum(areas) / 2:.4f}"
    frame = to_frame(records, outcomes=Outcomes.below(store.root))
    assert frame["auroc"][0] == row.auroc
    assert frame["accuracy_interval_low"][0] == low
    assert frame["accuracy_interval_high"][0] == high
    assert frame["interval_width"][0] == pytest.approx(high - low)
    assert frame["independent"][0] == 20


def test_without_answers_they_are_missing() -> None:
    for key in ("interval_width", "ece", "brier", "auroc", "independent"):
        assert show(key, record(spec())) == [MISSING]
        assert show(key, record(spec(), status="failed")) == [NOT_APPLICABLE]


def test_recall_has_a_column_for_each_class() -> None:
    metrics = Metrics(accuracy=0.9, macro_f1=0.9, loss=0.1, recall={"B cell": 0.5, "b-cell": 1.0}, count=10)
    records = [record(spec(seed=0), test_metrics=metrics), record(spec(seed=1))]
    rows = build_rows(records)
    columns = {column.key: column for column in columns_for(rows) if column.key.startswith("recall")}
    assert {key: column.show(rows[0]) for key, column in columns.items()} == {
        "recall_b_cell": "50.0", "recall_b_cell_2": "100.0", "recall_eosinophil": "90.0", "recall_lymphocyte": "90.0"
    }  # fmt: skip
    many = metrics.model_copy(update={"recall": {f"class {number}": 0.5 for number in range(20)}})
    page = render([record(spec(), test_metrics=many)])
    assert "Recall by class" not in page
    assert to_frame([record(spec(), test_metrics=many)])["recall_class_19"][0] == 0.5


def further(store: Store, of: RunRecord, name: str, accuracy: float) -> None:
    metrics = Metrics(accuracy=accuracy, macro_f1=accuracy, loss=1.0, recall={CLASSES[0]: accuracy}, count=100)
    store.write_evaluation(evaluation(of.spec, on=DatasetSpec(name=name), side="all", metrics=metrics))


def test_further_data_sets_have_two_columns_each(store: Store) -> None:
    records = two_seeds(store)
    for one, accuracy in zip(records, (0.6, 0.7), strict=True):
        further(store, one, "jtsc", accuracy)
        further(store, one, "lisc", accuracy + 0.1)
    further(store, records[0], "cellavision", 0.8)
    cells = shown(store, records)
    assert (cells["accuracy_on_jtsc_64_px"], cells["drop_on_jtsc_64_px"]) == ("65.0", "-27.5")
    assert (cells["accuracy_on_lisc_64_px"], cells["drop_on_lisc_64_px"]) == ("75.0", "-17.5")
    # one seed of two is not the row's mean
    assert (cells["accuracy_on_cellavision_64_px"], cells["drop_on_cellavision_64_px"]) == (MISSING, MISSING)
    alone = answered(store, spec("other"), [True] * 40, [str(number // 2) for number in range(40)])
    rows = build_rows([*records, alone], outcomes=Outcomes.below(store.root))
    (column,) = [column for column in columns_for(rows) if column.key == "drop_on_jtsc_64_px"]
    assert {row.model: column.show(row) for row in rows}["other"] == MISSING


def test_what_could_not_be_looked_at_is_marked(store: Store) -> None:
    (one, *_) = two_seeds(store)
    metrics = Metrics(accuracy=0.6, macro_f1=0.6, loss=1.0, recall={CLASSES[0]: 0.6}, count=100)
    unchecked = card(leak="whether the model was trained on some of these images could not be looked at")
    store.write_evaluation(
        evaluation(one.spec, on=DatasetSpec(name="jtsc"), side="all", metrics=metrics, data=unchecked)
    )
    page = render([one], "md", outcomes=Outcomes.below(store.root))
    assert "on jtsc, 64 px † (%)" in page
    assert "† whether the model was trained on some of these images could not be looked at" in page


def test_corruptions_have_a_column_each_and_two_over_all(store: Store) -> None:
    records = two_seeds(store)
    for one, less in zip(records, (0.0, 0.1), strict=True):
        figures = [(name, level, start - 0.1 * level - less)
                   for name, start in (("gaussian_blur", 0.9), ("jpeg", 0.8)) for level in (1, 3, 5)]  # fmt: skip
        store.write_evaluation(evaluation(one.spec, corrupted=corrupted(figures)))
    cells = shown(store, records)
    assert (cells["robust_gaussian_blur"], cells["robust_jpeg"], cells["robust"]) == ("55.0", "45.0", "50.0")
    assert cells["corruption_drop"] == f"{50 * (0.55 / 0.9 - 1 + 0.45 / 0.95 - 1):.1f}"
    # fewer levels compare with nothing, and take nothing away from the rest
    part = answered(store, spec("part"), [True] * 40, [str(number // 2) for number in range(40)])
    store.write_evaluation(evaluation(part.spec, corrupted=corrupted([("jpeg", 1, 0.9)])))
    rows = build_rows([*records, part], outcomes=Outcomes.below(store.root))
    columns = [column for column in columns_for(rows) if column.key.startswith(("robust", "corruption"))]
    (row,) = [row for row in rows if row.model == "part"]
    assert [column.show(row) for column in columns] == [MISSING] * 4
    (whole,) = [row for row in rows if row.model != "part"]
    assert [column.show(whole) for column in columns if column.key == "robust"] == ["50.0"]


def test_a_further_table_for_each_kind_of_figure(store: Store) -> None:
    records = two_seeds(store)
    for one in records:
        further(store, one, "jtsc", 0.6)
        store.write_evaluation(evaluation(one.spec, corrupted=corrupted([("jpeg", 1, 0.9)])))
    page = render([*records, record(spec("broken"), status="failed")], "md", outcomes=Outcomes.below(store.root))
    titles = [line for line in page.splitlines() if line.startswith("### ")]
    assert titles == [
        "### Recall by class", "### Probabilities", "### Other data sets", "### Corrupted images",
        "### Data and training",
    ]  # fmt: skip
    leaderboard, recall, calibration, other, robust, _ = tables(page)
    own = {heading for table in (recall, calibration, other, robust) for heading in table[0][5:]}
    assert not own & set(leaderboard[0])
    assert "95 % interval (%)" in leaderboard[0]
    assert "independent" not in str(leaderboard[0])
    assert len(leaderboard) == 4
    assert len(recall) == 3  # the failed row stands in the leaderboard alone
    assert other[0][5:] == ["on jtsc, 64 px (%)", "on jtsc, 64 px, against its own test images (points)"]
    assert page.count("test images of that class that are recognised as it") == 1
    alone = render([record(spec())])
    assert [line for line in alone.splitlines() if line.startswith("### ")] == titles[:1] + titles[-1:]


def test_names_become_distinct_keys() -> None:
    assert named_apart(["a b", "A-B", "a_b_2", "é!", "!"]) == {
        "a b": "a_b", "A-B": "a_b_2", "a_b_2": "a_b_2_2", "é!": "é", "!": "x"
    }  # fmt: skip


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
