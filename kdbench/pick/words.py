"""Figures, limits and differences as people read them. Floor 6; no torch."""

from __future__ import annotations

from kdbench.choices import FLOORS, KINDS, OPTIONS, Figure, Limit, LimitKey
from kdbench.report.column import scaled
from kdbench.units import quantity_text

MOST_DIGITS = 4
"""After the point, until a figure that misses its limit by very little is told apart from it all the same."""

NAMES: dict[LimitKey, str] = {
    "accuracy": "accuracy", "recall": "recall of the worst class", "drop": "drop to the best teacher",
    "latency": "latency", "params": "parameters", "macs": "multiply-adds", "bytes": "weights", "memory": "memory",
}  # fmt: skip

BEST: dict[LimitKey, str] = {
    "accuracy": "the most accurate", "latency": "the quickest", "params": "the one with the fewest parameters",
    "macs": "the one with the fewest multiply-adds", "bytes": "the one with the smallest weights",
    "memory": "the one that needs the least memory",
}  # fmt: skip

_BETTER: dict[LimitKey, tuple[str, str]] = {
    "accuracy": ("more accurate by {}", "less accurate by {}"),
    "latency": ("quicker by {}", "slower by {}"),
    "params": ("{} parameters fewer", "{} parameters more"),
    "macs": ("{} multiply-adds fewer", "{} multiply-adds more"),
    "bytes": ("weights smaller by {}", "weights larger by {}"),
    "memory": ("less memory by {}", "more memory by {}"),
}


def option(key: LimitKey) -> str:
    """The option of the command line that sets the limit."""
    return f"--{OPTIONS[key].removesuffix('_bytes') if key == 'memory' else OPTIONS[key]}".replace("_", "-")


def amount(value: float, key: LimitKey, digits: int | None = None) -> str:
    """A figure with its unit: "91.0 %", "2.31 ms", "0.57 M", "2.3 MB"."""
    kind = KINDS[key]
    if kind == "fraction":
        unit = "points" if key == "drop" else "%"
        return f"{100 * value:.{1 if digits is None else digits}f} {unit}"
    if kind == "ms":
        return f"{value:.{(2 if value < 10 else 1) if digits is None else digits}f} ms"
    text = scaled(value) if digits is None else _scaled(value, digits)
    if kind == "bytes":
        return f"{text}B" if " " in text else f"{text} B"
    return text


def gap(value: float, key: LimitKey) -> str:
    """A difference without its sign: "1.2 points", "0.30 ms"."""
    if KINDS[key] == "fraction":
        points = 100 * abs(value)
        return f"{points:.1f} points" if points >= 0.1 else f"{points:.2g} points"
    if KINDS[key] == "ms":
        return f"{abs(value):.2f} ms" if abs(value) >= 0.01 else f"{abs(value):.2g} ms"
    return amount(abs(value), key)


def told_apart(value: float, limit: float, key: LimitKey) -> tuple[str, str]:
    """Both with as many digits as it takes for different ones to look different."""
    texts = amount(value, key), amount(limit, key)
    for digits in range(2, MOST_DIGITS + 1):
        if value == limit or texts[0] != texts[1]:
            break
        texts = amount(value, key, digits), amount(limit, key, digits)
    return texts


def _scaled(count: float, digits: int) -> str:
    size, prefix = next(((size, mark) for size, mark in ((1e9, " G"), (1e6, " M"), (1e3, " k")) if abs(count) >= size),
                        (1.0, ""))  # fmt: skip
    return f"{count / size:.{digits}f}{prefix}"


def limit_text(limit: Limit) -> str:
    """What is asked: "accuracy of at least 90.0 %"; of a device's limit also that it is one."""
    bound = "at least" if limit.key in FLOORS else "at most"
    return f"{NAMES[limit.key]} of {bound} {amount(limit.value, limit.key)}{_whose(limit)}"


def check_text(limit: Limit, figure: Figure | None, missing: str) -> str:
    """A figure against its limit, in one line."""
    name = NAMES[limit.key]
    if figure is None:
        return f"{name}: missing ({missing}"
    judged, bound = told_apart(figure.judged, limit.value, limit.key)
    margin = margin_of(limit, figure)
    share = f", {abs(margin) / limit.value:.1%}".replace("%", " %") if limit.value else ""
    shown = amount(figure.value, limit.key)
    parts = [figure.detail] if figure.detail else []
    parts += [figure.basis] if figure.basis != "as counted" else []
    parts += [f"the figure is {shown}"] if figure.judged != figure.value and shown != judged else []
    said = f" ({'; '.join(parts)})" if parts else ""
    asked = "at least" if limit.key in FLOORS else "at most"
    verb = "inside" if margin >= 0 else "misses it"
    return f"{name}: {judged}{said}, {asked} {bound} wanted{_whose(limit)}: {verb} by {gap(margin, limit.key)}{share}"


def margin_of(limit: Limit, figure: Figure) -> float:
    """How far inside the limit; below 0: how far outside."""
    return figure.judged - limit.value if limit.key in FLOORS else limit.value - figure.judged


def difference(key: LimitKey, one: float | None, other: float | None) -> str:
    """How one is to another in a figure: "quicker by 0.30 ms"; "" where they are equal or neither is known."""
    if one is None or other is None:
        known = NAMES[key]
        return "" if one is other else f"{known} known" if other is None else f"{known} not known"
    better = one - other if key == "accuracy" else other - one
    if better == 0:
        return ""
    return _BETTER[key][0 if better > 0 else 1].format(gap(better, key))


def option_value(key: LimitKey, value: float) -> str:
    """An option with its value, as it is typed."""
    text = quantity_text(value, KINDS[key])
    return f"{option(key)} {text.removesuffix('ms') if key == 'latency' else text}"


def _whose(limit: Limit) -> str:
    return " by the device" if limit.by == "device" else ""
