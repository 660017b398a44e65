"""Rate-limited back-off: a retry that waits until the limit is reset that refused the last try.

Rule (Envoy's `rate_limited_retry_back_off`): a response that is retried is searched for the
route's `reset_headers`, in their order.  The first that holds a whole number, and asks for no
more than `max_interval` (300 s unless stated), counts: of format SECONDS it is the interval, of
format UNIX_TIMESTAMP the interval until that second; a time that has passed is none.  If the
interval is above 1 ms the retry waits a whole number of milliseconds drawn uniformly from
[interval, 1.5 interval), in place of the exponential back-off, which goes on as if this one had
not been.  Everything else, also an interval that is 0 or too long, leaves the exponential one.

Who sends such headers: a local rate limit with `enable_x_ratelimit_headers` says in
``x-ratelimit-reset`` how many whole seconds, rounded up, pass until the bucket that refused has a
token again (measured on Envoy 1.40.0), which adds it to all responses, here to refusals only;
`response_headers_to_add` may name ``retry-after``; a server that refuses may say ``retry-after``.
A simulated answer carries one of the two, and both are in seconds; a live proxy reads whatever
header the route names.

References
----------
Envoy, source/common/router/retry_state_impl.cc (shouldRetryHeaders, parseResetInterval,
enableBackoffTimer); source/common/router/reset_header_parser.cc (parseInterval);
source/common/common/backoff_strategy.cc (JitteredLowerBoundBackOffStrategy);
source/extensions/filters/http/local_ratelimit/local_ratelimit.cc (encodeHeaders);
api/envoy/config/route/v3/route_components.proto (RateLimitedRetryBackOff).
RFC 9110, section 10.2.3 (Retry-After; only its form in seconds).
"""

from __future__ import annotations

from typing import Any

from meshsim.jit import kernel_jit
from meshsim.state.codes import NO_INDEX, RESET_BY_RATELIMIT, RESET_BY_RETRY_AFTER

__all__ = [
    "NOT_TOLD",
    "TOLD_MAX_S",
    "limit_reset_told",
    "rate_limited_back_off_ns",
    "reset_interval_ns",
    "reset_seconds",
    "retry_after_told",
    "told_interval_ns",
]

#: An answer without such a header.
NOT_TOLD = 0
#: What is longer is told as this [s]; no `max_interval` is as long.
TOLD_MAX_S = 32_766

_NS_PER_MS = 1_000_000
_NS_PER_S = 1_000_000_000
_DIGITS_MAX = 18


def reset_seconds(text: str, is_timestamp: bool, unix_s: int) -> int:
    """Return the interval that the value of a header asks for [s], or NO_INDEX.

    Parameters
    ----------
    text : str
        As received.
    is_timestamp : bool
        Whether its format is UNIX_TIMESTAMP.
    unix_s : int
        Seconds since 1970, for that format.

    Examples
    --------
    >>> reset_seconds("7", False, 0), reset_seconds("107", True, 100)
    (7, 7)
    >>> reset_seconds("Wed, 21 Oct 2026 07:28:00 GMT", False, 0)
    -1
    """
    text = text.strip()
    if not (text.isascii() and text.isdigit()) or len(text) > _DIGITS_MAX:
        return NO_INDEX
    seconds = int(text) - (unix_s if is_timestamp else 0)
    return seconds if seconds >= 0 else NO_INDEX


@kernel_jit
def limit_reset_told(seconds: int) -> int:
    """Return, for an ATTEMPT row, that ``x-ratelimit-reset`` says `seconds` [s], >= 0."""
    return min(seconds, TOLD_MAX_S) + 1


@kernel_jit
def retry_after_told(seconds: int) -> int:
    """Return, for an ATTEMPT row, that ``retry-after`` says `seconds` [s], >= 0."""
    return -min(seconds, TOLD_MAX_S) - 1


@kernel_jit
def reset_interval_ns(routes: Any, route: int, seconds: int) -> int:
    """Return the interval that a header asks a route for [ns]; NO_INDEX if that is too long.

    Parameters
    ----------
    routes : ndarray[ROUTE_DTYPE], shape (n_routes,)
        Read only.
    route : int
        Row of `routes`.
    seconds : int
        That the header asks for [s], >= 0.
    """
    if seconds > routes["reset_max_interval_ns"][route] // _NS_PER_S:
        return NO_INDEX
    return seconds * _NS_PER_S


@kernel_jit
def told_interval_ns(routes: Any, route: int, told: int) -> int:
    """Return the interval that a simulated answer asks a route for [ns]; 0 for none.

    Parameters
    ----------
    routes : ndarray[ROUTE_DTYPE], shape (n_routes,)
        Read only.
    route : int
        Row of `routes`.
    told : int
        `limit_reset_told`, `retry_after_told`, or NOT_TOLD.
    """
    header = RESET_BY_RATELIMIT if told > NOT_TOLD else RESET_BY_RETRY_AFTER
    if told == NOT_TOLD or routes["reset_headers"][route] & header == 0:
        return 0
    return max(reset_interval_ns(routes, route, abs(int(told)) - 1), 0)


@kernel_jit
def rate_limited_back_off_ns(interval_ns: int, uniform: float) -> int:
    """Return how long a retry waits that a header bids wait `interval_ns` [ns].

    Parameters
    ----------
    interval_ns : int
        Whole seconds, > 0.
    uniform : float
        Draw in [0, 1).

    Returns
    -------
    int
        A multiple of 1 ms in [interval, 1.5 interval).
    """
    interval_ms = interval_ns // _NS_PER_MS
    return (interval_ms + int(uniform * (interval_ms // 2))) * _NS_PER_MS
