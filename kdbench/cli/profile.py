"""`kdbench profile`: what a model costs, on this machine."""

from __future__ import annotations

import json as to_json
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from kdbench.cli.screen import Screen
    from kdbench.suite.profile import Measures
    from kdbench.types import Device, Latency, ProfileRecord, RunPrecision

_WIDE = 200  # columns: of a table that does not go to a terminal
_PATHS = ("--results", "--weights", "--out", "--plot")


def profile(
    model: Annotated[
        list[str] | None, typer.Argument(help="Registered models, or any of timm's.", show_default=False)
    ] = None,
    results: Annotated[
        Path | None, typer.Option(help="Profile every trained student of this results folder, and keep it there.")
    ] = None,
    only: Annotated[
        str | None, typer.Option(help="With --results: part of the titles of the runs wanted, or a pattern.")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="Weight file of the one model that is named.")] = None,
    image_size: Annotated[int, typer.Option(min=16, max=1024, help="Pixels, both sides.")] = 64,
    classes: Annotated[int, typer.Option(min=2, help="Classes of the head.")] = 5,
    batch_size: Annotated[str, typer.Option(help="Images at once; several: 1,8,32.")] = "1",
    threads: Annotated[str, typer.Option(help="Processor threads; several: 1,2.")] = "1",
    runtime: Annotated[
        str, typer.Option(help="What runs it; several: eager,onnxruntime (`kdbench list runtimes`).")
    ] = "eager",
    precision: Annotated[
        str, typer.Option(help="Of the arithmetic; several: fp32,bf16,int8 (of quantised runs).")
    ] = "fp32",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    rounds: Annotated[int, typer.Option(min=1, help="Turns that each model gets.")] = 40,
    samples: Annotated[int, typer.Option(min=5, help="Passes wanted in all rounds; p99 needs 500.")] = 200,
    layers: Annotated[bool, typer.Option("--layers", help="Show what every layer and operator costs.")] = False,
    counts_only: Annotated[bool, typer.Option("--counts-only", help="Time nothing.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object; a list for several models.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Write the JSON to this file, for `kdbench report` here or elsewhere.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw costs against latency: an .svg or .png file.")] = None,
) -> None:
    """Count parameters, multiply-adds and memory of models, and time them on this machine.

    Each model runs in a process of its own, and they take turns, so that their order survives a noisy machine.
    To rank on another device: profile there with --out, copy the file back, `kdbench report --profiles FILE`.

    Example: kdbench profile mobilenetv3_small_050 vit_micro --runtime eager,onnxruntime --batch-size 1,8
    """
    if bool(model) == (results is not None):
        raise typer.BadParameter("name models, or give --results DIR: one of the two", param_hint="MODEL")
    if weights is not None and (model is None or len(model) != 1):
        raise typer.BadParameter("goes with exactly one model", param_hint="--weights")
    if only is not None and results is None:
        raise typer.BadParameter("goes with --results", param_hint="--only")
    numbers = [_numbers(batch_size, "--batch-size"), _numbers(threads, "--threads")]
    precisions = _choices(precision, "--precision", ("fp32", "bf16", "int8"))
    _choices(device, "--device", ("cpu", "cuda"))
    # before minutes of measuring, and not after them
    if plot is not None:
        from kdbench.report.plots import SUFFIXES

        if plot.suffix not in SUFFIXES:
            raise typer.BadParameter(f"'{plot}' ends in neither {' nor '.join(SUFFIXES)}", param_hint="--plot")
        if counts_only:
            raise typer.BadParameter("needs latencies: leave --counts-only out", param_hint="--plot")
    for path, option in ((out, "--out"), (plot, "--plot")):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir() or not os.access(path.parent, os.W_OK):
                raise typer.BadParameter(f"'{path}' cannot be written; name a file", param_hint=option)

    found: list[ProfileRecord] = []
    with _interruptible():
        if not counts_only:
            from kdbench.profiling.process import start_server

            start_server()  # it imports torch while this process does so too

        from kdbench.cli.screen import Screen
        from kdbench.profiling.session import Sampling
        from kdbench.store import write_atomic
        from kdbench.suite.profile import Measures
        from kdbench.suite.profile import profile as profile_models
        from kdbench.types import ModelChoice

        measures = Measures(
            runtimes=tuple(_parts(runtime)),
            precisions=cast("tuple[RunPrecision, ...]", precisions),
            batch_sizes=numbers[0],
            threads=numbers[1],
            device=cast("Device", device),
            sampling=Sampling(rounds=rounds, samples=samples),
            counts_only=counts_only,
            layers=layers,
        )
        command = shlex.join(["kdbench", *_without_folders(sys.argv[1:])])
        with Screen() as screen:
            if results is None:
                choices = [
                    ModelChoice(name=name, pretrained=str(weights) if weights else False) for name in model or ()
                ]
                found = profile_models(
                    choices,
                    image_size=image_size,
                    num_classes=classes,
                    measures=measures,
                    command=command,
                    progress=screen,
                )
            else:
                found = _of_results(results, measures, only, command, screen)
    plain = [record.model_dump(mode="json") for record in found]
    text = to_json.dumps(plain[0] if len(plain) == 1 else plain, indent=1) + "\n"
    if json:
        typer.echo(text, nl=False)
    else:
        _show(found)
    if out is not None:
        write_atomic(out, text.encode())
        typer.echo(f"wrote {out}", err=True)
    if plot is not None:
        from kdbench.report.plots import plot_costs

        plot_costs(found, out=plot)
        typer.echo(f"wrote {plot}", err=True)


