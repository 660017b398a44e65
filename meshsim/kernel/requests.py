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

from meshsim.jit import kernel_jit, kernel_jit_inline
from meshsim.kernel.attempts import (
    NOT_SENT,
    choose_host,
    settle,
    transmit,
)
from meshsim.kernel.connections import (
    OVERFLOW,
    connect_or_wait,
    join_pending,
    release_connection,
    take_idle,
)
from meshsim.kernel.draws import draw_split
from meshsim.kernel.events import (
    ABANDON,
    CONNECT,
    DONE,
    DONE_BESIDE,
    FILTER,
    FINISH,
    HEALTH_DROPPED,
    HEALTH_DUE,
    HEALTH_PICKED,
    HEAR_RESET,
    KEEP_DEADLINE,
    LEAVE_FILTERS,
    NOTHING,
    PLAN_COPY,
    ROUTE,
    ROUTE_TIMER,
    RUN,
    STIMULATE,
    pack,
    schedule,
)
from meshsim.kernel.filters import ASKED, filter_outbound
from meshsim.kernel.health import report_result
from meshsim.kernel.machine import act, tell
from meshsim.kernel.memory import invoke
from meshsim.kernel.passes import charge_pass, enter_proxy
from meshsim.kernel.pools import free_attempt, free_exchange, take_attempt, take_exchange
from meshsim.kernel.recording import begin_span, record_exchange, record_root
from meshsim.kernel.servers import go_on_after_call
from meshsim.kernel.timers import start_timer, stop_timer
from meshsim.kernel.tries import send_again
from meshsim.policy.circuit_breakers import can_send_request
from meshsim.policy.reset_headers import NOT_TOLD
from meshsim.policy.routing import is_mirrored, mirror_key
from meshsim.policy.transitions import (
    ACTION_RESPOND,
    ACTION_SEND,
    STIMULUS_BACK_OFF_EXPIRED,
    STIMULUS_DELAY_EXPIRED,
    STIMULUS_NO_HOST,
    STIMULUS_OVERFLOW,
    STIMULUS_REQUEST,
    STIMULUS_RESET,
    STIMULUS_RESPONSE,
)
from meshsim.rng import mix_in
from meshsim.state.codes import (
    HEDGE_AFTER_DELAY,
    NEVER_NS,
    NO_HOST,
    NO_INDEX,
    PRIORITY_DEFAULT,
    RESET_NONE,
)
from meshsim.state.exchange import (
    ATTEMPT_ABANDONED,
    ATTEMPT_ENDED,
    EXCHANGE_DELAYED,
    EXCHANGE_ROUTING,
    HOLDS_FAULT,
    MIRROR,
    PACED,
    SAMPLED,
)
from meshsim.state.server import (
    ON_TIMEOUT_CANCEL_QUEUED,
    TASK_QUEUED,
)

__all__ = [
    "FORWARDED",
    "call",
    "caller_gone",
    "done",
    "enter",
    "filter_request",
    "finish",
    "retry",
    "returned",
    "route",
    "send",
    "start_exchange",
]


#: Follow-up of `route`: a try is to be sent.
FORWARDED = -2
_FILTERED = HOLDS_FAULT | PACED


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
    exchanges["deadline_ns"][exchange] = NEVER_NS
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
    endpoint = tasks["endpoint"][task]
    proxy = state.endpoints["proxy"][endpoint]
    exchange = start_exchange(state, proxy, state.steps["call"][at], tasks["traffic"][task], task)
    exchanges["parent_generation"][exchange] = tasks["generation"][task]
    exchanges["flags"][exchange] = tasks["flags"][task]
    exchanges["number"][exchange] = tasks["number"][task]
    if exchanges["flags"][exchange] & SAMPLED != 0:
        begin_span(state, exchange, tasks["span"][task])
    if state.endpoints["deadlines"][endpoint] != 0:
        exchanges["deadline_ns"][exchange] = tasks["deadline_ns"][task]
    exchanges["key"][exchange] = mix_in(tasks["key"][task], state.steps["ordinal"][at])
    tasks["exchange"][task] = exchange
    tasks["exchange_generation"][task] = exchanges["generation"][exchange]
    return enter(state, exchange)


