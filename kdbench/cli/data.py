"""`kdbench data`: what a data set is, what of it is on this disk, and whether it can be used."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from kdbench.cli.audit import audit_data

if TYPE_CHECKING:
    from kdbench.data.audit import Audit
    from kdbench.data.source import Source
    from kdbench.types import DataCard, DatasetSpec

data_app = typer.Typer(no_args_is_help=True, help="Get and look at data sets.\n\nExample: kdbench data show mixed")

NameOrFile = Annotated[
    str, typer.Argument(metavar="NAME|FILE", help="A data set (`kdbench list datasets`), or a YAML file that has some.")
]
DataRoot = Annotated[
    Path | None, typer.Option(help="Folder of the data sets; else KDBENCH_DATA, else the user's data folder.")
]
ImageSize = Annotated[int, typer.Option(min=16, max=1024, help="Pixels to decode to.")]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="A setting of the data set, as in a suite: fit=pad, split_seed=1, test_fraction=0.25; again for more.",
    ),
]


@data_app.callback()
def _group() -> None:
    """Get and look at data sets."""


data_app.command("audit")(audit_data)


@data_app.command("show")
def show(name: NameOrFile, data_root: DataRoot = None, image_size: ImageSize = 64, settings: Settings = None) -> None:
    """Show where a data set comes from, its licence, and, if it is on this disk, its images by class and split.

    Example: kdbench data show bccd --set protocol=grouped --set fold=2
    """
    from kdbench.cli.screen import Screen
    from kdbench.data.audit import NAMED, by_reason
    from kdbench.data.dataset import listings, open_dataset, published_differences
    from kdbench.errors import MissingData
    from kdbench.paths import cache_root
    from kdbench.paths import data_root as default_root

    out = _console()
    for one in data_sets(name):
        _introduce(out, one)
        try:
            with Screen() as screen:
                spec = spec_of(one, image_size, settings)
                card = open_dataset(spec, default_root(data_root), cache_root(), screen).card
                differences = published_differences(listings(spec, default_root(data_root)))
        except MissingData as problem:
            out.print(f"not on this disk: {problem}", markup=False)
            raise
        out.print(_table(card))
        _say_how_split(out, card)
        if card.duplicates:
            kept = "" if card.leak else "; each group is kept on one side"
            out.print(f"{card.duplicates} images share their bytes with another{kept}")
        for reason, entries in by_reason(card).items():
            more = f" and {len(entries) - NAMED} more" if len(entries) > NAMED else ""
            named = ", ".join(f"{entry.path} ({entry.count})" for entry in entries[:NAMED])
            out.print(f"left out, {sum(entry.count for entry in entries)}: {reason}: {named}{more}", markup=False)
        for caveat in (*card.caveats, *differences):
            out.print(f"note: {caveat}", markup=False)


@data_app.command("check")
def check(name: NameOrFile, data_root: DataRoot = None, image_size: ImageSize = 64, settings: Settings = None) -> None:
    """Decode every image of a data set and say whether it can be used, and what is odd about it.

    Exit codes: 0 usable, with what was found listed as warnings; 2 not usable.

    Example: kdbench data check mine.yaml
    """
    from kdbench.cli.screen import Screen
    from kdbench.data.audit import audit
    from kdbench.errors import DataError
    from kdbench.paths import cache_root
    from kdbench.paths import data_root as default_root

    out = _console()
    problems: list[DataError] = []
    for one in data_sets(name):
        _introduce(out, one)
        try:
            with Screen() as screen:
                spec = spec_of(one, image_size, settings)
                found = audit(spec, default_root(data_root), cache_root(), screen)
        except DataError as problem:  # the other data sets of the file are looked at all the same
            out.print(f"verdict: {one} cannot be used")
            problems.append(problem)
        else:
            _print_findings(out, found)
    if problems:
        raise problems[0] if len(problems) == 1 else DataError("\n".join(map(str, problems)))


@data_app.command("download")
def download(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A data set (`kdbench list datasets`).")],
    data_root: DataRoot = None,
    mirror: Annotated[
        str | None,
        typer.Option(help="http, https or file address of a copy; ending in /, of a folder that holds the files."),
    ] = None,
    keep_archive: Annotated[bool, typer.Option("--keep-archive", help="Keep what is downloaded.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask whether its licence suits you.")] = False,
) -> None:
    """Download a data set, verify it, and put it into its place in one step.

    What is there and whole is not downloaded again. An interrupted download goes on where it stopped.

    Exit codes: 0 in place; 2 not, with what a person has to do where no program can; 130 interrupted.

    Example: kdbench data download jtsc --data-root ~/datasets
    """
    from kdbench.data.dataset import dataset_names
    from kdbench.data.mixed import UNIONS
    from kdbench.data.source import SOURCES
    from kdbench.errors import DataError, DownloadFailed, UnknownName
    from kdbench.paths import data_root as default_root

    if name not in dataset_names():
        raise UnknownName("dataset", name, dataset_names())
    names = UNIONS.get(name).sources if name in UNIONS else (name,)
    if mirror and len(names) > 1 and not mirror.endswith("/"):
        raise DownloadFailed(
            f"{name} is made of {', '.join(names)}; give --mirror a folder of their files, ending in /"
        )
    problems: list[DataError] = []
    for source in [SOURCES.get(part) for part in names]:
        try:
            _download(source, default_root(data_root), mirror, keep_archive, yes)
        except DataError as problem:  # the other parts of a union are worth having
            problems.append(problem)
        except KeyboardInterrupt:
            typer.echo("interrupted; what came so far is kept: the same command goes on where it stopped", err=True)
            raise typer.Exit(130) from None
    if problems:
        raise problems[0] if len(problems) == 1 else DataError("\n".join(map(str, problems)))


def _download(source: Source, root: Path, mirror: str | None, keep_archive: bool, yes: bool) -> None:
    from kdbench.cli.screen import Screen
    from kdbench.data.download import get, look, plan, shown
    from kdbench.data.unpack import size_text
    from kdbench.errors import DownloadFailed

    out = _console()
    if not source.downloads:
        out.print(f"{source.name}: nothing to download ({source.layout})", markup=False)
        return
    here = look(source, root)
    as_published = ", as many as are published" if source.counts else ""
    if here.there and not here.trouble:
        out.print(f"{source.name}: {here.images} images at {here.folder}{as_published}; nothing to do", markup=False)
        return
    jobs = plan(source, root, mirror)
    _introduce(out, source.name)
    for file, url in jobs:
        size = f", {size_text(file.size_bytes)}" if file.size_bytes else ""
        out.print(f"  downloading: {shown(url)}{size}", markup=False)
        if file.checksum is None:
            out.print(f"note: no checksum of {file.file_name} is known: what comes is counted, not verified")
    if here.there:
        out.print(f"note: {here.folder} is not what is published and will be moved aside: {here.trouble}", markup=False)
    if not yes:
        if not sys.stdin.isatty():
            raise DownloadFailed(
                f"{source.name}: nobody can be asked whether its licence suits ({source.licence}); add --yes"
            )
        if not typer.confirm(f"Download {source.name} under its licence ({source.licence})?"):
            return
    with Screen() as screen:
        got = get(source, root, mirror, keep_archive, screen)
    if got.kept:
        out.print(f"note: what was at {got.folder} is now at {got.kept}", markup=False)
    for archive in got.archives:
        out.print(f"kept: {archive}", markup=False)
    if got.differences:
        out.print(f"warning: {source.name} does not hold what is published: {got.differences}", markup=False)
    out.print(
        f"{source.name}: {got.images} images at {got.folder}{'' if got.differences else as_published}", markup=False
    )


def _console() -> Console:
    return Console(soft_wrap=True, highlight=False)


def data_sets(name_or_file: str) -> tuple[str, ...]:
    """The name itself, or the names of what a file declares. Raises: UnknownName, MissingData, ConfigError."""
    from kdbench.config import parse_sources, read_sources
    from kdbench.data.dataset import dataset_names
    from kdbench.errors import UnknownName
    from kdbench.suite.plan import RegistryNames

    path, known = Path(name_or_file), dataset_names()
    if name_or_file in known:
        return (name_or_file,)
    if path.suffix not in (".yaml", ".yml") and not path.is_file():
        raise UnknownName("dataset", name_or_file, known)
    sources = parse_sources(read_sources(name_or_file), name_or_file, RegistryNames(path.parent))
    return tuple(source.name for source in sources)


def spec_of(name: str, image_size: int, settings: list[str] | None) -> DatasetSpec:
    """The data set as the command line asks for it. Raises: ConfigError with a line for each setting that cannot be."""
    import yaml
    from pydantic import ValidationError

    from kdbench.errors import ConfigError
    from kdbench.types import DatasetSpec

    asked: dict[str, Any] = {}
    for setting in settings or ():
        key, equals, text = setting.partition("=")
        key = key.strip()
        if not equals or key in ("", "name", "image_size", "content", "protocol_version"):
            raise ConfigError([f"--set {setting}: KEY=VALUE is wanted, with a key such as fit, split_seed or sources"])
        try:
            asked[key] = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError, RecursionError):  # a date or a list that is none
            raise ConfigError([f"--set {setting}: the value cannot be read; write it as in a suite"]) from None
    try:
        return DatasetSpec.model_validate({"name": name, "image_size": image_size, **asked})
    except ValidationError as invalid:
        raise ConfigError(
            [
                f"--set {'.'.join(map(str, error['loc']))}={error['input']}: {_wanted(error['type'], error['msg'])}"
                for error in invalid.errors()
            ]
        ) from None


def _wanted(kind: str, message: str) -> str:
    return "unknown key" if kind == "extra_forbidden" else message


def _introduce(out: Console, name: str) -> None:
    """Print where a data set comes from."""
    from kdbench.data.mixed import UNIONS
    from kdbench.data.source import SOURCES

    union = UNIONS.get(name) if name in UNIONS else None
    if union:
        out.print(f"[bold]{union.name}[/]: {union.title}")
    for source in [SOURCES.get(part) for part in (union.sources if union else (name,))]:
        out.print(f"[bold]{source.name}[/]: {escape(source.title)}")
        lines = {"from": source.url, "licence": source.licence, "cite": source.citation, "layout": source.layout}
        if source.counts:
            counts = ", ".join(f"{label} {count}" for label, count in source.counts.items())
            lines["published"] = f"{sum(source.counts.values())} images ({counts})"
        if source.downloads:
            by_hand = f" (by hand: {source.manual})" if source.manual else ""
            lines["get it"] = f"kdbench data download {source.name}{by_hand}"
        for key, text in lines.items():
            if text:
                out.print(f"  {key}: {text}", markup=False)


def _table(card: DataCard) -> Table:
    """Images by class and side."""
    table = Table(title=f"images ({', '.join(f'{key} {count}' for key, count in card.sources.items())})",
                  title_justify="left", header_style="bold")  # fmt: skip
    table.add_column("class")
    for side in card.splits:
        table.add_column(side, justify="right")
    for label in card.classes:
        table.add_row(escape(label), *(str(counts.get(label, 0)) for counts in card.splits.values()))
    table.add_section()
    table.add_row("all", *(str(sum(counts.values())) for counts in card.splits.values()))
    return table


def _say_how_split(out: Console, card: DataCard) -> None:
    independent = ", ".join(f"{side} {count:,}" for side, count in card.independent.items())
    out.print(f"protocol: {card.protocol}; independent of each other: {independent}")
    if card.leak:
        out.print(f"leak: {card.leak}")


def _print_findings(out: Console, found: Audit) -> None:
    from kdbench.data.audit import NAMED
    from kdbench.findings import ODD_KINDS

    card = found.card
    out.print(_table(card))
    _say_how_split(out, card)
    if found.sizes:
        for side, (low, middle, high) in (("width", found.sizes.width), ("height", found.sizes.height)):
            out.print(f"{side}: {low} to {high} pixels, median {middle:g}")
        out.print(f"modes: {', '.join(f'{mode} {count}' for mode, count in found.sizes.modes.items())}")
    for odd in found.odd:
        what, becomes = ODD_KINDS[odd.kind]
        out.print(f"odd files, {odd.count}: {what}; {becomes}")
        for name in odd.named:
            out.print(f"  {name}", markup=False)
        if odd.count > len(odd.named):
            out.print(f"  and {odd.count - len(odd.named)} more")
    for reason, entries in found.left_out.items():
        out.print(f"left out, {sum(entry.count for entry in entries)}: {reason}", markup=False)
        for entry in entries[:NAMED]:
            out.print(f"  {entry.path}" + (f" ({entry.count} files)" if entry.count != 1 else ""), markup=False)
        if more := entries[NAMED:]:
            out.print(f"  and {sum(entry.count for entry in more)} more")
    for conflict in found.conflicts[:NAMED]:
        out.print(f"label conflict: {conflict}", markup=False)
    for caveat in (caveat for caveat in card.caveats if caveat not in found.conflicts):
        out.print(f"note: {caveat}", markup=False)
    for warning in found.warnings:
        out.print(f"warning: {warning}", markup=False)
    images = sum(sum(counts.values()) for counts in card.splits.values())
    count = len(found.warnings)
    says = f"{count} warning{'s' if count > 1 else ''}" if count else "nothing to warn of"
    out.print(f"verdict: {card.name} can be used: {images} images, {len(card.classes)} classes, {says}")
