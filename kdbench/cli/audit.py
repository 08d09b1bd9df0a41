"""`kdbench data audit`: a data set's images compared with each other, its files and colours looked at."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from kdbench.findings import AuditRecord


def audit_data(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME|FILE", help="A data set (`kdbench list datasets`), or a YAML file that has some."),
    ],
    out: Annotated[Path | None, typer.Option(help="Write the page to this file, and not to the terminal.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write the record to this file; a list for several sets.")] = None,
    pictures: Annotated[
        Path | None, typer.Option(help="Put a PNG of each named pair into this folder, for your own eyes.")
    ] = None,
    mapping: Annotated[
        Path | None, typer.Option(help="Write the original of each augmented image to this CSV file, where any are.")
    ] = None,
    data_root: Annotated[
        Path | None, typer.Option(help="Folder of the data sets; else KDBENCH_DATA, else the user's data folder.")
    ] = None,
    image_size: Annotated[
        int, typer.Option(min=64, max=1024, help="Pixels that images are compared and coloured at.")
    ] = 64,
) -> None:
    """Find duplicates, label conflicts, odd files and differences of stain in a data set.

    Every image is compared with every other, also turned, mirrored, recoloured and a little shifted.

    Exit codes: 0 audited, whatever was found; 2 not usable; 130 interrupted, and nothing is written.

    Example: kdbench data audit mixed --out mixed.md --json mixed.json
    """
    from kdbench.cli.data import data_sets
    from kdbench.errors import DataError
    from kdbench.report.audits import render_audit
    from kdbench.store import write_atomic, write_audits

    # as a record may show it: folders of this machine are nobody's business, and change no finding
    command = [
        "kdbench",
        "data",
        "audit",
        Path(name).name,
        *([f"--image-size={image_size}"] if image_size != 64 else []),
    ]
    records: list[AuditRecord] = []
    problems: list[DataError] = []
    for one in data_sets(name):
        try:
            records.append(_audited(one, data_root, image_size, pictures, mapping, shlex.join(command)))
        except DataError as problem:  # the other data sets of the file are looked at all the same
            problems.append(problem)
        except KeyboardInterrupt:
            typer.echo("interrupted; decoded images are kept, so the same command is quicker next time", err=True)
            raise typer.Exit(130) from None
    if json is not None and records:
        write_audits(json, records)
        typer.echo(f"wrote {json}", err=True)
    page = "\n".join(map(render_audit, records))
    if out is None:
        typer.echo(page, nl=False)
    elif records:
        write_atomic(out, page.encode())
        typer.echo(f"wrote {out}", err=True)
    if problems:
        raise problems[0] if len(problems) == 1 else DataError("\n".join(map(str, problems)))


def _audited(
    name: str, root: Path | None, image_size: int, pictures: Path | None, mapping: Path | None, command: str
) -> AuditRecord:
    from kdbench.cli.screen import Screen
    from kdbench.data.survey import survey, write_pictures
    from kdbench.paths import cache_root
    from kdbench.paths import data_root as default_root
    from kdbench.types import DatasetSpec

    with Screen() as screen:
        spec = DatasetSpec(name=name, image_size=image_size)
        record = survey(spec, default_root(root), cache_root(), screen, command, mapping)
        if pictures is not None:
            written = write_pictures(record, default_root(root), pictures / name)
    if pictures is not None:
        typer.echo(
            f"wrote {len(written)} picture{'' if len(written) == 1 else 's'} of pairs below {pictures / name}", err=True
        )
    if mapping is not None:
        what = "holds no originals to match" if record.originals is None else f"wrote {mapping}"
        typer.echo(f"{name} {what}" if record.originals is None else what, err=True)
    return record
