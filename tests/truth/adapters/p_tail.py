"""Published figures of tails at scale: fan-outs that wait for the slowest leaf."""

from theory_scenarios import exponential, poisson, topology
from truth_cases import Case
from truth_scenarios import queue_study
from truth_study import NotYet, Replicated

_MANY = 1_000_000


def study(case: Case) -> Replicated:
    params = case.params
    if {"fanout", "slow_fraction", "slow_factor"} == params.keys():
        return _slow_servers(case, **params)
    raise NotYet(f"no scenario for {case.model!r}")


def _slow_servers(case: Case, fanout: int, slow_fraction: float, slow_factor: float) -> Replicated:
    """Each request asks every leaf; a share of these is slow, and none has a queue."""
    slow = round(slow_fraction * fanout)
    counts = {"fast": fanout - slow, "slow": slow}
    means = {"fast": 1.0, "slow": float(slow_factor)}
    calls = [[{"call": leaf}] for leaf, count in counts.items() for _ in range(count)]
    bodies = {
        leaf: {"concurrency": _MANY, "steps": [{"compute": exponential(mean)}]}
        for leaf, mean in means.items()
        if counts[leaf]
    }
    bodies["root"] = {"concurrency": _MANY, "steps": [{"parallel": calls}]}
    return queue_study(
        case,
        lambda: topology(bodies, {"load": {"to": "root", "arrivals": poisson(1.0)}}),
        1.0,
        0.0,
        requests=max(2_000, round(2_000_000 / fanout)),
        visits=4 * fanout,
    )
