"""Exchanges and attempts: the kernel's side of the per-request machine.

Rule: what happens to a request is decided by `meshsim.policy.request.step`; this module turns
what happened into stimuli, and actions into rows and events.  It decides nothing itself.

The way of a request: `start_exchange` (outbound pass) -> `route` -> `send` (host, connection)
-> the wire -> the endpoint (`meshsim.kernel.servers`) -> the wire -> `done` -> `finish`.  Every
handler returns its follow-up, an event that runs at this very instant without the queue.

Who gives up closes the connection, as HTTP/1.1 has no other way; the server learns of it one
wire latency later and acts as its `on_timeout` says.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from meshsim.jit import kernel_jit, kernel_jit_inline
from meshsim.kernel.connections import (
    OVERFLOW,
    announce_connection,
    close_connection,
    connect_for_pending,
    connect_or_wait,
    is_used_up,
    join_pending,
    leave_pending,
    release_connection,
    take_idle,
)
from meshsim.kernel.events import (
    ARRIVE,
    BACK_OFF,
    CANCEL_TASK,
    DONE,
    FINISH,
    NOTHING,
    ROUTE,
    ROUTE_TIMER,
    RUN,
    TRY_TIMER,
    pack,
    schedule,
)
from meshsim.kernel.passes import charge_pass, enter_proxy, wire_ns
from meshsim.kernel.pools import free_attempt, free_exchange, take_attempt, take_exchange
from meshsim.kernel.recording import record_exchange, record_root
from meshsim.kernel.servers import go_on_after_call
from meshsim.kernel.timers import start_timer, stop_timer
from meshsim.policy.circuit_breakers import (
    can_send_request,
    on_request_ended,
    on_request_started,
)
from meshsim.policy.hashing import NO_HASH_KEY
from meshsim.policy.load_balancing import (
    on_abandoned,
    on_error,
    on_request_sent,
    on_response,
    pick_host,
)
from meshsim.policy.request import (
    ACTION_ABANDON,
    ACTION_BACK_OFF,
    ACTION_INVALID,
    ACTION_RESPOND,
    ACTION_SEND,
    STIMULUS_BACK_OFF_EXPIRED,
    STIMULUS_DOWNSTREAM_RESET,
    STIMULUS_NO_HOST,
    STIMULUS_OVERFLOW,
    STIMULUS_PER_TRY_TIMEOUT,
    STIMULUS_REQUEST,
    STIMULUS_RESET,
    STIMULUS_RESPONSE,
    STIMULUS_ROUTE_TIMEOUT,
    step,
)
from meshsim.policy.routing import choose_split
from meshsim.rng import PURPOSE_SPLIT, key_uniform, mix, mix_in
from meshsim.state.codes import (
    NO_HOST,
    NO_INDEX,
    RESET_CONNECT_FAILURE,
    RESET_NONE,
    RESET_OVERFLOW,
)
from meshsim.state.exchange import (
    ATTEMPT_ABANDONED,
    ATTEMPT_ENDED,
    ATTEMPT_PENDING,
    ATTEMPT_SENT,
    EXCHANGE_ROUTING,
)
from meshsim.state.server import (
    ON_TIMEOUT_CANCEL_QUEUED,
    ON_TIMEOUT_CONTINUE,
    TASK_QUEUED,
)

#: `sent_ns` of an attempt that has not got a connection.
_NOT_SENT = -1


@kernel_jit
def start_exchange(state: Any, proxy: int, call: int, traffic: int, parent: int) -> int:
    """Take an EXCHANGE for one request at `proxy`; the caller fills in its identity."""
    exchanges = state.exchanges
    exchange = take_exchange(state)
    exchanges["state"][exchange] = EXCHANGE_ROUTING
    exchanges["proxy"][exchange] = proxy
    exchanges["call"][exchange] = call
    exchanges["edge"][exchange] = state.calls["edge"][call]
    exchanges["traffic"][exchange] = traffic
    exchanges["parent"][exchange] = parent
    exchanges["started_ns"][exchange] = state.counters["now_ns"][0]
    span = state.counters["next_span"][0]
    state.counters["next_span"][0] = span + 1
    exchanges["span"][exchange] = span
    state.proxies["requests"][proxy] += 1
    return exchange


@kernel_jit_inline
def enter(state: Any, exchange: int) -> int:
    """Send the request of `exchange` through its outbound proxy; return the follow-up."""
    exchanges = state.exchanges
    proxy = exchanges["proxy"][exchange]
    what = pack(ROUTE, exchange, exchanges["generation"][exchange])
    if state.proxies["costs"][proxy] == 0:
        return what
    enter_proxy(state, proxy, state.calls["request_bytes"][exchanges["call"][exchange]], what)
    return NOTHING


@kernel_jit_inline
def call(state: Any, task: int) -> int:
    """Make the call at the current step of `task`; return the follow-up."""
    tasks = state.tasks
    exchanges = state.exchanges
    at = tasks["step"][task]
    proxy = state.endpoints["proxy"][tasks["endpoint"][task]]
    exchange = start_exchange(state, proxy, state.steps["call"][at], tasks["traffic"][task], task)
    exchanges["parent_generation"][exchange] = tasks["generation"][task]
    exchanges["flags"][exchange] = tasks["flags"][task]
    exchanges["number"][exchange] = tasks["number"][task]
    exchanges["parent_span"][exchange] = tasks["span"][task]
    exchanges["key"][exchange] = mix_in(tasks["key"][task], state.steps["ordinal"][at])
    tasks["exchange"][task] = exchange
    tasks["exchange_generation"][task] = exchanges["generation"][exchange]
    return enter(state, exchange)


@kernel_jit
def _tell(state: Any, exchange: int, stimulus: int, status: int, reset: int) -> tuple[int, int]:
    """Tell the machine what happened; return its action and deadline [ns]."""
    return step(
        state.exchanges,
        exchange,
        state.routes,
        state.codes,
        state.clusters,
        state.configs,
        stimulus,
        status,
        reset,
        state.counters["now_ns"][0],
        state.pick_streams[state.exchanges["proxy"][exchange]],
    )


@kernel_jit_inline
def _act(state: Any, exchange: int, action: int, deadline_ns: int) -> int:
    """Carry out an action other than SEND; return the follow-up."""
    if action == ACTION_RESPOND:
        return pack(FINISH, exchange, 0)
    if action == ACTION_BACK_OFF:
        what = pack(BACK_OFF, exchange, state.exchanges["generation"][exchange])
        schedule(state, deadline_ns, what)
    elif action == ACTION_ABANDON:
        _drop(state, exchange)
    elif action == ACTION_INVALID:
        state.counters["invalid"][0] += 1
    return NOTHING


@kernel_jit
def _drop(state: Any, exchange: int) -> None:
    """Nobody waits for `exchange`: give up its attempts and free it."""
    _abandon_attempts(state, exchange)
    stop_timer(state.timers, state.exchanges, exchange)
    record_exchange(state, exchange)
    free_exchange(state, exchange)


@kernel_jit
def _stimulate(state: Any, exchange: int, stimulus: int) -> int:
    """Tell the machine of a `stimulus` that carries nothing; return the follow-up."""
    action, deadline_ns = _tell(state, exchange, stimulus, 0, RESET_NONE)
    return _act(state, exchange, action, deadline_ns)


@kernel_jit_inline
def route(state: Any, exchange: int) -> bool:
    """The request has passed the outbound proxy: route it; return whether to send a try."""
    exchanges = state.exchanges
    now_ns = state.counters["now_ns"][0]
    exchanges["proxy_ns"][exchange] += now_ns - exchanges["started_ns"][exchange]
    first = state.calls["route_start"][exchanges["call"][exchange]]
    chosen = state.routes_by_traffic[first + exchanges["traffic"][exchange]]
    exchanges["route"][exchange] = chosen
    exchanges["cluster"][exchange] = NO_INDEX
    if chosen != NO_INDEX and state.routes["split_count"][chosen] > 0:
        proxy = exchanges["proxy"][exchange]
        split = state.routes["split_start"][chosen]
        count = state.routes["split_count"][chosen]
        if count > 1:
            uniform = key_uniform(mix_in(exchanges["key"][exchange], PURPOSE_SPLIT << 24))
            total = state.routes["weight_total"][chosen]
            split = choose_split(state.splits, split, count, total, uniform)
        local = state.splits["cluster"][split]
        exchanges["cluster"][exchange] = state.proxies["cluster_start"][proxy] + local
    action, _ = _tell(state, exchange, STIMULUS_REQUEST, 0, RESET_NONE)
    if action != ACTION_SEND:
        return False
    timer = state.routes["timeout_timer"][chosen]
    if timer != NO_INDEX:
        start_timer(state, timer, exchanges, exchange, ROUTE_TIMER)
    return True


@kernel_jit_inline
def _hash_key(state: Any, exchange: int, chosen: int) -> np.uint64:
    """Return the hash key of the request for `chosen`."""
    count = state.routes["hash_count"][chosen]
    if count == 0:
        return NO_HASH_KEY
    start = state.routes["hash_start"][chosen]
    user = 0
    if count > 1:
        number = state.exchanges["number"][exchange]
        class_key = state.traffic["key"][state.exchanges["traffic"][exchange]]
        user = int(key_uniform(mix_in(mix(class_key), number)) * count)
    return state.hash_keys[start + user]


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
def _choose_host(state: Any, exchange: int, cluster: int) -> int:
    """Return the HOST for the next try, avoiding previous hosts as the route says."""
    chosen = state.exchanges["route"][exchange]
    rng = state.pick_streams[state.exchanges["proxy"][exchange]]
    key = _hash_key(state, exchange, chosen)
    tries = 1
    retry_count = state.exchanges["retry_count"][exchange]
    if retry_count > 0 and state.routes["previous_hosts"][chosen] == 1:
        tries = 1 + state.routes["host_selection_attempts"][chosen]
    host = NO_HOST
    for pick_number in range(tries):
        position = pick_host(
            state.hosts,
            state.members,
            state.clusters,
            cluster,
            state.configs,
            state.table,
            key,
            pick_number,
            state.counters["now_ns"][0],
            rng,
        )
        if position == NO_HOST:
            return NO_HOST
        host = state.members[state.clusters["member_start"][cluster] + position]
        if pick_number + 1 < tries and not _was_tried(state, exchange, host):
            break
    return host


@kernel_jit_inline
def send(state: Any, exchange: int) -> int:
    """Send one try: pick a host, get a connection; return the follow-up."""
    exchanges = state.exchanges
    attempts = state.attempts
    cluster = exchanges["cluster"][exchange]
    host = _choose_host(state, exchange, cluster)
    if host == NO_HOST:
        return _stimulate(state, exchange, STIMULUS_NO_HOST)
    attempt = take_attempt(state)
    attempts["exchange"][attempt] = exchange
    attempts["host"][attempt] = host
    attempts["endpoint"][attempt] = state.hosts["endpoint"][host]
    attempts["try_number"][attempt] = exchanges["retry_count"][exchange]
    attempts["previous"][attempt] = exchanges["attempt"][exchange]
    attempts["sent_ns"][attempt] = _NOT_SENT
    connection = take_idle(state, host)
    if connection == NO_INDEX:
        connection = connect_or_wait(state, host, _handshake_ns(state, attempt))
    if connection == OVERFLOW:
        free_attempt(state, attempt)
        return _stimulate(state, exchange, STIMULUS_OVERFLOW)
    exchanges["attempt"][exchange] = attempt
    exchanges["attempts_active"][exchange] += 1
    if connection == NO_INDEX:
        join_pending(state, host, attempt)
        return NOTHING
    if not can_send_request(state.clusters, cluster, state.configs):
        exchanges["attempts_active"][exchange] -= 1
        attempts["state"][attempt] = ATTEMPT_ENDED
        release_connection(state, host, connection)
        return _stimulate(state, exchange, STIMULUS_OVERFLOW)
    return _transmit(state, attempt, connection)


@kernel_jit
def _handshake_ns(state: Any, attempt: int) -> int:
    """Return the time to establish a connection for `attempt`: one round trip of TCP [ns]."""
    exchange = state.attempts["exchange"][attempt]
    endpoint = state.attempts["endpoint"][attempt]
    leg = 4 * state.attempts["try_number"][attempt] + 2
    key = state.exchanges["key"][exchange]
    return 2 * wire_ns(state, state.exchanges["proxy"][exchange], endpoint, key, leg)


@kernel_jit
def _transmit(state: Any, attempt: int, connection: int) -> int:
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
    """Give the ready `connection` to the request waiting longest, or make it idle."""
    attempt = state.hosts["pending_head"][host]
    if attempt == NO_INDEX:
        release_connection(state, host, connection)
        return
    leave_pending(state, host, attempt)
    if not can_send_request(state.clusters, state.hosts["cluster"][host], state.configs):
        _fail_pending(state, attempt, RESET_OVERFLOW)
        announce_connection(state, connection, 0)  # for the next in line
        return
    follow_up = _transmit(state, attempt, connection)
    if follow_up != NOTHING:
        schedule(state, state.counters["now_ns"][0], follow_up)


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

    If its endpoint refuses, everything pending for the host fails with it, one an event.
    """
    host = state.connections["host"][connection]
    state.connections["connecting"][connection] = 0
    state.hosts["connections_connecting"][host] -= 1
    if state.endpoints["alive"][state.hosts["endpoint"][host]] == 1:
        serve_pending(state, host, connection)
        return
    attempt = state.hosts["pending_head"][host]
    if attempt == NO_INDEX:
        close_connection(state, host, connection)
    else:
        leave_pending(state, host, attempt)
        _fail_pending(state, attempt, RESET_CONNECT_FAILURE)
        announce_connection(state, connection, 0)


