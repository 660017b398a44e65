"""Filters of a proxy: what may hold a request back, refuse it, copy it, or slow its answer.

Rule: `meshsim.policy.fault` and `meshsim.policy.rate_limit` decide; the request machine is told
(`meshsim.kernel.requests`).  The order is Envoy's: delay, abort, local rate limit, the global one,
router; the
mirrors of a route are sent when its request is forwarded.  An inbound proxy looks at its local
rate limit, then at its adaptive concurrency limit, when the request has passed it, and answers
at once, without another pass.  A request has its place within the latter until the server
answers, or until the proxy hears that the caller has given up.

An exchange that holds a place among the active faults, or whose response may be slowed, says
so in its flags; only such a one is looked at again when it ends.
"""

from __future__ import annotations

from typing import Any

from meshsim.jit import kernel_jit
from meshsim.kernel.connection_limits import first_bucket_of
from meshsim.kernel.draws import draw_ns, draw_user
from meshsim.kernel.events import NOTHING, RELEASE, ROUTE, pack, schedule
from meshsim.policy.adaptive_concurrency import ADMITTED, may_pass, on_answered, on_given_up
from meshsim.policy.fault import NO_FAULT, abort_status, delay_ns, on_fault_ended, pace_ns
from meshsim.policy.global_rate_limit import (
    QUOTA_FAILED,
    QUOTA_OK,
    answer_in_time,
    count_request,
    take_answer,
    wait_for_service_ns,
)
from meshsim.policy.rate_limit import NOT_LIMITED, check_limit, seconds_until_reset
from meshsim.policy.reset_headers import limit_reset_told, retry_after_told, told_interval_ns
from meshsim.policy.transitions import (
    STIMULUS_FAULT_ABORT,
    STIMULUS_FAULT_DELAY,
    STIMULUS_RATE_LIMITED,
    STIMULUS_REQUEST,
)
from meshsim.rng import PURPOSE_QUOTA, mix_in
from meshsim.state.codes import NO_INDEX, RESET_NONE, RESET_RATELIMITED, RESET_REMOTE
from meshsim.state.exchange import HOLDS_FAULT, PACED
from meshsim.state.filters import DIRECTION_COUNT, INBOUND, OUTBOUND

__all__ = [
    "ANSWERED",
    "ASKED",
    "filter_inbound",
    "filter_outbound",
    "hear_reset",
    "leave_filters",
    "leave_gate",
    "release_fault",
]

#: In place of a generation: the attempt was answered.
ANSWERED = -1
#: In place of a stimulus.
ASKED = -1
#: In place of a status while a service is asked: this, less its answer.
_HEARD = -1


@kernel_jit
def filter_outbound(state: Any, exchange: int, delayed: bool) -> tuple[int, int, int]:
    """Send a routed request through the filters of its route.

    Parameters
    ----------
    delayed : bool
        Whether it has waited out a delay.

    Returns
    -------
    stimulus, value, reset : int
        What to tell the machine; STIMULUS_REQUEST: nothing held it back; ASKED: a rate limit
        service was asked, and the request is routed again when it has answered.
    """
    exchanges = state.exchanges
    if exchanges["status"][exchange] < 0:
        return _heard(state, exchange)
    filters = state.routes["filters"][exchanges["route"][exchange]]
    proxy = exchanges["proxy"][exchange]
    key = exchanges["key"][exchange]
    fault = state.filters["fault"][filters]
    if fault != NO_INDEX:
        counts = state.fault_counts
        if not delayed:
            wait_ns = delay_ns(state.faults, fault, counts, proxy, key)
            if wait_ns != NO_FAULT:
                exchanges["flags"][exchange] |= HOLDS_FAULT
                return STIMULUS_FAULT_DELAY, wait_ns, RESET_NONE
        holds_place = exchanges["flags"][exchange] & HOLDS_FAULT != 0
        status = abort_status(state.faults, fault, counts, proxy, key, holds_place)
        if status != NO_FAULT:
            return STIMULUS_FAULT_ABORT, status, RESET_NONE
        if state.faults["pace_kibps"][fault] > 0:
            exchanges["flags"][exchange] |= PACED
    limit = state.filters["limit"][filters]
    if limit != NO_INDEX:
        limit += draw_user(state, exchange, state.limits["users"][limit])
        status = check_limit(
            state.limits,
            limit,
            state.limit_buckets,
            state.token_buckets,
            state.proxies["bucket_start"][proxy],
            state.limit_counts,
            DIRECTION_COUNT * proxy + OUTBOUND,
            key,
            state.counters["now_ns"][0],
        )
        if status != NOT_LIMITED:
            return STIMULUS_RATE_LIMITED, status, RESET_NONE
    quota = _quota_of(state, exchange)
    if quota != NO_INDEX:
        return _ask(state, exchange, quota)
    return STIMULUS_REQUEST, 0, RESET_NONE


