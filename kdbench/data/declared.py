"""Data sets of the user's own, from a few lines of YAML: a folder for each class, or a table of files. Floor 3.

What is declared is registered like any other source, so that suites, splits and reports know it by its name. Ids are
``<name>/<path below the declared folder>``: records are made to be shared, and no folder of a machine goes into them.
"""

from __future__ import annotations

import csv
import io
import os
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from kdbench.data.layouts import class_folders, files_below
from kdbench.data.mixed import UNIONS
from kdbench.data.source import IMAGE_SUFFIXES, SOURCES, Item, Listing, Source, is_image_name
from kdbench.errors import ConfigError, DataError, MissingData
from kdbench.types import LeftOut, Scalar, SourceDeclaration, SplitName

SIDES: Mapping[str, SplitName] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
"""What folders and tables call the sides of a split, in lower case."""

NAMED = 100
"""Files left out for one reason that are named; more are counted by folder, for every record carries the list."""


def declare(declaration: SourceDeclaration, base: Path) -> DeclaredSource:
    """Register a declared data set; the same one again changes nothing.

    Args:
        base: the folder that relative paths begin at.
    Raises: ConfigError if another data set has the name, or a path is none.
    """
    source = DeclaredSource(_resolved(declaration, base))
    if source.name in UNIONS:
        raise ConfigError([f"'{source.name}' is a union of sources that comes with kdbench; choose another name"])
    if source.name not in SOURCES:
        SOURCES.add(source.name, source)
        return source
    known = SOURCES.get(source.name)
    if not isinstance(known, DeclaredSource):
        raise ConfigError([f"'{source.name}' is a data set that comes with kdbench; choose another name"])
    if known.declaration.model_dump_json() != source.declaration.model_dump_json():  # the order of labels counts too
        raise ConfigError([f"'{source.name}' is declared already, and otherwise than here; choose another name"])
    return known


def _resolved(declaration: SourceDeclaration, base: Path) -> SourceDeclaration:
    paths: dict[str, str] = {}
    for key in ("folder", "csv", "root"):
        value = getattr(declaration, key)
        if value is not None:
            try:
                paths[key] = str((base / Path(value).expanduser()).resolve())
            except (OSError, RuntimeError, ValueError) as problem:  # no such user, links in a circle, a null byte
                raise ConfigError([f"{key}: {value!r} is no path: {problem}"]) from None
    return declaration.model_copy(update=paths)


