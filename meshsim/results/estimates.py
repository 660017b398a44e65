"""A number with its interval, its sample and its method, or the reason why it is withheld.

Rule: a quantile is shown if at least `TAIL_MINIMUM` effective samples lie beyond it,
``samples / design effect * min(q, 1 - q) >= 30``, and its interval stays inside the sample.
Below that the interval covers less than it says: 8 or 9 in 10 where 95 in 100 are promised.
An unstable run has no latency distribution to estimate, so all its latencies are withheld.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from meshsim.stats.intervals import (
    Interval,
    design_effects,
    quantile_intervals_ns,
    ratio_interval,
    ratio_intervals,
    wilson_interval,
)

__all__ = [
    "METRICS",
    "QUANTILES",
    "SCARCE",
    "TAIL_MINIMUM",
    "Estimate",
    "latency_estimates",
    "share_estimate",
]

QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}
METRICS = ("mean", *QUANTILES)
#: Effective samples that must lie beyond a quantile.
TAIL_MINIMUM = 30
#: Words of the reason that follow the number of effective samples.
SCARCE = " effective samples beyond"
_NS_PER_MS = 1e6


@dataclass(frozen=True)
class Estimate:
    """One estimate.

    Parameters
    ----------
    value, low, high : float
        Point estimate and its 95 % limits, in the unit of the column; NaN if withheld.
    samples : int
        Requests it rests on.
    effective_samples : float
        Independent requests that would say as much; NaN if unknown.
    method : str
        How the interval was made.
    withheld : str
        Why there is no value; empty if there is one.
    """

    value: float
    low: float
    high: float
    samples: int
    effective_samples: float
    method: str
    withheld: str = ""

    @property
    def relative_half_width(self) -> float:
        """Half of the interval's width over the value [1]; infinite if withheld."""
        if self.withheld or not self.value or math.isnan(self.high - self.low):
            return math.inf
        return (self.high - self.low) / 2 / abs(self.value)

    def to_dict(self) -> dict[str, float | str | None]:
        """Return what JSON carries: value, low, high; or null and the reason."""
        if self.withheld:
            return {"value": None, "withheld": self.withheld}
        return {
            "value": self.value,
            "low": None if math.isnan(self.low) else self.low,
            "high": None if math.isnan(self.high) else self.high,
        }

    def __str__(self) -> str:
        if self.withheld:
            return f"withheld ({self.withheld})"
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


def _withheld(samples: int, effective: float, method: str, reason: str) -> Estimate:
    return Estimate(math.nan, math.nan, math.nan, samples, effective, method, reason)


def _shown(interval: Interval, samples: int, effective: float, method: str) -> Estimate:
    value, low, high = (limit / _NS_PER_MS for limit in interval)
    return Estimate(value, max(low, 0.0), high, samples, effective, method)


def _quantile(
    interval: Interval, name: str, samples: int, effective: float, method: str
) -> Estimate:
    q = QUANTILES[name]
    beyond = effective * min(q, 1 - q)
    if math.isnan(beyond):
        return _withheld(samples, effective, method, "a single group gives no interval")
    if beyond < TAIL_MINIMUM:
        reason = f"{math.floor(beyond)}{SCARCE} {name}, {TAIL_MINIMUM} needed"
        return _withheld(samples, effective, method, reason)
    if math.isinf(interval.high):
        reason = f"the interval of {name} leaves the sample"
        return _withheld(samples, effective, method, reason)
    return _shown(interval, samples, effective, method)


def latency_estimates(
    sums: npt.NDArray[np.int64],
    histograms: npt.NDArray[np.int64],
    method: str,
    withheld: str = "",
) -> list[dict[str, Estimate]]:
    """Estimate the mean and the quantiles of latencies [ms], of many rows at once.

    Parameters
    ----------
    sums : ndarray[int64], shape (rows, groups)
        Latency sum of each group [ns].  Read only.
    histograms : ndarray[int64], shape (rows, groups, bins)
        Latencies of each group.  Read only.
    method : str
        How the groups were made, for the reader.
    withheld : str
        A reason to withhold everything, or empty.

    Returns
    -------
    list of dict
        One `Estimate` for each of `METRICS`, by row.
    """
    cumulated = np.cumsum(histograms, axis=-1, dtype=np.int64)
    counts = cumulated[..., -1]
    samples = counts.sum(axis=1)
    effects = design_effects(cumulated)
    limits = {"mean": ratio_intervals(sums, counts)}
    limits |= {name: quantile_intervals_ns(cumulated, q) for name, q in QUANTILES.items()}
    rows = []
    for row, sampled in enumerate(samples.tolist()):
        reason = withheld or ("" if sampled else "no successful request")
        if reason:
            rows.append({name: _withheld(sampled, math.nan, method, reason) for name in METRICS})
            continue
        effective = sampled / float(effects[row])
        intervals = {
            name: Interval(*(float(limit[row]) for limit in limits[name])) for name in METRICS
        }
        estimates = {"mean": _shown(intervals["mean"], sampled, effective, method)}
        for name in QUANTILES:
            estimates[name] = _quantile(intervals[name], name, sampled, effective, method)
        rows.append(estimates)
    return rows


def share_estimate(
    part: npt.NDArray[np.int64], whole: npt.NDArray[np.int64], method: str
) -> Estimate:
    """Estimate a share of requests, such as the success rate [1].

    Parameters
    ----------
    part, whole : ndarray[int64], shape (groups,)
        Counts of each group.  Read only.

    Notes
    -----
    Where all groups agree (no failure, or nothing but failures) their spread says nothing and
    Wilson's interval of independent trials is given.
    """
    samples = int(whole.sum())
    if samples == 0:
        return _withheld(0, math.nan, method, "no request ended")
    interval = ratio_interval(part, whole)
    if part.sum() in (0, samples) or math.isnan(interval.low):
        interval = wilson_interval(float(part.sum()), samples)
    low, high = max(0.0, interval.low), min(1.0, interval.high)
    return Estimate(interval.value, low, high, samples, math.nan, method)
