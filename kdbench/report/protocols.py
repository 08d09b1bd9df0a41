"""What is left of a figure when the images are split another way: the same models under several protocols of one data
set, and by source. Floor 6; no torch.

Both tables compare rows that differ in how the images were split and in nothing else. The folds of a protocol are
parts of one test: their answers are taken together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from kdbench.report.column import NOT_APPLICABLE, percent, points
from kdbench.report.rows import USUAL_PROTOCOL, Row, dataset_key
from kdbench.report.stats import Grouped, clustered, difference
from kdbench.report.text import escape, grid
from kdbench.store import started_at
from kdbench.types import RunSpec, content_id

HOW_SPLIT = frozenset({"protocol", "protocol_version", "fold", "held_out", "content"})
"""The fields of a data set in which two rows of one comparison may differ; the content, as groups are part of it: of
one split only the newest content counts.
"""

IN_TRAINING_PROTOCOL = "stratified-grouped"
"""The protocol whose test images come from every source, and each source's other images are trained on."""


def across_protocols(rows: Sequence[Row]) -> list[str]:
    """The blocks of both comparisons, as far as these rows allow them; nothing where none has a counterpart.

    Args:
        rows: of all data sets, in the order of the page.
    """
    by_images: defaultdict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row.n_ok:
            by_images[row.dataset.model_dump_json(exclude=set(HOW_SPLIT))].append(row)
    blocks: list[str] = []
    for alike in by_images.values():
        if len({dataset_key(row.dataset) for row in alike}) > 1:
            cells: defaultdict[str, list[Row]] = defaultdict(list)
            for row in _of_newest_content(alike):
                cells[_same_but_split(row)].append(row)
            name = f"{alike[0].dataset.name}, {alike[0].dataset.image_size} px"
            blocks += _worth(name, list(cells.values())) + _by_source(name, list(cells.values()))
    return blocks


def _of_newest_content(rows: Sequence[Row]) -> list[Row]:
    """Without those of a split that was made again with other images or groups: both would count as folds."""
    latest: dict[tuple[object, ...], tuple[datetime, str]] = {}
    for row in rows:
        split = _split(row)
        made = (max(map(started_at, row.records)), row.dataset.content)
        latest[split] = max(latest.get(split, made), made)
    return [row for row in rows if row.dataset.content == latest[_split(row)][1]]


def _split(row: Row) -> tuple[object, ...]:
    spec = row.dataset
    return (spec.protocol, spec.protocol_version, spec.fold, spec.held_out)


# ---------------------------------------------------------------- what a protocol is worth


@dataclass(frozen=True)
class Protocol:
    """One way to split, all folds of it."""

    name: str
    leaky: bool
    leaves_one_out: bool
    """Its folds leave one source out each: another question than a leak, so nothing is measured against it."""

    @classmethod
    def of(cls, row: Row) -> Protocol:
        spec = row.dataset
        version = f" v{spec.protocol_version}" if spec.protocol_version > 1 else ""
        noted = next((record.data.protocol for record in row.records if record.data and record.data.protocol), "")
        usual = noted.removesuffix(" v1") or USUAL_PROTOCOL
        return cls(f"{spec.protocol}{version}" if spec.protocol else usual, _leaks(row), bool(spec.held_out))

    def heading(self, folds: int) -> str:
        """Of its column in percent.

        Args:
            folds: how many of them there are, 1 at least.
        """
        parts = "sources left out" if self.leaves_one_out else "folds"
        return f"{self.name}{' (leaky)' if self.leaky else ''}{f', {folds} {parts}' if folds > 1 else ''} (%)"


