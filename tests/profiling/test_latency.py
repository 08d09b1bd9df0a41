"""Warm-up and samples on a clock that only moves when it is told to; statistics against figures worked out by hand."""

import time

import numpy as np
import pytest
from scipy.stats import bootstrap

from kdbench.errors import ProfileError
from kdbench.profiling.latency import sample, summarise, warm_up
from kdbench.profiling.timers import CpuTimer


class FakeClock:
    """Each run takes the next of the given times (ms); the last one again and again."""

    def __init__(self, *times_ms):
        self.times, self.now, self.runs = list(times_ms), 0, 0

    def __call__(self):
        return self.now

    def run(self):
        self.runs += 1
        self.now += int((self.times.pop(0) if len(self.times) > 1 else self.times[0]) * 1e6)


def warm(clock, **options):
    return warm_up(clock.run, CpuTimer(clock), clock=clock, **options)


def take(clock, samples, min_samples=5, budget_s=3.0):
    found = sample(clock.run, CpuTimer(clock), samples=samples, min_samples=min_samples, budget_s=budget_s, clock=clock)
    assert found.disturbed_ms == ()
    return found.times_ms


def noise(*shape, seed=0, spread=0.05):
    return np.exp(spread * np.random.default_rng(seed).standard_normal(shape))


# ---------------------------------------------------------------- warm-up


def test_the_first_call_is_told_and_does_not_keep_it_from_being_steady():
    clock = FakeClock(100, 1)
    found = warm(clock)
    assert (found.cold_ms, found.calls, found.steady) == (100, 10, True)  # two windows of five
    assert clock.runs == 10


def test_goes_on_while_the_times_fall():
    clock = FakeClock(*(100 * 0.9**step for step in range(20)), 12)
    found = warm(clock)
    assert found.steady
    # the median of a window is its third: 13.5, the 20th call, is too far from 12, and so 12 has to come before it too
    assert found.calls == 28


def test_goes_on_while_the_times_rise():
    assert warm(FakeClock(*range(10, 30), 30)).calls > 20


def test_stray_calls_do_not_keep_it_from_being_steady():
    assert warm(FakeClock(50, 1, 1, 9, 1, 1, 9, 1, 1, 1)).calls == 10


def test_difference_at_the_tolerance_is_rest_and_above_it_is_not():
    assert warm(FakeClock(100, 100, 100, 100, 100, 95)).calls == 10
    assert warm(FakeClock(100, 100, 100, 100, 100, 94)).calls > 10
    assert warm(FakeClock(100, 100, 100, 100, 100, 94), tolerance=0.06).calls == 10


def test_smaller_window_needs_fewer_calls_and_never_fewer_than_asked_for():
    assert warm(FakeClock(1), window=2).calls == 5
    assert warm(FakeClock(1), window=2, min_calls=1).calls == 4
    assert warm(FakeClock(1), min_calls=30).calls == 30


@pytest.mark.parametrize(("one_ms", "calls"), [(5_000, 1), (1_000, 1), (999, 2), (400, 3), (150, 7)])
def test_budget_ends_it_between_calls(one_ms, calls):
    found = warm(FakeClock(one_ms))
    assert (found.calls, found.steady, found.cold_ms) == (calls, False, one_ms)


def test_steady_at_the_very_end_of_the_budget_is_steady():
    assert warm(FakeClock(100)).steady
    assert warm(FakeClock(100), budget_s=0.9).calls == 9


def test_times_that_never_settle_use_up_the_budget():
    found = warm(FakeClock(*(1.2**step for step in range(60))))
    assert not found.steady
    assert 10 < found.calls < 40


# ---------------------------------------------------------------- samples


def test_samples_come_in_order():
    clock = FakeClock(3, 1, 2, 5, 4, 6)
    assert take(clock, 6) == (3, 1, 2, 5, 4, 6)
    assert clock.runs == 6


def test_never_fewer_than_the_least():
    assert take(FakeClock(1), 2) == (1,) * 5
    assert take(FakeClock(10_000), 50) == (10_000,) * 5


@pytest.mark.parametrize(("budget_s", "count"), [(3.0, 15), (2.999, 15), (3.001, 16), (0.1, 5)])
def test_slow_network_gets_fewer_samples(budget_s, count):
    assert len(take(FakeClock(200), 50, budget_s=budget_s)) == count


def test_fast_network_gets_all_samples():
    assert len(take(FakeClock(0.5), 50)) == 50


def test_a_least_of_none_may_take_none():
    assert take(FakeClock(1), 3, min_samples=0, budget_s=0) == ()


