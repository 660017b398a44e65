"""What one live proxy holds of its upstreams: CLUSTER, HOST and configuration rows.

Rule: a row belongs to a name.  A new configuration keeps the row of every cluster and of every
endpoint of a cluster that it still names, with its counts and averages; endpoints that appear
get fresh rows, and those that are gone leave the membership at once but keep their row until
nothing runs on it.  Rows of what is gone are given out again at a later configuration, never
in between, so a host handle means the same host as long as anything of it is open.

A cluster with priorities and localities has lanes (`meshsim.state.locality`): CLUSTER rows beside
its own, which keep their cursors from one configuration to the next as long as it has such a
priority, or zone in it.

Configuration row i belongs to CLUSTER row i: a push overwrites it, and running requests see
new limits at once, as Envoy's do.  Rings and Maglev tables are built over the members, and
built again only if names, weights or settings have changed.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from emulator.decisions.grouping import (
    NOTHING_ASKED,
    Asked,
    Lane,
    as_labels,
    asked_of,
    grouped,
    lane_weights,
)
from meshsim.controlplane.configuration import (
    EndpointAddress,
    ProxyConfiguration,
    destinations,
)
from meshsim.state.codes import PICK_GROUPED, PICK_SUBSET
from meshsim.state.upstream import (
    CLUSTER_CONFIG_DTYPE,
    CLUSTER_DTYPE,
    TABLE_DTYPE,
)
from meshsim.topology.compiled.layout import Rows
from meshsim.topology.compiled.localities import GroupingRows, locality_configs
from meshsim.topology.compiled.policies import (
    fill_cluster_config,
    hash_table,
    memory_count,
    no_hosts,
    weighted,
)
from meshsim.topology.compiled.subsetting import ClusterSubsets, table_of_subset

if TYPE_CHECKING:
    from meshsim.topology.compiled.placement import Group
    from meshsim.topology.model import ClusterPolicy, LocalityLoadBalancing

__all__ = ["Holdings", "HostReport"]

_ROWS_FIRST = 8
#: By cluster and endpoint: requests, errors, sum of latencies [ns].
_Counted = dict[tuple[str, str], tuple[int, int, int]]


#: Envoy's counters of a cluster, and where they are.
_COUNTERS = {
    "upstream_rq_total": "requests_total",
    "upstream_rq_active": "requests_active",
    "upstream_rq_pending_active": "pending_active",
    "upstream_rq_pending_overflow": "pending_overflow",
    "upstream_rq_active_overflow": "request_overflow",
    "upstream_rq_retry": "retries_total",
    "upstream_rq_retry_active": "retries_active",
    "upstream_rq_retry_overflow": "retry_overflow",
    "upstream_cx_total": "connections_total",
    "upstream_cx_active": "connections_active",
    "upstream_cx_overflow": "connection_overflow",
}


class HostReport(NamedTuple):
    """What one proxy counted of one host over its whole life."""

    cluster: str
    endpoint: str
    requests: int
    errors: int  # status >= 500, resets and time-outs
    latency_sum_ns: int  # of answered tries, send to response


class Holdings:
    """Rows of one proxy's upstreams.

    Attributes
    ----------
    hosts : ndarray[HOST_DTYPE]
    members : ndarray[int32]
        HOST rows by cluster, as ``clusters["member_start"]`` says.
    clusters : ndarray[CLUSTER_DTYPE]
    configs : ndarray[CLUSTER_CONFIG_DTYPE], as long as `clusters`
    table : ndarray[TABLE_DTYPE]
    memory : ndarray[float64]
        Of custom policies, by cluster as ``clusters["memory_start"]`` says.
    localities : dict of str to ndarray
        Of grouped clusters: `locality_configs`, `groupings`, `priorities`, `localities`.
    grouped, by_subset : set of int
        CLUSTER rows that are grouped, and that pick by subset.
    chains : ndarray[int32]
        Chains of lanes of the latter (`chain_of`).
    cluster_rows : dict of str to int
        By cluster name, of the configuration in force.
    addresses : list of EndpointAddress
        By HOST row.
    cluster_names : list of str
        By CLUSTER row.
    cluster_of : list of int
        CLUSTER row by HOST row: ``hosts["cluster"]`` as plain numbers, which are read faster.
    pending : list of int
        Requests that wait for a connection, by HOST row.
    """

    def __init__(self) -> None:
        self.hosts: Rows = no_hosts(_ROWS_FIRST)
        self.members: Rows = np.zeros(1, np.int32)
        self.clusters: Rows = np.zeros(_ROWS_FIRST, CLUSTER_DTYPE)
        self.configs: Rows = np.zeros(_ROWS_FIRST, CLUSTER_CONFIG_DTYPE)
        self.table: Rows = np.zeros(1, TABLE_DTYPE)
        self.memory: Rows = np.zeros(1)
        self.localities: dict[str, Rows] = {"locality_configs": locality_configs(())}
        self.localities |= GroupingRows().build()
        self.grouped: set[int] = set()
        self.by_subset: set[int] = set()
        self.chains: Rows = np.zeros(0, np.int32)
        self._asked: dict[str, dict[Asked, int]] = {}  # chain by cluster and what is asked
        self.cluster_rows: dict[str, int] = {}
        self.addresses: list[EndpointAddress | None] = [None] * _ROWS_FIRST
        self.pending: list[int] = [0] * _ROWS_FIRST
        self.cluster_of: list[int] = [0] * _ROWS_FIRST
        self.cluster_names: list[str] = [""] * _ROWS_FIRST
        self._host_rows: dict[tuple[str, str], int] = {}  # of members, by cluster and endpoint
        self._forgotten: _Counted = {}  # of hosts whose rows were given back
        self._tables: dict[int, tuple[Any, Rows]] = {}  # by CLUSTER row: what decided it, it
        self._lanes: dict[Lane, int] = {}  # their CLUSTER rows

    def apply(
        self,
        configuration: ProxyConfiguration,
        hosts_in_use: Collection[int],
        clusters_in_use: Collection[int],
        now_ns: int,
    ) -> tuple[int, ...]:
        """Bring the rows to `configuration`; return the HOST rows that are members no more.

        Parameters
        ----------
        configuration : ProxyConfiguration
        hosts_in_use, clusters_in_use : collection of int
            Rows that running exchanges name; they are not given to others.
        now_ns : int
            When new hosts appear [ns].
        """
        before = set(self._host_rows.values())
        clusters_free = self._free_clusters(clusters_in_use)
        hosts_free = self._free_hosts(hosts_in_use)
        rows: dict[str, int] = {}
        for name in configuration.clusters:
            known = self.cluster_rows.get(name)
            rows[name] = known if known is not None else self._new_cluster(name, clusters_free)
        self.cluster_rows = rows
        host_rows: dict[tuple[str, str], int] = {}
        members: list[int] = []
        tables = [np.zeros(1, TABLE_DTYPE)]
        groups_of: dict[str, list[Group]] = {}
        for name, cluster in rows.items():
            endpoints = configuration.endpoints.get(name, ())
            if configuration.clusters[name].locality is not None:
                endpoints, groups_of[name] = grouped(endpoints)
            start = len(members)
            for item in endpoints:
                host = self._host_rows.get((name, item.name))
                if host is None:
                    host = self._new_host(cluster, now_ns, hosts_free)
                host_rows[name, item.name] = host
                self.addresses[host] = item
                self.hosts["weight"][host] = item.weight
                self.hosts["table_index"][host] = len(members) - start
                members.append(host)
            self.clusters["member_start"][cluster] = start
            self.clusters["member_count"][cluster] = len(members) - start
            # Of a grouped cluster the lanes have the hash tables.
            hashed = () if name in groups_of else endpoints
            weights = [item.weight for item in hashed]
            self._configure(cluster, configuration.clusters[name], hashed, weights, tables)
        self._host_rows = host_rows
        self.members = np.array(members or [0], np.int32)
        lanes: dict[Lane, int] = {}
        self._group(configuration, groups_of, clusters_free, lanes, tables)
        self._subset(configuration, clusters_free, lanes, tables)
        self._lanes = lanes
        self._empty_departed()
        self._remember(configuration)
        self.table = np.concatenate(tables)
        return tuple(sorted(before - set(host_rows.values())))

    def is_member(self, host: int) -> bool:
        """Return whether the configuration in force names this host."""
        address = self.addresses[host]
        if address is None:
            return False
        cluster = self.cluster_names[self.cluster_of[host]]
        return self._host_rows.get((cluster, address.name)) == host

    def counters(self) -> dict[str, dict[str, int]]:
        """Return Envoy's counters of each cluster of the configuration in force."""
        return {
            name: {key: int(self.clusters[field][row]) for key, field in _COUNTERS.items()}
            for name, row in self.cluster_rows.items()
        }

    def reports(self) -> list[HostReport]:
        """Return what was counted of every host that was used, gone ones included."""
        counted = dict(self._forgotten)
        for row, address in enumerate(self.addresses):
            if address is not None:
                self._count_in(counted, row, address.name)
        return [HostReport(*name, *counts) for name, counts in counted.items()]

    def _count_in(self, counted: _Counted, row: int, endpoint: str) -> None:
        """Add what HOST row `row` counts to what is known of its endpoint."""
        if self.hosts["requests_total"][row] == 0:
            return
        name = self.cluster_names[self.cluster_of[row]], endpoint
        fields = ("requests_total", "errors_total", "latency_sum_ns")
        here = [int(self.hosts[field][row]) for field in fields]
        known = counted.get(name, (0, 0, 0))
        counted[name] = known[0] + here[0], known[1] + here[1], known[2] + here[2]

    def _free_clusters(self, in_use: Collection[int]) -> list[int]:
        """Return the CLUSTER rows to give out, the first to be taken last."""
        held = set(self.cluster_rows.values()) | set(self._lanes.values()) | set(in_use)
        active = ("connections_active", "pending_active", "requests_active", "retries_active")
        return [
            row
            for row in range(len(self.clusters) - 1, -1, -1)
            if row not in held and not any(self.clusters[field][row] for field in active)
        ]

    def _free_hosts(self, in_use: Collection[int]) -> list[int]:
        """Return the HOST rows to give out, and forget what they stood for."""
        held = set(self._host_rows.values()) | set(in_use)
        active = ("connections_open", "requests_active")
        free = [
            row
            for row in range(len(self.hosts) - 1, -1, -1)
            if row not in held
            and not self.pending[row]
            and not any(self.hosts[field][row] for field in active)
        ]
        for row in free:
            address = self.addresses[row]
            if address is not None:
                self._count_in(self._forgotten, row, address.name)
                self.addresses[row] = None
        return free

    def _new_cluster(self, name: str, free: list[int]) -> int:
        if not free:
            count = len(self.clusters)
            free += range(2 * count - 1, count - 1, -1)
            self.clusters = _doubled(self.clusters)
            self.configs = _doubled(self.configs)
            self.cluster_names += [""] * count
        row = free.pop()
        self.clusters[row] = np.zeros(1, CLUSTER_DTYPE)[0]
        self.clusters["config"][row] = row
        self.cluster_names[row] = name
        self._tables.pop(row, None)
        return row

    def _new_host(self, cluster: int, now_ns: int, free: list[int]) -> int:
        if not free:
            count = len(self.hosts)
            free += range(2 * count - 1, count - 1, -1)
            self.hosts = _doubled(self.hosts)
            self.addresses += [None] * count
            self.pending += [0] * count
            self.cluster_of += [0] * count
        row = free.pop()
        self.hosts[row] = no_hosts(1)[0]
        self.hosts["cluster"][row] = self.cluster_of[row] = cluster
        self.hosts["healthy"][row] = 1
        self.hosts["endpoint"][row] = row
        # The moving average forgets from the moment the host appeared.
        self.hosts["rtt_updated_ns"][row] = now_ns
        return row

    def _configure(
        self,
        cluster: int,
        policy: ClusterPolicy,
        endpoints: Sequence[EndpointAddress],
        weights: Sequence[int],
        tables: list[Rows],
    ) -> None:
        """Overwrite the configuration row of a cluster and add its hash table to `tables`."""
        fields = np.zeros(1, CLUSTER_CONFIG_DTYPE)
        fill_cluster_config(fields, policy)
        fields["weights_equal"] = int(len(set(weights)) <= 1)
        named = tuple(item.name for item in endpoints)
        decided_by = (policy.load_balancing, named, tuple(weights))
        known = self._tables.get(cluster)
        if known is None or known[0] != decided_by:
            known = decided_by, hash_table(named, policy, range(len(named)), weights)
            self._tables[cluster] = known
        fields["table_start"] = sum(len(table) for table in tables)
        fields["table_count"] = len(known[1])
        tables.append(known[1])
        if fields["balancing"][0] != self.configs["balancing"][cluster]:
            self._forget_schedule(cluster)
        self.configs[cluster] = fields[0]

    def _group(
        self,
        configuration: ProxyConfiguration,
        groups_of: dict[str, list[Group]],
        free: list[int],
        lanes: dict[Lane, int],
        tables: list[Rows],
    ) -> None:
        """Give grouped clusters their rows and lanes."""
        settings: list[LocalityLoadBalancing] = []
        rows = GroupingRows()
        groupings: dict[int, int] = {}
        for name, groups in groups_of.items():
            cluster = self.cluster_rows[name]
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
                start = int(self.clusters["member_start"][cluster]) + position
                count = sum(len(group.endpoints) for group in part)
                hosts = self.members[start : start + count]
                if priority not in whole:
                    whole.add(priority)
                    self.hosts["table_index"][hosts] = np.arange(count)
                self.clusters["member_start"][row] = start
                self.clusters["member_count"][row] = count
                addresses = [self.addresses[host] for host in hosts]
                told = [address for address in addresses if address is not None]
                self._configure(row, policy, told, lane_weights(policy, part, told), tables)
                return row

            groupings[cluster] = rows.add(groups, new_lane)
            self.configs["locality"][cluster] = len(settings)
            self.configs["picking"][cluster] = PICK_GROUPED
            settings.append(policy.locality)
        for cluster, grouping in groupings.items():
            self.clusters["grouping"][cluster] = grouping
        self.grouped = set(groupings)
        self.localities = {"locality_configs": locality_configs(settings), **rows.build()}

    def _subset(
        self,
        configuration: ProxyConfiguration,
        free: list[int],
        lanes: dict[Lane, int],
        tables: list[Rows],
    ) -> None:
        """Give clusters that pick by subset the chains and lanes of all that is ever asked."""
        chains: list[int] = []
        members = [self.members]
        for service, routes in configuration.routes.items():
            for route in routes:
                names = destinations(service, route)
                for destination, name in zip(weighted(route), names, strict=True):
                    self._asked.setdefault(name, {})[asked_of(destination)] = 0
        self.by_subset = set()
        for name, cluster in self.cluster_rows.items():
            policy = configuration.clusters[name]
            if policy.subset_config is None:
                continue
            self.by_subset.add(cluster)
            self.configs["picking"][cluster] = PICK_SUBSET
            told = configuration.endpoints.get(name, ())
            subsets = ClusterSubsets(policy.subset_config.rule(), [i.labels or {} for i in told])
            asked = self._asked.setdefault(name, {})
            asked.setdefault(NOTHING_ASKED, 0)
            numbered: list[int] = []
            starts = {item: subsets.chain(as_labels(item), numbered) for item in asked}
            rows = []
            first = int(self.clusters["member_start"][cluster])
            for hosts in subsets.lanes:
                own = [told[position] for position in hosts]
                lane = Lane(name, endpoints=tuple(item.name for item in own))
                row = self._lane_row(lane, free, lanes)
                self.clusters["member_start"][row] = sum(len(part) for part in members)
                self.clusters["member_count"][row] = len(hosts)
                members.append(self.members[[first + position for position in hosts]])
                self._configure(row, policy, own, [item.weight for item in own], tables)
                tables[-1] = table_of_subset(tables[-1].copy(), hosts)
                rows.append(row)
            shift = len(chains)
            for item, start in starts.items():
                asked[item] = shift + start
                count = numbered[start]
                chains.append(count)
                chains += [rows[lane] for lane in numbered[start + 1 : start + 1 + count]]
            # Lanes are where there is room, not in a row behind a first one.
            self.clusters["first_lane"][cluster] = 0
        self.members = np.concatenate(members)
        self.chains = np.array(chains, np.int32)

    def chain_of(self, cluster: int, asked: Asked | None) -> int:
        """Return where the chain of a cluster for what a route asks begins in `chains`."""
        known = self._asked[self.cluster_names[cluster]]
        return known.get(asked or NOTHING_ASKED, known[NOTHING_ASKED])

    def _lane_row(self, lane: Lane, free: list[int], lanes: dict[Lane, int]) -> int:
        """Return the CLUSTER row of a lane, the one it had if it had one."""
        row = self._lanes.get(lane)
        if row is None:
            row = self._new_cluster(lane.cluster, free)
        lanes[lane] = row
        return row

    def _forget_schedule(self, cluster: int) -> None:
        """Clear the EDF schedule of a cluster that balances otherwise: hashing scribbles on it."""
        self.clusters["edf_time"][cluster] = 0.0
        self.clusters["edf_next_order"][cluster] = 0
        own = self.hosts["cluster"] == cluster
        self.hosts["edf_deadline"][own] = 0.0
        self.hosts["edf_order"][own] = 0

    def _remember(self, configuration: ProxyConfiguration) -> None:
        """Give each cluster memory for its custom policies; one that had as much keeps it."""
        routes = [route for table in configuration.routes.values() for route in table]
        parts = [np.zeros(1)]
        for name, row in self.cluster_rows.items():
            fields = self.clusters[row : row + 1]
            start, count = int(fields["memory_start"][0]), int(fields["memory_count"][0])
            needed = memory_count(configuration.clusters[name], routes)
            fields["memory_start"] = sum(len(part) for part in parts)
            fields["memory_count"] = needed
            same = needed == count
            parts.append(self.memory[start : start + count] if same else np.zeros(needed))
        self.memory = np.concatenate(parts)

    def _empty_departed(self) -> None:
        """Leave clusters that are gone without members: a retry finds no host, as in Envoy.

        Envoy, source/common/router/router.cc (doRetry): sendNoHealthyUpstreamResponse.
        """
        departed = np.ones(len(self.clusters), np.bool_)
        departed[list(self.cluster_rows.values())] = False
        departed[list(self._lanes.values())] = False
        self.clusters["member_count"][departed] = 0


def _doubled(rows: Rows) -> Rows:
    """Return `rows` followed by as many that are zero."""
    longer = np.zeros(2 * len(rows), rows.dtype)
    longer[: len(rows)] = rows
    return longer
