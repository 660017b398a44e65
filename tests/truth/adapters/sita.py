"""Size-interval task assignment: short jobs to one server, long ones to the other.

The pieces of a bounded Pareto cut at the cutoff are bounded Paretos of the same index, and
Poisson arrivals marked by size are independent streams; so the two classes are declared, and a
route sends each to its own server.
"""

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
    if params.get("servers") != 2:
        raise NotYet("one cutoff parts two servers")
    pieces, law = _pieces(params)
    rate = params["lam"]
    loads = [share * rate * piece.mean for share, piece in pieces]
    variability = max((1 + piece.scv) / 2 for _, piece in pieces)
    if "ratio" in case.metric:
        return _ratio(case, law, max(*loads, rate * law.mean / 2))

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
    """Return (share of the jobs, law) of short and of long jobs, and the law of all."""
    text, cutoff = params["dist"], params["cutoff"]
    low, high, shape = (number_after(text, name) for name in ("k", "p", "alpha"))
    law = pareto_of(text)
    short = (1 - (low / cutoff) ** shape) / (1 - (low / high) ** shape)
    pieces = [
        (short, pareto_law(low, cutoff, shape)),
        (1 - short, pareto_law(cutoff, high, shape)),
    ]
    return pieces, law


def _by_size(params: dict):
    pieces, _ = _pieces(params)
    names = ("short", "long")
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
    body = workload(law.declared, replicas=2)
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
