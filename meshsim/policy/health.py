"""The health of a cluster's hosts as one client proxy sees it: what happens, when it matters.

Rule: passive health (outlier detection, failure accrual) hears of every request by four calls:
`settle_health` before a pick, `on_picked` after it, `on_request_connected` when the request has
its connection and `on_request_result` when it has ended; `on_request_dropped` if nobody waits for
its result.  Active health checks report to `on_check_result`.  Whatever changes a host's
`unhealthy` ends in `believe_change`, which merges changes and minds the panic threshold; only who
is on probation (failure accrual, Linkerd's) is always believed at once.

What becomes due by the clock alone (sweeps, the end of a penalty) is evaluated late but at its
own time: `settle_health` catches up from ``due_ns`` to now, in order, before anything else
happens.  So there is no timer, and an idle cluster costs nothing; what one proxy does between two
of its requests nobody can see.

Calls are for clusters that are watched (``clusters["health"]`` is a row), whose configuration has
a HEALTH_RULE row therefore.

References
----------
Envoy, source/common/router/router.cc (updateOutlierDetection, onUpstreamReset: an overflow is not
the host's doing), source/common/router/upstream_request.cc (onPoolReady).
"""

from __future__ import annotations

from typing import Any

from meshsim.jit import kernel_jit
from meshsim.policy import failure_accrual, health_check, outlier_detection, outlier_sweep
from meshsim.policy.load_balancing.slow_start import begin_slow_start
from meshsim.policy.panic import select_hosts
from meshsim.policy.update_merge import believe_change, believe_now
from meshsim.state.codes import NEVER_NS, RESET_NO_HOST, RESET_NONE, RESET_OVERFLOW

__all__ = [
    "on_check_result",
    "on_picked",
    "on_request_connected",
    "on_request_dropped",
    "on_request_result",
    "settle_health",
]


@kernel_jit
def _next_due_ns(
    hosts: Any,
    members: Any,
    clusters: Any,
    cluster: int,
    rules: Any,
    rule: int,
    healths: Any,
    groups: Any,
    now_ns: int,
) -> int:
    """Return when something next becomes due by the clock alone [ns], or `NEVER_NS`."""
    due_ns = NEVER_NS
    if rules["interval_ns"][rule] > 0:
        due_ns = outlier_sweep.sweep_is_due(
            hosts, members, clusters, cluster, rules, rule, healths, groups, now_ns
        )
    if rules["max_failures"][rule] > 0:
        over_ns = failure_accrual.penalty_is_over(hosts, members, clusters, cluster, healths)
        due_ns = min(due_ns, over_ns)
    return min(due_ns, groups["merge_due_ns"][clusters["health"][cluster]])


@kernel_jit
def _settle(
    hosts: Any,
    members: Any,
    clusters: Any,
    cluster: int,
    configs: Any,
    rules: Any,
    rule: int,
    healths: Any,
    groups: Any,
    ejections: Any,
    now_ns: int,
) -> None:
    """Do what has become due until `now_ns`, at its own time and in order."""
    group = clusters["health"][cluster]
    while groups["due_ns"][group] <= now_ns:
        due_ns = groups["due_ns"][group]
        if groups["merge_due_ns"][group] <= due_ns:
            believe_now(hosts, members, clusters, cluster, configs, groups, due_ns)
        changed = False
        interval_ns = rules["interval_ns"][rule]
        if interval_ns > 0 and (due_ns - groups["origin_ns"][group]) % interval_ns == 0:
            changed = outlier_sweep.sweep(
                hosts, members, clusters, cluster, rules, rule, healths, groups, ejections, due_ns
            )
        if rules["max_failures"][rule] > 0 and failure_accrual.end_penalties(
            hosts, members, clusters, cluster, healths, due_ns
        ):
            changed = True
        if changed:
            believe_change(hosts, members, clusters, cluster, configs, groups, due_ns)
        groups["due_ns"][group] = _next_due_ns(
            hosts, members, clusters, cluster, rules, rule, healths, groups, due_ns
        )


@kernel_jit
def settle_health(
    hosts: Any,
    members: Any,
    clusters: Any,
    cluster: int,
    configs: Any,
    rules: Any,
    healths: Any,
    groups: Any,
    ejections: Any,
    now_ns: int,
) -> None:
    """Do what has become due in `cluster` until `now_ns`.

    Parameters
    ----------
    hosts : ndarray[HOST_DTYPE], shape (n_hosts,)
        Modified in place: healthy, unhealthy.
    members : ndarray[int32], shape (n_members,)
        Read only.
    clusters : ndarray[CLUSTER_DTYPE], shape (n_clusters,)
        Read only.
    cluster : int
        Row of `clusters`; it has a CLUSTER_HEALTH row.
    configs : ndarray[CLUSTER_CONFIG_DTYPE], shape (n_configs,)
        Read only.
    rules : ndarray[HEALTH_RULE_DTYPE], shape (n_rules,)
        Read only.
    healths : ndarray[HOST_HEALTH_DTYPE], shape (n_healths,)
        Rows of the cluster's hosts are modified in place.
    groups : ndarray[CLUSTER_HEALTH_DTYPE], shape (n_groups,)
        The cluster's row is modified in place.
    ejections : ndarray[int64], shape (n_groups, 2 * EJECTION_COUNT)
        The cluster's row is modified in place: detected and enforced ejections by kind.
    now_ns : int
        Current time of the caller's clock [ns].
    """
    rule = configs["health"][clusters["config"][cluster]]
    if groups["due_ns"][clusters["health"][cluster]] <= now_ns:
        _settle(
            hosts, members, clusters, cluster, configs, rules, rule, healths, groups, ejections,
            now_ns,
        )  # fmt: skip


