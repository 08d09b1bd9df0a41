"""`kdbench data`: what a data set is and what of it is on this disk."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

data_app = typer.Typer(no_args_is_help=True, help="Look at data sets.\n\nExample: kdbench data show mixed")


@data_app.callback()
def _group() -> None:
    """Look at data sets."""


@data_app.command("show")
def show(
    name: Annotated[str, typer.Argument(help="A data set (`kdbench list datasets`).")],
    data_root: Annotated[
        Path | None, typer.Option(help="Folder of the data sets; else KDBENCH_DATA, else the user's data folder.")
    ] = None,
    image_size: Annotated[int, typer.Option(min=16, max=1024, help="Pixels to decode to.")] = 64,
) -> None:
    """Show where a data set comes from, its licence, and, if it is on this disk, its images by class and split.

    Example: kdbench data show mixed --data-root ~/datasets
    """
    from kdbench.cli.screen import Screen
    from kdbench.data.dataset import labels_of, open_dataset
    from kdbench.data.mixed import UNIONS
    from kdbench.data.source import SOURCES
    from kdbench.errors import MissingData
    from kdbench.paths import cache_root
    from kdbench.paths import data_root as default_root
    from kdbench.types import DatasetSpec

    labels_of(name)
    out = Console(soft_wrap=True, highlight=False)
    union = UNIONS.get(name) if name in UNIONS else None
    if union:
        out.print(f"[bold]{union.name}[/]: {union.title}")
    for source in [SOURCES.get(part) for part in (union.sources if union else (name,))]:
        out.print(f"[bold]{source.name}[/]: {source.title}")
        lines = {"from": source.url, "licence": source.licence, "cite": source.citation, "layout": source.layout}
        for key, text in lines.items():
            if text:
                out.print(f"  {key}: {text}", markup=False)
    root = default_root(data_root)
    try:
        with Screen() as screen:
            data = open_dataset(DatasetSpec(name=name, image_size=image_size), root, cache_root(), screen)
    except MissingData as problem:
        out.print(f"not on this disk: {problem}", markup=False)
        raise
    card = data.card
    table = Table(title=f"images ({', '.join(f'{key} {count}' for key, count in card.sources.items())})",
                  title_justify="left", header_style="bold")  # fmt: skip
    table.add_column("class")
    for side in card.splits:
        table.add_column(side, justify="right")
    for label in card.classes:
        table.add_row(label, *(str(counts.get(label, 0)) for counts in card.splits.values()))
    table.add_section()
    table.add_row("all", *(str(sum(counts.values())) for counts in card.splits.values()))
    out.print(table)
    if card.duplicates:
        out.print(f"{card.duplicates} images share their bytes with another; each group is kept on one side")
    for entry in card.left_out:
        out.print(f"left out: {entry.path} ({entry.count}): {entry.reason}", markup=False)
    for caveat in card.caveats:
        out.print(f"note: {caveat}", markup=False)
