"""Retries: how many attempts a request makes, alone, in layers, and within a budget."""

from itertools import pairwise

import numpy as np
from theory_scenarios import poisson, topology
from truth_cases import Case
from truth_laws import number_after
from truth_metrics import ratio
from truth_runs import EngineRuns, compiled, traced
from truth_scenarios import queue_study
from truth_study import Exact, NotYet, Replicated

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
    if "retrial" in case.model:
        raise NotYet("back-off is Envoy's, uniform and growing, not exponential and constant")
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
