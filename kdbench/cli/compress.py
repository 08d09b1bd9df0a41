"""`kdbench compress`: prune and quantise a trained student."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kdbench.cli.command import without_options
from kdbench.cli.data import DataRoot

if TYPE_CHECKING:
    from kdbench.config import CompressEntry
    from kdbench.types import RunRecord


def compress(
    run: Annotated[str, typer.Argument(help="Six digits of its id or more, or a part or pattern of its title.")],
    results: Annotated[Path, typer.Option(help="Results folder that it is in, with its weights.")],
    prune: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TARGET=SHARE",
            help="What may stay: macs=0.5, params=, bytes= or latency=; several times: step by step, each fine-tuned.",
        ),
    ] = None,
    importance: Annotated[
        str, typer.Option(help="Which channels go first (`kdbench list importances`).")
    ] = "magnitude",
    distil: Annotated[str, typer.Option(help="Method of the fine-tuning (`kdbench list methods`).")] = "kd",
    teacher: Annotated[
        str, typer.Option(help="Who fine-tunes it: unpruned, itself as it was before; teacher, its own teacher.")
    ] = "unpruned",
    epochs: Annotated[int | None, typer.Option(min=1, help="Of the fine-tuning; else as it was trained.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of the fine-tuning; else as it was trained.")] = None,
    quantise: Annotated[
        str | None, typer.Option(metavar="KIND", help="int8 (static), dynamic, or aware: fine-tuned as it will round.")
    ] = None,
    runtime: Annotated[
        str,
        typer.Option(help="Time the run and its stages afterwards; several: onnxruntime,openvino.", show_default=False),
    ] = "",
    data_root: DataRoot = None,
) -> None:
    """Prune a trained student, fine-tune it, and write it in int8: each stage becomes a run with a record of its own.

    What was done before is not done again. `kdbench report --results DIR` says what each step cost and brought,
    `kdbench export` takes one along.

    Exit codes: 0 done, 1 a stage failed, 2 wrong input, 130 interrupted: the same command goes on.

    Example: kdbench compress "resnet8_w16/kd" --results results/mine --prune macs=0.5 --quantise int8
    """
    from kdbench.cli.screen import Screen
    from kdbench.profiling.runtime import Setting, usable
    from kdbench.suite.api import compress_run

    runtimes = [name.strip() for name in runtime.split(",")] if runtime else []
    for name in runtimes:
        usable(Setting(name))  # says what is missing before anything is trained
    train = {"epochs": epochs, "learning_rate": learning_rate}
    entry = _entry(
        prune or [],
        importance,
        distil,
        teacher,
        {key: value for key, value in train.items() if value is not None},
        quantise,
    )
    command = shlex.join(["kdbench", *without_options(sys.argv[1:], ("--results", "--data-root"))])
    try:
        with Screen() as screen:
            first, *stages = compress_run(
                results, run, entry, root=data_root, command=command, listener=screen, progress=screen
            )
    except KeyboardInterrupt:
        typer.echo("interrupted; the same command goes on where it stopped", err=True)
        raise typer.Exit(130) from None
    for record in (first, *stages):
        typer.echo(_line(record, first))
    if runtimes:
        _time(results, [record.run_id for record in (first, *stages) if record.status == "ok"], runtimes, command)
    if any(record.status != "ok" for record in stages):
        raise typer.Exit(1)


def _time(results: Path, run_ids: list[str], runtimes: list[str], command: str) -> None:
    """Measure these runs in turns, and keep that in the results folder."""
    from kdbench.cli.screen import Screen
    from kdbench.report.figures import milliseconds
    from kdbench.store import Store, setting_text
    from kdbench.suite.profile import Measures, profile_results, profiles_name

    store = Store(results)
    measures = Measures(runtimes=tuple(runtimes), precisions=("fp32", "int8"), check=False)
    with Screen() as screen:
        taken = profile_results(store, measures=measures, only=run_ids, command=command, progress=screen)
    path = store.write_profiles(profiles_name(taken), taken)
    for record in taken:
        for latency in record.latencies:
            figure = milliseconds(latency.median_ms, latency.interval_ms)
            typer.echo(f"{record.run_id}  {record.title}: {figure} ms, {setting_text(latency)}")
        for setting, reason in record.failures.items():
            typer.echo(f"{record.run_id}  {record.title}: not timed in {setting}: {reason}", err=True)
    typer.echo(f"wrote {path}", err=True)


def _entry(
    targets: list[str], importance: str, distil: str, teacher: str, train: dict[str, Any], quantise: str | None
) -> CompressEntry:
    """Raises: ConfigError, with every problem."""
    from pydantic import ValidationError

    from kdbench.config import CompressEntry
    from kdbench.errors import ConfigError
    from kdbench.suite.plan import RegistryNames

    problems, pruning = [], []
    for text in targets:
        name, equals, share = text.partition("=")
        try:
            pruning.append({name.strip(): float(share), "importance": importance})
        except ValueError:
            missing = "a share between 0 and 1" if equals else "TARGET=SHARE"
            problems.append(f"--prune is '{text}', and {missing} is wanted, as macs=0.5")
    if problems:
        raise ConfigError(problems)
    raw: dict[str, Any] = {"prune": pruning, "distil": distil, "teacher": teacher, "train": train}
    if quantise is not None:
        raw["quantise"] = "int8" if quantise == "int8" else {"kind": quantise}
    try:
        return CompressEntry.model_validate(raw, context={"names": RegistryNames()})
    except ValidationError as invalid:
        raise ConfigError([_problem(error) for error in invalid.errors()]) from None


def _problem(error: Any) -> str:
    """In the words of the command line."""
    places = [str(place) for place in error["loc"] if not isinstance(place, int)]
    options = {"train": places[-1] if places else "", "prune": "prune", "quantise": "quantise"}
    name = options.get(places[0], places[0]) if places else "prune"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        return f"--prune: there is no target '{places[-1]}'; take macs, params, bytes or latency"
    given = "" if isinstance(error["input"], dict) else f", not {error['input']!r}"
    return f"--{name.replace('_', '-')}: {message[:1].lower()}{message[1:]}{given}" if places else f"{message}"


def _line(record: RunRecord, first: RunRecord) -> str:
    """One run: what it can, and what it costs beside the trained network."""
    title = f"{record.run_id}  {record.spec.title}"
    if record.test_metrics is None or record.profile is None:
        why = record.failure.message if record.failure else record.status
        return f"{title}: {record.status}: {why}"
    cost, whole = record.profile, first.profile or record.profile
    figures = [
        f"{record.test_metrics.accuracy:.1%} of the test images",
        f"{cost.macs / 1e6:.2f} M MACs ({cost.macs / whole.macs:.0%})",
        f"{cost.weight_bytes / 1e6:.3f} MB ({cost.weight_bytes / whole.weight_bytes:.0%})",
    ]
    return f"{title}: {', '.join(figures)}"
