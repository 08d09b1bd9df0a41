"""Intervals against closed forms, scipy, independent code and, above all, simulations of what they promise."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom, binomtest, t

from kdbench.report.stats import PRIOR_GROUPS, SPARE_GROUPS, Grouped, Z, clustered, difference, effective_count, wilson

RATES = (0.76, 0.9, 0.95, 0.98, 0.99)


def cell(hits: object, sizes: object) -> Grouped:
    """Of one seed."""
    return Grouped(np.atleast_2d(np.array(hits, dtype=float)), np.array(sizes))


def drawn(groups: int, size: int | np.ndarray, rate: float, correlation: float, repeats: int) -> np.ndarray:
    """Right answers (repeats, groups): beta-binomial, so that two answers of one group correlate so much."""
    draw = np.random.default_rng(2027)
    chance = np.full((repeats, groups), rate)
    if correlation:
        strength = (1 - correlation) / correlation
        chance = draw.beta(rate * strength, (1 - rate) * strength, (repeats, groups))
    return draw.binomial(size, chance).astype(float)


def all_clustered(hits: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`clustered` of each row of hits (repeats, groups), written a second time for many at once."""
    count, groups, squares = sizes.sum(), len(sizes), sizes.astype(float) ** 2
    rate = hits.sum(axis=1) / count
    seen = groups / (groups - 1) * ((hits - rate[:, None] * sizes) ** 2).sum(axis=1) / count**2
    worst = rate * (1 - rate) * squares.sum() / count**2
    telling = np.minimum(*((of @ squares) ** 2 / np.maximum(of @ squares**2, 1) for of in (hits < sizes, hits > 0)))
    variance = (telling * seen + PRIOR_GROUPS * np.maximum(seen, worst)) / (telling + PRIOR_GROUPS)
    evenly = squares.sum() ** 2 / (squares**2).sum() - 1
    mixed = (rate > 0) & (rate < 1)
    freedom = np.where(mixed, np.clip(telling + SPARE_GROUPS, 1, evenly), evenly)
    images = np.where(mixed, rate * (1 - rate) / np.where(mixed, variance, 1), count**2 / squares.sum())
    images *= (Z / t.ppf(0.975, freedom.round(1))) ** 2
    # Wilson's ends are where a rate lies just as far from the one that was seen as chance allows: a quadratic equation
    half = (Z**2 / images * (rate * (1 - rate) + Z**2 / 4 / images)) ** 0.5
    low, high = ((rate + Z**2 / 2 / images + sign * half) / (1 + Z**2 / images) for sign in (-1, 1))
    return np.where(rate == 0, 0, low), np.where(rate == 1, 1, high)


def coverage(sizes: np.ndarray, rate: float, correlation: float, repeats: int) -> float:
    low, high = all_clustered(drawn(len(sizes), sizes, rate, correlation, repeats), sizes)
    return float(((low <= rate) & (rate <= high)).mean())


# ---------------------------------------------------------------- Wilson


@pytest.mark.parametrize(("hits", "count"), [(0, 1), (1, 1), (3, 7), (71, 71), (0, 71), (2484, 2487), (1, 2000)])
def test_wilson_is_scipys(hits: int, count: int) -> None:
    theirs = binomtest(hits, count).proportion_ci(0.95, method="wilson")
    assert wilson(hits / count, count) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_all_right_reaches_one_and_all_wrong_zero_exactly() -> None:
    assert wilson(1.0, 71)[1] == 1.0
    assert wilson(0.0, 71)[0] == 0.0
    assert wilson(1.0, 71)[0] == pytest.approx(0.949, abs=5e-4)  # 71 of 71 says no more than that


@pytest.mark.parametrize(("rate", "count"), [(1.1, 5), (-0.1, 5), (0.5, 0), (float("nan"), 5), (0.5, float("nan"))])
def test_wilson_refuses_what_is_no_share(rate: float, count: float) -> None:
    with pytest.raises(ValueError, match="a share"):
        wilson(rate, count)


# ---------------------------------------------------------------- groups


def test_answers_image_by_image_are_counted_by_group() -> None:
    right = np.array([[1, 0, 1, 1, 0], [1, 1, 1, 0, 0]], dtype=bool)
    grouped = Grouped.of(right, np.array([3, 0, 3, 0, 3]))
    assert grouped.sizes.tolist() == [2, 3]
    assert grouped.hits.tolist() == [[1, 2], [1, 2]]
    assert (grouped.count, grouped.rate) == (5, 0.6)
    assert grouped.seed_variance == 0.0


