"""`kdbench run`: a suite from start to leaderboard."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from kdbench.cli.command import without_options

LEADERBOARD = "leaderboard.md"


def run(
    suite: Annotated[str, typer.Argument(help="A shipped suite (`kdbench list suites`) or a YAML file.")],
    data_root: Annotated[
        Path | None, typer.Option(help="Folder of the data sets; else KDBENCH_DATA, else the user's data folder.")
    ] = None,
    results: Annotated[Path | None, typer.Option(help="Results folder; else results/<suite>.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Seeds 0 to N-1 instead of the suite's own.")] = None,
    only: Annotated[
        str | None, typer.Option(help="Part of the titles of the runs wanted, or a pattern with * and ?.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the runs and do nothing.")] = False,
) -> None:
    """Run a suite: teachers, baselines, distilled students; then print and write the leaderboard.

    Finished runs are kept: the same command goes on after an interrupt, and adds what a changed suite adds.

    Example: kdbench run quickstart --seeds 3
    """
    # imported late, so that `kdbench --help` does not wait for torch
    from kdbench.cli.screen import Screen
    from kdbench.report import Outcomes, collect, collect_profiles, render
    from kdbench.store import Store, write_atomic
    from kdbench.suite.api import plan_suite, run_suite
    from kdbench.suite.executors.local import pending_runs
    from kdbench.suite.plan import load_suite

    loaded = load_suite(suite)
    folder = results if results is not None else Path("results") / loaded.name
    numbers = None if seeds is None else range(seeds)
    if dry_run:
        with Screen() as screen:
            plan = plan_suite(loaded, root=data_root, seeds=numbers, only=only, missing_ok=True, progress=screen)
        pending = set(pending_runs(plan, Store(folder)))
        for spec in plan.runs:
            state = ("to do" if spec in pending else "done ") if spec.dataset.content else "no data"
            typer.echo(f"{spec.run_id if spec.dataset.content else '-' * 16}  {state}  {spec.title}")
        return
    command = shlex.join(["kdbench", *_without_paths(sys.argv[1:], suite)])
    try:
        with Screen() as screen:
            records = run_suite(
                loaded,
                folder,
                root=data_root,
                seeds=numbers,
                only=only,
                command=command,
                listener=screen,
                progress=screen,
            )
    except KeyboardInterrupt:
        typer.echo("interrupted; nothing is lost: the same command goes on where it stopped", err=True)
        raise typer.Exit(130) from None
    # of the whole folder: a part of the suite must not hide what was measured before
    text = render(collect(folder), "md", collect_profiles(folder), Outcomes.below(folder))
    write_atomic(folder / LEADERBOARD, text.encode())
    typer.echo(text, nl=False)
    typer.echo(f"wrote {folder / LEADERBOARD}", err=True)
    if any(record.status == "failed" for record in records):
        typer.echo("some runs failed; the same command tries them again", err=True)
        raise typer.Exit(1)


def _without_paths(arguments: list[str], suite: str) -> list[str]:
    """The command as a record may show it; of the suite's file the name alone."""
    kept = without_options(arguments, ("--data-root", "--results"))
    return [Path(argument).name if argument == suite else argument for argument in kept]