@kernel_jit
def _quota_of(state: Any, exchange: int) -> int:
    """Return the QUOTA row that holds for a routed request; NO_INDEX if nothing is asked."""
    filters = state.routes["filters"][state.exchanges["route"][exchange]]
    quota = state.filters["quota"][filters]
    if quota != NO_INDEX:
        quota += draw_user(state, exchange, state.quotas["users"][quota])
        if state.quotas["window_count"][quota] == 0:
            return NO_INDEX
    return quota


@kernel_jit
def _ask(state: Any, exchange: int, quota: int) -> tuple[int, int, int]:
    """Ask the rate limit service about a request; return as `filter_outbound`.

    While the proxy waits the answer stands in `status`, below 0, and ROUTE comes again.
    """
    exchanges = state.exchanges
    now_ns = state.counters["now_ns"][0]
    draw_key = mix_in(exchanges["key"][exchange], PURPOSE_QUOTA << 24)
    latency_ns = draw_ns(state, state.quotas["distribution"][quota], draw_key)
    quotas = state.quotas
    start, count = quotas["window_start"][quota], quotas["window_count"][quota]
    answer = count_request(state.quota_windows, state.windows_of_quotas, start, count, now_ns)
    answer = answer_in_time(quotas, quota, answer, latency_ns)
    exchanges["status"][exchange] = _HEARD - answer
    wait_ns = wait_for_service_ns(quotas, quota, latency_ns)
    if wait_ns == 0:
        return _heard(state, exchange)
    # It will be added whole when the request is routed again.
    exchanges["proxy_ns"][exchange] -= now_ns - exchanges["started_ns"][exchange]
    schedule(state, now_ns + wait_ns, pack(ROUTE, exchange, exchanges["generation"][exchange]))
    return ASKED, 0, RESET_NONE


@kernel_jit
def _heard(state: Any, exchange: int) -> tuple[int, int, int]:
    """Take the answer of the rate limit service; return as `filter_outbound`."""
    exchanges = state.exchanges
    answer = _HEARD - exchanges["status"][exchange]
    exchanges["status"][exchange] = 0
    quota = _quota_of(state, exchange)
    proxy = exchanges["proxy"][exchange]
    status = take_answer(state.quotas, quota, state.quota_counts, proxy, answer)
    if status == QUOTA_FAILED:
        status = int(state.quotas["status_on_error"][quota])
        return STIMULUS_RATE_LIMITED, status, RESET_REMOTE
    if status != QUOTA_OK:
        return STIMULUS_RATE_LIMITED, status, RESET_NONE
    return STIMULUS_REQUEST, 0, RESET_NONE


@kernel_jit
def filter_inbound(state: Any, attempt: int, endpoint: int) -> tuple[int, int]:
    """Let `attempt` pass the inbound filters of its endpoint.

    Returns
    -------
    status, reset : int
        Of a refusal: RESET_RATELIMITED if it is marked so; status NOT_LIMITED: it may pass.
    """
    inbound = state.endpoints["inbound"][endpoint]
    if state.inbound["limit_start"][inbound] != NO_INDEX:
        status, reset = _check_inbound(state, attempt, endpoint)
        if status != NOT_LIMITED:
            return status, reset
    if state.inbound["gradient_rule"][inbound] == NO_INDEX:
        return NOT_LIMITED, RESET_NONE
    now_ns = state.counters["now_ns"][0]
    rules, bins = state.gradient_rules, state.gradient_bins
    status = may_pass(state.gradients, endpoint, rules, bins, now_ns)
    if status != ADMITTED:
        return status, RESET_NONE
    state.attempts["gated"][attempt] = 1
    state.attempts["entered_ns"][attempt] = now_ns
    return NOT_LIMITED, RESET_NONE


@kernel_jit
def leave_gate(state: Any, attempt: int, generation: int) -> int:
    """`attempt` leaves the adaptive concurrency limit that it passed; return NOTHING.

    It was answered if `generation` is ANSWERED; else its caller has given it up, if it is still
    that of the row.  What a dead server leaves is no sample.
    """
    attempts = state.attempts
    if attempts["gated"][attempt] == 0:
        return NOTHING
    if generation != ANSWERED and generation != attempts["generation"][attempt]:
        return NOTHING  # the row is another's by now
    attempts["gated"][attempt] = 0
    endpoint = attempts["endpoint"][attempt]
    if generation != ANSWERED or state.endpoints["alive"][endpoint] == 0:
        on_given_up(state.gradients, endpoint)
        return NOTHING
    on_answered(
        state.gradients,
        endpoint,
        state.gradient_rules,
        state.gradient_bins,
        attempts["entered_ns"][attempt],
        state.counters["now_ns"][0],
    )
    return NOTHING