def test_without_copies_it_is_wilsons_interval() -> None:
    low, high = clustered(cell([1] * 1800 + [0] * 200, [1] * 2000))
    theirs = binomtest(1800, 2000).proportion_ci(0.95, method="wilson")
    # n - 1 in the variance, and Student's t for 1,999 degrees of freedom
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=2e-5)


def test_copies_that_stand_and_fall_together_count_once() -> None:
    once, copied = cell([1] * 60 + [0] * 11, [1] * 71), cell([35] * 60 + [0] * 11, [35] * 71)
    assert copied.group_variance == pytest.approx(once.group_variance)
    assert effective_count(copied, copied.group_variance) < 71
    low, high = clustered(copied)
    assert low < clustered(once)[0]  # 11 groups with errors tell less of a variance than 71 images
    assert high > clustered(once)[1]


@pytest.mark.parametrize(("hits", "ends"), [(35, (0.9469, 1.0)), (0, (0.0, 0.0531))])
def test_all_alike_is_no_interval_of_width_zero(hits: int, ends: tuple[float, float]) -> None:
    assert clustered(cell([hits] * 71, [35] * 71)) == pytest.approx(ends, abs=1e-4)


def test_large_groups_count_for_more_where_all_is_right() -> None:
    alike = clustered(cell([10] * 10, [10] * 10))
    unlike = clustered(cell([91] + [1] * 9, [91] + [1] * 9))
    assert unlike[0] < alike[0]


def test_one_group_is_one_image() -> None:
    assert clustered(cell([35], [35])) == wilson(1.0, 1)
    assert clustered(cell([7], [10])) == wilson(0.7, 1)


def test_seeds_are_averaged_and_their_spread_is_in_it_only_if_asked() -> None:
    sizes = np.full(100, 5)
    draw = np.random.default_rng(3)
    hits = np.stack([draw.binomial(5, rate, 100) for rate in (0.8, 0.85, 0.9)]).astype(float)
    grouped = Grouped(hits, sizes)
    assert grouped.rate == pytest.approx(hits.sum() / 1500)
    assert grouped.seed_variance == pytest.approx((hits.sum(axis=1) / 500).std(ddof=1) ** 2 / 3)
    without, with_seeds = clustered(grouped), clustered(grouped, seeds=True)
    assert with_seeds[0] < without[0]
    assert with_seeds[1] > without[1]
    assert clustered(Grouped(hits[:1], sizes)) == clustered(Grouped(hits[:1], sizes), seeds=True)


TOO_WIDE = {(0.9, 0.9): 0.974, (0.98, 0.9): 0.977, (0.99, 0.0): 0.973, (0.99, 0.9): 0.989}
"""Of 71 groups, what is covered more often than in 97 %: few groups hold all errors, or next to none of them does."""


