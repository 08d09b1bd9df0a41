"""`kdbench report`: tables and plots from records and profiles."""

from __future__ import annotations

import difflib
import re
import shlex
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kdbench.types import ModelKind, RunRecord


class Format(StrEnum):
    """What a report is written as."""

    md = "md"
    csv = "csv"
    json = "json"
    latex = "latex"
    html = "html"


_MOST_LINES = 24  # of a difference
_LONGEST_LINE = 240


def report(
    results: Annotated[Path, typer.Option(help="Folder with records or profiles, at any depth.")] = Path("results"),
    profiles: Annotated[
        list[Path] | None,
        typer.Option(help="A file or folder of profiles from another machine; may be given several times."),
    ] = None,
    format: Annotated[
        Format,
        typer.Option(help="Markdown for people, HTML to play with, LaTeX for papers; CSV and JSON carry raw numbers."),
    ] = Format.md,
    columns: Annotated[
        str, typer.Option(help="Only these, in this order: accuracy,gain,params,macs; names or keys of CSV.")
    ] = "",
    out: Annotated[Path | None, typer.Option(help="Write to this file, in one step, and not to the terminal.")] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw accuracy (without records: MACs) against latency; .svg or .png.")
    ] = None,
    plots: Annotated[
        Path | None, typer.Option(help="Draw everything that can be drawn into this folder, as SVG and PNG.")
    ] = None,
    check: Annotated[
        Path | None, typer.Option(help="Compare this file with what the records give now, and write nothing.")
    ] = None,
    validate: Annotated[
        Path | None, typer.Option(help="Check a record, a leaderboard in JSON or a results folder made elsewhere.")
    ] = None,
) -> None:
    """Make the leaderboard from what runs left in their folders, and from nothing else; without runs, what models cost.

    Profiles join the rows that they belong to, whichever machine they come from.

    Exit codes: 0 done, 1 the file of --check differs or --validate found something, 2 wrong input.

    Example: kdbench report --results results --profiles board.json --out results/leaderboard.md
    """
    if validate is not None:
        _validate(validate)
        return
    # imported late, so that `kdbench --help` waits for no table library
    from kdbench.report import Outcomes, collect, profiles_of, render
    from kdbench.store import find_stores, write_atomic

    costs = profiles_of(results, profiles or ())
    records = collect(results) if find_stores(results) or not costs else []
    outcomes = Outcomes.below(results)
    if plot is not None:
        from kdbench.report.plots import plot_costs

        plot_costs(costs, records, out=plot, outcomes=outcomes)
        typer.echo(f"wrote {plot}", err=True)
    if plots is not None:
        from kdbench.report.pictures import plot_all

        for path in plot_all(records, costs, outcomes, plots, _kinds(records)):
            typer.echo(f"wrote {path}", err=True)
    names = [name.strip() for name in columns.split(",") if name.strip()] or None
    text = render(records, format.value, costs, outcomes, names)
    if check is not None:
        _check(check, text, _again(results, profiles or (), format, columns, check))
        return
    if out is not None:
        write_atomic(out, text.encode())
        typer.echo(f"wrote {out}", err=True)
    elif plots is None:
        typer.echo(text, nl=False)


def _kinds(records: Iterable[RunRecord]) -> dict[str, ModelKind]:
    """What the teachers of these runs are, by name; only of models that are known here."""
    from kdbench.errors import UnknownName
    from kdbench.model import resolve

    kinds: dict[str, ModelKind] = {}
    for name in sorted({teacher.model.name for record in records for teacher in record.spec.teachers}):
        with suppress(UnknownName):
            kinds[name] = resolve(name).kind
    return kinds


def _again(results: Path, profiles: list[Path] | tuple[()], format: Format, columns: str, out: Path) -> str:
    """The command that writes the file."""
    words = ["kdbench", "report", "--results", str(results)]
    words += [word for path in profiles for word in ("--profiles", str(path))]
    words += ["--format", format.value] if format is not Format.md else []
    words += ["--columns", columns] if columns else []
    return shlex.join([*words, "--out", str(out)])


def _check(path: Path, text: str, again: str) -> None:
    """Leave with 1 and a short difference if the file is not that text. Raises: RecordError if it is not there."""
    from kdbench.errors import RecordError

    if not path.is_file():
        raise RecordError(f"{path} is no file; run `{again}`")
    committed = path.read_bytes().decode("utf-8", "replace")
    if committed == text:
        typer.echo(f"{path} is what the records give", err=True)
        return
    lines = list(
        difflib.unified_diff(committed.splitlines(), text.splitlines(), str(path), "from the records", lineterm="", n=0)
    )
    if not lines:
        lines = [f"{path} differs in the ends of its lines alone"]
    for line in lines[:_MOST_LINES]:
        short = re.sub(r"  +", " ", line)  # cells are padded to the width of their column
        typer.echo(short if len(short) <= _LONGEST_LINE else f"{short[: _LONGEST_LINE - 1]}…")
    if len(lines) > _MOST_LINES:
        typer.echo(f"and {len(lines) - _MOST_LINES} more lines")
    typer.echo(f"run `{again}`")
    raise typer.Exit(1)


def _validate(path: Path) -> None:
    """Print every problem, and leave with 1 if there is one. Raises: RecordError if there is nothing to look at."""
    from kdbench.report.schema import validate

    looked_at, problems = validate(path)
    for problem in problems:
        typer.echo(problem)
    files = f"{looked_at} file{'s' if looked_at != 1 else ''}"
    typer.echo(f"{files}, {len(problems) or 'no'} problem{'s' if len(problems) != 1 else ''}", err=True)
    if problems:
        raise typer.Exit(1)