@kernel_jit_inline
def returned(state: Any, attempt: int) -> int:
    """The response of `attempt` reached a proxy that takes time; return the follow-up."""
    attempts = state.attempts
    what = pack(DONE, attempt, attempts["generation"][attempt])
    if attempts["state"][attempt] == ATTEMPT_ABANDONED:
        return what
    exchange = attempts["exchange"][attempt]
    size_bytes = state.calls["response_bytes"][state.exchanges["call"][exchange]]
    enter_proxy(state, state.exchanges["proxy"][exchange], size_bytes, what)
    return NOTHING


@kernel_jit_inline
def done(state: Any, attempt: int) -> int:
    """`attempt` has an outcome at its client's proxy: settle it and tell the machine."""
    attempts = state.attempts
    exchanges = state.exchanges
    if attempts["state"][attempt] == ATTEMPT_ABANDONED:
        if attempts["exchange"][attempt] == NO_INDEX:
            free_attempt(state, attempt)
        else:
            attempts["state"][attempt] = ATTEMPT_ENDED
        return NOTHING
    exchange = attempts["exchange"][attempt]
    status = attempts["status"][attempt]
    reset = attempts["reset"][attempt]
    now_ns = state.counters["now_ns"][0]
    if attempts["connection"][attempt] != NO_INDEX:
        attempts["proxy_ns"][attempt] += now_ns - attempts["entered_ns"][attempt]
        exchanges["proxy_ns"][exchange] += attempts["proxy_ns"][attempt]
        exchanges["wire_ns"][exchange] += attempts["wire_ns"][attempt]
        exchanges["queue_ns"][exchange] += attempts["queue_ns"][attempt]
        exchanges["service_ns"][exchange] += attempts["service_ns"][attempt]
    exchanges["attempts_active"][exchange] -= 1
    attempts["state"][attempt] = ATTEMPT_ENDED
    # The machine hears of the outcome before the try is discounted: a retry budget counts it.
    stimulus = STIMULUS_RESPONSE if reset == RESET_NONE else STIMULUS_RESET
    action, deadline_ns = _tell(state, exchange, stimulus, status, reset)
    _settle(state, attempt, status >= 500 or reset != RESET_NONE)
    if action == ACTION_RESPOND:
        return finish(state, exchange)
    return _act(state, exchange, action, deadline_ns)


