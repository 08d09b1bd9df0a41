"""`kdbench list`: what there is to choose from."""

from __future__ import annotations

from collections.abc import Sequence

import typer
from rich import box
from rich.console import Console
from rich.table import Table

list_app = typer.Typer(no_args_is_help=True, help="List what there is.\n\nExample: kdbench list models")


def _show(title: str, columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    table = Table(title=title, title_justify="left", header_style="bold", box=box.SIMPLE_HEAD)
    for number, column in enumerate(columns):
        table.add_column(column, no_wrap=number == 0, overflow="fold")
    for row in rows:
        table.add_row(*row)
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)  # into a file or a pipe: one line for each entry
    console.print(table)


@list_app.command("models")
def models() -> None:
    """Registered teachers and students. Any other model of timm works as timm/NAME.

    Example: kdbench list models
    """
    from kdbench.model import MODELS

    rows = [(spec.name, spec.kind, ", ".join(spec.roles), spec.architecture, spec.paper, spec.note) for spec in MODELS]
    _show("models", ("name", "kind", "role", "timm name", "paper", "note"), rows)


@list_app.command("methods")
def methods() -> None:
    """Distillation methods with their options and defaults.

    Example: kdbench list methods
    """
    from kdbench.method import METHODS

    rows = []
    for method in METHODS:
        options = ", ".join(f"{name}={field.default}" for name, field in method.Options.model_fields.items())
        rows.append((method.name, method.summary, options or "-", method.paper))
    _show("methods", ("name", "what it does", "options", "paper"), rows)


@list_app.command("datasets")
def datasets() -> None:
    """Data sets, and the unions made of them.

    Example: kdbench list datasets
    """
    from kdbench.data.mixed import UNIONS
    from kdbench.data.source import SOURCES

    rows = [(source.name, source.title, str(len(source.labels)), source.licence) for source in SOURCES]
    rows += [(u.name, f"{u.title}: {' + '.join(u.sources)}", str(len(u.labels)), "of each source") for u in UNIONS]
    _show("datasets", ("name", "what it is", "classes", "licence"), rows)


@list_app.command("suites")
def suites() -> None:
    """Suites inside the package.

    Example: kdbench list suites
    """
    from kdbench.config import shipped_suites
    from kdbench.suite.plan import load_suite

    loaded = [load_suite(name) for name in shipped_suites()]
    _show("suites", ("name", "what it answers"), [(suite.name, suite.description) for suite in loaded])