def _of_results(
    results: Path, measures: Measures, only: str | None, command: str, screen: Screen
) -> list[ProfileRecord]:
    """The profiles of every results folder at or below that one, each written as soon as it is there."""
    from kdbench.errors import ConfigError, RecordError
    from kdbench.store import Store, find_stores
    from kdbench.suite.profile import profile_results, profiles_name

    found: list[ProfileRecord] = []
    without: list[RecordError | ConfigError] = []
    for store in find_stores(results) or [Store(results)]:
        try:
            taken = profile_results(store, measures=measures, only=only, command=command, progress=screen)
        except (RecordError, ConfigError) as problem:
            without.append(problem)
            continue
        path = store.write_profiles(profiles_name(taken), taken)
        screen.noted(f"wrote {path}")
        found += taken
    if not found:
        raise without[0]
    for reason in without:
        screen.noted(f"left out: {reason}")
    return found


# ---------------------------------------------------------------- what was asked for


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _numbers(text: str, option: str) -> tuple[int, ...]:
    try:
        found = tuple(dict.fromkeys(int(part) for part in _parts(text)))
    except ValueError:
        found = ()
    if not found or min(found) < 1:
        raise typer.BadParameter(f"'{text}' is no list of whole numbers from 1 up; write 1,8,32", param_hint=option)
    return found


def _choices(text: str, option: str, known: Sequence[str]) -> tuple[str, ...]:
    found = tuple(dict.fromkeys(_parts(text)))
    if not found or set(found) - set(known):
        raise typer.BadParameter(f"'{text}' is not of {', '.join(known)}", param_hint=option)
    return found


def _without_folders(arguments: Sequence[str]) -> Iterator[str]:
    """The command as a record may show it: folders of this machine are nobody's business, and change no figure."""
    option = ""
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if option or (equals and name in _PATHS):
            option, value = (option, argument) if option else (name, value)
            if option == "--weights":
                yield from (option, Path(value).name)
            elif option == "--results":
                yield from (option, "DIR")
            option = ""
        elif argument in _PATHS:
            option = argument
        else:
            yield argument


@contextmanager
def _interruptible() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("interrupted; what is not measured to its end is not kept", err=True)
        raise typer.Exit(130) from None


# ---------------------------------------------------------------- tables


def _show(records: Sequence[ProfileRecord]) -> None:
    console = Console()
    if not console.is_terminal:  # a file or a pipe has no edge to wrap at
        console = Console(width=_WIDE)
    console.print(_counts(records))
    if any(record.latencies for record in records):
        console.print(_latencies(records))
    for record in records:
        for setting, reason in record.failures.items():
            text = f"no figure for {_name(record)}, {setting}: {reason}"
            console.print(text, style="yellow", highlight=False, markup=False, soft_wrap=True)
    _say(console, records)
    for record in records:
        if record.layers:
            console.print(_operators(record), _layers(record))


def _counts(records: Sequence[ProfileRecord]) -> Table:
    first = records[0]
    sizes = {(record.image_size, record.num_classes) for record in records}
    what = f"one image of {first.image_size} x {first.image_size} pixels, {first.num_classes} classes"
    table = _table(f"Counts: {what if len(sizes) == 1 else 'one image'}", "model")
    for title in ("params", "trainable", "MACs", "FLOPs", "activations", "activation memory", "weights"):
        table.add_column(title, justify="right")
    for record in records:
        table.add_row(
            _name(record), f"{record.params:,}", _count(record.trainable_params), f"{record.macs:,}",
            f"{record.flops:,}", _count(record.activations), _bytes(record.activation_bytes),
            _bytes(record.weight_bytes),
        )  # fmt: skip
    return table


def _latencies(records: Sequence[ProfileRecord]) -> Table:
    table = _table("Latency: one forward pass of a batch", "model", "runtime", "precision")
    for title in ("batch", "threads", "median (ms)", "95 % interval", "IQR", "p90", "images/s", "load (ms)",
                  "first call (ms)", "memory", "passes"):  # fmt: skip
        table.add_column(title, justify="right")
    for record in records:
        for found in record.latencies:
            table.add_row(
                _name(record), found.runtime + ("" if found.device == "cpu" else f" {found.device}"), found.precision,
                str(found.batch_size), str(found.threads), _ms(found.median_ms) + (" †" if found.unstable else ""),
                _interval(found), _ms(found.iqr_ms), _ms(found.p90_ms),
                f"{1e3 * found.batch_size / found.median_ms:,.0f}", _ms(found.prepare_ms), _ms(found.cold_ms),
                _bytes(_peak(found)), _passes(found),
            )  # fmt: skip
    return table