@kernel_jit_inline
def _settle(state: Any, attempt: int, failed: bool) -> None:
    """Discount an ended `attempt` everywhere and pass its connection on."""
    attempts = state.attempts
    hosts = state.hosts
    host = attempts["host"][attempt]
    connection = attempts["connection"][attempt]
    if attempts["timer"][attempt] != NO_INDEX:
        stop_timer(state.timers, attempts, attempt)
    if connection == NO_INDEX:
        return
    cluster = hosts["cluster"][host]
    now_ns = state.counters["now_ns"][0]
    rtt_ns = now_ns - attempts["sent_ns"][attempt]
    on_request_ended(state.clusters, cluster)
    config = state.clusters["config"][cluster]
    answered = (
        attempts["reset"][attempt] == RESET_NONE and attempts["state"][attempt] == ATTEMPT_ENDED
    )
    if answered:
        on_response(hosts, host, state.configs, config, rtt_ns, now_ns)
    else:
        on_abandoned(hosts, host, state.configs, config, rtt_ns, now_ns)
    if failed:
        on_error(hosts, host)
    attempts["connection"][attempt] = NO_INDEX
    if not answered or is_used_up(state, host, connection):
        close_connection(state, host, connection)
        _reconnect(state, host)
    elif hosts["pending_head"][host] == NO_INDEX:
        release_connection(state, host, connection)
    else:
        serve_pending(state, host, connection)


