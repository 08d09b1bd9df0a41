"""`kdbench report --check`, `--validate`, `--columns`: exit codes and what is said."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import typer
from record_factory import record, spec, study
from typer.testing import CliRunner

from kdbench.cli.report import report
from kdbench.errors import RecordError
from kdbench.report import FORMATS, render
from kdbench.store import Store


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
def test_an_equal_page_is_0_and_nothing_is_written(
    results: Path, app: typer.Typer, tmp_path: Path, format: str
) -> None:
    page = tmp_path / "page"
    page.write_bytes(render(study(), format).encode())
    before = sorted(tmp_path.rglob("*"))
    done = CliRunner().invoke(app, ["--results", str(results), "--format", format, "--check", str(page)])
    assert (done.exit_code, done.stdout) == (0, "")
    assert sorted(tmp_path.rglob("*")) == before


def test_another_page_is_1_with_a_short_difference_and_the_command(
    results: Path, app: typer.Typer, tmp_path: Path
) -> None:
    page = tmp_path / "page.md"
    page.write_bytes(render(study(), "md").replace("93.3", "99.9").encode())
    done = CliRunner().invoke(app, ["--results", str(results), "--check", str(page)])
    assert done.exit_code == 1
    lines = done.stdout.splitlines()
    assert lines[0] == f"--- {page}"
    assert any(line.startswith("-") and "99.9" in line for line in lines)
    assert any(line.startswith("+") and "93.3" in line for line in lines)
    assert len(lines) <= 26
    assert max(map(len, lines[2:-1])) <= 240
    command = f"kdbench report --results {results} --out {page}"
    assert lines[-1] == f"run `{command}`"
    # and that command mends it
    assert CliRunner().invoke(app, shlex.split(command)[2:]).exit_code == 0
    assert CliRunner().invoke(app, ["--results", str(results), "--check", str(page)]).exit_code == 0


def test_the_command_names_what_else_was_asked_for(results: Path, app: typer.Typer, tmp_path: Path) -> None:
    page = tmp_path / "my page.tex"
    page.write_text("old\n", encoding="utf-8")
    asked = ["--results", str(results), "--format", "latex", "--columns", "accuracy,gain"]
    done = CliRunner().invoke(app, [*asked, "--check", str(page)])
    assert done.exit_code == 1
    again = done.stdout.splitlines()[-1].removeprefix("run `").removesuffix("`")
    assert shlex.split(again) == ["kdbench", "report", *asked, "--out", str(page)]


def test_a_long_difference_is_cut(results: Path, app: typer.Typer, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("".join(f"line {number}\n" for number in range(500)), encoding="utf-8")
    lines = CliRunner().invoke(app, ["--results", str(results), "--check", str(page)]).stdout.splitlines()
    assert lines[-2].startswith("and ")
    assert len(lines) == 26


def test_the_ends_of_lines_count(results: Path, app: typer.Typer, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_bytes(render(study(), "md").replace("\n", "\r\n").encode())
    done = CliRunner().invoke(app, ["--results", str(results), "--check", str(page)])
    assert done.exit_code == 1
    assert "differs in the ends of its lines alone" in done.stdout


def test_a_page_that_is_not_there_is_wrong_input(results: Path, app: typer.Typer, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["--results", str(results), "--check", str(tmp_path / "none.md")])
    assert isinstance(done.exception, RecordError)
    assert "run `kdbench report" in str(done.exception)


def test_validate_prints_problems_and_leaves_with_1(results: Path, app: typer.Typer) -> None:
    assert CliRunner().invoke(app, ["--validate", str(results / "records" / f"{spec().run_id}.json")]).exit_code == 0
    path = Store(results).record_path(spec().run_id)
    path.write_text(record(spec(), run_id="0" * 16).model_dump_json(), encoding="utf-8")
    done = CliRunner().invoke(app, ["--validate", str(path)])
    assert done.exit_code == 1
    (first, second) = done.stdout.splitlines()
    assert first.startswith(f"{path.name}: run_id: ")
    assert second == f"{path.name}: the file's name is not its run_id, {'0' * 16}"


def test_columns_are_chosen(results: Path, app: typer.Typer) -> None:
    done = CliRunner().invoke(app, ["--results", str(results), "--columns", "accuracy, macs", "--format", "csv"])
    assert done.stdout == render(study(), "csv", columns=["accuracy", "macs"])
