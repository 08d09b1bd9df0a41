"""The documentation says what is so: its programs run, its YAML parses, its commands exist, its links lead somewhere,
and every method is described with its paper, its options and their defaults."""

from __future__ import annotations

import logging
import os
import re
import shlex
import tomllib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import get_args

import pytest
import torch
import yaml
from lessons import PAIRS, make, ready
from typer.testing import CliRunner

import kdbench
from kdbench.cli.app import app
from kdbench.cli.list import method_needs
from kdbench.config import parse_device, parse_sources, parse_suite
from kdbench.method import METHODS, Family
from kdbench.suite.plan import RegistryNames

DOCS = Path(kdbench.__file__).parent / "docs"
PAGES = {path.name: path.read_text("utf-8") for path in sorted(DOCS.glob("*.md"))}
INDEX = "README.md"
LANGUAGES = {"python", "yaml", "bash", "text"}

FAMILY_PAGES = {
    "baseline": "methods-logits.md",
    "logits": "methods-logits.md",
    "features": "methods-features.md",
    "relations": "methods-relations.md",
    "several teachers": "methods-several-teachers.md",
    "online": "methods-self-and-online.md",
    "self": "methods-self-and-online.md",
    "chain": "methods-self-and-online.md",
}


def blocks(text: str) -> list[tuple[int, str, str]]:
    """(line of its first line, language, content) of every fenced block."""
    found, start, language, inside = [], 0, "", list[str]()
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.startswith("```"):
            inside.append(line)
        elif start:
            found.append((start, language, "\n".join(inside) + "\n"))
            start = 0
        else:
            start, language, inside = number + 1, line[3:].strip(), []
    return found


def without_blocks(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


ALL_BLOCKS = [(page, *block) for page, text in PAGES.items() for block in blocks(text)]
YAML = [pytest.param(page, text, id=f"{page}:{line}") for page, line, kind, text in ALL_BLOCKS if kind == "yaml"]


# ---------------------------------------------------------------- pages and links


def test_pages_come_with_the_package() -> None:
    project = tomllib.loads((DOCS.parent.parent / "pyproject.toml").read_text("utf-8"))
    assert "docs/*.md" in project["tool"]["setuptools"]["package-data"]["kdbench"]


def test_every_block_says_what_it_is() -> None:
    """So that no block goes unchecked."""
    assert {(page, line, kind) for page, line, kind, _ in ALL_BLOCKS if kind not in LANGUAGES} == set()
    assert {page: text.count("\n```") % 2 for page, text in PAGES.items()} == dict.fromkeys(PAGES, 0)


def test_the_index_has_every_page_once() -> None:
    listed = re.findall(r"^- \[(.+?)\]\((.+?)\): .+", PAGES[INDEX], flags=re.MULTILINE)
    assert sorted(target for _, target in listed) == sorted(set(PAGES) - {INDEX})
    assert all(name == target for name, target in listed)


def anchors(text: str) -> set[str]:
    """What GitHub makes of the headings."""
    headings = re.findall(r"^#+ (.+)$", without_blocks(text), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def link_problems(page: str, text: str) -> list[str]:
    found = []
    for target in re.findall(r"\]\(([^)]+)\)", without_blocks(text)):
        path, _, anchor = target.partition("#")
        if "://" in target:
            continue
        there = (DOCS / path).resolve() if path else DOCS / page
        if not there.is_file():
            found.append(f"{page}: ({target}) leads nowhere")
        elif anchor and anchor not in anchors(text if not path else there.read_text("utf-8")):
            found.append(f"{page}: ({target}) names no heading of that page")
    return found


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    assert link_problems(page, PAGES[page]) == []


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("[a](distill.md) [b](#one) [c](https://x.org/y)\n## One\n", 0),
        ("[a](no.md)", 1),
        ("[a](distill.md#no-such)", 1),
        ("[a](#two)\n## One\n", 1),
    ],
)
def test_planted_links(text: str, problems: int) -> None:
    assert len(link_problems(INDEX, text)) == problems


# ---------------------------------------------------------------- programs


