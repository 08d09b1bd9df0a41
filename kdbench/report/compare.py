"""What changed between two runs, or between two leaderboards, and whether it is more than chance. Floor 6; no torch.

On the same test images at the same seeds the answers are compared in pairs (`report.paired`); else the two figures
count as independent (`report.stats.difference`); of leaderboards in JSON only the figures and their intervals are left.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import ValidationError

from kdbench.errors import RecordError, SchemaMismatch, UnknownName
from kdbench.report import collect
from kdbench.report.column import MISSING, NOT_APPLICABLE, Column, columns_for, p_text, percent, points, scaled
from kdbench.report.outcomes import Outcomes
from kdbench.report.paired import ALPHA, holm, paired
from kdbench.report.rows import Row, build_rows
from kdbench.report.schema import Leaderboard
from kdbench.report.stats import Grouped, difference
from kdbench.report.tabular import REPORT_SCHEMA_VERSION, plain_row
from kdbench.report.text import escape, grid
from kdbench.store import find_profiles, find_stores
from kdbench.types import RunRecord

COMPARISON_SCHEMA_VERSION = 1
"""Of a comparison as JSON: raised when a key changes its meaning or goes away."""

MOST_IMAGES = 20
"""Images that are named; how many there are is said."""

_SHORTEST_ID = 4  # hex digits that count as the beginning of a run's id
_COSTS = ("params", "macs", "weight_bytes", "memory_bytes", "train_seconds", "latency_ms")
_OF_A_MACHINE = ("memory_bytes", "train_seconds", "latency_ms")
_NAMES = ("dataset", "image_size", "role", "model", "method", "teacher")
_QUALITY = {"macro_f1": "macro-F1", "ece": "calibration error", "worst_recall": "worst recall"}

How = Literal["paired", "independent", "intervals", "unknown"]
_HOW: dict[How, str] = {
    "paired": "paired: the same test images at the same seeds",
    "independent": "independent: other test images or seeds, so that only the two figures are compared",
    "intervals": "independent: from the intervals alone, without the spread over the seeds",
    "unknown": "not tested: the answers are missing",
}


@dataclass(frozen=True)
class Entry:
    """One row of one side.

    Attributes:
        plain: its figures by key, as CSV and JSON have them.
        row: with its records; None where the side is a JSON file.
    """

    plain: Mapping[str, Any]
    row: Row | None = None

    @property
    def label(self) -> tuple[str, ...]:
        """What people call it: rows of two sides with one label belong together, if no cell does."""
        return tuple(
            str(self.plain.get(key)) for key in ("dataset", "image_size", "role", "model", "method", "teacher")
        )


@dataclass(frozen=True)
class Board:
    """One side: its rows, and what the keys of its figures mean."""

    name: str
    entries: tuple[Entry, ...]
    titles: Mapping[str, str]
    notes: Mapping[str, str]


@dataclass(frozen=True)
class Change:
    """From one row to its counterpart. Differences are the second minus the first, fractions.

    Attributes:
        low, high: ends of the 95 % interval of the change in accuracy; None if it is not known.
        p: two-sided and not adjusted; None unless paired.
        adjusted: by Holm over all tested rows that changed at all.
        seeds: that the paired test is over.
        figures: (before, after) by key: accuracy, recalls, costs and whatever else both sides have.
    """

    before: Entry
    after: Entry
    how: How
    change: float | None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    adjusted: float | None = None
    seeds: tuple[int, ...] = ()
    figures: Mapping[str, tuple[float | None, float | None]] = field(default_factory=dict)

    @property
    def significant(self) -> bool | None:
        """By p where there is one, else by the interval; None if neither is known."""
        if self.adjusted is not None:
            return self.adjusted < ALPHA
        return None if self.low is None or self.high is None else not self.low <= 0 <= self.high

    @property
    def same(self) -> bool:
        """Whether nothing that is compared has changed."""
        return all(one == other for one, other in self.figures.values())


@dataclass(frozen=True)
class Flip:
    """An image that more answers had right before than after.

    Attributes:
        before, after: share of the answers that are right, over seeds and rows.
        said: the class that is answered most often after, where it is wrong.
    """

    id: str
    label: str
    group: str
    before: float
    after: float
    said: str


@dataclass(frozen=True)
class Comparison:
    """All of it.

    Attributes:
        lost: from right to wrong, the groups that lost most first; won: how many went the other way.
        groups_lost: by group that lost any, how many images did.
        notes: what could not be compared, a line each.
    """

    names: tuple[str, str]
    runs: bool
    changes: tuple[Change, ...]
    only_before: tuple[Entry, ...] = ()
    only_after: tuple[Entry, ...] = ()
    lost: tuple[Flip, ...] = ()
    won: int = 0
    images: int = 0
    groups_lost: Mapping[str, int] = field(default_factory=dict)
    titles: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


# ---------------------------------------------------------------- what is compared


def compare(before: str, after: str, results: Path | str = "results") -> Comparison:
    """Compare two leaderboards (folders with records, or files of `kdbench report --format json`), or two runs.

    Args:
        before, after: both name folders or .json files; else both name runs of the results folder: the beginning of a
            run's id, a part of its title, or a pattern with * and ?. What fits several seeds of one recipe is all of
            them.
    Raises: RecordError if a side is empty or ambiguous; UnknownName if no run fits; SchemaMismatch if a file cannot
        be read.
    """
    boards = [_is_board(side) for side in (before, after)]
    if all(boards):
        return compare_boards(*_boards(Path(before), Path(after)))
    if any(boards):
        run = after if boards[0] else before
        raise RecordError(
            f"'{run}' is no folder and no .json file, and the other side is one; name two leaderboards, or two runs"
        )
    return compare_runs(before, after, results)


def compare_runs(before: str, after: str, results: Path | str = "results") -> Comparison:
    """Compare two runs, or all seeds of two recipes, of one results folder. Raises: as `compare`."""
    records, profiles, outcomes = collect(results), find_profiles(results), Outcomes.below(results)
    every = {row.cell_id: row for row in build_rows(records, profiles)}
    sides = []
    for pattern in (before, after):
        found = matching(records, pattern)
        without_result = [record for record in found if record.status != "ok" or record.test_metrics is None]
        if len(without_result) == len(found):
            raise RecordError(f"'{pattern}': {found[0].spec.title} has no result, so there is nothing to compare")
        (row,) = build_rows(found, profiles, outcomes)
        named = every[row.cell_id]
        sides.append(Row(row.records, model=named.model, recipe=named.recipe, teacher_names=named.teacher_names,
                         profiles=row.profiles, outcomes=outcomes))  # fmt: skip
    columns = columns_for(sides)
    names = [_side_name(row) for row in sides]
    one, other = (_board(name, [row], columns) for name, row in zip(names, sides, strict=True))
    found_change, notes = _changes([(one.entries[0], other.entries[0])], one, other)
    lost = _flips(found_change)
    return Comparison((names[0], names[1]), True, found_change, titles=one.titles, notes=notes, **lost)


def compare_boards(before: Board, after: Board) -> Comparison:
    """Compare two leaderboards row by row: rows of one cell belong together, then rows of one name."""
    pairs: list[tuple[Entry, Entry]] = []
    left, right = list(before.entries), list(after.entries)
    for key in (lambda entry: str(entry.plain.get("cell_id")), lambda entry: entry.label):
        here, there = Counter(map(key, left)), Counter(map(key, right))
        by_key = {key(entry): entry for entry in right if there[key(entry)] == 1}
        for entry in list(left):
            if here[key(entry)] == 1 and key(entry) in by_key:
                pairs.append((entry, by_key[key(entry)]))
                left.remove(entry)
                right.remove(by_key[key(entry)])
    changes, notes = _changes(pairs, before, after)
    return Comparison(
        (before.name, after.name), False, changes, tuple(left), tuple(right),
        titles={**before.titles, **after.titles}, notes=notes, **_flips(changes),
    )  # fmt: skip


def matching(records: Sequence[RunRecord], pattern: str) -> list[RunRecord]:
    """The run, or the seeds of one recipe, that a name means.

    Raises: UnknownName if there is none; RecordError if it means several recipes.
    """
    wanted = pattern.lower()
    found = [record for record in records if len(wanted) >= _SHORTEST_ID and record.run_id.startswith(wanted)]
    if not found:
        whole = [record for record in records if record.spec.title.lower() == wanted]
        found = whole or [record for record in records if _fits(record.spec.title.lower(), wanted)]
    if not found:
        raise UnknownName("run", pattern, {record.spec.title for record in records})
    if " > " not in wanted:  # a trained network has the name of all that became of it
        found = [record for record in found if record.spec.parent is None] or found
    if len({record.cell_id for record in found}) > 1:
        titles = sorted({f"{record.spec.title} ({record.run_id})" for record in found})
        more = f" and {len(titles) - 6} more" if len(titles) > 6 else ""
        raise RecordError(
            f"'{pattern}' fits several recipes: {', '.join(titles[:6])}{more}; take the beginning of a run's id, or "
            "more of a title"
        )
    return found


def _fits(title: str, wanted: str) -> bool:
    return fnmatchcase(title, wanted) if "*" in wanted or "?" in wanted else wanted in title


def _is_board(side: str) -> bool:
    path = Path(side)
    return path.is_dir() or path.suffix == ".json"


def _side_name(row: Row) -> str:
    title = row.spec.title
    if len(row.records) == 1:
        return f"{title} (run {row.records[0].run_id})"
    return f"{title.rpartition('/')[0]} ({len(row.records)} seeds)"


def _boards(before: Path, after: Path) -> tuple[Board, Board]:
    # the columns of both at once, where both have rows: a key then means the same on both sides
    rows = [_rows(path) if path.is_dir() else [] for path in (before, after)]
    columns = columns_for([row for side in rows for row in side])
    names = _short_names(before, after)
    one, other = (
        _board(name, side, columns) if path.is_dir() else _read_board(name, path)
        for name, path, side in zip(names, (before, after), rows, strict=True)
    )
    return one, other


def _short_names(before: Path, after: Path) -> tuple[str, str]:
    """The ends of the two paths in which they differ: where they lie is nobody's business."""
    if before.name != after.name:
        return before.name or str(before), after.name or str(after)
    return "/".join(before.parts[-2:]), "/".join(after.parts[-2:])


