"""What compression cost and brought, step by step: from the trained network to the file that is shipped. Floor 6;
no torch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from kdbench.report.column import MISSING, NOT_APPLICABLE, percent_text, points, scaled
from kdbench.report.figures import CellLatency, LatencySetting, milliseconds, told_apart
from kdbench.report.paired import Paired
from kdbench.report.rows import Row, latency_settings
from kdbench.report.text import escape, grid

LOST = 0.005
"""A loss of accuracy (a fraction) that is worth a word: what users of int8 commonly accept."""


@dataclass(frozen=True)
class Step:
    """One row of a lineage; the trained network is at depth 0."""

    row: Row
    depth: int


@dataclass(frozen=True)
class Way:
    """One way to run networks, whatever they compute in: float networks in float, quantised ones in int8."""

    title: str
    settings: tuple[LatencySetting, ...]

    def of(self, row: Row) -> CellLatency | None:
        """Of a row the latency in what it computes in; of several floats the quickest."""
        quantised = row.spec.quantise is not None
        found = [
            latency
            for setting in self.settings
            if (setting.precision == "int8") == quantised and (latency := row.latency(setting)) is not None
        ]
        return min(found, key=lambda latency: latency.median_ms, default=None)


def lineages(rows: Sequence[Row]) -> list[list[Step]]:
    """Of each trained network that was compressed itself and what became of it, depth first, in the order of the rows.

    Where the trained network's own record is not there, the lineage begins with what is left of it.
    """
    by_cell = {row.cell_id: row for row in rows if row.n_ok}
    children: defaultdict[str, list[Row]] = defaultdict(list)
    roots: dict[str, Row] = {}
    for row in by_cell.values():
        parent = row.spec.parent
        if parent is not None and parent.cell_id in by_cell:
            children[parent.cell_id].append(row)
        elif parent is not None or row.role != "teacher":
            roots[row.cell_id] = row

    def below(row: Row, depth: int) -> Iterator[Step]:
        yield Step(row, depth)
        for child in sorted(children[row.cell_id], key=lambda child: (child.spec.quantise is not None, child.model)):
            yield from below(child, depth + 1)

    found = [list(below(row, 0)) for row in roots.values()]
    return [steps for steps in found if len(steps) > 1 or steps[0].row.role == "compressed"]


def ways_of(rows: Sequence[Row]) -> list[Way]:
    """The ways in which compressed networks were timed."""
    settings = latency_settings(rows)
    groups: defaultdict[LatencySetting, list[LatencySetting]] = defaultdict(list)
    for setting in settings:
        groups[replace(setting, precision="")].append(setting)
    names = told_apart(list(groups))
    return [
        Way(" ".join(names[key].title) or key.runtime, tuple(group))
        for key, group in groups.items()
        if any(row.role == "compressed" and row.latency(setting) for row in rows for setting in group)
    ]


def what_compression_cost(rows: Sequence[Row]) -> list[str]:
    """The blocks of a data set's page; none where nothing was compressed."""
    found = lineages(rows)
    if not found:
        return []
    ways = ways_of(rows)
    body = [cells for steps in found for cells in _lines(steps, ways)]
    headings = ["network", "accuracy (%)", "since trained (points)", "params", "MACs", "bytes"]
    headings += [escape(f"{way.title} (ms)") for way in ways]
    lines = [
        "### What compression cost",
        grid(body, headings, ("left", *["right"] * (len(headings) - 1))),
        "In brackets: of a change of accuracy its 95 % interval, paired image by image at equal seeds; of counts and "
        "bytes what is left of the trained network; of a latency how many times as fast it is. A step's fine-tuning is "
        "part of it. Accuracy of int8 is that of the file, in its runtime. Each seed is pruned by itself: counts and "
        "bytes are the largest of them, a latency is of the first.",
        *(_words(found, ways)),
    ]
    if not ways:
        lines.append("No latency of a compressed network is here: `kdbench profile --results DIR` measures them.")
    return lines


def _lines(steps: Sequence[Step], ways: Sequence[Way]) -> Iterator[list[str]]:
    first = steps[0].row
    for step in steps:
        row = step.row
        yield [
            _name(step),
            percent_text(row, row.accuracy or 0.0, row.accuracy_std),
            _change(row, first),
            _part(row.params, first.params, row is first),
            _part(row.macs, first.macs, row is first),
            _part(row.weight_bytes, first.weight_bytes, row is first, "B"),
            *(_faster(way.of(row), way.of(first), row is first) for way in ways),
        ]


def _name(step: Step) -> str:
    row = step.row
    if step.depth == 0:
        taught = f" < {row.teacher}" if row.teacher else ""
        return f"**{escape(row.model)}** {escape(row.method + taught)}"
    # two stages of one name differ in how they were fine-tuned, which the recipe says
    return "&nbsp;" * 4 * (step.depth - 1) + "→ " + escape(row.stages[-1])


def _change(row: Row, first: Row) -> str:
    if row is first or row.accuracy is None or first.accuracy is None:
        return NOT_APPLICABLE
    test = row.lineage_test
    if test is None:
        return points(row.accuracy - first.accuracy)
    return f"{points(test.gain)} ({points(test.low)} to {points(test.high)})"


def _part(value: int | None, whole: int | None, is_first: bool, unit: str = "") -> str:
    if value is None:
        return MISSING
    text = f"{scaled(value)}{unit}" if unit and scaled(value)[-1].isalpha() else f"{scaled(value)} {unit}".strip()
    return text if is_first or not whole else f"{text} ({100 * value / whole:.0f} %)"


def _faster(latency: CellLatency | None, before: CellLatency | None, is_first: bool) -> str:
    if latency is None:
        return MISSING
    text = milliseconds(latency.median_ms, latency.interval_ms) + (" †" if latency.unstable else "")
    if is_first or before is None or latency.median_ms <= 0:
        return text
    return f"{text} ({before.median_ms / latency.median_ms:.1f}x)"


def _words(found: Sequence[Sequence[Step]], ways: Sequence[Way]) -> list[str]:
    """Where int8 brings nothing, and where a step costs more than users accept."""
    slow, dear = [], []
    for steps in found:
        by_cell = {step.row.cell_id: step.row for step in steps}
        for step in steps:
            row, parent = step.row, step.row.spec.parent
            before = by_cell.get(parent.cell_id) if parent is not None else None
            if before is None:
                continue
            test = row.stage_test
            if test is not None and test.gain < -LOST:
                dear.append(f"{escape(row.model)} ({points(test.gain)}{_doubt(test)})")
            if row.spec.quantise is None:
                continue
            for way in ways:
                now, then = way.of(row), way.of(before)
                if now is not None and then is not None and not _quicker(now, then):
                    slow.append(f"{escape(row.model)} in {escape(way.title)} ({then.median_ms / now.median_ms:.2f}x)")
    lines = []
    if slow:
        lines.append(f"**Int8 is not faster, or not beyond the intervals:** {'; '.join(slow)}.")
    if dear:
        lines.append(f"**Steps that cost more than {100 * LOST:g} points:** {'; '.join(dear)}.")
    return lines


def _quicker(now: CellLatency, then: CellLatency) -> bool:
    if now.interval_ms is not None and then.interval_ms is not None:
        return now.interval_ms[1] < then.interval_ms[0]
    return now.median_ms < then.median_ms


def _doubt(test: Paired) -> str:
    return "" if test.high < 0 else ", may be chance"
