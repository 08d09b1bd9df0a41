"""`kdbench report`: tables and plots from records and profiles."""

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
    results: Annotated[Path, typer.Option(help="Folder with records or profiles, at any depth.")] = Path("results"),
    profiles: Annotated[
        list[Path] | None,
        typer.Option(help="A file or folder of profiles from another machine; may be given several times."),
    ] = None,
    format: Annotated[Format, typer.Option(help="Markdown for people; CSV and JSON carry raw numbers.")] = Format.md,
    out: Annotated[Path | None, typer.Option(help="Write to this file, in one step, and not to the terminal.")] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw accuracy (without records: MACs) against latency; .svg or .png.")
    ] = None,
) -> None:
    """Make the leaderboard from what runs left in their folders, and from nothing else; without runs, what models cost.

    Profiles join the rows that they belong to, whichever machine they come from.

    Example: kdbench report --results results --profiles board.json --out results/leaderboard.md
    """
    # imported late, so that `kdbench --help` waits for no table library
    from kdbench.errors import RecordError
    from kdbench.report import Outcomes, collect, collect_profiles, render
    from kdbench.store import find_profiles, find_stores, write_atomic

    costs = find_profiles(results)
    for path in profiles or ():
        found = collect_profiles(path)
        if not found:
            raise RecordError(f"{path} holds no profiles; `kdbench profile MODEL --out FILE` writes a file of them")
        costs += found
    records = collect(results) if find_stores(results) or not costs else []
    if plot is not None:
        from kdbench.report.plots import plot_costs

        plot_costs(costs, records, out=plot)
        typer.echo(f"wrote {plot}", err=True)
    text = render(records, format.value, costs, Outcomes.below(results))
    if out is None:
        typer.echo(text, nl=False)
        return
    write_atomic(out, text.encode())
    typer.echo(f"wrote {out}", err=True)
