"""What a metric's words mean, and how it is read off replications.

Every reader returns one value a replication, whose mean is the pooled estimate and whose spread
gives its error:

- a ratio or another smooth function of means: jackknife pseudo-values, which also take away
  the bias of a ratio;
- a quantile: Q + (q - F_r(Q)) / f, the linearised (Woodruff) contribution of replication r to
  the pooled quantile Q, F_r being its share of values below Q and f the pooled density there.
  The mean of quantiles by replication would be biased where few values lie beyond.

References
----------
R. S. Woodruff, "Confidence intervals for medians and other position measures", JASA 47 (1952).
"""

import re
from collections.abc import Callable

import numpy as np
from truth_study import NotYet

from meshsim.stats.histogram import cumulated_count_below, cumulated_quantile_ns

NS_PER_MS = 1e6
_QUANTILE = re.compile(r"^p(\d+(?:\.\d+)?)\b|^median\b")


def smooth(function: Callable[..., np.ndarray], *columns: np.ndarray) -> np.ndarray:
    """Return the jackknife pseudo-values of `function` of the sums of `columns` (R,)."""
    count = len(columns[0])
    totals = [np.sum(column, axis=0) for column in columns]
    whole = function(*totals)
    without = np.array(
        [
            function(*(total - column[row] for total, column in zip(totals, columns, strict=True)))
            for row in range(count)
        ]
    )
    return count * whole - (count - 1) * without


def ratio(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the pseudo-values of sum(sums) / sum(counts)."""
    return smooth(lambda total, count: total / count, sums, counts)


def ratio_of_means(one: object, other: object, field: str) -> np.ndarray:
    """Return the mean of a window field of one set of `EngineRuns` over that of another."""
    return smooth(
        lambda a, b, c, d: (a / b) / (c / d),
        one.field(field),
        one.ended,
        other.field(field),
        other.ended,
    )


def quantile(histograms: np.ndarray, q: float) -> np.ndarray:
    """Return the contributions to the pooled `q` quantile [ms] of histograms (R, bins)."""
    cumulated = np.cumsum(histograms, axis=1, dtype=np.int64)
    pooled = cumulated.sum(axis=0)
    counts = cumulated[:, -1]
    found = float(cumulated_quantile_ns(pooled, q))
    below = cumulated_count_below(cumulated, np.full(len(counts), found))
    residual = (below - q * counts) / counts.mean()
    # The density over the range that the error of the share covers.
    error = max(float(residual.std(ddof=1)) / len(counts) ** 0.5, 1e-9)
    reach = min(2 * error, q, 1 - q) / 2
    low, high = (float(cumulated_quantile_ns(pooled, q + way * reach)) for way in (-1, 1))
    return (found - residual * (high - low) / (2 * reach)) / NS_PER_MS


def share_above(histograms: np.ndarray, time_ms: float) -> np.ndarray:
    """Return the share of values above `time_ms`, of histograms (R, bins)."""
    cumulated = np.cumsum(histograms, axis=1, dtype=np.int64)
    counts = cumulated[:, -1]
    below = cumulated_count_below(cumulated, np.full(len(counts), time_ms * NS_PER_MS))
    return ratio(counts - below, counts)


def standard_deviation(count: np.ndarray, sums: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """Return the pseudo-values of the standard deviation, from sums by replication."""
    return smooth(lambda n, s, q: np.sqrt(q / n - (s / n) ** 2), count, sums, squares)


def quantile_of(metric: str) -> float | None:
    """Return the probability that a metric such as "p99.9 sojourn" or "median" names."""
    found = _QUANTILE.match(metric)
    if found is None:
        return None
    return float(found[1]) / 100 if found[1] else 0.5


def threshold_of(metric: str) -> float | None:
    """Return the number in "P(T>2.5)", "P(wait>0)" or "P(N>=10)"."""
    found = re.search(r">=?\s*(\d+(?:\.\d+)?)", metric)
    return float(found[1]) if found else None


def is_wait(metric: str) -> bool:
    """Tell whether a metric speaks of waiting only, not of the whole sojourn."""
    return re.search(r"\bwait|\bin queue|P\(W", metric) is not None


def needs_spans(metric: str) -> bool:
    """Tell whether single requests must be seen: counters and histograms do not say it."""
    waits = is_wait(metric) and not metric.startswith("mean")
    words = ("P(N", "number in", "std", "busy on arrival")
    return waits or any(word in metric for word in words)


def reader_of(metric: str, unit_ms: float = 1.0) -> Callable[[object], np.ndarray]:
    """Return how `metric` is read off `EngineRuns` or, if it needs them, `SpanRuns`.

    Parameters
    ----------
    metric : str
        As the case says it.
    unit_ms : float
        The case's unit of time [ms].

    Raises
    ------
    NotYet
        If nobody has said how to read it.
    """
    q = quantile_of(metric)
    if q is not None:
        source = "wait_histogram" if is_wait(metric) else "histogram"
        return lambda runs: quantile(getattr(runs, source), q) / unit_ms
    if metric.startswith("std"):
        name = "wait" if is_wait(metric) else "latency"
        return lambda runs: standard_deviation(*runs.moments(name)) / unit_ms
    if "P(N" in metric:
        level = int(threshold_of(metric) or 0)
        return lambda runs: runs.in_system[:, level:].sum(axis=1) / runs.time_ns
    if "busy on arrival" in metric or re.match(r"P\(wait\s*>\s*0", metric):
        return lambda runs: ratio(runs.waited, runs.count)
    if metric.startswith("P("):
        source = "wait_histogram" if is_wait(metric) else "histogram"
        time = threshold_of(metric)
        if time is None:
            raise NotYet(f"no number in the metric {metric!r}")
        return lambda runs: share_above(getattr(runs, source), time * unit_ms)
    if "number in" in metric:
        return lambda runs: runs.in_system @ np.arange(runs.in_system.shape[1]) / runs.time_ns
    if metric.startswith("mean"):
        if is_wait(metric):
            return lambda runs: ratio(runs.field("queue_ns"), runs.ended) / NS_PER_MS / unit_ms
        return lambda runs: runs.mean() / unit_ms
    if "throughput" in metric:
        return lambda runs: runs.throughput() * unit_ms
    if "fraction" in metric:
        return lambda runs: runs.failed()
    raise NotYet(f"no reader for the metric {metric!r}")