@kernel_jit
def _reconnect(state: Any, host: int) -> None:
    """A connection was closed: open another if requests wait for one."""
    attempt = state.hosts["pending_head"][host]
    if attempt == NO_INDEX:
        return
    connection = connect_for_pending(state, host, _handshake_ns(state, attempt))
    if connection != NO_INDEX and state.connections["connecting"][connection] == 0:
        serve_pending(state, host, connection)


@kernel_jit
def abandon(state: Any, attempt: int) -> None:
    """The exchange no longer waits for `attempt`: close its connection, tell its server."""
    attempts = state.attempts
    exchange = attempts["exchange"][attempt]
    host = attempts["host"][attempt]
    state.exchanges["attempts_active"][exchange] -= 1
    if attempts["state"][attempt] == ATTEMPT_PENDING:
        leave_pending(state, host, attempt)
        attempts["state"][attempt] = ATTEMPT_ENDED
        return
    attempts["state"][attempt] = ATTEMPT_ABANDONED
    _settle(state, attempt, True)
    task = attempts["task"][attempt]
    endpoint = attempts["endpoint"][attempt]
    if task != NO_INDEX and state.endpoints["on_timeout"][endpoint] != ON_TIMEOUT_CONTINUE:
        key = state.exchanges["key"][exchange]
        leg = 4 * attempts["try_number"][attempt] + 3
        proxy = state.exchanges["proxy"][exchange]
        time_ns = state.counters["now_ns"][0] + wire_ns(state, proxy, endpoint, key, leg)
        what = pack(CANCEL_TASK, task, state.tasks["generation"][task])
        schedule(state, time_ns, what)


