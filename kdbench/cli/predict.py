"""`kdbench predict`: a trained network's answers for image files."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from kdbench.cli.screen import Screen
    from kdbench.compress.classifier import Classifier, Predictions
    from kdbench.types import LeftOut

_WIDE = 200  # columns: of a table that does not go to a terminal
_NAMED = 20  # skipped files that are named one by one
_ABSTAINED = "abstained"


class Runtime(StrEnum):
    """What runs the network."""

    onnxruntime = "onnxruntime"
    openvino = "openvino"
    torch = "torch"


def predict(
    model: Annotated[
        str,
        typer.Argument(help="An exported folder; or, with --results, a run by its id or title.", metavar="EXPORT|RUN"),
    ],
    images: Annotated[list[Path], typer.Argument(help="Image files, and folders of them.", metavar="IMAGE|FOLDER...")],
    table: Annotated[Path | None, typer.Option("--csv", help="Write all probabilities to this file.")] = None,
    abstain: Annotated[float, typer.Option(help="Below this probability no answer is given; 0 to 1.")] = 0.0,
    top: Annotated[int, typer.Option(min=1, help="Classes shown of each image.")] = 3,
    batch: Annotated[int, typer.Option(min=1, help="Images at once.")] = 32,
    explain: Annotated[
        Path | None, typer.Option(help="Of one image: draw what the answer rests on; a .png or .svg file.")
    ] = None,
    results: Annotated[
        Path | None, typer.Option(help="Results folder of the run; without it an exported folder is meant.")
    ] = None,
    runtime: Annotated[
        Runtime | None, typer.Option(help="What runs it; else onnxruntime where that is possible.", show_default=False)
    ] = None,
) -> None:
    """Say what a trained network makes of image files, prepared just as in training.

    Folders are searched to the bottom. What is no image, or cannot be read, is named and skipped.

    Exit codes: 0 done; 2 wrong input, or no file could be read; 130 interrupted.

    Example: kdbench predict deployed images/ --abstain 0.8 --csv answers.csv
    """
    if not 0 <= abstain <= 1:  # nan, too
        raise typer.BadParameter(f"{abstain:g} is no probability; give a number from 0 to 1", param_hint="--abstain")
    if results is not None and runtime not in (None, Runtime.torch):
        raise typer.BadParameter(
            f"a run is done by torch; `kdbench export` makes what {runtime} takes", param_hint="--runtime"
        )
    for path, option in ((table, "--csv"), (explain, "--explain")):
        if path is not None and (path.is_dir() or not os.access(path.absolute().parent, os.W_OK)):
            raise typer.BadParameter(f"'{path}' cannot be written; name a file in a folder", param_hint=option)

    with _interruptible():
        # imported late, so that `kdbench --help` does not wait for torch
        from kdbench.cli.screen import Screen
        from kdbench.compress.classifier import image_files
        from kdbench.errors import ConfigError, DataError
        from kdbench.report.heat import check_picture
        from kdbench.store import write_atomic
        from kdbench.suite.export import load_export, load_run

        if explain is not None:
            check_picture(explain)
        files, passed = image_files(images)
        if explain is not None and len(files) != 1:
            raise ConfigError([f"--explain draws one image, not {len(files)}; name one file"])
        with Screen() as screen:
            if results is not None:
                classifier = load_run(results, model)
            else:
                classifier = load_export(model, None if runtime is None else runtime.value)
            found = classifier.predict(files, batch, screen)
            skipped = [*passed, *found.skipped]
            _name(skipped)
            if not found.files:
                what = f"none of {len(skipped)} files could be read" if skipped else "there are no files"
                raise DataError(f"{what} at {', '.join(map(str, images))}; name images, or a folder that holds some")
            if explain is not None:
                _draw(classifier, found, batch, explain, screen)
    if table is not None:
        write_atomic(table, _as_csv(found, abstain).encode())
    _show(found, abstain, top)
    silent = int((found.probabilities.max(axis=1) < abstain).sum())
    typer.echo(
        f"{len(found.files)} image{'s' if len(found.files) != 1 else ''} by {classifier.title} ({classifier.runtime})"
        + (f", {silent} {_ABSTAINED} (below {abstain:g})" if abstain else "")
        + (f", {len(skipped)} files skipped" if skipped else ""),
        err=True,
    )
    for written in (table, explain):
        if written is not None:
            typer.echo(f"wrote {written}", err=True)


@contextmanager
def _interruptible() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("interrupted; nothing was written", err=True)
        raise typer.Exit(130) from None


def _name(skipped: Sequence[LeftOut]) -> None:
    for entry in skipped[:_NAMED]:
        typer.echo(f"skipped {entry.path}: {entry.reason}", err=True)
    if len(skipped) > _NAMED:
        typer.echo(f"skipped {len(skipped) - _NAMED} more", err=True)


def _show(found: Predictions, abstain: float, top: int) -> None:
    """A line for each image: its answer, how probable that is, and the next ones."""
    console = Console()
    if not console.is_terminal:  # a file or a pipe has no edge to wrap at
        console = Console(width=_WIDE)
    table = Table()
    table.add_column("file", overflow="fold")
    table.add_column("label")
    table.add_column("probability", justify="right")
    if top > 1 and len(found.labels) > 1:
        table.add_column("next", overflow="fold")
    for path, row in zip(found.files, found.probabilities, strict=True):
        order = row.argsort(kind="stable")[::-1][:top]
        others = [f"{found.labels[index]} {row[index]:.3f}" for index in order[1:]]
        best = float(row[order[0]])
        if best < abstain:
            others = [f"{found.labels[order[0]]} {best:.3f}", *others]
        table.add_row(
            escape(str(path)),
            f"[yellow]{_ABSTAINED}[/]" if best < abstain else escape(found.labels[order[0]]),
            f"{best:.3f}",
            *([escape(", ".join(others))] if len(table.columns) > 3 else []),
        )
    console.print(table, highlight=False)


def _as_csv(found: Predictions, abstain: float) -> str:
    """label: the answer, or that there is none; best: the most probable class in any case."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("file", "label", "best", "probability", *(f"p_{label}" for label in found.labels)))
    for path, row in zip(found.files, found.probabilities, strict=True):
        best = found.labels[int(row.argmax())]
        label = best if row.max() >= abstain else _ABSTAINED
        writer.writerow((str(path), label, best, f"{row.max():.6f}", *(f"{value:.6f}" for value in row)))
    return text.getvalue()


def _draw(classifier: Classifier, found: Predictions, batch: int, out: Path, screen: Screen) -> None:
    from kdbench.compress.explain import occlusion
    from kdbench.data.source import read_image
    from kdbench.report.heat import draw_heat

    row = found.probabilities[0]
    order = row.argsort(kind="stable")[::-1]
    pixels = classifier.preprocessing.pixels(read_image(found.files[0]))
    heat = occlusion(classifier, pixels, int(order[0]), batch, screen)
    draw_heat(
        pixels,
        heat,
        found.files[0].name,
        [(found.labels[index], float(row[index])) for index in order[:5]],
        f"{classifier.title}; a square of a quarter of the side covers each place in turn, in the border's colour",
        out,
    )
