"""What one client proxy believes of the health of its hosts, and the rules it goes by.

Rows exist only where something watches: a HEALTH_RULE row for each cluster configuration that
states outlier detection, failure accrual or health checks, or whose members are grouped by priority
and locality (`meshsim.state.locality`: who is healthy decides where requests go); a CLUSTER_HEALTH
row for each cluster
(of one proxy) under such a rule; a HOST_HEALTH row for each of its hosts.  The field ``health`` of
CLUSTER_CONFIG, CLUSTER and HOST rows leads to them, or is `NO_INDEX`.
"""

from __future__ import annotations

import numpy as np

from meshsim.state.codes import NEVER_NS, NO_INDEX
from meshsim.state.rows import row_dtype

__all__ = [
    "ACCRUAL_AVAILABLE",
    "ACCRUAL_PROBATION",
    "ACCRUAL_PROBING",
    "ACCRUAL_UNAVAILABLE",
    "BY_ACCRUAL",
    "BY_CHECK",
    "BY_DISCOVERY",
    "BY_OUTLIER",
    "CHECK_DEGRADED",
    "CHECK_FAILED",
    "CHECK_NETWORK_FAILURE",
    "CHECK_PASSED",
    "CHECK_TIMEOUT",
    "CLUSTER_HEALTH_DTYPE",
    "DEGRADED_BY_CHECK",
    "DEGRADED_BY_DISCOVERY",
    "EJECTION_CONSECUTIVE_5XX",
    "EJECTION_CONSECUTIVE_GATEWAY_FAILURE",
    "EJECTION_CONSECUTIVE_LOCAL_ORIGIN_FAILURE",
    "EJECTION_COUNT",
    "EJECTION_FAILURE_PERCENTAGE",
    "EJECTION_LOCAL_ORIGIN_FAILURE_PERCENTAGE",
    "EJECTION_LOCAL_ORIGIN_SUCCESS_RATE",
    "EJECTION_NAMES",
    "EJECTION_SUCCESS_RATE",
    "HEALTHY",
    "HEALTH_RULE_DTYPE",
    "HOST_HEALTH_DTYPE",
    "LONG_AGO_NS",
    "PANICKING",
    "UNHEALTHY",
    "WITHDRAWN",
    "blank_cluster_health",
    "blank_host_health",
]

# What a host's `healthy` says.
UNHEALTHY = 0  # excluded
HEALTHY = 1
PANICKING = 2  # unhealthy, and selectable because its cluster (or priority) is in panic

# Why a host is unhealthy: bits of its `unhealthy`.
WITHDRAWN = 1 << 0  # no member for now: discovery does not name it
BY_CHECK = 1 << 1  # Envoy's FAILED_ACTIVE_HC
BY_OUTLIER = 1 << 2  # Envoy's FAILED_OUTLIER_CHECK: ejected
BY_ACCRUAL = 1 << 3  # Linkerd's failure accrual
BY_DISCOVERY = 1 << 4  # Envoy's FAILED_EDS_HEALTH: the control plane says so

# What an ejection is for: columns of the table of ejections, detected first, then enforced.
EJECTION_CONSECUTIVE_5XX = 0
EJECTION_CONSECUTIVE_GATEWAY_FAILURE = 1
EJECTION_CONSECUTIVE_LOCAL_ORIGIN_FAILURE = 2
EJECTION_SUCCESS_RATE = 3
EJECTION_LOCAL_ORIGIN_SUCCESS_RATE = 4
EJECTION_FAILURE_PERCENTAGE = 5
EJECTION_LOCAL_ORIGIN_FAILURE_PERCENTAGE = 6
EJECTION_COUNT = 7
#: As in Envoy's counters ``outlier_detection.ejections_{detected,enforced}_*``.
EJECTION_NAMES = (
    "consecutive_5xx",
    "consecutive_gateway_failure",
    "consecutive_local_origin_failure",
    "success_rate",
    "local_origin_success_rate",
    "failure_percentage",
    "local_origin_failure_percentage",
)

# States of a host under failure accrual.
ACCRUAL_AVAILABLE = 0
ACCRUAL_UNAVAILABLE = 1  # until its penalty ends
ACCRUAL_PROBATION = 2  # one request may try
ACCRUAL_PROBING = 3  # it is under way

# Results of a health check.
CHECK_PASSED = 0
CHECK_FAILED = 1  # answered, with an unexpected status
CHECK_NETWORK_FAILURE = 2  # refused, reset
CHECK_TIMEOUT = 3
CHECK_DEGRADED = 4  # passed, and the answer is marked x-envoy-degraded

# Who says that a host is degraded: bits of its `degraded`.
DEGRADED_BY_DISCOVERY = 1 << 0  # Envoy's DEGRADED_EDS_HEALTH
DEGRADED_BY_CHECK = 1 << 1  # Envoy's DEGRADED_ACTIVE_HC

