"""When a proxy believes that the health of a host has changed: Envoy merges such changes.

Rule: a change of health is believed at once if the last one was more than `update_merge_window`
ago, counted in whole milliseconds.  Otherwise it waits until a window after it has passed; what
changes meanwhile comes with it.  Until then the host is picked, or is not, as before.  Members
that come or go are believed at once, and everything that waits with them.  A window of 0 merges
nothing.

Departures: Envoy has a window for each priority of a cluster, here the cluster has one.  A cluster
that nobody watches (no CLUSTER_HEALTH row) believes at once what discovery says, and a live proxy
all that it knows when its configuration changes.

References
----------
Envoy, source/common/upstream/cluster_manager_impl.cc (scheduleUpdate, applyUpdates);
api/envoy/config/cluster/v3/cluster.proto (CommonLbConfig.update_merge_window).
"""

from __future__ import annotations

from typing import Any

from meshsim.jit import kernel_jit
from meshsim.policy.panic import select_hosts
from meshsim.state.codes import NEVER_NS, NO_INDEX

__all__ = ["believe_change", "believe_now"]

_NS_PER_MS = 1_000_000


@kernel_jit
def believe_now(
    hosts: Any,
    members: Any,
    clusters: Any,
    cluster: int,
    configs: Any,
    groups: Any,
    now_ns: int,
) -> None:
    """Believe what is known of the members of `cluster`, and who they are.

    Parameters are those of `believe_change`.
    """
    group = clusters["health"][cluster]
    if group != NO_INDEX:
        groups["believed_ns"][group] = now_ns
        groups["merge_due_ns"][group] = NEVER_NS
    select_hosts(hosts, members, clusters, cluster, configs, groups)


@kernel_jit
def believe_change(
    hosts: Any,
    members: Any,
    clusters: Any,
    cluster: int,
    configs: Any,
    groups: Any,
    now_ns: int,
) -> None:
    """Believe a change of the health of a member of `cluster` now, or let it wait.

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
        The cluster's row, if it has one, is modified in place.
    now_ns : int
        Current time of the caller's clock [ns].
    """
    group = clusters["health"][cluster]
    window_ns = configs["update_merge_window_ns"][clusters["config"][cluster]]
    if group != NO_INDEX and window_ns > 0:
        since_ms = (now_ns - groups["believed_ns"][group]) // _NS_PER_MS
        if since_ms <= window_ns // _NS_PER_MS:
            groups["merged"][group] += 1
            if groups["merge_due_ns"][group] == NEVER_NS:
                groups["merge_due_ns"][group] = now_ns + window_ns
                groups["due_ns"][group] = min(groups["due_ns"][group], now_ns + window_ns)
            return
    believe_now(hosts, members, clusters, cluster, configs, groups, now_ns)
