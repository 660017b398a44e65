"""Lanes when replicas are added: their members and hash tables.

Rule: a new host is in every subset that has the replica it is like.  In a grouped cluster it
joins the priority and locality of that replica, behind its hosts.  A locality that weighs what
its hosts weigh grows with it; a weight that was stated, or worked out from a distribution, stays
until it is pushed anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from meshsim.kernel.hash_tables import replace_table
from meshsim.kernel.memory import Rows
from meshsim.state.codes import MAGLEV, NO_INDEX, PICK_GROUPED, PICK_HIGH, PICK_SUBSET, RING_HASH
from meshsim.topology.compiled.localities import hash_weights
from meshsim.topology.compiled.placement import Group
from meshsim.topology.compiled.policies import no_clusters
from meshsim.topology.compiled.subsetting import table_of_subset
from meshsim.topology.compiled.upstreams import hash_table, policy_of

__all__ = [
    "copy_lanes",
    "extend_subsets",
    "insert_host",
    "is_grouped",
    "rebuild_lane_tables",
    "recount_clients",
    "remove_host",
    "shrink_subsets",
    "subset_lanes",
]


def is_grouped(state: Any, cluster: int) -> bool:
    """Return whether the members of a cluster are grouped by priority and locality."""
    return bool(state.configs["picking"][state.clusters["config"][cluster]] == PICK_GROUPED)


def _picks_by_subset(state: Any, cluster: int) -> bool:
    return bool(state.configs["picking"][state.clusters["config"][cluster]] == PICK_SUBSET)


def subset_lanes(kernel: Any, cluster: int) -> Iterator[int]:
    """Yield the lanes of a cluster that picks by subset: they stand in a row."""
    clusters, names = kernel.state.clusters, kernel.config_names
    name, proxy = names[clusters["config"][cluster]], clusters["proxy"][cluster]
    lane = int(kernel.state.lane_links[cluster])
    while (
        lane < len(clusters)
        and clusters["proxy"][lane] == proxy
        and names[clusters["config"][lane]] == name
        and kernel.state.configs["picking"][clusters["config"][lane]] != PICK_HIGH
    ):
        yield lane
        lane += 1


def _priorities(state: Any, cluster: int) -> range:
    grouping = state.lane_links[cluster]
    start = int(state.groupings["priority_start"][grouping])
    return range(start, start + int(state.groupings["priority_count"][grouping]))


def _localities(state: Any, priority: int) -> range:
    start = int(state.priorities["locality_start"][priority])
    return range(start, start + int(state.priorities["locality_count"][priority]))


def _lanes(state: Any, cluster: int) -> Iterator[int]:
    """Yield every lane of a cluster once."""
    for priority in _priorities(state, cluster):
        lane = int(state.priorities["lane"][priority])
        yield lane
        for locality in _localities(state, priority):
            if state.localities["lane"][locality] != lane:
                yield int(state.localities["lane"][locality])


def _forget_loads(state: Any, cluster: int) -> None:
    """Let the loads of a grouped cluster be computed at its next pick."""
    state.groupings["version"][state.lane_links[cluster]] = -1


def _link(state: Any, cluster: int, row: int) -> None:
    """Note the GROUPING row, or the first lane, of a CLUSTER row that was added."""
    short = max(cluster + 1 - len(state.lane_links), 0)
    blank = np.full(short, NO_INDEX, np.int32)
    state.replace(lane_links=np.concatenate([state.lane_links, blank]))
    state.lane_links[cluster] = row


def _members(state: Any, lane: int) -> Rows:
    start = state.clusters["member_start"][lane]
    rows: Rows = state.members[start : start + state.clusters["member_count"][lane]]
    return rows


def insert_host(state: Any, cluster: int, model: int, host: int, first: int) -> Rows:
    """Return the members of a grouped cluster with `host` behind the locality of host `model`.

    Parameters
    ----------
    state : KernelState
        The lanes of the cluster are moved to where the members will be.
    cluster, model, host : int
        CLUSTER and HOST rows; `host` has its weight.
    first : int
        Where the members will be.
    """
    clusters = state.clusters
    before = int(clusters["member_start"][cluster])
    members = _members(state, cluster)
    place = next(
        locality
        for priority in _priorities(state, cluster)
        for locality in _localities(state, priority)
        if model in _members(state, int(state.localities["lane"][locality]))
    )
    lane = state.localities["lane"][place]
    end = int(clusters["member_start"][lane] + clusters["member_count"][lane]) - before
    for lane in _lanes(state, cluster):
        start = int(clusters["member_start"][lane]) - before
        count = int(clusters["member_count"][lane])
        inside = start < end <= start + count
        clusters["member_count"][lane] = count + inside
        clusters["member_start"][lane] = first + start + (start >= end)
    if state.localities["counted"][place]:
        state.localities["weight"][place] += state.hosts["weight"][model]
    _forget_loads(state, cluster)
    return np.insert(members, end, np.int32(host))


def remove_host(state: Any, cluster: int, host: int, first: int) -> Rows:
    """Return the members of a grouped cluster without `host`, which is one.

    Parameters
    ----------
    state : KernelState
        The lanes of the cluster are moved to where the members will be.
    cluster, host : int
        CLUSTER and HOST rows.
    first : int
        Where the members will be.
    """
    clusters = state.clusters
    before = int(clusters["member_start"][cluster])
    members = _members(state, cluster)
    place = int(np.flatnonzero(members == host)[0])
    for priority in _priorities(state, cluster):
        for locality in _localities(state, priority):
            within = host in _members(state, int(state.localities["lane"][locality]))
            if within and state.localities["counted"][locality]:
                state.localities["weight"][locality] -= state.hosts["weight"][host]
    for lane in _lanes(state, cluster):
        start = int(clusters["member_start"][lane]) - before
        count = int(clusters["member_count"][lane])
        clusters["member_count"][lane] = count - (start <= place < start + count)
        clusters["member_start"][lane] = first + start - (start > place)
    _forget_loads(state, cluster)
    return np.delete(members, place)


def rebuild_lane_tables(kernel: Any, cluster: int) -> None:
    """Give the priorities of a grouped cluster that hashes tables over their present members."""
    state = kernel.state
    main = int(state.clusters["config"][cluster])
    if state.configs["balancing"][main] not in (RING_HASH, MAGLEV):
        return
    name = kernel.config_names[main]
    policy = policy_of(kernel.compiled.topology, name)
    for priority in _priorities(state, cluster):
        lane = int(state.priorities["lane"][priority])
        members = _members(state, lane)
        state.hosts["table_index"][members] = np.arange(len(members))
        groups = [_group(state, locality) for locality in _localities(state, priority)]
        own = [int(weight) for weight in state.hosts["weight"][members]]
        assert policy.locality is not None
        weights = hash_weights(groups, own, policy.locality)
        table = hash_table(kernel.endpoint_names, policy, state.hosts["endpoint"][members], weights)
        replace_table(kernel, np.array([lane]), table, policy, weights)


def extend_subsets(kernel: Any, cluster: int, model: int, host: int) -> None:
    """Put `host` into every subset of a cluster that has host `model`.

    Parameters
    ----------
    kernel : Kernel
        `host` is a member of the cluster by now.
    cluster, model, host : int
        CLUSTER and HOST rows.
    """
    state = kernel.state
    if not _picks_by_subset(state, cluster):
        return
    for lane in list(subset_lanes(kernel, cluster)):
        members = _members(state, lane)
        if model not in members:
            continue
        extended = np.append(members, np.int32(host))
        state.clusters["member_start"][lane] = len(state.members)
        state.clusters["member_count"][lane] = len(extended)
        state.replace(members=np.concatenate([state.members, extended]))
        _hash_subset(kernel, lane)


def shrink_subsets(kernel: Any, cluster: int, host: int) -> None:
    """Take `host`, no member any more, out of every subset of a cluster that picks by subset."""
    state = kernel.state
    if not _picks_by_subset(state, cluster):
        return
    for lane in list(subset_lanes(kernel, cluster)):
        rest = _members(state, lane)
        rest = rest[rest != host]
        state.clusters["member_start"][lane] = len(state.members)
        state.clusters["member_count"][lane] = len(rest)
        state.replace(members=np.concatenate([state.members, rest]))
        _hash_subset(kernel, lane)


def _hash_subset(kernel: Any, lane: int) -> None:
    """Give the lane of a subset a hash table over its present hosts, if it hashes."""
    state = kernel.state
    config = int(state.clusters["config"][lane])
    if state.configs["balancing"][config] not in (RING_HASH, MAGLEV):
        return
    name = kernel.config_names[config]
    policy = policy_of(kernel.compiled.topology, name)
    members = _members(state, lane)
    endpoints, weights = state.hosts["endpoint"][members], state.hosts["weight"][members]
    table = hash_table(kernel.endpoint_names, policy, endpoints, weights.tolist())
    hosts = state.hosts["table_index"][members].tolist()
    table = table_of_subset(table, hosts)
    replace_table(kernel, np.array([lane]), table, policy, weights.tolist())


def _copy_subsets(kernel: Any, model: int, cluster: int) -> None:
    """Give the CLUSTER row `cluster`, a copy of `model`, lanes of its own over its members."""
    state = kernel.state
    lanes: list[Rows] = []
    members = [state.members]
    whole = {host: place for place, host in enumerate(_members(state, model).tolist())}
    size = len(state.members)
    for lane in subset_lanes(kernel, model):
        row = no_clusters(1)
        row["config"] = state.clusters["config"][lane]
        row["proxy"] = state.clusters["proxy"][cluster]
        row["member_start"] = size
        row["member_count"] = state.clusters["member_count"][lane]
        places = [whole[host] for host in _members(state, lane).tolist()]
        members.append(_members(state, cluster)[places])
        size += len(places)
        lanes.append(row)
    _link(state, cluster, len(state.clusters))
    state.replace(
        clusters=_joined(state.clusters, *lanes),
        members=np.concatenate(members),
    )


def _group(state: Any, locality: int) -> Group:
    row = state.localities[locality]
    members = _members(state, int(row["lane"]))
    endpoints = tuple(int(host) for host in members)
    return Group(0, 0, int(row["weight"]), False, False, 0, endpoints)


def copy_lanes(kernel: Any, model: int, cluster: int) -> None:
    """Give the CLUSTER row `cluster`, a copy of `model`, lanes of its own if that has some."""
    if is_grouped(kernel.state, model):
        _copy_grouping(kernel.state, model, cluster)
    elif _picks_by_subset(kernel.state, model):
        _copy_subsets(kernel, model, cluster)


def _copy_grouping(state: Any, model: int, cluster: int) -> None:
    """Give the grouped CLUSTER row `cluster`, a copy of `model`, groups and lanes of its own."""
    source = int(state.lane_links[model])
    grouping = state.groupings[source : source + 1].copy()
    grouping["version"] = -1
    first, count = int(grouping["priority_start"][0]), int(grouping["priority_count"][0])
    priorities = state.priorities[first : first + count].copy()
    at = int(priorities["locality_start"][0])
    localities = state.localities[at : at + int(priorities["locality_count"].sum())].copy()
    grouping["priority_start"] = len(state.priorities)
    priorities["locality_start"] += len(state.localities) - at
    shift = int(state.clusters["member_start"][cluster] - state.clusters["member_start"][model])
    moved: dict[int, int] = {}
    lanes: list[Rows] = []
    for lane in _lanes(state, model):
        moved[lane] = len(state.clusters) + len(lanes)
        row = no_clusters(1)
        row["config"] = state.clusters["config"][lane]
        row["proxy"] = state.clusters["proxy"][cluster]
        row["member_start"] = state.clusters["member_start"][lane] + shift
        row["member_count"] = state.clusters["member_count"][lane]
        lanes.append(row)
    for rows in (priorities, localities):
        rows["lane"] = [moved[int(lane)] for lane in rows["lane"]]
    _link(state, cluster, len(state.groupings))
    state.replace(
        clusters=_joined(state.clusters, *lanes),
        groupings=_joined(state.groupings, grouping),
        priorities=_joined(state.priorities, priorities),
        localities=_joined(state.localities, localities),
    )


def recount_clients(state: Any, proxies: Sequence[int]) -> None:
    """Tell `proxies`, those of one service, in which zones they are by now."""
    zones = np.bincount(state.proxies["zone"][list(proxies)])
    total = int(zones.sum())
    own = np.isin(state.clusters["proxy"], proxies)
    for cluster in np.flatnonzero(own):
        if not is_grouped(state, int(cluster)):
            continue
        for priority in _priorities(state, int(cluster)):
            for locality in _localities(state, priority):
                members = _members(state, int(state.localities["lane"][locality]))
                if state.localities["clients"][locality] < 0 or not len(members):
                    continue
                zone = int(state.endpoints["zone"][state.hosts["endpoint"][members[0]]])
                count = int(zones[zone]) if zone < len(zones) else 0
                state.localities["clients"][locality] = 10_000 * count // total
        _forget_loads(state, int(cluster))


def _joined(*rows: Rows) -> Rows:
    """Join rows of one dtype and keep it: numpy's own choice drops what fills up a row."""
    return np.concatenate(rows, dtype=rows[0].dtype)
