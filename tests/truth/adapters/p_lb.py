"""Published figures of load balancers.

References
----------
M. Mitzenmacher, "The power of two choices in randomized load balancing", IEEE TPDS 12 (2001).
M. Brooker, "The power of two random choices" (2012); "Surprising economics of load-balanced
systems" (2020).
S. Jenson, "Beyond round robin: load balancing for latency", Linkerd (2016).
B. Wydrowski et al., "Load is not what you should balance: Introducing Prequal", NSDI 2024.
"""

import math
import re
from itertools import pairwise
from typing import Any

import numpy as np
from adapters import jsqd
from scipy.stats import norm
from theory_scenarios import exponential, ms, poisson, station, topology, workload
from truth_cases import Case, seed_of
from truth_metrics import ratio, share_above
from truth_prequal import load_ramp
from truth_runs import EngineRuns, Several, Values, compiled, engine_runs, side_by_side
from truth_scenarios import queue_study
from truth_study import Claims, NotYet, Replicated, key_of
from verdict import t_error

from meshsim import theory
from meshsim.kernel.control import MeshControl
from meshsim.kernel.environment import MeshEnvironment
from meshsim.kernel.owner import Kernel
from meshsim.topology.model import Topology
from meshsim.units import NS_PER_S


def study(case: Case) -> Replicated | Claims:
    params = case.params
    if "sampling" in params:
        return jsqd.study(case)
    if {"c", "offered"} == params.keys() and case.metric == "P(queue)":
        return _pooled(case, params["c"], params["offered"])
    if "refresh_s" in params:
        return _stale(case)
    if "QRIF" in params:
        return load_ramp(case)
    if "success" in case.metric:
        return _ordering(case) if case.rule == "order" else _late(case)
    raise NotYet(f"no scenario for {case.model!r}")


def _pooled(case: Case, workers: int, offered: float) -> Replicated:
    """One queue for all servers: who waits, by Erlang's C."""
    return queue_study(
        case,
        lambda: station(poisson(offered), exponential(), concurrency=workers),
        offered,
        offered / workers,
        read=lambda runs: ratio(runs.waited, runs.count),
        spans=True,
        second=lambda: (theory.MMc(offered, 1.0, workers).wait_probability, "meshsim.theory.MMc"),
    )


def _number(case: Case, name: str, pattern: str, default: float) -> float:
    """Return a parameter, or the number in the model's words, or what the author had."""
    if name in case.params:
        return float(case.params[name])
    found = re.search(pattern, case.model)
    return float(found[1]) if found else default


# --- Stale views ------------------------------------------------------------------------------

#: Before the end of a second: a request arrives, a server completes; then the view is renewed.
_ARRIVAL_S, _COMPLETION_S = 2e-3, 1e-3
#: Length of one replication, and what is left out of it.
_STALE_S, _STALE_WARM_S = 16_000, 1_000
_BALANCERS: dict[str, dict[str, Any]] = {
    "random": {"policy": "RANDOM"},
    "best": {"policy": "ORACLE_STALE_QUEUE", "selection_method": "FULL_SCAN"},
}


def _stale(case: Case) -> Replicated:
    """Servers that complete at ticks of one clock, and views renewed at ticks of another."""
    refresh_s = case.params["refresh_s"]
    servers = int(_number(case, "servers", r"(\d+) servers", 10))
    service_s = _number(case, "service_s", r"one per (\d*\.?\d+) s", 8.0)
    interval_s = 1 / _number(case, "arrival_rate", r"(\d*\.?\d+) arrivals?/s", 1.0)
    named = re.search(r"\{(.*)\}", case.metric)
    if named is None or "number in system" not in case.metric:
        raise NotYet(f"no reader for {case.metric!r}")
    policies = [_balancer(name.strip(), refresh_s) for name in named[1].split(",")]

    def run(seed: int, replications: int) -> Several:
        scenarios = [compiled(_ticking(servers, interval_s, policy)) for policy in policies]
        return Several(
            [
                Values(
                    np.array(
                        side_by_side(
                            lambda number, scenario=scenario, row=row: _mean_number(
                                scenario, seed_of(seed, row), number, service_s, interval_s
                            ),
                            replications,
                        )
                    )
                )
                for row, scenario in enumerate(scenarios)
            ]
        )

    return Replicated(
        key=key_of(case),
        run=run,
        read=lambda several: np.column_stack([runs.values for runs in several.runs]),
        load=service_s / interval_s / servers,
        replications_max=20,
        about=f"{_STALE_S} s each",
        cheap=False,
    )