@kernel_jit_inline
def route(state: Any, exchange: int) -> int:
    """The request has passed the outbound proxy, or its delay has ended: route it.

    Returns
    -------
    int
        FORWARDED: send a try; else the follow-up.
    """
    exchanges = state.exchanges
    if exchanges["state"][exchange] == EXCHANGE_DELAYED:
        tell(state, exchange, STIMULUS_DELAY_EXPIRED, 0, RESET_NONE)
        return int(invoke(state, FILTER, exchange, 1))
    now_ns = state.counters["now_ns"][0]
    exchanges["proxy_ns"][exchange] += now_ns - exchanges["started_ns"][exchange]
    proxy = exchanges["proxy"][exchange]
    first = state.proxies["route_base"][proxy]
    first += state.calls["route_start"][exchanges["call"][exchange]]
    chosen = state.routes_by_traffic[first + exchanges["traffic"][exchange]]
    exchanges["route"][exchange] = chosen
    exchanges["cluster"][exchange] = NO_INDEX
    if chosen != NO_INDEX and state.routes["filters"][chosen] != NO_INDEX:
        return int(invoke(state, FILTER, exchange, 0))
    return _forward(state, exchange, chosen)


@kernel_jit_inline
def _forward(state: Any, exchange: int, chosen: int) -> int:
    """Choose the cluster of a request on route `chosen`; return FORWARDED or the follow-up."""
    exchanges = state.exchanges
    if chosen != NO_INDEX and state.routes["split_count"][chosen] > 0:
        local = state.splits["cluster"][draw_split(state, exchange, chosen)]
        cluster = state.proxies["cluster_start"][exchanges["proxy"][exchange]] + local
        if state.routes["priority"][chosen] != PRIORITY_DEFAULT:
            cluster = state.high_clusters[cluster]
        exchanges["cluster"][exchange] = cluster
    bound_ns = exchanges["deadline_ns"][exchange]
    action, _ = tell(state, exchange, STIMULUS_REQUEST, 0, RESET_NONE)
    if action != ACTION_SEND:
        return pack(FINISH, exchange, 0)
    timer = state.routes["timeout_timer"][chosen]
    if bound_ns != NEVER_NS:
        invoke(state, KEEP_DEADLINE, exchange, 0)
    elif timer != NO_INDEX:
        start_timer(state, timer, exchanges, exchange, ROUTE_TIMER)
    if state.routes["hedging"][chosen] == HEDGE_AFTER_DELAY:
        invoke(state, PLAN_COPY, exchange, 0)
    return FORWARDED


@kernel_jit
def filter_request(state: Any, exchange: int, delayed: int) -> int:
    """Send a request through the filters of its route; return FORWARDED or the follow-up."""
    stimulus, value, reset = filter_outbound(state, exchange, delayed != 0)
    if stimulus == ASKED:
        return NOTHING
    if stimulus != STIMULUS_REQUEST:
        action, deadline_ns = tell(state, exchange, stimulus, value, reset)
        return act(state, exchange, action, deadline_ns)
    follow_up = _forward(state, exchange, state.exchanges["route"][exchange])
    if follow_up == FORWARDED:
        filters = state.routes["filters"][state.exchanges["route"][exchange]]
        start = state.filters["mirror_start"][filters]
        for number in range(state.filters["mirror_count"][filters]):
            _mirror(state, exchange, start + number, number)
    return follow_up


@kernel_jit
def _mirror(state: Any, exchange: int, mirror: int, number: int) -> None:
    """Send a copy of a request, if the coin of mirror `number` says so; nobody waits for it.

    The copy has draws of its own, and neither it nor what it causes is recorded as a request:
    it loads proxies and servers.  To send it costs the worker one pass, as a retry does.
    """
    exchanges = state.exchanges
    key = mirror_key(exchanges["key"][exchange], number)
    if not is_mirrored(state.mirrors, mirror, key):
        return
    proxy = exchanges["proxy"][exchange]
    call_row = exchanges["call"][exchange]
    copy = start_exchange(state, proxy, call_row, exchanges["traffic"][exchange], MIRROR)
    state.proxies["requests"][proxy] -= 1  # the proxy received one request
    exchanges["flags"][copy] = 0
    exchanges["number"][copy] = exchanges["number"][exchange]
    exchanges["key"][copy] = key
    exchanges["deadline_ns"][copy] = exchanges["deadline_ns"][exchange]
    exchanges["route"][copy] = state.mirrors["route"][mirror]
    first = state.proxies["cluster_start"][proxy]
    exchanges["cluster"][copy] = first + state.mirrors["cluster"][mirror]
    tell(state, copy, STIMULUS_REQUEST, 0, RESET_NONE)
    invoke(state, KEEP_DEADLINE, copy, 0)
    if state.proxies["costs"][proxy] == 1 and state.proxies["container"][proxy] == NO_INDEX:
        charge_pass(state, proxy, 0)
    what = pack(ROUTE, copy, exchanges["generation"][copy])
    schedule(state, state.counters["now_ns"][0], what)


