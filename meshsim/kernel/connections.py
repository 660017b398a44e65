"""HTTP/1.1 connection pools: one a (proxy, host), one request a connection at a time.

Rule, as Envoy's `ConnPoolImplBase`: a request takes the idle connection used last; otherwise it
must be allowed to wait (`max_pending_requests`), and waits until some connection of that host is
ready, first come first served.  While more requests wait than connections are connecting, new
ones are opened if `max_connections` of the cluster allows it or the host has none.  A connection
that has served `max_requests_per_connection`, or whose request was reset, is closed.

Idle connections form a stack, newest on top; when the top has idled out, all have.  Expiry is
therefore settled when the pool is used or when the cluster is at its limit, and costs no event.

References
----------
envoyproxy/envoy, source/common/conn_pool/conn_pool_base.cc;
api/envoy/config/cluster/v3/circuit_breaker.proto.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from meshsim.jit import kernel_jit, kernel_jit_inline
from meshsim.kernel.access import connect_timeout_ns, is_dropped
from meshsim.kernel.events import CONNECTED, WAIT_FOR_SYN, pack, schedule
from meshsim.kernel.memory import invoke
from meshsim.kernel.passes import charge_handshake, wire_between, wire_ns
from meshsim.kernel.pools import free_connection, take_connection
from meshsim.policy.circuit_breakers import (
    CONNECTIONS_AT_ONCE,
    OPEN,
    OPEN_NONE,
    can_open_connection,
    can_wait,
    on_connection_closed,
    on_connection_opened,
    on_pending_added,
    on_pending_removed,
    wants_connection,
)
from meshsim.rng import PURPOSE_WIRE, mix_in
from meshsim.state.codes import NEVER_NS, NO_INDEX
from meshsim.state.exchange import ATTEMPT_PENDING, CONNECTING_UNANSWERED

__all__ = [
    "OVERFLOW",
    "announce_connection",
    "close_connection",
    "connect_for_waiting",
    "connect_or_wait",
    "expire_idle",
    "is_used_up",
    "join_pending",
    "leave_pending",
    "release_connection",
    "take_idle",
]

#: `connect_or_wait`: the request may not even wait.
OVERFLOW = -2


@kernel_jit_inline
def _pop_idle(state: Any, host: int) -> int:
    """Take the newest idle connection of `host`."""
    hosts = state.hosts
    connections = state.connections
    connection = hosts["idle_newest"][host]
    older = connections["next"][connection]
    hosts["idle_newest"][host] = older
    if older == NO_INDEX:
        hosts["idle_oldest"][host] = NO_INDEX
    else:
        connections["newer"][older] = NO_INDEX
    return connection


@kernel_jit
def release_connection(state: Any, host: int, connection: int) -> None:
    """Put `connection`, for which nobody waits, on top of the idle stack of `host`."""
    hosts = state.hosts
    connections = state.connections
    newest = hosts["idle_newest"][host]
    connections["idle_since_ns"][connection] = state.counters["now_ns"][0]
    connections["next"][connection] = newest
    connections["newer"][connection] = NO_INDEX
    if newest == NO_INDEX:
        hosts["idle_oldest"][host] = connection
    else:
        connections["newer"][newest] = connection
    hosts["idle_newest"][host] = connection


@kernel_jit
def close_connection(state: Any, host: int, connection: int) -> None:
    """Close `connection` of `host`, which is in no list."""
    cluster = state.hosts["cluster"][host]
    state.hosts["connections_open"][host] -= 1
    on_connection_closed(state.clusters, cluster)
    free_connection(state, connection)


@kernel_jit
def expire_idle(state: Any, host: int, idle_timeout_ns: int) -> None:
    """Close the connections of `host` that have been idle for `idle_timeout_ns`."""
    hosts = state.hosts
    connections = state.connections
    now_ns = state.counters["now_ns"][0]
    oldest = hosts["idle_oldest"][host]
    while oldest != NO_INDEX and now_ns - connections["idle_since_ns"][oldest] >= idle_timeout_ns:
        newer = connections["newer"][oldest]
        hosts["idle_oldest"][host] = newer
        if newer == NO_INDEX:
            hosts["idle_newest"][host] = NO_INDEX
        else:
            connections["next"][newer] = NO_INDEX
        close_connection(state, host, oldest)
        oldest = newer


@kernel_jit
def _expire_cluster(state: Any, cluster: int, idle_timeout_ns: int) -> None:
    """Settle the idle time-outs of every host of `cluster` before its limit is applied."""
    start = state.clusters["member_start"][cluster]
    for position in range(start, start + state.clusters["member_count"][cluster]):
        expire_idle(state, state.members[position], idle_timeout_ns)


@kernel_jit
def _establish_ns(state: Any, attempt: int) -> int:
    """Return how long a connection for `attempt` takes to establish [ns]; charge its CPU.

    TCP takes one round trip.  Mutual TLS 1.3 takes one more and the cryptography of both sides,
    which hardly overlaps because the server waits for the client's certificate.  Whoever
    refuses the connection refuses it before TLS.
    """
    exchange = state.attempts["exchange"][attempt]
    endpoint = state.attempts["endpoint"][attempt]
    client = state.exchanges["proxy"][exchange]
    server = state.endpoints["proxy"][endpoint]
    leg = 4 * state.attempts["try_number"][attempt] + 2
    round_trip_ns = 2 * wire_ns(state, client, endpoint, state.exchanges["key"][exchange], leg)
    encrypted = min(state.proxies["handshake_ns"][client], state.proxies["handshake_ns"][server])
    if encrypted == 0 or state.endpoints["alive"][endpoint] == 0:
        return round_trip_ns
    now_ns = state.counters["now_ns"][0]
    client_ns = charge_handshake(state, client) - now_ns
    return 2 * round_trip_ns + client_ns + charge_handshake(state, server) - now_ns


@kernel_jit
def _lossy_ns(state: Any, attempt: int, delay_ns: int) -> int:
    """Return `delay_ns` and what lost packets add to it, or NEVER_NS."""
    exchange = state.attempts["exchange"][attempt]
    client = state.exchanges["proxy"][exchange]
    distribution = wire_between(state, client, state.attempts["endpoint"][attempt])
    leg = 4 * state.attempts["try_number"][attempt] + 2
    key = mix_in(state.exchanges["key"][exchange], (PURPOSE_WIRE << 24) + leg)
    waited_ns = invoke(state, WAIT_FOR_SYN, distribution, np.int64(key))
    return NEVER_NS if waited_ns == NEVER_NS else delay_ns + waited_ns


@kernel_jit
def _open_connection(state: Any, host: int, attempt: int) -> int:
    """Open a connection to `host` for `attempt`."""
    connection = take_connection(state)
    state.connections["host"][connection] = host
    state.hosts["connections_open"][host] += 1
    on_connection_opened(state.clusters, state.hosts["cluster"][host])
    if is_dropped(state, attempt):
        announce_connection(state, connection, connect_timeout_ns(state, host))
        state.connections["connecting"][connection] = CONNECTING_UNANSWERED
        return connection
    delay_ns = _establish_ns(state, attempt)
    if state.impairments.shape[0] > 0:
        delay_ns = _lossy_ns(state, attempt, delay_ns)
        if delay_ns >= connect_timeout_ns(state, host):
            announce_connection(state, connection, connect_timeout_ns(state, host))
            state.connections["connecting"][connection] = CONNECTING_UNANSWERED
            return connection
    if delay_ns > 0:
        announce_connection(state, connection, delay_ns)
    else:
        state.connections["connecting"][connection] = 0
    return connection


@kernel_jit
def announce_connection(state: Any, connection: int, delay_ns: int) -> None:
    """Let `connection` be established `delay_ns` from now."""
    counters = state.counters
    state.connections["connecting"][connection] = 1
    state.hosts["connections_connecting"][state.connections["host"][connection]] += 1
    what = pack(CONNECTED, connection, state.connections["generation"][connection])
    schedule(state, counters["now_ns"][0] + delay_ns, what)


@kernel_jit
def _may_open(state: Any, host: int) -> int:
    """Return OPEN_* for one more connection to `host`; what idled out does not count."""
    cluster = state.hosts["cluster"][host]
    config = state.clusters["config"][cluster]
    limit = state.configs["max_connections"][config]
    if state.clusters["connections_active"][cluster] >= limit:
        _expire_cluster(state, cluster, state.configs["idle_timeout_ns"][config])
    open_of_host = state.hosts["connections_open"][host]
    return can_open_connection(state.clusters, cluster, state.configs, open_of_host)


@kernel_jit
def connect_for_waiting(state: Any, host: int, attempt: int) -> int:
    """Open the connections that the pending requests of `host` want, if they are allowed.

    `attempt` is one of them: its wire is that of the connections.

    Returns
    -------
    int
        CONNECTION that is ready at once, for the first in line, after which there may be others
        to open; or NO_INDEX.
    """
    hosts = state.hosts
    for _ in range(CONNECTIONS_AT_ONCE):
        connecting = hosts["connections_connecting"][host]
        if not wants_connection(hosts["requests_pending"][host], connecting):
            return NO_INDEX
        allowed = _may_open(state, host)
        if allowed == OPEN_NONE:
            return NO_INDEX
        connection = _open_connection(state, host, attempt)
        if state.connections["connecting"][connection] == 0:
            return connection
        if allowed != OPEN:
            return NO_INDEX
    return NO_INDEX


@kernel_jit_inline
def take_idle(state: Any, host: int) -> int:
    """Return the idle connection of `host` used last, or NO_INDEX if there is none."""
    newest = state.hosts["idle_newest"][host]
    if newest == NO_INDEX:
        return NO_INDEX
    config = state.clusters["config"][state.hosts["cluster"][host]]
    age_ns = state.counters["now_ns"][0] - state.connections["idle_since_ns"][newest]
    if age_ns < state.configs["idle_timeout_ns"][config]:
        return _pop_idle(state, host)
    expire_idle(state, host, state.configs["idle_timeout_ns"][config])
    return NO_INDEX


@kernel_jit
def connect_or_wait(state: Any, host: int, attempt: int) -> int:
    """Open a connection for `attempt` to `host`, which has none idle.

    Returns
    -------
    int
        CONNECTION ready for use; NO_INDEX if the request has to wait for one (it must now
        `join_pending`); OVERFLOW if it may not wait.
    """
    hosts = state.hosts
    if not can_wait(state.clusters, hosts["cluster"][host], state.configs):
        return OVERFLOW
    if hosts["requests_pending"][host] > 0 or hosts["connections_connecting"][host] > 0:
        return NO_INDEX
    if _may_open(state, host) == OPEN_NONE:
        return NO_INDEX
    connection = _open_connection(state, host, attempt)
    return connection if state.connections["connecting"][connection] == 0 else NO_INDEX


@kernel_jit_inline
def is_used_up(state: Any, host: int, connection: int) -> bool:
    """Count a request that `connection` has served; return whether it may serve no other."""
    connections = state.connections
    connections["requests"][connection] += 1
    config = state.clusters["config"][state.hosts["cluster"][host]]
    limit = state.configs["max_requests_per_connection"][config]
    return limit > 0 and connections["requests"][connection] >= limit


@kernel_jit
def join_pending(state: Any, host: int, attempt: int) -> None:
    """Put `attempt` at the end of the pending list of `host`."""
    hosts = state.hosts
    hosts["requests_pending"][host] += 1
    attempts = state.attempts
    tail = hosts["pending_tail"][host]
    attempts["state"][attempt] = ATTEMPT_PENDING
    attempts["next"][attempt] = NO_INDEX
    attempts["pending_previous"][attempt] = tail
    if tail == NO_INDEX:
        hosts["pending_head"][host] = attempt
    else:
        attempts["next"][tail] = attempt
    hosts["pending_tail"][host] = attempt
    on_pending_added(state.clusters, hosts["cluster"][host])


@kernel_jit
def leave_pending(state: Any, host: int, attempt: int) -> None:
    """Take `attempt` out of the pending list of `host`."""
    hosts = state.hosts
    hosts["requests_pending"][host] -= 1
    attempts = state.attempts
    earlier = attempts["pending_previous"][attempt]
    later = attempts["next"][attempt]
    if earlier == NO_INDEX:
        hosts["pending_head"][host] = later
    else:
        attempts["next"][earlier] = later
    if later == NO_INDEX:
        hosts["pending_tail"][host] = earlier
    else:
        attempts["pending_previous"][later] = earlier
    on_pending_removed(state.clusters, hosts["cluster"][host])
