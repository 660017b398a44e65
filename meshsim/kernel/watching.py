"""Health as the owner of the memory sees it: who is watched, who is withdrawn, what was counted.

Rule: rows of belief are made with the hosts they are about, and never move.  A host that is
withdrawn is no member for now; when it comes back nothing is held against it but what its health
checks and discovery say.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from meshsim.controlplane.names import cluster_name
from meshsim.kernel.events import CHECK, pack, schedule
from meshsim.kernel.health import first_check_wait_ns, select_cluster, settle_cluster
from meshsim.kernel.memory import Rows
from meshsim.policy.hashing import health_key
from meshsim.state.codes import NO_INDEX
from meshsim.state.health import (
    BY_CHECK,
    BY_DISCOVERY,
    DEGRADED_BY_DISCOVERY,
    WITHDRAWN,
    blank_cluster_health,
    blank_host_health,
)
from meshsim.topology.compiled.health import no_ejections

__all__ = ["begin_health", "discover_health", "settle_all", "watch_added", "withdraw_hosts"]

#: What a host's health row keeps while the host is away.
_KEPT = ("host", "checks_passed", "checks_failed", "checked", "check_generation")


def begin_health(kernel: Any) -> None:
    """Give every cluster that is watched its draw key, and begin the checks of every host."""
    state = kernel.state
    _set_keys(kernel, 0)
    _begin_checks(kernel, np.arange(len(state.host_health)))


def _set_keys(kernel: Any, first: int) -> None:
    state = kernel.state
    for group in range(first, len(state.cluster_health)):
        cluster = int(state.cluster_health["cluster"][group])
        name = cluster_name(*kernel.config_names[int(state.clusters["config"][cluster])])
        proxy = int(state.clusters["proxy"][cluster])
        state.cluster_health["key"][group] = health_key(kernel.stream_seed, proxy, name)


def _begin_checks(kernel: Any, healths: Rows) -> None:
    """Schedule the first check of each host of `healths` whose rule has checks."""
    state = kernel.state
    clusters = state.hosts["cluster"][state.host_health["host"][healths]]
    rules = state.configs["health"][state.clusters["config"][clusters]]
    checked = state.health_rules["check_interval_ns"][rules] > 0
    kernel.reserve_events(int(checked.sum()))
    for health in healths[checked]:
        wait_ns = first_check_wait_ns(state, int(health))
        schedule(state, kernel.now_ns + wait_ns, pack(CHECK, int(health), 0))


def watch_added(kernel: Any, first_cluster: int, first_host: int) -> None:
    """Watch the rows that were added if the clusters they belong to are watched.

    Parameters
    ----------
    kernel : Kernel
        Its memory is modified.
    first_cluster, first_host : int
        The first CLUSTER and HOST rows that are new; their `health` is `NO_INDEX`.
    """
    state = kernel.state
    added = np.arange(first_cluster, len(state.clusters))
    added = added[state.configs["health"][state.clusters["config"][added]] != NO_INDEX]
    first_group = len(state.cluster_health)
    groups = blank_cluster_health(len(added))
    groups["cluster"] = added
    groups["origin_ns"] = kernel.now_ns
    state.clusters["health"][added] = first_group + np.arange(len(added))
    hosts = np.arange(first_host, len(state.hosts))
    changed = np.unique(state.hosts["cluster"][hosts])
    newcomers = hosts[state.hosts["cluster"][hosts] < first_cluster]
    _begin_slow_start(kernel, newcomers)
    hosts = hosts[state.clusters["health"][state.hosts["cluster"][hosts]] != NO_INDEX]
    first_health = len(state.host_health)
    healths = blank_host_health(len(hosts))
    healths["host"] = hosts
    state.hosts["health"][hosts] = first_health + np.arange(len(hosts))
    state.replace(
        cluster_health=np.concatenate([state.cluster_health, groups], dtype=groups.dtype),
        host_health=np.concatenate([state.host_health, healths], dtype=healths.dtype),
        ejections=np.concatenate([state.ejections, no_ejections(len(groups))]),
    )
    _set_keys(kernel, first_group)
    _doubt(state, np.intersect1d(hosts, newcomers))
    _begin_checks(kernel, np.arange(first_health, len(state.host_health)))
    for cluster in changed:
        select_cluster(state, int(cluster), False)


def _doubt(state: Any, hosts: Rows) -> None:
    """Let new hosts of clusters with health checks be unhealthy until their first check."""
    rules = state.configs["health"][state.clusters["config"][state.hosts["cluster"][hosts]]]
    checked = state.health_rules["check_interval_ns"][rules] > 0
    state.hosts["unhealthy"][hosts[checked]] |= BY_CHECK


def _begin_slow_start(kernel: Any, hosts: Rows) -> None:
    """Begin the windows of hosts that are new, where there is slow start."""
    state = kernel.state
    configs = state.clusters["config"][state.hosts["cluster"][hosts]]
    windows_ns = state.configs["slow_start_window_ns"][configs]
    ends_ns = np.where(windows_ns > 0, kernel.now_ns + windows_ns, 0)
    state.hosts["slow_start_end_ns"][hosts] = ends_ns


def _settled(state: Any, endpoints: list[int]) -> tuple[Rows, Rows]:
    """Return the hosts of `endpoints` and their clusters, in which nothing is due any more."""
    hosts = np.flatnonzero(np.isin(state.hosts["endpoint"], endpoints))
    clusters = np.unique(state.hosts["cluster"][hosts])
    for cluster in clusters[state.clusters["health"][clusters] != NO_INDEX]:
        settle_cluster(state, int(cluster))
    return hosts, clusters


def discover_health(kernel: Any, endpoints: list[int], status: str) -> None:
    """Let discovery tell every proxy that `endpoints` are HEALTHY, DEGRADED or UNHEALTHY."""
    state = kernel.state
    hosts, clusters = _settled(state, endpoints)
    state.hosts["degraded"][hosts] &= ~DEGRADED_BY_DISCOVERY
    if status == "DEGRADED":
        state.hosts["degraded"][hosts] |= DEGRADED_BY_DISCOVERY
    state.hosts["unhealthy"][hosts] &= ~BY_DISCOVERY
    if status == "UNHEALTHY":
        state.hosts["unhealthy"][hosts] |= BY_DISCOVERY
    for cluster in clusters:
        select_cluster(state, int(cluster), True)


def withdraw_hosts(kernel: Any, endpoints: list[int], healthy: bool) -> None:
    """Take `endpoints` out of every proxy's members, or (`healthy`) put them back."""
    state = kernel.state
    hosts, clusters = _settled(state, endpoints)
    if not healthy:
        state.hosts["unhealthy"][hosts] |= WITHDRAWN
    else:
        back = hosts[state.hosts["unhealthy"][hosts] & WITHDRAWN != 0]
        state.hosts["unhealthy"][back] &= BY_CHECK | BY_DISCOVERY
        _begin_slow_start(kernel, back)
        watched = state.hosts["health"][back]
        watched = watched[watched != NO_INDEX]
        blank = blank_host_health(len(watched))
        for field in _KEPT:
            blank[field] = state.host_health[field][watched]
        state.host_health[watched] = blank
    for cluster in clusters:
        select_cluster(state, int(cluster), False)


def settle_all(kernel: Any) -> None:
    """Do everywhere what has become due by the clock: counts are read afterwards."""
    for cluster in kernel.state.cluster_health["cluster"]:
        settle_cluster(kernel.state, int(cluster))
