"""The application with its verbs, and what becomes of an error: one message, exit code 2 (3 where no student fits)."""

from __future__ import annotations

import logging
import sys
import warnings
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from kdbench._version import __version__
from kdbench.cli.cache import cache_app
from kdbench.cli.compare import compare
from kdbench.cli.compress import compress
from kdbench.cli.data import data_app
from kdbench.cli.evaluate import evaluate
from kdbench.cli.export import export
from kdbench.cli.export_data import export_data
from kdbench.cli.list import list_app
from kdbench.cli.pick import pick
from kdbench.cli.predict import predict
from kdbench.cli.profile import profile
from kdbench.cli.report import report
from kdbench.cli.run import run
from kdbench.cli.sample import sample
from kdbench.errors import KdbenchError, NoStudentFits

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Which small image classifier, what did distillation buy, and what does it cost on the device: measured.\n\n"
    "Example: kdbench run quickstart",
)
app.command()(run)
app.command()(evaluate)
app.command()(report)
app.command()(compare)
app.command()(compress)
app.command()(profile)
app.command()(pick)
app.command()(export)
app.command()(predict)
data_app.command("sample")(sample)
data_app.command("export")(export_data)
app.add_typer(list_app, name="list")
app.add_typer(data_app, name="data")
app.add_typer(cache_app, name="cache")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"kdbench {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show what is logged, tracebacks of failed runs too.")
    ] = False,
) -> None:
    logging.basicConfig(level=logging.DEBUG if verbose else logging.WARNING, format="%(name)s: %(message)s")
    if verbose:
        for noisy in ("fvcore", "matplotlib", "PIL", "filelock", "urllib3"):
            logging.getLogger(noisy).setLevel(logging.WARNING)


def main() -> None:
    """Run the command line.

    Exit codes: 0 done, 1 some runs failed, 2 wrong input, 3 no student fits, 130 interrupted.
    """
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch")  # meant for developers, not for users
    try:
        app(standalone_mode=True)
    except NoStudentFits as problem:
        _fail(str(problem), code=3)
    except KdbenchError as problem:
        _fail(str(problem))
    except OSError as problem:  # a full disk, a folder that may not be written
        _fail(f"{problem.strerror or problem}: {problem.filename}" if problem.filename else str(problem))


def _fail(message: str, code: int = 2) -> NoReturn:
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    console.print("error:", style="bold red", end=" ")
    console.print(message, markup=False)
    sys.exit(code)
