"""Every verb: its help, its output, and one clear message with code 2 for whatever the user got wrong."""

import json
import shlex

import pytest
import typer
import yaml

from kdbench import __version__
from kdbench.cli.app import app
from kdbench.store import Store

TINY = {
    "name": "tiny",
    "datasets": [{"name": "synthetic", "image_size": 32, "options": {"count": 100}}],
    "students": ["resnet8_w16"],
    "train": {"epochs": 1, "batch_size": 16},
    "profile": {"samples": 5},
}


@pytest.fixture
def suite_file(tmp_path):
    def write(**changes):
        path = tmp_path / "folder of the user" / "tiny.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump({**TINY, **changes}))
        return path

    return write


def verbs():
    """Every command and group, as words."""
    found, todo = [], [((), typer.main.get_command(app))]
    while todo:
        words, command = todo.pop()
        found.append(words)
        todo += [((*words, name), below) for name, below in getattr(command, "commands", {}).items()]
    return sorted(found)


# ---------------------------------------------------------------- help


def test_the_verbs_are_there():
    assert {("run",), ("evaluate",), ("report",), ("profile",), ("list", "models"), ("data", "show")} <= set(verbs())


@pytest.mark.parametrize("words", verbs(), ids=lambda words: " ".join(words) or "kdbench")
def test_help_shows_an_example_that_begins_as_it_is_called(kdbench, words):
    code, out, _ = kdbench(*words, "--help")
    assert code == 0
    assert "Example: " + " ".join(("kdbench", *words)) in " ".join(out.split())


def test_version(kdbench):
    assert kdbench("--version") == (0, f"kdbench {__version__}\n", "")


@pytest.mark.parametrize("words", [("rum",), ("run",), ("list", "zebras"), ("run", "quickstart", "--seeds", "0")])
def test_wrong_usage(kdbench, words):
    code, _, err = kdbench(*words)
    assert code == 2
    assert "Usage: " in err


# ---------------------------------------------------------------- list, data, profile


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("models", ["resnet8_w16", "mobilenetv3_small_050", "teacher", "arXiv:1512.03385"]),
        ("methods", ["ce", "kd", "temperature=4.0, alpha=0.9", "arXiv:1503.02531"]),
        ("datasets", ["synthetic", "pbc", "mixed", "CC BY 4.0"]),
        ("suites", ["quickstart"]),
        ("corruptions", ["stain_shift", "25, 18, 15, 10, 7", "0.0125, 0.0187", "arXiv:1903.12261"]),
        ("runtimes", ["eager", "onnxruntime", "fp32, bf16", "cpu: yes"]),
    ],
)
def test_list(kdbench, what, expected):
    code, out, err = kdbench("list", what)
    assert (code, err) == (0, "")
    for text in expected:
        assert text in out


def test_list_shows_every_registered_name_on_a_line_of_its_own(kdbench):
    from kdbench.model import MODELS

    lines = [line.split() for line in kdbench("list", "models")[1].splitlines() if line.strip()]
    assert {line[0] for line in lines} >= set(MODELS.names())


def test_data_show(kdbench, monkeypatch):
    from kdbench.data.source import SOURCES

    monkeypatch.setattr(type(SOURCES.get("synthetic")), "options", {"count": 100, "seed": 0, "difficulty": 0.5})
    code, out, _ = kdbench("data", "show", "synthetic", "--image-size", "32")
    assert code == 0
    table = {line.split()[0]: line.split() for line in out.splitlines() if line.strip()}
    assert "CC0-1.0" in out
    assert "synthetic 100" in out
    numbers = next(line for line in out.splitlines() if " all " in f" {line.replace('│', ' ')} ")
    assert [int(word) for word in numbers.replace("│", " ").split() if word.isdecimal()] == [70, 10, 20]
    assert "note:" in table


def test_data_that_is_not_there_says_what_to_do(kdbench):
    code, out, err = kdbench("data", "show", "pbc", "--data-root", "nowhere")
    assert code == 2
    assert "https://data.mendeley.com" in out
    for text in ("nowhere", "get it from", "lay it out as", "--data-root", "KDBENCH_DATA"):
        assert text in err


