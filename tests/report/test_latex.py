"""LaTeX whose braces balance whatever the names are, with the columns that are asked for."""

from __future__ import annotations

import random
import re

import pytest
from record_factory import costs, record, spec, study

from kdbench.errors import UnknownName
from kdbench.report import render
from kdbench.report.latex import escape_latex, render_latex

HOSTILE = (
    r"\input{/etc/passwd}", r"a}b{c", "50% & more $x^2$ #1 _a_ ~", r"\\[3cm]", "line\nbreak\x00\x1b", "``quoted''",
    "--- -- -", "[x]*", "<b>|</b>", "ünïcödé ± † – …", r"\end{tabular}", "",
)  # fmt: skip


def unescaped(text: str) -> str:
    """Without escaped letters: what is left of braces is structure."""
    return re.sub(r"\\[{}%&$#_]", "", text)


def balanced(text: str) -> bool:
    depth = 0
    for letter in unescaped(text):
        depth += {"{": 1, "}": -1}.get(letter, 0)
        if depth < 0:
            return False
    return depth == 0


def body(page: str) -> list[list[str]]:
    rows = page.split("\\midrule\n")[1].split("\\bottomrule")[0].splitlines()
    return [[cell.strip() for cell in re.split(r"(?<!\\)&", row.removesuffix(r" \\"))] for row in rows]


def test_a_table_for_each_data_set_with_rules_and_a_label() -> None:
    page = render(study(), "latex")
    for part in (r"\begin{table}", r"\toprule", r"\midrule", r"\bottomrule", r"\end{tabular}", r"\end{table}",
                 r"\caption{bccd, 64 px}", r"\label{tab:bccd-64-px}",
                 "% needs \\usepackage{booktabs,textcomp}"):  # fmt: skip
        assert page.count(part) == 1
    assert page.endswith("\n")
    assert balanced(page.replace("% needs", ""))


def test_columns_are_those_asked_for_in_their_order() -> None:
    page = render(study(), "latex", columns=["macs", "accuracy", "gain", "params"])
    head = page.split("\\toprule\n")[1].splitlines()[0]
    assert head == r"\# & model & role & method & teacher & MACs & accuracy (\%) & gain (points) & params \\"
    assert r"\begin{tabular}{rllllrrrr}" in page
    assert {len(row) for row in body(page)} == {9}
    best = next(row for row in body(page) if row[0] == "1")
    assert best[5:] == ["6.1 M", r"\textbf{93.3 $\pm$ 0.5}", r"\textbf{+6.0 $\pm$ 0.5}", "1.5 M"]
    assert body(page)[-1][5] == "failed (OutOfMemory)"


def test_columns_of_the_other_formats() -> None:
    names = ["accuracy", "params"]
    head = render(study(), "csv", columns=names).splitlines()[0].split(",")
    assert [key for key in head if key in ("accuracy", "params", "macs", "gain")] == names
    page = render(study(), "md", columns=names)
    table = next(line for line in page.splitlines() if line.startswith("|"))
    assert [cell.strip() for cell in table.strip("|").split("|")][5:] == ["accuracy (%)", "params"]
    assert "### Recall by class" not in page
    assert "| eosinophil" in re.sub(" +", " ", render(study(), "md", columns=["accuracy", "recall"]))
    assert "recall_eosinophil" in render(study(), "csv", columns=["recall_eosinophil"]).splitlines()[0]
    for format in ("md", "csv", "json", "latex"):
        with pytest.raises(UnknownName, match="column 'acuracy'; did you mean accuracy"):
            render(study(), format, columns=["acuracy"])


@pytest.mark.parametrize("text", HOSTILE)
def test_any_text_is_one_line_of_text(text: str) -> None:
    escaped = escape_latex(text)
    assert "\n" not in escaped
    assert balanced(escaped)
    assert not re.search(r"(?<!\\)[%&#_]", escaped)
    assert escaped.count("$") % 2 == 0 or r"\$" in escaped
    left = re.sub(
        r"\\(?:text(?:backslash|asciitilde|asciicircum|less|greater|bar|quotedbl|asciigrave|quotesingle|dagger)\{\}"
        r"|ldots\{\}|pm|[{}&%$#_])",
        "",
        escaped,
    )
    assert "\\" not in left


def test_escaping_by_hand() -> None:
    assert escape_latex("a_b & 50%") == r"a\_b \& 50\%"
    assert escape_latex(r"\x{y}") == r"\textbackslash{}x\{y\}"
    assert escape_latex("-1.2 ± 0.3 †") == r"$-$1.2 $\pm$ 0.3 \textdagger{}"
    assert escape_latex("2026-11-24") == "2026-11-24"
    assert escape_latex("–") == "--"
    assert escape_latex("a--b") == "a-{}-b"


def test_hostile_names_stay_in_their_cells() -> None:
    draw = random.Random(1)
    letters = r"\{}&%$#_~^<>|[]*`'-" + "\n\tab"
    names = [*HOSTILE[:-1], *("".join(draw.choices(letters, k=12)) + "x" for _ in range(30))]
    records = [record(spec(name), 0.5 + number / 100) for number, name in enumerate(names)]
    page = render_latex(records)
    rows = body(page)
    assert len(rows) == len(records)
    assert {len(row) for row in rows} == {len(rows[0])}
    assert all(balanced(cell) for row in rows for cell in row)
    assert page.count(r"\end{tabular}") == 1
    assert not any(line.startswith("[") for line in page.splitlines())


def test_two_data_sets_of_one_name_have_two_labels() -> None:
    records = [
        record(spec(dataset=spec().dataset.model_copy(update={"content": content}))) for content in ("a-b", "a b")
    ]
    labels = re.findall(r"\\label\{(.*?)\}", render_latex(records))
    assert len(set(labels)) == 2


def test_costs_alone() -> None:
    page = render([], "latex", costs())
    assert r"\caption{Costs, 64 px, 2 classes}" in page
    assert r"vit\_tiny & 5.5 M & 91.0 M & 22.0 MB \\" in page
