"""`kdbench data export`: a data set with its split, for other tools."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kdbench.cli.data import DataRoot, ImageSize, NameOrFile, Settings

if TYPE_CHECKING:
    from kdbench.data.export import ExportFormat


class Form(StrEnum):
    """How it is written."""

    folders = "folders"
    csv = "csv"
    npz = "npz"


def export_data(
    name: NameOrFile,
    out: Annotated[Path, typer.Option(help="A new or an empty folder.", metavar="DIR")],
    form: Annotated[
        Form, typer.Option("--format", help="Files in folders by side and class; a table of files; decoded arrays.")
    ] = Form.folders,
    image_size: ImageSize = 64,
    copy: Annotated[bool, typer.Option("--copy", help="Copy files; else they are hard links where possible.")] = False,
    settings: Settings = None,
    data_root: DataRoot = None,
) -> None:
    """Write a data set with its split into a folder, with licences, citations and a hash of its content.

    Of a file with several data sets each gets a folder of its own in DIR. Nothing is overwritten.

    Exit codes: 0 written; 2 not; 130 interrupted, with nothing left behind.

    Example: kdbench data export mixed --out mixed-split --set split_seed=1
    """
    from kdbench.cli.data import data_sets, spec_of
    from kdbench.cli.screen import Screen
    from kdbench.data.export import export
    from kdbench.paths import cache_root
    from kdbench.paths import data_root as default_root

    forms: dict[Form, ExportFormat] = {Form.folders: "folders", Form.csv: "csv", Form.npz: "npz"}
    names = data_sets(name)
    for one in names:
        folder = out if len(names) == 1 else out / one
        spec = spec_of(one, image_size, settings)
        try:
            with Screen() as screen:
                done = export(
                    spec, default_root(data_root), cache_root(), folder, forms[form], copy=copy, progress=screen
                )
        except KeyboardInterrupt:
            typer.echo(f"interrupted; nothing is at {folder}", err=True)
            raise typer.Exit(130) from None
        how = ", ".join(f"{count} {what}" for what, count in sorted(done.how.items()))
        sides = ", ".join(f"{side} {count}" for side, count in done.images.items())
        typer.echo(f"{done.folder}: {sum(done.images.values())} images ({sides}); {how}")