def _operators(record: ProfileRecord) -> Table:
    table = _table(f"{_name(record)}: by operator", "operator")
    table.add_column("MACs", justify="right")
    table.add_column("share", justify="right")
    for operator, macs in sorted(record.by_operator.items(), key=lambda item: -item[1]):
        table.add_row(operator, f"{macs:,}", f"{100 * macs / max(1, record.macs):.1f} %")
    return table


def _layers(record: ProfileRecord) -> Table:
    table = _table(f"{_name(record)}: by layer, each without its parts", "layer", "class", "output")
    for title in ("params", "MACs", "share", "activations"):
        table.add_column(title, justify="right")
    for layer in record.layers:
        table.add_row(
            layer.name or "(network)", layer.kind, "x".join(map(str, layer.output)) if layer.output else "",
            f"{layer.params:,}", f"{layer.macs:,}", f"{100 * layer.macs / max(1, record.macs):.1f} %",
            f"{layer.activations:,}",
        )  # fmt: skip
    return table


def _say(console: Console, records: Sequence[ProfileRecord]) -> None:
    """What the figures mean, what is not in them, and where they come from."""

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    say("MACs: one multiply-add is 1 MAC, FLOPs = 2 x MACs; convolutions, linear layers, matrix products and attention "
        "count. Not counted, with their calls:")  # fmt: skip
    for record in records:
        left = ", ".join(f"{operator} x{calls}" for operator, calls in sorted(record.not_counted.items()))
        say(f"  {_name(record)}: {left or 'nothing left out'}")
    for record in records:
        check = record.cross_check
        if check is not None and abs(check.difference) > 0.01:
            say(f"{_name(record)}: {check.counter} counts {check.macs:,} ({100 * check.difference:+.1f} %): "
                + "; ".join(check.reasons))  # fmt: skip
        if record.denormals:
            say(f"{_name(record)}: {record.denormals:,} weights are denormal numbers, which can slow a pass down")
    latencies = [found for record in records for found in record.latencies]
    if any(found.unstable for found in latencies):
        say("† unstable: the interquartile range is above 10 % of the median, or something else was at work")
    if any(found.disturbed_ms for found in latencies):
        say("passes (+N): so many more were left out, as the system gave the processor to somebody else meanwhile")
    for note in sorted({found.note for found in latencies if found.note}):
        say(f"† {note}")
    together = [found.among for found in latencies if found.among]
    if together and min(together) < len(records):
        say(f"memory was short: at most {max(together)} of {len(records)} networks took turns, then the rest")
    untrained = [record for record in records if not record.run_id and not record.choice.weights]
    if latencies and untrained:
        say("Untrained weights (seed 0).")
    environment = records[0].environment
    for key, value in _machine(environment):
        say(f"{key}: {value}")


def _machine(environment: Any) -> Iterator[tuple[str, str]]:
    clock, load, quota = environment.clock_mhz, environment.load, environment.quota_cores
    facts = [
        f"{environment.cores} usable cores",
        f"quota {quota:g} cores" if quota is not None else "no quota",
        f"governor {environment.governor}" if environment.governor else "",
        f"{clock[0]:.0f} to {clock[1]:.0f} MHz" if clock else "",
        " ".join(environment.cpu_flags),
    ]
    yield "processor", f"{environment.cpu}, " + ", ".join(fact for fact in facts if fact)
    if environment.gpu:
        throttle = f", held down by {', '.join(environment.gpu_throttle)}" if environment.gpu_throttle else ""
        yield "GPU", f"{environment.gpu}, driver {environment.gpu_driver or 'unknown'}{throttle}"
    if load:
        yield "load average", f"{load[0]:.2f} at the start, {load[1]:.2f} at the end"
    if environment.thread_settings:
        yield "thread settings", ", ".join(f"{key}={value}" for key, value in environment.thread_settings.items())
    yield (
        "software",
        ", ".join(f"{name} {version}" for name, version in environment.versions.items())
        + (f", kdbench {environment.kdbench}" + (f" ({environment.commit})" if environment.commit else "")),
    )
    yield "fingerprint", environment.fingerprint


def _table(title: str, *left: str) -> Table:
    table = Table(title=title, title_justify="left")
    for name in left:
        table.add_column(name, overflow="fold")
    return table


def _name(record: ProfileRecord) -> str:
    return record.title or record.model


def _count(value: int | None) -> str:
    return "missing" if value is None else f"{value:,}"


def _ms(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _interval(found: Latency) -> str:
    if found.interval_ms is None:
        return "–"
    return f"{_ms(found.interval_ms[0])} to {_ms(found.interval_ms[1])}"


def _passes(found: Latency) -> str:
    """How many made the figure, and how many were disturbed and left out."""
    return f"{found.samples}" + (f" (+{len(found.disturbed_ms)})" if found.disturbed_ms else "")


def _bytes(value: int | None) -> str:
    if value is None:
        return "missing"
    return f"{value / 2**20:,.1f} MiB" if value >= 2**20 else f"{value / 2**10:,.1f} KiB"


def _peak(found: Latency) -> int | None:
    if found.memory is None:
        return None
    return found.memory.cuda_allocated_bytes if found.device == "cuda" else found.memory.peak_rss_bytes
