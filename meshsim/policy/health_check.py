"""Active health checks: a host is asked at intervals whether it is well.

Rule (Envoy).  A check passes, fails by its status, or fails by the network (refused, reset, no
answer within `timeout`).  A healthy host becomes unhealthy at a failed status, or after
`unhealthy_threshold` network failures in a row; an unhealthy one becomes healthy after
`healthy_threshold` passes in a row, or at once if it is the first check of its life.  A host that
passes while outlier detection holds it ejected is taken back
(`successful_active_health_check_uneject_host`).  One that passes with an answer marked
`x-envoy-degraded` is degraded until it passes without.

The next check begins an interval after this one has ended:

    the cluster has never opened a connection: no_traffic_interval, or
                                               no_traffic_healthy_interval if the host is well
    passed, and a change is pending:           healthy_edge_interval
    passed:                                    interval
    failed, and a change is pending:           unhealthy_edge_interval
    failed:                                    unhealthy_interval

plus U[0, 1) * interval_jitter_percent of it, plus U[0, 1) * interval_jitter, at least 1 ms.  The
first check of a host begins at U[0, 1) * initial_jitter.

References
----------
Envoy, source/extensions/health_checkers/common/health_checker_base_impl.cc (interval,
intervalWithJitter, handleSuccess, setUnhealthy); source/common/upstream/outlier_detection_impl.cc
(initialize); api/envoy/config/core/v3/health_check.proto.
"""

from __future__ import annotations

from typing import Any

from meshsim.jit import kernel_jit
from meshsim.policy.outlier_detection import next_draw, uneject
from meshsim.state.health import (
    BY_CHECK,
    BY_OUTLIER,
    CHECK_DEGRADED,
    CHECK_FAILED,
    CHECK_PASSED,
    DEGRADED_BY_CHECK,
)

__all__ = ["first_check_ns", "next_check_ns", "on_checked"]

_SHORTEST_NS = 1_000_000

# Of what came of a check.
_UNCHANGED = 0
_CHANGED = 1
_PENDING = 2


@kernel_jit
def first_check_ns(rules: Any, rule: int, groups: Any, group: int) -> int:
    """Return how long to wait for the first check of a host [ns].

    Parameters are those of `on_checked`.
    """
    jitter_ns = rules["initial_jitter_ns"][rule]
    return int(next_draw(groups, group) * jitter_ns) if jitter_ns > 0 else 0


@kernel_jit
def next_check_ns(
    clusters: Any,
    cluster: int,
    rules: Any,
    rule: int,
    groups: Any,
    result: int,
    pending: bool,
) -> int:
    """Return how long to wait for the next check of a host [ns].

    Parameters are those of `on_checked`; `pending` says that more results like this one would
    change its health.
    """
    passed = result in (CHECK_PASSED, CHECK_DEGRADED)
    if clusters["connections_total"][cluster] == 0:
        delay_ns = int(rules["no_traffic_interval_ns"][rule])
        if passed and not pending:
            delay_ns = int(rules["no_traffic_healthy_interval_ns"][rule])
    elif passed:
        delay_ns = int(rules["check_interval_ns"][rule])
        if pending:
            delay_ns = int(rules["healthy_edge_interval_ns"][rule])
    else:
        delay_ns = int(rules["unhealthy_interval_ns"][rule])
        if pending:
            delay_ns = int(rules["unhealthy_edge_interval_ns"][rule])
    group = clusters["health"][cluster]
    part_ns = delay_ns * int(rules["interval_jitter_percent"][rule]) // 100
    if part_ns > 0:
        delay_ns += int(next_draw(groups, group) * part_ns)
    jitter_ns = rules["interval_jitter_ns"][rule]
    if jitter_ns > 0:
        delay_ns += int(next_draw(groups, group) * jitter_ns)
    return max(delay_ns, _SHORTEST_NS)


