"""The statistics of latency on a clock that only moves when it is told to."""

import pytest

from kdbench.errors import ProfileError
from kdbench.profiling.latency import measure_latency, summarise


class FakeClock:
    """Each run takes the next of the given times (ms); the last one again and again."""

    def __init__(self, *times_ms):
        self.times, self.now, self.runs = list(times_ms), 0, 0

    def __call__(self):
        return self.now

    def run(self):
        self.runs += 1
        self.now += int((self.times.pop(0) if len(self.times) > 1 else self.times[0]) * 1e6)


def measure(clock, samples, **options):
    return measure_latency(clock.run, samples, clock=clock, **options)


def test_warm_up_is_not_timed():
    clock = FakeClock(100, 90, 1, 2, 3, 4, 5, 6)
    assert measure(clock, 6, warmup=2) == (1, 2, 3, 4, 5, 6)
    assert clock.runs == 8


def test_never_fewer_than_five():
    assert measure(FakeClock(1), 2) == (1,) * 5


def test_slow_network_gets_fewer_samples():
    clock = FakeClock(200)
    assert len(measure(clock, 50, budget_s=3)) == 11  # ten after 1 s of warm-up, and the one that crosses the line
    assert clock.now < 3.3e9


def test_very_slow_network_still_gets_five():
    clock = FakeClock(10_000)
    assert len(measure(clock, 50)) == 5
    assert clock.runs == 6  # one warm-up run is enough when it takes this long


def test_fast_network_gets_all_samples():
    assert len(measure(FakeClock(0.5), 50)) == 50


def test_default_clock_moves():
    assert all(sample >= 0 for sample in measure_latency(lambda: None, 5))


def test_median_and_quartiles():
    summary = summarise([4, 1, 3, 2, 5])
    assert (summary.median_ms, summary.iqr_ms, summary.unstable) == (3, 2, True)


def test_one_outlier_moves_nothing():
    summary = summarise([10] * 20 + [500])
    assert (summary.median_ms, summary.iqr_ms, summary.unstable) == (10, 0, False)


@pytest.mark.parametrize(("spread", "unstable"), [(0.9, False), (1.0, False), (1.1, True)])
def test_unstable_above_a_tenth_of_the_median(spread, unstable):
    # quartiles of five numbers are the second and the fourth
    assert summarise([8, 10, 10, 10 + spread, 20]).unstable is unstable


def test_nothing_to_summarise():
    with pytest.raises(ProfileError):
        summarise([])
