"""Lanes while a scenario is compiled: those of every proxy that holds a cluster with some.

Rule: lanes are numbered as they come and stand behind all clusters; their place is known when
all clusters are.  Lanes of a grouped cluster are ranges of its members; those of subsets have
lists of their own behind all members.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

import numpy as np

from meshsim.state.codes import NO_INDEX
from meshsim.state.upstream import CLUSTER_DTYPE
from meshsim.topology.compiled.layout import Layout, Rows
from meshsim.topology.compiled.localities import GroupingRows
from meshsim.topology.compiled.placement import (
    Client,
    Group,
    clients_of,
    gateway_client,
    group_endpoints,
)
from meshsim.topology.compiled.policies import no_clusters
from meshsim.topology.locality import LocalityLoadBalancing
from meshsim.topology.model import Topology

__all__ = ["Lanes"]


class Lanes:
    """Collects the lanes of all proxies.

    Parameters
    ----------
    topology : Topology
    layout : Layout
    lane_config : callable
        (cluster, groups) -> CLUSTER_CONFIG row of a lane with their hosts.

    Attributes
    ----------
    groupings : GroupingRows
    """

    def __init__(
        self,
        topology: Topology,
        layout: Layout,
        lane_config: Callable[[tuple[str, str | None], Sequence[Group]], int],
    ) -> None:
        self.groupings = GroupingRows()
        self._topology = topology
        self._layout = layout
        self._lane_config = lane_config
        self._clients: dict[int, dict[int, Client]] = {}  # by workload and zone
        self._lanes: list[tuple[int, int, int, int]] = []  # config, proxy, members: start, count
        self._listed: list[int] = []  # lanes whose members are in `_members`
        self._members: list[int] = []
        self._links: dict[int, int] = {}  # GROUPING by CLUSTER row
        self._first_lanes: dict[int, int] = {}  # of subsets, by CLUSTER row

    def client(self, caller: int, proxy: int) -> Client:
        """Return where a proxy is: of workload `caller`, or of traffic class ``~caller``."""
        if caller >= 0:
            if caller not in self._clients:
                at = self._layout.workloads[caller]
                self._clients[caller] = clients_of(self._topology, self._layout, at)
            return self._clients[caller][int(self._layout.endpoint_zone[proxy])]
        traffic = list(self._topology.traffic.values())[~caller]
        return gateway_client(self._layout, traffic)

    def groups(
        self,
        settings: LocalityLoadBalancing,
        endpoints: Sequence[int] | Rows,
        weights: Sequence[int],
        client: Client,
    ) -> list[Group]:
        """Return the groups of a cluster's endpoints for `client`."""
        rows = [int(row) for row in endpoints]
        return group_endpoints(self._topology, self._layout, settings, rows, weights, client)

    def add(
        self,
        name: tuple[str, str | None],
        groups: Sequence[Group],
        hosts: Rows,
        clusters: Rows,
        row: int,
        first: tuple[int, int],
    ) -> None:
        """Add the groups of cluster `row` of one proxy.

        Parameters
        ----------
        name : (str, str or None)
            Of the cluster.
        groups : sequence of Group
        hosts, clusters : ndarray[HOST_DTYPE], ndarray[CLUSTER_DTYPE]
            Of the proxy, indices from 0 but for the proxy itself; modified in place.
        row : int
            Of `clusters`.
        first : (int, int)
            Where the proxy's clusters and hosts will be.
        """
        start = int(clusters["member_start"][row])
        first_member = first[1] + start

        def new_lane(part: Sequence[Group], position: int) -> int:
            count = sum(len(group.endpoints) for group in part)
            at = first_member + position
            proxy = int(clusters["proxy"][row])
            self._lanes.append((self._lane_config(name, part), proxy, at, count))
            return len(self._lanes) - 1

        self._links[first[0] + row] = self.groupings.add(groups, new_lane)
        for _, level in groupby(groups, key=lambda group: group.priority):
            count = sum(len(group.endpoints) for group in level)
            hosts["table_index"][start : start + count] = np.arange(count)
            start += count

    def add_subsets(
        self,
        lanes: Sequence[tuple[int, Sequence[int]]],
        clusters: Rows,
        row: int,
        first: tuple[int, int],
    ) -> None:
        """Add the lanes of the subsets of cluster `row` of one proxy.

        Parameters
        ----------
        lanes : sequence of (int, sequence of int)
            CLUSTER_CONFIG row, and positions of the hosts among the cluster's members.
        clusters, row, first
            See `add`.
        """
        first_member = first[1] + int(clusters["member_start"][row])
        self._first_lanes[first[0] + row] = len(self._lanes)
        for config, hosts in lanes:
            self._listed.append(len(self._lanes))
            proxy = int(clusters["proxy"][row])
            self._lanes.append((config, proxy, len(self._members), len(hosts)))
            self._members += [first_member + position for position in hosts]

    def members(self, host_count: int) -> Rows:
        """Return the members of all clusters and lanes: every host, then those of subsets."""
        hosts = np.arange(max(host_count, 1), dtype=np.int32)
        return np.concatenate([hosts, np.array(self._members, np.int32)])

    def links(self, cluster_count: int) -> Rows:
        """Return, by CLUSTER row, the GROUPING row or the first lane; empty without lanes."""
        used = self._links or self._first_lanes
        rows = np.full(cluster_count if used else 0, NO_INDEX, np.int32)
        for cluster, grouping in self._links.items():
            rows[cluster] = grouping
        for cluster, lane in self._first_lanes.items():
            rows[cluster] = cluster_count + lane
        return rows

    def clusters(self, clusters: Rows, host_count: int) -> Rows:
        """Return the CLUSTER rows of all clusters, then those of the lanes."""
        rows = no_clusters(len(self._lanes))
        for row, (config, proxy, start, count) in enumerate(self._lanes):
            rows["config"][row] = config
            rows["proxy"][row] = proxy
            rows["member_start"][row] = start
            rows["member_count"][row] = count
        rows["member_start"][self._listed] += max(host_count, 1)
        return np.concatenate([clusters, rows], dtype=CLUSTER_DTYPE)
