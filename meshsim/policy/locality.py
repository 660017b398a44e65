"""Which part of a cluster the next request goes to: priority, then locality.

Rule: the priority comes first (`meshsim.policy.priority`), then its locality:

- in a priority that panics, all of its hosts;
- *locality-weighted*: localities take turns (EDF) by

      effective weight = weight * min(1, factor / 100 * healthy / hosts)

- *zone-aware*: by `meshsim.policy.zone_aware`;
- else all healthy hosts of the priority.

The loads are computed when a host's health has changed (`meshsim.policy.panic.select_hosts` counts
that), at the next pick; weighted schedules, of localities and of hosts, begin anew then, as Envoy's
do.  A host that discovery does not name (`WITHDRAWN`) is none of the hosts.

A degraded host is picked uniformly, whichever the cluster's balancer.  The schedule of localities
begins at a random point of its cycle, which is drawn each time.

References
----------
Envoy, source/extensions/load_balancing_policies/common/load_balancer_impl.cc (hostSourceToUse,
rebuildLocalityWrrForPriority) and locality_wrr.cc.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from meshsim.jit import kernel_jit
from meshsim.policy.hashing import NO_HASH_KEY
from meshsim.policy.load_balancing.edf import (
    PICKS_AHEAD_MAX,
    first_order,
    is_earlier,
    turn_passed,
)
from meshsim.policy.panic import select_members
from meshsim.policy.priority import choose_priority, distribute_load
from meshsim.policy.zone_aware import weigh_zones, zone_of_pick
from meshsim.rng import next_index
from meshsim.state.codes import MAGLEV, NO_HOST, NO_INDEX, RING_HASH
from meshsim.state.health import WITHDRAWN
from meshsim.state.locality import ROUTING_NONE

__all__ = [
    "choose_lane",
    "pick_degraded",
    "regroup",
    "weigh_localities",
    "weighted_localities",
]

#: `choose_lane` answers this minus the lane where a degraded host is wanted.
_DEGRADED = -2


# --- Localities by weight --------------------------------------------------------------------


@kernel_jit
def _next_locality(priorities: Any, priority: int, localities: Any) -> int:
    """Return the locality whose turn it is and schedule it again; NO_INDEX if none has weight."""
    first = priorities["locality_start"][priority]
    picked = NO_INDEX
    deadline = 0.0
    order = 0
    for row in range(first, first + priorities["locality_count"][priority]):
        if localities["effective_weight"][row] <= 0.0:
            continue
        other = localities["edf_deadline"][row]
        if picked == NO_INDEX or is_earlier(other, localities["edf_order"][row], deadline, order):
            picked = row
            deadline = other
            order = localities["edf_order"][row]
    if picked != NO_INDEX:
        priorities["edf_time"][priority] = deadline
        priorities["edf_next_order"][priority] += 1
        localities["edf_order"][picked] = priorities["edf_next_order"][priority]
        localities["edf_deadline"][picked] = deadline + 1.0 / localities["effective_weight"][picked]
    return picked


@kernel_jit
def weigh_localities(
    priorities: Any, priority: int, localities: Any, factor: int, ahead: int
) -> None:
    """Write the effective weights of a priority's localities and begin their schedule anew.

    Parameters
    ----------
    priorities : ndarray[PRIORITY_DTYPE], shape (n_priorities,)
        Row `priority` is modified in place: its schedule.
    priority : int
    localities : ndarray[LOCALITY_DTYPE], shape (n_localities,)
        Those of the priority are modified in place; weight, hosts and healthy are read.
    factor : int
        `overprovisioning_factor` [percent].
    ahead : int
        Picks after the start of the schedule, 0 <= ahead < `edf.PICKS_AHEAD_MAX`.
    """
    first = priorities["locality_start"][priority]
    count = priorities["locality_count"][priority]
    total = 0.0
    for row in range(first, first + count):
        hosts = localities["hosts"][row]
        weight = 0.0
        if hosts > 0:
            ratio = float(localities["healthy"][row]) / float(hosts)
            weight = localities["weight"][row] * min(1.0, factor / 100.0 * ratio)
        localities["effective_weight"][row] = weight
        total += weight
    priorities["edf_time"][priority] = 0.0
    priorities["edf_next_order"][priority] = 0
    missing = 0.0
    for row in range(first, first + count):
        weight = localities["effective_weight"][row]
        if weight <= 0.0:
            continue
        passed = turn_passed(float(ahead), weight, total)
        missing += passed
        order = first_order(weight, row - first, count)
        localities["edf_order"][row] = order
        localities["edf_deadline"][row] = (1.0 - passed) / weight
        priorities["edf_next_order"][priority] = max(priorities["edf_next_order"][priority], order)
    for _ in range(int(missing + 0.5)):
        _next_locality(priorities, priority, localities)


# --- Picks -----------------------------------------------------------------------------------


@kernel_jit
def _count_hosts(
    hosts: Any, members: Any, clusters: Any, priorities: Any, priority: int, localities: Any
) -> None:
    """Count the hosts of a priority and of its localities by their health."""
    first = priorities["locality_start"][priority]
    total = 0
    healthy_total = 0
    degraded_total = 0
    for row in range(first, first + priorities["locality_count"][priority]):
        lane = localities["lane"][row]
        start = clusters["member_start"][lane]
        count = clusters["member_count"][lane]
        named = 0
        healthy = 0
        for position in range(start, start + count):
            host = members[position]
            if hosts["unhealthy"][host] & WITHDRAWN == 0:
                named += 1
            if hosts["unhealthy"][host] == 0:
                if hosts["degraded"][host] == 0:
                    healthy += 1
                else:
                    degraded_total += 1
        localities["hosts"][row] = named
        localities["healthy"][row] = healthy
        healthy_total += healthy
        total += named
    priorities["hosts"][priority] = total
    priorities["healthy"][priority] = healthy_total
    priorities["degraded"][priority] = degraded_total


@kernel_jit
def _select_lane(hosts: Any, members: Any, clusters: Any, lane: int, panics: bool) -> None:
    """Say of every host of a lane whether it may be picked; weighted picks begin anew."""
    start = clusters["member_start"][lane]
    count = clusters["member_count"][lane]
    select_members(hosts, members, start, count, panics, False)
    for position in range(start, start + count):
        hosts["edf_order"][members[position]] = 0


@kernel_jit
def _begin_schedules(clusters: Any, priorities: Any, priority: int, localities: Any) -> None:
    """Set the virtual time of the lanes of a priority to 0."""
    clusters["edf_time"][priorities["lane"][priority]] = 0.0
    first = priorities["locality_start"][priority]
    for row in range(first, first + priorities["locality_count"][priority]):
        clusters["edf_time"][localities["lane"][row]] = 0.0


@kernel_jit
def regroup(
    hosts: Any,
    members: Any,
    clusters: Any,
    locality_configs: Any,
    config: int,
    groupings: Any,
    grouping: int,
    priorities: Any,
    localities: Any,
    panic_threshold: int,
    rng: Any,
) -> None:
    """Compute the loads of a cluster's priorities and localities from its hosts' health.

    Parameters are those of `choose_lane`; `config` is a row of `locality_configs`,
    `panic_threshold` that of the cluster [percent]; `rng` is advanced where localities have
    weights.  O(members + localities**2).
    """
    start = groupings["priority_start"][grouping]
    count = groupings["priority_count"][grouping]
    factor = locality_configs["overprovisioning_factor"][config]
    for priority in range(start, start + count):
        _count_hosts(hosts, members, clusters, priorities, priority, localities)
    distribute_load(priorities, start, count, factor, panic_threshold)
    for priority in range(start, start + count):
        lane = priorities["lane"][priority]
        _select_lane(hosts, members, clusters, lane, priorities["panic"][priority] != 0)
        _begin_schedules(clusters, priorities, priority, localities)
        ahead = 0
        if locality_configs["locality_weighted"][config] != 0:
            ahead = next_index(rng, PICKS_AHEAD_MAX)
        weigh_localities(priorities, priority, localities, factor, ahead)
    weigh_zones(groupings, grouping, priorities, localities, locality_configs, config)


@kernel_jit
def _lane_within(
    groupings: Any,
    grouping: int,
    priorities: Any,
    priority: int,
    localities: Any,
    locality_configs: Any,
    config: int,
    rng: Any,
) -> int:
    """Return the lane of a pick among the healthy hosts of `priority`."""
    lane = priorities["lane"][priority]
    if priorities["locality_count"][priority] < 2:
        return int(lane)
    row = NO_INDEX
    if locality_configs["locality_weighted"][config] != 0:
        row = _next_locality(priorities, priority, localities)
    elif (
        priority == groupings["priority_start"][grouping]
        and groupings["routing"][grouping] != ROUTING_NONE
    ):
        enabled = locality_configs["routing_enabled"][config]
        if enabled >= 100 or next_index(rng, 100) < enabled:
            row = zone_of_pick(groupings, grouping, priorities, priority, localities, rng)
    return int(lane) if row == NO_INDEX else int(localities["lane"][row])


@kernel_jit
def choose_lane(
    hosts: Any,
    members: Any,
    clusters: Any,
    cluster: int,
    configs: Any,
    groups: Any,
    locality_configs: Any,
    groupings: Any,
    grouping: int,
    priorities: Any,
    localities: Any,
    hash_key: Any,
    rng: Any,
) -> int:
    """Choose among which members of a grouped cluster the next host is picked.

    Parameters
    ----------
    hosts : ndarray[HOST_DTYPE], shape (n_hosts,)
        `healthy` is modified in place when somebody's `unhealthy` has changed.
    members : ndarray[int32], shape (n_members,)
        Read only.
    clusters : ndarray[CLUSTER_DTYPE], shape (n_clusters,)
        Schedules (EDF) of the lanes are modified in place then.
    cluster : int
        Row of `clusters`, whose config has a `locality`; it has a CLUSTER_HEALTH row.
    configs : ndarray[CLUSTER_CONFIG_DTYPE], shape (n_configs,)
        Read only.
    groups : ndarray[CLUSTER_HEALTH_DTYPE], shape (n_groups,)
        The cluster's row says whether anything has changed; picks in panic are counted there.
    locality_configs : ndarray[LOCALITY_CONFIG_DTYPE], shape (n_locality_configs,)
        Read only.
    groupings : ndarray[GROUPING_DTYPE], shape (n_groupings,)
        That of the cluster is modified in place, as are its priorities and localities.
    grouping : int
        Row of `groupings`.
    priorities : ndarray[PRIORITY_DTYPE], shape (n_priorities,)
    localities : ndarray[LOCALITY_DTYPE], shape (n_localities,)
    hash_key : uint64
        Hash of the request: with RING_HASH and MAGLEV it decides the priority too.
    rng : ndarray[uint64], shape (2,)
        Advanced in place, where there is a choice, or a schedule begins.

    Returns
    -------
    int
        CLUSTER row whose members are meant, for
        `meshsim.policy.load_balancing.pick_host`; `NO_HOST` if the priority panics and is to
        fail; below that, what `pick_degraded` takes.
    """
    config = configs["locality"][clusters["config"][cluster]]
    group = clusters["health"][cluster]
    if groupings["version"][grouping] != groups["version"][group]:
        groupings["version"][grouping] = groups["version"][group]
        regroup(
            hosts,
            members,
            clusters,
            locality_configs,
            config,
            groupings,
            grouping,
            priorities,
            localities,
            configs["panic_threshold"][clusters["config"][cluster]],
            rng,
        )
    start = groupings["priority_start"][grouping]
    priority = int(start)
    degraded = False
    hashing = configs["balancing"][clusters["config"][cluster]] in (RING_HASH, MAGLEV)
    if priorities["load"][start] < 100:
        if hashing and hash_key != NO_HASH_KEY:
            percentile = int(np.int64(hash_key % np.uint64(100)))
        else:
            percentile = next_index(rng, 100)
        count = groupings["priority_count"][grouping]
        priority, degraded = choose_priority(priorities, start, count, percentile)
    if priorities["panic"][priority] != 0:
        groups["panic_picks"][group] += 1
        if locality_configs["fail_traffic_on_panic"][config] != 0:
            return NO_HOST
        return int(priorities["lane"][priority])
    if hashing:  # its table has no degraded hosts
        return int(priorities["lane"][priority])
    if degraded:
        return _DEGRADED - int(priorities["lane"][priority])
    return _lane_within(
        groupings, grouping, priorities, priority, localities, locality_configs, config, rng
    )


@kernel_jit
def weighted_localities(
    locality_configs: Any, config: int, groupings: Any, grouping: int, priorities: Any, lane: int
) -> tuple[int, int]:
    """Return the first of the localities whose weights matter in the hash table of a lane.

    Parameters
    ----------
    lane : int
        CLUSTER row that `choose_lane` chose.

    Returns
    -------
    tuple of (int, int)
        LOCALITY row, and how many follow; none if localities are not weighted.

    Notes
    -----
    The others are those of `choose_lane`.
    """
    if locality_configs["locality_weighted"][config] != 0:
        start = groupings["priority_start"][grouping]
        for row in range(start, start + groupings["priority_count"][grouping]):
            if priorities["lane"][row] == lane:
                return int(priorities["locality_start"][row]), int(
                    priorities["locality_count"][row]
                )
    return 0, 0


@kernel_jit
def pick_degraded(hosts: Any, members: Any, clusters: Any, chosen: int, rng: Any) -> int:
    """Return the HOST of a uniform pick among the degraded ones, or `NO_HOST`.

    Parameters
    ----------
    hosts : ndarray[HOST_DTYPE], shape (n_hosts,)
        Read only.
    members : ndarray[int32], shape (n_members,)
        Read only.
    clusters : ndarray[CLUSTER_DTYPE], shape (n_clusters,)
        Read only.
    chosen : int
        What `choose_lane` answered, below `NO_HOST`.
    rng : ndarray[uint64], shape (2,)
        Advanced in place, once a degraded host.
    """
    lane = _DEGRADED - chosen
    start = clusters["member_start"][lane]
    picked = NO_HOST
    seen = 0
    for position in range(start, start + clusters["member_count"][lane]):
        host = members[position]
        if hosts["unhealthy"][host] == 0 and hosts["degraded"][host] != 0:
            seen += 1
            if next_index(rng, seen) == 0:
                picked = int(host)
    return picked
