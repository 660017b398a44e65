"""Power of d choices: the least busy of d random hosts, drawn with replacement as Envoy does."""

import re
from collections.abc import Callable

import numpy as np
from theory_scenarios import balanced
from truth_cases import Case
from truth_metrics import threshold_of
from truth_runs import Values, snapshot_runs
from truth_scenarios import queue_study, replications_within
from truth_study import NotYet, Replicated, key_of

from meshsim import theory

#: Time in which a large system forgets that it began empty, in mean services: the backlog of
#: 1 / (1 - load) services at most has to build up.
_MEMORY = 20.0
#: Chains of queue lengths up to this many servers are solved exactly.
_SOLVED_SERVERS = 3


def study(case: Case) -> Replicated:
    params = case.params
    if params.get("mu", 1.0) != 1:
        raise NotYet("servers of mean service 1")
    if "replacement" not in params.get("sampling", "with replacement"):
        raise NotYet("no load balancer compares the active requests of *distinct* random hosts")
    if case.metric.startswith("fraction of servers"):
        return _tail(case)
    count, load, choices = _sizes(params)
    return queue_study(
        case,
        lambda: _scenario(count, load, choices),
        load * count,
        load,
        requests=_requests(count, load),
        visits=2.0,
        second=_second(count, load, choices),
        cheap=False,
    )


def _sizes(params: dict) -> tuple[int, float, int]:
    """Return (hosts, load, choices); ">=1000 (>=5000 for .99)" asks for more at high load."""
    count, load = params["n"], params["lam"]
    if isinstance(count, str):
        sizes = [int(number) for number in re.findall(r">=\s*(\d+)", count)]
        condition = re.search(r"for\s+(\d*\.\d+)", count)
        count = sizes[-1] if condition and load >= float(condition[1]) else sizes[0]
    return count, load, params.get("d", 2)


def _scenario(count: int, load: float, choices: int):
    return balanced(load * count, count, "LEAST_REQUEST", choice_count=choices)


def _duration(load: float) -> float:
    """Return the length of a replication in mean services."""
    return 10 * _MEMORY / (1 - load) ** 0.5 + 2 / (1 - load)


def _requests(count: int, load: float) -> int:
    return max(50_000, round(count * load * _duration(load)))


def _second(count: int, load: float, choices: int) -> Callable[[], tuple[float, str]] | None:
    if count > _SOLVED_SERVERS:
        return None
    return lambda: (
        theory.power_of_choices_sojourn(load * count, count, choices=choices),
        "meshsim.theory.power_of_choices_sojourn",
    )


def _tail(case: Case) -> Replicated:
    """Return the share of hosts with at least so many requests, over time."""
    count, load, choices = _sizes(case.params)
    level = int(threshold_of(case.metric) or 0)
    duration = _duration(load)

    def run(seed: int, replications: int) -> Values:
        return snapshot_runs(_scenario(count, load, choices), duration, seed, replications)

    def read(runs: Values) -> np.ndarray:
        return runs.values[:, level:].sum(axis=1)

    return Replicated(
        key=key_of(case, "snapshots"),
        run=run,
        read=read,
        load=load,
        replications_max=replications_within(2 * count * load * duration),
        about=f"{count} hosts, {duration:.0f} services, first fifth deleted",
        cheap=False,
    )
