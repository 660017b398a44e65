"""Health policies as rows: rules, and what each client proxy believes to begin with.

Rule: a cluster configuration with outlier detection, failure accrual or health checks, or whose
members are grouped by priority and locality, has one HEALTH_RULE row; only clusters under such a
rule, and their hosts, have rows of belief.  A run begins with every host healthy and checked once:
the mesh was there before.
"""

from __future__ import annotations

import numpy as np

from meshsim.state.codes import NO_INDEX, PICK_GROUPED
from meshsim.state.health import (
    BY_OUTLIER,
    EJECTION_COUNT,
    EJECTION_NAMES,
    HEALTH_RULE_DTYPE,
    blank_cluster_health,
    blank_host_health,
)
from meshsim.topology.compiled.layout import Rows
from meshsim.topology.model import (
    ClusterPolicy,
    FailureAccrual,
    HealthCheck,
    OutlierDetection,
)

__all__ = [
    "beliefs",
    "fill_health_rule",
    "health_counters",
    "is_watched",
    "no_ejections",
    "rules_of",
]

_DURATIONS = ("interval", "base_ejection_time", "max_ejection_time", "max_ejection_time_jitter")
_NUMBERS = (
    "consecutive_5xx",
    "consecutive_gateway_failure",
    "consecutive_local_origin_failure",
    "split_external_local_origin_errors",
    "max_ejection_percent",
    "always_eject_one_host",
    "success_rate_minimum_hosts",
    "success_rate_request_volume",
    "success_rate_stdev_factor",
    "failure_percentage_threshold",
    "failure_percentage_minimum_hosts",
    "failure_percentage_request_volume",
    "successful_active_health_check_uneject_host",
    "enforcing_consecutive_5xx",
    "enforcing_consecutive_gateway_failure",
    "enforcing_consecutive_local_origin_failure",
    "enforcing_success_rate",
    "enforcing_local_origin_success_rate",
    "enforcing_failure_percentage",
)


def is_watched(policy: ClusterPolicy) -> bool:
    """Return whether `policy` watches the health of its hosts, and needs a HEALTH_RULE row."""
    blocks = (policy.outlier_detection, policy.failure_accrual, policy.health_check)
    return any(block is not None for block in blocks)


def fill_health_rule(fields: Rows, policy: ClusterPolicy) -> None:
    """Fill a HEALTH_RULE row.

    Parameters
    ----------
    fields : ndarray[HEALTH_RULE_DTYPE], shape (1,)
        Zero so far: everything is off.
    policy : ClusterPolicy
        Its health blocks are filled, or None.
    """
    if policy.outlier_detection is not None:
        _fill_outlier_detection(fields, policy.outlier_detection)
    if policy.failure_accrual is not None:
        _fill_failure_accrual(fields, policy.failure_accrual)
    if policy.health_check is not None:
        _fill_health_check(fields, policy.health_check)


def _fill_outlier_detection(fields: Rows, stated: OutlierDetection) -> None:
    for name in _DURATIONS:
        fields[f"{name}_ns"] = getattr(stated, name)
    for name in _NUMBERS:
        fields[name] = getattr(stated, name)
    # Envoy names the field by the percentage and the counter by the origin.
    share = stated.enforcing_failure_percentage_local_origin
    fields["enforcing_local_origin_failure_percentage"] = share


def _fill_failure_accrual(fields: Rows, stated: FailureAccrual) -> None:
    fields["max_failures"] = stated.consecutive_max_failures
    fields["min_penalty_ns"] = stated.consecutive_min_penalty
    fields["max_penalty_ns"] = stated.consecutive_max_penalty
    fields["jitter_ratio"] = stated.consecutive_jitter_ratio


def _fill_health_check(fields: Rows, stated: HealthCheck) -> None:
    fields["check_interval_ns"] = stated.interval
    fields["check_timeout_ns"] = stated.timeout
    for name in (
        "unhealthy_interval",
        "unhealthy_edge_interval",
        "healthy_edge_interval",
        "no_traffic_interval",
        "no_traffic_healthy_interval",
        "initial_jitter",
        "interval_jitter",
    ):
        fields[f"{name}_ns"] = getattr(stated, name)
    for name in ("interval_jitter_percent", "unhealthy_threshold", "healthy_threshold"):
        fields[name] = getattr(stated, name)


