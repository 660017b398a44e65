"""The histogram's grid, its quantiles, and how the two grids relate."""

import math

import numpy as np
import pytest

from meshsim.stats.histogram import (
    BIN_COUNT,
    SERIES_BIN_COUNT,
    bin_bounds_ns,
    bin_index,
    count_below,
    quantile_ns,
    series_bin_index,
)

BOUNDS = bin_bounds_ns(BIN_COUNT)
SERIES_BOUNDS = bin_bounds_ns(SERIES_BIN_COUNT)


def test_every_bin_holds_its_bounds_and_nothing_beyond():
    for index in range(BIN_COUNT):
        assert bin_index(int(BOUNDS[index])) == index
        assert bin_index(int(BOUNDS[index + 1]) - 1) == index
    for index in range(SERIES_BIN_COUNT):
        assert series_bin_index(int(SERIES_BOUNDS[index])) == index
        assert series_bin_index(int(SERIES_BOUNDS[index + 1]) - 1) == index


def test_bins_are_as_narrow_as_promised():
    assert (np.diff(BOUNDS[1:]) / BOUNDS[1:-1]).max() <= 2**-7
    assert (np.diff(SERIES_BOUNDS[1:]) / SERIES_BOUNDS[1:-1]).max() <= 2**-5


def test_a_value_beyond_the_grid_falls_in_the_last_bin():
    assert bin_index(1 << 50) == BIN_COUNT - 1
    assert series_bin_index(1 << 50) == SERIES_BIN_COUNT - 1


def test_an_unknown_grid_is_refused():
    with pytest.raises(ValueError, match="no grid of 7 bins"):
        bin_bounds_ns(7)


def histogram(values, bins=BIN_COUNT):
    index = bin_index if bins == BIN_COUNT else series_bin_index
    counts = np.zeros(bins, np.int32)
    for value in values:
        counts[index(value)] += 1
    return counts


def test_quantile_is_interpolated_within_its_bin():
    # 4 values in the bin [1_024_000_0.., ...): the quantile moves linearly through the bin.
    index = bin_index(10_000_000)
    counts = np.zeros(BIN_COUNT, np.int32)
    counts[index] = 4
    low, high = BOUNDS[index], BOUNDS[index + 1]
    assert quantile_ns(counts, 0.0) == low
    assert quantile_ns(counts, 0.25) == low + (high - low) / 4
    assert quantile_ns(counts, 1.0) == high


def test_quantile_skips_empty_bins():
    counts = histogram([2_000, 2_000, 5_000_000, 5_000_000])
    assert 2_000 <= quantile_ns(counts, 0.5) <= 2_016
    assert 5_000_000 * (1 - 2**-7) <= quantile_ns(counts, 0.51) <= 5_000_000 * (1 + 2**-7)


@pytest.mark.parametrize("bins", [BIN_COUNT, SERIES_BIN_COUNT])
@pytest.mark.parametrize("q", [0.5, 0.9, 0.99, 0.999])
def test_quantile_of_a_smooth_sample_is_within_a_bin(bins, q):
    values = np.random.default_rng(1).exponential(30e6, 20_000).astype(np.int64)
    exact = np.quantile(values, q)
    width = 2**-7 if bins == BIN_COUNT else 2**-5
    assert quantile_ns(histogram(values, bins), q) == pytest.approx(exact, rel=width)


def test_quantiles_of_many_histograms_at_once():
    counts = np.stack([histogram([2_000] * 3), np.zeros(BIN_COUNT, np.int32)])
    values = quantile_ns(counts, 0.5)
    assert values[0] == quantile_ns(counts[0], 0.5)
    assert math.isnan(values[1])


@pytest.mark.parametrize("q", [0.1, 0.5, 0.99])
def test_count_below_is_the_inverse_of_the_quantile(q):
    counts = histogram(np.random.default_rng(2).integers(1_000, 1 << 40, 500))
    assert count_below(counts, float(quantile_ns(counts, q))) == pytest.approx(500 * q)


def test_count_below_at_the_ends():
    counts = histogram([500, 2_000, 1 << 50])
    assert count_below(counts, 0.0) == 0
    assert count_below(counts, 1e15) == 3
