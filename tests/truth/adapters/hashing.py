"""Consistent hashing: how even, and how stable, the tables of the load balancers are."""

import re
from collections.abc import Callable

import numpy as np
from policy_rows import make_cluster
from truth_cases import Case, seed_of
from truth_metrics import smooth
from truth_runs import Values
from truth_study import Exact, NotYet, Replicated, key_of

from meshsim.policy.load_balancing import build_maglev, build_ring
from meshsim.state.codes import RANDOM

#: Rings of one replication, of which a metric averages.
_RINGS = 30
_WHOLE = 2.0**64


def study(case: Case) -> Replicated | Exact:
    params = case.params
    if case.model.startswith("Maglev"):
        return _maglev(case)
    if "entries" in params:
        return _multinomial(case)
    if "points_per_host" in params:
        return _ring(case)
    raise NotYet(f"no scenario for {case.model!r}")


# --- Ring -----------------------------------------------------------------------------------


def _names(label: object, count: int) -> list[str]:
    """Return hosts whose points are as good as random: every label gives another ring."""
    return [f"{label}/host-{row}" for row in range(count)]


def _ring_of(names: list[str], points: int) -> np.ndarray:
    """Return the ring on which each host has `points`.

    A ring has at least its minimum size, rounded up to whole points a host; the product itself
    might be rounded to more (a ninety-ninth of 9900 is above 100).
    """
    return build_ring(names, [1] * len(names), len(names) * points - 1)


def _shares(ring: np.ndarray, hosts: int) -> np.ndarray:
    """Return the share of the keys of each host: what lies before its points."""
    ends = ring["hash"]
    gaps = np.diff(ends, prepend=ends[-1:])  # modulo 2**64, as a key wraps around
    return np.bincount(ring["table_index"], gaps.astype(float), hosts) / _WHOLE


def _ring(case: Case) -> Replicated:
    params = case.params
    hosts, points = params["hosts"], params["points_per_host"]
    if "move" in case.metric:
        return _remapping(case, hosts, points)

    def run(seed: int, replications: int) -> Values:
        shares = [
            _shares(_ring_of(_names((seed, number), hosts), points), hosts) * hosts
            for number in range(replications * _RINGS)
        ]
        return Values(np.array(shares).reshape(replications, _RINGS, hosts))

    return Replicated(
        key=f"ring {hosts} {points}",
        run=run,
        read=_ring_reader(case.metric),
        load=0.0,
        about=f"{_RINGS} rings each",
        cheap=hosts * points <= 2_000,
    )


def _ring_reader(metric: str) -> Callable[[Values], np.ndarray]:
    if "max" in metric:
        return lambda rings: rings.values.max(axis=2).mean(axis=1)
    if metric.startswith("std"):
        # The root of the mean square: the mean of the roots would be biased.
        return lambda rings: smooth(
            lambda squares, count: np.sqrt(squares / count),
            ((rings.values - 1) ** 2).sum(axis=(1, 2)),
            np.full(len(rings.values), rings.values[0].size),
        )
    levels = [float(text) / 100 for text in re.findall(r"(\d+\.?\d*)%", metric)]
    if levels:
        return lambda rings: np.quantile(rings.values, levels, axis=(1, 2)).T
    raise NotYet(f"no reader for the metric {metric!r}")


def _remapping(case: Case, hosts: int, points: int) -> Replicated:
    """Return the share of the keys whose host changes when a random one goes."""
    looked_up = 20_000

    def moved(label: tuple[int, int]) -> float:
        rng = np.random.default_rng(label)
        names, gone = _names(label, hosts), int(rng.integers(hosts))
        left = [name for name in names if name != names[gone]]
        keys = rng.integers(0, 2**64, looked_up, np.uint64)
        before = _owners(_ring_of(names, points), keys)
        after = _owners(_ring_of(left, points), keys)
        renumbered = np.array([left.index(name) if name in left else -1 for name in names])
        return float(np.mean(renumbered[before] != after))

    def run(seed: int, replications: int) -> Values:
        return Values(np.array([moved((seed, number)) for number in range(replications)]))

    return Replicated(key_of(case), run, lambda runs: runs.values, 0.0, 80, "one ring each")


def _owners(ring: np.ndarray, keys: np.ndarray) -> np.ndarray:
    points = np.searchsorted(ring["hash"], keys) % len(ring)
    return ring["table_index"][points]


# --- Maglev ---------------------------------------------------------------------------------


def _maglev(case: Case) -> Exact | Replicated:
    params = case.params
    hosts, size = params["hosts"], params["table"]
    weights = params.get("weights", [1] * hosts)
    if "move" in case.metric:
        return _disruption(case, hosts, size)

    def entries() -> list[int]:
        counts = np.bincount(build_maglev(_names("m", hosts), weights, size)["table_index"])
        if "min" in case.metric:
            return [int(counts.min()), int(counts.max())]
        return counts.tolist()

    return Exact(entries, "one table")


def _disruption(case: Case, hosts: int, size: int) -> Replicated:
    """Return the percentage of surviving entries that change hands when a host goes."""

    def moved(label: object) -> float:
        names = _names(label, hosts)
        before = build_maglev(names, [1] * hosts, size)["table_index"]
        after = build_maglev(names[:-1], [1] * (hosts - 1), size)["table_index"]
        surviving = before != hosts - 1
        return 100 * float(np.mean(before[surviving] != after[surviving]))

    def run(seed: int, replications: int) -> Values:
        return Values(np.array([moved((seed, number)) for number in range(replications)]))

    return Replicated(key_of(case), run, lambda runs: runs.values, 0.0, 40, "one table each")


# --- Random ---------------------------------------------------------------------------------


def _multinomial(case: Case) -> Replicated:
    """Return the largest over the mean number of entries, each given to a random host.

    A rendezvous hash gives every entry to a host as good as random, like RANDOM.
    """
    hosts, entries = case.params["hosts"], case.params["entries"]

    def run(seed: int, replications: int) -> Values:
        found = []
        for number in range(replications):
            cluster = make_cluster(RANDOM, [1] * hosts, seed=seed_of(seed, number))
            counts = np.bincount(cluster.picks(entries), minlength=hosts)
            found.append(counts.max() / counts.mean())
        return Values(np.array(found))

    return Replicated(key_of(case), run, lambda runs: runs.values, 0.0, 10, "the RANDOM balancer")
