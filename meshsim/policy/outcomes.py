"""What follows the end of one try of a request: another try, waiting for others, or an answer.

Rule: in the words of `meshsim.policy.request`, of which these are the handlers; hedging is
explained in `meshsim.policy.hedging`.  Parameters are those of `meshsim.policy.request.step`.

References
----------
Envoy, source/common/router/router.cc (maybeRetryReset, onSoftPerTryTimeout, onUpstreamHeaders,
onUpstreamReset); source/common/router/retry_state_impl.cc (shouldRetry, resetRetry).
"""

from __future__ import annotations

from typing import Any

from meshsim.jit import kernel_jit, kernel_jit_inline
from meshsim.policy.circuit_breakers import can_retry, on_retry_ended, on_retry_started
from meshsim.policy.custom.decisions import custom_back_off_ns
from meshsim.policy.custom.entries import NO_FUNCTION
from meshsim.policy.hedging import plan_copy, waits_for_others
from meshsim.policy.reset_headers import rate_limited_back_off_ns
from meshsim.policy.retry import back_off_ns
from meshsim.policy.retry_throttling import on_retriable_failure, on_success, take_retry
from meshsim.policy.timeout import per_try_deadline_ns
from meshsim.policy.transitions import ACTION_BACK_OFF, ACTION_NONE, ACTION_RESPOND, ACTION_SEND
from meshsim.rng import next_uniform
from meshsim.state.codes import (
    FLAG_NONE,
    FLAG_UO,
    FLAG_URX,
    HEDGE_AFTER_DELAY,
    HEDGE_ON_PER_TRY_TIMEOUT,
    JITTER_DECORRELATED,
    NEVER_NS,
    RESET_NO_HOST,
    RESET_PER_TRY_TIMEOUT,
)
from meshsim.state.exchange import EXCHANGE_BACKING_OFF, EXCHANGE_RESPONDING

__all__ = [
    "on_earlier_ended",
    "on_hedge_due",
    "on_soft_timeout",
    "release_retry",
    "respond",
    "retry_or_respond",
]


@kernel_jit_inline
def respond(exchanges: Any, exchange: int, status: int, flag: int) -> tuple[int, int]:
    """Answer with `status`; FLAG_NONE leaves the flag that the request has."""
    exchanges["state"][exchange] = EXCHANGE_RESPONDING
    exchanges["status"][exchange] = status
    if flag != FLAG_NONE:  # else that of a delay stays
        exchanges["response_flag"][exchange] = flag
    return ACTION_RESPOND, NEVER_NS


@kernel_jit_inline
def release_retry(exchanges: Any, exchange: int, clusters: Any) -> None:
    """Let the retry of this exchange leave the retry circuit breaker, if it holds a place."""
    if exchanges["retry_held"][exchange] != 0:
        exchanges["retry_held"][exchange] = 0
        on_retry_ended(clusters, exchanges["cluster"][exchange])


@kernel_jit
def _take_retry(
    exchanges: Any, exchange: int, clusters: Any, configs: Any, memory: Any, now_ns: int
) -> int:
    """Begin a retry and return FLAG_NONE, or return the flag of why there is none."""
    cluster = exchanges["cluster"][exchange]
    if exchanges["retries_remaining"][exchange] <= 0:
        clusters["retry_limit_exceeded"][cluster] += 1
        return FLAG_URX
    exchanges["retries_remaining"][exchange] -= 1
    if not (
        can_retry(clusters, cluster, configs)
        and take_retry(clusters, cluster, configs, memory, now_ns)
    ):
        return FLAG_UO
    on_retry_started(clusters, cluster)
    exchanges["retry_held"][exchange] = 1
    exchanges["retry_count"][exchange] += 1
    return FLAG_NONE


@kernel_jit_inline
def _custom_wait_ns(
    exchanges: Any,
    exchange: int,
    routes: Any,
    clusters: Any,
    configs: Any,
    memory: Any,
    seen: int,
    reset: int,
    now_ns: int,
    rng: Any,
) -> int:
    """Return the back-off a custom policy wants [ns]; < 0: no retry; 0: there is no policy."""
    route = exchanges["route"][exchange]
    custom = routes["custom_retry"][route]
    if custom == NO_FUNCTION:
        return 0
    cluster = exchanges["cluster"][exchange]
    retry_number = exchanges["retry_count"][exchange] + 1
    return custom_back_off_ns(
        custom, clusters, cluster, configs, memory, seen, reset, retry_number, now_ns, rng
    )


@kernel_jit_inline
def _back_off(
    exchanges: Any, exchange: int, routes: Any, clusters: Any, custom_ns: int, now_ns: int, rng: Any
) -> tuple[int, int]:
    """Wait before the retry that has begun."""
    exchanges["state"][exchange] = EXCHANGE_BACKING_OFF
    route = exchanges["route"][exchange]
    if routes["custom_retry"][route] != NO_FUNCTION:
        return ACTION_BACK_OFF, now_ns + custom_ns
    cluster = exchanges["cluster"][exchange]
    if routes["reset_max_interval_ns"][route] > 0 and exchanges["reset_interval_ns"][exchange] > 0:
        interval_ns = exchanges["reset_interval_ns"][exchange]
        exchanges["reset_interval_ns"][exchange] = 0  # it holds for the response that said it
        clusters["backoff_ratelimited"][cluster] += 1
        return ACTION_BACK_OFF, now_ns + rate_limited_back_off_ns(interval_ns, next_uniform(rng))
    retry_number = exchanges["retry_count"][exchange]
    decorrelated = routes["jitter"][route] == JITTER_DECORRELATED
    last_ns = exchanges["back_off_ns"][exchange] if decorrelated else 0
    wait_ns = back_off_ns(routes, route, retry_number, last_ns, next_uniform(rng))
    if decorrelated:
        exchanges["back_off_ns"][exchange] = wait_ns
    clusters["backoff_exponential"][cluster] += 1
    return ACTION_BACK_OFF, now_ns + wait_ns


