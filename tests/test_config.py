"""A suite is checked whole: every problem at once, each with its line and its key."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdbench.config import Suite, parse_sources, parse_suite, read_sources, read_suite, shipped_suites
from kdbench.errors import ConfigError, MissingData, UnknownName
from kdbench.suite.plan import RegistryNames, load_suite
from kdbench.types import MethodSpec, TrainSpec

SMALL = """\
name: small
datasets: [synthetic]
students: [resnet8_w16]
"""


def parse(text: str) -> Suite:
    return parse_suite(text, "s.yaml", RegistryNames())


def problems(text: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert str(caught.value).startswith("s.yaml: ")
    assert all(problem in str(caught.value) for problem in caught.value.problems)
    return caught.value.problems


def test_the_smallest_suite() -> None:
    suite = parse(SMALL)
    assert suite.seeds == (0,)
    assert suite.methods == (MethodSpec(name="ce"),)
    assert suite.teachers == ()
    assert suite.train == TrainSpec()
    assert suite.students[0].train_spec(suite.train) == suite.train


def test_every_problem_at_once_with_line_and_key() -> None:
    text = """\
name: small
datasets:
  - {name: sinthetic, image_size: 64}
  - name: synthetic
    image_size: 4
    colour: red
teachers:
  - model: resnet19
    train: {epochs: 0, lr: 1}
students:
  - resnet8_w16
  - {model: mobilenetv3_small_05}
methods:
  - kdd
  - {name: kd, options: {temprature: 2}}
train:
  batch_size: many
views: 3
retries: 3
"""
    found = problems(text)
    expected = [
        ("line 3: datasets[0]: unknown dataset 'sinthetic'", "did you mean synthetic"),
        ("line 5: datasets[1].image_size: ", "not 4"),
        ("line 6: datasets[1].colour: unknown key", ""),
        ("line 8: teachers[0].model: unknown model 'resnet19'", "did you mean"),
        ("line 9: teachers[0].train.epochs: ", "not 0"),
        ("line 9: teachers[0].train.lr: unknown key", ""),
        ("line 12: students[1].model: unknown model 'mobilenetv3_small_05'", "mobilenetv3_small_050"),
        ("line 14: methods[0]: unknown method 'kdd'", "did you mean kd"),
        ("line 15: methods[1]: ", "temprature"),
        ("line 17: train.batch_size: ", "not 'many'"),
        ("line 18: views: a mapping of keys is wanted, not 3", ""),
        ("line 19: retries: unknown key", ""),
    ]
    assert len(found) == len(expected), "\n".join(found)
    for problem, (start, part) in zip(found, expected, strict=True):
        assert problem.startswith(start)
        assert part in problem


def test_missing_keys_are_named() -> None:
    assert problems("description: nothing") == (
        "line 1: datasets: missing",
        "line 1: name: missing",
        "line 1: students: missing",
    )


def test_the_line_is_that_of_the_key() -> None:
    assert problems(f"# a comment\n\n{SMALL}train:\n  # another\n  epochs: -1\n")[0].startswith("line 8: train.epochs:")


def test_a_key_that_stands_twice_is_a_problem() -> None:
    found = problems(f"{SMALL}train: {{epochs: 1}}\nname: again\ntrain:\n  epochs: 2\n  epochs: 3\n")
    assert found == (
        "line 5: name: the key stands twice; keep one",
        "line 6: train: the key stands twice; keep one",
        "line 8: train.epochs: the key stands twice; keep one",
    )
    # in a list item too
    assert problems("name: x\ndatasets: [{name: synthetic, name: pbc}]\nstudents: [resnet8_w16]\n") == (
        "line 2: datasets[0].name: the key stands twice; keep one",
    )


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("datasets: []", "datasets: at least one is needed"),
        ("students: []", "students: at least one is needed"),
        ("methods: []", "methods: at least one is needed"),
        ("name: ../escape", "name:"),
        ("name: [x]", "name:"),
        ("datasets: [{name: synthetic, options: {cuont: 3}}]", "cuont"),
        ("datasets: [{name: synthetic, options: {count: -1}}]", "count"),
        ("datasets: [{name: pbc, options: {count: 100}}]", "count"),
        ("datasets: [{name: mixed, sources: [jtcs]}]", "did you mean jtsc"),
        ("students: [{model: {name: resnet8_w16, patch: 3}}]", "students[0].model.patch: unknown key"),
        ("students: [{modle: resnet8_w16}]", "students[0].modle: unknown key"),
        ("teachers: [{model: resnet18, train: {epochs: null}}]", "teachers[0].train.epochs"),
        ("train: {learning_rate: .nan}", "train.learning_rate"),
        ("train: {learning_rate: 1.0e-400}", "train.learning_rate"),
        ("methods: [{name: kd, options: {temperature: -1}}]", "temperature"),
    ],
)
def test_wrong_values_are_named(line: str, part: str) -> None:
    key = line.partition(":")[0]
    text = "".join(f"{kept}\n" for kept in SMALL.splitlines() if not kept.startswith(f"{key}:")) + line
    found = problems(text)
    assert any(part in problem and problem.startswith(f"line {len(text.splitlines())}: ") for problem in found), found


# ---------------------------------------------------------------- seeds and overrides


@pytest.mark.parametrize(
    ("given", "seeds"), [("1", (0,)), ("3", (0, 1, 2)), ("[0]", (0,)), ("[5, 2]", (5, 2)), ("[7, 0, 3]", (7, 0, 3))]
)
def test_seeds_are_a_count_or_a_list(given: str, seeds: tuple[int, ...]) -> None:
    assert parse(f"{SMALL}seeds: {given}\n").seeds == seeds


@pytest.mark.parametrize("given", ["0", "-1", "[]", "[1, 1]", "[-1]", "true", "two", "1.5", "[a]", "{a: 1}", "null"])
def test_other_seeds_are_refused(given: str) -> None:
    assert all(problem.startswith("line 4: seeds") for problem in problems(f"{SMALL}seeds: {given}\n"))


def test_overrides_change_what_they_name_and_nothing_else() -> None:
    suite = parse(
        """\
