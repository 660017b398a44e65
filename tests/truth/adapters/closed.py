"""Closed loops: users who wait for the response, think, and ask again; and what recorders see.

The stall of coordinated omission: a server that answers in 1 ms stands still for a while.  One
user who waits for each response hides it; arrivals on a fixed schedule show it.
"""

import math

import numpy as np
from theory_scenarios import PER_MS, exponential, ms, station, topology, workload
from truth_cases import Case
from truth_runs import compiled, traced
from truth_scenarios import queue_study
from truth_study import Exact, NotYet, Replicated

from meshsim import theory

#: G. Tene's example: a request every 10 ms, answered in 1 ms.
_INTERVAL_MS = 10.0
_SERVICE_MS = 1.0
_FAST_DEFAULT, _STALL_DEFAULT_S = 10_000, 100.0


def study(case: Case) -> Replicated | Exact:
    if "clients" in case.params:
        return _steady(case)
    if "recorder" in case.model:
        return Exact(lambda: _recorded(case), "one run, each request traced")
    raise NotYet(f"no scenario for {case.model!r}")


def _steady(case: Case) -> Replicated:
    params = case.params
    users, think, service = params["clients"], params["Z"], params["S"]
    workers = params.get("c", 1)
    law = exponential(think) if str(params.get("think", "Exp")).startswith("Exp") else ms(think)
    loop = {"users": users, "think_time": law}
    throughput, response = theory.closed_network(users, think, [service], [workers])
    found = throughput if "throughput" in case.metric else response
    return queue_study(
        case,
        lambda: topology(
            {"station": workload(exponential(service), concurrency=workers)},
            {"load": {"to": "station", "closed_loop": loop}},
        ),
        throughput,
        0.0,
        requests=max(50_000, 500 * users),
        second=lambda: (found, "meshsim.theory.closed_network"),
    )


def _recorded(case: Case) -> list[float]:
    """Return what a recorder reports of a stall."""
    fast = case.params.get("n_fast", _FAST_DEFAULT)
    stall_ms = case.params.get("stall_s", _STALL_DEFAULT_S) * PER_MS
    begin_ms = fast * _INTERVAL_MS
    closed = "closed-loop recorder" in case.model
    # The closed loop's next request is answered `stall_ms` after it was sent, and is its last.
    late_ms = _INTERVAL_MS - _SERVICE_MS if closed else 0.0
    pause_ms = stall_ms + late_ms - (_SERVICE_MS if closed else 0.0)

    def stall(env, mesh):
        yield env.timeout(begin_ms / PER_MS)
        mesh.slow("station", 0.0)
        yield env.timeout(pause_ms / PER_MS)
        mesh.restore("station")

    if closed:
        think = ms(_INTERVAL_MS - _SERVICE_MS)
        load = {"to": "station", "closed_loop": {"users": 1, "think_time": think}}
        scenario = topology({"station": workload(ms(_SERVICE_MS))}, {"load": load})
    else:
        arrivals = {"renewal": {"interval": ms(_INTERVAL_MS)}}
        scenario = station(arrivals, ms(_SERVICE_MS), concurrency=1_000_000)
    duration_ns = round((begin_ms + stall_ms + late_ms) * 1e6)
    spans, _ = traced(compiled(scenario), duration_ns, 4 * fast + 10_000, 1, 0, [stall])
    latencies_ms = np.sort((spans["end_ns"] - spans["start_ns"]) / 1e6)
    return [_statistic(word, latencies_ms) for word in _words(case.metric)]


def _words(metric: str) -> list[str]:
    return [word.strip() for word in metric.strip("[]").split(",")]


def _statistic(word: str, sorted_ms: np.ndarray) -> float:
    """Return the mean, or the smallest value that a share of all does not exceed."""
    if "mean" in word:
        return float(sorted_ms.mean())
    q = float(next(part for part in word.split() if part.startswith("p"))[1:]) / 100
    rank = math.ceil(q * len(sorted_ms) - 1e-9)
    return float(sorted_ms[rank - 1])
