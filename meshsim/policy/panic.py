"""Panic: when so few hosts are healthy that a cluster had better use all of them.

Rule (Envoy): the *availability* of a cluster is min(100, 140 * healthy / hosts) percent, cut to a
whole number; below 100 %, a cluster whose share of healthy hosts is below `panic_threshold` (50 %
in Envoy; 0 switches panic off) is in panic and sends to all its hosts as if they were healthy.
With a threshold of 0 and no healthy host a request ends at once: 503, flag UH.  A host that
discovery does not name (`WITHDRAWN`) is none of the hosts.

`select_members` is the only writer of a host's `healthy`, which is what load balancers look at.
Whoever changes a host's `unhealthy` (or the members) calls `select_hosts`, so a pick pays nothing.
A cluster whose members are grouped does not panic as a whole, but each of its priorities does, by
the same threshold: `meshsim.policy.locality` decides that at the next pick.

References
----------
Envoy, source/extensions/load_balancing_policies/common/load_balancer_impl.cc (isHostSetInPanic,
recalculatePerPriorityPanic), api/envoy/config/cluster/v3/cluster.proto (healthy_panic_threshold);
docs/root/intro/arch_overview/upstream/load_balancing/{panic_threshold,priority}.rst.
"""

from __future__ import annotations

from typing import Any

from meshsim.jit import kernel_jit
from meshsim.state.codes import NO_INDEX, PICK_GROUPED
from meshsim.state.health import HEALTHY, PANICKING, UNHEALTHY, WITHDRAWN

__all__ = ["is_below_threshold", "is_in_panic", "select_hosts", "select_members"]

#: Envoy's overprovisioning factor [percent].
_OVERPROVISIONING = 140
_ALL = 100
_SELECTIONS_MASK = 0x7FFF


@kernel_jit
def is_below_threshold(healthy_count: int, host_count: int, threshold: int) -> bool:
    """Return whether so few hosts are healthy that a cluster or priority may panic.

    Parameters are those of `is_in_panic`; nobody is 0 %.
    """
    if host_count == 0:
        return threshold > 0
    return _ALL * healthy_count < threshold * host_count


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
    return is_below_threshold(healthy_count, host_count, threshold)


@kernel_jit
def select_members(
    hosts: Any, members: Any, start: int, count: int, panics: bool, degraded: bool
) -> None:
    """Say of some members whether they may be picked.

    Parameters
    ----------
    hosts : ndarray[HOST_DTYPE], shape (n_hosts,)
        Modified in place: healthy, and selections if anybody enters or leaves.
    members : ndarray[int32], shape (n_members,)
        Read only.
    start, count : int
        They are ``members[start : start + count]``.
    panics : bool
        Whether all that discovery names may be picked.
    degraded : bool
        Whether degraded hosts are like all others.
    """
    changed = False
    for position in range(start, start + count):
        host = members[position]
        reasons = hosts["unhealthy"][host]
        selected = UNHEALTHY
        if reasons == 0 and (degraded or hosts["degraded"][host] == 0):
            selected = HEALTHY
        elif panics and reasons & WITHDRAWN == 0:
            selected = PANICKING
        if (selected == UNHEALTHY) != (hosts["healthy"][host] == UNHEALTHY):
            changed = True
        hosts["healthy"][host] = selected
    if changed:
        for position in range(start, start + count):
            seen = int(hosts["selections"][members[position]])
            hosts["selections"][members[position]] = (seen + 1) & _SELECTIONS_MASK


@kernel_jit
def select_hosts(
    hosts: Any, members: Any, clusters: Any, cluster: int, configs: Any, groups: Any
) -> None:
    """Say of every member of `cluster` whether it may be picked, as their health has changed.

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
        The cluster's row, if it has one, is modified in place: panic, version.

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
    config = clusters["config"][cluster]
    panics = configs["picking"][config] != PICK_GROUPED and is_in_panic(
        healthy_count, host_count, configs["panic_threshold"][config]
    )
    select_members(hosts, members, start, count, panics, True)
    group = clusters["health"][cluster]
    if group != NO_INDEX:
        groups["panic"][group] = 1 if panics else 0
        groups["version"][group] += 1