name: small
datasets: [synthetic]
train: {epochs: 20, ema_decay: 0.9, batch_size: 8}
teachers:
  - {model: resnet18, seed: 4, train: {epochs: 3, ema_decay: null}}
students:
  - resnet8_w16
  - {model: resnet10t, train: {batch_size: 64}}
"""
    )
    assert suite.teachers[0].seed == 4
    assert suite.teachers[0].train_spec(suite.train) == TrainSpec(epochs=3, ema_decay=None, batch_size=8)
    assert suite.students[0].train_spec(suite.train) == suite.train
    # equal to the default, but said: it counts
    assert suite.students[1].train_spec(suite.train) == TrainSpec(epochs=20, ema_decay=0.9, batch_size=64)


def test_method_options_are_filled_in() -> None:
    named, spelt = (
        parse(f"{SMALL}methods: [{method}]\n").methods[0] for method in ("kd", "{name: kd, options: {temperature: 4}}")
    )
    assert set(named.options) == set(spelt.options) >= {"temperature"}


def test_without_names_only_the_form_is_checked() -> None:
    text = "name: x\ndatasets: [nowhere]\nstudents: [nothing]\n"
    assert parse_suite(text, "x").datasets[0].name == "nowhere"
    with pytest.raises(ConfigError, match="2 problems"):
        parse(text)


# ---------------------------------------------------------------- not a suite at all


@pytest.mark.parametrize(
    ("text", "kind"), [("", "NoneType"), ("- a\n- b\n", "list"), ("just words", "str"), ("3", "int")]
)
def test_not_a_mapping(text: str, kind: str) -> None:
    assert problems(text) == (f"a suite is a mapping of keys, not {kind}",)


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("name: x\ndatasets: [a\nstudents: b\n", "line 3: not valid YAML: "),
        ("name: x\n\tb: c\n", "line 2: not valid YAML: "),
        ("a: 1\n---\nb: 2\n", "line 2: not valid YAML: "),
        ("name: a\x00b", "not valid YAML: "),
        ("a: !!python/object/apply:os.getcwd []", "line 1: not valid YAML: "),
        ("a: 2026-99-99", "not valid YAML: month"),  # looks like a date
        ("a: 0x_", "not valid YAML: "),
        (f"a: {'9' * 5000}", "not valid YAML: "),
        ("a: &a [*a]", "not valid YAML: "),  # holds itself
        ("a: " + "[" * 5000, "not valid YAML: "),
    ],
)
def test_not_yaml(text: str, start: str) -> None:
    found = problems(text)
    assert len(found) == 1
    assert found[0].startswith(start)


@pytest.mark.parametrize("key", ["1", "null", "on", "2.5"])
def test_keys_that_are_no_names(key: str) -> None:
    assert any("eys should be strings" in problem for problem in problems(f"{SMALL}{key}: 3\n"))


# ---------------------------------------------------------------- where suites come from


def test_every_shipped_suite_is_whole() -> None:
    assert {"quickstart", "bccd-small", "mixed-small"} <= set(shipped_suites())
    for name in shipped_suites():
        suite = load_suite(name)
        assert suite.name == name
        assert suite.description


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(SMALL)
    assert read_suite(str(path)) == (SMALL, str(path))
    assert load_suite(str(path)).name == "small"
    other = tmp_path / "no-suffix"
    other.write_text(SMALL)
    assert load_suite(str(other)).name == "small"


def test_a_missing_file_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(MissingData, match=r"the suite file .*nowhere.yaml cannot be read"):
        load_suite(str(tmp_path / "nowhere.yaml"))
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "latin.yaml").write_bytes(b"name: \xe4\n")
    for name in ("folder.yaml", "latin.yaml"):
        with pytest.raises(MissingData, match=r"give a file or a shipped suite: .*quickstart"):
            load_suite(str(tmp_path / name))


def test_an_unknown_suite_lists_near_ones() -> None:
    with pytest.raises(UnknownName, match="unknown suite 'quickstrat'; did you mean quickstart"):
        load_suite("quickstrat")


def test_a_problem_in_a_file_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"{SMALL}x: 1\n")
    with pytest.raises(ConfigError) as caught:
        load_suite(str(path))
    assert str(caught.value) == f"{path}: line 4: x: unknown key"


# ---------------------------------------------------------------- data sets of the user's own

OWN = """\
name: small
datasets: [{name: mine, image_size: 32}]
students: [resnet8_w16]
sources:
  - {name: mine, folder: images}
