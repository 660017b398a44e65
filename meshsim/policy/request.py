"""The per-request machine: what a routing proxy does next with one request.

Rule: an exchange (one request at one routing proxy) is in one of six states; a *stimulus*
(the request is routed, a response, a reset, a timeout, ...) moves it to another and yields
one *action* for whoever runs the machine.  `TRANSITIONS` is the whole of the legal behaviour;
a pair that is not in it is a bug of the caller and yields `ACTION_INVALID`, changing nothing.

How the pieces compose, as Envoy's router does it:

- The route timeout starts with STIMULUS_REQUEST and covers all tries and back-offs: 504, UT.
- A try that fails retriably (`meshsim.policy.retry`) is followed by another after a back-off,
  if retries remain and then if the retry circuit breaker allows.  A retry occupies the
  breaker from the decision until its own outcome; the breaker is asked after the previous
  retry of the same request has left it.  A retry that the breaker refused is used up.
- A response that is not retried goes down as it is; flag URX if it was retriable and no
  retries remained, UO if the retry breaker refused.  A try without response ends as 503 UF
  (connection failure), UC (closed by the upstream), UR (refused stream), UO (circuit breaker),
  UH (no healthy host), or 504 UT (per-try timeout).  Envoy would report such a cause *and*
  URX or UO; an exchange has one flag, and the cause is kept.
- No route is 404 NR, no cluster 503 NC, a direct response is itself.
- Before a request is forwarded its filters may delay it, abort it (flag FI) or find it over a
  limit (flag RL); none of these is retried, and no timeout runs meanwhile.  A delayed request
  that ends without another flag has DI.

Who does what.  Before STIMULUS_REQUEST the caller sets `state` = EXCHANGE_ROUTING, `response_flag`
= FLAG_NONE, `route` and `cluster` (`NO_INDEX` if none).  `step` writes of the exchange only
state, status, response_flag, retries_remaining, retry_count, retry_held and deadline_ns, and of
the cluster only retries_active, retries_total and retry_overflow.  Attempts, connections,
timers, hosts and every other count are the caller's.  A retry budget looks at the active
requests: tell `step` of the outcome before the ended try is discounted, as Envoy does.

The machine knows no clock, no socket and no host.

References
----------
Envoy, source/common/router/router.cc (onUpstreamHeaders, onUpstreamReset, onPerTryTimeout,
onResponseTimeout, maybeRetryReset, doRetry, streamResetReasonToResponseFlag);
source/common/router/retry_state_impl.cc (shouldRetry, resetRetry).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from meshsim.jit import kernel_jit, kernel_jit_inline
from meshsim.policy.circuit_breakers import can_retry, on_retry_ended, on_retry_started
from meshsim.policy.retry import back_off_ns, retry_allowed
from meshsim.policy.timeout import deadline_after, per_try_deadline_ns, route_deadline_ns
from meshsim.rng import next_uniform
from meshsim.state.codes import (
    FLAG_DC,
    FLAG_DI,
    FLAG_FI,
    FLAG_NC,
    FLAG_NONE,
    FLAG_NR,
    FLAG_RL,
    FLAG_UC,
    FLAG_UF,
    FLAG_UH,
    FLAG_UO,
    FLAG_UR,
    FLAG_URX,
    FLAG_UT,
    NEVER_NS,
    RESET_CONNECT_FAILURE,
    RESET_NO_HOST,
    RESET_NONE,
    RESET_OVERFLOW,
    RESET_PER_TRY_TIMEOUT,
    RESET_REFUSED_STREAM,
    RESET_REMOTE,
)
from meshsim.state.exchange import (
    EXCHANGE_ATTEMPTING,
    EXCHANGE_BACKING_OFF,
    EXCHANGE_DELAYED,
    EXCHANGE_FREE,
    EXCHANGE_RESPONDING,
    EXCHANGE_ROUTING,
    EXCHANGE_STATE_COUNT,
)

__all__ = [
    "ACTION_ABANDON",
    "ACTION_BACK_OFF",
    "ACTION_DELAY",
    "ACTION_INVALID",
    "ACTION_NAMES",
    "ACTION_NONE",
    "ACTION_RESPOND",
    "ACTION_SEND",
    "STATE_NAMES",
    "STIMULUS_BACK_OFF_EXPIRED",
    "STIMULUS_COUNT",
    "STIMULUS_DELAY_EXPIRED",
    "STIMULUS_DOWNSTREAM_RESET",
    "STIMULUS_FAULT_ABORT",
    "STIMULUS_FAULT_DELAY",
    "STIMULUS_NAMES",
    "STIMULUS_NO_HOST",
    "STIMULUS_OVERFLOW",
    "STIMULUS_PER_TRY_TIMEOUT",
    "STIMULUS_RATE_LIMITED",
    "STIMULUS_REQUEST",
    "STIMULUS_RESET",
    "STIMULUS_RESPONSE",
    "STIMULUS_ROUTE_TIMEOUT",
    "TRANSITIONS",
    "Transition",
    "step",
    "transitions_mermaid",
]

# --- Stimuli: what happened ------------------------------------------------------------------

STIMULUS_REQUEST = 0  # the request is complete and routed
# `status`; reset = RESET_OVERFLOW if marked x-envoy-overloaded, or RESET_RATELIMITED
STIMULUS_RESPONSE = 1
STIMULUS_RESET = 2  # `reset`: the try ended without a response
STIMULUS_PER_TRY_TIMEOUT = 3  # the caller has already given the try up
STIMULUS_ROUTE_TIMEOUT = 4
STIMULUS_BACK_OFF_EXPIRED = 5
STIMULUS_OVERFLOW = 6  # a circuit breaker refused the try
STIMULUS_NO_HOST = 7  # no selectable host for the try
STIMULUS_DOWNSTREAM_RESET = 8  # whoever asked is gone
STIMULUS_FAULT_DELAY = 9  # a filter holds the request back; `status`: for how long [ns]
STIMULUS_DELAY_EXPIRED = 10
STIMULUS_FAULT_ABORT = 11  # a filter answers with `status`
STIMULUS_RATE_LIMITED = 12  # the request is over a limit; `status`
STIMULUS_COUNT = 13
STIMULUS_NAMES = (
    "REQUEST",
    "RESPONSE",
    "RESET",
    "PER_TRY_TIMEOUT",
    "ROUTE_TIMEOUT",
    "BACK_OFF_EXPIRED",
    "OVERFLOW",
    "NO_HOST",
    "DOWNSTREAM_RESET",
    "FAULT_DELAY",
    "DELAY_EXPIRED",
    "FAULT_ABORT",
    "RATE_LIMITED",
)

# --- Actions: what the caller must do --------------------------------------------------------

ACTION_INVALID = -1  # no such transition: a bug of the caller
ACTION_NONE = 0
ACTION_SEND = 1  # pick a host and send a try; deadline: its per-try timeout
ACTION_BACK_OFF = 2  # do nothing until the deadline, then STIMULUS_BACK_OFF_EXPIRED
ACTION_RESPOND = 3  # send `status` and `response_flag` of the exchange down; give up live tries
ACTION_ABANDON = 4  # nobody waits: give up live tries and free the exchange
ACTION_DELAY = 5  # do nothing until the deadline, then STIMULUS_DELAY_EXPIRED
ACTION_NAMES = ("NONE", "SEND", "BACK_OFF", "RESPOND", "ABANDON", "DELAY")

STATE_NAMES = ("FREE", "ROUTING", "ATTEMPTING", "BACKING_OFF", "RESPONDING", "DELAYED")

# --- The table -------------------------------------------------------------------------------

_INVALID = 0
_ROUTED = 1
_ANSWERED = 2
_FAILED = 3
_TIMED_OUT = 4
_RETRY_DUE = 5
_DOWNSTREAM_GONE = 6
_HELD_BACK = 7
_LET_GO = 8
_REFUSED = 9


class Transition(NamedTuple):
    """One legal pair of state and stimulus.

    Parameters
    ----------
    state, stimulus : int
        `EXCHANGE_*` and `STIMULUS_*` codes.
    handler : int
        Which handler of this module decides.
    next_states : tuple of int
        Every state the exchange may be in afterwards.
    """

    state: int
    stimulus: int
    handler: int
    next_states: tuple[int, ...]


_RETRY_OR_RESPOND = (EXCHANGE_BACKING_OFF, EXCHANGE_RESPONDING)
_RESPOND_ONLY = (EXCHANGE_RESPONDING,)

#: All legal behaviour; whatever is missing is a bug of the caller.
TRANSITIONS = tuple(
    Transition(*row)
    for row in (
        (
            EXCHANGE_ROUTING,
            STIMULUS_REQUEST,
            _ROUTED,
            (EXCHANGE_ATTEMPTING, EXCHANGE_RESPONDING),
        ),
        (EXCHANGE_ROUTING, STIMULUS_DOWNSTREAM_RESET, _DOWNSTREAM_GONE, (EXCHANGE_FREE,)),
        (EXCHANGE_ROUTING, STIMULUS_FAULT_DELAY, _HELD_BACK, (EXCHANGE_DELAYED,)),
        (EXCHANGE_ROUTING, STIMULUS_FAULT_ABORT, _REFUSED, _RESPOND_ONLY),
        (EXCHANGE_ROUTING, STIMULUS_RATE_LIMITED, _REFUSED, _RESPOND_ONLY),
        (EXCHANGE_DELAYED, STIMULUS_DELAY_EXPIRED, _LET_GO, (EXCHANGE_ROUTING,)),
        (EXCHANGE_DELAYED, STIMULUS_DOWNSTREAM_RESET, _DOWNSTREAM_GONE, (EXCHANGE_FREE,)),
        (EXCHANGE_ATTEMPTING, STIMULUS_RESPONSE, _ANSWERED, _RETRY_OR_RESPOND),
        (EXCHANGE_ATTEMPTING, STIMULUS_RESET, _FAILED, _RETRY_OR_RESPOND),
        (EXCHANGE_ATTEMPTING, STIMULUS_PER_TRY_TIMEOUT, _FAILED, _RETRY_OR_RESPOND),
        (EXCHANGE_ATTEMPTING, STIMULUS_OVERFLOW, _FAILED, _RESPOND_ONLY),
        (EXCHANGE_ATTEMPTING, STIMULUS_NO_HOST, _FAILED, _RESPOND_ONLY),
        (EXCHANGE_ATTEMPTING, STIMULUS_ROUTE_TIMEOUT, _TIMED_OUT, _RESPOND_ONLY),
        (EXCHANGE_ATTEMPTING, STIMULUS_DOWNSTREAM_RESET, _DOWNSTREAM_GONE, (EXCHANGE_FREE,)),
        (EXCHANGE_BACKING_OFF, STIMULUS_BACK_OFF_EXPIRED, _RETRY_DUE, (EXCHANGE_ATTEMPTING,)),
        (EXCHANGE_BACKING_OFF, STIMULUS_ROUTE_TIMEOUT, _TIMED_OUT, _RESPOND_ONLY),
        (EXCHANGE_BACKING_OFF, STIMULUS_DOWNSTREAM_RESET, _DOWNSTREAM_GONE, (EXCHANGE_FREE,)),
        (EXCHANGE_RESPONDING, STIMULUS_DOWNSTREAM_RESET, _DOWNSTREAM_GONE, (EXCHANGE_FREE,)),
    )
)


def _handler_table() -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    table = np.full(EXCHANGE_STATE_COUNT * STIMULUS_COUNT, _INVALID, np.int64)
    for row in TRANSITIONS:
        table[row.state * STIMULUS_COUNT + row.stimulus] = row.handler
    return table


#: Handler by state * STIMULUS_COUNT + stimulus; a constant of the compiled code.
_HANDLERS = _handler_table()


def transitions_mermaid() -> str:
    """Return `TRANSITIONS` as the text of a Mermaid state diagram."""
    lines = ["stateDiagram-v2", f"    [*] --> {STATE_NAMES[EXCHANGE_ROUTING]}"]
    lines += [
        f"    {STATE_NAMES[row.state]} --> "
        f"{'[*]' if after == EXCHANGE_FREE else STATE_NAMES[after]} : "
        f"{STIMULUS_NAMES[row.stimulus]}"
        for row in TRANSITIONS
        for after in row.next_states
    ]
    lines.append(f"    {STATE_NAMES[EXCHANGE_RESPONDING]} --> [*] : delivered")
    return "\n".join(lines) + "\n"


# --- Handlers --------------------------------------------------------------------------------


@kernel_jit_inline
def _respond(exchanges: Any, exchange: int, status: int, flag: int) -> tuple[int, int]:
    exchanges["state"][exchange] = EXCHANGE_RESPONDING
    exchanges["status"][exchange] = status
    if flag != FLAG_NONE:  # else that of a delay stays
        exchanges["response_flag"][exchange] = flag
    return ACTION_RESPOND, NEVER_NS


@kernel_jit_inline
def _release_retry(exchanges: Any, exchange: int, clusters: Any) -> None:
    """Let the retry of this exchange leave the retry circuit breaker, if it holds a place."""
    if exchanges["retry_held"][exchange] != 0:
        exchanges["retry_held"][exchange] = 0
        on_retry_ended(clusters, exchanges["cluster"][exchange])


@kernel_jit_inline
def _on_routed(exchanges: Any, exchange: int, routes: Any, now_ns: int) -> tuple[int, int]:
    route = exchanges["route"][exchange]
    exchanges["retry_count"][exchange] = 0
    exchanges["retry_held"][exchange] = 0
    exchanges["deadline_ns"][exchange] = NEVER_NS
    if route < 0:
        return _respond(exchanges, exchange, 404, FLAG_NR)
    if routes["direct_response"][route] != 0:
        return _respond(exchanges, exchange, routes["direct_response"][route], FLAG_NONE)
    if exchanges["cluster"][exchange] < 0:
        return _respond(exchanges, exchange, 503, FLAG_NC)
    exchanges["status"][exchange] = 0
    exchanges["retries_remaining"][exchange] = routes["num_retries"][route]
    exchanges["deadline_ns"][exchange] = route_deadline_ns(routes, route, now_ns)
    exchanges["state"][exchange] = EXCHANGE_ATTEMPTING
    return ACTION_SEND, per_try_deadline_ns(routes, route, now_ns)


@kernel_jit
def _retry_or_respond(
    exchanges: Any,
    exchange: int,
    routes: Any,
    clusters: Any,
    configs: Any,
    retriable: bool,
    status: int,
    flag: int,
    now_ns: int,
    rng: Any,
) -> tuple[int, int]:
    """Follow a try that ended with `status` and `flag` by another, or answer with them."""
    _release_retry(exchanges, exchange, clusters)
    if not retriable:
        return _respond(exchanges, exchange, status, flag)
    if exchanges["retries_remaining"][exchange] <= 0:
        return _respond(exchanges, exchange, status, flag if flag != FLAG_NONE else FLAG_URX)
    exchanges["retries_remaining"][exchange] -= 1
    cluster = exchanges["cluster"][exchange]
    if not can_retry(clusters, cluster, configs):
        return _respond(exchanges, exchange, status, flag if flag != FLAG_NONE else FLAG_UO)
    on_retry_started(clusters, cluster)
    exchanges["retry_held"][exchange] = 1
    exchanges["retry_count"][exchange] += 1
    exchanges["state"][exchange] = EXCHANGE_BACKING_OFF
    retry_number = exchanges["retry_count"][exchange]
    route = exchanges["route"][exchange]
    return ACTION_BACK_OFF, now_ns + back_off_ns(routes, route, retry_number, next_uniform(rng))


@kernel_jit_inline
def _reset_of(stimulus: int, reset: int) -> int:
    """Return the reset that a failed try's `stimulus` stands for."""
    if stimulus == STIMULUS_PER_TRY_TIMEOUT:
        return RESET_PER_TRY_TIMEOUT
    if stimulus == STIMULUS_OVERFLOW:
        return RESET_OVERFLOW
    if stimulus == STIMULUS_NO_HOST:
        return RESET_NO_HOST
    return RESET_REMOTE if reset == RESET_NONE else reset


