"""`kdbench export`: a trained run as a folder for others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer

from kdbench.cli.data import DataRoot


def export(
    run: Annotated[str, typer.Argument(help="Six digits of its id or more, or a part or pattern of its title.")],
    results: Annotated[Path, typer.Option(help="Results folder that it is in, with its weights.")],
    out: Annotated[Path, typer.Option(help="A new or an empty folder.", metavar="DIR")],
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="LIST",
            help="Of onnx, safetensors, openvino, torch; else the first two, or safetensors alone where onnx is not "
            "installed.",
            show_default=False,
        ),
    ] = None,
    half: Annotated[
        bool, typer.Option("--half", help="Store weights in fp16: half the bytes. The arithmetic stays fp32.")
    ] = False,
    with_preprocessing: Annotated[
        bool,
        typer.Option(
            "--with-preprocessing", help="The ONNX file takes RGB pixels as decoded and resized, and normalises them."
        ),
    ] = False,
    sources: Annotated[
        Path | None, typer.Option(help="YAML file that declares data sets of your own, as a suite does.")
    ] = None,
    data_root: DataRoot = None,
) -> None:
    """Write a trained network into a folder that works without kdbench's records and data sets.

    It holds the weights, an ONNX file, the labels, how an image is prepared, licences, and a README with a program.
    Each file is compared with the network on test images, where they are on this disk; else on drawn cells.

    Exit codes: 0 written; 2 not, with nothing left behind; 130 interrupted, with nothing left behind.

    Example: kdbench export 'mobilenetv3_small_050/ce' --results results/quickstart --out deployed
    """
    formats = None if form is None else [part.strip() for part in form.split(",") if part.strip()]
    try:
        # imported late, so that `kdbench --help` does not wait for torch
        from kdbench.cli.screen import Screen
        from kdbench.compress.artefact import FILES, Format
        from kdbench.config import parse_sources, read_sources
        from kdbench.suite.export import export_run
        from kdbench.suite.plan import RegistryNames

        if sources is not None:
            parse_sources(read_sources(str(sources)), str(sources), RegistryNames(sources.parent))
        with Screen() as screen:
            done = export_run(
                results,
                run,
                out,
                formats=cast("list[Format] | None", formats),
                half=half,
                with_preprocessing=with_preprocessing,
                root=data_root,
                progress=screen,
            )
    except KeyboardInterrupt:
        typer.echo(f"interrupted; nothing is at {out}", err=True)
        raise typer.Exit(130) from None
    about = done.about
    names = sorted(path.name for path in done.folder.iterdir())
    size = sum(path.stat().st_size for path in done.folder.iterdir())
    typer.echo(f"{done.folder}: {about.title} ({about.run_id}), {', '.join(names)}; {size / 1e6:.1f} MB")
    for form, parity in about.parities.items():
        typer.echo(
            f"{FILES[form][0]} against {parity.against} on {parity.images} {parity.of}: probabilities differ by "
            f"{parity.max_abs_difference:.1e} at most, {parity.top1_agreement:.1%} of the answers agree"
        )
    for note in about.notes:
        typer.echo(f"note: {note}", err=True)
