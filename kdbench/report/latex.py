"""The leaderboard as LaTeX: a booktabs table for each data set. Floor 6; no torch.

A pure function of the records. Any name comes out as text: no command, brace, column or comment can come out of it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

from kdbench.report.column import NOT_APPLICABLE, Column, columns_for, scaled
from kdbench.report.markdown import best_cells, rank_text
from kdbench.report.networks import networks, sections
from kdbench.report.outcomes import Outcomes
from kdbench.report.rows import Row, build_rows, dataset_key, dataset_titles
from kdbench.types import ProfileRecord, RunRecord

USUAL_COLUMNS = ("accuracy", "interval", "gain", "macro_f1", "params", "macs", "latency", "seeds")
"""What a table has if nothing else is asked for; without those that have no figure."""

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "`": r"\textasciigrave{}",
    "'": r"\textquotesingle{}",
    "[": "{[}",  # at the beginning of a row it would be an argument of the line break before it
    "]": "{]}",
    "*": "{*}",
    "±": r"$\pm$",
    "†": r"\textdagger{}",
    "–": "--",
    "−": r"$-$",
    "…": r"\ldots{}",
    "’": "'",
}
# a hyphen before a digit is a minus; two in a row would become a dash
_MINUS = re.compile(r"(?<![\w-])-(?=\d)")


def escape_latex(text: str) -> str:
    """Any text as one line that LaTeX sets as it is; what cannot be printed becomes a space."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in str(text)).split())
    line = "".join(_SPECIAL.get(letter, letter) for letter in line)
    line = line.replace("--", "-{}-") if line != "--" else line
    return _MINUS.sub("$-$", line)


def render_latex(
    records: Sequence[RunRecord],
    profiles: Sequence[ProfileRecord] = (),
    outcomes: Outcomes | None = None,
    names: Sequence[str] | None = None,
) -> str:
    r"""All tables; needs ``\usepackage{booktabs,textcomp}`` and UTF-8.

    Args: names: of the columns wanted, as `columns_for` takes them; None is `USUAL_COLUMNS`.
    Raises: UnknownName.
    """
    rows = build_rows(records, profiles, outcomes)
    columns = columns_for(rows, USUAL_COLUMNS if names is None else names)
    parts: defaultdict[str, list[Row]] = defaultdict(list)
    for row in rows:
        parts[dataset_key(row.dataset)].append(row)
    titles = dataset_titles([group[0].dataset for group in parts.values()])
    found = [_table(title, group, columns) for title, group in zip(titles, parts.values(), strict=True)]
    return "\n".join(["% needs \\usepackage{booktabs,textcomp}", *_numbered(found)])


def latex_costs(profiles: Sequence[ProfileRecord]) -> str:
    """Without runs: what the models cost that were profiled, a table for each image size and number of classes."""
    found = []
    for (image_size, classes), section in sections(networks(profiles)).items():
        body = [
            [escape_latex(network.label), scaled(network.counts.params), scaled(network.counts.macs),
             f"{scaled(network.counts.weight_bytes)}B"]
            for network in section
        ]  # fmt: skip
        title = f"{image_size} px, {classes} classes"
        found.append((f"Costs, {title}", "lrrr", ["model", "parameters", "MACs", "weights"], body))
    return "\n".join(["% needs \\usepackage{booktabs,textcomp}", *_numbered(found)])


Table = tuple[str, str, list[str], list[list[str]]]
"""Caption, alignment, headings and body; all but the caption as LaTeX already."""


def _table(title: str, rows: Sequence[Row], columns: Sequence[Column]) -> Table:
    kept = [column for column in columns if any(column.value(row) is not None for row in rows)] or list(columns[:1])
    best = [best_cells(rows, column) for column in kept]
    body = []
    for row in rows:
        cells = [escape_latex(column.show(row)) for column in kept]
        cells = [rf"\textbf{{{cell}}}" if row.cell_id in top else cell for cell, top in zip(cells, best, strict=True)]
        if not row.n_ok:
            cells[0] = f"failed ({escape_latex((row.failure or '').partition(':')[0])})"
        names = [row.model, row.role, row.method, row.teacher or NOT_APPLICABLE]
        body.append([escape_latex(rank_text(row, ranges=True)), *map(escape_latex, names), *cells])
    headings = ["#", "model", "role", "method", "teacher", *(column.heading for column in kept)]
    align = "rllll" + "r" * len(kept)
    return (title, align, [escape_latex(heading) for heading in headings], body)


def _numbered(tables: Sequence[Table]) -> list[str]:
    """Each table as its environment, with a label of its own."""
    used: set[str] = set()
    found = []
    for title, align, headings, body in tables:
        plain = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "table"
        label, number = plain, 1
        while label in used:
            number += 1
            label = f"{plain}-{number}"
        used.add(label)
        lines = [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{escape_latex(title)}}}",
            rf"\label{{tab:{label}}}",
            rf"\begin{{tabular}}{{{align}}}",
            r"\toprule",
            " & ".join(headings) + r" \\",
            r"\midrule",
            *(" & ".join(cells) + r" \\" for cells in body),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
        found.append("\n".join(lines) + "\n")
    return found