@kernel_jit_inline
def _flag_of(reset: int) -> int:
    """Return the response flag of a request that ends with `reset`."""
    if reset == RESET_CONNECT_FAILURE:
        return FLAG_UF
    if reset == RESET_REFUSED_STREAM:
        return FLAG_UR
    if reset == RESET_PER_TRY_TIMEOUT:
        return FLAG_UT
    if reset == RESET_OVERFLOW:
        return FLAG_UO
    return FLAG_UH if reset == RESET_NO_HOST else FLAG_UC


@kernel_jit
def _step_rarely(
    exchanges: Any,
    exchange: int,
    routes: Any,
    codes: Any,
    clusters: Any,
    configs: Any,
    handler: int,
    stimulus: int,
    status: int,
    reset: int,
    now_ns: int,
    rng: Any,
) -> tuple[int, int]:
    """Handle everything that is not on the path of a request without trouble."""
    if handler == _ANSWERED:
        retriable = retry_allowed(routes, exchanges["route"][exchange], codes, status, reset)
        return _retry_or_respond(
            exchanges,
            exchange,
            routes,
            clusters,
            configs,
            retriable,
            status,
            FLAG_NONE,
            now_ns,
            rng,
        )
    if handler == _FAILED:
        cause = _reset_of(stimulus, reset)
        retriable = retry_allowed(routes, exchanges["route"][exchange], codes, 0, cause)
        status = 504 if cause == RESET_PER_TRY_TIMEOUT else 503
        flag = _flag_of(cause)
        return _retry_or_respond(
            exchanges, exchange, routes, clusters, configs, retriable, status, flag, now_ns, rng
        )
    if handler == _RETRY_DUE:
        exchanges["state"][exchange] = EXCHANGE_ATTEMPTING
        return ACTION_SEND, per_try_deadline_ns(routes, exchanges["route"][exchange], now_ns)
    if handler == _TIMED_OUT:
        _release_retry(exchanges, exchange, clusters)
        return _respond(exchanges, exchange, 504, FLAG_UT)
    if handler == _DOWNSTREAM_GONE:
        _release_retry(exchanges, exchange, clusters)
        exchanges["response_flag"][exchange] = FLAG_DC
        exchanges["state"][exchange] = EXCHANGE_FREE
        return ACTION_ABANDON, NEVER_NS
    if handler == _HELD_BACK:
        exchanges["response_flag"][exchange] = FLAG_DI
        exchanges["state"][exchange] = EXCHANGE_DELAYED
        return ACTION_DELAY, deadline_after(now_ns, status)
    if handler == _LET_GO:
        exchanges["state"][exchange] = EXCHANGE_ROUTING
        return ACTION_NONE, NEVER_NS
    if handler == _REFUSED:
        flag = FLAG_RL if stimulus == STIMULUS_RATE_LIMITED else FLAG_FI
        return _respond(exchanges, exchange, status, flag)
    return ACTION_INVALID, NEVER_NS