@kernel_jit_inline
def send(state: Any, exchange: int) -> int:
    """Send one try: pick a host, get a connection; return the follow-up."""
    exchanges = state.exchanges
    attempts = state.attempts
    cluster = exchanges["cluster"][exchange]
    if state.clusters["health"][cluster] != NO_INDEX:
        invoke(state, HEALTH_DUE, cluster, 0)
    host = choose_host(state, exchange, cluster)
    if host == NO_HOST:
        return int(invoke(state, STIMULATE, exchange, STIMULUS_NO_HOST))
    pool = host
    if state.hosts["cluster"][host] != cluster:
        pool = state.high_hosts[host]
    watched = state.clusters["health"][state.hosts["cluster"][host]] != NO_INDEX
    if watched:
        invoke(state, HEALTH_PICKED, host, 0)
    attempt = take_attempt(state)
    attempts["exchange"][attempt] = exchange
    attempts["host"][attempt] = host
    attempts["pool"][attempt] = pool
    attempts["endpoint"][attempt] = state.hosts["endpoint"][host]
    attempts["try_number"][attempt] = exchanges["retry_count"][exchange]
    attempts["previous"][attempt] = exchanges["attempt"][exchange]
    attempts["sent_ns"][attempt] = NOT_SENT
    connection = take_idle(state, pool)
    if connection == NO_INDEX:
        connection = connect_or_wait(state, pool, attempt)
    if connection == OVERFLOW:
        free_attempt(state, attempt)
        if watched:
            invoke(state, HEALTH_DROPPED, host, 0)
        return int(invoke(state, STIMULATE, exchange, STIMULUS_OVERFLOW))
    exchanges["attempt"][exchange] = attempt
    exchanges["attempts_active"][exchange] += 1
    if connection == NO_INDEX:
        join_pending(state, pool, attempt)
        if state.hosts["requests_pending"][pool] > 1:
            invoke(state, CONNECT, pool, attempt)
        return NOTHING
    if not can_send_request(state.clusters, cluster, state.configs):
        exchanges["attempts_active"][exchange] -= 1
        attempts["state"][attempt] = ATTEMPT_ENDED
        release_connection(state, pool, connection)
        if watched:
            invoke(state, HEALTH_DROPPED, host, 0)
        return int(invoke(state, STIMULATE, exchange, STIMULUS_OVERFLOW))
    return transmit(state, attempt, connection)


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
    exchanges["attempts_active"][exchange] -= 1
    attempts["state"][attempt] = ATTEMPT_ENDED
    host = attempts["host"][attempt]
    if state.clusters["health"][state.hosts["cluster"][host]] != NO_INDEX:
        known = status if reset == RESET_NONE else 0
        report_result(state, host, known, reset)
    others = exchanges["attempts_active"][exchange] > 0
    if others or attempts["try_number"][attempt] != exchanges["retry_count"][exchange]:
        return int(invoke(state, DONE_BESIDE, attempt, 0))
    # The machine hears of the outcome before the try is discounted: a retry budget counts it.
    stimulus = STIMULUS_RESPONSE if reset <= RESET_NONE else STIMULUS_RESET
    told = attempts["reset_told"][attempt]
    if told != NOT_TOLD:
        invoke(state, HEAR_RESET, attempt, 0)
    action, deadline_ns = tell(state, exchange, stimulus, status, reset)
    if told != NOT_TOLD:
        exchanges["reset_interval_ns"][exchange] = 0
    settle(state, attempt, status >= 500 or reset > RESET_NONE)
    if action == ACTION_RESPOND:
        return finish(state, exchange)
    return act(state, exchange, action, deadline_ns)


@kernel_jit
def retry(state: Any, exchange: int) -> int:
    """The back-off of `exchange` has ended: send another try; return the follow-up."""
    tell(state, exchange, STIMULUS_BACK_OFF_EXPIRED, 0, RESET_NONE)
    return send_again(state, exchange)


@kernel_jit_inline
def finish(state: Any, exchange: int) -> int:
    """Deliver the outcome of `exchange` to whoever asked; return the follow-up."""
    exchanges = state.exchanges
    tasks = state.tasks
    if exchanges["timer"][exchange] != NO_INDEX:
        stop_timer(state.timers, exchanges, exchange)
    if exchanges["attempts_active"][exchange] > 0:
        invoke(state, ABANDON, exchange, 0)
    filtered = exchanges["flags"][exchange] & _FILTERED != 0
    if filtered and invoke(state, LEAVE_FILTERS, exchange, 0) != 0:
        return NOTHING
    record_exchange(state, exchange)
    parent = exchanges["parent"][exchange]
    status = exchanges["status"][exchange]
    follow_up = NOTHING
    if parent == NO_INDEX:
        record_root(state, exchange)
    elif (
        parent != MIRROR and tasks["generation"][parent] == exchanges["parent_generation"][exchange]
    ):
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