@pytest.fixture
def _as_before(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, own_sources: None) -> Iterator[None]:
    """In an empty folder, on one thread, with nothing left behind: methods that a page adds are forgotten after it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KDBENCH_CACHE", str(tmp_path / "kdbench-cache"))
    monkeypatch.setattr(METHODS, "_entries", {name: METHODS.get(name) for name in METHODS.names()})
    # networks this small wait for each other's threads more than they compute where the machine is busy
    monkeypatch.setattr("kdbench.engine.tuning.usable_cores", lambda: 1)
    threads, level = torch.get_num_threads(), logging.getLogger().level
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        yield
    torch.set_num_threads(threads)
    logging.getLogger().setLevel(level)


@pytest.mark.usefixtures("_as_before")
@pytest.mark.parametrize("page", sorted({page for page, _, kind, _ in ALL_BLOCKS if kind == "python"}))
def test_python_blocks_run(page: str) -> None:
    """One after the other in one namespace, as a reader would paste them."""
    namespace: dict[str, object] = {"__name__": "__main__"}
    for line, kind, code in blocks(PAGES[page]):
        if kind == "python":
            # empty lines in front: a traceback then names the line of the page
            exec(compile("\n" * (line - 1) + code, str(DOCS / page), "exec"), namespace)


# ---------------------------------------------------------------- YAML


@pytest.mark.usefixtures("own_sources")
@pytest.mark.parametrize(("page", "text"), YAML)
def test_yaml_blocks_are_suites_devices_or_data_sets(page: str, text: str, tmp_path: Path) -> None:
    keys = set(yaml.safe_load(text))
    if "students" in keys:
        assert parse_suite(text, page, RegistryNames(tmp_path)).students
    elif "limits" in keys:
        assert parse_device(text, page).limits
    else:
        assert keys & {"folder", "csv", "sources"}, (
            "write a whole suite (with students), a device (limits) or a data set"
        )
        assert parse_sources(text, page, RegistryNames(tmp_path))


def test_every_setting_of_tuning_is_described_with_its_default() -> None:
    section = PAGES["teacher-cache.md"].partition("## Tuning")[2]
    cells = [[cell.strip(" `") for cell in line.split("|")] for line in section.splitlines() if line.startswith("| `")]
    said = {row[1]: row[3] for row in cells}
    fields = kdbench.TrainSpec.model_fields
    left_open = {name for name, field in fields.items() if "'auto'" in str(field.annotation)}
    assert set(said) == left_open | {"compile"}
    assert all(agrees(said[name], fields[name].default) for name in said)


# ---------------------------------------------------------------- commands


def commands(text: str) -> list[str]:
    """Every call of kdbench, in bash blocks and in the text; without comments."""
    lines = [line for _, kind, block in blocks(text) if kind == "bash" for line in block.splitlines()]
    found = []
    for line in lines:
        words = shlex.split(line, comments=True)
        starts = [0, *(place + 1 for place, word in enumerate(words) if word in ("&&", "||", "|", ";"))]
        for start, end in zip(starts, [*(start - 1 for start in starts[1:]), len(words)], strict=True):
            if words[start : start + 1] == ["kdbench"]:
                found.append(shlex.join(words[start:end]))
    return found + re.findall(r"`(kdbench [^`]+)`", without_blocks(text).replace("\n", " "))


def command_problem(command: str) -> str:
    """What is wrong with a command; its help is asked for, so it is parsed, and nothing is run."""
    said = CliRunner().invoke(app, [*shlex.split(command)[1:], "--help"], env={"COLUMNS": "200"})
    return "" if said.exit_code == 0 else f"{command}: {' '.join(said.output.split())}"


COMMANDS = sorted({(page, command) for page, text in PAGES.items() for command in commands(text)})


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_commands_exist(page: str, command: str) -> None:
    assert command_problem(command) == ""


@pytest.mark.parametrize("command", ["kdbench rum", "kdbench run x --dry", "kdbench list zebras", "kdbench run x -q 1"])
def test_planted_commands_are_caught(command: str) -> None:
    assert "No such" in command_problem(command)


def test_commands_are_found() -> None:
    text = "Try `kdbench list\nmodels`.\n```bash\npip install . && kdbench run quickstart   # quick\n```\n"
    assert commands(text) == ["kdbench run quickstart", "kdbench list models"]


# ---------------------------------------------------------------- methods


def test_the_list_of_methods_is_ordered_by_family_with_a_line_for_each() -> None:
    out = CliRunner().invoke(app, ["list", "methods"], env={"COLUMNS": "80"}).output
    lines = [re.split(r" {2,}", line.strip()) for line in out.splitlines() if line.strip()]
    order = get_args(Family)
    shown = [line for line in lines if len(line) > 1 and line[1] in order]
    assert sorted(line[0] for line in shown) == list(METHODS.names())
    assert shown == sorted(shown, key=lambda line: (order.index(line[1]), line[0]))
    assert [line[2] for line in shown] == [method_needs(METHODS.get(line[0])) for line in shown]
    assert len(lines) == len(shown) + 3  # the title, the heads and a rule: none is folded


def sections(text: str) -> dict[str, str]:
    """The section of each method of a page, by its name."""
    parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)
    named = zip(parts[1::2], parts[2::2], strict=True)
    return {heading.strip("`"): body for heading, body in named if re.fullmatch(r"`\w+`", heading)}


def rows(text: str) -> dict[str, list[str]]:
    """The cells of the table at the top of a page, by method."""
    found = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if line.startswith("| [`") and (name := re.fullmatch(r"\[`(\w+)`\]\(#(\w+)\)", cells[0])):
            found[name[1]] = cells
    return found


def defaults(section: str) -> dict[str, str]:
    """What a section's table says of each option."""
    found: dict[str, str] = {}
    for line in section.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        names = re.findall(r"`(\w+)`", cells[0])
        if line.startswith("| `") and len(cells) == 3:
            found.update(zip(names, (value.strip() for value in cells[1].split(",")), strict=True))
    return found


