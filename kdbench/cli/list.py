"""`kdbench list`: what there is to choose from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, get_args

import typer
from rich import box
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from kdbench.method import Method

list_app = typer.Typer(no_args_is_help=True, help="List what there is.\n\nExample: kdbench list models")


def _show(title: str, columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    table = Table(title=title, title_justify="left", header_style="bold", box=box.SIMPLE_HEAD)
    for number, column in enumerate(columns):
        table.add_column(column, no_wrap=number == 0, overflow="fold")
    for row in rows:
        table.add_row(*row)
    console = Console()
    if not console.is_terminal:  # into a file or a pipe: one line for each entry, however long
        endless = Console(width=10_000)
        console = Console(width=endless.measure(table).maximum)
    console.print(table)


@list_app.command("models")
def models() -> None:
    """Registered teachers and students. Any other model of timm works as timm/NAME.

    Example: kdbench list models
    """
    from kdbench.model import MODELS

    rows = [(spec.name, spec.kind, ", ".join(spec.roles), spec.architecture, spec.paper, spec.note) for spec in MODELS]
    _show("models", ("name", "kind", "role", "timm name", "paper", "note"), rows)


@list_app.command("runtimes")
def runtimes() -> None:
    """What can run a trained network, and whether it can here.

    Example: kdbench list runtimes
    """
    from kdbench.profiling.runtime import RUNTIMES

    rows = []
    for runtime in RUNTIMES:
        here = {device: runtime.available(device) for device in runtime.devices}
        state = "; ".join(f"{device}: {'yes' if found else found.reason}" for device, found in here.items())
        rows.append((runtime.name, ", ".join(runtime.precisions), state))
    _show("runtimes", ("name", "precisions", "runs here"), rows)


@list_app.command("methods")
def methods() -> None:
    """Distillation methods by family: what each one needs and does, its options and their defaults.

    Example: kdbench list methods
    """
    from kdbench.method import METHODS, Family

    order = get_args(Family)
    rows = []
    for method in sorted(METHODS, key=lambda method: (order.index(method.family), method.name)):
        options = ", ".join(f"{name}={_short(field.default)}" for name, field in method.Options.model_fields.items())
        rows.append((method.name, method.family, method_needs(method), method.summary, options or "-", method.paper))
    _show("methods", ("name", "family", "needs", "what it does", "options", "paper"), rows)


def method_needs(method: type[Method]) -> str:
    """What a run of a method has to have: the outputs it reads, labels where they cannot be left out, teachers."""
    reads = ", ".join(method.needs)
    if method.teacher_needs is not None:
        reads += f" (teacher: {', '.join(method.teacher_needs)})"
    labels = ""
    if method.uses_labels or method.teachers == "none":  # without a teacher nothing else is there to learn from
        labels = "labels"
    elif not method.trains_classifier:
        labels = "labels or kd_weight"
    teachers = {"none": "none", "one": "one", "many": "2+"}[method.teachers]
    return "; ".join(filter(None, (reads, labels, f"teachers: {teachers}")))


def _short(default: Any) -> Any:
    """A default as tables show it: of a fraction such as 20 / 240 three digits."""
    return float(f"{default:.3g}") if isinstance(default, float) else default


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


@list_app.command("protocols")
def protocols() -> None:
    """Ways to split a data set into training, validation and test.

    Example: kdbench list protocols
    """
    from kdbench.data.protocol import PROTOCOLS, usual_protocol
    from kdbench.data.source import SOURCES

    rows = []
    for protocol in PROTOCOLS:
        own = [source.name for source in SOURCES if usual_protocol(source.name) == protocol.name]
        usual = f"usual for {', '.join(own)}" if own else ""
        fits = ", ".join(protocol.datasets) or "all"
        rows.append(
            (protocol.label, str(protocol.folds), fits, "yes" if protocol.leak else "no", protocol.title, usual)
        )
    _show("protocols", ("name", "folds", "data sets", "leaks", "what it does", ""), rows)


@list_app.command("corruptions")
def corruptions() -> None:
    """Ways in which test images are made worse, with their strength at levels 1 to 5.

    Example: kdbench list corruptions
    """
    from kdbench.data.corruption import CORRUPTIONS

    rows = [
        (one.name, one.summary, ", ".join(f"{strength:.3g}" for strength in one.strengths), one.unit, one.source)
        for one in CORRUPTIONS
    ]
    _show("corruptions", ("name", "what it does", "levels 1 to 5", "strength", "from"), rows)


@list_app.command("importances")
def importances() -> None:
    """How pruning tells which channels leave first.

    Example: kdbench list importances
    """
    from kdbench.compress.importance import IMPORTANCES

    rows = [(one.name, "images" if one.needs_data else "weights", one.summary, one.paper) for one in IMPORTANCES]
    _show("importances", ("name", "reads", "goes by", "paper"), rows)


@list_app.command("suites")
def suites() -> None:
    """Suites inside the package.

    Example: kdbench list suites
    """
    from kdbench.config import shipped_suites
    from kdbench.suite.plan import load_suite

    loaded = [load_suite(name) for name in shipped_suites()]
    _show("suites", ("name", "what it answers"), [(suite.name, suite.description) for suite in loaded])


@list_app.command("devices")
def devices() -> None:
    """Devices that a student can be picked for, their limits and where those are from.

    Example: kdbench list devices
    """
    from kdbench.choices import KINDS
    from kdbench.config import load_device, shipped_devices
    from kdbench.units import quantity_text

    rows = []
    for device in map(load_device, shipped_devices()):
        stated = {key: found for key in KINDS if (found := getattr(device.limits, key, None)) is not None}
        limits = ", ".join(f"{key} {quantity_text(found.value, KINDS[key])}" for key, found in stated.items())
        sources = "; ".join(
            f"{key}: {'rule of thumb, ' if found.rule_of_thumb else ''}{found.source}" for key, found in stated.items()
        )
        runtimes = "any" if device.runtimes is None else ", ".join(device.runtimes) or "none"
        rows.append((device.name, device.title, limits or "none", runtimes, sources, device.note))
    _show("devices", ("name", "what it is", "limits", "runtimes", "from", "note"), rows)
