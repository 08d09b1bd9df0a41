"""Whether one training recipe beats another on the same test images: paired tests, intervals, ranks. Floor 6; no torch.

Two figures on the same images share most of their chance: what is easy for one is easy for the other. So the answers
are subtracted image by image at equal seeds, and only the differences are judged.

Two draws stand behind a mean difference: the test images, in groups that do not depend on each other, and the seeds.
Both are in the variance; where there is one seed, the trainings are taken as they are, and nothing is said of others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import bdtr, stdtr, stdtrit

from kdbench.report.stats import LEVEL, PRIOR_GROUPS, SPARE_GROUPS, Grouped, even_groups

ALPHA = 1 - LEVEL
"""A p-value below it is called significant."""


@dataclass(frozen=True)
class Paired:
    """One accuracy minus another on the same images.

    Attributes:
        gain: mean over the seeds and images, a fraction.
        low, high: ends of its 95 % interval.
        p: two-sided, of the hypothesis that there is no difference; not adjusted for others.
        seeds: that both have.
        exact: whether p is McNemar's; else it is of a t test over groups and seeds.
    """

    gain: float
    low: float
    high: float
    p: float
    seeds: int
    exact: bool


def paired(one: Grouped, other: Grouped) -> Paired:
    """Compare two networks, or two recipes at equal seeds.

    With one seed and images that all stand alone p is McNemar's exact one. Else it is of a t test, and assumes that
    groups do not depend on each other, that seeds do not, and that the mean over them is nearly normal. The variance
    counts both as far as they tell: that of the groups, and what the seeds scatter beyond it (Cameron, Gelbach and
    Miller, JBES 29 (2011) 238, eq. 2.11, never below that of the groups). Its degrees of freedom are Satterthwaite's;
    few discordant groups have few, as in `stats.effective_count`.

    How many of the tests reject what is true, in simulations with 67 groups and three seeds, whatever the trainings
    scatter (0 to 4 points): 2.9 to 7.1 % with groups of some 33 images at an accuracy of 0.83, 1.8 to 5.2 % at 0.97;
    with the uneven groups of augmented BCCD's test images 2.0 to 5.3 % and 0.4 to 2.0 %. With two seeds that scatter by
    four points it is up to 11 %, and with one seed, which cannot show that they do, up to 49 %.

    Args:
        one, other: the same images, groups and seeds, in the same order.
    Raises: ValueError if they are not.
    """
    if one.hits.shape != other.hits.shape or not np.array_equal(one.sizes, other.sizes):
        raise ValueError(f"the same groups and seeds are wanted, not {one.hits.shape} and {other.hits.shape}")
    gain, p, half, exact = (found[0] for found in _against(one.hits, other.hits[None], one.sizes))
    return Paired(
        float(gain), max(-1.0, float(gain - half)), min(1.0, float(gain + half)), float(p), len(one.hits), bool(exact)
    )


def mcnemar(better: np.ndarray | int, worse: np.ndarray | int) -> np.ndarray:
    """Two-sided exact p of discordant pairs (McNemar, Psychometrika 12 (1947) 153; binomial, not its approximation).

    Args:
        better, worse: how many images one alone, and the other alone, has right.
    Returns: 1 where there are none.
    """
    better, worse = np.asarray(better), np.asarray(worse)
    total = better + worse
    both = 2 * bdtr(np.minimum(better, worse).astype(float), np.maximum(total, 1), 0.5)
    return np.where(total == 0, 1.0, np.minimum(1.0, both))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted so that, of all of them, none is below alpha by chance with more than that probability (Holm,
    Scandinavian Journal of Statistics 6 (1979) 65). In the order they came in; assumes nothing of their dependence.
    """
    count, reached = len(p_values), 0.0
    adjusted = [0.0] * count
    for number, place in enumerate(sorted(range(count), key=lambda place: p_values[place])):
        reached = max(reached, min(1.0, (count - number) * p_values[place]))
        adjusted[place] = reached
    return adjusted


