"""Open networks of M/M/c stations: tandems, and random routing with cycles.

A station's work is a service; where a request goes next is the weighted split of a router that
takes no time.  Callers give their worker back while they call, so the response passes them
without waiting, and the latency is the sum of the sojourns.
"""

import re

import numpy as np
from theory_scenarios import chain, exponential, poisson, topology, workload
from truth_cases import Case
from truth_metrics import quantile_of
from truth_scenarios import queue_study
from truth_study import NotYet, Replicated

from meshsim import theory

_ROUTE = re.compile(r"(\d+)\s*->\s*(\d+|exit)(?:\s*(?:w\.p\.)?\s*(\d*\.\d+|\d+(?!\s*->)))?")
#: Weights of a split are whole numbers.
_WEIGHT_SCALE = 1_000_000
_MANY = 1_000_000


def study(case: Case) -> Replicated:
    if "routing" in case.params:
        return _network(case)
    return _tandem(case)


def _servers(params: dict, count: int) -> list[int]:
    servers = params.get("c", params.get("servers", 1))
    return servers if isinstance(servers, list) else [servers] * count


def _tandem(case: Case) -> Replicated:
    params = case.params
    rate, rates = params["lam"], params["mu"]
    servers = _servers(params, len(rates))
    tiers = [(1 / mu, 1, c) for mu, c in zip(rates, servers, strict=True)]

    def second() -> tuple[float, str]:
        truth = theory.tandem(rate, rates)
        q = quantile_of(case.metric)
        return truth.mean if q is None else truth.quantile(q), "meshsim.theory.tandem"

    return queue_study(
        case,
        lambda: chain(rate, tiers, "RANDOM", hold=False),
        rate,
        max(rate / mu / c for mu, c in zip(rates, servers, strict=True)),
        visits=len(rates),
        second=second if set(servers) == {1} else None,
    )


def _routing(params: dict, count: int) -> np.ndarray:
    """Return the probability to go from station to station; the rest of a row leaves."""
    said = params["routing"]
    if isinstance(said, list):
        return np.array(said, float)
    matrix = np.zeros((count, count))
    for source, target, probability in _ROUTE.findall(said):
        if target != "exit":
            matrix[int(source) - 1, int(target) - 1] = float(probability or 1)
    return matrix


def _network(case: Case) -> Replicated:
    params = case.params
    external, rates = params["gamma"], params["mu"]
    servers = _servers(params, len(rates))
    routing = _routing(params, len(rates))
    if quantile_of(case.metric) is not None or not case.metric.startswith("mean"):
        raise NotYet(f"only the mean of a network with cycles is read, not {case.metric!r}")
    flows = np.linalg.solve(np.eye(len(rates)) - routing.T, np.array(external, float))
    load = max(f / mu / c for f, mu, c in zip(flows, rates, servers, strict=True))
    return queue_study(
        case,
        lambda: _scenario(external, routing, rates, servers),
        sum(external),
        float(load),
        visits=2 * float(flows.sum()) / sum(external),
        second=lambda: (
            theory.jackson_sojourn(external, routing.tolist(), rates, servers),
            "meshsim.theory.jackson_sojourn",
        ),
    )


def _scenario(external: list[float], routing: np.ndarray, rates: list[float], servers: list[int]):
    bodies, policies = {}, {}
    for row, (mu, c) in enumerate(zip(rates, servers, strict=True)):
        body = workload(exponential(1 / mu), concurrency=c)
        onward = float(routing[row].sum())
        if onward > 0:
            call = {"call": f"after-{row}"}
            body["steps"].append(call if onward >= 1 else {**call, "probability": onward})
            split = [
                {"service": f"station-{target}", "weight": round(p * _WEIGHT_SCALE)}
                for target, p in enumerate(routing[row])
                if p > 0
            ]
            bodies[f"after-{row}"] = {"concurrency": _MANY, "steps": []}
            policies[f"after-{row}"] = {"routes": [{"split": split}]}
        bodies[f"station-{row}"] = body
    classes = {
        f"from-{row}": {"to": f"station-{row}", "arrivals": poisson(rate)}
        for row, rate in enumerate(external)
        if rate > 0
    }
    return topology(bodies, classes, policies)
