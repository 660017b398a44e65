"""The per-request machine: what a routing proxy does next with one request.

Rule: an exchange (one request at one routing proxy) is in one of six states; a *stimulus*
(the request is routed, a response, a reset, a timeout, ...) moves it to another and yields
one *action* for whoever runs the machine.  `meshsim.policy.transitions.TRANSITIONS` is the whole
of the legal behaviour; a pair that is not in it is a bug of the caller and yields
`ACTION_INVALID`, changing nothing.

How the pieces compose, as Envoy's router does it:

- The route timeout starts with STIMULUS_REQUEST and covers all tries and back-offs: 504, UT.
  A deadline that the request brings may end it earlier, or let it end at once.
- A try that fails retriably (`meshsim.policy.retry`) is followed by another after a back-off,
  if retries remain, then if the retry circuit breaker allows, then if the throttling does
  (`meshsim.policy.retry_throttling`).  A retry occupies the breaker from the decision until its
  own outcome; the breaker is asked after the previous retry of the same request has left it.  A
  retry that was refused is used up.
- Where the route hedges (`meshsim.policy.hedging`) several tries may be under way; the end of
  one then may wait for the others (ACTION_NONE).  A retry that Envoy's hedging wants and does
  not get leaves its flag, URX or UO, on the answer, however good that is.
- A response that is not retried goes down as it is; flag URX if it was retriable and no
  retries remained, UO if the retry breaker refused.  A try without response ends as 503 UF
  (connection failure), UC (closed by the upstream), UR (refused stream), UO (circuit breaker),
  UH (no healthy host), or 504 UT (per-try timeout).  Envoy would report such a cause *and*
  URX or UO; an exchange has one flag, and the cause is kept.
- No route is 404 NR, no cluster 503 NC, a direct response is itself, a custom admission UO.
- Before a request is forwarded its filters may delay it, abort it (flag FI) or find it over a
  limit (flag RL, or RLSE if a rate limit service failed); none of these is retried, and no
  timeout runs meanwhile.  A delayed request
  that ends without another flag has DI.

Who does what.  Before STIMULUS_REQUEST the caller sets `state` = EXCHANGE_ROUTING, `response_flag`
= FLAG_NONE, `route` and `cluster` (`NO_INDEX` if none), and in `deadline_ns` the deadline that
the request brings, or NEVER_NS (`meshsim.policy.timeout`).  `step` writes of the exchange only
state, status, response_flag, retries_remaining, retry_count, retry_held, deadline_ns,
hedge_due_ns, back_off_ns and reset_interval_ns, and of the cluster only retries_active,
retries_total, retry_overflow and the counts of its third line.  Of these `retry_success` is
inferred as Envoy does: a retry ended so that no further one is wanted, however badly.
Before a response is told of, the caller writes in `reset_interval_ns` what its headers ask for
(`meshsim.policy.reset_headers`), if the route heeds any, and 0 before the first.
Attempts, connections, timers, hosts and every other count are the caller's.  On a route that
hedges the caller counts in `attempts_active` the tries under way, without the one that a
stimulus is about; if that is Envoy's hedging, it tells of a try that another has followed (its
number is below `retry_count`) by the EARLIER stimuli.  A retry budget looks at the active
requests: tell `step` of the outcome before the ended try is discounted, as Envoy does.

The machine knows no clock, no socket and no host.

References
----------
Envoy, source/common/router/router.cc (onUpstreamHeaders, onUpstreamReset, onPerTryTimeout,
onResponseTimeout, maybeRetryReset, doRetry, streamResetReasonToResponseFlag);
source/common/router/retry_state_impl.cc (shouldRetry, resetRetry).
"""

from __future__ import annotations

from typing import Any

from meshsim.jit import kernel_jit, kernel_jit_inline
from meshsim.policy.custom.decisions import admitted_status
from meshsim.policy.custom.entries import NO_FUNCTION
from meshsim.policy.hedging import plan_copy
from meshsim.policy.outcomes import (
    on_earlier_ended,
    on_hedge_due,
    on_soft_timeout,
    release_retry,
    respond,
    retry_or_respond,
)
from meshsim.policy.retry import retry_allowed
from meshsim.policy.retry_throttling import on_first_try, on_success
from meshsim.policy.timeout import deadline_after, per_try_deadline_ns, route_deadline_ns
from meshsim.policy.transitions import (
    ACTION_ABANDON,
    ACTION_DELAY,
    ACTION_INVALID,
    ACTION_NONE,
    ACTION_SEND,
    HANDLE_ANSWERED,
    HANDLE_DOWNSTREAM_GONE,
    HANDLE_EARLIER_FAILED,
    HANDLE_FAILED,
    HANDLE_HEDGE_DUE,
    HANDLE_HELD_BACK,
    HANDLE_INVALID,
    HANDLE_LET_GO,
    HANDLE_REFUSED,
    HANDLE_RETRY_DUE,
    HANDLE_ROUTED,
    HANDLE_SOFTLY_TIMED_OUT,
    HANDLE_TIMED_OUT,
    HANDLERS,
    STIMULUS_COUNT,
    STIMULUS_NO_HOST,
    STIMULUS_OVERFLOW,
    STIMULUS_PER_TRY_TIMEOUT,
    STIMULUS_RATE_LIMITED,
)
from meshsim.state.codes import (
    FLAG_DC,
    FLAG_DI,
    FLAG_FI,
    FLAG_NC,
    FLAG_NONE,
    FLAG_NR,
    FLAG_RL,
    FLAG_RLSE,
    FLAG_UC,
    FLAG_UF,
    FLAG_UH,
    FLAG_UO,
    FLAG_UR,
    FLAG_UT,
    HEDGE_AFTER_DELAY,
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
    EXCHANGE_DELAYED,
    EXCHANGE_FREE,
    EXCHANGE_ROUTING,
)

