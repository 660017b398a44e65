"""Warm the cache for the events that come next.

Rule: a large mesh waits for memory, not for arithmetic.  The next event is at the top of the
heap and those after it are below; while one event is handled, the rows of the next are asked
for, and the first lines of those after.  This changes no value: results are the same without.
"""

from __future__ import annotations

from typing import Any

from meshsim.jit import kernel_jit_inline
from meshsim.kernel.events import (
    ADMIT,
    ARRIVE,
    DONE,
    RETURN,
    ROUTE,
    RUN,
    what_index,
    what_kind,
)
from meshsim.kernel.memory import prefetch

__all__ = ["prefetch_next"]

#: Heap entries below the top that are warmed: its children.
_CHILDREN = 4
#: A smaller mesh is in the cache anyway.
_HOSTS_MIN = 10_000


@kernel_jit_inline
def _warm_row(state: Any, what: int) -> None:
    """Ask for the row that `what` names."""
    kind = what_kind(what)
    index = what_index(what)
    if kind == RUN:
        prefetch(state.tasks, index)
    elif kind == ROUTE:
        prefetch(state.exchanges, index)
    elif kind in (ARRIVE, ADMIT, RETURN, DONE):
        prefetch(state.attempts, index)


@kernel_jit_inline
def _warm_neighbours(state: Any, what: int) -> None:
    """Ask for the rows that the row of `what` leads to; it was asked for before."""
    kind = what_kind(what)
    index = what_index(what)
    if kind == RUN:
        endpoint = state.tasks["endpoint"][index]
        prefetch(state.endpoints, endpoint)
        prefetch(state.proxies, endpoint)
        prefetch(state.attempts, max(state.tasks["attempt"][index], 0))
    elif kind == ROUTE:
        proxy = state.exchanges["proxy"][index]
        prefetch(state.proxies, proxy)
        prefetch(state.clusters, state.proxies["cluster_start"][proxy])
    elif kind in (ARRIVE, ADMIT):
        prefetch(state.exchanges, state.attempts["exchange"][index])
        prefetch(state.endpoints, state.attempts["endpoint"][index])
        prefetch(state.proxies, state.attempts["endpoint"][index])
    elif kind in (RETURN, DONE):
        prefetch(state.exchanges, state.attempts["exchange"][index])
        host = state.attempts["host"][index]
        prefetch(state.hosts, host)
        prefetch(state.clusters, state.hosts["cluster"][host])
        prefetch(state.connections, max(state.attempts["connection"][index], 0))


@kernel_jit_inline
def prefetch_next(state: Any) -> None:
    """Warm the cache for the event at the top of the heap and for its children."""
    count = state.counters["event_count"][0]
    if state.hosts.shape[0] < _HOSTS_MIN or count == 0:
        return
    _warm_neighbours(state, state.events["what"][0])
    for child in range(1, min(1 + _CHILDREN, count)):
        _warm_row(state, state.events["what"][child])