@pytest.mark.parametrize("correlation", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("rate", RATES)
def test_71_groups_of_35_are_covered_as_promised(rate: float, correlation: float) -> None:
    found = coverage(np.full(71, 35), rate, correlation, 20_000)
    more = TOO_WIDE.get((rate, correlation))
    assert found == (pytest.approx(0.95, abs=0.02) if more is None else pytest.approx(more, abs=0.005))


UNEVEN = np.array([156, 155, 155, 154, 128, *[104] * 3, *[103] * 2, 49, *[48] * 10, 47, 47, 26, 26, 14, *[13] * 40, 12])
"""Images of each place that is tested on in augmented BCCD: four classes, made equally large from unequally many."""


@pytest.mark.parametrize("sizes", [np.full(71, 35), UNEVEN], ids=["even", "uneven"])
@pytest.mark.parametrize("rate", [0.02, 0.5, 0.95, 0.999])
def test_what_is_simulated_are_the_intervals_that_are_given(sizes: np.ndarray, rate: float) -> None:
    hits = np.concatenate([drawn(len(sizes), sizes, rate, correlation, 40) for correlation in (0.0, 0.9)])
    one_by_one = np.array([clustered(cell(each, sizes)) for each in hits]).T
    np.testing.assert_allclose(all_clustered(hits, sizes), one_by_one, atol=1e-12)


@pytest.mark.parametrize("correlation", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("rate", RATES)
def test_uneven_groups_are_never_promised_too_much(rate: float, correlation: float) -> None:
    assert coverage(UNEVEN, rate, correlation, 10_000) >= 0.94


def test_a_bootstrap_of_the_groups_would_not_hold_the_promise() -> None:
    draw, sizes = np.random.default_rng(9), np.full(71, 35)
    hits = drawn(71, sizes, 0.98, 0.3, 4000)
    means = draw.multinomial(71, np.full(71, 1 / 71), 1000) @ hits.T / sizes.sum()
    low, high = np.quantile(means, [0.025, 0.975], axis=0)
    assert ((low <= 0.98) & (high >= 0.98)).mean() < 0.89


@pytest.mark.parametrize("rate", RATES)
def test_2000_independent_images_are_covered_as_promised(rate: float) -> None:
    """No simulation: over all numbers of right answers, by their probability."""
    hits = np.arange(2001)
    chances = binom.pmf(hits, 2000, rate)
    likely = chances > 1e-9
    ends = [clustered(cell(np.arange(2000) < right, np.ones(2000, int))) for right in hits[likely]]
    covered = [low <= rate <= high for low, high in ends]
    assert chances[likely] @ covered == pytest.approx(0.95, abs=0.01)


def test_counting_images_would_not_hold_the_promise() -> None:
    hits = drawn(71, 35, 0.9, 0.9, 1000).sum(axis=1)
    ends = [wilson(each / 2485, 2485) for each in hits]
    assert sum(low <= 0.9 <= high for low, high in ends) / 1000 < 0.35


def test_far_from_the_extremes_it_agrees_with_a_bootstrap_of_the_groups() -> None:
    hits, sizes = drawn(200, 12, 0.7, 0.3, 1)[0], np.full(200, 12)
    draw = np.random.default_rng(5)
    means = [hits[places].sum() / 2400 for places in draw.integers(0, 200, (4000, 200))]
    assert clustered(cell(hits, sizes)) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.004)


# ---------------------------------------------------------------- differences


def test_a_difference_without_copies_is_newcombes() -> None:
    one, other = cell([1] * 560 + [0] * 140, [1] * 700), cell([1] * 480 + [0] * 320, [1] * 800)
    first, second = (binomtest(*counts).proportion_ci(0.95, method="wilson") for counts in ((560, 700), (480, 800)))
    low = 0.2 - ((0.8 - first.low) ** 2 + (second.high - 0.6) ** 2) ** 0.5
    high = 0.2 + ((first.high - 0.8) ** 2 + (0.6 - second.low) ** 2) ** 0.5
    # n - 1 in the variances, and Student's t for some 700 degrees of freedom
    assert difference(one, other) == pytest.approx((low, high), abs=2e-4)
    assert difference(one, other) == pytest.approx(tuple(-end for end in reversed(difference(other, one))))


def test_a_difference_stays_within_its_range() -> None:
    nothing, everything = cell([0, 0], [1, 1]), cell([1, 1], [1, 1])
    low, high = difference(everything, nothing)
    assert (low >= -1, high) == (True, 1.0)
    low, high = difference(everything, everything)
    assert low < 0 < high


@pytest.mark.parametrize("seeds", [2, 3])
def test_differences_are_covered_as_promised(seeds: int) -> None:
    """Leaky, many originals, nearly all right; clean, few originals: with a spread over the seeds on both sides."""
    draw = np.random.default_rng(7)
    right, repeats = 0, 800
    # the chance of a group is shared by the seeds; the true mean is the beta's, moved by the seed
    for _ in range(repeats):
        sides = []
        for groups, size, mean in ((300, 8, 0.97), (71, 35, 0.85)):
            moved = mean + draw.normal(0, 0.008, seeds)
            chance = draw.beta(mean * 2.3, (1 - mean) * 2.3, groups)
            chances = np.clip(chance[None] + (moved - mean)[:, None] * 4 * chance * (1 - chance) / 0.3, 0, 1)
            sides.append(Grouped(draw.binomial(size, chances).astype(float), np.full(groups, size)))
        low, high = difference(*sides)
        right += low <= 0.97 - 0.85 <= high
    assert 0.92 < right / repeats < 0.985
