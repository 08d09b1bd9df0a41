"""`kdbench profile`: what a model costs, before anything is trained."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table


def profile(
    model: Annotated[list[str], typer.Argument(help="Registered models, or timm/NAME.")],
    image_size: Annotated[int, typer.Option(min=16, max=1024, help="Pixels, both sides.")] = 64,
    classes: Annotated[int, typer.Option(min=2, help="Classes of the head.")] = 5,
    json: Annotated[bool, typer.Option("--json", help="One JSON object; a list for several models.")] = False,
) -> None:
    """Count parameters and multiply-adds, and time one image on this machine's processor.

    The weights are untrained; the profile in a run's record is that of its trained model.

    Example: kdbench profile mobilenetv3_small_050 --image-size 64
    """
    import json as json_module

    import torch

    from kdbench.environment import collect
    from kdbench.model import build, check_choice
    from kdbench.profiling.profile import profile_model
    from kdbench.types import ModelChoice, Profile

    profiles: dict[str, Profile] = {}
    for name in model:
        check_choice(ModelChoice(name=name), image_size)
    for name in model:
        torch.manual_seed(0)
        profiles[name] = profile_model(build(ModelChoice(name=name), classes, image_size), image_size)
    environment = collect(torch.get_num_threads())
    if json:
        found = [
            {"model": name, **cost.model_dump(mode="json"), "environment": environment.model_dump(mode="json")}
            for name, cost in profiles.items()
        ]
        typer.echo(json_module.dumps(found[0] if len(found) == 1 else found, indent=1))
        return
    table = Table(title=f"{image_size} x {image_size} pixels, {classes} classes", title_justify="left")
    table.add_column("model")
    for title in ("params", "MACs", "FLOPs", "weight bytes", "ms", "IQR ms"):
        table.add_column(title, justify="right")
    for name, cost in profiles.items():
        latency = cost.latencies[0]
        table.add_row(
            name, f"{cost.params:,}", f"{cost.macs:,}", f"{cost.flops:,}", f"{cost.weight_bytes:,}",
            f"{latency.median_ms:.2f}{' (unstable)' if latency.unstable else ''}", f"{latency.iqr_ms:.2f}",
        )  # fmt: skip
    console = Console()
    console.print(table)
    first = next(iter(profiles.values())).latencies[0]
    console.print(
        f"ms: median of {first.samples} passes of {first.batch_size} image, {first.threads} thread, {first.runtime} "
        f"{first.precision}, on {environment.cpu} ({environment.cores} cores)\n"
        "MACs: one multiply-add is 1 MAC, FLOPs = 2 x MACs; convolutions, linear layers, matrix products and attention "
        "count, the rest does not:",
        highlight=False,
    )
    for name, cost in profiles.items():
        left = ", ".join(f"{operator} x{calls}" for operator, calls in sorted(cost.not_counted.items()))
        console.print(f"  {name}: {left or 'nothing left out'}", highlight=False)