def test_default_clock_moves():
    calls = []
    assert warm_up(lambda: calls.append(0), CpuTimer(), budget_s=0.2).calls == len(calls)
    assert all(one >= 0 for one in sample(lambda: None, CpuTimer(), samples=5, min_samples=1, budget_s=1).times_ms)


# ---------------------------------------------------------------- summary


def test_median_and_quartiles():
    summary = summarise([[4, 1, 3, 2, 5]])
    assert (summary.median_ms, summary.iqr_ms, summary.samples, summary.unstable) == (3, 2, 5, True)


def test_quartiles_are_interpolated():
    summary = summarise([[10, 20, 30, 40]])  # at 0.75 and 2.25 steps from the first
    assert (summary.median_ms, summary.iqr_ms) == (25, 32.5 - 17.5)


def test_median_is_that_of_all_samples_and_not_of_the_rounds():
    # medians of the rounds: 1, 5, 6
    summary = summarise([[1, 1, 1, 1, 1], [5], [6]])
    assert (summary.median_ms, summary.samples) == (1, 7)


def test_empty_rounds_do_not_count():
    assert summarise([[], [1, 2, 3, 4, 5], []]) == summarise([[1, 2, 3, 4, 5]])


@pytest.mark.parametrize("rounds", [[], [[]], [[], []]])
def test_nothing_to_summarise(rounds):
    with pytest.raises(ProfileError, match="take at least one"):
        summarise(rounds)


def test_arrays_do_as_well():
    assert summarise(noise(3, 20)) == summarise(noise(3, 20).tolist())


def test_one_outlier_moves_nothing():
    summary = summarise([[10] * 20 + [500]])
    assert (summary.median_ms, summary.iqr_ms, summary.interval_ms) == (10, 0, (10, 10))
    assert not summary.unstable


@pytest.mark.parametrize(("spread", "unstable"), [(0.9, False), (1.0, False), (1.1, True)])
def test_unstable_above_a_tenth_of_the_median(spread, unstable):
    # quartiles of five numbers are the second and the fourth
    assert summarise([[8, 10, 10, 10 + spread, 20]]).unstable is unstable


@pytest.mark.parametrize(("rounds", "unstable"), [(1, False), (2, True)])
def test_one_bad_round_of_five_moves_nothing_and_two_are_marked(rounds, unstable):
    summary = summarise([[10] * 20] * (5 - rounds) + [[15] * 20] * rounds)
    assert (summary.median_ms, summary.unstable) == (10, unstable)


@pytest.mark.parametrize(
    ("count", "p90", "p99"), [(49, None, None), (50, 44.1, None), (499, 448.2, None), (500, 449.1, 494.01)]
)
def test_percentiles_need_five_samples_beyond_them(count, p90, p99):
    summary = summarise([list(range(count))])  # of 0 to n - 1, the q-th percentile is q (n - 1) / 100
    assert summary.p90_ms == pytest.approx(p90)
    assert summary.p99_ms == pytest.approx(p99)


def test_percentiles_are_of_the_pool():
    whole = summarise([list(range(500))])
    parts = summarise([list(range(start, 500, 5)) for start in range(5)])
    assert (parts.p90_ms, parts.p99_ms) == (whole.p90_ms, whole.p99_ms)


# ---------------------------------------------------------------- interval


@pytest.mark.parametrize(("rounds", "there"), [([[1, 2, 3, 4]], False), ([[1, 2], [3, 4]], False)])
def test_no_interval_of_fewer_than_five(rounds, there):
    assert summarise(rounds).interval_ms is None
    assert summarise([*rounds, [5]]).interval_ms is not None


@pytest.mark.parametrize("count", [5, 20, 50, 101])
def test_interval_of_one_round_is_that_of_scipy(count):
    samples = noise(count, seed=count)
    ours = summarise([samples]).interval_ms
    theirs = bootstrap((samples,), np.median, n_resamples=20_000, method="percentile", rng=1).confidence_interval
    # resampled medians are samples or means of two: the ends may fall on neighbours
    width = theirs.high - theirs.low
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.15 * width)


def two_stage_interval(rounds, resamples=4_000, seed=7):
    """The same, written down literally."""
    generator = np.random.default_rng(seed)
    medians = []
    for _ in range(resamples):
        drawn = []
        for chosen in generator.integers(len(rounds), size=len(rounds)):
            drawn += list(generator.choice(rounds[chosen], size=len(rounds[chosen])))
        medians.append(np.median(drawn))
    return tuple(np.percentile(medians, (2.5, 97.5)))