def _rows(folder: Path) -> list[Row]:
    if not find_stores(folder):
        raise RecordError(
            f"{folder} holds no records; name a results folder, or a file of `kdbench report --format json`"
        )
    return build_rows(collect(folder), find_profiles(folder), Outcomes.below(folder))


def _board(name: str, rows: Sequence[Row], columns: Sequence[Column]) -> Board:
    entries = tuple(Entry(plain_row(row, columns), row) for row in rows)
    return Board(
        name, entries, {column.key: column.title for column in columns}, {column.key: column.note for column in columns}
    )


def _read_board(name: str, path: Path) -> Board:
    """A leaderboard as JSON. Raises: SchemaMismatch; OSError if it is not there."""
    try:
        page = Leaderboard.model_validate_json(path.read_bytes())
    except ValidationError as problem:
        first = problem.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise SchemaMismatch(
            f"{path} is no leaderboard of schema {REPORT_SCHEMA_VERSION}: {where}: {first['msg']}; "
            "`kdbench report --format json --out FILE` writes one"
        ) from None
    entries = tuple(Entry(row.model_dump()) for row in page.rows)
    columns = {column.key: column for column in page.columns}
    return Board(
        name,
        entries,
        {key: column.title for key, column in columns.items()},
        {key: column.note for key, column in columns.items()},
    )