def _worth(name: str, cells: Sequence[Sequence[Row]]) -> list[str]:
    """One row for each model and method, one column for each protocol, and what a leaky one adds."""
    compared = [cell for cell in cells if len({Protocol.of(row) for row in cell}) > 1]
    if not compared:
        return []
    found = {Protocol.of(row) for cell in compared for row in cell}
    protocols = sorted(found, key=lambda protocol: (protocol.leaky, protocol.name))
    clean = [protocol for protocol in protocols if not protocol.leaky and not protocol.leaves_one_out]
    pairs = [(leaky, other) for leaky in protocols if leaky.leaky for other in clean]
    body, alone = [], False
    folds = {
        protocol: len({_split(row) for cell in compared for row in cell if Protocol.of(row) == protocol})
        for protocol in protocols
    }
    for cell in compared:
        parts = {protocol: [row for row in cell if Protocol.of(row) == protocol] for protocol in protocols}
        pooled = {protocol: pool(part) for protocol, part in parts.items()}
        alone = alone or any(one is not None and len(one.hits) == 1 for one in pooled.values())
        body.append(
            [
                *_names(cell[0]),
                *(
                    _accuracy(pooled[protocol], parts[protocol]) + _of_all(len(parts[protocol]), folds[protocol])
                    for protocol in protocols
                ),
                *(
                    _gap(pooled[leaky], pooled[other], parts[leaky], parts[other])
                    if len(parts[leaky]) == folds[leaky] and len(parts[other]) == folds[other]
                    else NOT_APPLICABLE  # of other folds than the rest, it is another question
                    for leaky, other in pairs
                ),
            ]
        )
    headings = [
        "model",
        "method",
        "teacher",
        *(protocol.heading(folds[protocol]) for protocol in protocols),
        *(f"inflation, {leaky.name} against {other.name} (points)" for leaky, other in pairs),
    ]
    return [
        f"## What the protocol is worth: {escape(name)}",
        "The same models, methods and settings on the same images, split another way. Accuracy with its 95 % interval, "
        "which counts originals; the answers of a protocol's folds are taken together.",
        grid(body, [escape(heading) for heading in headings], ("left",) * 3 + ("right",) * (len(headings) - 3)),
        _what_it_contains("The inflation is what a leaky protocol adds. Its", alone) if pairs else "",
    ]


# ---------------------------------------------------------------- by source


def _by_source(name: str, cells: Sequence[Sequence[Row]]) -> list[str]:
    """One line for each model and method and way to train, one column for each source."""
    sources = sorted({row.dataset.held_out for cell in cells for row in cell if row.dataset.held_out})
    body, alone = [], False
    for cell in cells:
        mixed = [row for row in cell if not row.dataset.held_out and not _leaks(row)]
        mixed = [row for row in mixed if row.dataset.protocol == IN_TRAINING_PROTOCOL] or [
            row for row in mixed if not row.dataset.protocol
        ]
        without = {source: [row for row in cell if row.dataset.held_out == source] for source in sources}
        if not any(without.values()):
            continue
        held_out = {source: pool(part) for source, part in without.items()}
        seen = {source: pool(mixed, _from_source(source)) for source in sources}
        alone = alone or any(one is not None and len(one.hits) == 1 for one in (*held_out.values(), *seen.values()))
        lines = {
            "in training": [_accuracy(seen[source], ()) for source in sources],
            "held out": [_accuracy(held_out[source], without[source]) for source in sources],
            "drop (points)": [_gap(held_out[source], seen[source]) for source in sources],
        }
        body += [[*_names(cell[0]), what, *figures] for what, figures in lines.items()]
    if not body:
        return []
    headings = ["model", "method", "teacher", "source is", *sources]
    return [
        f"## By source: {escape(name)}",
        "Accuracy on the images of one source, in percent with its 95 % interval, which counts originals: on its test "
        "images where its other images were trained on, and on all of it where it was held out of training.",
        grid(body, [escape(heading) for heading in headings], ("left",) * 4 + ("right",) * len(sources)),
        _what_it_contains("The drop's", alone),
    ]


def _of_all(folds: int, every: int) -> str:
    return f" of {folds} of {every} folds" if 0 < folds < every else ""