HEALTH_RULE_DTYPE = np.dtype(
    [
        # outlier detection
        ("interval_ns", "i8"),  # between sweeps; 0: no outlier detection
        ("base_ejection_time_ns", "i8"),
        ("max_ejection_time_ns", "i8"),
        ("max_ejection_time_jitter_ns", "i8"),
        ("consecutive_5xx", "i4"),  # 0: off
        ("consecutive_gateway_failure", "i4"),
        ("consecutive_local_origin_failure", "i4"),
        ("split_external_local_origin_errors", "i4"),
        ("max_ejection_percent", "i4"),
        ("always_eject_one_host", "i4"),
        ("success_rate_minimum_hosts", "i4"),
        ("success_rate_request_volume", "i4"),
        ("success_rate_stdev_factor", "i4"),  # of 1000
        ("failure_percentage_threshold", "i4"),
        ("failure_percentage_minimum_hosts", "i4"),
        ("failure_percentage_request_volume", "i4"),
        *((f"enforcing_{name}", "i4") for name in EJECTION_NAMES),  # percent
        ("successful_active_health_check_uneject_host", "i4"),
        # failure accrual
        ("max_failures", "i4"),  # 0: no failure accrual
        ("min_penalty_ns", "i8"),
        ("max_penalty_ns", "i8"),
        ("jitter_ratio", "f8"),
        # active health checks
        ("check_interval_ns", "i8"),  # 0: no health checks
        ("check_timeout_ns", "i8"),
        ("unhealthy_interval_ns", "i8"),
        ("unhealthy_edge_interval_ns", "i8"),
        ("healthy_edge_interval_ns", "i8"),
        ("no_traffic_interval_ns", "i8"),
        ("no_traffic_healthy_interval_ns", "i8"),
        ("initial_jitter_ns", "i8"),
        ("interval_jitter_ns", "i8"),
        ("interval_jitter_percent", "i4"),
        ("unhealthy_threshold", "i4"),
        ("healthy_threshold", "i4"),
    ],
    align=True,
)

HOST_HEALTH_DTYPE = row_dtype(
    [
        ("host", "i4"),
        # outlier detection
        ("consecutive_5xx", "i4"),
        ("consecutive_gateway_failure", "i4"),
        ("consecutive_local_origin_failure", "i4"),
        ("external_requests", "i4"),  # since the last sweep
        ("external_successes", "i4"),
        ("local_requests", "i4"),
        ("local_successes", "i4"),
        ("back_off", "i4"),  # ejections that its next ejection counts, less what was forgiven
        # failure accrual
        ("accrual_state", "i4"),
        ("failures", "i4"),  # in a row
        ("penalties", "i4"),  # in a row
        # health checks
        ("checks_passed", "i4"),  # in a row
        ("checks_failed", "i4"),
        ("checked", "i4"),  # 1: it had its first check
        ("check_generation", "i4"),
        ("ejected_ns", "i8"),
        ("unejected_ns", "i8"),  # NEVER_NS: never was
        ("jitter_ns", "i8"),  # of its ejection
        ("penalty_end_ns", "i8"),
        ("check_started_ns", "i8"),
    ]
)

CLUSTER_HEALTH_DTYPE = row_dtype(
    [
        ("cluster", "i4"),
        ("panic", "i4"),  # 1: all its hosts are selectable
        ("due_ns", "i8"),  # when something becomes due by the clock alone, or NEVER_NS
        ("origin_ns", "i8"),  # sweeps are at origin + n * interval
        ("key", "u8"),  # draw key of this cluster at this proxy
        ("draws", "i8"),  # so far
        ("panic_picks", "i8"),  # lb_healthy_panic
        ("ejections_enforced", "i8"),
        ("ejections_overflow", "i8"),
        # the second line
        ("accrual_total", "i8"),  # times a host became unavailable
        ("checks", "i8"),
        ("check_successes", "i8"),
        ("check_failures", "i8"),
        ("check_network_failures", "i8"),
        ("success_rate_average", "f8"),  # of the last sweep [percent]; -1: too few hosts
        ("success_rate_threshold", "f8"),
        ("version", "i4"),  # counts changes of the health of its hosts that are believed
        # the third line: where changes of health are merged
        ("believed_ns", "i8"),  # when the last change was
        ("merge_due_ns", "i8"),  # when those that wait are, or NEVER_NS
        ("merged", "i8"),  # changes that had to wait
    ]
)


#: Before any change of health.
LONG_AGO_NS = -(1 << 62)


def blank_host_health(count: int) -> np.ndarray[tuple[int], np.dtype[np.void]]:
    """Return HOST_HEALTH rows of hosts that nothing is known against."""
    rows = np.zeros(count, HOST_HEALTH_DTYPE)
    rows["host"] = NO_INDEX
    rows["unejected_ns"] = NEVER_NS
    return rows


def blank_cluster_health(count: int) -> np.ndarray[tuple[int], np.dtype[np.void]]:
    """Return CLUSTER_HEALTH rows of clusters in which nothing has happened yet."""
    rows = np.zeros(count, CLUSTER_HEALTH_DTYPE)
    rows["cluster"] = NO_INDEX
    rows["due_ns"] = rows["merge_due_ns"] = NEVER_NS
    rows["believed_ns"] = LONG_AGO_NS
    rows["success_rate_average"] = rows["success_rate_threshold"] = -1.0
    return rows