class DeclaredSource(Source):
    """A data set as its declaration says.

    Attributes:
        declaration: with absolute paths.
    """

    def __init__(self, declaration: SourceDeclaration) -> None:
        self.declaration = declaration
        self.name = declaration.name
        self.title = declaration.title or declaration.name
        self.url = declaration.url
        self.licence = declaration.licence or "not stated"
        self.citation = declaration.citation
        if declaration.folder is not None:
            self.layout = f"{declaration.folder}/<class>/*.png or {declaration.folder}/{{train,val,test}}/<class>/*.png"
        else:
            self.layout = f"{declaration.csv} with a header and the columns {', '.join(_columns(declaration))}"

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes in the order of their numbers, from the disk if they are not declared.

        Raises: MissingData, DataError.
        """
        classes = _declared_classes(self.declaration)
        if classes is None:
            with _readable():
                classes = self._read().classes
        return tuple(dict.fromkeys(classes.values()))

    def scan(self, root: Path, options: Mapping[str, Scalar]) -> Listing:
        """List the items; the data root is not looked at.

        Raises: MissingData if nothing is there; DataError if it cannot be what the declaration says.
        """
        with _readable():
            found, passed_over = self._read().listed()
        items: list[Item] = []
        for item in found:
            if _is_text(item.id):
                group = None if item.group is None else f"{self.name}/{item.group}"  # a union may hold two patients 7
                items.append(replace(item, id=f"{self.name}/{item.id}", group=group))
            else:
                passed_over.append(LeftOut(path=item.id, reason="its name is not UTF-8 text"))
        left_out = [
            entry.model_copy(update={"path": f"{self.name}/{_as_text(entry.path)}"})
            for entry in _condensed(passed_over)
        ]
        self._check(items, left_out)
        return Listing(tuple(items), tuple(left_out))

    def missing(self, expected: Path) -> MissingData:
        """The error for a path that is not there, with what to do."""
        get = f"get it from {self.url}, or " if self.url else ""
        return MissingData(
            f"{self.name}: nothing at {expected}; {get}correct its declaration (a relative path begins at the folder "
            "of the file it stands in)"
        )

    def _read(self) -> _Folders | _Table:
        kind = "folder" if self.declaration.folder is not None else "csv"
        path = Path(getattr(self.declaration, kind))
        if not path.exists():
            raise self.missing(path)
        if path.is_dir() != (kind == "folder"):
            other = "is a file; for a table of files say csv:" if kind == "folder" else "is a folder; say folder:"
            raise DataError(f"{self.name}: {path} {other}")
        root = self.declaration.root
        if root is not None and not Path(root).is_dir():
            raise self.missing(Path(root))
        return _read_folders(self.declaration, path) if kind == "folder" else _read_table(self.declaration, path)

    def _check(self, items: Sequence[Item], left_out: Sequence[LeftOut]) -> None:
        if not items:
            counts: Counter[str] = Counter()
            first = {entry.reason: entry.path for entry in reversed(left_out)}
            for entry in left_out:
                counts[entry.reason] += entry.count
            why = [f"{count} left out, {first[reason]} first: {reason}" for reason, count in counts.most_common(3)]
            raise MissingData(
                f"{self.name}: no images found; {'; '.join(why) or 'it is empty'}; expected {self.layout}"
                f" (image files end in {', '.join(sorted(IMAGE_SUFFIXES))})"
            )
        if len(labels := {item.label for item in items}) < 2:
            raise DataError(f"{self.name}: every image is of the class '{labels.pop()}'; a classifier needs two")
        sides = {item.fold for item in items}
        if sides <= {"val", "test"}:
            given = " and ".join(sorted(str(side) for side in sides))
            raise DataError(f"{self.name}: it gives {given}, but no images to train on; add them, or give no sides")


@contextmanager
def _readable() -> Iterator[None]:
    """What the system will not let us read is an error of the data."""
    try:
        yield
    except OSError as problem:
        raise DataError(f"{problem.filename} cannot be read ({problem.strerror}); check its permissions") from None


def _declared_classes(declaration: SourceDeclaration) -> dict[str, str] | None:
    """Label by folder name or code in the order of the classes; None: the disk says."""
    labels = declaration.labels
    return {label: label for label in labels} if isinstance(labels, tuple) else labels


def _classes(declaration: SourceDeclaration, there: Collection[str], what: str) -> dict[str, str]:
    """Label by folder name or code. Raises: DataError if one is declared that is not there."""
    classes = _declared_classes(declaration)
    if classes is None:
        return {name: name for name in sorted(there)}
    if absent := [name for name in classes if name not in there]:
        raise DataError(f"{declaration.name}: labels names {_quoted(absent)}, but there is no {what} of that name; "
                        f"there are {_quoted(sorted(there)) or 'none'}")  # fmt: skip
    return classes


# ---------------------------------------------------------------- a folder for each class


@dataclass(frozen=True)
class _Folders:
    """Class folders, in a folder for each given side or directly in one.

    Attributes:
        parts: what holds class folders, with its side.
        outside: what lies beside the sides.
    """

    folder: Path
    parts: tuple[tuple[Path, SplitName | None], ...]
    outside: tuple[Path, ...]
    classes: dict[str, str]
    outside_reason: str

    def listed(self) -> tuple[list[Item], list[LeftOut]]:
        items: list[Item] = []
        left_out: list[LeftOut] = []
        for part, fold in self.parts:
            found, passed_over = class_folders(
                self.folder, part, self.classes, fold=fold, exact=True, outside=self.outside_reason
            )
            items += found
            left_out += passed_over
        sides = ", ".join(part.name for part, _ in self.parts)
        for path in self.outside:
            count = len(files_below(path)) if path.is_dir() else 1
            name = f"{path.name}/" if path.is_dir() else path.name
            left_out.append(LeftOut(path=name, reason=f"in none of the given sides {sides}", count=count))
        return items, left_out


def _read_folders(declaration: SourceDeclaration, folder: Path) -> _Folders:
    declared = _declared_classes(declaration) or {}
    inside = _image_folders(folder)
    # the names of sides are names of classes too (a train is a vehicle): so both, or nothing else, have to be there
    sides = {name: SIDES[name.lower()] for name in inside if name.lower() in SIDES and name not in declared}
    given = set(sides.values())
    if not ({"train"} < given or (sides and len(sides) == len(inside))):
        parts: tuple[tuple[Path, SplitName | None], ...] = ((folder, None),)
        outside: list[Path] = []
        names = set(inside)
    else:
        if len(sides) > len(given):
            raise DataError(f"{declaration.name}: {folder} holds {_quoted(sides)}, which mean one side twice; keep one")
        parts = tuple((folder / name, side) for name, side in sides.items())
        outside = sorted(path for path in folder.iterdir() if path.name not in sides)
        names = {name for part, _ in parts for name in _image_folders(part)}
    reason = "not among the labels" if declared else "no class: hidden, or without images"
    return _Folders(folder, parts, tuple(outside), _classes(declaration, names, "folder with images"), reason)


def _image_folders(folder: Path) -> list[str]:
    """Names of the folders that can be a class: not hidden, and an image somewhere below."""
    return sorted(
        path.name
        for path in folder.iterdir()
        if not path.name.startswith(".") and _is_text(path.name) and path.is_dir() and _holds_images(path)
    )


def _holds_images(folder: Path) -> bool:
    for _, folders, names in os.walk(folder):
        if any(is_image_name(name) for name in names):
            return True
        folders[:] = [name for name in folders if not name.startswith(".")]
    return False


# ---------------------------------------------------------------- a table of files


class _Row(NamedTuple):
    line: int
    image: str
    label: str
    split: str
    group: str


@dataclass(frozen=True)
class _Table:
    """A table with a line for each image.

    Attributes:
        root: the folder that paths begin at, without links.
        odd: lines that have not as many fields as the header.
    """

    declaration: SourceDeclaration
    path: Path
    root: Path
    rows: tuple[_Row, ...]
    odd: tuple[LeftOut, ...]
    classes: dict[str, str]

    def listed(self) -> tuple[list[Item], list[LeftOut]]:
        names = _Names(self.root)
        items: list[Item] = []
        left_out = list(self.odd)
        first: dict[str, _Row] = {}
        escaped: list[_Row] = []
        strange: dict[str, list[int]] = defaultdict(list)
        for row in self.rows:
            if not row.image:
                left_out.append(LeftOut(path=self._line(row.line), reason=f"no file in '{self.declaration.image}'"))
                continue
            place = names.below(row.image)
            if place is None:
                escaped.append(row)
                continue
            name, there = place
            before = first.setdefault(name, row)
            if before is not row:
                if before[2:] != row[2:]:
                    raise DataError(f"{self.path}: {name} stands in the lines {before.line} and {row.line} with "
                                    "different values; keep one line for each image")  # fmt: skip
                left_out.append(LeftOut(path=name, reason="stands again in the table with the same values; taken once"))
                continue
            fold = SIDES.get(row.split.lower())
            if row.split and fold is None:
                strange[row.split].append(row.line)
            reason = self._unfit(row)
            if reason is None and not there:
                reason = "in the table, but not on the disk"
            if reason is None:
                items.append(Item(name, self.classes[row.label], row.group or None, fold, self.root / name))
            else:
                left_out.append(LeftOut(path=name, reason=reason))
        self._refuse(escaped, strange)
        for name in files_below(self.root):
            if is_image_name(name) and name not in first:
                left_out.append(LeftOut(path=name, reason="not in the table"))
        return items, left_out

    def _unfit(self, row: _Row) -> str | None:
        """Why a row cannot be taken, whatever its file is."""
        if not row.label:
            return f"no label in '{self.declaration.label}'"
        if row.label not in self.classes:
            return f"its label '{row.label}' is none of {_quoted(self.classes)}"
        if self.declaration.split is not None and not row.split:
            return f"no side in '{self.declaration.split}'"
        return None

    def _refuse(self, escaped: Sequence[_Row], strange: Mapping[str, Sequence[int]]) -> None:
        if escaped:
            raise DataError(
                f"{self.path}, line {escaped[0].line}: {escaped[0].image!r} leads out of {self.root} "
                f"({len(escaped)} such lines); set root: to a folder that holds every image, with no link out of it"
            )
        if strange:
            seen = ", ".join(f"{word!r} ({len(lines)}, first in line {lines[0]})" for word, lines in strange.items())
            raise DataError(f"{self.path}: the column '{self.declaration.split}' holds {seen}; "
                            f"a side is one of {', '.join(SIDES)}")  # fmt: skip

    def _line(self, number: int) -> str:
        return f"{self.path.name}, line {number}"


class _Names:
    """Paths of a table as names below its root."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folders: dict[str, str | None] = {}

    def below(self, text: str) -> tuple[str, bool] | None:
        """The path below the root with forward slashes and whether it is a file; None if it leads out of the root."""
        path = PurePosixPath(text.replace("\\", "/"))
        folder = self._folder(str(path.parent))
        if folder is None or path.name in ("", ".."):
            return None
        full = self._root / folder / path.name
        there = os.path.isfile(full)  # noqa: PTH113 (Path.is_file raises if the name is too long)
        if there and full.is_symlink() and not Path(os.path.realpath(full)).is_relative_to(self._root):
            return None
        return (path.name if folder == "." else f"{folder}/{path.name}"), there

    def _folder(self, parent: str) -> str | None:
        """A folder below the root, without links; remembered, for a table names few folders many times."""
        if parent not in self._folders:
            real = Path(os.path.realpath(self._root / parent))
            inside = real.is_relative_to(self._root)
            self._folders[parent] = real.relative_to(self._root).as_posix() if inside else None
        return self._folders[parent]


