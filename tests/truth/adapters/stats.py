"""The analyser itself: intervals that must know rank, chance and correlation."""

import math

import numpy as np
from theory_scenarios import exponential, poisson, station
from truth_cases import Case
from truth_metrics import NS_PER_MS
from truth_runs import KEPT_SHARE, Values, engine_runs
from truth_study import Exact, NotYet, Replicated, key_of

from meshsim.stats.intervals import (
    CONFIDENCE,
    mean_interval,
    ratio_interval,
    sample_bounding_quantile,
    t_quantile,
)

#: Independent groups whose mean is given an interval, and length of each.
_GROUPS = 20
#: Correlation times in a group: its mean then has the limiting variance within 0.1 %.
_CORRELATION_TIMES = 1_000
#: Replications whose spread is one value of a variance.
_BLOCK = 32


def study(case: Case) -> Exact | Replicated:
    params = case.params
    if "rank" in case.metric:
        return Exact(lambda: _ranks(params), "meshsim.stats.intervals.ratio_interval")
    if case.metric == "n" and "maximum" in case.model:
        return Exact(
            lambda: sample_bounding_quantile(params["p"], params.get("conf", CONFIDENCE)),
            "meshsim.stats.intervals.sample_bounding_quantile",
        )
    if "phi" in params:
        return _autoregression(case)
    if "rho" in params:
        return _mean_wait(case)
    raise NotYet(f"meshsim.stats has no function for: {case.model}")


def _ranks(params: dict) -> tuple[int, int]:
    """Return the ranks between which Woodruff's interval of a quantile lies.

    Each value is a group of its own; the interval of the share below the quantile is turned
    into ranks, outwards.
    """
    count, p = params["n"], params["p"]
    below = np.zeros(count)
    below[: round(count * p)] = 1
    interval = ratio_interval(below, np.ones(count), params["conf"])
    return math.floor(count * interval.low), math.ceil(count * interval.high)


def _autoregression(case: Case) -> Replicated:
    """Return by how much `mean_interval` finds the variance of a correlated mean inflated."""
    phi = case.params["phi"]
    length = round(_CORRELATION_TIMES * 2 / (1 - phi))

    def once(rng: np.random.Generator) -> float:
        from scipy.signal import lfilter

        shape = (_GROUPS, length)
        # Stationary from the start: the first value has the variance of all.
        innovations = rng.standard_normal(shape) * math.sqrt(1 - phi**2)
        innovations[:, 0] /= math.sqrt(1 - phi**2)
        series = lfilter([1.0], [1.0, -phi], innovations, axis=1)
        interval = mean_interval(series.mean(axis=1))
        error = (interval.high - interval.low) / 2 / t_quantile(_GROUPS)
        return error**2 * series.size  # the variance of a value is 1

    def run(seed: int, replications: int) -> Values:
        return Values(
            np.array([once(np.random.default_rng([seed, row])) for row in range(replications)])
        )

    return Replicated(
        key=key_of(case),
        run=run,
        read=lambda runs: runs.values,
        load=0.0,
        replications_max=1280,
        about=f"{_GROUPS} groups of {length} values",
        cheap=phi <= 0.9,
    )


def _mean_wait(case: Case) -> Replicated:
    """Return n Var(mean wait) of M/M/1, one value a block of replications of the kernel."""
    load = case.params["rho"]
    kept = round(4_000 / (1 - load) ** 2)
    requests = round(kept / KEPT_SHARE)

    def run(seed: int, replications: int) -> Values:
        scenario = station(poisson(load), exponential())
        runs = engine_runs(scenario, requests / load, seed, replications * _BLOCK)
        means = runs.field("queue_ns") / runs.ended / NS_PER_MS
        return Values(means.reshape(replications, _BLOCK).var(axis=1, ddof=1) * kept)

    return Replicated(
        key=key_of(case),
        run=run,
        read=lambda runs: runs.values,
        load=load,
        replications_max=80,
        about=f"blocks of {_BLOCK} x {requests} requests",
        cheap=False,
    )
