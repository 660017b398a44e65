"""Balancers that see the true queues of servers: what theory calls JSQ(d), JIQ and stale views.

No proxy can do this: a proxy knows its own requests only.  These are oracles, there to measure how
far real policies are from what perfect knowledge gives; their names say so, and a live proxy
refuses them.

Rules, with the load of a server being its requests in service and in queue:

- ORACLE_SHORTEST_QUEUE, JSQ(d): draw `choice_count` selectable members, with or without
  replacement (`distinct_choices`), and keep the first with the least load; with FULL_SCAN look at
  all and draw among those tied for the least.
- ORACLE_STALE_QUEUE: the same on a view of all loads that is renewed every `view_interval`
  (Mitzenmacher's periodic update, or bulletin board); what a proxy sends meanwhile it does not
  see.
- ORACLE_IDLE_QUEUE, JIQ (join the idle queue): every proxy has a queue of servers that told it
  they are idle; the next request goes to the first of them, or to a random server if there is
  none.  A server that becomes idle joins the queue of a proxy drawn at random (JIQ-Random); one
  that got work from elsewhere meanwhile has left its queue.

References
----------
Knuth, "The Art of Computer Programming", volume 2, 3.4.2, algorithm S (distinct draws).
Mitzenmacher, "The power of two choices in randomized load balancing", IEEE TPDS 12 (2001);
"How useful is old information?", IEEE TPDS 11 (2000).
Lu, Xie, Kliot, Geller, Larus, Greenberg, "Join-idle-queue", Performance Evaluation 68 (2011).
"""

from __future__ import annotations

from typing import Any

from meshsim.jit import kernel_jit, kernel_jit_inline
from meshsim.policy.load_balancing import random_pick
from meshsim.rng import next_index
from meshsim.state.codes import NO_HOST, NO_INDEX

__all__ = ["join_idle_queue", "leave_idle_queue", "pick_idle", "pick_shortest", "renew_view"]


@kernel_jit_inline
def _load(endpoints: Any, endpoint: int) -> int:
    """Return the requests that a server has in service and in queue."""
    return int(endpoints["busy"][endpoint] + endpoints["queued"][endpoint])


@kernel_jit
def renew_view(
    hosts: Any, members: Any, start: int, count: int, endpoints: Any, views: Any
) -> None:
    """Write the present load of every member's server into `views`.

    Parameters
    ----------
    hosts : ndarray[HOST_DTYPE], shape (n_hosts,)
    members : ndarray[int32], shape (n_members,)
    start, count : int
        The cluster's members are ``members[start : start + count]``.
    endpoints : ndarray[ENDPOINT_DTYPE], shape (n_endpoints,)
        The servers as they are.
    views : ndarray[ORACLE_HOST_DTYPE], shape (n_hosts,)
        Modified in place: load.
    """
    for position in range(start, start + count):
        host = members[position]
        views["load"][host] = _load(endpoints, hosts["endpoint"][host])


@kernel_jit
def _seen_load(hosts: Any, host: int, endpoints: Any, views: Any, stale: bool) -> int:
    if stale:
        return int(views["load"][host])
    return _load(endpoints, hosts["endpoint"][host])


@kernel_jit
def _shortest_of_distinct(
    hosts: Any,
    members: Any,
    start: int,
    count: int,
    endpoints: Any,
    views: Any,
    stale: bool,
    choice_count: int,
    rng: Any,
) -> int:
    """Pick uniformly among the least loaded of `choice_count` distinct members, or of all (0).

    O(n): a member that comes up while w are still wanted and m still to come is one of the
    drawn with probability w / m, so that all sets are equally likely.
    """
    coming = random_pick.count_selectable(hosts, members, start, count)
    wanted = choice_count if choice_count > 0 else coming
    picked = NO_HOST
    least = 0
    tied = 0
    for position in range(count):
        host = members[start + position]
        if hosts["healthy"][host] == 0:
            continue
        drawn = wanted >= coming or next_index(rng, coming) < wanted
        coming -= 1
        if not drawn:
            continue
        wanted -= 1
        load = _seen_load(hosts, host, endpoints, views, stale)
        if picked == NO_HOST or load < least:
            picked = position
            least = load
            tied = 1
        elif load == least:
            tied += 1
            if next_index(rng, tied) == 0:
                picked = position
        if wanted == 0:
            break
    return picked


