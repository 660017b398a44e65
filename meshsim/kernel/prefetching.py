"""Warm the cache for the events that come next.

Rule: a large mesh waits for memory, not for arithmetic.  The next events are taken out of the
heap ahead of their time; while one is handled, the rows of those behind it are asked for, in
steps, because an event names one row, that row names others, and those name others again: each
step reads what the step before has asked for.  This changes no value: results are the same
without.
"""

from __future__ import annotations

from typing import Any

from meshsim.jit import kernel_jit, kernel_jit_inline
from meshsim.kernel.buckets import fill_heap
from meshsim.kernel.events import (
    ADMIT,
    ARRIVE,
    DONE,
    RETURN,
    ROUTE,
    RUN,
    pop_event,
    what_index,
    what_kind,
)
from meshsim.kernel.memory import prefetch, prefetch_first
from meshsim.rng import peek_uint64, uniform_of
from meshsim.state.codes import LEAST_REQUEST, NO_INDEX

__all__ = ["LARGE_HOSTS", "is_large", "warm_upcoming"]

#: HOST rows from which a mesh is large; a smaller one is in the cache anyway.
LARGE_HOSTS = 10_000
#: Events known ahead: when fewer than the first are left, there will be the second.
_AHEAD_MIN = 12
_AHEAD = 32
#: How far ahead the second to fifth step of an event are done.
_SECOND = 9
_THIRD = 6
_FOURTH = 4
_FIFTH = 2
#: Hosts of a cluster that are asked for.
_HOSTS_MAX = 16


@kernel_jit_inline
def is_large(state: Any) -> bool:
    """Return whether the memory is that of a large mesh."""
    return state.bucket_counts.shape[0] > 0


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
def _warm_second(state: Any, what: int) -> None:
    """Ask for the rows that the row of `what` leads to."""
    kind = what_kind(what)
    index = what_index(what)
    if kind == RUN:
        endpoint = state.tasks["endpoint"][index]
        prefetch(state.endpoints, endpoint)
        prefetch(state.proxies, endpoint)
        prefetch(state.steps, state.tasks["step"][index])
        prefetch(state.attempts, max(state.tasks["attempt"][index], 0))
    elif kind == ROUTE:
        prefetch(state.proxies, state.exchanges["proxy"][index])
        prefetch_first(state.calls, state.exchanges["call"][index])
    elif kind in (ARRIVE, ADMIT):
        prefetch(state.exchanges, state.attempts["exchange"][index])
        prefetch(state.endpoints, state.attempts["endpoint"][index])
        prefetch(state.proxies, state.attempts["endpoint"][index])
    elif kind in (RETURN, DONE):
        prefetch(state.exchanges, max(state.attempts["exchange"][index], 0))
        prefetch(state.hosts, state.attempts["host"][index])
        prefetch_first(state.connections, max(state.attempts["connection"][index], 0))


@kernel_jit_inline
def _likely_cluster(state: Any, exchange: int) -> int:
    """Return the first CLUSTER that the route of `exchange` names."""
    exchanges = state.exchanges
    proxy = exchanges["proxy"][exchange]
    first = state.proxies["route_base"][proxy]
    first += state.calls["route_start"][exchanges["call"][exchange]]
    chosen = max(state.routes_by_traffic[first + exchanges["traffic"][exchange]], 0)
    local = state.splits["cluster"][state.routes["split_start"][chosen]]
    return state.proxies["cluster_start"][proxy] + local


@kernel_jit_inline
def _warm_third(state: Any, what: int) -> None:
    """Ask for the rows that those of the second step lead to."""
    kind = what_kind(what)
    index = what_index(what)
    if kind == RUN:
        attempt = state.tasks["attempt"][index]
        if attempt != NO_INDEX:
            prefetch(state.exchanges, max(state.attempts["exchange"][attempt], 0))
    elif kind == ROUTE:
        prefetch(state.clusters, _likely_cluster(state, index))
    elif kind in (RETURN, DONE):
        prefetch(state.clusters, state.hosts["cluster"][state.attempts["host"][index]])
        exchange = max(state.attempts["exchange"][index], 0)
        prefetch(state.proxies, state.exchanges["proxy"][exchange])
        prefetch(state.tasks, max(state.exchanges["parent"][exchange], 0))


@kernel_jit
def _warm_hosts(state: Any, exchange: int, connections: bool) -> None:
    """Ask for the hosts among which `exchange` will choose, or for their idle connections.

    LEAST_REQUEST compares those that the next draws of its proxy name.
    """
    cluster = _likely_cluster(state, exchange)
    start = state.clusters["member_start"][cluster]
    count = state.clusters["member_count"][cluster]
    config = state.clusters["config"][cluster]
    drawn = state.configs["balancing"][config] == LEAST_REQUEST
    rng = state.pick_streams[state.exchanges["proxy"][exchange]]
    s0 = rng[0]
    s1 = rng[1]
    wanted = state.configs["choice_count"][config] if drawn else count
    for place in range(min(wanted, count, _HOSTS_MAX)):
        position = place
        if drawn:
            bits, s0, s1 = peek_uint64(s0, s1)
            position = int(uniform_of(bits) * count)
        host = state.members[start + position]
        if connections:
            prefetch_first(state.connections, max(state.hosts["idle_newest"][host], 0))
        else:
            prefetch_first(state.hosts, host)


@kernel_jit_inline
def _warm_choice(state: Any, what: int, connections: bool) -> None:
    """Do a step of `what` that knows where its request may go, if it chooses that."""
    if what_kind(what) == ROUTE:
        _warm_hosts(state, what_index(what), connections)


@kernel_jit
def _take_upcoming(state: Any, count: int) -> int:
    """Take the first events out of the heap until `count` are upcoming.

    Returns
    -------
    int
        How many were upcoming before; they are the first ones.
    """
    counters = state.counters
    events = state.events
    upcoming = state.upcoming
    first = counters["upcoming_first"][0]
    before = counters["upcoming_end"][0] - first
    for place in range(before):
        upcoming[place] = upcoming[first + place]
    place = before
    while place < count and fill_heap(state):
        upcoming[place] = events[0]
        pop_event(events, counters)
        place += 1
    counters["upcoming_first"][0] = 0
    counters["upcoming_end"][0] = place
    counters["upcoming_until_ns"][0] = upcoming["time_ns"][max(place - 1, 0)]
    return before


@kernel_jit
def _look_ahead(state: Any) -> None:
    """Take more events out of the heap and ask for their rows."""
    before = _take_upcoming(state, _AHEAD)
    for place in range(before, state.counters["upcoming_end"][0]):
        _warm_row(state, state.upcoming["what"][place])


@kernel_jit
def warm_upcoming(state: Any) -> None:
    """Do one step for each of the upcoming events whose turn it is."""
    counters = state.counters
    upcoming = state.upcoming
    left = counters["upcoming_end"][0] - counters["upcoming_first"][0]
    if left < _AHEAD_MIN and counters["event_count"][0] + counters["bucket_events"][0] > 0:
        _look_ahead(state)
    first = counters["upcoming_first"][0]
    left = counters["upcoming_end"][0] - first
    if left > _SECOND:
        _warm_second(state, upcoming["what"][first + _SECOND])
        _warm_third(state, upcoming["what"][first + _THIRD])
        _warm_choice(state, upcoming["what"][first + _FOURTH], False)
        _warm_choice(state, upcoming["what"][first + _FIFTH], True)