@pytest.mark.parametrize("lengths", [(10, 10, 10, 10), (3, 12, 1, 7, 20, 6)])
def test_interval_of_several_rounds_is_that_of_the_literal_one(lengths):
    shifts = noise(len(lengths), seed=5, spread=0.1)
    rounds = [shift * noise(length, seed=length) for shift, length in zip(shifts, lengths, strict=True)]
    low, high = two_stage_interval(rounds)
    assert summarise(rounds).interval_ms == pytest.approx((low, high), abs=0.1 * (high - low))


def test_interval_of_two_constant_rounds():
    # by hand: a quarter of the draws is of the first round alone, a quarter of the second, half of both
    assert summarise([[1.0] * 5, [2.0] * 5]).interval_ms == (1, 2)


def test_interval_does_not_depend_on_chance_or_unit():
    samples = noise(5, 10)
    low, high = summarise(samples).interval_ms
    assert summarise(samples).interval_ms == (low, high)
    assert summarise(1000 * samples).interval_ms == pytest.approx((1000 * low, 1000 * high))
    assert low <= summarise(samples).median_ms <= high


def test_rounds_that_differ_make_it_wider():
    rounds = noise(5, 1, seed=1) * noise(5, 20, seed=2)

    def width(found):
        return found.interval_ms[1] - found.interval_ms[0]

    assert width(summarise(rounds)) > 1.5 * width(summarise([rounds.ravel()]))


def covered(draw, times):
    """How often the interval holds 1, the true median of what is drawn."""
    intervals = [summarise(draw(seed)).interval_ms for seed in range(times)]
    return np.mean([low <= 1 <= high for low, high in intervals])


@pytest.mark.parametrize("count", [20, 50])
def test_independent_samples_are_covered_as_often_as_said(count):
    # of 300 trials at 0.95 the share strays by 0.013; the percentile bootstrap of so few is short by a point or two
    assert 0.90 <= covered(lambda seed: [noise(count, seed=seed)], 300) <= 0.985


def test_samples_of_rounds_are_covered_where_the_plain_bootstrap_fails():
    def draw(seed):
        return noise(10, 1, seed=seed) * noise(10, 10, seed=10_000 + seed)

    assert 0.88 <= covered(draw, 200) <= 0.98  # 0.93 in the long run
    assert covered(lambda seed: [draw(seed).ravel()], 200) < 0.8


def test_five_rounds_of_a_hundred_take_less_than_50_ms():
    rounds = noise(5, 100)
    times = []
    for _ in range(5):  # the quickest: on a busy machine the others speak of its load
        before = time.process_time()
        summarise(rounds)
        times.append(time.process_time() - before)
    assert min(times) < 0.05


def test_many_samples_are_drawn_in_parts():
    # more values than are drawn at once, in any number of parts, give the interval of the theory: the ranks that a
    # binomial's 2.5th and 97.5th percentile name, n / 2 -+ 0.98 sqrt(n)
    count = 2_000
    low, high = summarise([list(range(count))]).interval_ms
    assert (low, high) == pytest.approx((1000 - 0.98 * count**0.5, 1000 + 0.98 * count**0.5), abs=4)


# ---------------------------------------------------------------- disturbed calls


def take_disturbed(clock, disturbed, samples, min_samples=2, budget_s=3.0):
    """The calls of those numbers, from 0 up, are interrupted."""
    interrupted = [0]

    def run():
        interrupted[0] += clock.runs in disturbed
        clock.run()

    return sample(
        run, CpuTimer(clock), samples=samples, min_samples=min_samples, budget_s=budget_s, clock=clock,
        preemptions=lambda: interrupted[0],
    )  # fmt: skip


def test_disturbed_calls_are_kept_apart_and_made_up_for():
    found = take_disturbed(FakeClock(1, 20, 2, 30, 3, 4), {1, 3}, samples=4)
    assert (found.times_ms, found.disturbed_ms) == ((1, 2, 3, 4), (20, 30))


def test_a_machine_that_is_always_busy_ends_with_the_budget():
    found = take_disturbed(FakeClock(100), range(1000), samples=50, budget_s=1.0)
    assert found.times_ms == ()
    assert len(found.disturbed_ms) == 10


def test_disturbed_calls_count_towards_the_least():
    found = take_disturbed(FakeClock(2000), {0}, samples=50, min_samples=2, budget_s=1.0)
    assert (len(found.times_ms), len(found.disturbed_ms)) == (1, 1)