def _columns(declaration: SourceDeclaration) -> list[str]:
    named = (declaration.image, declaration.label, declaration.split, declaration.group)
    return [f"'{name}'" for name in named if name is not None]


def _read_table(declaration: SourceDeclaration, path: Path) -> _Table:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        raise DataError(f"{path}: the table is not UTF-8 text ({problem.reason} at byte {problem.start}); "
                        "save it as UTF-8 CSV") from None  # fmt: skip
    if "\0" in text:
        raise DataError(f"{path}: the table holds null bytes, so it is no text; save it as UTF-8 CSV")
    delimiter = declaration.delimiter or ("\t" if path.suffix.lower() == ".tsv" else ",")
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        numbered = [(lines.line_num, row) for row in lines if any(field.strip() for field in row)]
    except csv.Error as problem:
        raise DataError(f"{path}, line {lines.line_num}: not a CSV row ({problem}); check its quotes") from None
    if not numbered:
        raise DataError(f"{path}: the table is empty; expected a header with the columns "
                        f"{', '.join(_columns(declaration))} and a line for each image")  # fmt: skip
    header = [name.strip() for name in numbered[0][1]]
    where = _positions(declaration, path, header, delimiter)
    rows: list[_Row] = []
    odd: list[LeftOut] = []
    for line, row in numbered[1:]:
        if len(row) != len(header):
            reason = f"it has not {len(header)} fields as the header has"
            odd.append(LeftOut(path=f"{path.name}, line {line}", reason=reason))
            continue
        image, label, split, group = ("" if place is None else row[place].strip() for place in where)
        rows.append(_Row(line, image, label, split, group))
    codes = {row.label for row in rows if row.label}
    root = Path(declaration.root) if declaration.root is not None else path.parent
    return _Table(declaration, path, root, tuple(rows), tuple(odd), _classes(declaration, codes, "row with a label"))


