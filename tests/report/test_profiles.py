"""Profiles measured apart from the runs: their files, what counts of two of one network, and the rows they join."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from record_factory import card, costs, environment, isolated, latency, profile, profile_record, record, spec, study

from kdbench.errors import RecordError, SchemaMismatch
from kdbench.report import collect_profiles, render, to_frame, to_json
from kdbench.report.column import MISSING, columns_for
from kdbench.report.figures import LatencySetting
from kdbench.report.rows import Row, build_rows, latency_settings
from kdbench.store import Store, find_profiles, load_profiles, newest_profiles
from kdbench.types import Latency, Memory, ModelChoice, ProfileRecord, RunRecord

SMALL = "mobilenetv3_small_050"

# ---------------------------------------------------------------- files


def test_written_profiles_read_back(tmp_path: Path) -> None:
    found = costs()
    path = Store(tmp_path).write_profiles("board", found)
    assert path == tmp_path / "profiles" / "board.json"
    assert load_profiles(path) == found
    assert Store(tmp_path).write_profiles("board", found[:1]) == path
    assert load_profiles(path) == found[:1]
    assert [file.name for file in path.parent.iterdir()] == ["board.json"]


@pytest.mark.parametrize("name", ["", ".hidden", "../board", "a/b", "a\\b"])
def test_a_name_stays_in_its_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(RecordError, match="cannot name a file"):
        Store(tmp_path).write_profiles(name, costs())
    assert not list(tmp_path.iterdir())


def test_a_file_holds_one_profile_or_a_list(tmp_path: Path) -> None:
    one = profile_record()
    (tmp_path / "one.json").write_text(one.model_dump_json(), encoding="utf-8")
    (tmp_path / "none.json").write_text("[]", encoding="utf-8")
    assert load_profiles(tmp_path / "one.json") == [one]
    assert load_profiles(tmp_path / "none.json") == []


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "EOF"),
        (b"\xff\xfe", "expected value"),
        (b'{"kind": "kdbench-profile"', "EOF"),
        (b"3", "the kind is None"),
        (b"[[]]", "the kind is None"),
        (record(spec()).model_dump_json().encode(), "the kind is None, not 'kdbench-profile'"),
        (b'[{"kind": "other"}]', "the kind is 'other'"),
        (b'{"kind": "kdbench-profile", "schema_version": 2, "new": 1}', "the schema version is 2"),
        (b'{"kind": "kdbench-profile", "schema_version": 1}', "image_size: Field required"),
        (profile_record().model_dump_json().replace('"params":570000', '"params":"many"').encode(), "params: Input"),
        (profile_record().model_dump_json().replace('"macs":2100000', '"macs":NaN').encode(), "macs: Input"),
    ],
)
def test_what_is_no_profile_is_refused_in_one_line(tmp_path: Path, content: bytes, what: str) -> None:
    path = tmp_path / "profiles" / "x.json"
    path.parent.mkdir()
    path.write_bytes(content)
    for read in (load_profiles, find_profiles):
        with pytest.raises(SchemaMismatch) as caught:
            read(path)
        assert what in str(caught.value)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_profiles_are_found_at_any_depth(tmp_path: Path) -> None:
    here, deep = profile_record("resnet50"), profile_record("vit_tiny")
    Store(tmp_path).write_profiles("here", [here])
    Store(tmp_path / "a" / "b").write_profiles("deep", [deep])
    Store(tmp_path).write_record(record(spec()))
    (tmp_path / "other.json").write_text("no profile", encoding="utf-8")
    assert find_profiles(tmp_path) == [here, deep]
    assert find_profiles(tmp_path / "a") == [deep]
    assert find_profiles(tmp_path / "profiles") == find_profiles(tmp_path / "profiles" / "here.json") == [here]
    assert find_profiles(tmp_path / "nowhere") == []
    assert collect_profiles(tmp_path) == [here, deep]
    with pytest.raises(RecordError, match="no file or folder"):
        collect_profiles(tmp_path / "nowhere")


def test_a_profile_within_a_folder_of_records_is_not_taken_for_one(tmp_path: Path) -> None:
    Store(tmp_path).write_record(record(spec()))
    Store(tmp_path).write_profiles("board", costs())
    assert len(Store(tmp_path).records()) == 1


# ---------------------------------------------------------------- what was measured twice


def test_the_later_figure_of_a_setting_counts() -> None:
    both = [isolated(2.0), isolated(1.0, runtime="onnxruntime", library="onnxruntime 1.20.0")]
    old = profile_record(latencies=both, started="2026-03-01T00:00:00+00:00")
    new = profile_record(latencies=[isolated(3.0)], started="2026-03-02T00:00:00+00:00")
    for given_in in ([old, new], [new, old]):
        last, first = newest_profiles(given_in)
        assert last == new
        assert [(each.runtime, each.median_ms) for each in first.latencies] == [("onnxruntime", 1.0)]


def test_what_is_told_again_as_a_whole_is_gone() -> None:
    assert newest_profiles([profile_record(), profile_record()]) == [profile_record()]
    old = profile_record(latencies=[], failures={"eager fp32, batch 1, 1 thread": "no room"}, started="2026-03-01")
    assert newest_profiles([old, profile_record()]) == [profile_record()]
    bare = profile_record(latencies=[])
    assert newest_profiles([bare]) == [bare]


@pytest.mark.parametrize(
    "other",
    [
        profile_record(environment=environment("bbbb2222")),
        profile_record(run_id="0123456789abcdef"),
        profile_record("vit_tiny"),
        profile_record(image_size=96),
        profile_record(num_classes=5),
        profile_record(choice=ModelChoice(name=SMALL, pretrained=True)),
    ],
    ids=["machine", "run", "model", "size", "classes", "weights"],
)
def test_another_network_or_machine_is_not_the_same_measured_twice(other: ProfileRecord) -> None:
    assert len(newest_profiles([profile_record(), other])) == 2


def test_neither_the_order_of_profiles_nor_that_of_files_matters(tmp_path: Path) -> None:
    found = [*costs(), *(profile_record(latencies=[isolated(number)]) for number in (2.0, 3.0, 4.0))]
    assert newest_profiles(found) == newest_profiles(found[::-1]) == newest_profiles([*found, *found])
    shuffled = random.Random(0).sample(found, len(found))
    for folder, ordered in (("a", found), ("b", shuffled)):
        for number, each in enumerate(ordered):
            Store(tmp_path / folder).write_profiles(str(number), [each])
    assert find_profiles(tmp_path / "a") == find_profiles(tmp_path / "b") == newest_profiles(found)


# ---------------------------------------------------------------- the rows they join


def joined(records: list[RunRecord], *profiles: ProfileRecord) -> dict[str, int]:
    return {f"{row.model} {row.method}": len(row.profiles) for row in build_rows(records, profiles)}


def test_a_trained_network_joins_the_row_of_its_run() -> None:
    runs = [record(spec(seed=seed)) for seed in range(2)]
    other = record(spec(method="kd"))
    assert joined([*runs, other], profile_record(run_id=runs[1].run_id)) == {f"{SMALL} ce": 1, f"{SMALL} kd": 0}
    assert joined([*runs, other], profile_record(run_id="f" * 16)) == {f"{SMALL} ce": 0, f"{SMALL} kd": 0}


def test_an_untrained_network_joins_every_row_of_its_architecture() -> None:
    records = [record(spec()), record(spec(method="kd")), record(spec("vit_tiny"))]
    assert joined(records, profile_record()) == {f"{SMALL} ce": 1, f"{SMALL} kd": 1, "vit_tiny ce": 0}
    pretrained = profile_record(choice=ModelChoice(name=SMALL, pretrained=True, weights="00"))
    assert joined(records, pretrained)[f"{SMALL} ce"] == 0  # weights that no run of the row has


@pytest.mark.parametrize(
    "change",
    [
        {"image_size": 96},
        {"num_classes": 3},
        {"params": 570_001},
        {"macs": 2_100_001},
        {"choice": ModelChoice(name=SMALL, patch_size=8)},
        {"choice": ModelChoice(name="another")},
    ],
)
def test_an_untrained_network_joins_no_row_of_another_shape_or_cost(change: dict[str, Any]) -> None:
    assert joined([record(spec())], profile_record(**change)) == {f"{SMALL} ce": 0}


def test_an_untrained_network_joins_no_row_whose_shape_and_cost_are_not_known() -> None:
    assert joined([record(spec(), profile=None)], profile_record()) == {f"{SMALL} ce": 0}
    assert joined([record(spec(), data=None)], profile_record()) == {f"{SMALL} ce": 0}
    assert joined([record(spec(), data=card(classes=("a", "b", "c")))], profile_record()) == {f"{SMALL} ce": 0}


def figure(row: Row) -> tuple[float, tuple[float, float] | None]:
    (setting,) = latency_settings([row])
    found = row.latency(setting)
    assert found is not None
    return found.median_ms, found.interval_ms


def test_of_several_trainings_the_medians_count() -> None:
    runs = [record(spec(seed=seed)) for seed in range(3)]
    profiles = [
        profile_record(run_id=run.run_id, latencies=[isolated(median, half_ms=half)])
        for run, median, half in zip(runs, (2.0, 4.0, 3.0), (0.1, 0.1, 1.5), strict=True)
    ]
    (row,) = build_rows(runs, profiles)
    assert figure(row) == (3.0, (1.9, 4.1))  # of 1.9, 3.9, 1.5 and 2.1, 4.1, 4.5
    assert row.latency_ms == 3.0
    (single,) = build_rows(runs, profiles[:1])
    assert figure(single) == (2.0, (1.9, 2.1))


def test_an_untrained_network_only_stands_in() -> None:
    run = record(spec())
    stand_in, own = profile_record(latencies=[isolated(9.0)]), profile_record(run_id=run.run_id)
    (row,) = build_rows([run], [stand_in, own])
    assert len(row.profiles) == 2
    assert figure(row)[0] == 1.94
    (without,) = build_rows([run], [stand_in])
    assert figure(without)[0] == 9.0


def test_isolated_figures_displace_the_others_for_the_whole_table() -> None:
    records = [record(spec()), record(spec("vit_tiny"), 0.8), record(spec(method="kd"), status="failed")]
    rows = build_rows(records, [profile_record(latencies=[isolated(2.5)])])
    (setting,) = latency_settings(rows)
    assert setting.isolated
    page = render(records, "md", [profile_record(latencies=[isolated(2.5)])])
    assert "2.5 [2.5, 2.5]" not in page
    assert "2.50 [2.45, 2.55]" in page
    (column,) = [column for column in columns_for(rows) if column.title == "latency"]
    assert [column.show(row) for row in rows] == ["2.50 [2.45, 2.55]", MISSING, "–"]
    assert "4.1 ± 0.2" not in page  # what the run of vit_tiny measured
    assert "a row without such a figure is missing" in page


def test_other_threads_runtimes_and_machines_keep_their_columns() -> None:
    timed = [latency(2.0, threads=2), latency(5.0, runtime="onnxruntime"), latency(4.0)]
    run = record(spec(), profile=profile(SMALL, timed))
    elsewhere = profile_record(environment=environment("bbbb2222"), latencies=[isolated(30.0)])
    rows = build_rows([run], [profile_record(latencies=[isolated(2.5)]), elsewhere])
    assert [(s.fingerprint[:4], s.runtime, s.threads, s.isolated) for s in latency_settings(rows)] == [
        ("3f2a", "eager", 1, True),
        ("3f2a", "onnxruntime", 1, False),
        ("bbbb", "eager", 1, True),
    ]


def test_two_versions_of_a_library_are_told_apart() -> None:
    timed = [isolated(float(minor), runtime="ort", library=f"ort 1.{minor}.0") for minor in (20, 21)]
    frame = to_frame([record(spec())], [profile_record(latencies=timed)])
    assert frame["latency_ms_ort_ort_1_20_0"].tolist() == [20.0]
    assert frame["latency_ms_ort_ort_1_21_0"].tolist() == [21.0]
    page = render([record(spec())], "md", [profile_record(latencies=timed)])
    assert "latency ort ort 1.20.0 (ms)" in page


def test_threads_and_devices_that_differ_are_named() -> None:
    timed = [isolated(1.0), isolated(2.0, threads=4, runtime="ort", library="ort 1"), isolated(0.5, device="cuda")]
    rows = build_rows([record(spec())], [profile_record(latencies=timed)])
    titles = [column.title for column in columns_for(rows) if column.title.startswith("latency")]
    assert titles == ["latency eager cpu 1 thread", "latency eager cuda 1 thread", "latency ort cpu 4 threads"]


def test_intervals_reach_csv_and_json_only_where_there_are_some() -> None:
    records = study()
    profiles = [profile_record()]
    plain = to_frame(records)
    assert not [key for key in plain if key.startswith(("latency_ms_interval", "memory"))]
    frame = to_frame(records, profiles)
    small = frame[frame["model"] == SMALL].iloc[0]
    assert small["latency_ms_interval_low"] == pytest.approx(1.94 * 0.98)
    assert small["latency_ms_interval_high"] == pytest.approx(1.94 * 1.02)
    assert frame[frame["model"] == "resnet50"]["latency_ms_interval_low"].isna().all()
    assert json.loads(render(records, "json", profiles)) == to_json(records, profiles)
    assert "latency_ms_interval_low" in to_json(records, profiles)["rows"][0]


def test_memory_is_of_the_first_runtime_of_each_machine() -> None:
    held = {"eager": 30 * 2**20, "onnxruntime": 12 * 2**20}
    timed = [isolated(2.0, runtime=name, memory=Memory(peak_rss_bytes=peak)) for name, peak in held.items()]
    records = [record(spec()), record(spec("vit_tiny"), 0.8)]
    rows = build_rows(records, [profile_record(latencies=timed)])
    (column,) = [column for column in columns_for(rows) if column.key.startswith("memory")]
    assert (column.key, column.heading) == ("memory_bytes", "memory (MiB)")
    assert [column.show(row) for row in rows] == ["30.0", MISSING]
    board = profile_record(environment=environment("bbbb2222"), latencies=timed[1:])
    rows = build_rows(records, [profile_record(latencies=timed), board])
    columns = [column for column in columns_for(rows) if column.key.startswith("memory")]
    assert [(column.key, column.show(rows[0])) for column in columns] == [
        ("memory_bytes_3f2a9c0b1d4e5f60", "30.0"),
        ("memory_bytes_bbbb2222", "12.0"),
    ]
    assert not [column for column in columns_for(build_rows(records)) if column.key.startswith("memory")]


def test_memory_on_a_gpu_is_what_its_allocator_held() -> None:
    timed = isolated(1.0, device="cuda", memory=Memory(peak_rss_bytes=900 * 2**20, cuda_allocated_bytes=2**20))
    rows = build_rows([record(spec())], [profile_record(latencies=[timed])])
    (column,) = [column for column in columns_for(rows) if column.key.startswith("memory")]
    assert column.show(rows[0]) == "1.0"


def test_the_page_says_what_was_joined_and_what_fits_no_row() -> None:
    board = environment("b0a4d00000000000", cpu="Example Board 5")
    strangers = [profile_record("stranger|", environment=board), profile_record(run_id="f" * 16, title="other/run")]
    page = render(study(), "md", [profile_record(environment=board), *strangers])
    assert (
        "Measured apart from the runs: 1 network (1 untrained, for all rows of the same architecture and cost)" in page
    )
    assert "on Example Board 5 (4 cores)" in page
    assert "Profiles that fit no row, and are not shown: other/run, stranger\\| (64 px, 2 classes)." in page
    assert re_row(page, "b0a4")[5:8:2] == ["none", "2.14.1"]
    assert "kdbench profile --out costs.json\nkdbench run bccd" in page
    assert render(study(), "md", []) == render(study(), "md")


def test_figures_of_one_network_taken_on_two_days_are_all_joined() -> None:
    today = profile_record(latencies=[isolated(2.5)], started="2026-03-02T00:00:00+00:00")
    tomorrow = profile_record(latencies=[isolated(0.5, runtime="onnxruntime")], started="2026-03-03T00:00:00+00:00")
    page = render([record(spec())], "md", [today, tomorrow])
    assert "fit no row" not in page
    assert "latency eager" in page
    assert "latency onnxruntime" in page


def test_figures_taken_in_turns_are_shown_before_those_with_fewer_threads() -> None:
    rows = build_rows([record(spec())], [profile_record(latencies=[isolated(1.5, threads=2)])])
    (setting,) = latency_settings(rows)
    assert (setting.threads, setting.isolated) == (2, True)


def re_row(page: str, first: str) -> list[str]:
    (line,) = [line for line in page.splitlines() if line.startswith(f"| {first} ")]
    return [cell.strip() for cell in line.split("|")]


def test_the_order_of_profiles_does_not_matter_to_the_page() -> None:
    profiles = costs()
    shuffled = random.Random(3).sample(profiles, len(profiles))
    for format in ("md", "csv", "json"):
        assert render(study(), format, shuffled) == render(study(), format, [*profiles, *profiles])


# ---------------------------------------------------------------- nothing is mixed

machines = st.sampled_from(["aaaa", "bbbb"])
latencies = st.builds(
    lambda median, runtime, threads, alone, library: (
        isolated(median, runtime=runtime, threads=threads, library=library)
        if alone
        else latency(median, runtime=runtime, threads=threads)
    ),
    st.integers(1, 50).map(float),
    st.sampled_from(["eager", "ort"]),
    st.sampled_from([1, 2]),
    st.booleans(),
    st.sampled_from(["torch 2.14.1", "torch 2.15.0"]),
)
tables = st.lists(st.tuples(st.integers(0, 3), st.booleans(), machines, st.lists(latencies, max_size=4)), max_size=8)


def place(machine: str, one: Latency) -> tuple[object, ...]:
    return machine, one.runtime, one.precision, one.device, one.threads, one.batch_size


@settings(deadline=None, max_examples=60)
@given(tables)
def test_figures_are_never_mixed(table: list[tuple[int, bool, str, list[Latency]]]) -> None:
    models = list("abcd")
    records = [record(spec(model), profile=profile("x", [latency(7.0)])) for model in models]
    profiles = [
        profile_record(
            models[number], timed, environment=environment(machine), run_id=records[number].run_id if trained else "",
            started=f"2026-03-{day + 1:02d}T00:00:00",
        )
        for day, (number, trained, machine, timed) in enumerate(table)
    ]  # fmt: skip
    rows = build_rows(records, profiles)
    columns = latency_settings(rows)
    assert len({(c.fingerprint, c.runtime, c.precision, c.device, c.library) for c in columns}) == len(columns)
    known = [(each.environment, one) for each in profiles for one in each.latencies]
    known += [(each.environment, one) for each in records for one in (each.profile.latencies if each.profile else ())]
    alone = {place(machine.fingerprint, one) for machine, one in known if one.isolated}
    for column in columns:
        own = (column.fingerprint, column.runtime, column.precision, column.device, column.threads, column.batch_size)
        assert column.isolated or own not in alone
        under_it = {one.median_ms for machine, one in known if LatencySetting.of(machine, one) == column}
        for row in rows:
            found = row.latency(column)
            assert found is None or min(under_it) <= found.median_ms <= max(under_it)
    titles = [column.title for column in columns_for(rows) if column.title.startswith("latency")]
    assert len(set(titles)) == len(titles)
    assert render(records, "csv", profiles) == render(records, "csv", profiles[::-1])
