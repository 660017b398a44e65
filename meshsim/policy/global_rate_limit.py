"""Global rate limits: a rate limit service that proxies ask about each request of a route.

Rule, as Envoy's filter and its reference service: before a request is forwarded the proxy asks the
service, which counts it in the present window of every descriptor that fits; a window is a
second, a minute, an hour or a day, counted from time 0, and all proxies share it.  If a count
exceeds its `requests_per_unit` the request is over the limit: 429, flag RL, marked
``x-envoy-ratelimited``.  If the service has not answered by `timeout` (20 ms in Envoy) the request
goes on, or is refused with 500 and flag RLSE if `failure_mode_deny` says so; the service has
counted it all the same.  A quota is such a limit by the hour or by the day.

The service counts a request when it is asked (`count_request`), so that counts are in the order
of the questions; its latency passes before the answer.  The proxy counts what it has heard
(`take_answer`), so that a request whose caller goes meanwhile is in no counter of the proxy.

References
----------
Envoy, source/extensions/filters/http/ratelimit/ratelimit.cc (complete);
api/envoy/extensions/filters/http/ratelimit/v3/rate_limit.proto.
envoyproxy/ratelimit, src/redis/fixed_cache_impl.go (DoLimit), src/utils/utilities.go
(UnitToDivider).
"""

from __future__ import annotations

from typing import Any

from meshsim.jit import kernel_jit

__all__ = [
    "QUOTA_FAILED",
    "QUOTA_OK",
    "SERVICE_FAILED",
    "SERVICE_OK",
    "SERVICE_OVER_LIMIT",
    "answer_in_time",
    "count_request",
    "take_answer",
    "wait_for_service_ns",
]

#: What the service answers, or that it did not.
SERVICE_OK = 0
SERVICE_OVER_LIMIT = 1
SERVICE_FAILED = 2
#: Answers of `take_answer`: the request may pass; it is refused as the service failed; else a
#: status.
QUOTA_OK = 0
QUOTA_FAILED = -1


@kernel_jit
def wait_for_service_ns(quotas: Any, quota: int, latency_ns: int) -> int:
    """Return how long a proxy waits for a service that takes `latency_ns` to answer [ns]."""
    return min(latency_ns, int(quotas["timeout_ns"][quota]))


@kernel_jit
def count_request(windows: Any, listed: Any, start: int, count: int, now_ns: int) -> int:
    """Let the service count one request; return what it answers.

    Parameters
    ----------
    windows : ndarray[QUOTA_WINDOW_DTYPE], shape (n_windows,)
        Those of the request are modified in place.
    listed : ndarray[int32], shape (n,)
        Rows of `windows`; the request's are ``listed[start : start + count]``.  Read only.
    start, count : int
        See `listed`.
    now_ns : int
        Not before that of the last question of any proxy [ns].

    Returns
    -------
    int
        SERVICE_OK or SERVICE_OVER_LIMIT.
    """
    answer = SERVICE_OK
    for place in range(start, start + count):
        window = listed[place]
        number = now_ns // windows["unit_ns"][window]
        if windows["number"][window] != number:
            windows["number"][window] = number
            windows["requests"][window] = 0
        windows["requests"][window] += 1
        if windows["requests"][window] > windows["requests_per_unit"][window]:
            answer = SERVICE_OVER_LIMIT
    return answer


@kernel_jit
def answer_in_time(quotas: Any, quota: int, answer: int, latency_ns: int) -> int:
    """Return what a proxy hears of an answer that takes `latency_ns` to come."""
    return SERVICE_FAILED if latency_ns >= quotas["timeout_ns"][quota] else answer


@kernel_jit
def take_answer(quotas: Any, quota: int, counts: Any, row: int, answer: int) -> int:
    """Decide on a request by what was heard of the service.

    Parameters
    ----------
    quotas : ndarray[QUOTA_DTYPE], shape (n_quotas,)
        Read only.
    quota : int
        Row of `quotas`.
    counts : ndarray[QUOTA_COUNTS_DTYPE], shape (n_proxies,)
        Row `row` is modified in place.
    row : int
    answer : int
        SERVICE_OK, SERVICE_OVER_LIMIT, or SERVICE_FAILED: it was late, or cannot be reached.

    Returns
    -------
    int
        QUOTA_OK, QUOTA_FAILED (it is to be refused), or the status of a request over the limit.
    """
    if answer == SERVICE_FAILED:
        counts["error"][row] += 1
        if quotas["failure_mode_deny"][quota] == 1:
            return QUOTA_FAILED
        counts["failure_mode_allowed"][row] += 1
        return QUOTA_OK
    if answer == SERVICE_OVER_LIMIT:
        counts["over_limit"][row] += 1
        return int(quotas["status"][quota])
    counts["ok"][row] += 1
    return QUOTA_OK
