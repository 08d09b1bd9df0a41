"""`kdbench cache`: what teachers said, kept on the disk, and how to get the room back."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

cache_app = typer.Typer(
    no_args_is_help=True,
    help="Look at and remove cached teacher outputs.\n\nExample: kdbench cache list",
)


@cache_app.command("list")
def show() -> None:
    """List the teacher outputs that are kept, the least recently used first.

    Example: kdbench cache list
    """
    from kdbench.engine.teacher import entries
    from kdbench.paths import cache_root

    found, where = entries(cache_root()), escape(str(cache_root()))
    table = Table(title=f"teacher outputs in {where}", title_justify="left", header_style="bold", box=box.SIMPLE_HEAD)
    for column in ("key", "teacher", "images", "size", "last used"):
        # a key is there to be copied: it is never broken
        whole = column == "key"
        table.add_column(column, justify="right" if column == "size" else "left", overflow="fold", no_wrap=whole)
    for entry in found:
        used = datetime.fromtimestamp(entry.used).isoformat(sep=" ", timespec="minutes")
        teacher, images = (escape(str(entry.about.get(fact, "unknown"))) for fact in ("teacher", "dataset"))
        table.add_row(entry.key, teacher, images, _size(entry.bytes), used)
    console = Console()
    console.print(table if found else f"no teacher outputs in {where}", highlight=False)
    console.print(
        f"{len(found)} {'entry' if len(found) == 1 else 'entries'}, {_size(sum(entry.bytes for entry in found))}",
        highlight=False,
    )


@cache_app.command("evict")
def evict(
    key: Annotated[list[str] | None, typer.Argument(help="Keys, or their first digits (`kdbench cache list`).")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Remove all teacher outputs.")] = False,
    keep: Annotated[
        str | None, typer.Option(help="Remove the least recently used until this much is left, as 2GB or 500MB.")
    ] = None,
) -> None:
    """Remove teacher outputs. Nothing is lost: a run that needs them computes them again.

    Example: kdbench cache evict --keep 2GB
    """
    from kdbench.engine.teacher import entries
    from kdbench.engine.teacher import evict as remove
    from kdbench.errors import ConfigError, UnknownName
    from kdbench.paths import cache_root

    if sum((bool(key), everything, keep is not None)) != 1:
        raise ConfigError(["cache evict: name keys, or give --all, or --keep SIZE; one of them"])
    found = entries(cache_root())
    if everything:
        doomed = found
    elif keep is not None:
        limit, left, doomed = _bytes(keep), sum(entry.bytes for entry in found), []
        for entry in found:
            if left <= limit:
                break
            doomed.append(entry)
            left -= entry.bytes
    else:
        doomed = []
        for wanted in key or ():
            matching = [entry for entry in found if entry.key.startswith(wanted)]
            if len(matching) != 1:
                raise UnknownName("teacher outputs", wanted, [entry.key for entry in matching or found])
            doomed += [entry for entry in matching if entry not in doomed]
    for entry in doomed:
        remove(entry)
    typer.echo(f"removed {len(doomed)} of {len(found)}, {_size(sum(entry.bytes for entry in doomed))}")


_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "B": 1}


def _bytes(text: str) -> int:
    from kdbench.errors import ConfigError

    number = text.strip().upper()
    for unit, size in _UNITS.items():
        if number.endswith(unit):
            try:
                wanted = int(float(number.removesuffix(unit)) * size)
            except (ValueError, OverflowError):
                break
            if wanted >= 0:
                return wanted
    raise ConfigError([f"--keep '{text}' is no size; write 500MB or 2GB"])


def _size(count: int) -> str:
    return f"{count / 1e9:,.2f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"
