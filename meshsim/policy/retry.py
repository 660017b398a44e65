"""Retries: whether a failed try may be followed by another, and after how long.

Rule (Envoy's router): a try fails with a response status or with a reset.  A status is
retriable by `5xx` (500 to 599), `gateway-error` (502, 503, 504), `retriable-4xx` (409) or
`retriable-status-codes` (the listed ones).  A reset is retriable by `5xx`, `gateway-error` and
`reset` whatever its cause, by `reset-before-request` if the request was not sent, by
`connect-failure` and `refused-stream` for what they name.  A per-try timeout is a reset after
the request was sent.  Never retried: a try that a circuit breaker of this proxy refused, and a
try without a host.  A response that an upstream marked ``x-envoy-overloaded``, because a
breaker of its own refused, is retried as its status says (since Envoy 1.15: envoyproxy/envoy
10847; retry budgets are to prevent storms).  One marked ``x-envoy-ratelimited`` is retried
under `envoy-ratelimited` and no other condition.

The n-th retry waits a whole number of milliseconds drawn uniformly from [0, bound(n)), where
bound(1) = base and each next bound is doubled while the last is below max / 2, and max after.
(Envoy's documentation states another interval for n > 1; measured against Envoy 1.40.0, the
code is right.)  That is full jitter, the only one that Envoy has.  Clients of other makes wait
bound(n) itself (no jitter), uniformly from [bound(n) / 2, bound(n)) (equal), or, decorrelated,
uniformly from [base, 3 times the last wait), where the first takes base for the last, and max at
most.

The gRPC conditions look at a ``grpc-status`` header, which an HTTP response does not carry;
they are kept as bits and match nothing here.

References
----------
Envoy, source/common/router/retry_state_impl.cc (wouldRetryFromHeaders, wouldRetryFromReset);
source/common/common/backoff_strategy.cc (JitteredExponentialBackOffStrategy).
M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog (2015), and its simulator,
aws-samples/aws-arch-backoff-simulator.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from meshsim.errors import ConfigError, Problem
from meshsim.jit import kernel_jit, kernel_jit_inline
from meshsim.state.codes import (
    JITTER_DECORRELATED,
    JITTER_EQUAL,
    JITTER_FULL,
    RESET_CONNECT_FAILURE,
    RESET_NO_HOST,
    RESET_NONE,
    RESET_OVERFLOW,
    RESET_RATELIMITED,
    RESET_REFUSED_STREAM,
    RETRY_5XX,
    RETRY_CONNECT_FAILURE,
    RETRY_CUSTOM,
    RETRY_ENVOY_RATELIMITED,
    RETRY_GATEWAY_ERROR,
    RETRY_GRPC_CANCELLED,
    RETRY_GRPC_DEADLINE_EXCEEDED,
    RETRY_GRPC_INTERNAL,
    RETRY_GRPC_RESOURCE_EXHAUSTED,
    RETRY_GRPC_UNAVAILABLE,
    RETRY_REFUSED_STREAM,
    RETRY_RESET,
    RETRY_RESET_BEFORE_REQUEST,
    RETRY_RETRIABLE_4XX,
    RETRY_RETRIABLE_STATUS_CODES,
)

__all__ = ["RETRY_ON_BITS", "back_off_ns", "retry_allowed", "retry_on_bits"]

#: Envoy's names of the retry conditions (x-envoy-retry-on and x-envoy-retry-grpc-on).
RETRY_ON_BITS = {
    "5xx": RETRY_5XX,
    "gateway-error": RETRY_GATEWAY_ERROR,
    "reset": RETRY_RESET,
    "reset-before-request": RETRY_RESET_BEFORE_REQUEST,
    "connect-failure": RETRY_CONNECT_FAILURE,
    "refused-stream": RETRY_REFUSED_STREAM,
    "retriable-4xx": RETRY_RETRIABLE_4XX,
    "retriable-status-codes": RETRY_RETRIABLE_STATUS_CODES,
    "unavailable": RETRY_GRPC_UNAVAILABLE,
    "cancelled": RETRY_GRPC_CANCELLED,
    "deadline-exceeded": RETRY_GRPC_DEADLINE_EXCEEDED,
    "internal": RETRY_GRPC_INTERNAL,
    "resource-exhausted": RETRY_GRPC_RESOURCE_EXHAUSTED,
    "envoy-ratelimited": RETRY_ENVOY_RATELIMITED,
}

_NS_PER_MS = 1_000_000
_RESET_ANY = RETRY_5XX | RETRY_GATEWAY_ERROR | RETRY_RESET | RETRY_CUSTOM


def retry_on_bits(names: Iterable[str]) -> int:
    """Return the `RETRY_*` bits of Envoy's condition `names`.

    Raises
    ------
    ConfigError
        Listing every name that is not a condition.

    Examples
    --------
    >>> retry_on_bits(["5xx", "connect-failure"]) == RETRY_5XX | RETRY_CONNECT_FAILURE
    True
    """
    bits = 0
    problems = []
    for name in names:
        if name in RETRY_ON_BITS:
            bits |= RETRY_ON_BITS[name]
        else:
            problems.append(
                Problem(
                    "not a retry condition",
                    path="retry_on",
                    found=name,
                    allowed=", ".join(RETRY_ON_BITS),
                )
            )
    if problems:
        raise ConfigError(problems)
    return bits


@kernel_jit_inline
def _status_retriable(retry_on: int, codes: Any, start: int, count: int, status: int) -> bool:
    """Decide whether a response `status` meets one of the conditions `retry_on`."""
    if retry_on & RETRY_CUSTOM:
        return True
    if status >= 500 and (
        retry_on & RETRY_5XX or (retry_on & RETRY_GATEWAY_ERROR and 502 <= status <= 504)
    ):
        return True
    if status == 409 and retry_on & RETRY_RETRIABLE_4XX:
        return True
    if retry_on & RETRY_RETRIABLE_STATUS_CODES:
        for index in range(start, start + count):
            if codes[index] == status:
                return True
    return False


@kernel_jit_inline
def _reset_retriable(retry_on: int, reset: int) -> bool:
    """Decide whether `reset` (not RESET_NONE) meets one of the conditions `retry_on`."""
    if reset in (RESET_OVERFLOW, RESET_NO_HOST):
        return False
    if reset == RESET_RATELIMITED:
        return retry_on & RETRY_ENVOY_RATELIMITED != 0
    if retry_on & _RESET_ANY:
        return True
    if reset == RESET_CONNECT_FAILURE:
        return retry_on & (RETRY_CONNECT_FAILURE | RETRY_RESET_BEFORE_REQUEST) != 0
    return reset == RESET_REFUSED_STREAM and retry_on & RETRY_REFUSED_STREAM != 0


@kernel_jit_inline
def retry_allowed(routes: Any, route: int, codes: Any, status: int, reset: int) -> bool:
    """Decide whether the outcome of a try meets the route's retry conditions.

    Parameters
    ----------
    routes : ndarray[ROUTE_DTYPE], shape (n_routes,)
        Read only.
    route : int
        Row of `routes`.
    codes : ndarray[int32], shape (n_codes,)
        Retriable status codes of all routes.  Read only.
    status : int
        Status of the response; not looked at if there was a reset.
    reset : int
        `RESET_*` code; `RESET_NONE` if there was a response, `RESET_RATELIMITED` if it is
        marked ``x-envoy-ratelimited``.

    Returns
    -------
    bool
        True if the conditions hold, or if a custom policy is to be asked.  Retries remaining
        and the retry circuit breaker are not its concern.
    """
    retry_on = routes["retry_on"][route]
    if retry_on == 0:
        return False
    if reset != RESET_NONE:
        return _reset_retriable(retry_on, reset)
    start = routes["code_start"][route]
    return _status_retriable(retry_on, codes, start, routes["code_count"][route], status)


@kernel_jit_inline
def _bound_ms(routes: Any, route: int, retry_number: int) -> int:
    """Return what the `retry_number`-th retry waits at most [ms]."""
    bound_ms = max(routes["base_interval_ns"][route] // _NS_PER_MS, 1)
    max_ms = max(routes["max_interval_ns"][route] // _NS_PER_MS, bound_ms)
    for _ in range(retry_number - 1):
        if bound_ms >= max_ms // 2:
            return int(max_ms)
        bound_ms *= 2
    return int(bound_ms)


@kernel_jit
def back_off_ns(
    routes: Any, route: int, retry_number: int, previous_ns: int, uniform: float
) -> int:
    """Return how long the `retry_number`-th retry of a request waits [ns].

    Parameters
    ----------
    routes : ndarray[ROUTE_DTYPE], shape (n_routes,)
        `base_interval_ns` and `max_interval_ns` are used in whole milliseconds, each at
        least 1, as Envoy reads them, except for decorrelated jitter.  Read only.
    route : int
        Row of `routes`.
    retry_number : int
        1 for the first retry.
    previous_ns : int
        What the retry before waited [ns]; only decorrelated jitter looks at it, after the first.
    uniform : float
        Draw in [0, 1).

    Returns
    -------
    int
        With full jitter a multiple of 1 ms in [0, bound(retry_number)) [ns].
    """
    jitter = routes["jitter"][route]
    if jitter == JITTER_DECORRELATED:
        base_ns = routes["base_interval_ns"][route]
        last_ns = base_ns if retry_number == 1 else max(previous_ns, base_ns)
        wait_ns = base_ns + int(uniform * (3 * last_ns - base_ns))
        return int(min(wait_ns, max(routes["max_interval_ns"][route], base_ns)))
    bound_ms = _bound_ms(routes, route, retry_number)
    if jitter == JITTER_FULL:
        return int(uniform * bound_ms) * _NS_PER_MS
    bound_ns = bound_ms * _NS_PER_MS
    if jitter == JITTER_EQUAL:
        return bound_ns // 2 + int(uniform * (bound_ns // 2))
    return bound_ns
