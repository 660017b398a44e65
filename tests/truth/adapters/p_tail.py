"""Published figures of tails at scale: fan-outs that wait for the slowest leaf.

References
----------
J. Dean, L. A. Barroso, "The tail at scale", CACM 56 (2013).
"""

import math
import re

from theory_scenarios import exponential, ms, poisson, topology
from truth_cases import Case, seed_of
from truth_laws import pareto_law
from truth_metrics import quantile, ratio
from truth_runs import EngineRuns, engine_runs
from truth_scenarios import queue_study
from truth_study import Claims, NotYet, Replicated
from verdict import t_error

_MANY = 1_000_000


def study(case: Case) -> Replicated | Claims:
    params = case.params
    if case.rule == "order" and "hedge" in case.model:
        return _hedged_reads(case)
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


# --- Hedged reads -----------------------------------------------------------------------------

#: Reads whose slowest leaf is told, of both scenarios; the 99.9th percentile has ten beyond it.
_REPLICATIONS, _READS = 5, 2_000
#: Reads at once: they meet no queue, so that it is no matter.
_READS_PER_MS = 0.02
#: The tail is at least so many times shorter: half of what was published, and to spare.
_RATIO_MIN = 10.0
#: The share of second copies is within this share of the published one.
_EXTRA_REL = 0.1
_LONGEST_MS = 1e6


def _hedged_reads(case: Case) -> Claims:
    """Reads of many keys over many servers, whose latencies have a heavy tail (Pareto).

    Its scale and index are those at which a key takes longer than the hedge's delay as often as
    copies were sent, and the slowest of all keys has the published tail without them.
    """
    text = f"{case.model}; {case.expected}"
    keys, servers = _found(text, r"(\d+) keys over (\d+) servers")
    (delay_ms,) = _found(text, r"hedge after (\d*\.?\d+) ms")
    (percent,) = _found(text, r"(\d*\.?\d+)% more requests")
    q, tail_ms = _found(text, r"p(\d+\.?\d*) (\d+) ms ->")
    late = percent / 100
    slowest = -math.log(q / 100) / keys  # of a key, so that 1 - q of all reads are slower
    index = math.log(late / slowest) / math.log(tail_ms / delay_ms)
    law = pareto_law(delay_ms * late ** (1 / index), _LONGEST_MS, index)

    def scenario(**route: object):
        leaf = {
            "concurrency": _MANY,
            "replicas": int(servers),
            "on_timeout": "cancel_work",
            "steps": [{"sleep": law.declared}],
        }
        calls = [[{"call": "leaf"}]] * int(keys)
        root = {"concurrency": _MANY, "steps": [{"parallel": calls}]}
        policy = {"load_balancing": {"policy": "RANDOM"}, "routes": [route] if route else []}
        load = {"to": "root", "arrivals": poisson(_READS_PER_MS)}
        return topology({"root": root, "leaf": leaf}, {"load": load}, {"leaf": policy})

    def compute() -> dict[str, bool]:
        hedge = {"max_attempts": 2, "hedging_delay": ms(delay_ms)}
        plain, hedged = (
            engine_runs(item, _READS / _READS_PER_MS, seed_of(1, row), _REPLICATIONS, 0)
            for row, item in enumerate((scenario(), scenario(hedge_policy=hedge)))
        )
        extra = _leaves(hedged) / keys - 1
        found, error = float(extra.mean()), float(t_error(extra, 0.99))
        before, after = (quantile(runs.histogram, q / 100) for runs in (plain, hedged))
        shortest = float(before.mean() - t_error(before, 0.99))
        longest = float(after.mean() + t_error(after, 0.99))
        return {
            f"{found:.2%} more requests": abs(found - late) + error <= _EXTRA_REL * late,
            f"p{q:g} {before.mean():.0f} ms -> {after.mean():.0f} ms": (
                shortest >= _RATIO_MIN * longest
            ),
        }

    return Claims(compute, f"{_REPLICATIONS} x {_READS} reads, Pareto index {index:.2f}")


def _found(text: str, pattern: str) -> tuple[float, ...]:
    found = re.search(pattern, text)
    if found is None:
        raise NotYet(f"no {pattern!r} in {text!r}")
    return tuple(float(group) for group in found.groups())


def _leaves(runs: EngineRuns):
    """Return the leaves that a read asked, by replication."""
    return ratio(runs.endpoint_requests.sum(axis=1), runs.ended) - 1