def test_unknown_data_set(kdbench):
    code, _, err = kdbench("data", "show", "syntetic")
    assert (code, err) == (2, "error: unknown dataset 'syntetic'; did you mean synthetic?\n")


@pytest.mark.parametrize(("name", "near"), [("resnet8_w17", "resnet8_w16"), ("timm/resnet27", "timm/resnet26")])
def test_unknown_model(kdbench, name, near):
    code, out, err = kdbench("profile", name)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: unknown model '{name}'; did you mean ")
    assert near in err


def test_patch_that_does_not_fit(kdbench):
    code, _, err = kdbench("profile", "vit_tiny", "--image-size", "50")
    assert code == 2
    assert "48" in err


# ---------------------------------------------------------------- run: what the user got wrong


def test_unknown_suite_has_near_matches(kdbench):
    code, out, err = kdbench("run", "quickstat")
    assert (code, out) == (2, "")
    assert err == "error: unknown suite 'quickstat'; did you mean quickstart?\n"
    code, _, err = kdbench("run", "nonsense")
    assert code == 2
    assert err.count("\n") == 1
    assert "quickstart" in err


@pytest.mark.parametrize("name", ["missing.yaml", "folder.yaml"])
def test_suite_file_that_cannot_be_read(kdbench, tmp_path, name):
    (tmp_path / "folder.yaml").mkdir()
    code, _, err = kdbench("run", tmp_path / name)
    assert code == 2
    assert name in err


def test_every_mistake_of_a_suite_is_named(kdbench, suite_file):
    path = suite_file(students=["resnet8_w17"], methods=["kdd"], train={"epochs": 0})
    code, out, err = kdbench("run", path)
    assert (code, out) == (2, "")
    assert "3 problems" in err
    for text in ("resnet8_w16", "'kdd'", "train.epochs", "[0]"):  # the brackets of a key are no markup
        assert text in err
    assert err.count("line ") == 3


def test_missing_data_root(kdbench, suite_file, tmp_path):
    code, _, err = kdbench("run", suite_file(datasets=["pbc"]), "--data-root", tmp_path / "none")
    assert code == 2
    for text in ("pbc: nothing at", "get it from https://", "--data-root"):
        assert text in err


def test_only_that_matches_nothing(kdbench, suite_file):
    code, _, err = kdbench("run", suite_file(), "--only", "zebra")
    assert code == 2
    assert "'zebra' matches none of 1 runs" in err


def test_locked_folder(kdbench, suite_file, tmp_path):
    with Store(tmp_path / "results").lock():
        code, _, err = kdbench("run", suite_file(), "--results", tmp_path / "results")
    assert code == 2
    assert "another kdbench run is writing" in err
    assert "--results" in err


# ---------------------------------------------------------------- run and report


def test_dry_run_does_nothing(kdbench, suite_file, tmp_path):
    path = suite_file(teachers=["resnet20_w16"], methods=["ce", "kd"])
    code, out, _ = kdbench("run", path, "--dry-run", "--seeds", 2)
    lines = out.splitlines()
    assert code == 0
    assert len(lines) == 5
    assert "to do  synthetic/resnet20_w16/ce/seed0" in lines[0]
    assert all("  to do  " in line for line in lines)
    assert not (tmp_path / "results").exists()


def test_dry_run_without_the_data(kdbench, suite_file, tmp_path):
    code, out, _ = kdbench("run", suite_file(datasets=["pbc"]), "--dry-run", "--data-root", tmp_path / "none")
    assert (code, out) == (0, f"{'-' * 16}  no data  pbc/resnet8_w16/ce/seed0\n")


