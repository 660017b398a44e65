"""Retries: how many attempts a request makes, alone, in layers, and within a budget."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from adapters.p_retry import adaptive_bucket
from theory_scenarios import exponential, poisson, station, topology
from truth_cases import Case
from truth_laws import number_after
from truth_metrics import NS_PER_MS, ratio
from truth_runs import EngineRuns, compiled, traced
from truth_scenarios import queue_study
from truth_study import Exact, NotYet, Replicated

import meshsim
from meshsim.rng import next_uniform
from meshsim.topology.model import Topology

_MANY = 1_000_000
#: Back-off that takes no time worth speaking of.
_AT_ONCE = {"base_interval": "1us", "max_interval": "1us"}
_RETRIES_MAX = 1_000
#: Requests in flight under a budget: large, for a budget is cut to a whole number.
_IN_FLIGHT = 2_000


def study(case: Case) -> Replicated | Exact:
    params = case.params
    if "attempts_per_layer" in params:
        return Exact(lambda: _layers(params), "one request")
    if "budget_percent" in params and "Envoy" in case.model:
        budget = {"budget_percent": float(params["budget_percent"]), "min_retry_concurrency": 0}
        return _budget(case, {"retry_budget": budget})
    if "retryRatio" in params and "Finagle" in case.model:
        return _token_budget(case)
    if case.model == "independent failures":
        return _independent(case)
    if "gRPC retryThrottling" in case.model:
        return _grpc(case)
    if "deposit_per_call" in params:
        return _adaptive(case)
    if "retrial" in case.model:
        return _orbit(case)
    raise NotYet(f"no policy for: {case.model}")


def _retrying(attempts: int, **breakers: object) -> dict:
    """Return what clients of a service do: so many attempts, whatever 5xx it answers."""
    retry = {"num_retries": attempts - 1, "retry_on": ["5xx"], **_AT_ONCE}
    policy: dict = {"routes": [{"retry": retry}]}
    if breakers:
        policy["circuit_breakers"] = breakers
    return policy


def _failing(share: float, service: str) -> dict:
    return {"concurrency": _MANY, "error_rate": share, "steps": [{"compute": service}]}


def _attempts(runs: EngineRuns) -> np.ndarray:
    return ratio(runs.endpoint_requests.sum(axis=1), runs.ended)


def _independent(case: Case) -> Replicated:
    """Every attempt fails with one probability."""
    fails, attempts = case.params["p_fail"], case.params["max_attempts"]
    found = {
        "attempts per request": (1 - fails**attempts) / (1 - fails),
        "success fraction": 1 - fails**attempts,
    }
    if case.metric not in found:
        raise NotYet(f"no reader for the metric {case.metric!r}")
    succeeds = case.metric == "success fraction"
    return queue_study(
        case,
        lambda: topology(
            {"station": _failing(fails, "1us")},
            {"load": {"to": "station", "arrivals": poisson(1.0)}},
            {"station": _retrying(attempts)},
        ),
        1.0,
        0.0,
        visits=attempts,
        read=(lambda runs: 1 - runs.failed()) if succeeds else _attempts,
        second=lambda: (found[case.metric], "geometric series"),
    )


def _grpc(case: Case) -> Replicated:
    """Each try of a client fails with one probability; the failures pay for the retries."""
    tokens, ratio = (number_after(case.model, name) for name in ("maxTokens", "tokenRatio"))
    grpc = {"max_tokens": int(tokens or 10), "token_ratio": ratio or 0.1}
    attempts = int(case.params.get("max_attempts", number_after(case.model, "max_attempts") or 4))
    policy = _retrying(attempts, retry_throttling={"grpc": grpc})
    return _long_run(case, case.params["p"], lambda: policy)


def _adaptive(case: Case) -> Replicated:
    """Each call of a client deposits a part of a retry."""

    def policy() -> dict:
        declared = _retrying(_RETRIES_MAX)
        bucket = adaptive_bucket(case.params["bucket"], case.params["deposit_per_call"])
        declared["admission"], declared["routes"][0]["retry"]["custom"] = bucket
        return declared

    return _long_run(case, case.params["p_fail"], policy)


def _long_run(case: Case, fails: float, policy: Callable[[], dict]) -> Replicated:
    """Return what one client makes of a server that is never busy."""
    succeeds = case.metric == "success fraction"
    return queue_study(
        case,
        lambda: topology(
            {"station": _failing(fails, "1us")},
            {"load": {"to": "station", "arrivals": poisson(1.0)}},
            {"station": policy()},
        ),
        1.0,
        0.0,
        requests=100_000,
        visits=2.0,
        variant=(case.model.split(" (")[0],),
        read=(lambda runs: 1 - runs.failed()) if succeeds else _attempts,
    )


def exponential_back_off(mean_ns: float) -> Any:
    """Return the retry policy of clients who come again after an exponential time."""

    def come_again(outcome, memory, now_ns, rng):
        if outcome.status < 500:
            return -1
        return int(-mean_ns * math.log(1.0 - next_uniform(rng)))

    return meshsim.policy.retry_policy(come_again)


def _orbit(case: Case) -> Replicated:
    """A server without a waiting room, whose clients come again until they find it free."""
    params = case.params
    rate, mu, theta = params["lam"], params["mu"], params["theta"]
    load = rate / mu
    if case.metric != "mean number retrying":
        raise NotYet(f"no reader for the metric {case.metric!r}")

    def scenario() -> Topology:
        policy = _retrying(_RETRIES_MAX)
        policy["routes"][0]["retry"]["custom"] = exponential_back_off(NS_PER_MS / theta)
        return station(poisson(rate), exponential(1 / mu), policy, queue_limit=0)

    def read(runs: EngineRuns) -> np.ndarray:
        waiting_ns = runs.field("in_flight_ns") - runs.field("service_ns")
        return waiting_ns / NS_PER_MS / runs.measured_ms

    return queue_study(
        case,
        scenario,
        rate,
        load,
        variability=1 + mu / theta,
        visits=1 + (rate + load * theta) / ((1 - load) * mu),
        read=read,
        second=lambda: (load * (rate + load * theta) / ((1 - load) * theta), "Falin"),
    )


def _layers(params: dict) -> float:
    """Return how often one request reaches a leaf that always fails."""
    count, attempts = params["layers"], params["attempts_per_layer"]
    names = [f"layer-{row}" for row in range(count)]
    bodies = {
        name: {"concurrency": _MANY, "steps": [{"call": onward}]}
        for name, onward in pairwise(names)
    }
    bodies[names[-1]] = _failing(1.0, "1us")
    scenario = topology(
        bodies,
        {"load": {"to": names[0], "arrivals": {"recorded": {"times": ["1ms"]}}}},
        {name: _retrying(attempts) for name in names},
    )
    _, kernel = traced(compiled(scenario), 1_000_000_000, 4 * attempts**count + 100, 1, 0)
    leaf = kernel.endpoint_names.index(next(n for n in kernel.endpoint_names if names[-1] in n))
    return float(kernel.state.endpoints["requests"][leaf])


def _token_budget(case: Case) -> Replicated:
    """Every first try deposits a share of a retry; nothing is there without."""
    least = number_after(case.model, "minRetriesPerSecond")
    budget = {"retry_ratio": case.params["retryRatio"], "min_retries_per_second": int(least or 0)}
    return _budget(case, {"retry_throttling": {"token_budget": budget}})


def _budget(case: Case, breakers: dict) -> Replicated:
    """Everything fails, after the same time; how often it is tried again, a budget says."""
    policy = _retrying(_RETRIES_MAX, **breakers)
    body = {"concurrency": _MANY, "steps": [{"sleep": "10ms"}, {"call": "broken"}]}
    rate = _IN_FLIGHT / 10
    return queue_study(
        case,
        lambda: topology(
            {"station": body, "broken": _failing(1.0, "1us")},
            {"load": {"to": "station", "arrivals": poisson(rate)}},
            {"station": policy},
        ),
        rate,
        0.0,
        requests=100 * _IN_FLIGHT,
        visits=2.0,
        read=lambda runs: ratio(runs.endpoint_requests[:, 0], runs.ended),
    )
