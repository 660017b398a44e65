"""Where the measured part begins."""

import numpy as np
import pytest

from meshsim.stats.warm_up import Cut, kept_from, mser

STARTS = (0, 3, 6, 12, 18, 30)


def latencies(means, replications, noise=0.01):
    """Windows with 100 requests each and the given mean latency, with a little noise."""
    rng = np.random.default_rng(3)
    factor = 1 + noise * rng.standard_normal((replications, 60))
    counts = np.full((replications, 60), 100)
    return (np.asarray(means) * factor * 100 * 1e6).astype(np.int64), counts


def test_mser_cuts_the_transient():
    series = np.concatenate([[9.0, 5.0, 3.0], np.tile([1.0, 1.2], 10)])
    assert mser(series) == 3


def test_mser_keeps_a_steady_series_and_never_more_than_half_is_cut():
    assert mser(np.tile([1.0, 1.2], 10)) == 0
    assert mser(np.arange(10.0)) <= 5
    assert mser(np.array([])) == 0


@pytest.mark.parametrize("replications", [1, 10])
def test_a_steady_run_loses_the_first_tenth(replications):
    # One replication is cut by MSER, which follows chance: no noise there.
    sums, counts = latencies(np.ones(60), replications, noise=0.0 if replications == 1 else 0.01)
    assert kept_from(sums, counts, STARTS) == Cut(2, True)


@pytest.mark.parametrize("replications", [1, 10])
def test_a_transient_of_a_quarter_moves_the_cut_to_thirty_percent(replications):
    means = np.ones(60)
    means[:15] = 3.0
    assert kept_from(*latencies(means, replications), STARTS) == Cut(4, True)


def test_a_run_that_never_settles_is_cut_at_half_and_says_so():
    assert kept_from(*latencies(np.arange(1.0, 61.0), 10), STARTS) == Cut(5, False)


def test_empty_windows_do_not_count():
    sums, counts = latencies(np.ones(60), 10)
    counts[:, ::2] = 0
    sums[:, ::2] = 0
    assert kept_from(sums, counts, STARTS) == Cut(2, True)
