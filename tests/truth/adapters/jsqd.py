"""Power of d choices: the least busy of d random hosts.

Drawn with replacement it is Envoy's LEAST_REQUEST.  Distinct hosts are drawn by the balancer
that sees the queues of servers, which hold what the only client has sent.
"""

import re
from collections.abc import Callable

import numpy as np
from theory_scenarios import balanced
from truth_cases import Case
from truth_metrics import threshold_of
from truth_runs import Values, snapshot_runs
from truth_scenarios import queue_study, replications_within
from truth_study import Replicated, key_of

from meshsim import theory

#: A large system that begins empty is within 0.3 % of its mean field after 6.5 / (1 - load) mean
#: services (its differential equation, at loads from .5 to .99): that half is deleted.
_FORGOTTEN = 6.5
_DURATION_MIN = 300.0
_FIRST_WINDOW = 30
#: Chains of queue lengths up to this many servers are solved exactly.
_SOLVED_SERVERS = 3


def study(case: Case) -> Replicated:
    params = case.params
    if case.metric.startswith("fraction of servers"):
        return _tail(case)
    count, load, choices = _sizes(params)
    return queue_study(
        case,
        lambda: _scenario(params),
        load * count,
        load,
        requests=_requests(count, load),
        visits=2.0,
        # Simulated in units of a mean service.
        unit_ms=params.get("mu", 1.0),
        second=None if _is_distinct(params) else _second(count, load, choices, params),
        cheap=False,
        first_window=_FIRST_WINDOW,
    )


def _sizes(params: dict) -> tuple[int, float, int]:
    """Return (hosts, load, choices); ">=1000 (>=5000 for .99)" asks for more at high load."""
    count, load = params["n"], params["lam"] / params.get("mu", 1.0)
    if isinstance(count, str):
        sizes = [int(number) for number in re.findall(r">=\s*(\d+)", count)]
        condition = re.search(r"for\s+(\d*\.\d+)", count)
        count = sizes[-1] if condition and load >= float(condition[1]) else sizes[0]
    return count, load, params.get("d", 2)


def _is_distinct(params: dict) -> bool:
    return "replacement" not in params.get("sampling", "with replacement")


def _scenario(params: dict):
    count, load, choices = _sizes(params)
    if choices == 1:
        return balanced(load * count, count, "RANDOM")
    if _is_distinct(params):
        oracle = {"choice_count": choices, "distinct_choices": True}
        return balanced(load * count, count, "ORACLE_SHORTEST_QUEUE", **oracle)
    return balanced(load * count, count, "LEAST_REQUEST", choice_count=choices)


def _duration(load: float) -> float:
    """Return the length of a replication in mean services."""
    return max(2 * _FORGOTTEN / (1 - load), _DURATION_MIN)


def _requests(count: int, load: float) -> int:
    return max(50_000, round(count * load * _duration(load)))


def _second(
    count: int, load: float, choices: int, params: dict
) -> Callable[[], tuple[float, str]] | None:
    if count > _SOLVED_SERVERS:
        return None
    return lambda: (
        theory.power_of_choices_sojourn(load * count, count, choices=choices)
        / params.get("mu", 1.0),
        "meshsim.theory.power_of_choices_sojourn",
    )


def _tail(case: Case) -> Replicated:
    """Return the share of hosts with at least so many requests, over time."""
    count, load, _ = _sizes(case.params)
    level = int(threshold_of(case.metric) or 0)
    duration = _duration(load)

    def run(seed: int, replications: int) -> Values:
        scenario = _scenario(case.params)
        return snapshot_runs(scenario, duration, duration / 2, seed, replications)

    def read(runs: Values) -> np.ndarray:
        return runs.values[:, level:].sum(axis=1)

    return Replicated(
        key=key_of(case, "snapshots"),
        run=run,
        read=read,
        load=load,
        replications_max=replications_within(2 * count * load * duration),
        about=f"{count} hosts, {duration:.0f} services, first half deleted",
        cheap=False,
    )
