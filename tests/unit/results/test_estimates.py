"""What is shown and what is withheld."""

import math

import numpy as np
import pytest

from meshsim.results.estimates import Estimate, latency_estimates, share_estimate
from meshsim.stats.histogram import BIN_COUNT, bin_index


def histograms(groups, size, seed=1):
    """Independent exponential latencies of 10 ms; their sums and histograms by group."""
    values = np.random.default_rng(seed).exponential(10e6, (groups, size)).astype(np.int64)
    counts = np.zeros((groups, BIN_COUNT), np.int64)
    for group in range(groups):
        np.add.at(counts[group], [bin_index(int(value)) for value in values[group]], 1)
    return values.sum(axis=1), counts


def estimates_of(sums, counts, *rest):
    """The estimates of one row."""
    (estimates,) = latency_estimates(sums[None], counts[None], *rest)
    return estimates


def test_independent_latencies_give_all_estimates_near_the_truth():
    estimates = estimates_of(*histograms(10, 10_000), "test")
    assert estimates["mean"].value == pytest.approx(10.0, rel=0.02)
    for name, q in (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)):
        estimate = estimates[name]
        # Four standard deviations of the quantile of n = 100,000: sqrt(q / (1 - q) / n) * 10 ms.
        tolerance = 4 * 10 * math.sqrt(q / (1 - q) / 100_000)
        assert estimate.value == pytest.approx(-10 * math.log(1 - q), abs=tolerance)
        assert estimate.low < estimate.value < estimate.high
        assert estimate.samples == 100_000
        assert not estimate.withheld


def test_a_quantile_is_withheld_with_fewer_than_thirty_effective_samples_beyond():
    # 2,000 requests: at most 20 beyond p99, 2 beyond p99.9.
    estimates = estimates_of(*histograms(10, 200), "test")
    assert not estimates["p90"].withheld
    assert math.isnan(estimates["p99"].value)
    assert "effective samples beyond p99, 30 needed" in estimates["p99"].withheld
    assert estimates["p99.9"].withheld
    assert estimates["p99"].relative_half_width == math.inf


def test_correlated_groups_have_fewer_effective_samples():
    sums, counts = histograms(10, 1_000)
    slow = np.roll(counts[:5], 256, axis=1)  # two octaves slower
    estimates = estimates_of(sums, np.concatenate([slow, counts[5:]]), "test")
    assert estimates["p50"].withheld
    assert estimates["mean"].effective_samples < 60


def test_one_group_gives_a_mean_without_limits_and_no_quantile():
    estimates = estimates_of(*histograms(1, 10_000), "test")
    assert math.isnan(estimates["mean"].low)
    assert estimates["p50"].withheld == "a single group gives no interval"


def test_a_reason_withholds_everything():
    estimates = estimates_of(*histograms(2, 10), "test", "unstable: it grows")
    assert {estimate.withheld for estimate in estimates.values()} == {"unstable: it grows"}


def test_no_successful_request():
    estimates = estimates_of(np.zeros(3, np.int64), np.zeros((3, BIN_COUNT), np.int64), "test")
    assert estimates["mean"].withheld == "no successful request"


def test_as_json():
    shown = Estimate(5.0, 4.0, 6.0, 100, 50.0, "test")
    assert shown.to_dict() == {"value": 5.0, "low": 4.0, "high": 6.0}
    assert shown.relative_half_width == 0.2
    hidden = Estimate(math.nan, math.nan, math.nan, 1, 1.0, "test", "too few")
    assert hidden.to_dict() == {"value": None, "withheld": "too few"}


def test_share_without_a_failure_uses_wilson():
    whole = np.full(10, 100)
    estimate = share_estimate(whole, whole, "test")
    assert estimate.value == 1.0
    assert estimate.low == pytest.approx(1 - 3.84 / 1_003.84, abs=1e-4)
    assert estimate.high == 1.0


def test_share_by_groups_stays_within_zero_and_one():
    estimate = share_estimate(np.array([0, 0, 3]), np.array([10, 10, 10]), "test")
    assert estimate.value == 0.1
    assert estimate.low == 0.0
    assert estimate.high <= 1.0
    assert share_estimate(np.zeros(2), np.zeros(2), "test").withheld == "no request ended"