@kernel_jit_inline
def step(
    exchanges: Any,
    exchange: int,
    routes: Any,
    codes: Any,
    clusters: Any,
    configs: Any,
    stimulus: int,
    status: int,
    reset: int,
    now_ns: int,
    rng: Any,
) -> tuple[int, int]:
    """Apply `stimulus` to an exchange and return what to do next.

    Parameters
    ----------
    exchanges : ndarray[EXCHANGE_DTYPE], shape (n_exchanges,)
        Row `exchange` is modified in place.
    exchange : int
        Row of `exchanges`.
    routes : ndarray[ROUTE_DTYPE], shape (n_routes,)
        Read only.
    codes : ndarray[int32], shape (n_codes,)
        Retriable status codes of all routes.  Read only.
    clusters : ndarray[CLUSTER_DTYPE], shape (n_clusters,)
        Row of the exchange's cluster is modified in place (retries only).
    configs : ndarray[CLUSTER_CONFIG_DTYPE], shape (n_configs,)
        Read only.
    stimulus : int
        `STIMULUS_*` code.
    status : int
        Status of the response, for STIMULUS_RESPONSE, STIMULUS_FAULT_ABORT and
        STIMULUS_RATE_LIMITED; how long, for STIMULUS_FAULT_DELAY [ns]; else ignored.
    reset : int
        `RESET_*` code, for STIMULUS_RESET; with STIMULUS_RESPONSE RESET_OVERFLOW if the
        response is marked ``x-envoy-overloaded`` and RESET_RATELIMITED if it is marked
        ``x-envoy-ratelimited``; else `RESET_NONE`.
    now_ns : int
        Current time of the caller's clock [ns].
    rng : ndarray[uint64], shape (2,)
        Stream for back-offs.  Advanced in place when a retry is decided on.

    Returns
    -------
    action : int
        `ACTION_*` code.
    deadline_ns : int
        ACTION_SEND: when the try times out, if it gets its connection now (one that waits
        asks `meshsim.policy.timeout.per_try_deadline_ns` when it gets one); ACTION_BACK_OFF:
        when the back-off ends; else `NEVER_NS` [ns].  The deadline of the whole is in
        ``exchanges["deadline_ns"]``.

    Notes
    -----
    O(1), except for the list of retriable status codes.  Retries use `retry_count` as their
    number; the host-selection attempts within one try are the caller's.
    """
    handler = _HANDLERS[exchanges["state"][exchange] * STIMULUS_COUNT + stimulus]
    if handler == _ROUTED:
        action, deadline_ns = _on_routed(exchanges, exchange, routes, now_ns)
    elif handler == _ANSWERED and not (
        exchanges["retry_held"][exchange] != 0
        or retry_allowed(routes, exchanges["route"][exchange], codes, status, reset)
    ):
        action, deadline_ns = _respond(exchanges, exchange, status, FLAG_NONE)
    else:
        action, deadline_ns = _step_rarely(
            exchanges,
            exchange,
            routes,
            codes,
            clusters,
            configs,
            handler,
            stimulus,
            status,
            reset,
            now_ns,
            rng,
        )
    return action, deadline_ns
