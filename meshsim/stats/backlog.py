"""Whether the backlog of a run grows without end.

Rule: fit a line to the mean number of requests in flight by window over the last half of the
run.  The backlog grows if its slope is positive at the 99 % level *and* the growth over that
half is at least `GROWTH_MINIMUM` of the mean in flight and one request, so that a hair's
breadth of drift in a deterministic run is not a verdict.

- `PAIRED_MINIMUM` replications or more: one slope a replication, one-sided t test.  The
  queue length of a stable system runs forwards as it runs backwards (M/M/1 is reversible), so
  the slopes of stable runs are symmetric about 0 and the test holds its level: 0.4 to 1.6 %
  false alarms measured on M/M/1 at 80, 90 and 95 %, 20 and 60 s, 800 repeats each.
- fewer: windows are averaged over the replications and in `_BATCH_COUNT` batches, and the
  slope of the batches is tested.  0.5 to 4.9 % false alarms on the same cases (the batches of
  a short run at high load are still correlated).

At 110 % load a run of 60 s is found unstable in 97 % (one replication), 99 % (5) and 100 %
(10) of the cases.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from meshsim.stats.warm_up import PAIRED_MINIMUM

__all__ = ["GROWTH_MINIMUM", "Growth", "backlog_growth"]

#: Smallest growth over the last half that counts, relative to the mean in flight.
GROWTH_MINIMUM = 0.05
_BATCH_COUNT = 6


class Growth(NamedTuple):
    """Trend of the backlog over the last half of the run."""

    total: float  # requests in flight gained over that half
    p_value: float  # of the one-sided test; 1 if it cannot be made
    grows: bool


def _slopes(series: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the least-squares slope of each row, per column."""
    position = np.arange(series.shape[1]) - (series.shape[1] - 1) / 2
    slopes: npt.NDArray[np.float64] = series @ position / (position @ position)
    return slopes


def _fit(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Return the least-squares slope of `values` and its standard error, per value."""
    count = len(values)
    position = np.arange(count) - (count - 1) / 2
    slope = float(_slopes(values[None])[0])
    residual = values - values.mean() - slope * position
    variance = float(residual @ residual) / (count - 2) / float(position @ position)
    return slope, math.sqrt(variance)


def _p_value(slope: float, error: float, degrees: int) -> float:
    if error == 0:
        return 0.0 if slope > 0 else 1.0
    from scipy.special import stdtr

    return float(stdtr(degrees, -slope / error))


def backlog_growth(in_flight: npt.NDArray[np.float64], significance: float = 0.01) -> Growth:
    """Test whether the number of requests in flight grows over the last half of the run.

    Parameters
    ----------
    in_flight : ndarray[float64], shape (replications, windows)
        Time average of the requests in flight by window.  Read only.
    significance : float
        Level of the one-sided test; divide by the number of classes tested.

    Returns
    -------
    Growth

    Notes
    -----
    The seam between batches is cut so that each has the same number of windows; windows left
    over are dropped at the front.
    """
    late = in_flight[:, in_flight.shape[1] // 2 :]
    replications, windows = late.shape
    if windows < _BATCH_COUNT:
        return Growth(0.0, 1.0, False)
    if replications >= PAIRED_MINIMUM:
        slopes = _slopes(late)
        slope = float(slopes.mean())
        error = float(slopes.std(ddof=1)) / math.sqrt(replications)
        p_value = _p_value(slope, error, replications - 1)
    else:
        size = windows // _BATCH_COUNT
        batches = late.mean(axis=0)[windows - size * _BATCH_COUNT :].reshape(_BATCH_COUNT, size)
        means = batches.mean(axis=1)
        batch_slope, error = _fit(means)
        slope = batch_slope / size
        p_value = _p_value(batch_slope, error, _BATCH_COUNT - 2)
    total = slope * windows
    material = total >= max(1.0, GROWTH_MINIMUM * float(late.mean()))
    return Growth(total, p_value, bool(p_value < significance and material))
