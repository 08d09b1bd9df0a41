"""What the pages share: any text made safe for Markdown, tables, dates, machines. Floor 6; no torch."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from tabulate import tabulate

from kdbench.store import started_at
from kdbench.types import Environment, ProfileRecord, RunRecord

LONGEST_LIST = 12
"""Classes, commands and the like, before a list is cut; the records have the rest."""

LONGEST_MESSAGE = 400
"""Characters of a failure's message, before it is cut; the record has the rest."""

_INTERVAL = re.compile(r"\\\[([\d.]+, [\d.]+)\\\](?![(:])")


@lru_cache(maxsize=65536)  # a page has few different names, and each of them many times
def escape(text: str) -> str:
    """Any text as one line that GitHub shows as it is: no cell, tag, link or emphasis can come out of it."""
    line = html.escape(" ".join(str(text).split()), quote=False)
    line = re.sub(r"([\\`*|~\[\]])", r"\\\1", line)
    line = _INTERVAL.sub(r"[\1]", line)  # two numbers in brackets are no link without what follows one
    line = re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", line)  # inside a word it is no emphasis
    return re.sub(r"^(?=(#+|[+-]|\d+[.)])(\s|$))", r"\\", line)  # nor does it open a heading or a list


def grid(body: Sequence[Sequence[str]], headings: Sequence[str], align: Sequence[str]) -> str:
    """A table; its cells are Markdown already.

    Args:
        align: left or right, for each column.
    """
    # "pipe", not "github": it writes the alignment marks; numbers are text here and must stay as they are
    return tabulate(body, headers=headings, tablefmt="pipe", colalign=align, disable_numparse=True)


def shortened(message: str) -> str:
    return message if len(message) <= LONGEST_MESSAGE else f"{message[:LONGEST_MESSAGE]}…"


def dates(records: Iterable[RunRecord | ProfileRecord]) -> str:
    """From the first to the last day on which one of them started."""
    days = sorted({when.date() for record in records if (when := started_at(record)).year > 1})
    if not days:
        return "undated"
    return str(days[0]) if days[0] == days[-1] else f"{days[0]} to {days[-1]}"


def machine(environment: Environment) -> str:
    """Its processor, cores and GPU; not yet escaped."""
    gpu = f" and {environment.gpu}" if environment.gpu else ""
    return f"{environment.cpu} ({environment.cores} core{'s' if environment.cores != 1 else ''}){gpu}"


def machines(environments: Iterable[Environment]) -> str:
    """The machine these are; of several, how many they are."""
    found = {machine(environment) for environment in environments}
    return escape(next(iter(found))) if len(found) == 1 else f"{len(found)} machines"


def version(environment: Environment) -> str:
    """Of kdbench, with its commit; not yet escaped."""
    commit = f"commit {environment.commit}{', modified' if environment.dirty else ''}" if environment.commit else ""
    return f"{environment.kdbench} ({commit})" if commit else environment.kdbench


def versions(environments: Iterable[Environment]) -> str:
    """Which kdbench, of which commit."""
    return f"kdbench {' and '.join(map(escape, sorted({version(environment) for environment in environments})))}"


def made_with(commands: Iterable[str]) -> list[str]:
    """The commands, each in one line and verbatim, in a fence that none of them can end; nothing without any."""
    every = sorted(set(filter(None, commands)))
    if not every:
        return []
    lines = [" ".join(line.split()) for line in every[:LONGEST_LIST]]
    fence = "`" * max(3, 1 + max(len(run) for line in lines for run in (re.findall("`+", line) or [""])))
    more = f"\n\nand {len(every) - LONGEST_LIST} more." if len(every) > LONGEST_LIST else ""
    return ["Made with\n\n" + "\n".join([f"{fence}sh", *lines, fence]) + more]