# ---------------------------------------------------------------- what changed


def _changes(
    pairs: Sequence[tuple[Entry, Entry]], before: Board, after: Board
) -> tuple[tuple[Change, ...], tuple[str, ...]]:
    """Each pair with its test, Holm over all of them, and what could not be compared."""
    notes: dict[str, None] = {}
    shared = [key for key in before.titles if key in after.titles]
    changes = []
    for one, other in pairs:
        keys = ["accuracy", *(key for key in shared if key.startswith("recall_")), *_QUALITY]
        for key in (key for key in shared if key.startswith(_COSTS)):
            if key.startswith(_OF_A_MACHINE) and (
                one.plain.get("machines") != other.plain.get("machines") or before.notes[key] != after.notes[key]
            ):
                notes["Times and memory of two machines or settings are not compared."] = None
            else:
                keys.append(key)
        figures = {key: (_number(one, key), _number(other, key)) for key in keys}
        changes.append(_tested(one, other, {k: v for k, v in figures.items() if v != (None, None)}))
    # a row that is the same on both sides asks no question
    tested = [number for number, change in enumerate(changes) if change.p is not None and not change.same]
    adjusted = dict(zip(tested, holm([changes[number].p or 0.0 for number in tested]), strict=True))
    return tuple(_with_adjusted(change, adjusted.get(number)) for number, change in enumerate(changes)), tuple(notes)