@kernel_jit
def on_picked(
    hosts: Any,
    members: Any,
    clusters: Any,
    cluster: int,
    configs: Any,
    rules: Any,
    healths: Any,
    groups: Any,
    host: int,
) -> None:
    """Count a pick in panic, and let a request to a host in probation be its probe.

    Parameters are those of `settle_health`; `host` is the row that was picked.
    """
    group = clusters["health"][cluster]
    if groups["panic"][group] == 1:
        groups["panic_picks"][group] += 1
    rule = configs["health"][clusters["config"][cluster]]
    if rules["max_failures"][rule] > 0 and failure_accrual.begin_probation(hosts, healths, host):
        select_hosts(hosts, members, clusters, cluster, configs, groups)


@kernel_jit
def on_request_connected(
    hosts: Any,
    members: Any,
    clusters: Any,
    cluster: int,
    configs: Any,
    rules: Any,
    healths: Any,
    groups: Any,
    ejections: Any,
    host: int,
    now_ns: int,
) -> None:
    """Note that a request to `host` has its connection.

    Parameters are those of `settle_health`.
    """
    rule = configs["health"][clusters["config"][cluster]]
    if rules["interval_ns"][rule] == 0:
        return
    if rules["split_external_local_origin_errors"][rule] == 0:
        return
    _settle(
        hosts, members, clusters, cluster, configs, rules, rule, healths, groups, ejections, now_ns
    )
    outlier_detection.on_connected(hosts, rules, rule, healths, host)
    group = clusters["health"][cluster]
    if groups["due_ns"][group] == NEVER_NS or rules["max_failures"][rule] > 0:
        groups["due_ns"][group] = _next_due_ns(
            hosts, members, clusters, cluster, rules, rule, healths, groups, now_ns
        )


@kernel_jit
def on_request_result(
    hosts: Any,
    members: Any,
    clusters: Any,
    cluster: int,
    configs: Any,
    rules: Any,
    healths: Any,
    groups: Any,
    ejections: Any,
    host: int,
    status: int,
    reset: int,
    now_ns: int,
) -> None:
    """Take what a request to `host` came to.

    Parameters
    ----------
    host : int
        Row of `hosts`.
    status : int
        Of the response; 0 if there was none.
    reset : int
        `RESET_*` code: what ended it without a response, RESET_PER_TRY_TIMEOUT for any timeout;
        with a status it is ignored.

    Other parameters are those of `settle_health`.
    """
    rule = configs["health"][clusters["config"][cluster]]
    _settle(
        hosts, members, clusters, cluster, configs, rules, rule, healths, groups, ejections, now_ns
    )
    changed = False
    group = clusters["health"][cluster]
    if status > 0:
        reset = RESET_NONE
    if reset in (RESET_OVERFLOW, RESET_NO_HOST):
        changed = failure_accrual.on_probe_lost(hosts, healths, host)
    else:
        if rules["interval_ns"][rule] > 0:
            changed = outlier_detection.on_result(
                hosts, members, clusters, cluster, rules, rule, healths, groups, ejections,
                host, status, reset, now_ns,
            )  # fmt: skip
        failed = status >= 500 or reset != RESET_NONE
        if rules["max_failures"][rule] > 0 and failure_accrual.on_answered(
            hosts, rules, rule, healths, groups, group, host, failed, now_ns
        ):
            changed = True
    if changed:
        believe_change(hosts, members, clusters, cluster, configs, groups, now_ns)
    # Between two changes the next sweep stays the next sweep, unless a penalty hides it.
    unknown = groups["due_ns"][group] == NEVER_NS or rules["max_failures"][rule] > 0
    if changed or (unknown and rules["interval_ns"][rule] > 0):
        groups["due_ns"][group] = _next_due_ns(
            hosts, members, clusters, cluster, rules, rule, healths, groups, now_ns
        )


@kernel_jit
def on_request_dropped(
    hosts: Any,
    members: Any,
    clusters: Any,
    cluster: int,
    configs: Any,
    healths: Any,
    groups: Any,
    host: int,
) -> None:
    """Note that nobody waits any more for a request to `host`, and it says nothing of the host.

    Parameters are those of `settle_health`.
    """
    if failure_accrual.on_probe_lost(hosts, healths, host):
        select_hosts(hosts, members, clusters, cluster, configs, groups)


@kernel_jit
def on_check_result(
    hosts: Any,
    members: Any,
    clusters: Any,
    cluster: int,
    configs: Any,
    rules: Any,
    healths: Any,
    groups: Any,
    ejections: Any,
    host: int,
    result: int,
    now_ns: int,
) -> int:
    """Take the result of a health check of `host`; return how long to wait for the next [ns].

    Parameters
    ----------
    result : int
        `CHECK_*` code.

    Other parameters are those of `settle_health`.
    """
    rule = configs["health"][clusters["config"][cluster]]
    _settle(
        hosts, members, clusters, cluster, configs, rules, rule, healths, groups, ejections, now_ns
    )
    before = hosts["unhealthy"][host]
    changed, delay_ns = health_check.on_checked(
        hosts, clusters, cluster, rules, rule, healths, groups, host, result, now_ns
    )
    if changed:
        if hosts["unhealthy"][host] & before != before:  # it is well again
            begin_slow_start(hosts, host, configs, clusters["config"][cluster], now_ns)
        believe_change(hosts, members, clusters, cluster, configs, groups, now_ns)
    return delay_ns
