"""Two runs and two leaderboards against what was put into them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from record_factory import (
    CLASSES,
    DATASET,
    answered,
    environment,
    latency,
    profile,
    record,
    spec,
    study,
    tables,
    teacher,
)
from scipy.stats import binomtest

from kdbench.errors import RecordError, SchemaMismatch, UnknownName
from kdbench.report import Outcomes, collect, render
from kdbench.report.compare import Comparison, compare, comparison_json, matching, render_comparison
from kdbench.store import Store

IMAGES = 120
GROUPS = [f"cell{number // 2}" for number in range(IMAGES)]
ALONE = [f"{number}.jpg" for number in range(IMAGES)]


def right(*wrong: int) -> np.ndarray:
    made = np.ones(IMAGES, dtype=bool)
    made[list(wrong)] = False
    return made


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "results"


def a_pair(results: Path) -> tuple[str, str]:
    """The baseline misses 0 to 29; the student 20 to 31 and 40."""
    store = Store(results)
    alone = answered(store, spec(), right(*range(30)), ALONE)
    taught = answered(store, spec(method="kd", teachers=[teacher()]), right(*range(20, 32), 40), ALONE)
    return alone.run_id, taught.run_id


def test_two_runs_by_their_ids(results: Path) -> None:
    one, other = a_pair(results)
    found = compare(one[:6], other, results)
    (change,) = found.changes
    assert (change.how, change.seeds, change.change) == ("paired", (0,), pytest.approx((30 - 13) / IMAGES))
    assert change.p == change.adjusted == pytest.approx(binomtest(3, 23).pvalue)
    assert change.low is not None
    assert change.high is not None
    assert 0 < change.low < change.change < change.high  # type: ignore[operator]
    assert change.significant is True
    assert change.figures["accuracy"] == (0.75, pytest.approx(107 / 120))
    assert change.figures["params"] == (570_000, 570_000)
    assert [flip.id for flip in found.lost] == ["30.jpg", "31.jpg", "40.jpg"]
    assert (found.won, found.images) == (20, IMAGES)
    assert next((flip.label, flip.said, flip.before, flip.after) for flip in found.lost) == (
        CLASSES[0], CLASSES[1], 1.0, 0.0
    )  # fmt: skip


def test_by_parts_of_titles_and_patterns(results: Path) -> None:
    a_pair(results)
    by_part, by_pattern = compare("small_050/ce", "kd < resnet50", results), compare("*/ce/*", "*/kd*", results)
    assert comparison_json(by_part) == comparison_json(by_pattern)
    with pytest.raises(UnknownName, match="run 'kdd'"):
        compare("kdd", "ce", results)
    with pytest.raises(RecordError, match="fits several recipes"):
        compare("mobilenet", "ce", results)
    records = collect(results)
    assert len(matching(records, records[0].spec.title.upper())) == 1


def test_a_name_without_a_stage_is_the_trained_network() -> None:
    trained = spec()
    stages = [spec(parent=trained, prune={"macs": 0.5}), spec(parent=trained, quantise={})]
    records = [record(one) for one in (trained, *stages)]
    assert matching(records, "small_050/ce")[0].spec == trained
    assert matching(records, "ce > macs 50 %")[0].spec == stages[0]
    assert matching(records, "*int8*")[0].spec == stages[1]


def test_the_page_of_two_runs(results: Path) -> None:
    a_pair(results)
    page = render_comparison(compare("/ce/", "/kd", results))
    assert "**B − A: +14.2 points, 95 % interval" in page
    assert "p <0.001: significant.** Paired: the same test images at the same seeds (seed 0); one seed says" in page
    figures, images = tables(page)
    assert ["accuracy (%)", "75.0", "89.2", "+14.2"] in figures
    assert ["params", "0.57 M", "0.57 M", "0"] in figures
    assert images[0] == ["image", "label", "B says", "right in A (%)", "right in B (%)"]
    assert images[2] == ["30.jpg", "eosinophil", "lymphocyte", "100.0", "0.0"]
    assert "Of 120 images 3 were lost and 20 won." in page
    assert str(results) not in page


def test_all_seeds_of_a_recipe_are_one_side(results: Path) -> None:
    store = Store(results)
    for seed in (0, 1):
        answered(store, spec(seed=seed), right(*range(20)), GROUPS)
        answered(store, spec(method="kd", seed=seed, teachers=[teacher()]), right(*range(20 + seed)), GROUPS)
    answered(store, spec(method="kd", seed=2, teachers=[teacher()]), right(), GROUPS)
    found = compare("/ce/", "/kd", results)
    (change,) = found.changes
    assert change.seeds == (0, 1)
    assert change.change == pytest.approx(-0.5 / IMAGES)
    assert change.significant is False
    assert [(flip.id, flip.group, flip.before, flip.after) for flip in found.lost] == [("20.jpg", "cell10", 1.0, 0.5)]
    assert "(3 seeds)" in found.names[1]


def test_the_groups_that_lost_most_come_first_and_twenty_are_shown(results: Path) -> None:
    store = Store(results)
    answered(store, spec(), right(), GROUPS)
    wrong = [1, *range(10, 60)]  # one of cell0, both of cells 5 to 29
    answered(store, spec(method="kd", teachers=[teacher()]), right(*wrong), GROUPS)
    found = compare("/ce/", "/kd", results)
    assert len(found.lost) == 51
    assert [flip.group for flip in found.lost][:3] == ["cell10", "cell10", "cell11"]
    assert found.lost[-1].group == "cell0"
    page = render_comparison(found)
    assert len(tables(page)[1]) == 22
    assert "And 31 more; `--json` has them all." in page
    assert "51 were lost and 0 won, the lost ones in 26 groups." in page


def test_other_images_are_independent(results: Path) -> None:
    store = Store(results)
    answered(store, spec(), right(*range(60)), ALONE)
    other = DATASET.model_copy(update={"content": "other"})
    answered(store, spec(method="kd", dataset=other), right(), ALONE, [f"new{number}" for number in range(IMAGES)])
    found = compare("/ce/", "/kd", results)
    (change,) = found.changes
    assert (change.how, change.p, change.significant) == ("independent", None, True)
    assert change.change == pytest.approx(0.5)
    assert found.images == 0
    assert "Independent: other test images or seeds" in render_comparison(found)


def test_without_answers_nothing_is_tested(results: Path) -> None:
    for one in (record(spec(), 0.8), record(spec(method="kd"), 0.9)):
        Store(results).write_record(one)
    found = compare("/ce/", "/kd", results)
    assert (found.changes[0].how, found.changes[0].significant) == ("unknown", None)
    assert "B − A: +10.0 points; not tested: the answers are missing." in render_comparison(found)


def test_a_run_without_a_result_is_an_error(results: Path) -> None:
    for one in (record(spec(), 0.8), record(spec(method="kd"), status="failed")):
        Store(results).write_record(one)
    with pytest.raises(RecordError, match="has no result"):
        compare("/ce/", "/kd", results)


def test_times_of_two_machines_are_not_compared(results: Path) -> None:
    one = record(spec(), profile=profile("x", [latency(2.0)]))
    other = record(spec(method="kd"), environment=environment("bbbb2222"), profile=profile("x", [latency(4.0)]))
    for each in (one, other):
        Store(results).write_record(each)
    found = compare("/ce/", "/kd", results)
    assert not any(key.startswith(("latency", "train")) for key in found.changes[0].figures)
    assert found.notes == ("Times and memory of two machines or settings are not compared.",)
    assert "not compared" in render_comparison(found)


# ---------------------------------------------------------------- leaderboards


def two_folders(tmp_path: Path) -> tuple[Path, Path]:
    """Before and after: ce is the same, kd loses 10 images, dkd is new and fitnet gone."""
    for name, missed in (("before", 5), ("after", 15)):
        store = Store(tmp_path / name)
        answered(store, spec(), right(*range(30)), ALONE)
        answered(store, spec(method="kd", teachers=[teacher()]), right(*range(missed)), ALONE)
        store.write_record(record(spec(method="dkd" if name == "after" else "fitnet"), 0.8))
    return tmp_path / "before", tmp_path / "after"


def test_two_folders(tmp_path: Path) -> None:
    before, after = two_folders(tmp_path)
    found = compare(str(before), str(after))
    by_method = {change.after.plain["method"]: change for change in found.changes}
    assert set(by_method) == {"ce", "kd"}
    assert by_method["ce"].same
    assert by_method["kd"].change == pytest.approx(-10 / IMAGES)
    assert by_method["kd"].p == pytest.approx(binomtest(0, 10).pvalue)
    assert by_method["kd"].adjusted == by_method["kd"].p  # ce is the same and asks no question
    assert [entry.plain["method"] for entry in found.only_before] == ["fitnet"]
    assert [entry.plain["method"] for entry in found.only_after] == ["dkd"]
    assert len(found.lost) == 10
    page = render_comparison(found)
    assert "2 rows are on both sides, 1 of them unchanged; 1 are only in A, 1 only in B." in page
    cells = tables(page)[0][2]
    assert cells[:7] == ["bccd, 64 px", "mobilenetv3_small_050", "kd", "resnet50", "95.8", "87.5", "-8.3"]
    assert cells[8:] == ["0.002", "yes"]
    for part in ("## Only in A", "## Only in B", "## Recall by class", "fitnet"):
        assert part in page
    assert str(tmp_path) not in page


def test_a_folder_with_itself_has_no_change(tmp_path: Path) -> None:
    before, _ = two_folders(tmp_path)
    found = compare(str(before), str(before))
    assert all(change.same for change in found.changes)
    assert found.lost == ()
    assert "3 rows are on both sides, 3 of them unchanged" in render_comparison(found)


def test_files_are_compared_by_their_intervals(tmp_path: Path) -> None:
    before, after = two_folders(tmp_path)
    for folder in (before, after):
        text = render(collect(folder), "json", outcomes=Outcomes.below(folder))
        (tmp_path / f"{folder.name}.json").write_text(text, encoding="utf-8")
    found = compare(str(tmp_path / "before.json"), str(tmp_path / "after.json"))
    kd = next(change for change in found.changes if change.after.plain["method"] == "kd")
    assert (kd.how, kd.p) == ("intervals", None)
    assert kd.change == pytest.approx(-10 / IMAGES)
    assert kd.low is not None
    assert kd.low < kd.change < (kd.high or 0)  # type: ignore[operator]
    mixed = compare(str(before), str(tmp_path / "after.json"))
    assert [change.how for change in mixed.changes] == [change.how for change in found.changes]


def test_rows_of_another_cell_are_matched_by_their_names(tmp_path: Path) -> None:
    Store(tmp_path / "a").write_record(record(spec(), 0.8))
    Store(tmp_path / "b").write_record(record(spec(dataset=DATASET.model_copy(update={"content": "new"})), 0.9))
    (change,) = compare(str(tmp_path / "a"), str(tmp_path / "b")).changes
    assert change.change == pytest.approx(0.1)


def test_json_is_plain_and_whole(tmp_path: Path) -> None:
    found = compare(*map(str, two_folders(tmp_path)))
    plain = json.loads(json.dumps(comparison_json(found), allow_nan=False))
    assert plain["schema_version"] == 1
    kd = next(change for change in plain["changes"] if change["method"] == "kd")
    assert kd["significant"] is True
    assert kd["figures"]["accuracy"] == pytest.approx([115 / 120, 105 / 120])
    assert len(plain["lost"]) == 10
    assert plain["only_after"][0]["method"] == "dkd"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema_version": 99, "columns": [], "rows": []}', '{"rows": 3}'])
def test_a_file_that_is_no_leaderboard_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    with pytest.raises(SchemaMismatch, match="is no leaderboard") as caught:
        compare(str(tmp_path / "a.json"), str(tmp_path / "a.json"))
    assert "\n" not in str(caught.value)


def test_sides_of_two_kinds_and_empty_folders_are_refused(tmp_path: Path) -> None:
    before, _ = two_folders(tmp_path)
    with pytest.raises(RecordError, match="name two leaderboards, or two runs"):
        compare(str(before), "kd", before)
    (tmp_path / "empty").mkdir()
    with pytest.raises(RecordError, match="holds no records"):
        compare(str(before), str(tmp_path / "empty"))


def test_hostile_names_stay_in_their_cells(tmp_path: Path) -> None:
    evil = "a|b`<script>*x*\n# y"
    for name, accuracy in (("a", 0.8), ("b", 0.9)):
        for one in study():
            Store(tmp_path / name).write_record(one)
        Store(tmp_path / name).write_record(record(spec(evil), accuracy))
    page = render_comparison(compare(str(tmp_path / "a"), str(tmp_path / "b")))
    assert "<script>" not in page
    assert all(len({len(row) for row in table}) == 1 for table in tables(page))


def test_nothing_in_common_is_said() -> None:
    page = render_comparison(Comparison(("a", "b"), False, ()))
    assert "0 rows are on both sides" in page
