"""Size-interval task assignment: short jobs to one server, longer ones to the next.

The pieces of a bounded Pareto cut at the cutoffs are bounded Paretos of the same index, and
Poisson arrivals marked by size are independent streams; so the classes are declared, and a
route sends each to its own server.  Cutoffs that a case leaves open are those of SITA-E: every
server has the same load.
"""

from itertools import pairwise

import numpy as np
from theory_scenarios import poisson, topology, workload
from truth_cases import Case, seed_of
from truth_laws import Law, number_after, pareto_law, pareto_of
from truth_metrics import ratio_of_means
from truth_runs import Several, engine_runs, requests_wanted
from truth_scenarios import queue_study, replications_within
from truth_study import NotYet, Replicated, key_of

from meshsim import theory


def study(case: Case) -> Replicated:
    params = case.params
    pieces, law = _pieces(params)
    rate = params["lam"]
    loads = [share * rate * piece.mean for share, piece in pieces]
    variability = max((1 + piece.scv) / 2 for _, piece in pieces)
    if "ratio" in case.metric:
        return _ratio(case, law, max(*loads, rate * law.mean / len(pieces)))

    def second() -> tuple[float, str]:
        waits = [
            share * theory.mg1_wait(share * rate, piece.mean, piece.second_moment)
            for share, piece in pieces
        ]
        return sum(waits), "meshsim.theory.mg1_wait of each piece"

    return queue_study(
        case,
        lambda: _by_size(params),
        rate,
        max(loads),
        variability=variability,
        second=second,
        cheap=False,
    )


def _pieces(params: dict) -> tuple[list[tuple[float, Law]], Law]:
    """Return (share of the jobs, law) of each server, the shortest jobs first, and of all jobs."""
    text = params["dist"]
    law = pareto_of(text)
    low, high, shape = (number_after(text, name) for name in ("k", "p", "alpha"))
    bounds = [low, *_cutoffs(params, low, high, shape), high]
    if sorted(bounds) != bounds:
        raise NotYet(f"cutoffs {bounds[1:-1]} outside of {low:g} to {high:g}, or out of order")

    def below(size: float) -> float:
        return (1 - (low / size) ** shape) / (1 - (low / high) ** shape)

    pieces = [(below(b) - below(a), pareto_law(a, b, shape)) for a, b in pairwise(bounds)]
    return pieces, law


def _cutoffs(params: dict, low: float, high: float, shape: float) -> list[float]:
    """Return the sizes at which the next server takes over."""
    servers, stated = params.get("servers", 2), params.get("cutoff", params.get("cutoffs"))
    if stated is None:
        # Work up to a size x goes with x^(1 - shape), or with its logarithm.
        shares = [number / servers for number in range(1, servers)]
        if shape == 1:
            return [low * (high / low) ** share for share in shares]
        ends = [size ** (1 - shape) for size in (low, high)]
        return [(ends[0] + s * (ends[1] - ends[0])) ** (1 / (1 - shape)) for s in shares]
    cutoffs = stated if isinstance(stated, list) else [stated]
    if len(cutoffs) != servers - 1:
        raise NotYet(f"{servers} servers want {servers - 1} cutoffs, not {len(cutoffs)}")
    return cutoffs


def _by_size(params: dict):
    pieces, _ = _pieces(params)
    names = [f"piece-{row}" for row in range(len(pieces))]
    bodies = {
        f"for-{name}": workload(piece.declared)
        for name, (_, piece) in zip(names, pieces, strict=True)
    }
    bodies["entry"] = {"steps": []}
    classes = {
        name: {
            "to": "entry",
            "headers": {"size": name},
            "arrivals": poisson(share * params["lam"]),
        }
        for name, (share, _) in zip(names, pieces, strict=True)
    }
    routes = [
        {"match": [{"headers": {"size": name}}], "split": [{"service": f"for-{name}"}]}
        for name in names
    ]
    return topology(bodies, classes, {"entry": {"routes": routes}})


def _at_random(params: dict, law: Law):
    body = workload(law.declared, replicas=params.get("servers", 2))
    classes = {"load": {"to": "entry", "arrivals": poisson(params["lam"])}}
    return topology({"entry": body}, classes, {"entry": {"load_balancing": {"policy": "RANDOM"}}})


def _ratio(case: Case, law: Law, load: float) -> Replicated:
    params = case.params
    rate = params["lam"]
    requests = requests_wanted(load, (1 + law.scv) / 2)

    def run(seed: int, replications: int) -> Several:
        return Several(
            [
                engine_runs(_at_random(params, law), requests / rate, seed, replications),
                engine_runs(_by_size(params), requests / rate, seed_of(seed, 1), replications),
            ]
        )

    def read(both: Several) -> np.ndarray:
        return ratio_of_means(*both.runs, "queue_ns")

    return Replicated(
        key=key_of(case, "ratio"),
        run=run,
        read=read,
        load=load,
        replications_max=replications_within(2 * requests),
        about=f"{requests} requests each",
        cheap=False,
    )
