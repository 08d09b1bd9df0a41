"""Raw numbers, the gathering of records, and the command around them."""

from __future__ import annotations

import gc
import io
import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import typer
from record_factory import costs, environment, isolated, latency, profile, profile_record, record, spec, study, teacher
from typer.testing import CliRunner

from kdbench.cli.report import report
from kdbench.errors import RecordError, SchemaMismatch, UnknownName
from kdbench.report import FORMATS, collect, render, render_costs, to_frame, to_json
from kdbench.store import Store


def test_frame_holds_raw_numbers() -> None:
    frame = to_frame(study())
    assert len(frame) == 13
    best = frame[frame["rank"] == 1].iloc[0]
    assert best["accuracy"] == pytest.approx(0.933)
    assert best["accuracy_std"] == pytest.approx(0.0045826, rel=1e-4)
    assert best["gain"] == pytest.approx(0.06)
    assert (best["params"], best["weight_bytes"], best["latency_ms"]) == (1_520_000, 6_200_000, 2.61)
    assert (best["teacher"], best["teacher_accuracy"], best["seeds"]) == ("vit_tiny", 0.959, 3)


def test_missing_is_na_and_counts_stay_whole() -> None:
    frame = to_frame(study())
    failed = frame.iloc[-1]
    assert failed["failed"] == 3
    assert failed["failure"].startswith("OutOfMemory")
    for key in ("rank", "accuracy", "gain", "params", "latency_ms"):
        assert pd.isna(failed[key])
    assert str(frame["params"].dtype) == "Int64"
    assert str(frame["accuracy"].dtype) == "Float64"


def test_csv_reads_back() -> None:
    back = pd.read_csv(io.StringIO(render(study(), "csv")))
    assert back["accuracy"].tolist()[:2] == [0.968, 0.959]
    assert back["accuracy"].isna().sum() == 1
    assert "1520000," in render(study(), "csv")


def test_json_is_versioned_and_plain() -> None:
    page = json.loads(render(study(), "json"))
    assert page == to_json(study())
    assert page["schema_version"] == 1
    assert len(page["rows"]) == 13
    assert page["rows"][-1]["accuracy"] is None
    assert len(page["rows"][-1]["run_ids"]) == 3
    assert set(page["rows"][0]) == set(to_frame(study()).columns) | {"run_ids"}
    assert {column["key"] for column in page["columns"]} <= set(page["rows"][0])


def test_two_machines_share_no_key() -> None:
    records = [
        record(spec(), environment=environment("aaaa1111"), profile=profile("x", [latency(2.0)])),
        record(spec("other"), environment=environment("bbbb2222"), profile=profile("x", [latency(8.0)])),
    ]
    frame = to_frame(records)
    assert "latency_ms" not in frame
    assert frame["latency_ms_aaaa1111"].notna().sum() == frame["latency_ms_bbbb2222"].notna().sum() == 1


def test_unknown_format_and_no_records() -> None:
    with pytest.raises(UnknownName, match="did you mean csv"):
        render(study(), "cvs")
    with pytest.raises(RecordError, match="no records"):
        render([])


def test_collect_unites_folders_and_takes_the_newest(tmp_path: Path) -> None:
    old = record(spec(), 0.1, started="2026-01-01T00:00:00+00:00")
    new = record(spec(), 0.9, started="2026-01-02T00:00:00+00:00")
    Store(tmp_path / "b").write_record(old)
    Store(tmp_path / "a" / "deep").write_record(new)
    Store(tmp_path / "a").write_record(record(teacher(), 0.95))
    assert sorted(r.test_metrics.accuracy for r in collect(tmp_path) if r.test_metrics) == [0.9, 0.95]


def test_collect_leaves_the_collector_as_it_was(tmp_path: Path) -> None:
    Store(tmp_path).write_record(record(spec()))
    (tmp_path / "bad" / "records").mkdir(parents=True)
    (tmp_path / "bad" / "records" / "x.json").write_text("{", encoding="utf-8")
    assert gc.isenabled()
    with pytest.raises(SchemaMismatch):
        collect(tmp_path)
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0
    gc.disable()
    try:
        with pytest.raises(SchemaMismatch):
            collect(tmp_path)
        assert not gc.isenabled()
    finally:
        gc.enable()


