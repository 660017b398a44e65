"""What is compared: the latency distribution, throughput and errors of one traffic class.

Rule: both planes leave the same record, and both are cut at the same window, fixed in advance:
the first `WARM_UP_WINDOWS` of the run are warm-up.  A request belongs to the window of its
intended arrival; latencies are those of successes, from the intended arrival.

A distribution is its function at the bounds of the histogram's bins, linear in between; so
quantiles, distances and the convolution with the harness stage need no samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from meshsim.results import Result
from meshsim.state.record import WINDOW_COUNT
from meshsim.stats.histogram import BIN_COUNT, bin_bounds_ns
from meshsim.stats.intervals import Interval, quantile_interval_ns
from meshsim.units import NS_PER_S

__all__ = ["WARM_UP_WINDOWS", "Latencies", "Measurement", "measure", "pooled"]

#: Windows of warm-up, of `WINDOW_COUNT`: one sixth of a run (12 s of 72 s).
WARM_UP_WINDOWS = 10
#: Windows that form one group of an interval; long enough to hold most of a busy period.
_WINDOWS_A_GROUP = 5

_Floats = npt.NDArray[np.float64]
_Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Latencies:
    """A distribution of latencies.

    Parameters
    ----------
    shares : ndarray[float64], shape (BIN_COUNT + 1,)
        Distribution function at the bounds of the bins, 0 to 1; NaN without a sample.
    """

    shares: _Floats

    @classmethod
    def from_counts(cls, counts: _Counts) -> Latencies:
        """Build from a histogram, shape (BIN_COUNT,)."""
        total = counts.sum()
        shares = np.full(len(counts) + 1, math.nan)
        if total > 0:
            shares = np.concatenate(([0.0], np.cumsum(counts) / total))
        return cls(shares)

    @property
    def known(self) -> bool:
        """Whether there is any sample."""
        return not math.isnan(self.shares[-1])

    def quantile(self, q: float) -> float:
        """Return the `q` quantile [ns]; NaN without a sample."""
        if not self.known:
            return math.nan
        end = int(np.searchsorted(self.shares, q, side="left"))
        if end == 0:
            return 0.0
        bounds = bin_bounds_ns(BIN_COUNT)
        below, upto = self.shares[end - 1], self.shares[min(end, BIN_COUNT)]
        share = (q - below) / (upto - below) if upto > below else 1.0
        width = bounds[min(end, BIN_COUNT)] - bounds[end - 1]
        return float(bounds[end - 1] + share * width)

    @property
    def mean(self) -> float:
        """Mean [ns]."""
        bounds = bin_bounds_ns(BIN_COUNT)
        return float(np.sum(np.diff(self.shares) * (bounds[:-1] + bounds[1:]) / 2))

    def distance(self, other: Latencies) -> float:
        """Return the Kolmogorov-Smirnov distance: the largest difference of shares [1]."""
        return float(np.max(np.abs(self.shares - other.shares)))

    def transport(self, other: Latencies) -> float:
        """Return the Wasserstein-1 distance: the area between the two functions [ns]."""
        gaps = np.abs(self.shares - other.shares)
        widths = np.diff(bin_bounds_ns(BIN_COUNT))
        return float(np.sum(widths * (gaps[:-1] + gaps[1:]) / 2))

    def after(self, stage_ns: Sequence[float]) -> Latencies:
        """Return the distribution with one more stage in series, independent of it.

        Parameters
        ----------
        stage_ns : sequence of float
            Delays of the stage [ns], each equally likely; may be negative where they are
            differences from a mean that is counted elsewhere.
        """
        if not self.known or not len(stage_ns):
            return self
        bounds = bin_bounds_ns(BIN_COUNT)
        delayed = [np.interp(bounds - delay, bounds, self.shares) for delay in stage_ns]
        shares = np.mean(delayed, axis=0)
        shares[-1] = 1.0
        return Latencies(shares)

    def to_json(self) -> dict[str, list[float]]:
        """Return bins with a share and their shares; see `from_json`."""
        gains = np.diff(self.shares)
        bins = np.flatnonzero(gains > 0)
        return {"bins": bins.tolist(), "shares": gains[bins].tolist()}

    @classmethod
    def from_json(cls, plain: dict[str, list[float]]) -> Latencies:
        """Read what `to_json` wrote."""
        gains = np.zeros(BIN_COUNT)
        gains[np.array(plain["bins"], np.intp)] = plain["shares"]
        if not plain["bins"]:
            return cls(np.full(BIN_COUNT + 1, math.nan))
        return cls(np.concatenate(([0.0], np.cumsum(gains))))


@dataclass(frozen=True, eq=False)
class Measurement:
    """One traffic class of one run, or of several together, after warm-up.

    Parameters
    ----------
    groups : ndarray[int64], shape (groups, BIN_COUNT)
        Latency histogram of successes by stretch of the run.
    arrivals, failures, good_responses : int
        Requests that arrived and those of them that failed; successes by the clock.
    latency_sum_ns : int
        Of successes [ns].
    time_s : float
        Measured time [s].
    judged, denied : int
        Requests of the whole mesh that access rules judged, and refused, warm-up included: they
        are no failures where the caller goes on.
    """

    groups: _Counts
    arrivals: int
    failures: int
    good_responses: int
    latency_sum_ns: int
    time_s: float
    judged: int = 0
    denied: int = 0

    @cached_property
    def latencies(self) -> Latencies:
        """Distribution of the latencies of successes."""
        return Latencies.from_counts(self.groups.sum(axis=0))

    @property
    def successes(self) -> int:
        """Requests that succeeded."""
        return int(self.groups.sum())

    @property
    def mean_ns(self) -> float:
        """Mean latency of successes, from their sum and not from bins [ns]."""
        return self.latency_sum_ns / self.successes if self.successes else math.nan

    @property
    def throughput_rps(self) -> float:
        """Successes a second [1/s]."""
        return self.good_responses / self.time_s

    @property
    def error_fraction(self) -> float:
        """Share of the requests that failed [1]."""
        return self.failures / self.arrivals if self.arrivals else math.nan

    @property
    def denied_fraction(self) -> float:
        """Share of the judged requests that access rules refused [1]; NaN if none was judged."""
        return self.denied / self.judged if self.judged else math.nan

    def interval(self, q: float) -> Interval:
        """Return the `q` quantile with its 95 % interval [ns], from groups of windows."""
        return quantile_interval_ns(self.groups, q)


def measure(result: Result) -> dict[str, Measurement]:
    """Return the measurement of each traffic class of a result, by name.

    All replications of the result are taken together.
    """
    return {
        name: _measure(result, index)
        for index, name in enumerate(result.catalog.traffic)
        if result.records
    }


def _measure(result: Result, traffic: int) -> Measurement:
    kept = slice(WARM_UP_WINDOWS, WINDOW_COUNT)
    groups = []
    totals = dict.fromkeys(("arrivals", "failures", "good_responses", "latency_sum_ns"), 0)
    for record in result.records:
        groups += _groups(record, traffic, len(result.catalog.traffic))
        for name in totals:
            totals[name] += int(record.windows[name][kept, traffic].sum())
    window_s = result.records[0].duration_ns / NS_PER_S / WINDOW_COUNT
    time_s = len(result.records) * window_s * (WINDOW_COUNT - WARM_UP_WINDOWS)
    denied, allowed = (
        sum(int(record.proxies[-1][name].sum()) for record in result.records)
        for name in ("rbac_denied", "rbac_allowed")
    )
    judged = {"judged": denied + allowed, "denied": denied}
    return Measurement(np.stack(groups), **totals, time_s=time_s, **judged)


def _groups(record: Any, traffic: int, classes: int) -> list[_Counts]:
    """Return the histogram of each group of windows of one record."""
    groups = []
    for first in range(WARM_UP_WINDOWS, WINDOW_COUNT, _WINDOWS_A_GROUP):
        rows = np.arange(first, first + _WINDOWS_A_GROUP) * classes + traffic
        dense = record.window_histogram.dense_rows(rows)
        groups.append(dense.sum(axis=0, dtype=np.int64))
    return groups


def pooled(measurements: Sequence[Measurement]) -> Measurement:
    """Return several measurements of one class taken together; at least one."""
    return Measurement(
        np.concatenate([item.groups for item in measurements]),
        sum(item.arrivals for item in measurements),
        sum(item.failures for item in measurements),
        sum(item.good_responses for item in measurements),
        sum(item.latency_sum_ns for item in measurements),
        sum(item.time_s for item in measurements),
        sum(item.judged for item in measurements),
        sum(item.denied for item in measurements),
    )