def agrees(said: str, value: object) -> bool:
    """Whether a page's word for a default is that default; a fraction may be written as one."""
    if isinstance(value, bool):
        return said == str(value).lower()
    if isinstance(value, str):
        return said.strip("`") == value
    try:
        return float(Fraction(said)) == pytest.approx(float(value))  # type: ignore[arg-type]
    except ValueError:
        return False


def skeleton(name: str) -> str:
    """What to write of a method that is not described."""
    method = METHODS.get(name)
    options = "\n".join(
        f"| `{option}` | {field.default} | {field.description or '...'} |"
        for option, field in method.Options.model_fields.items()
    )
    table = f"\n\n| option | default | meaning |\n|:--|:--|:--|\n{options}" if options else ""
    return (
        f"method '{name}' is not described; in kdbench/docs/{FAMILY_PAGES.get(method.family)} add the row\n\n"
        f"| [`{name}`](#{name}) | {method_needs(method)} | {method.summary} | ... | {method.paper} |\n\n"
        f"and the section (its formula, what it trains along, its traps, how it departs from the paper)\n\n"
        f"## `{name}`\n\n```text\nloss = ...\n```\n\n- **Paper**: {method.paper}\n- **Labels**: ...{table}\n\n"
        "- **Traps**: ...\n- **Deviations**: ...\n- **Checked by**: ...\n"
    )


ALL = METHODS.names()
METHOD_PAGES = sorted(set(FAMILY_PAGES.values()))
ROWS = {page: rows(PAGES[page]) for page in METHOD_PAGES}
SECTIONS = {page: sections(PAGES[page]) for page in METHOD_PAGES}


def described(name: str) -> tuple[list[str], str]:
    """The row and the section of a method; the test fails with what to write if one is missing."""
    family = METHODS.get(name).family
    assert family in FAMILY_PAGES, f"the family '{family}' has no page: add one, and name it in FAMILY_PAGES"
    page = FAMILY_PAGES[family]
    if name not in ROWS[page] or name not in SECTIONS[page]:
        pytest.fail(skeleton(name), pytrace=False)
    return ROWS[page][name], SECTIONS[page][name]