def _with_adjusted(change: Change, adjusted: float | None) -> Change:
    return Change(**{**change.__dict__, "adjusted": adjusted})


def _number(entry: Entry, key: str) -> float | None:
    value = entry.plain.get(key)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _tested(one: Entry, other: Entry, figures: Mapping[str, tuple[float | None, float | None]]) -> Change:
    before, after = figures.get("accuracy", (None, None))
    if before is None or after is None:
        return Change(one, other, "unknown", None, figures=figures)
    if one.row is not None and other.row is not None and one.row.answers and other.row.answers:
        seeds = _shared_seeds(one.row, other.row)
        if seeds:
            found = paired(_grouped(other.row, seeds), _grouped(one.row, seeds))
            return Change(one, other, "paired", found.gain, found.low, found.high, found.p, None, seeds, figures)
        low, high = difference(_grouped(other.row), _grouped(one.row))
        return Change(one, other, "independent", after - before, low, high, figures=figures)
    ends = [
        (_number(entry, "accuracy_interval_low"), _number(entry, "accuracy_interval_high")) for entry in (one, other)
    ]
    (low_one, high_one), (low_other, high_other) = ends
    if low_one is None or high_one is None or low_other is None or high_other is None:
        return Change(one, other, "unknown", after - before, figures=figures)
    # as `stats.difference`, of intervals without the spread over the seeds
    below, above = math.hypot(after - low_other, high_one - before), math.hypot(high_other - after, before - low_one)
    gap = after - before
    return Change(one, other, "intervals", gap, max(-1.0, gap - below), min(1.0, gap + above), figures=figures)


def _shared_seeds(one: Row, other: Row) -> tuple[int, ...]:
    """At which their answers are on the same images."""
    images, others = (next(iter(row.answers.values())).images for row in (one, other))
    if images.ids != others.ids or images.labels != others.labels:
        return ()
    return tuple(sorted(set(one.answers) & set(other.answers)))


def _grouped(row: Row, seeds: Sequence[int] = ()) -> Grouped:
    images = next(iter(row.answers.values())).images
    right = np.stack([row.answers[seed].right for seed in seeds or sorted(row.answers)])
    return Grouped.of(right, images.groups)


def _flips(changes: Sequence[Change]) -> dict[str, Any]:
    """The images that were lost, over all paired changes of the comparison, as keywords of `Comparison`."""
    before: Counter[str] = Counter()
    after: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    facts: dict[str, tuple[str, str]] = {}
    said: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for change in changes:
        if change.how != "paired" or change.before.row is None or change.after.row is None:
            continue
        for seed in change.seeds:
            one, other = change.before.row.answers[seed], change.after.row.answers[seed]
            images = other.images
            for place, identifier in enumerate(images.ids):
                asked[identifier] += 1
                before[identifier] += bool(one.right[place])
                after[identifier] += bool(other.right[place])
            for place in np.flatnonzero(one.right & ~other.right).tolist():
                identifier = images.ids[place]
                facts[identifier] = (images.labels[place], images.group_names[images.groups[place]])
                said[identifier][other.classes[other.predicted[place]]] += 1
    worse = [identifier for identifier in facts if before[identifier] > after[identifier]]
    groups = Counter(facts[identifier][1] for identifier in worse)
    drop = {identifier: (before[identifier] - after[identifier]) / asked[identifier] for identifier in worse}
    in_group: defaultdict[str, float] = defaultdict(float)
    for identifier in worse:
        in_group[facts[identifier][1]] += drop[identifier]

    def order(identifier: str) -> tuple[Any, ...]:
        group = facts[identifier][1]
        return (-round(in_group[group], 9), group, -round(drop[identifier], 9), identifier)

    lost = [
        Flip(
            identifier,
            *facts[identifier],
            before[identifier] / asked[identifier],
            after[identifier] / asked[identifier],
            min(said[identifier].items(), key=lambda told: (-told[1], told[0]))[0],
        )
        for identifier in sorted(worse, key=order)
    ]
    won = sum(after[identifier] > before[identifier] for identifier in asked)
    return {"lost": tuple(lost), "won": won, "images": len(asked), "groups_lost": dict(groups)}


