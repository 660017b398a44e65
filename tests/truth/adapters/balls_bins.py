"""Balls and bins: the fullest of n hosts picked at random, and picks until one is free."""

import math
from collections.abc import Callable

import numpy as np
from policy_rows import make_cluster
from truth_cases import Case, seed_of
from truth_runs import Values
from truth_study import NotYet, Replicated, key_of

from meshsim.policy.load_balancing.oracle import pick_shortest
from meshsim.rng import PURPOSE_PICK, make_streams
from meshsim.state.codes import RANDOM
from meshsim.state.oracle import ORACLE_HOST_DTYPE
from meshsim.state.server import ENDPOINT_DTYPE
from meshsim.state.upstream import HOST_DTYPE

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
    """Return the mean number of picks until one is of a server that is free.

    ORACLE_SHORTEST_QUEUE looks at some distinct servers: one that is free has the least to do.
    """
    count, utilisation, choices = (case.params[name] for name in ("n", "U", "k"))
    busy = round(count * utilisation)
    if choices > count or busy >= count:
        raise NotYet("more choices than servers, or none that is free")

    def tries(seed: int) -> float:
        pick = _oracle(count, busy, choices, seed)
        return float(np.mean([_picks_until_free(pick, busy) for _ in range(_ROUNDS)]))

    def second() -> tuple[float, str]:
        return 1 / (1 - math.comb(busy, choices) / math.comb(count, choices)), "binomials"

    return _replicated(case, tries, f"{_ROUNDS} searches each", second)


def _oracle(count: int, busy: int, choices: int, seed: int) -> Callable[[], int]:
    """Return the balancer that sees the first `busy` of `count` servers with a request each."""
    endpoints, hosts = np.zeros(count, ENDPOINT_DTYPE), np.zeros(count, HOST_DTYPE)
    endpoints["busy"][:busy] = 1
    hosts["endpoint"] = np.arange(count)
    hosts["healthy"] = 1
    members = np.arange(count, dtype=np.int32)
    views, rng = np.zeros(count, ORACLE_HOST_DTYPE), make_streams(seed, PURPOSE_PICK, 1)[0]
    rows = (hosts, members, 0, count, endpoints, views)
    return lambda: pick_shortest(*rows, False, choices, True, rng)


def _picks_until_free(pick: Callable[[], int], busy: int) -> int:
    picks = 1
    while pick() < busy:
        picks += 1
    return picks