@kernel_jit
def _abandon_attempts(state: Any, exchange: int) -> None:
    """Abandon every live attempt of `exchange`."""
    attempt = state.exchanges["attempt"][exchange]
    while attempt != NO_INDEX:
        if state.attempts["state"][attempt] in (ATTEMPT_PENDING, ATTEMPT_SENT):
            abandon(state, attempt)
        attempt = state.attempts["previous"][attempt]


@kernel_jit
def on_route_timeout(state: Any, exchange: int) -> int:
    """The route timeout of `exchange` has expired; return the follow-up."""
    return _stimulate(state, exchange, STIMULUS_ROUTE_TIMEOUT)


@kernel_jit
def on_per_try_timeout(state: Any, attempt: int) -> int:
    """The per-try timeout of `attempt` has expired; return the follow-up."""
    exchange = state.attempts["exchange"][attempt]
    abandon(state, attempt)
    return _stimulate(state, exchange, STIMULUS_PER_TRY_TIMEOUT)


@kernel_jit
def on_downstream_reset(state: Any, exchange: int) -> int:
    """The caller of `exchange` is gone; return the follow-up."""
    return _stimulate(state, exchange, STIMULUS_DOWNSTREAM_RESET)


@kernel_jit
def retry(state: Any, exchange: int) -> int:
    """The back-off of `exchange` has ended: send another try; return the follow-up.

    A retry passes no listener: it costs the worker one pass without a wake-up of its own, and
    leaves at once.
    """
    _tell(state, exchange, STIMULUS_BACK_OFF_EXPIRED, 0, RESET_NONE)
    proxy = state.exchanges["proxy"][exchange]
    if state.proxies["costs"][proxy] == 1 and state.proxies["container"][proxy] == NO_INDEX:
        charge_pass(state, proxy, 0)
    return pack(ROUTE, exchange, state.exchanges["generation"][exchange])


@kernel_jit_inline
def finish(state: Any, exchange: int) -> int:
    """Deliver the outcome of `exchange` to whoever asked; return the follow-up."""
    exchanges = state.exchanges
    tasks = state.tasks
    if exchanges["timer"][exchange] != NO_INDEX:
        stop_timer(state.timers, exchanges, exchange)
    if exchanges["attempts_active"][exchange] > 0:
        _abandon_attempts(state, exchange)
    record_exchange(state, exchange)
    parent = exchanges["parent"][exchange]
    status = exchanges["status"][exchange]
    follow_up = NOTHING
    if parent == NO_INDEX:
        record_root(state, exchange)
    elif tasks["generation"][parent] == exchanges["parent_generation"][exchange]:
        go_on_after_call(state, parent, status)
        follow_up = pack(RUN, parent, tasks["wake"][parent])
    free_exchange(state, exchange)
    return follow_up


@kernel_jit
def caller_gone(state: Any, task: int) -> bool:
    """Return whether `task`, whose caller gave up, is to be cancelled now."""
    tasks = state.tasks
    attempt = tasks["attempt"][task]
    if state.attempts["state"][attempt] != ATTEMPT_ABANDONED:
        return False
    queued = tasks["state"][task] == TASK_QUEUED
    on_timeout = state.endpoints["on_timeout"][tasks["endpoint"][task]]
    return queued or on_timeout != ON_TIMEOUT_CANCEL_QUEUED
