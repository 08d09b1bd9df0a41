"""How far an accuracy can be trusted: 95 % intervals that count originals, not their copies. Floor 6; no torch.

Test images that show one original are right or wrong together, so the number of images says too little about what was
tested. Here a *group* is what does not depend on the rest: an original with all of its copies.

What these intervals say is how the figure would move with other test images. How it moves with another training is
the spread over the seeds; `difference` alone contains both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from scipy.stats import norm, t

LEVEL = 0.95
"""Of every interval."""

Z = float(norm.ppf(0.5 + LEVEL / 2))

PRIOR_GROUPS = 0.1
"""How many groups' worth of weight the worst case, copies that are always right or wrong together, has in the estimate
of a variance. It counts where one or two groups hold all errors, and a few errors by chance look like independent ones.
"""

SPARE_GROUPS = 1
"""Degrees of freedom beyond the number of groups that tell of the variance. Both numbers were picked by simulation; the
tests repeat it with 71 even groups and with the uneven ones of augmented BCCD's test images.
"""

Ends = tuple[float, float]


def wilson(rate: float, count: float, z: float = Z) -> Ends:
    """Ends of Wilson's score interval of a share (Wilson, JASA 22 (1927) 209).

    Args:
        rate: the share, in [0, 1].
        count: of trials, > 0; an effective number need not be whole.
        z: of the normal distribution.
    Raises: ValueError if the arguments are outside those ranges.
    """
    if not 0 <= rate <= 1 or not count > 0:
        raise ValueError(f"a share in [0, 1] of more than 0 trials is wanted, not {rate} of {count}")
    scale = 1 + z * z / count
    centre = (rate + z * z / (2 * count)) / scale
    half = z * math.sqrt(rate * (1 - rate) / count + z * z / (4 * count * count)) / scale
    return (0.0 if rate == 0 else max(0.0, centre - half), 1.0 if rate == 1 else min(1.0, centre + half))


@dataclass(frozen=True, eq=False)
class Grouped:
    """Right answers by group and seed: all that the intervals need.

    Attributes:
        hits: (S, G) right answers of each seed in each group; the seeds saw the same images.
        sizes: (G,) images in each group, each at least 1.
    """

    hits: np.ndarray
    sizes: np.ndarray

    @classmethod
    def of(cls, right: np.ndarray, groups: np.ndarray) -> Grouped:
        """Of answers image by image.

        Args:
            right: (S, N) bool, of each seed and image.
            groups: (N,) whole numbers from 0 on, the group of each image.
        """
        sizes = np.bincount(groups)
        hits = np.stack([np.bincount(groups, weights=row, minlength=len(sizes)) for row in right])
        return cls(hits[:, sizes > 0], sizes[sizes > 0])

    @cached_property
    def count(self) -> int:
        """Images."""
        return int(self.sizes.sum())

    @cached_property
    def rate(self) -> float:
        """The accuracy, mean over the seeds."""
        return min(1.0, float(self.hits.mean(axis=0).sum() / self.count))

    @cached_property
    def seed_variance(self) -> float:
        """Of the mean over the seeds, as the seeds themselves tell it; 0 for one seed, which tells nothing."""
        seeds = len(self.hits)
        return float((self.hits.sum(axis=1) / self.count).var(ddof=1) / seeds) if seeds > 1 else 0.0

    @cached_property
    def group_variance(self) -> float:
        """Of the mean over the seeds, if other groups had been drawn: the linearised estimate for a ratio (Cochran,
        Sampling Techniques, 1977, eq. 6.13), drawn towards the worst case by `PRIOR_GROUPS`.
        """
        hits = self.hits.mean(axis=0)
        worst = self.rate * (1 - self.rate) * float((self.sizes.astype(float) ** 2).sum()) / self.count**2
        groups = len(self.sizes)
        if groups < 2:
            return worst
        residuals = hits - self.rate * self.sizes
        seen = groups / (groups - 1) * float((residuals**2).sum()) / self.count**2
        return (self.telling * seen + PRIOR_GROUPS * max(seen, worst)) / (self.telling + PRIOR_GROUPS)

    @cached_property
    def telling(self) -> float:
        """Groups with an error, or with a right answer where those are fewer: what an estimate of variance rests on."""
        hits = self.hits.mean(axis=0)
        return min(even_groups(self.sizes[hits < self.sizes]), even_groups(self.sizes[hits > 0]))


def even_groups(sizes: np.ndarray) -> float:
    """How many groups of one size tell as much of a variance as these: its terms go with the squares of the sizes, and
    of those a few large groups may hold nearly all (Kish's effective number, of the squares).
    """
    squares = sizes.astype(float) ** 2
    return float(squares.sum() ** 2 / (squares**2).sum()) if len(squares) else 0.0


def effective_count(grouped: Grouped, variance: float) -> float:
    """How many independent images would tell as much: that many have this variance. Fewer where it is not known well:
    the quantile of Student's t takes the place of the normal one (Korn and Graubard, Survey Methodology 24 (1998) 193).
    """
    rate, groups = grouped.rate, len(grouped.sizes)
    if variance > 0 and 0 < rate < 1:
        count = rate * (1 - rate) / variance
        copies = int(grouped.sizes.max()) > 1  # without any, the rate alone gives the variance
        evenly = max(1.0, min(grouped.telling + SPARE_GROUPS, even_groups(grouped.sizes) - 1))
        freedom = evenly if copies and groups > 1 else groups - 1
    else:  # all right or all wrong: only groups are known to be independent, and the larger ones count for more
        count = grouped.count**2 / float((grouped.sizes.astype(float) ** 2).sum())
        freedom = max(1.0, even_groups(grouped.sizes) - 1) if groups > 1 else 0
    return count * (Z / _quantile(round(freedom, 1))) ** 2 if freedom > 0 else count


def clustered(grouped: Grouped, *, seeds: bool = False) -> Ends:
    """Ends of the 95 % interval of an accuracy, mean over the seeds, whose test images come in groups.

    Wilson's interval with an effective number of images. Of the intervals that were simulated (this one, the
    percentiles of a bootstrap of the groups, a t interval on the logit scale, the plain t interval) it covers best.
    How many of them hold the true value, in percent, with 71 groups of 35 images whose answers correlate within a
    group (the bootstrap's share in brackets), with the 67 groups of 12 to 156 images that augmented BCCD's test images
    come in, and with 2,000 images that come alone:

        accuracy    71 of 35, correlation 0    0.3            0.9            67 uneven, 0   0.3     0.9     alone
        0.76        95.4 (94.1)                95.0 (94.0)    96.3 (94.0)    99.4           94.9    96.8    95.0
        0.9         95.5 (94.0)                94.8 (93.2)    97.4 (92.9)    99.4           94.6    95.7    95.2
        0.95        95.6 (94.1)                94.7 (91.5)    96.4 (89.2)    99.4           96.1    98.4    95.5
        0.98        96.3 (93.7)                93.7 (86.6)    97.7 (76.2)    99.5           98.7    99.4    95.5
        0.99        97.3 (93.7)                96.8 (79.4)    98.9 (54.2)    99.7           99.4    99.4    94.5

    The share is of 12,000 simulations; of images that come alone it is exact, a sum over the binomial distribution.

    Where groups are uneven it is rather too wide: a few large ones tell little of a variance.

    Where it is all right, a bootstrap has width 0; here 71 groups give 94.7 to 100 %.

    Args:
        seeds: whether the spread over the seeds is part of it.
    """
    variance = grouped.group_variance + (grouped.seed_variance if seeds else 0.0)
    return wilson(grouped.rate, effective_count(grouped, variance))


def difference(one: Grouped, other: Grouped) -> Ends:
    """Ends of the 95 % interval of one accuracy minus another, of two trainings tested on two sets of images.

    Both intervals of `clustered`, with the spread over the seeds in them, squared and added (Newcombe, Statistics in
    Medicine 17 (1998) 873, method 10). In simulations with 300 groups of 8 images against 71 of 35, it covers 92.8 to
    97.2 % with two to five seeds, and always more than the percentiles of a bootstrap of groups and seeds (90.0 to
    95.7 %), which takes two seeds for all there are and has width 0 where all is right. One seed tells nothing of the
    spread over the seeds, and then the interval contains none of it.

    The test sets count as independent. Where they share originals, the interval is rather too wide than too narrow.
    """
    (low, high), (other_low, other_high) = clustered(one, seeds=True), clustered(other, seeds=True)
    gap = one.rate - other.rate
    below = math.hypot(one.rate - low, other_high - other.rate)
    above = math.hypot(high - one.rate, other.rate - other_low)
    return max(-1.0, gap - below), min(1.0, gap + above)


@lru_cache(maxsize=4096)
def _quantile(freedom: float) -> float:
    return float(t.ppf(0.5 + LEVEL / 2, freedom))
