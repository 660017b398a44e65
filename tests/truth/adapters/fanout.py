"""Fan-out without queues: a request calls n servers and ends with the slowest."""

import math

import numpy as np
from scipy.stats import norm
from theory_scenarios import exponential, poisson, topology
from truth_cases import Case
from truth_laws import number_after
from truth_metrics import share_above
from truth_runs import EngineRuns
from truth_scenarios import queue_study
from truth_study import NotYet, Replicated

_MANY = 1_000_000
#: A slow leaf takes a thousand times as long as a fast one.
_FAST, _SLOW_MS = "1us", 1.0


def study(case: Case) -> Replicated:
    params = case.params
    if "p_slow" in params:
        return _slow_leaves(case, params["fanout"], params["p_slow"])
    return _slowest(case, params["n"])


def _slowest(case: Case, count: int) -> Replicated:
    leaf = [{"compute": _leaf_law(case.model)}]
    return queue_study(
        case,
        lambda: _scenario(count, leaf),
        1.0,
        0.0,
        requests=max(200, round(2_000_000 / count / 10)),
        visits=4 * count,
        cheap=count <= 100,
    )


def _leaf_law(model: str) -> dict:
    if "Exp(1)" in model:
        return exponential(1.0)
    location, sigma = number_after(model, "mu"), number_after(model, "sigma")
    if location is None or sigma is None:
        raise NotYet(f"no law for the leaves of {model!r}")
    mean = math.exp(location + sigma**2 / 2)
    p99 = math.exp(location + sigma * norm.ppf(0.99))
    return {"lognormal": {"mean": f"{round(mean * 1e6)}ns", "p99": f"{round(p99 * 1e6)}ns"}}


def _slow_leaves(case: Case, count: int, probability: float) -> Replicated:
    leaf = [{"compute": _FAST}, {"sleep": f"{_SLOW_MS}ms", "probability": probability}]

    def read(runs: EngineRuns) -> np.ndarray:
        return share_above(runs.histogram, _SLOW_MS / 2)

    return queue_study(
        case,
        lambda: _scenario(count, leaf),
        1.0,
        0.0,
        requests=max(1_000, round(1_000_000 / count / 10)),
        visits=4 * count,
        read=read,
        second=lambda: (1 - (1 - probability) ** count, "1 - (1 - p)^n"),
    )


def _scenario(count: int, leaf: list[dict]):
    root = {"concurrency": _MANY, "steps": [{"parallel": [[{"call": "leaf"}]] * count}]}
    bodies = {"root": root, "leaf": {"concurrency": _MANY, "steps": leaf}}
    return topology(bodies, {"load": {"to": "root", "arrivals": poisson(1.0)}})
