"""Attempts: one try at one host, from the pick to the end of its connection's use.

Rule: the host is picked by `meshsim.policy.load_balancing`, again while it was tried before
and the route says to avoid that.  A try waits for a connection of its host, holds it until it
is answered, and passes it on; a try that is given up closes its connection, as HTTP/1.1 has no
other way, and its server learns of it one wire latency later.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from meshsim.jit import kernel_jit, kernel_jit_inline
from meshsim.kernel.connections import (
    announce_connection,
    close_connection,
    connect_for_waiting,
    is_used_up,
    leave_pending,
    release_connection,
)
from meshsim.kernel.draws import draw_user
from meshsim.kernel.events import (
    ARRIVE,
    CANCEL_TASK,
    CONNECT,
    DONE,
    HEALTH_CONNECTED,
    HEALTH_DROPPED,
    LEAVE_GATE,
    NOTHING,
    PICK,
    TAKE_REPORT,
    TRY_TIMER,
    pack,
    schedule,
)
from meshsim.kernel.memory import invoke
from meshsim.kernel.passes import wire_ns
from meshsim.kernel.timers import start_timer, stop_timer
from meshsim.policy.circuit_breakers import (
    can_send_request,
    on_request_ended,
    on_request_started,
)
from meshsim.policy.custom.decisions import learn
from meshsim.policy.hashing import NO_HASH_KEY
from meshsim.policy.load_balancing import (
    on_abandoned,
    on_error,
    on_request_sent,
    on_response,
    pick_host,
)
from meshsim.state.codes import (
    NO_HOST,
    NO_INDEX,
    PICK_PLAIN,
    RESET_CONNECT_FAILURE,
    RESET_NONE,
    RESET_OVERFLOW,
)
from meshsim.state.exchange import (
    ATTEMPT_ABANDONED,
    ATTEMPT_ENDED,
    ATTEMPT_PENDING,
    ATTEMPT_SENT,
    CONNECTING_UNANSWERED,
    EXCHANGE_RESPONDING,
)
from meshsim.state.server import (
    ON_TIMEOUT_CONTINUE,
)

__all__ = [
    "NOT_SENT",
    "abandon",
    "abandon_attempts",
    "choose_host",
    "connect_waiting",
    "connected",
    "hash_key_of",
    "serve_pending",
    "settle",
    "transmit",
]


#: `sent_ns` of an attempt that has not got a connection.
NOT_SENT = -1
#: Requests that wait for a host and are sent, or refused, by one event.
_SERVED_AN_EVENT = 2


@kernel_jit_inline
def hash_key_of(state: Any, exchange: int, chosen: int) -> np.uint64:
    """Return the hash key of the request for `chosen`."""
    count = state.routes["hash_count"][chosen]
    if count == 0:
        return NO_HASH_KEY
    start = state.routes["hash_start"][chosen]
    return state.hash_keys[start + draw_user(state, exchange, count)]


@kernel_jit
def _was_tried(state: Any, exchange: int, host: int) -> bool:
    """Return whether an earlier try of `exchange` went to `host`."""
    attempt = state.exchanges["attempt"][exchange]
    while attempt != NO_INDEX:
        if state.attempts["host"][attempt] == host:
            return True
        attempt = state.attempts["previous"][attempt]
    return False


@kernel_jit
def choose_host(state: Any, exchange: int, cluster: int) -> int:
    """Return the HOST for the next try, avoiding previous hosts as the route says."""
    chosen = state.exchanges["route"][exchange]
    rng = state.pick_streams[state.exchanges["proxy"][exchange]]
    key = hash_key_of(state, exchange, chosen)
    tries = 1
    retry_count = state.exchanges["retry_count"][exchange]
    if retry_count > 0 and state.routes["previous_hosts"][chosen] == 1:
        tries = 1 + state.routes["host_selection_attempts"][chosen]
    host = NO_HOST
    plain = state.configs["picking"][state.clusters["config"][cluster]] == PICK_PLAIN
    for pick_number in range(tries):
        if plain:
            position = pick_host(
                state.hosts,
                state.members,
                state.clusters,
                cluster,
                state.configs,
                state.table,
                state.memory,
                key,
                pick_number,
                state.counters["now_ns"][0],
                rng,
            )
            host = NO_HOST
            if position != NO_HOST:
                host = state.members[state.clusters["member_start"][cluster] + position]
        else:
            host = invoke(state, PICK, exchange, pick_number)
        if host == NO_HOST:
            return NO_HOST
        if pick_number + 1 < tries and not _was_tried(state, exchange, host):
            break
    return host


@kernel_jit
def transmit(state: Any, attempt: int, connection: int) -> int:
    """Put `attempt` on the wire over `connection`; return the follow-up."""
    attempts = state.attempts
    exchange = attempts["exchange"][attempt]
    host = attempts["host"][attempt]
    now_ns = state.counters["now_ns"][0]
    attempts["state"][attempt] = ATTEMPT_SENT
    attempts["connection"][attempt] = connection
    attempts["sent_ns"][attempt] = now_ns
    on_request_started(state.clusters, state.exchanges["cluster"][exchange])
    on_request_sent(state.hosts, host, now_ns)
    if state.clusters["health"][state.hosts["cluster"][host]] != NO_INDEX:
        invoke(state, HEALTH_CONNECTED, host, 0)
    timer = state.routes["per_try_timer"][state.exchanges["route"][exchange]]
    if timer != NO_INDEX:
        start_timer(state, timer, attempts, attempt, TRY_TIMER)
    key = state.exchanges["key"][exchange]
    leg = 4 * attempts["try_number"][attempt]
    endpoint = attempts["endpoint"][attempt]
    latency_ns = wire_ns(state, state.exchanges["proxy"][exchange], endpoint, key, leg)
    attempts["wire_ns"][attempt] = latency_ns
    what = pack(ARRIVE, attempt, attempts["generation"][attempt])
    if latency_ns == 0:
        return what
    schedule(state, now_ns + latency_ns, what)
    return NOTHING


@kernel_jit
def serve_pending(state: Any, host: int, connection: int) -> None:
    """Give the ready `connection` to the request waiting longest, or make it idle.

    Others that still wait may have one more connection opened.  After a few of them the next event
    goes on, because one event may schedule no more than there is room for.
    """
    served = 0
    while connection != NO_INDEX:
        attempt = state.hosts["pending_head"][host]
        if attempt == NO_INDEX:
            release_connection(state, host, connection)
            return
        if served == _SERVED_AN_EVENT:
            announce_connection(state, connection, 0)
            return
        served += 1
        leave_pending(state, host, attempt)
        if not can_send_request(state.clusters, state.hosts["cluster"][host], state.configs):
            _fail_pending(state, attempt, RESET_OVERFLOW)  # it is for the next in line
            continue
        follow_up = transmit(state, attempt, connection)
        if follow_up != NOTHING:
            schedule(state, state.counters["now_ns"][0], follow_up)
        connection = connect_for_waiting(state, host, state.hosts["pending_head"][host])


@kernel_jit
def connect_waiting(state: Any, host: int, attempt: int) -> int:
    """Open what those that wait for `host`, of which `attempt` is one, want; return NOTHING."""
    connection = connect_for_waiting(state, host, attempt)
    if connection != NO_INDEX:
        serve_pending(state, host, connection)
    return NOTHING


@kernel_jit
def _fail_pending(state: Any, attempt: int, reset: int) -> None:
    """Let `attempt`, which has left the pending list, end by `reset` at this instant."""
    state.attempts["reset"][attempt] = reset
    state.attempts["state"][attempt] = ATTEMPT_SENT
    what = pack(DONE, attempt, state.attempts["generation"][attempt])
    schedule(state, state.counters["now_ns"][0], what)


@kernel_jit
def connected(state: Any, connection: int) -> None:
    """`connection` is established: serve a pending request.

    If its endpoint refuses, or has not answered until the connect timeout, everything pending
    for the host fails with it, one an event.
    """
    host = state.connections["host"][connection]
    connecting = state.connections["connecting"][connection]
    state.connections["connecting"][connection] = 0
    state.hosts["connections_connecting"][host] -= 1
    alive = state.endpoints["alive"][state.hosts["endpoint"][host]]
    if alive == 1 and connecting != CONNECTING_UNANSWERED:
        serve_pending(state, host, connection)
        return
    attempt = state.hosts["pending_head"][host]
    if attempt == NO_INDEX:
        close_connection(state, host, connection)
    else:
        leave_pending(state, host, attempt)
        _fail_pending(state, attempt, RESET_CONNECT_FAILURE)
        announce_connection(state, connection, 0)
        state.connections["connecting"][connection] = connecting


@kernel_jit_inline
def settle(state: Any, attempt: int, failed: bool) -> None:
    """Discount an ended `attempt` everywhere and pass its connection on."""
    attempts = state.attempts
    hosts = state.hosts
    host = attempts["host"][attempt]
    pool = attempts["pool"][attempt]
    connection = attempts["connection"][attempt]
    if attempts["timer"][attempt] != NO_INDEX:
        stop_timer(state.timers, attempts, attempt)
    if connection == NO_INDEX:
        return
    now_ns = state.counters["now_ns"][0]
    rtt_ns = now_ns - attempts["sent_ns"][attempt]
    on_request_ended(state.clusters, hosts["cluster"][pool])
    config = state.clusters["config"][hosts["cluster"][host]]
    answered = (
        attempts["reset"][attempt] <= RESET_NONE and attempts["state"][attempt] == ATTEMPT_ENDED
    )
    if answered:
        on_response(hosts, host, state.configs, config, rtt_ns, now_ns)
        if state.configs["report_rule"][config] != NO_INDEX:
            invoke(state, TAKE_REPORT, host, 1 if failed else 0)
    else:
        on_abandoned(hosts, host, state.configs, config, rtt_ns, now_ns)
    if failed:
        on_error(hosts, host)
    learn(hosts, host, state.clusters, state.configs, state.memory, failed, rtt_ns, now_ns)
    attempts["connection"][attempt] = NO_INDEX
    if not answered or is_used_up(state, pool, connection):
        close_connection(state, pool, connection)
        if hosts["pending_head"][pool] != NO_INDEX:
            invoke(state, CONNECT, pool, hosts["pending_head"][pool])
    elif hosts["pending_head"][pool] == NO_INDEX:
        release_connection(state, pool, connection)
    else:
        serve_pending(state, pool, connection)


@kernel_jit
def abandon(state: Any, attempt: int, failed: bool) -> None:
    """The exchange no longer waits for `attempt`: close its connection, tell its server.

    It has `failed`, unless another try of a hedged request was better.
    """
    attempts = state.attempts
    exchange = attempts["exchange"][attempt]
    host = attempts["host"][attempt]
    state.exchanges["attempts_active"][exchange] -= 1
    if state.clusters["health"][state.hosts["cluster"][host]] != NO_INDEX:
        invoke(state, HEALTH_DROPPED, host, 0)
    if attempts["state"][attempt] == ATTEMPT_PENDING:
        leave_pending(state, attempts["pool"][attempt], attempt)
        attempts["state"][attempt] = ATTEMPT_ENDED
        return
    attempts["state"][attempt] = ATTEMPT_ABANDONED
    settle(state, attempt, failed)
    task = attempts["task"][attempt]
    endpoint = attempts["endpoint"][attempt]
    gated = attempts["gated"][attempt] != 0
    cancels = task != NO_INDEX and state.endpoints["on_timeout"][endpoint] != ON_TIMEOUT_CONTINUE
    if gated or cancels:
        key = state.exchanges["key"][exchange]
        leg = 4 * attempts["try_number"][attempt] + 3
        proxy = state.exchanges["proxy"][exchange]
        time_ns = state.counters["now_ns"][0] + wire_ns(state, proxy, endpoint, key, leg)
        if gated:
            schedule(state, time_ns, pack(LEAVE_GATE, attempt, attempts["generation"][attempt]))
        if cancels:
            schedule(state, time_ns, pack(CANCEL_TASK, task, state.tasks["generation"][task]))


@kernel_jit
def abandon_attempts(state: Any, exchange: int, generation: int) -> int:
    """Abandon every live attempt of `exchange`."""
    answered = state.exchanges["state"][exchange] == EXCHANGE_RESPONDING
    failed = not (answered and state.exchanges["status"][exchange] < 500)
    attempt = state.exchanges["attempt"][exchange]
    while attempt != NO_INDEX:
        if state.attempts["state"][attempt] in (ATTEMPT_PENDING, ATTEMPT_SENT):
            abandon(state, attempt, failed)
        attempt = state.attempts["previous"][attempt]
    return NOTHING
