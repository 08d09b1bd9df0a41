"""The leaderboard as GitHub shows it. Floor 6; no torch.

A pure function of the records: no clock, no machine, no order of files goes into it. Percent stand only here.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from kdbench.report.column import (
    COLUMNS,
    MISSING,
    NOT_APPLICABLE,
    Column,
    columns_for,
    p_text,
    percent,
    points,
    points_text,
    scaled,
)
from kdbench.report.lineage import what_compression_cost
from kdbench.report.outcomes import Outcomes
from kdbench.report.protocols import across_protocols
from kdbench.report.rows import Row, build_rows, dataset_key, dataset_titles, failure_text, newest
from kdbench.report.text import LONGEST_LIST, dates, escape, grid, machines, made_with, shortened, versions
from kdbench.store import newest_profiles, started_at
from kdbench.types import DataCard, Environment, ProfileRecord, RunRecord, TrainSpec

ENOUGH_SEEDS = 5
"""Seeds below which a sample standard deviation says little: with 3, its own 95 % interval spans a factor of 12."""

SIZES = (100_000, 500_000, 1_000_000, 2_000_000, 5_000_000)
"""Parameters at which a class of sizes ends; the last one has no end."""

NEAR = 0.01
"""How much accuracy (a fraction) a smaller model may lose and still be named as the thrifty choice."""


def render_markdown(
    records: Sequence[RunRecord],
    command: str | None = None,
    title: str = "Leaderboard",
    profiles: Iterable[ProfileRecord] = (),
    outcomes: Outcomes | None = None,
    names: Sequence[str] | None = None,
) -> str:
    """The whole page.

    Args:
        records: of any number of data sets, in any order.
        command: what made them; None takes it from the records.
        title: the page's heading.
        profiles: costs measured apart from the runs, in any order; they join the rows they belong to.
        outcomes: where the answers of the runs are looked up; without it no figure that needs them is there.
        names: of the columns wanted, as `columns_for` takes them; None is all of them.
    """
    records, profiles = newest(records), newest_profiles(profiles)
    rows = build_rows(records, profiles, outcomes)
    columns = columns_for(rows, names)
    sections: defaultdict[str, list[Row]] = defaultdict(list)
    for row in rows:
        sections[dataset_key(row.dataset)].append(row)
    titles = dataset_titles([group[0].dataset for group in sections.values()])
    any_protocol = any(record.data is not None and record.data.protocol for record in records)

    # the answer first: where splits are compared, that is what the page is for
    blocks = [f"# {escape(title)}", _summary(records), *across_protocols(rows)]
    shown: set[str] = set()
    for name, group in zip(titles, sections.values(), strict=True):
        kept = columns_with_figures(group, columns)
        shown |= {column.key for column in kept}
        blocks += _section(name, group, kept, columns, any_protocol)
    blocks += _failures(records)
    blocks += _unusable(outcomes.notes(records) if outcomes is not None else [])
    blocks += _legend([column for column in columns if column.key in shown], rows)
    blocks += _provenance(records, command, rows, profiles)
    return "\n\n".join(block for block in blocks if block) + "\n"


# ---------------------------------------------------------------- one data set


def _section(
    name: str, rows: Sequence[Row], columns: Sequence[Column], all_columns: Sequence[Column], any_protocol: bool
) -> list[str]:
    main = [column for column in columns if column.table == ""]
    return [
        f"## {escape(name)}",
        _protocol(rows, any_protocol),
        _in_short(rows, main),
        _table(rows, main, ranges=True),
        _caution(rows, columns, all_columns),
        *_by_size(rows),
        *_bought(rows),
        *what_compression_cost(rows),
        *_further_tables(rows, columns),
        *_data(rows),
        _training(rows),
    ]


def _protocol(rows: Sequence[Row], any_protocol: bool) -> str:
    """`protocol_lines` as one paragraph."""
    lines = []
    for leaky, text in protocol_lines(rows, any_protocol):
        head, _, rest = text.partition(": ")
        lines.append(f"**{head}:** {escape(rest)}" if leaky else escape(text))
    return "\\\n".join(lines)


def protocol_lines(rows: Sequence[Row], any_protocol: bool) -> list[tuple[bool, str]]:
    """How the images were split, whether that leaks, and how many test images are independent: (is it a warning, what).

    Args:
        any_protocol: whether any record of the page notes its protocol; where none does, nothing is said.
    """
    cards = [record.data for row in rows for record in row.records if record.data is not None]
    names = sorted({card.protocol for card in cards if card.protocol})
    lines = []
    if names:
        lines.append((False, f"Protocol: {' or '.join(names)}."))
    elif any_protocol:
        lines.append((False, "Protocol: not noted."))
    leaks = sorted({card.leak.rstrip(".") for card in cards})
    lines += [(True, f"Leaky protocol: {leak}.") for leak in leaks if leak]
    counts = _test_counts(rows)
    if counts is not None:
        images, independent = counts
        if independent < images:
            said = f"{images:,} test images in {independent:,} independent groups: intervals count groups."
            lines.append((False, said))
        elif any(row.interval is not None for row in rows):
            said = (
                f"{images:,} test images, none known to belong together with another: intervals count images."
                if all(card.independent for card in cards)
                else f"{images:,} test images. Which of them belong together was not noted when these runs were made: "
                "intervals count images, and are too narrow where some are copies."
            )
            lines.append((False, said))
    return lines


def _test_counts(rows: Sequence[Row]) -> tuple[int, int] | None:
    """Test images, and how many of them are independent; None where that is not known, or not the same for all."""
    known = {
        (record.test_metrics.count, row.independent)
        for row in rows
        for record in row.records
        if record.test_metrics is not None and row.independent is not None
    }
    images, independent = next(iter(known)) if len(known) == 1 else (0, None)
    return None if independent is None else (images, independent)


def _further_tables(rows: Sequence[Row], columns: Sequence[Column]) -> list[str]:
    """The tables beside the leaderboard, of the rows that have a result; only those with figures."""
    finished = [row for row in rows if row.n_ok]
    titles = dict.fromkeys(column.table for column in columns if column.table)
    blocks = []
    for title in titles if finished else ():
        blocks += [f"### {title}", _table(finished, [column for column in columns if column.table == title])]
    return blocks


def _in_short(rows: Sequence[Row], columns: Sequence[Column]) -> str:
    """The answer first: the most accurate small model, and the smallest that comes near it."""
    ranked = [row for row in rows if row.rank is not None]
    if not ranked:
        return "**No small model has a result yet.**"
    best = ranked[0]
    lines = [f"**Most accurate small model:** {_portrait(best, columns)}."]
    if best.params is not None and best.accuracy is not None:
        floor = best.accuracy - NEAR
        near = [row for row in ranked if row.params is not None and (row.accuracy or 0.0) >= floor]
        smallest = min(near, key=lambda row: row.params or 0)  # the first of equals is the most accurate
        if (smallest.params or 0) < best.params:
            lines.append(f"**Smallest within one point of it:** {_portrait(smallest, columns)}.")
        else:
            small = min((row for row in ranked if row.params is not None), key=lambda row: row.params or 0)
            if (small.params or 0) < best.params:
                lines.append(f"**Smallest, more than one point behind:** {_portrait(small, columns)}.")
    return "\\\n".join(lines)  # a backslash breaks the line inside one paragraph


def _portrait(row: Row, columns: Sequence[Column]) -> str:
    if row.alone:
        how = f"trained alone ({escape(row.method)})"
    else:
        how = f"{f'taught by {escape(row.teacher)} ' if row.teacher else ''}with {escape(row.method)}"
    facts = []
    if row.gain is not None:
        facts.append(f"{points(row.gain)} points over training alone")
    if row.teacher_accuracy is not None and row.accuracy is not None:
        behind = row.accuracy - row.teacher_accuracy
        facts.append(f"{points(behind)} to its teacher")
    cost = [
        f"{scaled(row.params)} parameters" if row.params is not None else "",
        *(
            f"{column.show(row).split(' ')[0]} {escape(column.unit + column.title.removeprefix('latency'))}"
            for column in columns
            if column.key.startswith("latency_ms") and column.value(row) is not None
        ),
    ]
    accuracy = f"{percent(row.accuracy or 0.0)} %" + (f" ({', '.join(facts)})" if facts else "")
    return f"{escape(row.model)} {how}: " + ", ".join([accuracy, *(fact for fact in cost if fact)])


def _table(rows: Sequence[Row], columns: Sequence[Column], ranges: bool = False) -> str:
    """Args: ranges: whether the ranks that a row can have stand beside its rank."""
    best = {column.key: best_cells(rows, column) for column in columns}
    body = []
    for row in rows:
        cells = [escape(column.show(row)) for column in columns]
        cells = [
            f"**{cell}**" if row.cell_id in best[column.key] else cell
            for cell, column in zip(cells, columns, strict=True)
        ]
        if cells and not row.n_ok:  # the reason stands where the eye looks for the result
            cells[0] = f"failed ({escape((row.failure or '').partition(':')[0])})"
        teacher = escape(row.teacher) or NOT_APPLICABLE
        body.append([rank_text(row, ranges), escape(row.model), row.role, escape(row.method), teacher, *cells])
    headings = ["#", "model", "role", "method", "teacher", *(escape(column.heading) for column in columns)]
    return grid(body, headings, ("right", *["left"] * 4, *["right"] * len(columns)))


def rank_text(row: Row, ranges: bool) -> str:
    """ "2 (1 to 5)"; "2 =" where another row has the same accuracy."""
    if row.rank is None:
        return NOT_APPLICABLE
    tied = " =" if row.standing is not None and row.rank in row.standing.tied else ""
    low, high = (row.rank_range if ranges else None) or (0, 0)
    can_be = "" if not low else f" ({low})" if low == high else f" ({low} to {high})"
    return f"{row.rank}{tied}{can_be}"


def best_cells(rows: Sequence[Row], column: Column) -> set[str]:
    """The cells of the small models with the best figure; none where all are equal or the column is not ranked."""
    figures = {
        row.cell_id: round(value, 12)  # the last digits may differ between equal means
        for row in rows
        if row.rank is not None and isinstance(value := column.value(row), int | float)
    }
    if column.better is None or len(set(figures.values())) < 2:
        return set()
    top = max(figures.values()) if column.better == "max" else min(figures.values())
    return {cell_id for cell_id, value in figures.items() if value == top}


def columns_with_figures(rows: Sequence[Row], columns: Sequence[Column]) -> list[Column]:
    """A column without a single figure is not shown; `_caution` says which."""
    return [column for column in columns if any(column.value(row) is not None for row in rows)] or list(columns[:1])


def _caution(rows: Sequence[Row], columns: Sequence[Column], all_columns: Sequence[Column]) -> str:
    """How far the figures carry, and what is not there."""
    lines = []
    finished = [row for row in rows if row.n_ok]
    counts = sorted({row.n_ok for row in finished if row.role != "teacher"} or {row.n_ok for row in finished})
    if counts:
        few, many = counts[0], counts[-1]
        seeds = f"{many} seed{'s' if many > 1 else ''}" if few == many else f"{few} to {many} seeds"
        if many == 1:
            lines.append(f"{seeds}: no spread can be given, and a small difference may be chance.")
        elif few < ENOUGH_SEEDS:
            lines.append(f"{seeds}: the spread is a rough guess, and differences within it do not rank.")
        else:
            lines.append(f"{seeds}: mean ± sample standard deviation; differences within the spread do not rank.")
    tested = {record.test_metrics.count for row in finished for record in row.records if record.test_metrics}
    if tested:
        smallest = min(tested)
        known = _test_counts(rows)
        if known is not None and known[1] < known[0]:
            images, independent = known
            one, other = _weight(independent), _weight(images)
            of_all = f", one of all {images:,} images is {other}" if other != one else ""
            lines.append(f"One of the {independent:,} independent groups of test images is {one} points{of_all}.")
        else:
            lines.append(f"One of the {smallest:,} test images is {_weight(smallest)} points.")
    shown = {column.key for column in columns}
    gone = [
        column.heading
        for column in all_columns
        if column.key not in shown
        and column.table == ""  # a further table of which there is nothing was not asked for, or not of these classes
        and any(row.n_ok and column.applies(row) for row in rows)
    ]
    if gone:
        lines.append(f"Missing in every row: {escape(', '.join(gone))}.")
    if any(row.rank is not None for row in rows) and any(row.role == "teacher" for row in rows):
        lines.append("Teachers stand in the order but take no rank; bold is the best among the ranked.")
    return " ".join(lines)


def _weight(images: int) -> str:
    """One of so many in percentage points."""
    points_each = 100 / images
    return f"{points_each:.{1 if points_each >= 0.1 else 2}f}"


def _by_size(rows: Sequence[Row]) -> list[str]:
    """The most accurate small model of each class of sizes; nothing where all are of one class."""
    classes: defaultdict[int, list[Row]] = defaultdict(list)
    for row in rows:
        if row.rank is not None and row.params is not None:
            classes[bisect_left(SIZES, row.params)].append(row)  # the most accurate stands first
    if len(classes) < 2:
        return []
    gain = COLUMNS.get("gain")
    body = []
    for place, (best, *others) in sorted(classes.items()):
        accuracy, interval = percent(best.accuracy or 0.0), best.interval
        among = len({best.model, *(row.model for row in others)})
        body.append(
            [
                f"up to {scaled(SIZES[place])}" if place < len(SIZES) else f"above {scaled(SIZES[-1])}",
                escape(best.model),
                escape(best.method),
                escape(best.teacher) or NOT_APPLICABLE,
                f"{accuracy} ({percent(interval[0])} to {percent(interval[1])})" if interval else accuracy,
                escape(gain.show(best)),
                scaled(best.macs) if best.macs is not None else MISSING,
                rank_text(best, ranges=True),
                f"{_counted(1 + len(others), 'row')}, {_counted(among, 'model')}",
            ]
        )
    found = any(best.interval for best, *_ in classes.values())
    accuracies = "accuracy (%), 95 % interval" if found else "accuracy (%)"
    headings = [
        "parameters",
        "model",
        "method",
        "teacher",
        accuracies,
        escape(gain.heading),
        "MACs",
        "#",
        "chosen from",
    ]
    return [
        "### Most accurate by size",
        grid(body, headings, (*["left"] * 4, *["right"] * 5)),
        "The best of many is partly the luckiest: the more rows it was chosen from, the more its accuracy flatters it.",
    ]


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' if count != 1 else ''}"


def _bought(rows: Sequence[Row]) -> list[str]:
    """Student by teacher, with and without ground truth: the gain in points, and what of it is more than chance."""
    pairs: defaultdict[tuple[str, str, str], dict[bool, Row]] = defaultdict(dict)
    for row in rows:
        if row.role == "student" and row.n_ok:
            pairs[(row.model, row.recipe, row.teacher)][row.origin.method.ground_truth] = row
    if not pairs:
        return []
    truths = (True, False)
    tested = {truth: any(one[truth].gain_test for one in pairs.values() if truth in one) for truth in truths}
    body = []
    for (model, recipe, teacher), by_truth in sorted(pairs.items()):
        one = next(iter(by_truth.values()))
        body.append(
            [
                escape(model),
                _or_missing(one.baseline_accuracy),
                escape(recipe),
                escape(teacher) or NOT_APPLICABLE,
                _or_missing(one.teacher_accuracy) if teacher else NOT_APPLICABLE,
                *(cell for truth in truths for cell in _gain(by_truth.get(truth), tested[truth])),
            ]
        )
    headings = ["student", "alone (%)", "method", "teacher", "teacher (%)"]
    for truth in truths:
        headings.append("gain with ground truth (points)" if truth else "gain without (points)")
        headings += ["95 % interval", "p (Holm)"] if tested[truth] else []
    return [
        "### What distillation bought",
        grid(body, headings, ("left", "right", "left", "left", *["right"] * (len(headings) - 4))),
        _what_p_says([row for by_truth in pairs.values() for row in by_truth.values()]),
    ]


def _gain(row: Row | None, tested: bool) -> list[str]:
    """The gain; where any row of the column was tested, with its interval and p."""
    if row is None:
        return [NOT_APPLICABLE] * (3 if tested else 1)
    cells = [MISSING if row.gain is None else escape(points_text(row, row.gain, row.gain_std))]
    if tested:
        test, p = row.gain_test, row.gain_p
        cells += (
            [MISSING] * 2 if test is None or p is None else [f"{points(test.low)} to {points(test.high)}", p_text(p)]
        )
    return cells


def _what_p_says(rows: Sequence[Row]) -> str:
    """What the tests count, and what they cannot know."""
    tests = [row.gain_test for row in rows if row.gain_test is not None]
    if not tests:
        return ""
    seeds = sorted({test.seeds for test in tests})
    chance = sum(row.gain_significant is False for row in rows)
    lines = [
        f"{len(tests) - chance} of {len(tests)} gains are significant: below 0.05 after Holm's correction, which "
        "counts all of them. Each is tested on the differences to training alone, image by image at equal seeds; "
        "images of one group count once."
    ]
    if seeds[0] == 1:
        some = "One seed each" if seeds[-1] == 1 else "Where there is one seed"
        lines.append(
            f"**{some}: interval and p hold for these very trainings on other test images,** and say nothing of what "
            "another seed would give."
        )
    if 1 < seeds[-1] < ENOUGH_SEEDS:
        few = min(count for count in seeds if count > 1)
        counts = f"{few}" if few == seeds[-1] else f"{few} to {seeds[-1]}"
        lines.append(
            f"**{counts} seeds are few:** interval and p contain the spread over them, but it is known badly, so that "
            "even a large gain may not be significant."
        )
    return " ".join(lines)


def _or_missing(fraction: float | None) -> str:
    return MISSING if fraction is None else percent(fraction)


def _data(rows: Sequence[Row]) -> list[str]:
    """Which images: sources, classes, splits, what was left out, and the caveats as a quotation."""
    known = [
        (started_at(record), record.run_id, record.data)
        for row in rows
        for record in row.records
        if record.data is not None
    ]
    if not known:
        return ["### Data and training", "missing: no record says which images it saw."]
    card = max(known, key=lambda found: found[:2])[2]
    sources = ", ".join(f"{escape(name)} {count:,}" for name, count in sorted(card.sources.items()))
    if len(card.sources) == 1:
        sources = escape(next(iter(card.sources)))
    elif card.sources:
        sources = f"{len(card.sources)} sources: {sources}"
    images = sum(sum(split.values()) for split in card.splits.values())
    splits = ", ".join(
        f"{name} {sum(card.splits[name].values()):,}" for name in ("train", "val", "test") if name in card.splits
    )
    lines = [
        f"- {images:,} images from {sources or 'unnamed sources'}",
        f"- {splits}",
        f"- {len(card.classes)} classes (test images): {_classes(card)}",
    ]
    if card.duplicates:
        lines.append(f"- {card.duplicates:,} images occur more than once; all copies of one are in the same split")
    if card.left_out:
        reasons: Counter[str] = Counter()
        for left_out in card.left_out:
            reasons[left_out.reason] += left_out.count
        most_first = sorted(reasons.items(), key=lambda found: (-found[1], found[0]))
        said = "; ".join(f"{escape(reason)} ({count:,})" for reason, count in most_first)
        total = sum(reasons.values())
        lines.append(f"- {total:,} file{'s' if total != 1 else ''} left out: {said}")
    if len({other.content_hash for _, _, other in known}) > 1:
        lines.append("- **The runs of this table did not all see the same images:** their content hashes differ")
    caveats = "\n>\n".join(f"> {escape(caveat)}" for caveat in card.caveats)
    return ["### Data and training", "\n".join(lines), caveats]


def _classes(card: DataCard) -> str:
    test = card.splits.get("test", {})
    named = [
        f"{escape(label)} {test[label]:,}" if label in test else f"{escape(label)} (none)" for label in card.classes
    ]
    more = f" and {len(named) - LONGEST_LIST} more" if len(named) > LONGEST_LIST else ""
    return ", ".join(named[:LONGEST_LIST]) + more


def _training(rows: Sequence[Row]) -> str:
    """The recipe in one line for each role; values that differ between its rows stand side by side."""
    said = {
        who: _training_of([row.origin.train for row in rows if (row.role == "teacher") == of_teachers])
        for who, of_teachers in (("Students", False), ("Teachers", True))
    }
    if said["Students"] == said["Teachers"]:
        return f"Students and teachers were trained for {said['Students']}."
    return " ".join(f"{who} were trained for {how}." for who, how in said.items() if how)


def _training_of(trains: Sequence[TrainSpec]) -> str:
    def either(values: Iterable[float | str]) -> str:
        return " or ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)

    if not trains:
        return ""
    return (
        f"{either(sorted({train.epochs for train in trains}))} epochs with "
        f"{either(sorted({train.optimizer for train in trains}))}, learning rate "
        f"{either(sorted({train.learning_rate for train in trains}))}, batches of "
        f"{either(sorted({train.batch_size for train in trains}))}, "
        f"{either(sorted({train.precision for train in trains}))}"
    )


# ---------------------------------------------------------------- the whole page


def _summary(records: Sequence[RunRecord]) -> str:
    """Who measured what, when and on what, in one line."""
    environments = [record.environment for record in records]
    return f"{_run_count(records)}, {dates(records)}, on {machines(environments)}; {versions(environments)}."


def _run_count(records: Sequence[RunRecord]) -> str:
    counts = Counter(record.status for record in records)
    bad = [f"{counts[status]} {status}" for status in ("failed", "diverged") if counts[status]]
    total = f"{len(records)} run{'s' if len(records) != 1 else ''}"
    return f"{total} ({', '.join(bad)})" if bad else total


def _failures(records: Sequence[RunRecord]) -> list[str]:
    failed = [record for record in records if record.status != "ok" or record.test_metrics is None]
    if not failed:
        return []
    lines = []
    for record in sorted(failed, key=lambda record: (record.spec.title, record.run_id)):
        reason = shortened(failure_text(record))
        status = "" if record.status == "ok" else f" {record.status}:"
        lines.append(f"- {escape(record.spec.title)} (run {escape(record.run_id)}){status} {escape(reason)}")
    return ["## Runs without a result", "\n".join(lines)]


def _unusable(notes: Sequence[str]) -> list[str]:
    if not notes:
        return []
    more = [f"- and {len(notes) - LONGEST_LIST} more"] if len(notes) > LONGEST_LIST else []
    return [
        "## Files that could not be used",
        "\n".join([*(f"- {escape(shortened(note))}" for note in notes[:LONGEST_LIST]), *more]),
    ]


def _legend(columns: Sequence[Column], rows: Sequence[Row]) -> list[str]:
    by_note: defaultdict[str, list[str]] = defaultdict(list)
    for column in columns:
        if column.note and column.table is not None:
            by_note[column.note].append(f"**{escape(column.heading)}**")
    lines = [f"- {', '.join(headings)}: {escape(note)}" for note, headings in by_note.items()]
    ranks = []
    if any(row.rank_range for row in rows):
        ranks.append(
            "in brackets the ranks that a row can have: one more than there are rows significantly better, to what the "
            "significantly worse ones leave, by paired tests of all pairs with Holm's correction, so that with 95 % "
            "all of them hold at once (Mogstad et al., Review of Economic Studies 91 (2024) 476)"
        )
    if any(row.standing.tied for row in rows if row.standing is not None):
        ranks.append("= marks rows of the same accuracy")
    if ranks:
        lines.insert(0, f"- **#**: the rank by mean accuracy; {'; '.join(ranks)}")
    lines.append(
        f"- “{MISSING}”: could be known and is not; “{NOT_APPLICABLE}”: does not apply, or the row has no result"
    )
    return ["## How to read the columns", "\n".join(lines)]


def _provenance(
    records: Sequence[RunRecord], command: str | None, rows: Sequence[Row], profiles: Sequence[ProfileRecord]
) -> list[str]:
    trained, taught = sum(r.train_seconds for r in records), sum(r.teacher_seconds for r in records)
    teaching = f", and {_duration(taught)} for teacher outputs" if taught else ""
    in_rows = {id(profile) for row in rows for profile in row.profiles}
    joined = [profile for profile in profiles if id(profile) in in_rows]
    by_machine: defaultdict[str, list[Environment]] = defaultdict(list)
    for record in records:
        by_machine[record.environment.fingerprint].append(record.environment)
    runs = {fingerprint: len(found) for fingerprint, found in by_machine.items()}
    for profile in joined:
        by_machine[profile.environment.fingerprint].append(profile.environment)
    body = []
    for fingerprint, found in sorted(by_machine.items()):
        here = runs.get(fingerprint, 0)
        body.append(
            [
                escape(fingerprint[:4]),
                escape(found[0].cpu),
                str(found[0].cores),
                " or ".join(map(str, sorted({each.threads for each in found[:here]}))) or NOT_APPLICABLE,
                escape(found[0].gpu or "none"),
                escape(found[0].system),
                escape(" and ".join(sorted({each.versions.get("torch", MISSING) for each in found}))),
                str(here),
                escape(fingerprint),
            ]
        )
    headings = ["machine", "processor", "cores", "training threads", "GPU", "system", "torch", "runs", "fingerprint"]
    align = ("left", "left", "right", "right", "left", "left", "left", "right", "left")
    return [
        "## How it was measured",
        grid(body, headings, align),
        f"{_run_count(records)}, started {dates(records)}, with {versions(each.environment for each in records)}. "
        f"Training took {_duration(trained)} in all{teaching}.",
        _joined(joined),
        _left_over([profile for profile in profiles if id(profile) not in in_rows]),
        *made_with([command] if command else [*(r.command for r in records), *(p.command for p in joined)]),
    ]


def _joined(profiles: Sequence[ProfileRecord]) -> str:
    if not profiles:
        return ""
    environments = [profile.environment for profile in profiles]
    untrained = sum(not profile.run_id for profile in profiles)
    stand_ins = f" ({untrained} untrained, for all rows of the same architecture and cost)" if untrained else ""
    return (
        f"Measured apart from the runs: {len(profiles)} network{'s' if len(profiles) != 1 else ''}{stand_ins}, "
        f"{dates(profiles)}, on {machines(environments)}, with {versions(environments)}."
    )


def _left_over(profiles: Sequence[ProfileRecord]) -> str:
    if not profiles:
        return ""
    names = sorted({
        escape(each.title or f"{each.model} ({each.image_size} px, {each.num_classes} classes)") for each in profiles
    })  # fmt: skip
    more = f" and {len(names) - LONGEST_LIST} more" if len(names) > LONGEST_LIST else ""
    return f"Profiles that fit no row, and are not shown: {', '.join(names[:LONGEST_LIST])}{more}."


def _duration(seconds: float) -> str:
    """In the unit that fits: 42 s, 53 min, 2 h 07 min."""
    minutes = round(seconds / 60)
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"
