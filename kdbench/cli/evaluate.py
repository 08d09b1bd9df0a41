"""`kdbench evaluate`: trained models on corrupted test images and on further data sets."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from kdbench.cli.command import without_options

if TYPE_CHECKING:
    from kdbench.types import EvaluationRecord

_WIDE = 200  # columns: of a table that does not go to a terminal
_PATHS = ("--results", "--data-root", "--sources")
_MARK = "–"


def evaluate(
    results: Annotated[Path, typer.Option(help="Results folder of one suite, with the weights of its runs.")],
    on: Annotated[
        list[str] | None,
        typer.Option(help="A further data set, all of its images; several: --on A --on B (`kdbench list datasets`)."),
    ] = None,
    corruptions: Annotated[
        str,
        typer.Option(help="Of the test images; several: jpeg,stain_shift; or all (`kdbench list corruptions`)."),
    ] = "",
    levels: Annotated[str, typer.Option(help="Of the corruptions, the mildest first: 1-5, or 1,3,5.")] = "1-5",
    only: Annotated[
        str | None, typer.Option(help="Part of the titles of the runs wanted, or a pattern with * and ?.")
    ] = None,
    sources: Annotated[
        Path | None, typer.Option(help="YAML file that declares data sets of your own, as a suite does.")
    ] = None,
    data_root: Annotated[
        Path | None, typer.Option(help="Folder of the data sets; else KDBENCH_DATA, else the user's data folder.")
    ] = None,
) -> None:
    """Try the trained models of a results folder on corrupted test images and on further data sets.

    What is there already is kept: the same command goes on after an interrupt, and another one adds to it.

    Exit codes: 0 done, 1 some of it failed, 2 wrong input, 130 interrupted.

    Example: kdbench evaluate --results results/quickstart --corruptions all --levels 1,3,5
    """
    if not on and not any(part.strip() for part in corruptions.split(",")):
        raise typer.BadParameter("say what to try: --on NAME, --corruptions NAME,... or both", param_hint="--on")
    numbers = _levels(levels)
    # imported late, so that `kdbench --help` does not wait for torch
    from kdbench.cli.screen import Screen
    from kdbench.config import parse_sources, read_sources
    from kdbench.data.corruption import CORRUPTIONS
    from kdbench.store import Store
    from kdbench.suite.evaluate import evaluate_results
    from kdbench.suite.plan import RegistryNames
    from kdbench.types import DatasetSpec, EvaluateSpec

    if sources is not None:
        parse_sources(read_sources(str(sources)), str(sources), RegistryNames(sources.parent))
    asked = EvaluateSpec(
        on=tuple(DatasetSpec(name=name) for name in on or ()),
        corruptions=tuple(part.strip() for part in corruptions.split(",") if part.strip()),
        levels=numbers,
    )
    try:
        with Screen() as screen:
            found = evaluate_results(
                results,
                asked,
                root=data_root,
                only=only,
                command=shlex.join(["kdbench", *without_options(sys.argv[1:], _PATHS)]),
                made=screen.evaluated,
                noted=screen.noted,
                progress=screen,
            )
    except KeyboardInterrupt:
        typer.echo("interrupted; nothing is lost: the same command goes on where it stopped", err=True)
        raise typer.Exit(130) from None
    accuracies = {
        record.run_id: record.test_metrics.accuracy for record in Store(results).records() if record.test_metrics
    }
    names = CORRUPTIONS.names() if "all" in asked.corruptions else asked.corruptions
    _show(found, names, numbers, accuracies)
    if failed := [one for one in found if one.failure is not None]:
        typer.echo(f"{len(failed)} of {len(found)} evaluations failed; the same command tries them again", err=True)
        raise typer.Exit(1)


def _levels(text: str) -> tuple[int, ...]:
    """Numbers and ranges of them: 1-5, or 1,3,5."""
    found: set[int] = set()
    try:
        for part in text.split(","):
            low, dash, high = part.partition("-")
            found.update(range(int(low), int(high if dash else low) + 1))
    except ValueError:
        found = set()
    if not found or min(found) < 1 or max(found) > 5:
        raise typer.BadParameter(
            f"'{text}' is no list of levels from 1 to 5; write 1-5 or 1,3,5", param_hint="--levels"
        )
    return tuple(sorted(found))


def _show(
    found: Sequence[EvaluationRecord], corruptions: Sequence[str], levels: Sequence[int], clean: Mapping[str, float]
) -> None:
    """Accuracy in percent: a line for each run, a column for each corruption and each further data set.

    Args:
        corruptions, levels: that were asked for; a run that lacks some of the levels has no mean.
        clean: accuracy on the clean test images, by run.
    """
    console = Console()
    if not console.is_terminal:  # a file or a pipe has no edge to wrap at
        console = Console(width=_WIDE)
    runs: dict[str, dict[str, str]] = {}
    columns: dict[str, None] = {"clean": None}
    for one in found:
        row = runs.setdefault(one.run_id, {"": one.title, "clean": _percent(clean[one.run_id])})
        if one.side == "test":
            by_name: dict[str, list[float]] = {}
            for figure in one.corrupted:
                if figure.level in levels and figure.corruption in corruptions:
                    by_name.setdefault(figure.corruption, []).append(figure.accuracy)
            whole = {name: values for name, values in by_name.items() if len(values) == len(levels)}
            row |= {name: _percent(sum(values) / len(values)) for name, values in whole.items()}
            columns |= dict.fromkeys(by_name)
        else:
            failed = one.failure is not None or one.metrics is None
            row[f"on {one.on.name}"] = _MARK if failed or one.metrics is None else _percent(one.metrics.accuracy)
            columns[f"on {one.on.name}"] = None
    table = Table(title="accuracy, %", title_justify="left")
    table.add_column("run", overflow="fold")
    for name in columns:
        table.add_column(name, justify="right")
    for row in runs.values():
        table.add_row(escape(row[""]), *(row.get(name, _MARK) for name in columns))
    console.print(table)

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    if any(one.side == "test" for one in found):
        say(f"corruptions: of the run's own test images, mean over the levels {', '.join(map(str, levels))}")
    if any(one.side == "all" for one in found):
        say("on a further data set: all of its images whose class the model knows")
    for text in dict.fromkeys(_remarks(found)):
        say(text)


def _remarks(found: Sequence[EvaluationRecord]) -> Iterator[str]:
    for one in found:
        what = "its corrupted test images" if one.side == "test" else one.on.name
        if one.failure is not None:
            hint = (
                "; a data set of your own is declared with --sources FILE" if one.failure.kind == "UnknownName" else ""
            )
            yield f"failed: {one.title} on {what}: {one.failure.message}{hint}"
        elif one.side == "all" and one.data is not None:
            for entry in one.data.left_out:
                if entry.path.startswith(f"{one.on.name}/") and entry.reason.startswith("the model has no class"):
                    yield f"left out of {one.on.name}: {entry.count} images, {entry.reason}"
            if one.data.leak:
                yield f"note: {one.title} on {what}: {one.data.leak}"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}"
