"""Token buckets in front of a service: what a limited proxy refuses."""

from theory_scenarios import poisson, station
from truth_cases import Case
from truth_metrics import ratio
from truth_runs import EngineRuns, compiled, traced
from truth_scenarios import queue_study
from truth_study import Exact, NotYet, Replicated

from meshsim.topology.model import Topology
from meshsim.units import NS_PER_S

_MANY = 1_000_000
_NS_PER_MS = 1_000_000
#: A refusal comes in clumps of a bucket's length.
_REQUESTS = 400_000
_METRICS = ("rejected fraction", "accepted count")


def study(case: Case) -> Replicated | Exact:
    params = case.params
    if case.metric not in _METRICS:
        raise NotYet(f"no reader for the metric {case.metric!r}")
    if {"rate", "burst", "n", "gap"} <= params.keys():
        return Exact(lambda: _accepted(params), "one burst")
    if {"rate", "burst", "lam"} <= params.keys():
        bucket = _bucket(params["burst"], 1, _NS_PER_MS / params["rate"])
        return _rejected(case, bucket, "CONTINUOUS")
    if {"max_tokens", "tokens_per_fill", "fill_interval", "lam"} <= params.keys():
        interval_ns = params["fill_interval"] * _NS_PER_MS
        bucket = _bucket(params["max_tokens"], params["tokens_per_fill"], interval_ns)
        return _rejected(case, bucket, "TICKS")
    raise NotYet(f"no scenario for {case.model!r}")


def _bucket(max_tokens: int, tokens_per_fill: int, interval_ns: float) -> dict:
    interval = f"{round(interval_ns)}ns"
    return {
        "max_tokens": int(max_tokens),
        "tokens_per_fill": int(tokens_per_fill),
        "fill_interval": interval,
    }


def _limited(arrivals: dict, bucket: dict, refill: str) -> Topology:
    limit = {"token_bucket": bucket, "refill": refill}
    policy = {"routes": [{"rate_limit": limit}]}
    return station(arrivals, "1us", policy, concurrency=_MANY)


def _rejected(case: Case, bucket: dict, refill: str) -> Replicated:
    rate = case.params["lam"]

    def read(runs: EngineRuns):
        return 1 - ratio(runs.endpoint_requests[:, 0], runs.ended)

    return queue_study(
        case,
        lambda: _limited(poisson(rate), bucket, refill),
        rate,
        0.0,
        requests=_REQUESTS,
        read=read,
    )


def _accepted(params: dict) -> float:
    """Return how many of equally spaced requests a full bucket lets through."""
    gap_ns = params["gap"] * NS_PER_S
    times = [f"{round(number * gap_ns)}ns" for number in range(1, params["n"] + 1)]
    bucket = _bucket(params["burst"], 1, NS_PER_S / params["rate"])
    scenario = _limited({"recorded": {"times": times}}, bucket, "CONTINUOUS")
    duration_ns = round((params["n"] + 2) * gap_ns)
    _, kernel = traced(compiled(scenario), duration_ns, params["n"] + 100, 1, 0)
    return float(kernel.state.endpoints["requests"].sum())
