"""`kdbench pick`: the student for a device and a budget, and why every other one lost."""

from __future__ import annotations

from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from kdbench.cli.data import DataRoot

if TYPE_CHECKING:
    from kdbench.choices import Budget, Choice, DeviceProfile


def pick(
    results: Annotated[Path, typer.Option(help="Folder with records and profiles, at any depth.")] = Path("results"),
    profiles: Annotated[
        list[Path] | None,
        typer.Option(help="A file or folder of profiles from another machine; may be given several times."),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="What it has to run on (`kdbench list devices`), or a YAML file of that form.")
    ] = None,
    machine: Annotated[
        str | None, typer.Option(help="Fingerprint, or its first digits, of the machine whose latencies count.")
    ] = None,
    max_params: Annotated[str | None, typer.Option(help="Parameters, as 1M.")] = None,
    max_macs: Annotated[str | None, typer.Option(help="Multiply-adds of one image, as 60M.")] = None,
    max_latency_ms: Annotated[str | None, typer.Option(help="Of one image, as 5 or 0.005s.")] = None,
    max_bytes: Annotated[str | None, typer.Option(help="Of the stored weights, as 4MB or 512KiB.")] = None,
    max_memory: Annotated[str | None, typer.Option(help="Of one forward pass, as 100MB.")] = None,
    min_accuracy: Annotated[str | None, typer.Option(help="As 0.95 or 95%.")] = None,
    min_recall: Annotated[str | None, typer.Option(help="Of every class, as 0.9.")] = None,
    max_drop: Annotated[
        str | None, typer.Option(help="Of accuracy, against the best teacher of the data set, as 0.01.")
    ] = None,
    objective: Annotated[
        str,
        typer.Option(help="What the best is best in; of equals the next: accuracy,latency,params,macs,bytes,memory."),
    ] = "accuracy,latency",
    dataset: Annotated[str | None, typer.Option(help="Which one, where the results have several.")] = None,
    runtime: Annotated[str | None, typer.Option(help="What may run it; several: eager,onnxruntime.")] = None,
    teachers: Annotated[bool, typer.Option("--teachers", help="Let teachers be chosen, too.")] = False,
    json: Annotated[bool, typer.Option("--json", help="The whole choice as one JSON object.")] = False,
    export: Annotated[
        Path | None,
        typer.Option(help="A new folder for the chosen network (`kdbench export`), with pick.json and pick.md in it."),
    ] = None,
    data_root: DataRoot = None,
) -> None:
    """Choose a student for a device and a budget, and say why every other one lost.

    Limits are held against the worse end of a 95 % interval; what was not measured does not pass. With --export the
    chosen network is written as well; that needs its weights.

    Exit codes: 0 chosen; 2 wrong input, or not exported; 3 no student fits, and what comes nearest is shown.

    Example: kdbench pick --device raspberry-pi-4 --min-accuracy 0.9 --max-bytes 4MB
    """
    from kdbench.config import load_device
    from kdbench.pick import judge, no_student_fits, render_choice
    from kdbench.report import Outcomes, collect, profiles_of

    budget = _budget(
        {
            "--max-params": ("max_params", max_params),
            "--max-macs": ("max_macs", max_macs),
            "--max-latency-ms": ("max_latency_ms", max_latency_ms),
            "--max-bytes": ("max_bytes", max_bytes),
            "--max-memory": ("max_memory_bytes", max_memory),
            "--min-accuracy": ("min_accuracy", min_accuracy),
            "--min-recall": ("min_recall", min_recall),
            "--max-drop": ("max_drop", max_drop),
        },
        objective,
        runtime,
        teachers,
    )
    target = load_device(device) if device is not None else None
    records = collect(results)
    costs = profiles_of(results, profiles or ())
    _see_gpu(target)
    choice = judge(
        records,
        budget,
        device=target,
        profiles=costs,
        outcomes=Outcomes.below(results),
        dataset=dataset,
        machine=machine,
    )
    if json:
        typer.echo(choice.model_dump_json(indent=1))
    elif Console().is_terminal:
        _show(choice)
    else:
        typer.echo(render_choice(choice), nl=False)
    if choice.chosen is None:
        raise no_student_fits(choice)
    if export is not None:
        _export(choice, results, export, data_root)


def _export(choice: Choice, results: Path, out: Path, data_root: Path | None) -> None:
    """Write the chosen run beside the choice itself. Raises: RecordError, if its weights are not below results."""
    from kdbench.cli.screen import Screen
    from kdbench.errors import RecordError
    from kdbench.pick import render_choice
    from kdbench.store import find_stores, write_atomic
    from kdbench.suite.export import export_run

    run_id = choice.run_id or ""
    holding = [store for store in find_stores(results) if any(path.exists() for path in store.network_paths(run_id))]
    if not holding:
        raise RecordError(
            f"run {run_id} was chosen, but its weights are not below {results}: they are not shared with records; run "
            "its suite here first"
        )
    with Screen() as screen:
        done = export_run(holding[0].root, run_id, out, root=data_root, progress=screen)
    write_atomic(done.folder / "pick.json", (choice.model_dump_json(indent=1) + "\n").encode())
    write_atomic(done.folder / "pick.md", render_choice(choice).encode())
    typer.echo(f"wrote {done.folder}: {done.about.title}, with pick.json and pick.md", err=True)


def _budget(asked: dict[str, tuple[str, str | None]], objective: str, runtime: str | None, teachers: bool) -> Budget:
    """Raises: ConfigError with every problem, each with its option."""
    from kdbench.choices import KINDS, OPTIONS, Budget, ObjectiveKey
    from kdbench.errors import ConfigError, UnknownName
    from kdbench.units import parse_quantity

    kinds = {field: KINDS[key] for key, field in OPTIONS.items()}
    problems, facts = [], dict[str, Any]()
    for option, (field, text) in asked.items():
        try:
            facts[field] = None if text is None else parse_quantity(text, kinds[field])
        except ValueError as problem:
            problems.append(f"{option} {problem}")
    keys = [part.strip() for part in objective.split(",")]
    for key in dict.fromkeys(keys):
        if key not in get_args(ObjectiveKey):
            problems.append(f"--objective: {UnknownName('objective', key, get_args(ObjectiveKey))}")
        elif keys.count(key) > 1:
            problems.append(f"--objective names '{key}' twice; keep one")
    runtimes = [part.strip() for part in runtime.split(",")] if runtime is not None else []
    if not all(runtimes):
        problems.append(f"--runtime '{runtime}' has an empty name; write eager,onnxruntime (`kdbench list runtimes`)")
    if problems:
        raise ConfigError(problems)
    return Budget(**facts, objective=tuple(keys), runtimes=tuple(dict.fromkeys(runtimes)), teachers=teachers)


def _see_gpu(device: DeviceProfile | None) -> None:
    """A machine's fingerprint has its GPU in it, and only torch sees that; no other device needs torch here."""
    if device is not None and device.this_machine and util.find_spec("torch") is not None:
        import torch  # noqa: F401


def _show(choice: Choice) -> None:
    from kdbench.pick.page import Text, blocks

    console = Console()
    for block in blocks(choice):
        if isinstance(block, Text):
            style = "bold" if block.heading else None
            console.print(block.text, style=style, markup=False, highlight=False)
            continue
        table = Table(header_style="bold", box=box.SIMPLE_HEAD)
        for place, heading in enumerate(block.headings):
            table.add_column(escape(heading), justify="right" if place in block.right else "left", overflow="fold")
        for row in block.body:
            table.add_row(*map(escape, row))
        console.print(table)
