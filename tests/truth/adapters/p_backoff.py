"""Clients that contend for one row, by optimistic concurrency: who waits how long to try again.

Each client reads the row's version and writes with it; a write fails if another came first, and
the client reads again after the back-off of the policy engine.  The work is the writes, the time
is when the last client has succeeded.

References
----------
aws-samples/aws-arch-backoff-simulator (its rules: the back-off follows the answer's way home).
"""

import heapq
import re
from itertools import count

import numpy as np
from truth_cases import Case
from truth_laws import number_after
from truth_runs import Values, side_by_side
from truth_study import NotYet, Replicated, key_of

from meshsim.policy.retry import back_off_ns
from meshsim.rng import PURPOSE_BACK_OFF, make_streams, next_uniform
from meshsim.state.codes import (
    JITTER_DECORRELATED,
    JITTER_EQUAL,
    JITTER_FULL,
    JITTER_NONE,
)
from meshsim.state.upstream import ROUTE_DTYPE

_NS_PER_MS = 1_000_000
_JITTER = {
    "none": JITTER_FULL,  # of a bound of 1 ms, in whole milliseconds: no wait at all
    "expo": JITTER_NONE,
    "equal": JITTER_EQUAL,
    "full": JITTER_FULL,
    "decorr": JITTER_DECORRELATED,
}
_READ, _WRITE, _ANSWER = range(3)


def study(case: Case) -> Replicated:
    clients, policy = case.params["clients"], case.params["policy"]
    if policy not in _JITTER or "mean write calls" not in case.metric:
        raise NotYet(f"no back-off {policy!r} for {case.metric!r}")
    routes, net = _route(case, policy), _net(case)

    def run(seed: int, replications: int) -> Values:
        streams = make_streams(seed, PURPOSE_BACK_OFF, replications)
        work = [np.random.default_rng([seed, number]) for number in range(replications)]
        rows = side_by_side(
            lambda number: _contend(clients, net, routes, streams[number], work[number]),
            replications,
        )
        return Values(np.array(rows))

    return Replicated(
        key=key_of(case, "contention"),
        run=run,
        read=lambda runs: runs.values,
        load=0.0,
        replications_max=200,
        about="one row, reads and writes of all clients",
        cheap=clients <= 10,
    )


def _route(case: Case, policy: str) -> np.ndarray:
    """Return a ROUTE row with the case's back-off.

    Exponential ones begin at twice the base, as their first retry uses 2^1.
    """
    base, cap = number_after(case.model, "base"), number_after(case.model, "cap")
    if base is None or cap is None:
        raise NotYet(f"no base and cap in {case.model!r}")
    first = {"none": 0.0, "decorr": base}.get(policy, 2 * base)
    routes = np.zeros(1, ROUTE_DTYPE)
    routes["jitter"] = _JITTER[policy]
    routes["base_interval_ns"] = round(first * _NS_PER_MS)
    routes["max_interval_ns"] = round(min(cap, cap * first) * _NS_PER_MS)
    return routes


def _net(case: Case) -> tuple[float, float]:
    """Return mean and deviation of a way, from words such as "|N(10,2)| ms each way" [ms]."""
    found = re.search(r"\|N\((\d*\.?\d+),\s*(\d*\.?\d+)\)\|", case.model)
    if found is None:
        raise NotYet(f"no network in {case.model!r}")
    return float(found[1]), float(found[2])


def _contend(
    clients: int, net: tuple[float, float], routes: np.ndarray, stream: np.ndarray, rng
) -> tuple[int, float]:
    """Return the writes until every client has succeeded, and when that is [ms]."""
    delays = iter(lambda: abs(rng.normal(*net)), None)
    order = count()
    version = writes = 0
    attempts = [0] * clients
    waits = [0] * clients
    events = [(next(delays), next(order), _READ, client, 0) for client in range(clients)]
    heapq.heapify(events)
    time = 0.0
    while events:
        time, _, kind, client, seen = heapq.heappop(events)
        if kind == _READ:
            # The answer's way home and the write's way back.
            after = (next(delays) + next(delays), _WRITE, version)
        elif kind == _WRITE:
            writes += 1
            won = seen == version
            version += won
            after = (next(delays), _ANSWER, int(won))
        elif seen:
            continue
        else:
            attempts[client] += 1
            uniform = next_uniform(stream)
            wait_ns = int(back_off_ns(routes, 0, attempts[client], waits[client], uniform))
            waits[client] = wait_ns
            after = (next(delays) + wait_ns / _NS_PER_MS, _READ, 0)
        heapq.heappush(events, (time + after[0], next(order), after[1], client, after[2]))
    return writes, time
