"""What the rows of one data set say together: which gains are more than chance, and which ranks a row can have.

Worked out when it is first asked for, so that whoever wants figures alone reads no answers. Floor 6; no torch.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from kdbench.report.paired import holm, pairwise, rank_ranges
from kdbench.report.stats import Grouped

if TYPE_CHECKING:
    from kdbench.report.rows import Row

MOST_ROWS = 400
"""Of a data set, before no ranges of ranks are given: 80,000 pairs take some 20 s, and Holm leaves little of them."""


class Standing:
    """Comparisons among the rows of one data set.

    Attributes:
        rows: all of them; filled in once, by whoever makes the rows.
    """

    def __init__(self) -> None:
        self.rows: tuple[Row, ...] = ()

    @cached_property
    def gain_p(self) -> dict[str, float]:
        """By cell, the p-value of its gain, by Holm over all gains of the data set; only where there is a test."""
        found = {row.cell_id: row.gain_test.p for row in self.rows if row.gain_test is not None}
        return dict(zip(found, holm(list(found.values())), strict=True))

    @cached_property
    def rank_ranges(self) -> dict[str, tuple[int, int]]:
        """By cell, the ranks it can have (see `paired.rank_ranges`); only of rows that have a rank and their answers.

        Two rows are compared at the seeds that both have. What cannot be compared, for want of such a seed or of the
        answers, can stand before or behind each other. Empty where no two rows can be compared, or for too many rows.
        """
        ranked = [row for row in self.rows if row.rank is not None]
        known = [row for row in ranked if row.answers]
        if not 2 <= len(known) <= len(ranked) <= MOST_ROWS:
            return {}
        gains, p_values = np.zeros((len(ranked), len(ranked))), np.ones((len(ranked), len(ranked)))
        places = {row.cell_id: place for place, row in enumerate(ranked)}
        compared = False
        for alike in _on_the_same_images(known):
            for rows, at, pairs in _by_seeds(alike):
                right = np.stack([np.stack([row.answers[seed].right for seed in at]) for row in rows])
                groups = rows[0].answers[at[0]].images.groups
                cells = [Grouped.of(each, groups) for each in right]
                found, p_found = pairwise(np.stack([cell.hits for cell in cells]), cells[0].sizes)
                for first, second in pairs:
                    one, other = places[rows[first].cell_id], places[rows[second].cell_id]
                    gains[one, other], p_values[one, other] = found[first, second], p_found[first, second]
                    compared = True
        if not compared:
            return {}
        ranges = rank_ranges(gains, p_values)
        return {row.cell_id: ranges[places[row.cell_id]] for row in known}

    @cached_property
    def tied(self) -> frozenset[int]:
        """The ranks that several rows share."""
        counts = Counter(row.rank for row in self.rows if row.rank is not None)
        return frozenset(rank for rank, count in counts.items() if count > 1)


def _on_the_same_images(rows: list[Row]) -> list[list[Row]]:
    """Rows apart by what they were tested on: usually there is one part."""
    parts: defaultdict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row in rows:
        parts[next(iter(row.answers.values())).images.ids].append(row)
    return list(parts.values())


def _by_seeds(rows: list[Row]) -> list[tuple[list[Row], list[int], list[tuple[int, int]]]]:
    """For each set of seeds that two rows share: the rows that have them all, the seeds, and the pairs (both ways)
    that share just these.
    """
    own = [frozenset(row.answers) for row in rows]
    pairs: defaultdict[frozenset[int], list[tuple[int, int]]] = defaultdict(list)
    for first in range(len(rows)):
        for second in range(len(rows)):
            if first != second and own[first] & own[second]:
                pairs[own[first] & own[second]].append((first, second))
    found = []
    for shared, of in pairs.items():
        within = sorted({place for pair in of for place in pair})
        new = {place: number for number, place in enumerate(within)}
        found.append(([rows[place] for place in within], sorted(shared), [(new[a], new[b]) for a, b in of]))
    return found
