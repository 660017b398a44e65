"""Growth of the backlog: level and power of the test."""

import numpy as np
import pytest

from meshsim.stats.backlog import _fit, _p_value, backlog_growth


def steady(replications, mean=20.0, noise=2.0, seed=4):
    return mean + noise * np.random.default_rng(seed).standard_normal((replications, 60))


@pytest.mark.parametrize("replications", [1, 3, 5, 10])
def test_a_line_grows(replications):
    growth = backlog_growth(steady(replications) + np.arange(60) * 2.0)
    assert growth.grows
    # slope 2 a window over 30 windows; the error of one replication's slope is 0.04
    assert growth.total == pytest.approx(60.0, abs=6.0)


@pytest.mark.parametrize("replications", [1, 3, 5, 10])
def test_a_steady_or_shrinking_backlog_does_not_grow(replications):
    assert not backlog_growth(steady(replications)).grows
    assert not backlog_growth(200 + steady(replications) - np.arange(60) * 2.0).grows


def test_growth_before_the_last_half_does_not_count():
    series = np.full((5, 60), 100.0) + steady(5, mean=0.0)
    series[:, :30] = np.arange(30) * 3.0
    assert not backlog_growth(series).grows


def test_a_drift_too_small_to_matter_is_no_verdict_even_if_it_is_certain():
    exact = np.full((5, 60), 100.0) + np.arange(60) * 0.01
    growth = backlog_growth(exact)
    assert growth.p_value < 0.01
    assert not growth.grows


def test_too_few_windows_cannot_be_tested():
    assert backlog_growth(np.ones((5, 4))).p_value == 1.0


@pytest.mark.parametrize("replications", [1, 5])
def test_false_alarms_stay_near_the_level(replications):
    # 1,000 tests at 1 %: 10 expected, sd 3.1; 20 is exceeded with probability 0.1 %.
    alarms = sum(backlog_growth(steady(replications, seed=k)).p_value < 0.01 for k in range(1_000))
    assert alarms <= 20


def queue_lengths(rng, load):
    """Mean number in an M/M/1 queue by window of 1 s, 60 s from empty, 100 arrivals/s."""
    arrived = np.cumsum(rng.exponential(0.01, 6_600))
    services = rng.exponential(load * 0.01, len(arrived))
    work = np.cumsum(services)
    left = work + np.maximum.accumulate(arrived - (work - services))
    ends = np.arange(61.0)
    # Time in the system before each end: what arrived less what left.
    total = np.zeros(61)
    for times, sign in ((arrived, 1), (left, -1)):
        count = np.searchsorted(times, ends)
        total += sign * (ends * count - np.concatenate([[0.0], np.cumsum(times)])[count])
    return np.diff(total)


def share_growing(load, replications, repeats=200):
    growing = 0
    for repeat in range(repeats):
        rng = np.random.default_rng([5, repeat])
        series = np.stack([queue_lengths(rng, load) for _ in range(replications)])
        growing += backlog_growth(series).grows
    return growing / repeats


@pytest.mark.parametrize("load", [0.8, 0.9])
@pytest.mark.parametrize("replications", [1, 5])
def test_stable_queues_are_rarely_called_unstable(load, replications):
    # 2 % at most in the measurements: more than 5.5 % of 200 has probability 0.1 %.
    assert share_growing(load, replications) <= 0.055


@pytest.mark.parametrize(("replications", "power"), [(1, 0.9), (5, 0.95)])
def test_an_overloaded_queue_is_found(replications, power):
    assert share_growing(1.1, replications) >= power


def test_fit_and_test_are_those_of_scipy():
    from scipy import stats

    means = 50 + np.random.default_rng(8).standard_normal(6)
    expected = stats.linregress(np.arange(6), means)
    slope, error = _fit(means)
    assert (slope, error) == pytest.approx((expected.slope, expected.stderr), rel=1e-12)
    for ratio in (-3.0, 0.0, 0.5, 4.0, 30.0):
        assert _p_value(ratio, 1.0, 4) == pytest.approx(stats.t.sf(ratio, 4), rel=1e-12)