@kernel_jit_inline
def _send_copy(exchanges: Any, exchange: int, routes: Any, now_ns: int) -> tuple[int, int]:
    """Send a copy, which has begun, beside the tries that are under way."""
    route = exchanges["route"][exchange]
    plan_copy(exchanges, exchange, routes, route, now_ns)
    return ACTION_SEND, per_try_deadline_ns(routes, route, now_ns)


@kernel_jit
def retry_or_respond(
    exchanges: Any,
    exchange: int,
    routes: Any,
    clusters: Any,
    configs: Any,
    memory: Any,
    retriable: bool,
    reset: int,
    status: int,
    flag: int,
    now_ns: int,
    rng: Any,
) -> tuple[int, int]:
    """Follow a try that ended with `status` and `flag` by another, or answer with them."""
    was_retry = exchanges["retry_held"][exchange] != 0
    release_retry(exchanges, exchange, clusters)
    cluster = exchanges["cluster"][exchange]
    hedging = routes["hedging"][exchanges["route"][exchange]]
    wanted_ns = 0
    if retriable:
        seen = status if flag == FLAG_NONE else 0
        wanted_ns = _custom_wait_ns(
            exchanges, exchange, routes, clusters, configs, memory, seen, reset, now_ns, rng
        )
        retriable = wanted_ns >= 0
    refusal = FLAG_NONE
    if retriable:
        on_retriable_failure(clusters, cluster, configs, memory)
        refusal = _take_retry(exchanges, exchange, clusters, configs, memory, now_ns)
        if refusal == FLAG_NONE:
            if hedging == HEDGE_AFTER_DELAY:
                return _send_copy(exchanges, exchange, routes, now_ns)
            return _back_off(exchanges, exchange, routes, clusters, wanted_ns, now_ns, rng)
    else:
        if was_retry and reset != RESET_NO_HOST:
            clusters["retry_success"][cluster] += 1  # Envoy infers it from no retry being wanted
        if status < 500:
            on_success(clusters, cluster, configs, memory)
    if waits_for_others(hedging, exchanges["attempts_active"][exchange], retriable, reset):
        if hedging == HEDGE_ON_PER_TRY_TIMEOUT and refusal != FLAG_NONE:
            exchanges["response_flag"][exchange] = refusal
        return ACTION_NONE, NEVER_NS
    return respond(exchanges, exchange, status, flag if flag != FLAG_NONE else refusal)


# --- Hedging ---------------------------------------------------------------------------------


@kernel_jit
def on_soft_timeout(
    exchanges: Any,
    exchange: int,
    routes: Any,
    clusters: Any,
    configs: Any,
    memory: Any,
    now_ns: int,
    rng: Any,
) -> tuple[int, int]:
    """Let another try follow the newest, which is late and goes on, if one may."""
    if routes["retry_on"][exchanges["route"][exchange]] == 0:
        return ACTION_NONE, NEVER_NS
    release_retry(exchanges, exchange, clusters)
    reset = RESET_PER_TRY_TIMEOUT
    wanted_ns = _custom_wait_ns(
        exchanges, exchange, routes, clusters, configs, memory, 0, reset, now_ns, rng
    )
    if wanted_ns < 0:
        return ACTION_NONE, NEVER_NS
    refusal = _take_retry(exchanges, exchange, clusters, configs, memory, now_ns)
    if refusal == FLAG_NONE:
        return _back_off(exchanges, exchange, routes, clusters, wanted_ns, now_ns, rng)
    exchanges["response_flag"][exchange] = refusal
    return ACTION_NONE, NEVER_NS


@kernel_jit
def on_earlier_ended(
    exchanges: Any,
    exchange: int,
    clusters: Any,
    configs: Any,
    memory: Any,
    bad: bool,
    status: int,
    flag: int,
) -> tuple[int, int]:
    """Answer with a try that another has followed; one that was `bad` waits for the others."""
    others = exchanges["attempts_active"][exchange] > 0
    if bad and (others or exchanges["state"][exchange] == EXCHANGE_BACKING_OFF):
        return ACTION_NONE, NEVER_NS
    release_retry(exchanges, exchange, clusters)
    if status < 500:
        on_success(clusters, exchanges["cluster"][exchange], configs, memory)
    return respond(exchanges, exchange, status, flag)


@kernel_jit
def on_hedge_due(
    exchanges: Any,
    exchange: int,
    routes: Any,
    clusters: Any,
    configs: Any,
    memory: Any,
    now_ns: int,
) -> tuple[int, int]:
    """Send another copy, if one may be sent; if not, the next is planned."""
    release_retry(exchanges, exchange, clusters)
    if _take_retry(exchanges, exchange, clusters, configs, memory, now_ns) == FLAG_NONE:
        return _send_copy(exchanges, exchange, routes, now_ns)
    plan_copy(exchanges, exchange, routes, exchanges["route"][exchange], now_ns)
    return ACTION_NONE, NEVER_NS