def rules_of(policies: list[ClusterPolicy], configs: Rows) -> Rows:
    """Return the HEALTH_RULE rows of `policies`, one a CLUSTER_CONFIG row, and link them.

    Parameters
    ----------
    policies : list of ClusterPolicy
        Of the first rows of `configs`, in order.
    configs : ndarray[CLUSTER_CONFIG_DTYPE]
        Modified in place: health.
    """
    configs["health"] = NO_INDEX
    watched = [
        row
        for row, policy in enumerate(policies)
        if is_watched(policy) or configs["picking"][row] == PICK_GROUPED
    ]
    rules = np.zeros(len(watched), HEALTH_RULE_DTYPE)
    for rule, row in enumerate(watched):
        configs["health"][row] = rule
        fill_health_rule(rules[rule : rule + 1], policies[row])
    return rules


def no_ejections(count: int) -> Rows:
    """Return the counts of ejections of `count` clusters: columns detected, then enforced."""
    return np.zeros((count, 2 * EJECTION_COUNT), np.int64)


def beliefs(hosts: Rows, clusters: Rows, configs: Rows) -> dict[str, Rows]:
    """Return the rows of belief for `hosts` and `clusters`, and link them.

    Parameters
    ----------
    hosts : ndarray[HOST_DTYPE]
        Modified in place: health.
    clusters : ndarray[CLUSTER_DTYPE]
        Modified in place: health.
    configs : ndarray[CLUSTER_CONFIG_DTYPE]
        Read only.
    """
    watched = configs["health"][clusters["config"]] != NO_INDEX
    clusters["health"] = np.where(watched, np.cumsum(watched) - 1, NO_INDEX)
    of_watched = np.zeros(len(hosts), bool)
    if watched.any():
        of_watched = watched[hosts["cluster"]]
    hosts["health"] = np.where(of_watched, np.cumsum(of_watched) - 1, NO_INDEX)
    host_health = blank_host_health(int(of_watched.sum()))
    host_health["host"] = np.flatnonzero(of_watched)
    host_health["checked"] = 1
    cluster_health = blank_cluster_health(int(watched.sum()))
    cluster_health["cluster"] = np.flatnonzero(watched)
    return {
        "host_health": host_health,
        "cluster_health": cluster_health,
        "ejections": no_ejections(len(cluster_health)),
    }


#: Envoy's counters of a cluster, and the fields of its CLUSTER_HEALTH row.  Failure accrual is
#: Linkerd's, which has no counter of its own.
_COUNTERS = {
    "lb_healthy_panic": "panic_picks",
    "outlier_detection.ejections_enforced_total": "ejections_enforced",
    "outlier_detection.ejections_overflow": "ejections_overflow",
    "failure_accrual.unavailable_total": "accrual_total",
    "health_check.attempt": "checks",
    "health_check.success": "check_successes",
    "health_check.failure": "check_failures",
    "health_check.network_failure": "check_network_failures",
}


def health_counters(hosts: Rows, groups: Rows, ejections: Rows) -> dict[str, int]:
    """Return Envoy's counters of health, added up over some clusters.

    Parameters
    ----------
    hosts : ndarray[HOST_DTYPE]
        Members of these clusters.
    groups : ndarray[CLUSTER_HEALTH_DTYPE], shape (n_groups,)
        Their rows.
    ejections : ndarray[int64], shape (n_groups, 2 * EJECTION_COUNT)
    """
    ejected = int((hosts["unhealthy"] & BY_OUTLIER != 0).sum())
    counters = {"outlier_detection.ejections_active": ejected}
    counters |= {name: int(groups[field].sum()) for name, field in _COUNTERS.items()}
    totals = ejections.sum(axis=0)
    for kind, name in enumerate(EJECTION_NAMES):
        detected, enforced = int(totals[kind]), int(totals[EJECTION_COUNT + kind])
        counters[f"outlier_detection.ejections_detected_{name}"] = detected
        counters[f"outlier_detection.ejections_enforced_{name}"] = enforced
    return counters
