"""Global rate limits: a rate limit service that proxies ask about each request of a route.

Rule, as Envoy's filter and its reference service: before a request is forwarded the proxy asks the
service, which counts it in the present window of every descriptor that fits; a window is a
second, a minute, an hour or a day, counted from time 0, and all proxies share it.  If a count
exceeds its `requests_per_unit` the request is over the limit: 429, flag RL, marked
``x-envoy-ratelimited``.  If the service has not answered by `timeout` (20 ms in Envoy) the request
goes on, or is refused with 500 and flag RLSE if `failure_mode_deny` says so; the service has
counted it all the same.  A quota is such a limit by the hour or by the day.

The service counts a request when it is asked, so that counts are in the order of the questions;
its latency passes before the answer.

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

__all__ = ["QUOTA_FAILED", "QUOTA_OK", "ask_service", "wait_for_service_ns"]

#: Answers of `ask_service`: the request may pass; the service failed; else a status.
QUOTA_OK = 0
QUOTA_FAILED = -1


@kernel_jit
def wait_for_service_ns(quotas: Any, quota: int, latency_ns: int) -> int:
    """Return how long a proxy waits for a service that takes `latency_ns` to answer [ns]."""
    return min(latency_ns, int(quotas["timeout_ns"][quota]))


@kernel_jit
def ask_service(
    quotas: Any,
    quota: int,
    quota_windows: Any,
    windows: Any,
    counts: Any,
    row: int,
    latency_ns: int,
    now_ns: int,
) -> int:
    """Ask the service about one request; return what it will have answered.

    Parameters
    ----------
    quotas : ndarray[QUOTA_DTYPE], shape (n_quotas,)
        Read only.
    quota : int
        Row of `quotas`.
    quota_windows : ndarray[int32], shape (n,)
        See QUOTA_DTYPE.  Read only.
    windows : ndarray[WINDOW_DTYPE], shape (n_windows,)
        Those of the quota are modified in place.
    counts : ndarray[QUOTA_COUNTS_DTYPE], shape (n_proxies,)
        Row `row` is modified in place.
    row : int
    latency_ns : int
        Until the service answers; from the timeout on it has failed [ns].
    now_ns : int
        Not before that of the last question of any proxy [ns].

    Returns
    -------
    int
        QUOTA_OK, QUOTA_FAILED (it is to be refused), or the status of a request over the limit.
    """
    over = False
    start = quotas["window_start"][quota]
    for place in range(start, start + quotas["window_count"][quota]):
        window = quota_windows[place]
        number = now_ns // windows["unit_ns"][window]
        if windows["number"][window] != number:
            windows["number"][window] = number
            windows["requests"][window] = 0
        windows["requests"][window] += 1
        if windows["requests"][window] > windows["requests_per_unit"][window]:
            over = True
    if latency_ns >= quotas["timeout_ns"][quota]:
        counts["error"][row] += 1
        if quotas["failure_mode_deny"][quota] == 1:
            return QUOTA_FAILED
        counts["failure_mode_allowed"][row] += 1
        return QUOTA_OK
    if over:
        counts["over_limit"][row] += 1
        return int(quotas["status"][quota])
    counts["ok"][row] += 1
    return QUOTA_OK
