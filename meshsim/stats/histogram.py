"""Log-linear latency histogram: bounded memory, bounded relative error, mergeable.

Rule: values below 2**COARSE_BITS ns share bin 0; above, each octave has 2**FINE_BITS equal
bins, so a bin is at most 2**-FINE_BITS (0.8 %) of its value wide and a quantile interpolated
within a bin is off by at most half of that.  Merging is addition.  A second grid, four times
coarser (3.1 %), serves the many edges of a large mesh; which grid an array of counts is on
follows from its length.

References
----------
G. Tene, HdrHistogram (the same bucket scheme).
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import numpy.typing as npt

from meshsim.jit import kernel_jit_inline

__all__ = [
    "BIN_COUNT",
    "FINE_BITS",
    "SERIES_BIN_COUNT",
    "bin_bounds_ns",
    "bin_index",
    "count_below",
    "cumulated_count_below",
    "cumulated_quantile_ns",
    "quantile_ns",
    "series_bin_index",
]

FINE_BITS = 7
#: Values are clamped to below 2**42 ns (73 minutes) and resolved from 2**10 ns (1.02 us).
COARSE_BITS = 10
_OCTAVE_COUNT = 42 - COARSE_BITS
_FINE_COUNT = 1 << FINE_BITS
BIN_COUNT = 1 + _OCTAVE_COUNT * _FINE_COUNT
_VALUE_MAX = (1 << 42) - 1
#: A coarser grid for the many edges of a large mesh: four bins merged into one (3.1 %).
_SERIES_MERGE_BITS = 2
SERIES_BIN_COUNT = 1 + ((BIN_COUNT - 1) >> _SERIES_MERGE_BITS)


@kernel_jit_inline
def bin_index(value_ns: int) -> int:
    """Return the bin of `value_ns`; bin 0 holds everything below 2**COARSE_BITS ns."""
    value = min(value_ns, _VALUE_MAX)
    if value < 1 << COARSE_BITS:
        return 0
    # value < 2**42 is exact as a float, and 2**(exponent - 1) <= value < 2**exponent.
    _, exponent = math.frexp(float(value))
    octave = exponent - 1 - COARSE_BITS
    fine = (value >> (exponent - 1 - FINE_BITS)) - _FINE_COUNT
    return 1 + octave * _FINE_COUNT + fine


@kernel_jit_inline
def series_bin_index(value_ns: int) -> int:
    """Return the bin of `value_ns` in the coarser grid of edges."""
    fine = bin_index(value_ns)
    return 0 if fine == 0 else 1 + ((fine - 1) >> _SERIES_MERGE_BITS)


@cache
def bin_bounds_ns(bin_count: int) -> npt.NDArray[np.float64]:
    """Return the edges of the bins of a grid [ns].

    Parameters
    ----------
    bin_count : int
        `BIN_COUNT` or `SERIES_BIN_COUNT`.

    Returns
    -------
    ndarray[float64], shape (bin_count + 1,)
        Bin i holds values v with ``bounds[i] <= v < bounds[i + 1]``.  Read only.

    Raises
    ------
    ValueError
        If there is no grid of `bin_count` bins.

    Examples
    --------
    >>> bin_bounds_ns(BIN_COUNT)[:3]
    array([   0., 1024., 1032.])
    """
    if bin_count not in (BIN_COUNT, SERIES_BIN_COUNT):
        raise ValueError(f"no grid of {bin_count} bins ({BIN_COUNT} or {SERIES_BIN_COUNT})")
    octave = np.repeat(np.arange(_OCTAVE_COUNT), _FINE_COUNT)
    fine = np.tile(np.arange(_FINE_COUNT), _OCTAVE_COUNT)
    lower = (_FINE_COUNT + fine) << (COARSE_BITS - FINE_BITS + octave)
    step = 1 if bin_count == BIN_COUNT else 1 << _SERIES_MERGE_BITS
    bounds = np.concatenate(([0], lower[::step], [_VALUE_MAX + 1])).astype(np.float64)
    bounds.setflags(write=False)
    return bounds


def quantile_ns(
    counts: npt.NDArray[np.integer], q: float | npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return the `q` quantile of each histogram, interpolated within its bin [ns].

    Parameters
    ----------
    counts : ndarray[int], shape (..., bin_count)
        Histograms on either grid.  Read only.
    q : float, or ndarray[float64] of shape (...)
        Share of the values below the quantile, 0 to 1.

    Returns
    -------
    ndarray[float64], shape (...)
        NaN where a histogram is empty.

    Notes
    -----
    The inverse of the piecewise linear distribution function whose knots are the bounds of
    the bins.  Cost O(bins) a histogram.
    """
    return cumulated_quantile_ns(np.cumsum(counts, axis=-1, dtype=np.int64), q)


def cumulated_quantile_ns(
    cumulated: npt.NDArray[np.int64], q: float | npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return what `quantile_ns` does, from histograms already summed up along their bins."""
    bounds = bin_bounds_ns(cumulated.shape[-1])
    total = cumulated[..., -1]
    rank = np.clip(q, 0.0, 1.0) * total
    # The first bin that reaches the rank; for rank 0 the first that holds a value.
    before = (cumulated < rank[..., None]) | (cumulated == 0)
    bins = np.minimum(np.count_nonzero(before, axis=-1), cumulated.shape[-1] - 1)
    below, inside = _about_bin(cumulated, bins)
    share = np.full(rank.shape, np.nan)
    np.divide(rank - below, inside, out=share, where=(total > 0) & (inside > 0))
    values: npt.NDArray[np.float64] = bounds[bins] + (bounds[bins + 1] - bounds[bins]) * share
    return values


def _about_bin(
    cumulated: npt.NDArray[np.int64], bins: npt.NDArray[np.intp]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return how many values of each histogram are below a bin, and how many in it."""
    upto = np.take_along_axis(cumulated, bins[..., None], axis=-1)[..., 0]
    previous = np.maximum(bins - 1, 0)
    below = np.take_along_axis(cumulated, previous[..., None], axis=-1)[..., 0]
    below = np.where(bins > 0, below, 0)
    return below, upto - below


def count_below(
    counts: npt.NDArray[np.integer], value_ns: float | npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return how many values of each histogram are below `value_ns`, the inverse of a quantile.

    Parameters
    ----------
    counts : ndarray[int], shape (..., bin_count)
        Histograms on either grid.  Read only.
    value_ns : float, or ndarray[float64] that broadcasts to shape (...)
        Threshold [ns], >= 0.

    Returns
    -------
    ndarray[float64], shape (...)
        Counts, with the values of the bin that holds `value_ns` spread evenly over it; NaN
        where `value_ns` is.
    """
    return cumulated_count_below(np.cumsum(counts, axis=-1, dtype=np.int64), value_ns)


def cumulated_count_below(
    cumulated: npt.NDArray[np.int64], value_ns: float | npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return what `count_below` does, from histograms already summed up along their bins."""
    bounds = bin_bounds_ns(cumulated.shape[-1])
    value = np.broadcast_to(np.asarray(value_ns, np.float64), cumulated.shape[:-1])
    bins = np.clip(np.searchsorted(bounds, value, side="right") - 1, 0, len(bounds) - 2)
    share = np.minimum((value - bounds[bins]) / (bounds[bins + 1] - bounds[bins]), 1.0)
    below, inside = _about_bin(cumulated, bins)
    counted: npt.NDArray[np.float64] = below + share * inside
    return counted
