"""Balls and bins: the fullest of n hosts picked at random, and picks until one is free."""

import math
from collections.abc import Callable

import numpy as np
from policy_rows import OFFSET, Cluster, make_cluster
from truth_cases import Case, seed_of
from truth_runs import Values
from truth_study import NotYet, Replicated, key_of

from meshsim.state.codes import PEAK_EWMA, RANDOM

#: Experiments of one replication.
_ROUNDS = 100


def study(case: Case) -> Replicated:
    params = case.params
    if "M" in params:
        balls, hosts = params["M"], params["N"]
        rounds = max(5, min(_ROUNDS, 10_000 // balls))

        def fullest(seed: int) -> float:
            cluster = make_cluster(RANDOM, [1] * hosts, seed=seed)
            return float(np.mean([max(np.bincount(cluster.picks(balls))) for _ in range(rounds)]))

        return _replicated(case, fullest, f"{rounds} rounds each of the RANDOM balancer")
    if "k" in params:
        if params["k"] != 2:
            raise NotYet("no load balancer compares more than two distinct hosts")
        return _needle(case)
    raise NotYet(f"no scenario for {case.model!r}")


def _replicated(
    case: Case,
    once: Callable[[int], float],
    about: str,
    second: Callable[[], tuple[float, str]] | None = None,
) -> Replicated:
    def run(seed: int, replications: int) -> Values:
        return Values(np.array([once(seed_of(seed, number)) for number in range(replications)]))

    return Replicated(key_of(case), run, lambda runs: runs.values, 0.0, 1280, about, second=second)


def _needle(case: Case) -> Replicated:
    """Return the mean number of picks until one is of a host that is free.

    PEAK_EWMA compares two distinct hosts; of equal round trips the less busy one costs less.
    """
    hosts, utilisation = case.params["n"], case.params["U"]
    busy = round(hosts * utilisation)

    def tries(seed: int) -> float:
        cluster = make_cluster(PEAK_EWMA, [1] * hosts, seed=seed)
        cluster.hosts["requests_active"][OFFSET : OFFSET + busy] = 1
        return float(np.mean([_picks_until_free(cluster) for _ in range(_ROUNDS)]))

    def second() -> tuple[float, str]:
        return 1 / (1 - math.comb(busy, 2) / math.comb(hosts, 2)), "binomial coefficients"

    return _replicated(case, tries, f"{_ROUNDS} searches each", second)


def _picks_until_free(cluster: Cluster) -> int:
    picks = 1
    while cluster.hosts["requests_active"][cluster.row(cluster.pick())]:
        picks += 1
    return picks