@kernel_jit
def _mark(hosts: Any, host: int, degraded: bool) -> bool:
    """Note whether a host that passed is degraded; return whether that is new."""
    before = int(hosts["degraded"][host])
    after = before & ~DEGRADED_BY_CHECK
    if degraded:
        after |= DEGRADED_BY_CHECK
    hosts["degraded"][host] = after
    return before != after


@kernel_jit
def _passed(hosts: Any, rules: Any, rule: int, healths: Any, host: int) -> int:
    health = hosts["health"][host]
    healths["checks_failed"][health] = 0
    if hosts["unhealthy"][host] & BY_CHECK == 0:
        return _UNCHANGED
    healths["checks_passed"][health] += 1
    enough = healths["checks_passed"][health] >= rules["healthy_threshold"][rule]
    if not enough and healths["checked"][health] == 1:
        return _PENDING
    hosts["unhealthy"][host] &= ~BY_CHECK
    return _CHANGED


@kernel_jit
def _failed(hosts: Any, rules: Any, rule: int, healths: Any, host: int, result: int) -> int:
    health = hosts["health"][host]
    healths["checks_passed"][health] = 0
    if hosts["unhealthy"][host] & BY_CHECK != 0:
        return _UNCHANGED
    if result != CHECK_FAILED:
        healths["checks_failed"][health] += 1
        if healths["checks_failed"][health] < rules["unhealthy_threshold"][rule]:
            return _PENDING
    hosts["unhealthy"][host] |= BY_CHECK
    return _CHANGED


@kernel_jit
def on_checked(
    hosts: Any,
    clusters: Any,
    cluster: int,
    rules: Any,
    rule: int,
    healths: Any,
    groups: Any,
    host: int,
    result: int,
    now_ns: int,
) -> tuple[bool, int]:
    """Take the result of a check of `host`.

    Parameters
    ----------
    hosts : ndarray[HOST_DTYPE], shape (n_hosts,)
        Row `host` is modified in place: unhealthy, degraded.
    clusters : ndarray[CLUSTER_DTYPE], shape (n_clusters,)
        Read only.
    cluster : int
        Row of `clusters`, the host's.
    rules : ndarray[HEALTH_RULE_DTYPE], shape (n_rules,)
        Read only.
    rule : int
        Row of `rules`.
    healths : ndarray[HOST_HEALTH_DTYPE], shape (n_healths,)
        The host's row is modified in place.
    groups : ndarray[CLUSTER_HEALTH_DTYPE], shape (n_groups,)
        The cluster's row is modified in place.
    host : int
        Row of `hosts`.
    result : int
        `CHECK_*` code.
    now_ns : int
        Current time of the caller's clock [ns].

    Returns
    -------
    changed : bool
        Whether the host's `unhealthy` or `degraded` changed.
    delay_ns : int
        Until the next check begins [ns].
    """
    health = hosts["health"][host]
    group = clusters["health"][cluster]
    before = hosts["unhealthy"][host]
    groups["checks"][group] += 1
    marked = False
    if result in (CHECK_PASSED, CHECK_DEGRADED):
        groups["check_successes"][group] += 1
        transition = _passed(hosts, rules, rule, healths, host)
        marked = _mark(hosts, host, result == CHECK_DEGRADED)
        takes_back = rules["successful_active_health_check_uneject_host"][rule] == 1
        well = hosts["unhealthy"][host] & BY_CHECK == 0
        if takes_back and well and hosts["unhealthy"][host] & BY_OUTLIER != 0:
            uneject(hosts, healths, host, now_ns)
    else:
        groups["check_failures"][group] += 1
        if result != CHECK_FAILED:
            groups["check_network_failures"][group] += 1
        transition = _failed(hosts, rules, rule, healths, host, result)
    healths["checked"][health] = 1
    pending = transition == _PENDING
    delay_ns = next_check_ns(clusters, cluster, rules, rule, groups, result, pending)
    return bool(marked or hosts["unhealthy"][host] != before), delay_ns
