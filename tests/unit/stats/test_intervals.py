"""Intervals on small literal arrays, worked by hand."""

import math

import numpy as np
import pytest

from meshsim.stats.histogram import BIN_COUNT, bin_bounds_ns, bin_index, quantile_ns
from meshsim.stats.intervals import (
    _normal_quantile,
    design_effect,
    jackknife_values,
    mean_interval,
    quantile_interval_ns,
    ratio_interval,
    t_quantile,
    wilson_interval,
)


def test_t_quantile_by_the_table():
    assert t_quantile(10) == pytest.approx(2.262, abs=5e-4)
    assert t_quantile(2, 0.99) == pytest.approx(63.657, abs=5e-4)
    assert t_quantile(1) == math.inf


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_quantiles_are_those_of_scipy(confidence):
    from scipy import stats

    upper = 0.5 + confidence / 2
    assert _normal_quantile(confidence) == pytest.approx(stats.norm.ppf(upper), rel=1e-12)
    for groups in (2, 3, 10, 200):
        expected = stats.t.ppf(upper, groups - 1)
        assert t_quantile(groups, confidence) == pytest.approx(expected, rel=1e-12)


def test_mean_interval_by_hand():
    # mean 2, sd 1, 3 values: half width 4.303 / sqrt(3) = 2.484
    interval = mean_interval(np.array([1.0, 2.0, 3.0, math.nan]))
    assert interval == pytest.approx((2.0, -0.484, 4.484), abs=1e-3)


def test_mean_of_one_value_has_no_limits():
    value, low, high = mean_interval(np.array([7.0]))
    assert value == 7.0
    assert math.isnan(low)
    assert math.isnan(high)


def test_ratio_interval_with_equal_counts_is_the_t_interval_of_the_means():
    sums, counts = np.array([10.0, 20.0, 30.0, 20.0]), np.array([10.0] * 4)
    assert ratio_interval(sums, counts) == pytest.approx(mean_interval(sums / counts))


def test_ratio_interval_weighs_groups_by_their_count():
    assert ratio_interval(np.array([10, 60]), np.array([10, 20])).value == pytest.approx(70 / 30)


def test_ratio_interval_without_requests_is_unknown():
    assert math.isnan(ratio_interval(np.array([0, 0]), np.array([0, 0])).value)


def two_valued(shares_slow, size=100):
    """Histograms of `size` requests; a share is slow (10 ms), the others fast (1 ms)."""
    counts = np.zeros((len(shares_slow), BIN_COUNT), np.int32)
    for group, share in enumerate(shares_slow):
        counts[group, bin_index(1_000_000)] = size - share
        counts[group, bin_index(10_000_000)] = share
    return counts


def test_quantile_interval_covers_both_values_when_the_share_is_uncertain():
    # p85 with 10 to 20 % slow: the share below is uncertain by more than the distance to 85 %.
    interval = quantile_interval_ns(two_valued([10, 20, 10, 20]), 0.85)
    assert interval.low < 1.01e6
    assert interval.high > 9.9e6


def test_quantile_interval_is_one_bin_when_the_groups_agree():
    counts = two_valued([10, 10, 10])
    index = bin_index(1_000_000)
    bounds = bin_bounds_ns(BIN_COUNT)
    interval = quantile_interval_ns(counts, 0.5)
    assert bounds[index] <= interval.low <= interval.high <= bounds[index + 1]


def test_quantile_interval_is_open_where_the_sample_ends():
    # 0, 0, 0 and 20 % slow: the share of slow requests is 5 % +- 16 %, beyond the sample.
    interval = quantile_interval_ns(two_valued([0, 0, 0, 20]), 0.97)
    assert interval.high == math.inf


def test_quantile_interval_of_one_group_has_no_limits():
    assert math.isnan(quantile_interval_ns(two_valued([10]), 0.5).low)


def test_design_effect_of_identical_and_of_opposite_groups():
    assert design_effect(two_valued([50, 50, 50])) == 1.0
    # all slow or all fast: each group of 100 counts as one observation (times G / (G - 1)).
    opposite = two_valued([0, 100, 0, 100])
    spread = design_effect(opposite)
    assert spread == pytest.approx(100 * 4 / 3, rel=0.02)


def test_jackknife_values_average_to_the_quantile_when_groups_agree():
    counts = two_valued([10, 10, 10])
    values = jackknife_values(counts, 0.5)
    assert values == pytest.approx(np.full(3, float(quantile_ns(counts.sum(axis=0), 0.5))))


def test_wilson_interval_by_hand():
    # 8 of 10: (0.490, 0.943), Wilson 1927
    assert wilson_interval(8, 10) == pytest.approx((0.8, 0.490, 0.943), abs=1e-3)
    assert wilson_interval(0, 10).low == 0.0
    assert math.isnan(wilson_interval(0, 0).value)
