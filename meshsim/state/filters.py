"""HTTP filters of a proxy: token buckets, local rate limits, faults and mirrors of routes.

A route (or an endpoint) that uses none of them has NO_INDEX in place of its FILTER (INBOUND)
row and costs one comparison.  FILTER, INBOUND, FAULT, LIMIT and MIRROR rows are configuration;
BUCKET rows and counts are run-time state of one proxy, apart because a hundred proxies with
one configuration have a hundred buckets.  The buckets of a limit per connection are those of
one connection, and exist where a scenario has such a limit.
"""

from __future__ import annotations

import numpy as np

#: How a bucket is refilled.
REFILL_TICKS = 0  # `tokens_per_fill` at once at every multiple of `fill_interval_ns`
REFILL_CONTINUOUS = 1  # evenly, `tokens_per_fill` in `fill_interval_ns`

#: One token bucket of one proxy, or of one connection.
BUCKET_DTYPE = np.dtype(
    [
        ("level", "i8"),  # tokens; of a continuous bucket [tokens * fill_interval_ns]
        ("updated_ns", "i8"),  # time as of which `level` holds; of ticks, that of the last tick
        ("max_tokens", "i8"),
        ("tokens_per_fill", "i8"),
        ("fill_interval_ns", "i8"),
        ("refill", "i8"),
    ],
    align=True,
)

#: A local rate limit as the requests of one kind meet it.
LIMIT_DTYPE = np.dtype(
    [
        ("bucket_start", "i4"),  # limit_buckets[bucket_start:][:bucket_count], in their order,
        ("bucket_count", "i4"),  # counted from the first BUCKET row of the proxy or connection
        ("connection_start", "i4"),  # full_buckets[connection_start:][:connection_count]: those
        ("connection_count", "i4"),  # that a connection begins with; 0: buckets are the proxy's
        ("status", "i4"),  # of a refusal
        ("marked", "i4"),  # 1: it carries x-envoy-ratelimited
        ("tells_reset", "i4"),  # 1: it carries x-ratelimit-reset
        ("retry_after_s", "i4"),  # it carries retry-after [s]; or NO_INDEX
        ("enabled", "f8"),  # share of the requests that are counted
        ("enforced", "f8"),  # share of those found over the limit that are refused
        ("users", "i4"),  # who each have a row, from that of the first on; 1: all have this one
    ],
    align=True,
)

#: Envoy's counters of a local rate limit filter: one row a proxy and direction.
LIMIT_COUNTS_DTYPE = np.dtype(
    [("enabled", "i8"), ("ok", "i8"), ("rate_limited", "i8"), ("enforced", "i8")], align=True
)
#: Rows of LIMIT_COUNTS a proxy: of its outbound side, then of its inbound side.
DIRECTION_COUNT = 2
OUTBOUND = 0
INBOUND = 1

FAULT_DTYPE = np.dtype(
    [
        ("delay", "f8"),  # share of the requests
        ("delay_ns", "i8"),
        ("abort", "f8"),
        ("abort_status", "i8"),
        ("active_max", "i8"),
        ("pace", "f8"),  # share of the responses whose rate is limited
        ("pace_kibps", "i8"),  # [KiB/s]
    ],
    align=True,
)

#: Envoy's counters of a fault filter: one row a proxy.
FAULT_COUNTS_DTYPE = np.dtype(
    [
        ("active", "i8"),
        ("delays_injected", "i8"),
        ("aborts_injected", "i8"),
        ("response_rl_injected", "i8"),
        ("overflow", "i8"),
    ],
    align=True,
)

#: Envoy's names of the counters: name -> field.
LIMIT_STATS = {
    f"http_local_rate_limit.{name}": name for name in ("enabled", "ok", "rate_limited", "enforced")
}
FAULT_STATS = {
    "fault.active_faults": "active",
    "fault.delays_injected": "delays_injected",
    "fault.aborts_injected": "aborts_injected",
    "fault.response_rl_injected": "response_rl_injected",
    "fault.faults_overflow": "overflow",
}

#: A global rate limit as the requests of one kind meet it.
QUOTA_DTYPE = np.dtype(
    [
        ("window_start", "i4"),  # quota_windows[window_start:][:window_count]
        ("window_count", "i4"),  # 0: nothing is asked
        ("distribution", "i4"),  # of the latency of the service
        ("failure_mode_deny", "i4"),  # 1: what the service does not answer in time is refused
        ("status", "i4"),  # of a request over the limit
        ("status_on_error", "i4"),
        ("timeout_ns", "i8"),
        ("users", "i4"),  # as of LIMIT_DTYPE
    ],
    align=True,
)

#: What a rate limit service counts of one descriptor and its values, for all proxies.
QUOTA_WINDOW_DTYPE = np.dtype(
    [
        ("unit_ns", "i8"),
        ("requests_per_unit", "i8"),
        ("number", "i8"),  # of the window that `requests` are of
        ("requests", "i8"),
    ],
    align=True,
)

#: Envoy's counters of a global rate limit: one row a proxy.
QUOTA_COUNTS_DTYPE = np.dtype(
    [("ok", "i8"), ("over_limit", "i8"), ("error", "i8"), ("failure_mode_allowed", "i8")],
    align=True,
)
QUOTA_STATS = {f"ratelimit.{name}": name for name in QUOTA_COUNTS_DTYPE.names or ()}

#: A copy of the requests of a route; the answers to it are ignored.
MIRROR_DTYPE = np.dtype(
    [
        ("share", "f8"),
        ("route", "i4"),  # ROUTE row of the copies: no retries, no filters
        ("cluster", "i4"),  # counted from the proxy's first CLUSTER row
    ],
    align=True,
)

#: The filters of a route.
FILTER_DTYPE = np.dtype(
    [
        ("fault", "i4"),  # FAULT row, or NO_INDEX
        ("limit", "i4"),  # LIMIT row, or NO_INDEX
        ("quota", "i4"),  # QUOTA row, or NO_INDEX
        ("mirror_start", "i4"),
        ("mirror_count", "i4"),
    ],
    align=True,
)

#: The filters of an inbound proxy: those of every replica of a workload.
INBOUND_DTYPE = np.dtype(
    [
        ("limit_start", "i4"),  # inbound_limits[limit_start + call * classes + class]; or NO_INDEX
        ("gradient_rule", "i4"),  # GRADIENT_RULE row, or NO_INDEX
    ],
    align=True,
)
