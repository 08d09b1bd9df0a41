"""The two ways image sets lie on a disk: a folder for each class, or numbered files with a label table."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from pathlib import Path

from kdbench.data.source import Item, is_image_name
from kdbench.errors import DataError
from kdbench.types import LeftOut, SplitName


def class_folders(
    root: Path,
    folder: Path,
    labels: Mapping[str, str],
    *,
    fold: SplitName | None = None,
    exact: bool = False,
    outside: str = "class outside the task",
) -> tuple[list[Item], list[LeftOut]]:
    """Items of ``folder/<class>/<file>``.

    Args:
        root: the data root; ids are paths relative to it.
        labels: label by lower-case folder name; folders under other names are left out by name.
        exact: labels are by folder name as it is written.
        outside: why the folders under other names are left out.
    Raises: DataError if a folder cannot be read.
    """
    items: list[Item] = []
    left_out: list[LeftOut] = []
    for entry in sorted(folder.iterdir()):
        place = entry.relative_to(root).as_posix()
        if not entry.is_dir():
            left_out.append(LeftOut(path=place, reason="not in a class folder"))
            continue
        files = files_below(entry)
        label = labels.get(entry.name if exact else entry.name.lower())
        if label is None:
            left_out.append(LeftOut(path=f"{place}/", reason=outside, count=len(files)))
            continue
        for name in files:
            if is_image_name(name):
                items.append(Item(f"{place}/{name}", label, fold=fold, path=entry / name))
            else:
                reason = "a link to a folder, not followed" if name.endswith("/") else "not an image file by its name"
                left_out.append(LeftOut(path=f"{place}/{name}", reason=reason))
    return items, left_out


def given_parts(
    root: Path, folder: Path, labels: Mapping[str, str], given: Mapping[str, SplitName], passed_over: Mapping[str, str]
) -> tuple[list[Item], list[LeftOut]]:
    """Items of ``folder/<part>/<class>/<file>`` where the publisher says which part is which side.

    Args:
        root, labels: as for `class_folders`.
        given: side by folder name; folders under other names are left out by name.
        passed_over: why, for those that are known.
    Raises: DataError if a folder cannot be read.
    """
    items: list[Item] = []
    left_out: list[LeftOut] = []
    for part in sorted(path for path in folder.iterdir() if path.is_dir()):
        fold = given.get(part.name)
        if fold is None:
            count = sum(1 for path in part.rglob("*") if path.is_file())
            reason = passed_over.get(part.name, f"none of the given parts {', '.join(given)}")
            left_out.append(LeftOut(path=f"{part.relative_to(root).as_posix()}/", reason=reason, count=count))
            continue
        found, not_taken = class_folders(root, part, labels, fold=fold)
        items += found
        left_out += not_taken
    return items, left_out


def files_below(folder: Path) -> list[str]:
    """Names of all files below, relative, sorted, with forward slashes; as strings, for a folder may hold thousands.

    A link to a folder is not followed, for it may lead back up; its name ends in a slash. Raises: DataError.
    """

    def refuse(problem: OSError) -> None:
        raise DataError(f"{problem.filename} cannot be read ({problem.strerror}); check its permissions")

    found: list[str] = []
    for place, folders, names in os.walk(folder, onerror=refuse):
        inside = "" if place == str(folder) else f"{Path(place).relative_to(folder).as_posix()}/"
        found += [f"{inside}{name}" for name in names]
        found += [f"{inside}{name}/" for name in folders if Path(place, name).is_symlink()]
    return sorted(found)


def label_table(
    root: Path, folder: Path, table: str, codes: Mapping[str, str], file_name: str
) -> tuple[list[Item], list[LeftOut]]:
    """Items of ``folder/<number><suffix>`` whose labels stand in a CSV of (image number, code) with a header.

    Args:
        codes: label by code as written in the table.
        file_name: format string that makes a file's name of its number.
    Raises: DataError if the table is missing or a line of it cannot be read.
    """
    path = folder / table
    try:
        rows = list(csv.reader(path.read_text(encoding="utf-8-sig").splitlines()))[1:]
    except OSError as problem:
        raise DataError(f"{path}: the label table cannot be read ({problem.strerror})") from None
    except UnicodeDecodeError as problem:
        raise DataError(f"{path}: the label table is not UTF-8 text ({problem.reason}); save it as UTF-8 CSV") from None
    items: list[Item] = []
    left_out: list[LeftOut] = []
    named: set[str] = set()
    for line, row in enumerate(rows, start=2):
        if not row:
            continue  # a blank line, often the last
        try:
            image = folder / file_name.format(int(row[0]))
            code = row[1].strip()
        except (IndexError, ValueError):
            raise DataError(f"{path}, line {line}: expected 'image number,code', found {','.join(row)!r}") from None
        name = image.relative_to(root).as_posix()
        if image.name in named:
            raise DataError(f"{path}, line {line}: {image.name} stands twice; keep one line for each image")
        named.add(image.name)
        if code not in codes:
            left_out.append(LeftOut(path=name, reason=f"label code {code!r} is none of {', '.join(codes)}"))
        elif not image.is_file():
            left_out.append(LeftOut(path=name, reason="in the label table, but not on the disk"))
        else:
            items.append(Item(name, codes[code], path=image))
    place = folder.relative_to(root).as_posix()
    unlabelled = sorted(name for name in files_below(folder) if is_image_name(name) and name not in named)
    left_out += [LeftOut(path=f"{place}/{name}", reason="not in the label table") for name in unlabelled]
    return items, left_out