def _from_source(source: str) -> Callable[[str], bool]:
    return lambda identifier: identifier.startswith(f"{source}/")


# ---------------------------------------------------------------- parts


def pool(rows: Sequence[Row], keep: Callable[[str], bool] = lambda identifier: True) -> Grouped | None:
    """The answers of several folds as of one test; a group that is in several of them is one group.

    Of each fold the seeds count that all folds have; without a shared one, each fold counts with the mean over its own.

    Args:
        keep: of an image's id, whether it counts.
    Returns: None if any row lacks its answers, or no image is left.
    """
    if not rows or not all(row.answers for row in rows):
        return None
    shared = sorted(set.intersection(*(set(row.answers) for row in rows)))
    hits: list[np.ndarray] = []
    names: list[str] = []
    for row in rows:
        images = next(iter(row.answers.values())).images
        kept = np.array([keep(identifier) for identifier in images.ids], dtype=bool)
        right = np.stack([row.answers[seed].right for seed in shared or sorted(row.answers)])[:, kept].astype(float)
        hits.append(right if shared else right.mean(axis=0, keepdims=True))
        names += [images.group_names[group] for group in images.groups[kept]]
    if not names:
        return None
    places = {group: place for place, group in enumerate(dict.fromkeys(names))}
    return Grouped.of(np.concatenate(hits, axis=1), np.array([places[group] for group in names]))


def _same_but_split(row: Row) -> str:
    """Equal for rows whose runs differ in how the images were split and in the seed alone."""

    def plain(spec: RunSpec) -> dict[str, object]:
        dumped = spec.model_dump(mode="json", exclude={"teachers", "teaching"})
        dumped["dataset"] = {key: value for key, value in dumped["dataset"].items() if key not in HOW_SPLIT}
        dumped["teachers"] = [plain(teacher) for teacher in spec.teachers]
        return dumped

    whole = plain(row.spec)
    del whole["seed"]
    return content_id(whole)


def _leaks(row: Row) -> bool:
    return any(record.data is not None and record.data.leak for record in row.records)


def _names(row: Row) -> tuple[str, str, str]:
    return escape(row.model), escape(row.method), escape(row.teacher) or NOT_APPLICABLE


def _accuracy(pooled: Grouped | None, rows: Iterable[Row]) -> str:
    """ "95.3 (91.2 to 97.6)"; without the answers what the records say, images weighted alike."""
    if pooled is not None:
        low, high = clustered(pooled)
        return f"{percent(pooled.rate)} ({percent(low)} to {percent(high)})"
    rate = _told(rows)
    return NOT_APPLICABLE if rate is None else percent(rate)


def _gap(one: Grouped | None, other: Grouped | None, rows: Iterable[Row] = (), others: Iterable[Row] = ()) -> str:
    """ "+6.1 (+3.0 to +9.5)"."""
    if one is not None and other is not None:
        low, high = difference(one, other)
        return f"{points(one.rate - other.rate)} ({points(low)} to {points(high)})"
    rate, other_rate = _told(rows), _told(others)
    return NOT_APPLICABLE if rate is None or other_rate is None else points(rate - other_rate)


def _told(rows: Iterable[Row]) -> float | None:
    """The mean accuracy of the rows by their records, each with the weight of its test images."""
    known = [
        (row.accuracy, next(record.test_metrics.count for record in row.records if record.test_metrics is not None))
        for row in rows
        if row.accuracy is not None
    ]
    return sum(rate * count for rate, count in known) / sum(count for _, count in known) if known else None


def _what_it_contains(begin: str, alone: bool) -> str:
    seeds = " One seed tells nothing of the spread over trainings, which is then not in it." if alone else ""
    return (
        f"{begin} 95 % interval contains the draw of the test originals on both sides and the spread over the seeds; "
        f"both test sets count as independent, so it is rather too wide where they share images.{seeds}"
    )