def test_run_and_report(kdbench, suite_file, tmp_path):
    path = suite_file()
    code, out, err = kdbench("run", path, "--results", tmp_path / "mine", "--seeds", "1")
    assert code == 0
    assert "resnet8_w16" in out
    assert (tmp_path / "mine/leaderboard.md").read_text() == out
    assert "1 runs to do" in err
    assert "ok synthetic/resnet8_w16/ce/seed0: test accuracy" in err

    code, again, err = kdbench("run", path, "--results", tmp_path / "mine", "--seeds", "1")
    assert (code, again) == (0, out)
    assert "0 runs to do, 1 finished before and kept" in err
    assert "done   synthetic" in kdbench("run", path, "--results", tmp_path / "mine", "--dry-run")[1]

    assert kdbench("report", "--results", tmp_path / "mine") == (0, out, "")
    code, text, _ = kdbench("report", "--results", tmp_path / "mine", "--format", "json")
    assert code == 0
    assert json.loads(text)
    code, text, _ = kdbench("report", "--results", tmp_path / "mine", "--format", "csv")
    assert "resnet8_w16" in text
    code, text, _ = kdbench("report", "--results", tmp_path / "mine", "--out", tmp_path / "board.md")
    assert (code, text) == (0, "")
    assert (tmp_path / "board.md").read_text() == out


def test_a_part_of_a_suite_does_not_hide_the_rest(kdbench, suite_file, tmp_path):
    path = suite_file(students=["resnet8_w16", "resnet20_w16"])
    whole = kdbench("run", path, "--results", tmp_path / "mine")[1]
    part = kdbench("run", path, "--results", tmp_path / "mine", "--only", "resnet20")[1]
    assert part == whole == (tmp_path / "mine/leaderboard.md").read_text()


def test_failed_run_leaves_with_1(kdbench, suite_file, tmp_path, monkeypatch):
    from kdbench.suite import run as run_module

    def build(*arguments):
        raise RuntimeError("no [bold]memory[/]")

    monkeypatch.setattr(run_module, "build", build)
    code, out, err = kdbench("run", suite_file(), "--results", tmp_path / "mine")
    assert code == 1
    assert "failed synthetic/resnet8_w16/ce/seed0: no [bold]memory[/]" in err
    assert "tries them again" in err
    assert (tmp_path / "mine/leaderboard.md").read_text() == out


def test_interrupt_leaves_with_130(kdbench, suite_file, tmp_path, monkeypatch):
    from kdbench.suite import run as run_module

    def train(*arguments, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr(run_module, "train", train)
    code, _, err = kdbench("run", suite_file(), "--results", tmp_path / "mine")
    assert code == 130
    assert "interrupted" in err


@pytest.mark.parametrize("style", ["two words", "equals", "no suffix"])
def test_recorded_command_has_no_paths(kdbench, suite_file, tmp_path, style):
    path = suite_file()
    if style == "no suffix":
        path = path.rename(path.with_suffix(""))
    folders = {"--results": tmp_path / "mine", "--data-root": tmp_path / "data"}
    words = [f"{key}={value}" for key, value in folders.items()]
    if style != "equals":
        words = [word for pair in folders.items() for word in pair]
    assert kdbench("run", path, *words, "--only", "synthetic/*")[0] == 0
    (record,) = Store(tmp_path / "mine").records()
    assert shlex.split(record.command) == ["kdbench", "run", path.name, "--only", "synthetic/*"]
    text = Store(tmp_path / "mine").record_path(record.run_id).read_text()
    assert str(tmp_path) not in text


@pytest.mark.parametrize("exists", [True, False])
def test_report_without_records(kdbench, tmp_path, exists):
    folder = tmp_path / "empty"
    if exists:
        folder.mkdir()
    code, out, err = kdbench("report", "--results", folder)
    assert (code, out) == (2, "")
    assert "kdbench run quickstart" in err


def test_report_with_a_damaged_record(kdbench, tmp_path):
    (tmp_path / "bad/records").mkdir(parents=True)
    (tmp_path / "bad/records/abc.json").write_text("{")
    code, _, err = kdbench("report", "--results", tmp_path / "bad")
    assert code == 2
    assert "abc.json is no record" in err