def _balancer(name: str, refresh_s: float) -> dict[str, Any]:
    """Return the balancer that a case calls "random", "best" or "best-of-3"."""
    drawn = re.fullmatch(r"best-of-(\d+)", name)
    if drawn:
        choices = {"choice_count": int(drawn[1]), "distinct_choices": True}
        balancer = {"policy": "ORACLE_STALE_QUEUE", **choices}
    elif name in _BALANCERS:
        balancer = dict(_BALANCERS[name])
    else:
        raise NotYet(f"no balancer {name!r}")
    if balancer["policy"] == "ORACLE_STALE_QUEUE":
        balancer["view_interval"] = f"{round(refresh_s * NS_PER_S)}ns"
    return balancer


def _ticking(servers: int, interval_s: float, balancer: dict[str, Any]) -> Topology:
    """Return servers that work only while they are let, as long as one completion takes."""
    wait_s = interval_s - _ARRIVAL_S
    entry = {"concurrency": 1000, "steps": [{"sleep": ms(wait_s * 1e3)}, {"call": "station"}]}
    bodies = {"entry": entry, "station": workload(ms(_COMPLETION_S * 1e3), replicas=servers)}
    arrivals = {"renewal": {"interval": ms(interval_s * 1e3)}}
    return topology(
        bodies,
        {"load": {"to": "entry", "arrivals": arrivals}},
        {
            "station": {
                "load_balancing": balancer,
                "circuit_breakers": {"max_pending_requests": 1_000_000, "max_requests": 1_000_000},
            }
        },
    )


def _mean_number(
    scenario: Any, seed: int, number: int, service_s: float, interval_s: float
) -> float:
    """Return the mean number of requests at the servers, by time."""
    kernel = Kernel(scenario, seed, number, _STALE_S * NS_PER_S)
    env = MeshEnvironment(kernel)
    env.process(_complete(env, MeshControl(kernel, env), service_s))
    in_flight = []
    for time_s in (_STALE_WARM_S, _STALE_S):
        env.run(until=time_s)
        in_flight.append(float(kernel.state.windows["in_flight_ns"].sum()) / NS_PER_S)
    mean = (in_flight[1] - in_flight[0]) / (_STALE_S - _STALE_WARM_S)
    return mean - (interval_s - _ARRIVAL_S) / interval_s  # which are at the entry


def _complete(env: MeshEnvironment, mesh: MeshControl, service_s: float):
    """Let each server complete one request, if it has any, every so often."""
    mesh.slow("station", 0.0)
    for tick in range(1, math.ceil(_STALE_S / service_s)):
        yield env.timeout(tick * service_s - _COMPLETION_S - env.now)
        mesh.slow("station", 1.0)
        yield env.timeout(tick * service_s - env.now)
        mesh.slow("station", 0.0)


# --- A slow server ----------------------------------------------------------------------------

_LATENCY_POLICIES: dict[str, dict[str, Any]] = {
    "round robin": {"policy": "ROUND_ROBIN"},
    "random": {"policy": "RANDOM"},
    "least loaded (full scan)": {"policy": "LEAST_REQUEST", "selection_method": "FULL_SCAN"},
    "least loaded": {"policy": "LEAST_REQUEST"},
    "least loaded (p2c)": {"policy": "LEAST_REQUEST"},
    "peak ewma": {"policy": "PEAK_EWMA"},
}
#: Values that stand for the normal law of a latency.
_POINTS = 10_000
#: A published share is met within this factor, for it was read off a figure.
_ONSET_FACTOR = 2.0