__all__ = ["step"]

# --- Handlers --------------------------------------------------------------------------------


@kernel_jit_inline
def _on_routed(
    exchanges: Any,
    exchange: int,
    routes: Any,
    clusters: Any,
    configs: Any,
    memory: Any,
    now_ns: int,
    rng: Any,
) -> tuple[int, int]:
    route = exchanges["route"][exchange]
    exchanges["retry_count"][exchange] = 0
    exchanges["retry_held"][exchange] = 0
    bound_ns = exchanges["deadline_ns"][exchange]
    exchanges["deadline_ns"][exchange] = NEVER_NS
    if route < 0:
        return respond(exchanges, exchange, 404, FLAG_NR)
    if routes["direct_response"][route] != 0:
        return respond(exchanges, exchange, routes["direct_response"][route], FLAG_NONE)
    cluster = exchanges["cluster"][exchange]
    if cluster < 0:
        return respond(exchanges, exchange, 503, FLAG_NC)
    if bound_ns <= now_ns:
        clusters["deadline_exceeded"][cluster] += 1
        return respond(exchanges, exchange, 504, FLAG_UT)
    refused = admitted_status(clusters, cluster, configs, memory, now_ns, rng)
    if refused != 0:
        return respond(exchanges, exchange, refused, FLAG_UO)
    on_first_try(clusters, cluster, configs, memory, now_ns)
    exchanges["status"][exchange] = 0
    exchanges["retries_remaining"][exchange] = routes["num_retries"][route]
    exchanges["deadline_ns"][exchange] = min(route_deadline_ns(routes, route, now_ns), bound_ns)
    exchanges["state"][exchange] = EXCHANGE_ATTEMPTING
    if routes["hedging"][route] == HEDGE_AFTER_DELAY:
        plan_copy(exchanges, exchange, routes, route, now_ns)
    return ACTION_SEND, per_try_deadline_ns(routes, route, now_ns)


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
def _step_filtered(
    exchanges: Any,
    exchange: int,
    handler: int,
    stimulus: int,
    status: int,
    reset: int,
    now_ns: int,
) -> tuple[int, int]:
    """Handle what a filter has decided."""
    if handler == HANDLE_HELD_BACK:
        exchanges["response_flag"][exchange] = FLAG_DI
        exchanges["state"][exchange] = EXCHANGE_DELAYED
        return ACTION_DELAY, deadline_after(now_ns, status)
    if handler == HANDLE_LET_GO:
        exchanges["state"][exchange] = EXCHANGE_ROUTING
        return ACTION_NONE, NEVER_NS
    flag = FLAG_RL if stimulus == STIMULUS_RATE_LIMITED else FLAG_FI
    if reset != RESET_NONE:
        flag = FLAG_RLSE
    return respond(exchanges, exchange, status, flag)


@kernel_jit
def _step_hedged(
    exchanges: Any,
    exchange: int,
    routes: Any,
    codes: Any,
    clusters: Any,
    configs: Any,
    memory: Any,
    handler: int,
    status: int,
    reset: int,
    now_ns: int,
    rng: Any,
) -> tuple[int, int]:
    """Handle what happens only where tries go side by side."""
    if handler == HANDLE_SOFTLY_TIMED_OUT:
        return on_soft_timeout(exchanges, exchange, routes, clusters, configs, memory, now_ns, rng)
    if handler == HANDLE_HEDGE_DUE:
        return on_hedge_due(exchanges, exchange, routes, clusters, configs, memory, now_ns)
    bad = True
    flag = FLAG_NONE
    if handler == HANDLE_EARLIER_FAILED:
        status = 503
        flag = _flag_of(reset)
    elif routes["custom_retry"][exchanges["route"][exchange]] == NO_FUNCTION:
        bad = retry_allowed(routes, exchanges["route"][exchange], codes, status, reset)
    else:
        bad = status >= 500
    return on_earlier_ended(exchanges, exchange, clusters, configs, memory, bad, status, flag)


