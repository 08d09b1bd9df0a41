"""`kdbench data sample`: a contact sheet of a data set, to look at before anything is trained on it."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from kdbench.cli.data import DataRoot, NameOrFile, Settings


class Side(StrEnum):
    """Which images are chosen from."""

    train = "train"
    val = "val"
    test = "test"
    all = "all"


SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
"""What a picture may be called, and its format."""

LARGEST = {"WEBP": 16383, "JPEG": 65535}
"""Pixels of either side that a format can hold."""


def sample(
    name: NameOrFile,
    out: Annotated[Path, typer.Option(help="The picture: .png, .jpg or .webp.")],
    per_class: Annotated[int, typer.Option(min=1, max=1000, help="Images of each class.")] = 8,
    side: Annotated[Side, typer.Option(help="Choose from one side of the split.")] = Side.all,
    size: Annotated[int, typer.Option(min=16, max=1024, help="Pixels to decode to.")] = 96,
    seed: Annotated[int, typer.Option(min=0, help="Another one chooses other images.")] = 0,
    as_seen: Annotated[bool, typer.Option("--as-seen", help="Show below each row how training sees it.")] = False,
    settings: Settings = None,
    data_root: DataRoot = None,
) -> None:
    """Draw some images of each class on one picture, as a network gets them.

    The same images are chosen each time; the sources of a union take turns. Of a file with several data sets each gets
    a picture of its own, with its name in the picture's.

    Example: kdbench data sample mixed --out mixed.png --as-seen
    """
    import io

    from kdbench.cli.data import data_sets, spec_of
    from kdbench.cli.screen import Screen
    from kdbench.data.dataset import open_dataset
    from kdbench.data.sheet import draw_sheet, sheet_rows
    from kdbench.data.views import Views
    from kdbench.errors import ConfigError
    from kdbench.paths import cache_root
    from kdbench.paths import data_root as default_root
    from kdbench.store import write_atomic
    from kdbench.types import SplitName, ViewSpec

    if out.suffix.lower() not in SUFFIXES:
        raise ConfigError([f"--out {out}: a picture ends in {', '.join(SUFFIXES)}, not in '{out.suffix}'"])
    names = data_sets(name)
    sides: dict[Side, SplitName] = {Side.train: "train", Side.val: "val", Side.test: "test"}
    one_side = sides.get(side)
    for one in names:
        with Screen() as screen:
            spec = spec_of(one, size, settings)
            data = open_dataset(spec, default_root(data_root), cache_root(), screen)
        views = Views(ViewSpec(), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)) if as_seen else None
        rows = sheet_rows(data, per_class=per_class, side=one_side, seed=seed, views=views)
        facts = [
            f"{sum(row.count for row in rows):,} images",
            f"{len(rows)} classes",
            "all sides" if one_side is None else f"side: {one_side}",
            f"{size} px",
            f"fit: {spec.fit}",
            *([f"stain: {spec.stain}"] if spec.stain != "none" else []),
            f"seed {seed}",
        ]
        picture = draw_sheet(rows, one, ", ".join(facts))
        kind = SUFFIXES[out.suffix.lower()]
        if max(picture.size) > LARGEST.get(kind, max(picture.size)):
            raise ConfigError(
                [f"--out {out}: a sheet of {picture.width} x {picture.height} pixels is too large for {kind}; "
                 "take .png, or a smaller --per-class or --size"]
            )  # fmt: skip
        content = io.BytesIO()
        picture.save(content, kind)
        path = out if len(names) == 1 else out.with_stem(f"{out.stem}-{one}")
        write_atomic(path, content.getvalue())
        shown = sum(len(row.tiles) for row in rows)
        typer.echo(f"{path}: {shown} of {facts[0]}, {picture.width} x {picture.height} pixels")