def _late(case: Case) -> Replicated:
    """Return the share of responses within a timeout while one of the servers is slow."""
    name = str(case.params.get("policy", "")).lower()
    if name not in _LATENCY_POLICIES:
        raise NotYet(f"no balancer {name!r}")
    duration_s = _number(case, "duration_s", r"qps, (\d+) s", 60.0)

    def run(seed: int, replications: int) -> EngineRuns:
        scenario = _one_slow(case, _LATENCY_POLICIES[name])
        return engine_runs(scenario, duration_s * 1e3, seed, replications, 0)

    return Replicated(
        key=key_of(case),
        run=run,
        read=lambda runs: 1 - share_above(runs.histogram, _timeout_ms(case)),
        load=0.0,
        about=f"{duration_s:g} s each",
        cheap=False,
    )


def _timeout_ms(case: Case) -> float:
    return 1e3 * _number(case, "timeout_s", r"(\d*\.?\d+) s timeout", 1.0)


def _one_slow(case: Case, balancer: dict[str, Any]) -> Topology:
    """Return servers that only take time, one of which takes longer for a while."""
    servers = int(_number(case, "backends", r"(\d+) backends", 11))
    rate = _number(case, "qps", r"(\d+) qps", 1000.0)
    law = re.search(r"N\((\d*\.?\d+),\s*(\d*\.?\d+)\)", case.model)
    mean, deviation = (float(law[1]), float(law[2])) if law else (167.0, 5.0)
    slow_s = _number(case, "slow_s", r"backend (\d*\.?\d+) s", 2.0)
    during = re.search(r"\[(\d+),(\d+)\)", case.model)
    begin_s, end_s = (int(during[1]), int(during[2])) if during else (15, 45)
    ranks = (np.arange(_POINTS) + 0.5) / _POINTS
    latency = {"empirical": {"values": [ms(t) for t in norm.ppf(ranks, mean, deviation)]}}
    body = {"concurrency": 100_000, "steps": [{"compute": latency}]}
    return Topology.model_validate(
        {
            "name": "one slow",
            "mesh": "none",
            "network": {"latency": dict.fromkeys(_PLACES, "0s")},
            "services": {"station": {"workloads": {"v1": {**body, "replicas": servers}}}},
            "traffic": {
                "load": {"to": "station", "arrivals": {"renewal": {"interval": ms(1e3 / rate)}}}
            },
            "policies": {"station": {"load_balancing": balancer}},
            "faults": [
                {
                    # Every request that comes meanwhile is slow until its end.
                    "kind": "gray",
                    "service": "station",
                    "workload": "v1",
                    "replica": 0,
                    "factor": mean / (1e3 * slow_s),
                    "at": f"{begin_s}s",
                    "duration": f"{end_s - begin_s}s",
                }
            ],
        }
    )


_PLACES = ("same_node", "same_zone", "same_region", "cross_region")


def _ordering(case: Case) -> Claims:
    """Balancers in the order in which a case names them, the best first."""
    names = re.findall(r"peakEWMA|least-loaded|round robin", str(case.expected).split(";")[0])
    onsets = [float(text) for text in re.findall(r"~(\d+\.?\d*)", str(case.expected))]
    known = {
        "peakEWMA": {"policy": "PEAK_EWMA"},
        "least-loaded": {"policy": "LEAST_REQUEST"},
        "round robin": {"policy": "ROUND_ROBIN"},
    }
    if len(names) < 2:
        raise NotYet(f"no order in {case.expected!r}")

    def compute() -> dict[str, bool]:
        shares = {}
        for row, name in enumerate(names):
            runs = engine_runs(_one_slow(case, known[name]), 60_000, seed_of(1, row), 10, 0)
            found = 1 - share_above(runs.histogram, _timeout_ms(case))
            shares[name] = float(found.mean()), float(t_error(found, 0.99))
        claims = {}
        for better, worse in pairwise(names):
            (high, high_error), (low, low_error) = shares[better], shares[worse]
            text = f"{better} {high:.5f} > {worse} {low:.5f}"
            claims[text] = high - high_error > low + low_error
        # Onsets are told from the worst to the best.
        for name, onset in zip(reversed(names), onsets, strict=False):
            late = 1 - shares[name][0]
            told = 1 - onset / 100
            claims[f"{name}: slow from p{100 * (1 - late):.2f} on, about p{onset:g}"] = (
                1 / _ONSET_FACTOR < late / told < _ONSET_FACTOR
            )
        return claims

    return Claims(compute, "10 runs of 60 s each")
