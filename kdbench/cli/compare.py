"""`kdbench compare`: two runs, or two leaderboards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def compare(
    before: Annotated[
        str, typer.Argument(help="A run: the beginning of its id, or part of its title; or a folder, or a .json file.")
    ],
    after: Annotated[str, typer.Argument(help="What it is compared with, of the same kind.")],
    results: Annotated[Path, typer.Option(help="Folder with the records of the runs, at any depth.")] = Path("results"),
    as_json: Annotated[bool, typer.Option("--json", help="Raw numbers instead of a page.")] = False,
) -> None:
    """Say what changed in accuracy, recall and costs, whether it is more than chance, and which images were lost.

    Two runs of one results folder, all seeds of two recipes, or two leaderboards: folders with records, or files that
    `kdbench report --format json` wrote.

    Exit codes: 0 done, 2 wrong input.

    Example: kdbench compare "resnet8_w16/ce" "resnet8_w16/kd < resnet10t" --results results/bccd-small
    """
    # imported late, so that `kdbench --help` waits for no table library
    from kdbench.report.compare import compare as compared
    from kdbench.report.compare import comparison_json, render_comparison

    found = compared(before, after, results)
    if as_json:
        typer.echo(json.dumps(comparison_json(found), indent=1, ensure_ascii=False, allow_nan=False))
    else:
        typer.echo(render_comparison(found), nl=False)
