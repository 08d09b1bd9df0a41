"""`kdbench report`: tables from records."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Format(StrEnum):
    """What a report is written as."""

    md = "md"
    csv = "csv"
    json = "json"


def report(
    results: Annotated[Path, typer.Option(help="Folder with records, at any depth.")] = Path("results"),
    format: Annotated[Format, typer.Option(help="Markdown for people; CSV and JSON carry raw numbers.")] = Format.md,
    out: Annotated[Path | None, typer.Option(help="Write to this file, in one step, and not to the terminal.")] = None,
) -> None:
    """Make the leaderboard from the records, and from nothing else.

    Example: kdbench report --results results --out results/leaderboard.md
    """
    # imported late, so that `kdbench --help` waits for no table library
    from kdbench.report import collect, render
    from kdbench.store import write_atomic

    text = render(collect(results), format.value)
    if out is None:
        typer.echo(text, nl=False)
        return
    write_atomic(out, text.encode())
    typer.echo(f"wrote {out}", err=True)
