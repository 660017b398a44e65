"""One stream over several servers: at random, in turn, or by weights."""

import math
from typing import Any

import numpy as np
from theory_scenarios import balanced, exponential, poisson, topology, workload
from truth_cases import Case
from truth_metrics import ratio, ratio_of_means, reader_of
from truth_runs import EngineRuns, Several, engine_runs, requests_wanted
from truth_scenarios import queue_study, replications_within
from truth_study import Claims, NotYet, Replicated, key_of

import meshsim
from meshsim import theory
from meshsim.results.verdict import UNSTABLE

#: Weights of a split are whole numbers.
_WEIGHT_SCALE = 1_000_000


def study(case: Case) -> Replicated | Claims:
    params = case.params
    if isinstance(params["mu"], list):
        return _unequal(case)
    if case.metric == "T(random)/T(RR)":
        return _gain(case)
    for policy in ("ROUND_ROBIN", "RANDOM"):
        if policy.replace("_", " ").lower() in case.model:
            return _equal(case, policy)
    raise NotYet(f"no scenario for {case.model!r}")


def _sizes(params: dict) -> tuple[int, float, float]:
    return params["n"], params["lam_total"], params["lam_total"] / params["n"] / params["mu"]


def _scenario(params: dict, policy: str):
    return balanced(params["lam_total"], params["n"], policy, mean=1 / params["mu"])


def _second(params: dict) -> tuple[float, float]:
    """Return the mean sojourn (random, round robin)."""
    count, rate, mu = params["n"], params["lam_total"], params["mu"]
    one = theory.MMc(rate / count, mu).sojourn_mean
    return one, theory.round_robin_split(rate, mu, count).sojourn_mean


def _equal(case: Case, policy: str) -> Replicated:
    count, rate, load = _sizes(case.params)
    random, in_turn = _second(case.params)
    found = random if policy == "RANDOM" else in_turn
    return queue_study(
        case,
        lambda: _scenario(case.params, policy),
        rate,
        load,
        variability=count,
        visits=1 / count,
        second=lambda: (found, "meshsim.theory.round_robin_split"),
    )


def _gain(case: Case) -> Replicated:
    count, rate, load = _sizes(case.params)
    requests = requests_wanted(load, count)

    def run(seed: int, replications: int) -> Several:
        return Several(
            [
                engine_runs(_scenario(case.params, policy), requests / rate, seed, replications)
                for policy in ("RANDOM", "ROUND_ROBIN")
            ]
        )

    def read(both: Several) -> np.ndarray:
        return ratio_of_means(*both.runs, "latency_sum_ns")

    random, in_turn = _second(case.params)
    return Replicated(
        key=key_of(case, "gain"),
        run=run,
        read=read,
        load=load,
        replications_max=replications_within(2 * requests),
        about=f"{requests} requests each, the same for both",
        second=lambda: (random / in_turn, "meshsim.theory"),
    )


def _shares(model: str, speeds: list[float], rate: float) -> list[float]:
    """Return the share of the stream that each server gets."""
    total = sum(speeds)
    if "proportional" in model:
        return [speed / total for speed in speeds]
    if "equal" in model:
        return [1 / len(speeds)] * len(speeds)
    if "optimal" in model:
        # Lagrange: the spare rate of a server is proportional to the root of its speed.
        roots = [math.sqrt(speed) for speed in speeds]
        spare = (total - rate) / sum(roots)
        shares = [(speed - spare * root) / rate for speed, root in zip(speeds, roots, strict=True)]
        if min(shares) >= 0:
            return shares
        raise NotYet("the optimum leaves a server without requests")
    raise NotYet(f"no weights for {model!r}")


def _unequal(case: Case) -> Replicated | Claims:
    speeds, rate = case.params["mu"], case.params["lam_total"]
    shares = _shares(case.model, speeds, rate)
    load = max(rate * share / speed for share, speed in zip(shares, speeds, strict=True))
    if "verdict" in case.metric:
        return Claims(lambda: _stability(case, speeds, rate, shares), "10 runs of 20 s", cheap=True)
    slowest = speeds.index(min(speeds))

    def read(runs: EngineRuns) -> np.ndarray:
        sojourn = reader_of("mean sojourn")(runs)
        if not case.metric.startswith("["):
            return sojourn
        slow = runs.endpoint_requests[:, slowest]
        return np.column_stack([ratio(slow, runs.endpoint_requests.sum(axis=1)), sojourn])

    def second() -> tuple[Any, str]:
        queues = [
            share * theory.MMc(share * rate, speed).sojourn_mean
            for share, speed in zip(shares, speeds, strict=True)
        ]
        found = [shares[slowest], sum(queues)]
        return found if case.metric.startswith("[") else found[1], "meshsim.theory.MMc of each"

    return queue_study(
        case,
        lambda: _weighted(speeds, rate, shares),
        rate,
        load,
        visits=1 / len(speeds),
        read=read,
        variant=[shares],
        second=second,
    )


def _weighted(speeds: list[float], rate: float, shares: list[float]):
    """Return servers of different speed behind a split at random by weights."""
    bodies = {f"server-{row}": workload(exponential(1 / speed)) for row, speed in enumerate(speeds)}
    split = [
        {"service": name, "weight": round(share * _WEIGHT_SCALE)}
        for name, share in zip(bodies, shares, strict=True)
    ]
    classes = {"load": {"to": "server-0", "arrivals": poisson(rate)}}
    return topology(bodies, classes, {"server-0": {"routes": [{"split": split}]}})


def _stability(case: Case, speeds: list[float], rate: float, shares: list[float]) -> dict:
    result = meshsim.simulate(
        _weighted(speeds, rate, shares), duration="20s", replications=10, progress=False
    )
    name = str(result.verdict)
    wants_unstable = str(case.expected).startswith("unstable")
    return {f"the verdict is {name}": (name == UNSTABLE) == wants_unstable}