@kernel_jit
def _check_inbound(state: Any, attempt: int, endpoint: int) -> tuple[int, int]:
    """Look at the local rate limit of an endpoint; return as `filter_inbound`."""
    exchanges = state.exchanges
    exchange = state.attempts["exchange"][attempt]
    place = state.inbound["limit_start"][state.endpoints["inbound"][endpoint]]
    place += exchanges["call"][exchange] * state.traffic.shape[0] + exchanges["traffic"][exchange]
    limit = state.inbound_limits[place]
    limit += draw_user(state, exchange, state.limits["users"][limit])
    proxy = state.endpoints["proxy"][endpoint]
    buckets = state.token_buckets
    first_bucket = int(state.proxies["bucket_start"][proxy])
    if state.limits["connection_count"][limit] > 0:
        buckets = state.connection_buckets
        first_bucket = first_bucket_of(state, state.attempts["connection"][attempt], limit)
    status = check_limit(
        state.limits,
        limit,
        state.limit_buckets,
        buckets,
        first_bucket,
        state.limit_counts,
        DIRECTION_COUNT * proxy + INBOUND,
        mix_in(exchanges["key"][exchange], state.attempts["try_number"][attempt]),
        state.counters["now_ns"][0],
    )
    if status != NOT_LIMITED:
        _tell_reset(state, attempt, limit, buckets, first_bucket)
    return status, RESET_RATELIMITED if state.limits["marked"][limit] == 1 else RESET_NONE


@kernel_jit
def _tell_reset(state: Any, attempt: int, limit: int, buckets: Any, first_bucket: int) -> None:
    """Let the refusal of `attempt` say when its limit is reset, if it says so at all."""
    if state.limits["tells_reset"][limit] == 1:
        now_ns = state.counters["now_ns"][0]
        seconds = seconds_until_reset(
            state.limits, limit, state.limit_buckets, buckets, first_bucket, now_ns
        )
        state.attempts["reset_told"][attempt] = limit_reset_told(seconds)
    elif state.limits["retry_after_s"][limit] != NO_INDEX:
        seconds = state.limits["retry_after_s"][limit]
        state.attempts["reset_told"][attempt] = retry_after_told(seconds)


@kernel_jit
def hear_reset(state: Any, attempt: int, generation: int) -> int:
    """Note what the answer to `attempt`, which is about to be told of, asks its route for."""
    exchange = state.attempts["exchange"][attempt]
    state.exchanges["reset_interval_ns"][exchange] = told_interval_ns(
        state.routes, state.exchanges["route"][exchange], state.attempts["reset_told"][attempt]
    )
    return NOTHING


@kernel_jit
def leave_filters(state: Any, exchange: int, generation: int) -> int:
    """Let an answered `exchange` leave its filters; return 1 if its response takes time.

    If it does, RELEASE ends the exchange later; flags say what is still to be done.
    """
    exchanges = state.exchanges
    if exchanges["flags"][exchange] & PACED != 0:
        exchanges["flags"][exchange] &= ~PACED
        filters = state.routes["filters"][exchanges["route"][exchange]]
        size_bytes = 0
        # An answer of the proxy's own has a body of some bytes.
        if exchanges["attempt"][exchange] != NO_INDEX:
            attempt = exchanges["attempt"][exchange]
            if state.attempts["status"][attempt] == exchanges["status"][exchange]:
                size_bytes = state.calls["response_bytes"][exchanges["call"][exchange]]
        wait_ns = pace_ns(
            state.faults,
            state.filters["fault"][filters],
            state.fault_counts,
            exchanges["proxy"][exchange],
            exchanges["key"][exchange],
            size_bytes,
        )
        if wait_ns > 0:
            what = pack(RELEASE, exchange, exchanges["generation"][exchange])
            schedule(state, state.counters["now_ns"][0] + wait_ns, what)
            return 1
    release_fault(state, exchange)
    return 0


@kernel_jit
def release_fault(state: Any, exchange: int) -> None:
    """Give back the place of `exchange` among the active faults, if it holds one."""
    exchanges = state.exchanges
    if exchanges["flags"][exchange] & HOLDS_FAULT != 0:
        exchanges["flags"][exchange] &= ~HOLDS_FAULT
        on_fault_ended(state.fault_counts, exchanges["proxy"][exchange])
