"""Panic: when so few hosts are healthy that a cluster had better use all of them.

Rule (Envoy): the *availability* of a cluster is min(100, 140 * healthy / hosts) percent, cut to a
whole number; below 100 %, a cluster whose share of healthy hosts is below `panic_threshold` (50 %
in Envoy; 0 switches panic off) is in panic and sends to all its hosts as if they were healthy.
With a threshold of 0 and no healthy host a request ends at once: 503, flag UH.  A host that
discovery does not name (`WITHDRAWN`) is none of the hosts.

`select_hosts` is the only writer of a host's `healthy`, which is what load balancers look at.
Whoever changes a host's `unhealthy` (or the members) calls it, so a pick pays nothing.

References
----------
Envoy, source/extensions/load_balancing_policies/common/load_balancer_impl.cc (isHostSetInPanic,
recalculatePerPriorityPanic), api/envoy/config/cluster/v3/cluster.proto (healthy_panic_threshold);
docs/root/intro/arch_overview/upstream/load_balancing/{panic_threshold,priority}.rst.
"""

from __future__ import annotations

from typing import Any

from meshsim.jit import kernel_jit
from meshsim.state.codes import NO_INDEX
from meshsim.state.health import HEALTHY, PANICKING, UNHEALTHY, WITHDRAWN

__all__ = ["is_in_panic", "select_hosts"]

#: Envoy's overprovisioning factor [percent].
_OVERPROVISIONING = 140
_ALL = 100


@kernel_jit
def is_in_panic(healthy_count: int, host_count: int, threshold: int) -> bool:
    """Return whether a cluster (its only priority) is in panic.

    Parameters
    ----------
    healthy_count, host_count : int
        0 <= healthy_count <= host_count.
    threshold : int
        `panic_threshold`, 0 to 100 [percent].
    """
    if host_count == 0 or _OVERPROVISIONING * healthy_count // host_count >= _ALL:
        return False
    return _ALL * healthy_count < threshold * host_count


@kernel_jit
def select_hosts(
    hosts: Any, members: Any, clusters: Any, cluster: int, configs: Any, groups: Any
) -> None:
    """Say of every member of `cluster` whether it may be picked.

    Parameters
    ----------
    hosts : ndarray[HOST_DTYPE], shape (n_hosts,)
        Modified in place: healthy.
    members : ndarray[int32], shape (n_members,)
        Read only.
    clusters : ndarray[CLUSTER_DTYPE], shape (n_clusters,)
        Read only.
    cluster : int
        Row of `clusters`.
    configs : ndarray[CLUSTER_CONFIG_DTYPE], shape (n_configs,)
        Read only.
    groups : ndarray[CLUSTER_HEALTH_DTYPE], shape (n_groups,)
        The cluster's row, if it has one, is modified in place: panic.

    Notes
    -----
    O(members), at a change of health only.
    """
    start = clusters["member_start"][cluster]
    count = clusters["member_count"][cluster]
    host_count = 0
    healthy_count = 0
    for position in range(count):
        reasons = hosts["unhealthy"][members[start + position]]
        if reasons & WITHDRAWN == 0:
            host_count += 1
        if reasons == 0:
            healthy_count += 1
    threshold = configs["panic_threshold"][clusters["config"][cluster]]
    panics = is_in_panic(healthy_count, host_count, threshold)
    for position in range(count):
        host = members[start + position]
        reasons = hosts["unhealthy"][host]
        if reasons == 0:
            hosts["healthy"][host] = HEALTHY
        elif panics and reasons & WITHDRAWN == 0:
            hosts["healthy"][host] = PANICKING
        else:
            hosts["healthy"][host] = UNHEALTHY
    group = clusters["health"][cluster]
    if group != NO_INDEX:
        groups["panic"][group] = 1 if panics else 0
