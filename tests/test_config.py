"""Suites: what is wrong is said at once, each thing with its line and key."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdbench.config import Suite, parse_suite, read_suite, shipped_suites
from kdbench.errors import ConfigError, MissingData, UnknownName
from kdbench.suite.plan import RegistryNames, load_suite
from kdbench.types import TrainSpec

GOOD = """\
name: good
datasets: [synthetic]
teachers:
  - model: resnet18
    train: {epochs: 3}
students:
  - mobilenetv3_small_050
methods: [ce, {name: kd, ground_truth: false}]
seeds: 2
train: {epochs: 7, learning_rate: 0.01}
"""


def parse(text: str) -> Suite:
    return parse_suite(text, "mine.yaml", RegistryNames())


def problems(text: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert str(caught.value).startswith("mine.yaml: ")
    return caught.value.problems


def test_a_suite_is_read_with_its_short_forms() -> None:
    suite = parse(GOOD)
    assert [dataset.name for dataset in suite.datasets] == ["synthetic"]
    assert suite.students[0].model.name == "mobilenetv3_small_050"
    assert suite.seeds == (0, 1)
    assert [method.label for method in suite.methods] == ["ce", "kd (no ground truth)"]


def test_an_entry_changes_only_what_it_names() -> None:
    suite = parse(GOOD)
    assert suite.teachers[0].train_spec(suite.train) == TrainSpec(epochs=3, learning_rate=0.01)
    assert suite.students[0].train_spec(suite.train) == TrainSpec(epochs=7, learning_rate=0.01)


def test_options_are_filled_in() -> None:
    assert parse(GOOD).methods[1].options == {"temperature": 4.0, "alpha": 0.9}


def test_every_problem_is_reported_at_once_with_its_line() -> None:
    found = problems("""\
name: bad
datasets: [synthetic, {name: mixde}]
teachers:
  - model: resnet81
    train: {epochs: 0}
students:
  - {model: mobilenetv3_small_050, trian: {}}
methods:
  - ce
  - {name: kd, options: {temprature: 3}}
  - {name: ce, ground_truth: false}
seeds: [1, 1]
views: {scale: 3}
colour: blue
""")
    expected = [
        ("line 2: datasets[1]: unknown dataset 'mixde'", "mixed"),
        ("line 4: teachers[0].model: unknown model 'resnet81'", "resnet18"),
        ("line 5: teachers[0].train.epochs:", "greater than or equal to 1, not 0"),
        ("line 7: students[0].trian: unknown key", ""),
        ("line 10: methods[1]: method 'kd', option 'temprature': unknown", "known: temperature, alpha"),
        ("line 11: methods[2]: method 'ce' has nothing to learn from without ground truth", ""),
        ("line 12: seeds:", "distinct"),
        ("line 13: views.scale:", "less than 1, not 3"),
        ("line 14: colour: unknown key", ""),
    ]
    assert len(found) == len(expected)
    for problem, (start, part) in zip(found, expected, strict=True):
        assert problem.startswith(start)
        assert part in problem


def test_a_key_that_stands_twice_is_a_problem() -> None:
    assert problems(GOOD + "seeds: 3\n") == ("line 11: seeds: the key stands twice; keep one",)


def test_a_missing_key_is_named() -> None:
    assert problems("name: x\nstudents: [resnet10t]\n") == ("line 1: datasets: missing",)


@pytest.mark.parametrize("value", ["0", "-1", "[]", "[0, 0]", "[-1]", "many"])
def test_seeds_that_make_no_sense(value: str) -> None:
    assert "seeds" in problems(GOOD.replace("seeds: 2", f"seeds: {value}"))[0]


@pytest.mark.parametrize("key", ["datasets", "students", "methods"])
def test_an_empty_list_is_a_problem(key: str) -> None:
    lines = [f"{key}: []" if line.startswith(f"{key}:") else line for line in GOOD.splitlines()]
    if key == "students":
        lines.remove("  - mobilenetv3_small_050")
    assert problems("\n".join(lines))[0].endswith(f"{key}: at least one is needed, not []") or "at least one" in str(
        problems("\n".join(lines))
    )


def test_what_is_no_yaml_says_where() -> None:
    assert problems("name: x\n  datasets: [\n")[0].startswith("line ")
    assert "not valid YAML" in problems("name: [unclosed\n")[0]


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just words"])
def test_what_is_no_mapping_is_refused(text: str) -> None:
    assert "a suite is a mapping of keys" in problems(text)[0]


def test_objects_are_not_made_from_yaml() -> None:
    assert "YAML" in problems("name: !!python/object/apply:os.getcwd []\n")[0]


def test_synthetic_options_are_checked_in_the_suite() -> None:
    text = GOOD.replace("[synthetic]", "[{name: synthetic, options: {count: 3, colour: 1}}]")
    (problem,) = problems(text)
    assert problem.startswith("line 2: datasets[0]:")
    assert "count" in problem
    assert "colour" in problem


def test_other_sources_take_no_options() -> None:
    (problem,) = problems(GOOD.replace("[synthetic]", "[{name: pbc, options: {count: 3}}]"))
    assert "no option count" in problem


@pytest.mark.parametrize("name", shipped_suites())
def test_shipped_suites_are_good_and_named_for_their_files(name: str) -> None:
    suite = load_suite(name)
    assert suite.name == name
    assert suite.description


def test_the_promised_suites_are_shipped() -> None:
    assert {"quickstart", "mixed-small", "bccd-small"} <= set(shipped_suites())


def test_an_unknown_suite_lists_near_ones() -> None:
    with pytest.raises(UnknownName, match="unknown suite 'quikstart'; did you mean quickstart"):
        read_suite("quikstart")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MissingData, match="cannot be read"):
        read_suite(str(tmp_path / "none.yaml"))


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD)
    assert load_suite(str(path)).name == "good"