"""


@pytest.mark.usefixtures("own_sources")
def test_what_a_suite_declares_is_known_wherever_it_stands(tmp_path: Path) -> None:
    (tmp_path / "suite.yaml").write_text(OWN)
    suite = load_suite(str(tmp_path / "suite.yaml"))
    assert suite.datasets[0].name == "mine"
    assert suite.sources[0].folder == str((tmp_path / "images").resolve())  # from the suite's folder, wherever we are
    assert load_suite(str(tmp_path / "suite.yaml")) == suite  # again: the same
    with pytest.raises(ConfigError, match=r"datasets\[0\]: dataset 'mine' has no option count"):
        parse(OWN.replace("image_size: 32", "options: {count: 3}").replace("images", str(tmp_path / "images")))


@pytest.mark.usefixtures("own_sources")
def test_every_problem_of_declarations_at_once() -> None:
    text = """\
name: small
datasets: [mine, other, taken, pbc, mixed]
students: [resnet8_w16]
sources:
  - {name: mine, folder: a, csv: b}
  - name: other
    folder: a
    lables: [a, b]
  - {name: pbc, folder: a}
  - {name: taken, folder: a}
  - {name: taken, folder: b}
  - {name: mixed, csv: t.csv, delimiter: "::"}
  - {name: mixed, csv: t.csv}
  - {name: labelled, folder: a, labels: [yes, no]}
  - {name: mapped, folder: a, labels: {a: x, b: 1.5}}
  - just words
"""
    expected = [
        ("line 5: sources[0]: ", "either folder or csv"),
        ("line 8: sources[1].lables: ", "unknown key"),
        ("line 9: sources[2]: ", "'pbc' is a data set that comes with kdbench"),
        ("line 11: sources[4]: ", "'taken' is declared already"),
        ("line 12: sources[5].delimiter: ", "one character"),
        ("line 13: sources[6]: ", "'mixed' is a union of sources"),
        ("line 14: sources[7].labels: ", "put True in quotes"),
        ("line 15: sources[8].labels: ", "put 1.5 in quotes"),
        ("line 16: sources[9]: a mapping of keys is wanted", "'just words'"),
    ]
    found = problems(text)
    assert len(found) == len(expected), "\n".join(found)  # no unknown data set: its declaration says what is wrong
    for problem, (start, part) in zip(found, expected, strict=True):
        assert problem.startswith(start)
        assert part in problem


@pytest.mark.usefixtures("own_sources")
def test_a_name_that_stands_twice_is_refused() -> None:
    twice = f"{OWN}  - {{name: mine, folder: images}}\n"
    assert problems(twice) == ("line 4: sources: the name 'mine' stands twice; give each source its own",)


@pytest.mark.usefixtures("own_sources")
@pytest.mark.parametrize(
    "text",
    ["name: mine\nfolder: images\n", "sources:\n- name: mine\n  folder: images\n", OWN, OWN.replace("small", "../x")],
)
def test_a_data_file_is_a_declaration_a_list_or_a_suite(tmp_path: Path, text: str) -> None:
    (declaration,) = parse_sources(text, "d.yaml", RegistryNames(tmp_path))
    assert (declaration.name, declaration.folder) == ("mine", str((tmp_path / "images").resolve()))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("- a\n", "a data file is a mapping of keys, not list"),
        ("name: mine\n", "line 1: the data file: either folder or csv has to say where the images are"),
        ("folder: x\n", "line 1: name: missing"),
        ("name: mine\nfolder: x\nlable: y\n", "line 3: lable: unknown key"),
        ("sources: []\n", "it declares no data set; sources: is empty"),
        ("sources:\n- {name: a, folder: x}\nfolder: y\n", "line 3: folder: unknown key"),
        ("name: [\n", "line 2: not valid YAML: "),
    ],
)
def test_what_a_data_file_refuses(text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_sources(text, "d.yaml")
    (only,) = caught.value.problems
    assert only.startswith(problem)


def test_a_data_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"name: \xe4\n")
    for name in ("nowhere.yaml", "latin.yaml"):
        with pytest.raises(MissingData, match=rf"the data file .*{name} cannot be read: .*; give a data set or a YAML"):
            read_sources(str(tmp_path / name))