@kernel_jit
def _step_rarely(
    exchanges: Any,
    exchange: int,
    routes: Any,
    codes: Any,
    clusters: Any,
    configs: Any,
    memory: Any,
    handler: int,
    stimulus: int,
    status: int,
    reset: int,
    now_ns: int,
    rng: Any,
) -> tuple[int, int]:
    """Handle everything that is not on the path of a request without trouble."""
    if handler in (HANDLE_ANSWERED, HANDLE_FAILED):
        flag = FLAG_NONE
        if handler == HANDLE_FAILED:
            reset = _reset_of(stimulus, reset)
            status = 504 if reset == RESET_PER_TRY_TIMEOUT else 503
            flag = _flag_of(reset)
            if reset == RESET_PER_TRY_TIMEOUT:
                clusters["per_try_timeouts"][exchanges["cluster"][exchange]] += 1
        return retry_or_respond(
            exchanges,
            exchange,
            routes,
            clusters,
            configs,
            memory,
            retry_allowed(routes, exchanges["route"][exchange], codes, status, reset),
            reset,
            status,
            flag,
            now_ns,
            rng,
        )
    if handler == HANDLE_RETRY_DUE:
        exchanges["state"][exchange] = EXCHANGE_ATTEMPTING
        return ACTION_SEND, per_try_deadline_ns(routes, exchanges["route"][exchange], now_ns)
    if handler == HANDLE_TIMED_OUT:
        release_retry(exchanges, exchange, clusters)
        clusters["timeouts"][exchanges["cluster"][exchange]] += 1
        return respond(exchanges, exchange, 504, FLAG_UT)
    if handler == HANDLE_DOWNSTREAM_GONE:
        release_retry(exchanges, exchange, clusters)
        exchanges["response_flag"][exchange] = FLAG_DC
        exchanges["state"][exchange] = EXCHANGE_FREE
        return ACTION_ABANDON, NEVER_NS
    if handler in (HANDLE_HELD_BACK, HANDLE_LET_GO, HANDLE_REFUSED):
        return _step_filtered(exchanges, exchange, handler, stimulus, status, reset, now_ns)
    if handler == HANDLE_INVALID:
        return ACTION_INVALID, NEVER_NS
    return _step_hedged(
        exchanges,
        exchange,
        routes,
        codes,
        clusters,
        configs,
        memory,
        handler,
        status,
        _reset_of(stimulus, reset) if handler == HANDLE_EARLIER_FAILED else reset,
        now_ns,
        rng,
    )


@kernel_jit_inline
def step(
    exchanges: Any,
    exchange: int,
    routes: Any,
    codes: Any,
    clusters: Any,
    configs: Any,
    memory: Any,
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
    memory : ndarray[float64], shape (n_floats,)
        What custom policies of all clusters remember.  Modified in place by these.
    stimulus : int
        `STIMULUS_*` code.
    status : int
        Status of the response, for STIMULUS_RESPONSE, STIMULUS_EARLIER_RESPONSE,
        STIMULUS_FAULT_ABORT and STIMULUS_RATE_LIMITED; how long, for STIMULUS_FAULT_DELAY
        [ns]; else ignored.
    reset : int
        `RESET_*` code, for STIMULUS_RESET and STIMULUS_EARLIER_RESET; with a response
        RESET_RATELIMITED if it is marked ``x-envoy-ratelimited``; with STIMULUS_RATE_LIMITED
        RESET_REMOTE if the rate limit service failed; else `RESET_NONE`.
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
        ``exchanges["deadline_ns"]``; when the next copy is due, if the route hedges after a
        delay, in ``exchanges["hedge_due_ns"]``.

    Notes
    -----
    O(1), except for the list of retriable status codes.  Retries use `retry_count` as their
    number; the host-selection attempts within one try are the caller's.
    """
    handler = HANDLERS[exchanges["state"][exchange] * STIMULUS_COUNT + stimulus]
    if handler == HANDLE_ROUTED:
        action, deadline_ns = _on_routed(
            exchanges, exchange, routes, clusters, configs, memory, now_ns, rng
        )
    elif handler == HANDLE_ANSWERED and not (
        exchanges["retry_held"][exchange] != 0
        or retry_allowed(routes, exchanges["route"][exchange], codes, status, reset)
    ):
        if status < 500:
            on_success(clusters, exchanges["cluster"][exchange], configs, memory)
        action, deadline_ns = respond(exchanges, exchange, status, FLAG_NONE)
    else:
        action, deadline_ns = _step_rarely(
            exchanges,
            exchange,
            routes,
            codes,
            clusters,
            configs,
            memory,
            handler,
            stimulus,
            status,
            reset,
            now_ns,
            rng,
        )
    return action, deadline_ns