@pytest.mark.parametrize("folder", ["", "nowhere"])
def test_collect_says_what_to_do(tmp_path: Path, folder: str) -> None:
    with pytest.raises(RecordError, match="kdbench run quickstart") as caught:
        collect(tmp_path / folder)
    assert str(tmp_path / folder) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    for one in study():
        Store(tmp_path / "results").write_record(one)
    return tmp_path / "results"


@pytest.fixture
def app() -> typer.Typer:
    made = typer.Typer()
    made.command()(report)
    return made


@pytest.mark.parametrize("format", list(FORMATS))
def test_command_prints_what_render_gives(results: Path, app: typer.Typer, format: str) -> None:
    done = CliRunner().invoke(app, ["--results", str(results), "--format", format])
    assert done.exit_code == 0
    assert done.stdout == render(study(), format)


def test_command_writes_a_file(results: Path, app: typer.Typer, tmp_path: Path) -> None:
    out = tmp_path / "new" / "leaderboard.md"
    done = CliRunner().invoke(app, ["--results", str(results), "--out", str(out)])
    assert done.exit_code == 0
    assert done.stdout == ""
    assert out.read_text(encoding="utf-8") == render(study(), "md")
    assert [path.name for path in out.parent.iterdir()] == ["leaderboard.md"]


@pytest.mark.parametrize("format", list(FORMATS))
def test_profiles_of_the_folder_and_of_other_machines_join(
    results: Path, app: typer.Typer, tmp_path: Path, format: str
) -> None:
    here = profile_record()
    board = profile_record(environment=environment("b0a4d00000000000"), latencies=[isolated(20.0)])
    lone = profile_record("vit_tiny")
    Store(results).write_profiles("here", [here])
    Store(tmp_path / "other").write_profiles("board", [board])
    (tmp_path / "lone.json").write_text(lone.model_dump_json(), encoding="utf-8")
    arguments = ["--results", str(results), "--format", format]
    arguments += ["--profiles", str(tmp_path / "other"), "--profiles", str(tmp_path / "lone.json")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0
    assert done.stdout == render(study(), format, [board, lone, here])


@pytest.mark.parametrize("folder", ["alone", "alone/profiles", "alone/profiles/board.json"])
def test_profiles_without_records_make_the_page_of_costs(app: typer.Typer, tmp_path: Path, folder: str) -> None:
    Store(tmp_path / "alone").write_profiles("board", costs())
    done = CliRunner().invoke(app, ["--results", str(tmp_path / folder)])
    assert done.exit_code == 0
    assert done.stdout == render_costs(costs())
    nowhere = CliRunner().invoke(app, ["--results", str(tmp_path / "x"), "--profiles", str(tmp_path / folder)])
    assert nowhere.stdout == done.stdout


def test_neither_records_nor_profiles_is_an_error_as_before(app: typer.Typer, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["--results", str(tmp_path)])
    assert isinstance(done.exception, RecordError)
    assert "kdbench run quickstart" in str(done.exception)
    for path in (tmp_path, tmp_path / "x.json"):
        done = CliRunner().invoke(app, ["--results", str(tmp_path), "--profiles", str(path)])
        assert isinstance(done.exception, RecordError)
        assert "kdbench profile MODEL --out FILE" in str(done.exception)


def test_command_draws(results: Path, app: typer.Typer, tmp_path: Path) -> None:
    Store(results).write_profiles("here", costs())
    done = CliRunner().invoke(app, ["--results", str(results), "--plot", str(tmp_path / "new" / "costs.svg")])
    assert done.exit_code == 0
    assert "Accuracy against latency" in (tmp_path / "new" / "costs.svg").read_text(encoding="utf-8")
    assert done.stdout == render(study(), "md", costs())
    bad = CliRunner().invoke(app, ["--results", str(results), "--plot", str(tmp_path / "costs.pdf")])
    assert isinstance(bad.exception, UnknownName)
    assert bad.stdout == ""


def test_a_leaderboard_needs_no_torch(results: Path) -> None:
    Store(results).write_profiles("here", costs())
    code = (
        "import sys; from kdbench.report import FORMATS, collect, render; import kdbench.cli.report\n"
        "from kdbench.report import collect_profiles; from kdbench.report.plots import plot_costs\n"
        f"records, profiles = collect({str(results)!r}), collect_profiles({str(results)!r})\n"
        "for format in FORMATS: render(records, format, profiles), render([], format, profiles)\n"
        f"plot_costs(profiles, records, out={str(results / 'a.svg')!r})\n"
        "assert not {'torch', 'timm', 'torchvision'} & set(sys.modules), 'torch was imported'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
