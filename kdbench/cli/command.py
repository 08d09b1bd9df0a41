"""A command as records show it: folders of this machine are nobody's business, and change no result."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator


def without_options(arguments: Iterable[str], options: Collection[str]) -> Iterator[str]:
    """The arguments less those options, written ``--option VALUE`` or ``--option=VALUE``."""
    skip = False
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        if skip:
            skip = False
        elif argument in options:
            skip = True
        elif not (equals and name in options):
            yield argument
