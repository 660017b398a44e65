"""Lanes of one live proxy: parts of clusters that are picked from on their own.

Rule: a cluster with priorities and localities (`meshsim.state.locality`) has a lane for each
priority and each zone in it; one with subsets has a lane for each set of hosts that is ever asked
for.  A lane is a CLUSTER row beside the cluster's own, and keeps it, with its cursor, from one
configuration to the next as long as there is such a part.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from emulator.decisions.grouping import (
    NOTHING_ASKED,
    Asked,
    Lane,
    as_labels,
    asked_of,
    lane_weights,
)
from meshsim.controlplane.configuration import ProxyConfiguration, destinations
from meshsim.state.codes import PICK_GROUPED, PICK_SUBSET
from meshsim.topology.compiled.layout import Rows
from meshsim.topology.compiled.localities import GroupingRows, locality_configs
from meshsim.topology.compiled.policies import weighted
from meshsim.topology.compiled.subsetting import ClusterSubsets, table_of_subset

if TYPE_CHECKING:
    from emulator.decisions.holdings import Holdings
    from meshsim.topology.compiled.placement import Group
    from meshsim.topology.model import ClusterPolicy, LocalityLoadBalancing

__all__ = ["Lanes"]


class Lanes:
    """Lanes of the clusters of one proxy.

    Parameters
    ----------
    holdings : Holdings
        Of the proxy; its rows are modified.

    Attributes
    ----------
    arrays : dict of str to ndarray
        Of grouped clusters: `locality_configs`, `groupings`, `priorities`, `localities`.
    groupings : dict of int to int
        GROUPING row by CLUSTER row of a grouped cluster.
    by_subset : set of int
        CLUSTER rows that pick by subset.
    chains : ndarray[int32]
        Chains of lanes of the latter (`chain_of`), as CLUSTER rows.
    """

    def __init__(self, holdings: Holdings) -> None:
        self.arrays: dict[str, Rows] = {"locality_configs": locality_configs(())}
        self.arrays |= GroupingRows().build()
        self.groupings: dict[int, int] = {}
        self.by_subset: set[int] = set()
        self.chains: Rows = np.zeros(0, np.int32)
        self._holdings = holdings
        self._asked: dict[str, dict[Asked, int]] = {}  # chain by cluster and what is asked
        self._lanes: dict[Lane, int] = {}  # their CLUSTER rows

    @property
    def rows(self) -> set[int]:
        """CLUSTER rows of the lanes."""
        return set(self._lanes.values())

    def apply(
        self,
        configuration: ProxyConfiguration,
        groups_of: dict[str, list[Group]],
        free: list[int],
        tables: list[Rows],
    ) -> None:
        """Bring the lanes to `configuration`, to which the rows of clusters have come.

        Parameters
        ----------
        configuration : ProxyConfiguration
        groups_of : dict of str to list of Group
            Of the clusters with priorities and localities.
        free : list of int
            CLUSTER rows to give out.
        tables : list of ndarray[TABLE_DTYPE]
            Hash tables so far; those of lanes are added.
        """
        lanes: dict[Lane, int] = {}
        self._group(configuration, groups_of, free, lanes, tables)
        self._subset(configuration, free, lanes, tables)
        self._lanes = lanes

    def _group(
        self,
        configuration: ProxyConfiguration,
        groups_of: dict[str, list[Group]],
        free: list[int],
        lanes: dict[Lane, int],
        tables: list[Rows],
    ) -> None:
        """Give grouped clusters their rows and lanes."""
        holdings = self._holdings
        settings: list[LocalityLoadBalancing] = []
        rows = GroupingRows()
        groupings: dict[int, int] = {}
        for name, groups in groups_of.items():
            cluster = holdings.cluster_rows[name]
            policy = configuration.clusters[name]
            assert policy.locality is not None
            whole: set[int] = set()  # priorities that have their lane

            def new_lane(
                part: Sequence[Group],
                position: int,
                name: str = name,
                cluster: int = cluster,
                policy: ClusterPolicy = policy,
                whole: set[int] = whole,
            ) -> int:
                priority = part[0].priority
                lane = Lane(name, priority, part[0].zone if priority in whole else None)
                row = self._lane_row(lane, free, lanes)
                start = int(holdings.clusters["member_start"][cluster]) + position
                count = sum(len(group.endpoints) for group in part)
                hosts = holdings.members[start : start + count]
                if priority not in whole:
                    whole.add(priority)
                    holdings.hosts["table_index"][hosts] = np.arange(count)
                holdings.clusters["member_start"][row] = start
                holdings.clusters["member_count"][row] = count
                addresses = [holdings.addresses[host] for host in hosts]
                told = [address for address in addresses if address is not None]
                holdings.configure(row, policy, told, lane_weights(policy, part, told), tables)
                return row

            groupings[cluster] = rows.add(groups, new_lane)
            holdings.configs["locality"][cluster] = len(settings)
            holdings.configs["picking"][cluster] = PICK_GROUPED
            settings.append(policy.locality)
        self.groupings = groupings
        self.arrays = {"locality_configs": locality_configs(settings), **rows.build()}

    def _subset(
        self,
        configuration: ProxyConfiguration,
        free: list[int],
        lanes: dict[Lane, int],
        tables: list[Rows],
    ) -> None:
        """Give clusters that pick by subset the chains and lanes of all that is ever asked."""
        holdings = self._holdings
        chains: list[int] = []
        members = [holdings.members]
        for service, routes in configuration.routes.items():
            for route in routes:
                names = destinations(service, route)
                for destination, name in zip(weighted(route), names, strict=True):
                    self._asked.setdefault(name, {})[asked_of(destination)] = 0
        self.by_subset = set()
        for name, cluster in holdings.cluster_rows.items():
            policy = configuration.clusters[name]
            if policy.subset_config is None:
                continue
            self.by_subset.add(cluster)
            holdings.configs["picking"][cluster] = PICK_SUBSET
            told = configuration.endpoints.get(name, ())
            subsets = ClusterSubsets(policy.subset_config.rule(), [i.labels or {} for i in told])
            asked = self._asked.setdefault(name, {})
            asked.setdefault(NOTHING_ASKED, 0)
            numbered: list[int] = []
            starts = {item: subsets.chain(as_labels(item), numbered) for item in asked}
            rows = []
            first = int(holdings.clusters["member_start"][cluster])
            for hosts in subsets.lanes:
                own = [told[position] for position in hosts]
                lane = Lane(name, endpoints=tuple(item.name for item in own))
                row = self._lane_row(lane, free, lanes)
                holdings.clusters["member_start"][row] = sum(len(part) for part in members)
                holdings.clusters["member_count"][row] = len(hosts)
                members.append(holdings.members[[first + position for position in hosts]])
                holdings.configure(row, policy, own, [item.weight for item in own], tables)
                tables[-1] = table_of_subset(tables[-1].copy(), hosts)
                rows.append(row)
            shift = len(chains)
            for item, start in starts.items():
                asked[item] = shift + start
                count = numbered[start]
                chains.append(count)
                chains += [rows[lane] for lane in numbered[start + 1 : start + 1 + count]]
        holdings.members = np.concatenate(members)
        self.chains = np.array(chains, np.int32)

    def chain_of(self, cluster: int, asked: Asked | None) -> int:
        """Return where the chain of a cluster for what a route asks begins in `chains`."""
        known = self._asked[self._holdings.cluster_names[cluster]]
        return known.get(asked or NOTHING_ASKED, known[NOTHING_ASKED])

    def _lane_row(self, lane: Lane, free: list[int], lanes: dict[Lane, int]) -> int:
        """Return the CLUSTER row of a lane, the one it had if it had one."""
        row = self._lanes.get(lane)
        if row is None:
            row = self._holdings.new_cluster(lane.cluster, free, lane.endpoints)
        lanes[lane] = row
        return row