def _positions(
    declaration: SourceDeclaration, path: Path, header: Sequence[str], delimiter: str
) -> tuple[int | None, int | None, int | None, int | None]:
    """Where image, label, split and group stand in a row; None: not asked for. Raises: DataError."""
    wanted = {key: getattr(declaration, key) for key in ("image", "label", "split", "group")}
    wanted = {key: name for key, name in wanted.items() if name is not None}
    if absent := {key: name for key, name in wanted.items() if name not in header}:
        asked = ", ".join(f"'{name}' ({key}:)" for key, name in absent.items())
        sign = next((sign for sign in ";\t|," if sign != delimiter and sign in header[0]), None)
        hint = f"is the delimiter {sign!r}?" if len(header) == 1 and sign else "the first line has to be a header"
        raise DataError(f"{path}: no column {asked}; its columns are {_quoted(header)}; {hint}")
    if twice := [name for name in wanted.values() if header.count(name) > 1]:
        raise DataError(f"{path}: the column {_quoted(twice)} stands twice in the header; rename one")
    image, label, split, group = (
        header.index(wanted[key]) if key in wanted else None for key in ("image", "label", "split", "group")
    )
    return image, label, split, group


# ---------------------------------------------------------------- names and lists


def _condensed(left_out: Iterable[LeftOut]) -> list[LeftOut]:
    """By name up to NAMED for one reason; what is more is counted by folder."""
    seen: Counter[str] = Counter()
    kept: list[LeftOut] = []
    rest: Counter[tuple[str, str]] = Counter()
    for entry in left_out:
        seen[entry.reason] += 1
        if seen[entry.reason] <= NAMED:
            kept.append(entry)
        else:
            rest[entry.path.rstrip("/").rpartition("/")[0], entry.reason] += entry.count
    more = [LeftOut(path=f"{folder}/".lstrip("/"), reason=why, count=count) for (folder, why), count in rest.items()]
    return kept + more


def _quoted(names: Iterable[str], most: int = 20) -> str:
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(f"'{_as_text(name)}'" for name in names[:most]) + more


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # bytes of a file name that are no UTF-8 come as lone surrogates
        return False
    return True


def _as_text(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()