@kernel_jit
def pick_shortest(
    hosts: Any,
    members: Any,
    start: int,
    count: int,
    endpoints: Any,
    views: Any,
    stale: bool,
    choice_count: int,
    distinct: bool,
    rng: Any,
) -> int:
    """Pick the member whose server has the least load of some that are drawn, or of all.

    Parameters
    ----------
    hosts : ndarray[HOST_DTYPE], shape (n_hosts,)
        Read only.
    members : ndarray[int32], shape (n_members,)
        Read only; the cluster's are ``members[start : start + count]``.
    start, count : int
        See `members`.
    endpoints : ndarray[ENDPOINT_DTYPE], shape (n_endpoints,)
        The servers as they are.  Read only.
    views : ndarray[ORACLE_HOST_DTYPE], shape (n_hosts,)
        Read only.
    stale : bool
        Whether to go by `views`.
    choice_count : int
        Number of draws; 0: look at all members.
    distinct : bool
        Whether the draws are without replacement; of those tied for the least one is then
        drawn too, as their order says nothing.
    rng : ndarray[uint64], shape (2,)
        Advanced in place.

    Returns
    -------
    int
        Position in [0, count), or `NO_HOST`.
    """
    if distinct or choice_count == 0:
        return _shortest_of_distinct(
            hosts, members, start, count, endpoints, views, stale, choice_count, rng
        )
    picked = random_pick.pick(hosts, members, start, count, rng)
    if picked == NO_HOST:
        return NO_HOST
    least = _seen_load(hosts, members[start + picked], endpoints, views, stale)
    for _ in range(choice_count - 1):
        position = random_pick.pick(hosts, members, start, count, rng)
        load = _seen_load(hosts, members[start + position], endpoints, views, stale)
        if load < least:
            picked = position
            least = load
    return picked


# --- Idle queues -----------------------------------------------------------------------------


@kernel_jit
def leave_idle_queue(hosts: Any, oracle_hosts: Any, oracle_clusters: Any, host: int) -> None:
    """Take `host`, which is in it, out of the idle queue of its cluster."""
    cluster = hosts["cluster"][host]
    before = oracle_hosts["previous"][host]
    after = oracle_hosts["next"][host]
    if before == NO_INDEX:
        oracle_clusters["idle_head"][cluster] = after
    else:
        oracle_hosts["next"][before] = after
    if after == NO_INDEX:
        oracle_clusters["idle_tail"][cluster] = before
    else:
        oracle_hosts["previous"][after] = before


@kernel_jit
def join_idle_queue(
    hosts: Any,
    oracle_hosts: Any,
    oracle_clusters: Any,
    oracle_endpoints: Any,
    watchers: Any,
    endpoint: int,
    rng: Any,
) -> None:
    """Let a server that has become idle join the queue of a proxy drawn at random.

    Parameters
    ----------
    hosts : ndarray[HOST_DTYPE], shape (n_hosts,)
        Read only.
    oracle_hosts, oracle_clusters, oracle_endpoints : ndarray
        Modified in place; see `meshsim.state.oracle`.
    watchers : ndarray[int32], shape (n_watchers,)
        HOST rows by server.  Read only.
    endpoint : int
    rng : ndarray[uint64], shape (2,)
        Of the server.  Advanced in place.
    """
    count = oracle_endpoints["host_count"][endpoint]
    if count == 0:
        return
    listed = oracle_endpoints["listed"][endpoint]
    if listed != NO_INDEX:
        leave_idle_queue(hosts, oracle_hosts, oracle_clusters, listed)
    host = watchers[oracle_endpoints["host_start"][endpoint] + next_index(rng, count)]
    cluster = hosts["cluster"][host]
    tail = oracle_clusters["idle_tail"][cluster]
    oracle_hosts["previous"][host] = tail
    oracle_hosts["next"][host] = NO_INDEX
    if tail == NO_INDEX:
        oracle_clusters["idle_head"][cluster] = host
    else:
        oracle_hosts["next"][tail] = host
    oracle_clusters["idle_tail"][cluster] = host
    oracle_endpoints["listed"][endpoint] = host


@kernel_jit
def pick_idle(
    hosts: Any,
    members: Any,
    start: int,
    count: int,
    endpoints: Any,
    oracle_hosts: Any,
    oracle_clusters: Any,
    oracle_endpoints: Any,
    cluster: int,
    rng: Any,
) -> int:
    """Return the HOST first in the idle queue of a cluster, or a random one, or `NO_HOST`.

    Parameters
    ----------
    cluster : int
        Row of `oracle_clusters`.

    Notes
    -----
    The others are those of `pick_shortest` and `join_idle_queue`.  A server that is not idle any
    more, or not selectable, leaves the queue here.
    """
    while oracle_clusters["idle_head"][cluster] != NO_INDEX:
        host = oracle_clusters["idle_head"][cluster]
        endpoint = hosts["endpoint"][host]
        leave_idle_queue(hosts, oracle_hosts, oracle_clusters, host)
        oracle_endpoints["listed"][endpoint] = NO_INDEX
        if hosts["healthy"][host] != 0 and _load(endpoints, endpoint) == 0:
            oracle_clusters["idle_picks"][cluster] += 1
            return int(host)
    position = random_pick.pick(hosts, members, start, count, rng)
    return NO_HOST if position == NO_HOST else int(members[start + position])