@pytest.mark.parametrize("name", ALL)
def test_every_method_is_described_once_on_the_page_of_its_family(name: str) -> None:
    described(name)
    assert [page for page in METHOD_PAGES if name in SECTIONS[page]] == [FAMILY_PAGES[METHODS.get(name).family]]


def test_nothing_is_described_that_is_not_there() -> None:
    for page in METHOD_PAGES:
        assert set(ROWS[page]) == set(SECTIONS[page])
        assert set(ROWS[page]) <= set(ALL)


@pytest.mark.parametrize("name", ALL)
def test_the_table_says_what_the_method_says(name: str) -> None:
    method = METHODS.get(name)
    row, _ = described(name)
    assert [*row[1:3], row[4]] == [method_needs(method), method.summary, method.paper]


@pytest.mark.parametrize("name", ALL)
def test_the_section_has_formula_paper_and_labels(name: str) -> None:
    _, section = described(name)
    assert "```text\n" in section
    paper = section[section.index("- **Paper**: ") :].partition("\n- **")[0]
    assert [part for part in METHODS.get(name).paper.split(", ") if part not in " ".join(paper.split())] == []
    for part in ("- **Labels**: ", "- **Checked by**: "):
        assert part in section


@pytest.mark.parametrize("name", ALL)
def test_every_option_is_described_with_its_default(name: str) -> None:
    _, section = described(name)
    said, fields = defaults(section), METHODS.get(name).Options.model_fields
    assert set(said) == set(fields), f"the table of options of '{name}' has to have just the options of the method"
    wrong = {option: (said[option], field.default) for option, field in fields.items()
             if not agrees(said[option], field.default)}  # fmt: skip
    assert wrong == {}, "option: (what the page says, what it is)"


@pytest.mark.parametrize("name", ALL)
def test_what_trains_along_is_said(name: str) -> None:
    """In the table a dash where no method of the kind learns anything of its own, between any two networks."""
    teachers = {"none": 0, "one": 1, "many": 2}[METHODS.get(name).teachers]
    learns = any(
        parameter.requires_grad
        for pair in PAIRS
        for parameter in ready(name, make(pair, teachers=teachers)[0]).parameters()
    )
    row, section = described(name)
    assert (row[3] != "–") == learns
    assert ("- **Trains along**: " in section) == learns


@pytest.mark.parametrize("name", ALL)
def test_a_peer_is_named_where_there_is_one(name: str) -> None:
    """What a page says of another library is what the method's own test compares with."""
    module = METHODS.get(name).__module__.rpartition(".")[2]
    test = Path(__file__).parent / "methods" / f"test_{module}.py"
    _, section = described(name)
    checked = section[section.index("- **Checked by**") :]
    compared = 'importorskip("torchdistill' in test.read_text("utf-8")
    assert ("torchdistill" in checked) == compared


def test_a_method_without_a_page_fails_with_what_to_write(monkeypatch: pytest.MonkeyPatch) -> None:
    page = FAMILY_PAGES["logits"]
    monkeypatch.setitem(SECTIONS, page, {})
    with pytest.raises(pytest.fail.Exception) as failed:
        described("kd")
    for part in (page, "| [`kd`](#kd) | logits; teachers: one |", "| `temperature` | 4.0 |", "arXiv:1503.02531"):
        assert part in str(failed.value)


@pytest.mark.parametrize(
    ("said", "value", "same"),
    [
        ("4", 4.0, True),
        ("20/240", 20 / 240, True),
        ("7e-5", 7e-5, True),
        ("false", False, True),
        ("kd", "kd", True),
        ("5", 4.0, False),
        ("0", False, False),
        ("...", 1.0, False),
    ],
)
def test_defaults_are_compared_by_value(said: str, value: object, same: bool) -> None:
    assert agrees(said, value) == same


def test_nothing_of_this_machine_stands_in_a_page() -> None:
    home = os.path.expanduser("~")  # noqa: PTH111
    for page, text in PAGES.items():
        assert home not in text, page
        assert not re.search(r"(?<![\w.])/(?:home|work|tmp|root|usr)/", text), page