# ---------------------------------------------------------------- as text


def render_comparison(found: Comparison) -> str:
    """Markdown that ends with a newline; a pure function of the comparison."""
    blocks = [
        "# Comparison",
        f"A: {escape(found.names[0])}\\\nB: {escape(found.names[1])}",
        *(_of_runs(found) if found.runs else _of_boards(found)),
        *_images(found),
        *(escape(note) for note in found.notes),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def comparison_json(found: Comparison) -> dict[str, Any]:
    """Plain values throughout; fractions, bytes, milliseconds; null is what is not known."""
    return {
        "schema_version": COMPARISON_SCHEMA_VERSION,
        "before": found.names[0],
        "after": found.names[1],
        "changes": [
            {
                **{key: change.after.plain.get(key) for key in _NAMES},
                "cell_ids": [change.before.plain.get("cell_id"), change.after.plain.get("cell_id")],
                "how": change.how,
                "seeds": list(change.seeds),
                "change": change.change,
                "interval_low": change.low,
                "interval_high": change.high,
                "p": change.p,
                "p_holm": change.adjusted,
                "significant": change.significant,
                "figures": {key: list(values) for key, values in change.figures.items()},
            }
            for change in found.changes
        ],
        "only_before": [{key: entry.plain.get(key) for key in (*_NAMES, "cell_id")} for entry in found.only_before],
        "only_after": [{key: entry.plain.get(key) for key in (*_NAMES, "cell_id")} for entry in found.only_after],
        "images": found.images,
        "won": found.won,
        "lost": [flip.__dict__ for flip in found.lost],
        "notes": list(found.notes),
    }


def verdict(change: Change) -> str:
    """One sentence: how much, how sure, and by what."""
    if change.change is None:
        return "A side has no accuracy, so there is no change to judge."
    if change.low is None or change.high is None:
        return f"B − A: {points(change.change)} points; {_HOW[change.how]}."
    ends = f"95 % interval {points(change.low)} to {points(change.high)}"
    p = "" if change.p is None else f", p {p_text(change.p)}"
    sure = "significant" if change.significant else "not significant"
    seeds = ""
    if change.how == "paired":
        many = f"seed{'s' if len(change.seeds) > 1 else ''} {', '.join(map(str, change.seeds))}"
        seeds = f" ({many})"
        if len(change.seeds) == 1:
            seeds += "; one seed says nothing of other trainings"
    return f"**B − A: {points(change.change)} points, {ends}{p}: {sure}.** {_HOW[change.how].capitalize()}{seeds}."


def _of_runs(found: Comparison) -> list[str]:
    (change,) = found.changes
    body = [
        [escape(_title(key, found.titles)), _figure(key, one), _figure(key, other), _difference(key, one, other)]
        for key, (one, other) in change.figures.items()
    ]
    return [verdict(change), grid(body, ["figure", "A", "B", "B − A"], ("left", "right", "right", "right"))]


def _of_boards(found: Comparison) -> list[str]:
    changed = [change for change in found.changes if not change.same]
    same = len(found.changes) - len(changed)
    blocks = [
        f"{len(found.changes)} rows are on both sides, {same} of them unchanged; {len(found.only_before)} are only in "
        f"A, {len(found.only_after)} only in B."
    ]
    moved = [change for change in changed if change.how != "unknown" or change.change]
    if moved:
        body = [
            [
                *_row_names(change.after),
                *(_figure("accuracy", value) for value in change.figures.get("accuracy", (None, None))),
                NOT_APPLICABLE if change.change is None else points(change.change),
                MISSING
                if change.low is None or change.high is None
                else f"{points(change.low)} to {points(change.high)}",
                NOT_APPLICABLE if change.adjusted is None else p_text(change.adjusted),
                {True: "yes", False: "no", None: "not known"}[change.significant],
            ]
            for change in sorted(moved, key=lambda change: (-abs(change.change or 0.0), change.after.label))
        ]
        headings = ["data set", "model", "method", "teacher", "A (%)", "B (%)", "B − A (points)", "95 % interval",
                    "p (Holm)", "significant"]  # fmt: skip
        blocks += ["## Accuracy", grid(body, headings, ("left",) * 4 + ("right",) * 6)]
        blocks += ["\n".join(f"- {_HOW[how]}: {many}" for how, many in sorted(Counter(c.how for c in moved).items()))]
    blocks += _others("Recall by class", "recall_", changed, found.titles)
    blocks += _others("Costs", _COSTS, changed, found.titles)
    for name, entries in (("A", found.only_before), ("B", found.only_after)):
        if entries:
            body = [[*_row_names(entry), _figure("accuracy", _number(entry, "accuracy"))] for entry in entries]
            headings = ["data set", "model", "method", "teacher", "accuracy (%)"]
            blocks += [f"## Only in {name}", grid(body, headings, ("left",) * 4 + ("right",))]
    return blocks


def _others(
    heading: str, keys: str | tuple[str, ...], changes: Sequence[Change], titles: Mapping[str, str]
) -> list[str]:
    """What else changed, a line for each figure that did."""
    body = [
        [*_row_names(change.after), escape(_title(key, titles)), _figure(key, one), _figure(key, other),
         _difference(key, one, other)]
        for change in changes
        for key, (one, other) in change.figures.items()
        if key.startswith(keys) and one != other
    ]  # fmt: skip
    headings = ["data set", "model", "method", "teacher", "figure", "A", "B", "B − A"]
    return [f"## {heading}", grid(body, headings, ("left",) * 5 + ("right",) * 3)] if body else []


def _images(found: Comparison) -> list[str]:
    if not found.images:
        return []
    total = len(found.lost)
    lines = [
        "## Images that were right and are wrong",
        f"Of {found.images:,} images {total:,} were lost and {found.won:,} won"
        + (f", the lost ones in {len(found.groups_lost):,} groups." if len(found.groups_lost) < total else "."),
    ]
    if total:
        copies = any(flip.group != flip.id for flip in found.lost)
        body = [
            [
                *([escape(flip.group), str(found.groups_lost[flip.group])] if copies else []),
                escape(flip.id), escape(flip.label), escape(flip.said), percent(flip.before), percent(flip.after),
            ]
            for flip in found.lost[:MOST_IMAGES]
        ]  # fmt: skip
        headings = [*(["group", "lost in it"] if copies else []), "image", "label", "B says", "right in A (%)",
                    "right in B (%)"]  # fmt: skip
        align = (*(("left", "right") if copies else ()), "left", "left", "left", "right", "right")
        lines.append(grid(body, headings, align))
        if total > MOST_IMAGES:
            lines.append(f"And {total - MOST_IMAGES:,} more; `--json` has them all.")
    return lines


def _row_names(entry: Entry) -> list[str]:
    plain = entry.plain
    return [
        escape(f"{plain.get('dataset')}, {plain.get('image_size')} px"),
        escape(str(plain.get("model"))),
        escape(str(plain.get("method"))),
        escape(str(plain.get("teacher") or NOT_APPLICABLE)),
    ]


def _title(key: str, titles: Mapping[str, str]) -> str:
    """With the unit."""
    if key.startswith("recall_"):
        return f"recall of {titles.get(key, key.removeprefix('recall_'))} (%)"
    if key in ("accuracy", *_QUALITY):
        return f"{_QUALITY.get(key, key)} (%)"
    unit = " (ms)" if key.startswith("latency_ms") else " (s)" if key == "train_seconds" else ""
    return f"{titles.get(key, key)}{unit}"


def _is_share(key: str) -> bool:
    return key in ("accuracy", *_QUALITY) or key.startswith("recall_")


def _figure(key: str, value: float | None) -> str:
    if value is None:
        return MISSING
    if _is_share(key):
        return percent(value)
    if key.startswith("latency_ms") or key == "train_seconds":
        return f"{value:.3g}"
    return f"{scaled(value)}{'B' if key.endswith('_bytes') else ''}"


def _difference(key: str, one: float | None, other: float | None) -> str:
    """In points, or in percent of the first."""
    if one is None or other is None:
        return NOT_APPLICABLE
    if _is_share(key):
        return points(other - one)
    return "0" if one == other else f"{100 * (other / one - 1):+.1f} %" if one else MISSING
