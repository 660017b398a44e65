"""Hedged requests: another copy after a while, or copies to several servers at once.

Without queues a request takes longer than t if every copy sent by then does: S(t) S(t - h).  The
latency of a server is drawn anew for each copy.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm
from theory_scenarios import exponential, ms, poisson, topology, workload
from truth_cases import Case
from truth_metrics import quantile_of, ratio
from truth_scenarios import queue_study
from truth_study import NotYet, Replicated

_MANY = 1_000_000
#: Points that stand for a mixture of normal laws, the same number a percent.
_POINTS_A_PERCENT = 500
#: The published mixture, (weight, mean, standard deviation), where a case leaves it to its text.
_PUBLISHED = ((0.99, 10.0, 2.0), (0.01, 100.0, 10.0))
_REQUESTS = 400_000


@dataclass(frozen=True)
class Latency:
    """What one copy takes, without queueing: as declared, and how often it takes longer."""

    declared: object
    survival: Callable[[float], float]
    longest: float

    def quantile(self, q: float) -> float:
        return float(brentq(lambda t: self.survival(t) - (1 - q), 0, self.longest))


def study(case: Case) -> Replicated:
    params = case.params
    if "k" in params:
        return _redundancy(case, params["k"], params["d"], params["lam_per_server"])
    latency = _latency(case)
    hedge_at = _hedge_at(case, latency)
    if case.metric.startswith("extra"):
        wanted = latency.survival(hedge_at)
    elif (q := quantile_of(case.metric)) is not None:
        wanted = _hedged_quantile(latency, hedge_at, q)
    else:
        raise NotYet(f"no reader for {case.metric!r}")
    extra = case.metric.startswith("extra")
    return queue_study(
        case,
        lambda: _scenario(latency, hedge_at),
        1.0,
        0.0,
        requests=_REQUESTS,
        visits=2.0,
        read=(lambda runs: ratio(runs.endpoint_requests.sum(axis=1), runs.ended) - 1)
        if extra
        else None,
        variant=(hedge_at,),
        second=lambda: (wanted, "S(t) S(t - h)"),
        first_window=3,
    )


# --- Without queues -------------------------------------------------------------------------


def _latency(case: Case) -> Latency:
    text = str(case.params.get("latency", case.model))
    found = re.match(r"Exp\((\d*\.?\d+)\)", text)
    if found:
        rate = float(found[1])
        return Latency(exponential(1 / rate), lambda t: math.exp(-rate * max(t, 0)), 60 / rate)
    parts = re.findall(r"(\d*\.?\d+)%\s*N\((\d*\.?\d+),\s*(\d*\.?\d+)\)", text)
    if not parts and "no hedge" not in text:
        raise NotYet(f"no law for the latency {text!r}")
    mixture = [(float(p) / 100, float(m), float(s)) for p, m, s in parts] or _PUBLISHED
    return Latency(
        {"empirical": {"values": [ms(value) for value in _points(mixture)]}},
        lambda t: sum(weight * norm.sf(t, mean, deviation) for weight, mean, deviation in mixture),
        max(mean + 12 * deviation for _, mean, deviation in mixture),
    )


def _points(mixture) -> list[float]:
    """Return values that are equally likely, by their ranks within each normal law."""
    values: list[float] = []
    for weight, mean, deviation in mixture:
        count = round(100 * weight * _POINTS_A_PERCENT)
        ranks = (np.arange(count) + 0.5) / count
        values += np.maximum(norm.ppf(ranks, mean, deviation), 0).tolist()
    return values


def _hedge_at(case: Case, latency: Latency) -> float:
    """Return when the second copy leaves, infinite if none does."""
    if "no hedge" in case.model:
        return math.inf
    stated = case.params.get("hedge_at")
    if stated is None:
        found = re.search(r"hedge at (\d*\.?\d+)", case.model)
        if found is None:
            raise NotYet(f"when does the hedge of {case.model!r} leave?")
        return float(found[1])
    q = quantile_of(str(stated))
    return float(stated) if q is None else latency.quantile(q)


def _hedged_quantile(latency: Latency, hedge_at: float, q: float) -> float:
    def beyond(t: float) -> float:
        second = latency.survival(t - hedge_at) if t > hedge_at else 1.0
        return latency.survival(t) * second - (1 - q)

    return float(brentq(beyond, 0, latency.longest))


def _scenario(latency: Latency, hedge_at: float):
    body = workload(latency.declared, concurrency=_MANY, replicas=2, on_timeout="cancel_work")
    route: dict = {}
    if math.isfinite(hedge_at):
        route["hedge_policy"] = {"max_attempts": 2, "hedging_delay": ms(hedge_at)}
    traffic = {"load": {"to": "station", "arrivals": poisson(1.0)}}
    return topology({"station": body}, traffic, {"station": {"routes": [route]}})


# --- With queues ----------------------------------------------------------------------------


def _redundancy(case: Case, servers: int, copies: int, rate: float) -> Replicated:
    """Copies to `copies` random servers; the first that is served cancels the others."""
    if case.metric != "mean sojourn":
        raise NotYet(f"no reader for {case.metric!r}")
    return queue_study(
        case,
        lambda: _redundant(servers, copies, rate),
        servers * rate,
        rate,
        visits=float(copies),
        second=lambda: (_redundant_sojourn(servers, copies, rate), "Gardner et al. 2017, Thm. 1"),
    )


def _redundant(servers: int, copies: int, rate: float):
    body = workload(exponential(), replicas=servers, on_timeout="cancel_work")
    route = {
        "hedge_policy": {"max_attempts": copies},
        "retry": {"previous_hosts": True, "host_selection_retry_max_attempts": 100},
    }
    policy = {"load_balancing": {"policy": "RANDOM"}, "routes": [route] if copies > 1 else []}
    traffic = {"load": {"to": "station", "arrivals": poisson(servers * rate)}}
    return topology({"station": body}, traffic, {"station": policy})


def _redundant_sojourn(servers: int, copies: int, rate: float) -> float:
    """Return sum over i = d to k of 1 / (k mu C(k-1, d-1) / C(i-1, d-1) - k lambda), mu = 1."""
    of_all = math.comb(servers - 1, copies - 1)
    return sum(
        1 / (servers * of_all / math.comb(i - 1, copies - 1) - servers * rate)
        for i in range(copies, servers + 1)
    )