def pairwise(hits: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All against all.

    Args:
        hits: (R, S, G) right answers of each recipe at each seed in each group.
        sizes: (G,) images in each group.
    Returns: gains (R, R) of the first over the second, and two-sided p-values (R, R); 1 on the diagonal.
    """
    count = len(hits)
    gains, p_values = np.zeros((count, count)), np.ones((count, count))
    for place in range(count - 1):
        gain, p, _, _ = _against(hits[place], hits[place + 1 :], sizes)
        gains[place, place + 1 :], gains[place + 1 :, place] = gain, -gain
        p_values[place, place + 1 :] = p_values[place + 1 :, place] = p
    return gains, p_values


def rank_ranges(gains: np.ndarray, p_values: np.ndarray) -> list[tuple[int, int]]:
    """Which ranks each of R recipes can have: 1 + those that are significantly better, to R - those that are worse.

    Holm over all pairs, so that with 95 % all ranges hold at once (Mogstad, Romano, Shaikh and Wilhelm, Review of
    Economic Studies 91 (2024) 476, section 3.3, with Holm's adjustment for their stepwise one).

    Args:
        gains: (R, R) of the first over the second; p_values: (R, R), 1 where two cannot be compared.
    """
    count = len(gains)
    upper = np.triu_indices(count, 1)
    significant = np.zeros((count, count), dtype=bool)
    significant[upper] = np.array(holm(p_values[upper].tolist())) < ALPHA
    significant |= significant.T
    better = (significant & (gains < 0)).sum(axis=1)
    worse = (significant & (gains > 0)).sum(axis=1)
    return [(1 + int(above), count - int(below)) for above, below in zip(better, worse, strict=True)]


def _against(
    one: np.ndarray, others: np.ndarray, sizes: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """One (S, G) against each of others (J, S, G): gain, p, half the width of its interval, whether p is exact."""
    seeds, groups = one.shape
    count = int(sizes.sum())
    differences = one[None] - others
    by_seed = differences.sum(axis=2) / count
    gain = by_seed.mean(axis=1)
    mean = differences.mean(axis=1)
    residuals = mean - gain[:, None] * sizes
    scale = groups / (groups - 1) if groups > 1 else 1.0
    # `even_groups` of those in which the two differ: what an estimate of variance rests on
    squares = (np.abs(mean) > 1e-12) * sizes.astype(float) ** 2
    discordant = squares.sum(axis=1) ** 2 / np.maximum((squares**2).sum(axis=1), 1.0)

    # as with `Grouped.group_variance`: a few discordant groups tell little of a variance, so the worst case, groups
    # that change as a whole, has some weight; without any it is one that changes each way (as Bonett and Price,
    # Journal of Educational and Behavioral Statistics 37 (2012) 479, add to pairs of images)
    seen = scale * (residuals**2).sum(axis=1) / count**2
    share = np.maximum(np.abs(mean).sum(axis=1) / count, min(1.0, 2 / groups))
    worst = share * float((sizes.astype(float) ** 2).sum()) / count**2
    of_groups = (discordant * seen + PRIOR_GROUPS * np.maximum(seen, worst)) / (discordant + PRIOR_GROUPS)
    most = even_groups(sizes) - 1
    # without a discordant group the variance is assumed and not estimated, so that none of its own is in doubt
    freedom = np.maximum(np.where(discordant > 0, np.minimum(discordant + SPARE_GROUPS, most), most), 1.0)

    variance = of_groups
    if seeds > 1:
        of_seeds = by_seed.var(axis=1, ddof=1) / seeds
        # what is in both: one seed's answers in one group
        own = differences - by_seed[:, :, None] * sizes - residuals[:, None, :]
        in_both = scale * (own**2).sum(axis=(1, 2)) / (seeds * (seeds - 1)) / count**2
        variance = of_groups + np.maximum(0.0, of_seeds - in_both)
        freedom = variance**2 / (of_groups**2 / freedom + of_seeds**2 / (seeds - 1))
    error = np.sqrt(variance)
    p = np.minimum(1.0, 2 * stdtr(freedom, -np.abs(gain) / error))
    half = stdtrit(freedom, 0.5 + LEVEL / 2) * error
    exact = seeds == 1 and int(sizes.max()) == 1
    if exact:
        p = mcnemar((mean > 0).sum(axis=1), (mean < 0).sum(axis=1))
    return gain, p, half, np.full(len(gain), exact)
