"""Quantities as people write them: 1M, 4MiB, 5ms, 95%. Floor 1; no torch.

A number without a unit is in the unit that the option names; a unit that is not known is refused, with near ones, as a
megabit taken for a megabyte is worse than a question.
"""

from __future__ import annotations

import difflib
import math
import re
from typing import Literal

Kind = Literal["count", "bytes", "ms", "fraction"]

UNITS: dict[Kind, dict[str, float]] = {
    "count": {"": 1, "k": 1e3, "M": 1e6, "G": 1e9},
    "bytes": {
        "": 1, "B": 1, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30,
    },
    "ms": {"": 1, "ms": 1, "s": 1e3, "us": 1e-3, "µs": 1e-3},
    "fraction": {"": 1, "%": 0.01},
}  # fmt: skip
"""By kind, what one of each unit is: of counts, bytes, milliseconds, and of 1."""

EXAMPLES: dict[Kind, str] = {
    "count": "500k or 1M",
    "bytes": "512KiB or 4MB",
    "ms": "5ms or 0.005s",
    "fraction": "0.95 or 95%",
}

_QUANTITY = re.compile(r"\s*([+-]?(?:\d+(?:_\d+)*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(\S*)\s*")


def parse_quantity(text: str | float, kind: Kind) -> float:
    """What a text such as "4MB" says, in bytes, milliseconds, a count, or a fraction in [0, 1].

    Raises: ValueError, in one line that says what was read and what to write.
    """
    if isinstance(text, bool):
        raise ValueError(f"a number is wanted, as {EXAMPLES[kind]}, not {str(text).lower()}")
    match = _QUANTITY.fullmatch(str(text))
    if match is None:
        raise ValueError(f"'{text}' is no number with a unit; write {EXAMPLES[kind]}")
    number, unit = match.groups()
    factors = UNITS[kind]
    if unit not in factors:
        near = _near(unit, factors)
        hint = f"did you mean {' or '.join(number + one for one in near)}?" if near else f"write {EXAMPLES[kind]}"
        raise ValueError(f"'{text}' has an unknown unit '{unit}'; {hint}")
    # 4.9 % is 0.049, and not 0.049000000000000004
    factor = factors[unit]
    value = float(number) * factor if factor >= 1 else float(number) / round(1 / factor)
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"'{text}' is no limit: a number from 0 on is wanted, as {EXAMPLES[kind]}")
    if kind == "fraction" and value > 1:
        hint = f"did you mean {number}%?" if unit == "" and value <= 100 else f"write {EXAMPLES[kind]}"
        raise ValueError(f"'{text}' is more than 1; {hint}")
    return value


def _near(unit: str, known: dict[str, float]) -> list[str]:
    """Units that it may have been meant for: of the same letters, then those it begins, then similar ones."""
    named = [one for one in known if one]
    same = [one for one in named if one.lower() == unit.lower()]
    begun = [one for one in named if one.lower().startswith(unit.lower())]
    return (same or begun or difflib.get_close_matches(unit, named, n=2, cutoff=0.5))[:2]


def quantity_text(value: float, kind: Kind) -> str:
    """A quantity as an option takes it: 4MB, 5ms, 0.95; up to six significant digits."""
    if kind == "fraction":
        return f"{value:.6g}"
    if kind == "ms":
        return f"{value:.6g}ms"
    steps = (("G", 1e9), ("M", 1e6), ("k", 1e3))
    prefix, size = next(((prefix, size) for prefix, size in steps if value >= size), ("", 1.0))
    return f"{value / size:.6g}{prefix}{'B' if kind == 'bytes' else ''}"
