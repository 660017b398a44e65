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

from emulator.decisions.grouping import grouped
from emulator.decisions.lanes import Lanes
from emulator.decisions.priorities import HighPriority
from emulator.decisions.probing import Pools
from emulator.decisions.streams import first_cursor
from meshsim.controlplane.configuration import EndpointAddress, ProxyConfiguration
from meshsim.state.codes import MAGLEV, NO_INDEX, RING_HASH
from meshsim.state.health import (
    BY_ACCRUAL,
    BY_CHECK,
    BY_OUTLIER,
    HEALTH_RULE_DTYPE,
    HEALTHY,
    UNHEALTHY,
    blank_cluster_health,
    blank_host_health,
)
from meshsim.state.rows import grown
from meshsim.state.upstream import CLUSTER_CONFIG_DTYPE, TABLE_DTYPE
from meshsim.topology.compiled.hash_sets import hash_name_rows, lay_out_sets
from meshsim.topology.compiled.health import (
    fill_health_rule,
    health_counters,
    is_watched,
    no_ejections,
)
from meshsim.topology.compiled.layout import Rows
from meshsim.topology.compiled.policies import (
    fill_cluster_config,
    hash_capacity,
    hash_table,
    memory_count,
    no_clusters,
    no_hosts,
    weights_equal,
)
from meshsim.topology.compiled.priorities import OVERFLOWS, RETRY_STATS, open_breakers

if TYPE_CHECKING:
    from meshsim.topology.compiled.placement import Group
    from meshsim.topology.model import ClusterPolicy

__all__ = ["Holdings", "HostReport"]

_ROWS_FIRST = 8
#: By cluster and endpoint: requests, errors, sum of latencies [ns].
_Counted = dict[tuple[str, str], tuple[int, int, int]]


#: Envoy's counters of a cluster, and where they are.
_COUNTERS = {
    "upstream_rq_total": "requests_total",
    "upstream_rq_active": "requests_active",
    "upstream_rq_pending_active": "pending_active",
    "upstream_rq_retry_active": "retries_active",
    "upstream_cx_total": "connections_total",
    "upstream_cx_active": "connections_active",
    **OVERFLOWS,
    **RETRY_STATS,
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

    Parameters
    ----------
    run_seed, index : int
        Of the run and of the proxy, as for `emulator.decisions.engine.ProxyEngine`.

    Attributes
    ----------
    hosts : ndarray[HOST_DTYPE]
    members : ndarray[int32]
        HOST rows by cluster, as ``clusters["member_start"]`` says.
    clusters : ndarray[CLUSTER_DTYPE]
    configs : ndarray[CLUSTER_CONFIG_DTYPE], as long as `clusters`
    table : ndarray[TABLE_DTYPE]
    hashing : dict of str to ndarray
        `hash_sets`, and by HOST row `hash_names`, with their `hash_letters`.
    memory : ndarray[float64]
        Of custom policies, by cluster as ``clusters["memory_start"]`` says.
    lanes : Lanes
        Parts of clusters that are grouped, or that pick by subset.
    high : HighPriority
        Rows of clusters that routes of HIGH priority lead to.
    pools : Pools
        Of clusters that balance by probes.
    host_health : ndarray[HOST_HEALTH_DTYPE], as long as `hosts`
    cluster_health, health_rules, ejections : ndarray, as long as `clusters`
        Belief in their health, and the rules it goes by.
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

    def __init__(self, run_seed: int, index: int) -> None:
        self._identity = run_seed, index
        self.hosts: Rows = no_hosts(_ROWS_FIRST)
        self.members: Rows = np.zeros(1, np.int32)
        self.clusters: Rows = no_clusters(_ROWS_FIRST)
        self.configs: Rows = np.zeros(_ROWS_FIRST, CLUSTER_CONFIG_DTYPE)
        self.host_health: Rows = blank_host_health(_ROWS_FIRST)
        self.cluster_health: Rows = blank_cluster_health(_ROWS_FIRST)
        self.health_rules: Rows = np.zeros(_ROWS_FIRST, HEALTH_RULE_DTYPE)
        self.ejections: Rows = no_ejections(_ROWS_FIRST)
        self.table: Rows = np.zeros(1, TABLE_DTYPE)
        self.hashing: dict[str, Rows] = {}
        self.memory: Rows = np.zeros(1)
        self.lanes = Lanes(self)
        self.high = HighPriority(self)
        self.pools = Pools(self)
        self.cluster_rows: dict[str, int] = {}
        self.addresses: list[EndpointAddress | None] = [None] * _ROWS_FIRST
        self.pending: list[int] = [0] * _ROWS_FIRST
        self.cluster_of: list[int] = [0] * _ROWS_FIRST
        self.cluster_names: list[str] = [""] * _ROWS_FIRST
        self._host_rows: dict[tuple[str, str], int] = {}  # of members, by cluster and endpoint
        self._forgotten: _Counted = {}  # of hosts whose rows were given back
        self._check_paths: dict[int, str] = {}  # by CLUSTER row
        self._first_cursors: list[int] = [0] * _ROWS_FIRST  # by CLUSTER row
        self._tables: dict[int, tuple[Any, Rows]] = {}  # by CLUSTER row: what decided it, it

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
        older: set[int] = set()
        for name in configuration.clusters:
            known = self.cluster_rows.get(name)
            rows[name] = known if known is not None else self.new_cluster(name, clusters_free)
            if known is not None:
                older.add(known)
        self.cluster_rows = rows
        host_rows: dict[tuple[str, str], int] = {}
        fresh: list[int] = []
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
                    host = self.new_host(cluster, now_ns, hosts_free)
                    fresh.append(host)
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
            policy = configuration.clusters[name]
            self.configure(cluster, policy, hashed, weights, tables)
            self._set_rule(cluster, policy)
        self.high.apply(configuration, host_rows, clusters_free, hosts_free)
        self._host_rows = host_rows
        self.members = np.array(members or [0], np.int32)
        self._watch(members, fresh, older, now_ns)
        self.lanes.apply(configuration, groups_of, clusters_free, tables)
        self._empty_departed()
        self._remember(configuration)
        self._make_places(np.concatenate(tables))
        self.pools.apply(configuration)
        return tuple(sorted(before - set(host_rows.values())))

    def _make_places(self, table: Rows) -> None:
        """Make places behind `table` for those over some of the hosts of clusters that hash."""
        held = [*self.cluster_rows.values(), *self.lanes.rows]
        hashing = [row for row in held if self.configs["balancing"][row] in (RING_HASH, MAGLEV)]
        sets = lay_out_sets(self.configs, self.clusters[hashing], len(table))
        names = ["" if item is None else item.name for item in self.addresses]
        self.hashing = {"hash_sets": sets, **hash_name_rows(names, sets)}
        self.table = grown(table, int(sets["capacity"].sum()))
        self.clusters["cursor"][hashing] = 0
        self.clusters["edf_time"][hashing] = -1.0

    def _watch(self, members: list[int], fresh: list[int], older: set[int], now_ns: int) -> None:
        """Link members to their health, and begin the life of `fresh` ones.

        Those that come with their cluster are taken for healthy and none of them for new.
        """
        hosts, rules = self.hosts, self.health_rules
        of = hosts["cluster"][members]
        hosts["health"] = NO_INDEX
        hosts["health"][members] = np.where(
            self.configs["health"][of] != NO_INDEX, members, NO_INDEX
        )
        for host in fresh:
            cluster = self.cluster_of[host]
            if cluster not in older:
                self.host_health["checked"][host] = 1
                continue
            window_ns = int(self.configs["slow_start_window_ns"][cluster])
            hosts["slow_start_end_ns"][host] = now_ns + window_ns if window_ns else 0
            hosts["unhealthy"][host] = BY_CHECK
        # What is watched no longer is held against nobody.
        kept = np.where(rules["interval_ns"] > 0, BY_OUTLIER, 0)
        kept |= np.where(rules["max_failures"] > 0, BY_ACCRUAL, 0)
        kept |= np.where(rules["check_interval_ns"] > 0, BY_CHECK, 0)
        hosts["unhealthy"][members] &= kept[of]
        accrues = rules["max_failures"][of] > 0
        self.host_health["accrual_state"][members] *= accrues
        hosts["healthy"][members] = np.where(hosts["unhealthy"][members] == 0, HEALTHY, UNHEALTHY)

    def check_settings(self, host: int) -> tuple[int, str]:
        """Return (timeout [ns], path) of the health checks of a host."""
        cluster = self.cluster_of[host]
        return int(self.health_rules["check_timeout_ns"][cluster]), self._check_paths[cluster]

    def members_of(self, cluster: int) -> Rows:
        """Return the HOST rows of the members of a cluster."""
        start = self.clusters["member_start"][cluster]
        return self.members[start : start + self.clusters["member_count"][cluster]]

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
            name: {
                **self._counters(name, row),
                **self._health_counters(row),
            }
            for name, row in self.cluster_rows.items()
        }

    def totals(self) -> dict[str, int]:
        """Return what all clusters together refused, timed out and retried, without zeros."""
        counted = {**OVERFLOWS, **RETRY_STATS}
        totals = {name: int(self.clusters[field].sum()) for name, field in counted.items()}
        return {name: count for name, count in totals.items() if count}

    def _counters(self, name: str, row: int) -> dict[str, int]:
        """Return what is counted of a cluster, and what is at its limit, by priority."""
        rows = {"default": row}
        if name in self.high.cluster_rows:
            rows["high"] = self.high.cluster_rows[name]
        counts = {
            key: int(self.clusters[field][list(rows.values())].sum())
            for key, field in _COUNTERS.items()
        }
        return {**counts, **open_breakers(self.clusters, rows, self.configs)}

    def health_counters(self) -> dict[str, dict[str, int]]:
        """Return Envoy's counters of health of each cluster that is watched."""
        return {
            name: self._health_counters(row)
            for name, row in self.cluster_rows.items()
            if self.configs["health"][row] != NO_INDEX
        }

    def _health_counters(self, cluster: int) -> dict[str, int]:
        if self.configs["health"][cluster] == NO_INDEX:
            return {}
        own = slice(cluster, cluster + 1)
        hosts = self.hosts[self.members_of(cluster)]
        return health_counters(hosts, self.cluster_health[own], self.ejections[own])

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
        named = (*self.cluster_rows.values(), *self.high.cluster_rows.values())
        held = set(named) | self.lanes.rows | set(in_use)
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
        self.high.forget(free)
        return free

    def host_row(self, key: tuple[str, str]) -> int | None:
        """Return the HOST row of a cluster and an endpoint of it, or None."""
        return self._host_rows.get(key)

    def new_cluster(self, name: str, free: list[int], endpoints: Sequence[str] = ()) -> int:
        """Return a blank CLUSTER row for `name`, or a subset of it, out of `free` if possible."""
        if not free:
            count = len(self.clusters)
            free += range(2 * count - 1, count - 1, -1)
            self.clusters = _joined(self.clusters, no_clusters(count))
            self.configs = grown(self.configs, count)
            self.health_rules = grown(self.health_rules, count)
            self.cluster_health = _joined(self.cluster_health, blank_cluster_health(count))
            self.ejections = np.concatenate([self.ejections, no_ejections(count)])
            self.cluster_names += [""] * count
            self._first_cursors += [0] * count
        row = free.pop()
        self.clusters[row] = no_clusters(1)[0]
        self.clusters["config"][row] = row
        self.cluster_health[row] = blank_cluster_health(1)[0]
        self.cluster_health["cluster"][row] = row
        self.ejections[row] = 0
        self.cluster_names[row] = name
        self._first_cursors[row] = first_cursor(*self._identity, name, endpoints)
        self.clusters["cursor"][row] = self._first_cursors[row]
        self._tables.pop(row, None)
        return row

    def new_host(self, cluster: int, now_ns: int, free: list[int]) -> int:
        """Return a blank HOST row of `cluster`, out of `free` if there is any."""
        if not free:
            count = len(self.hosts)
            free += range(2 * count - 1, count - 1, -1)
            self.hosts = _joined(self.hosts, no_hosts(count))
            self.host_health = _joined(self.host_health, blank_host_health(count))
            self.addresses += [None] * count
            self.pending += [0] * count
            self.cluster_of += [0] * count
        row = free.pop()
        self.hosts[row] = no_hosts(1)[0]
        self.hosts["cluster"][row] = self.cluster_of[row] = cluster
        self.hosts["healthy"][row] = HEALTHY
        self.host_health[row] = blank_host_health(1)[0]
        self.host_health["host"][row] = row
        self.hosts["endpoint"][row] = row
        # The moving average forgets from the moment the host appeared.
        self.hosts["rtt_updated_ns"][row] = now_ns
        return row

    def configure(
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
        fields["weights_equal"] = weights_equal(policy, weights)
        named = tuple(item.name for item in endpoints)
        decided_by = (policy.load_balancing, named, tuple(weights))
        known = self._tables.get(cluster)
        if known is None or known[0] != decided_by:
            known = decided_by, hash_table(named, policy, range(len(named)), weights)
            self._tables[cluster] = known
        fields["set_capacity"] = hash_capacity(policy, weights)
        fields["table_start"] = sum(len(table) for table in tables)
        fields["table_count"] = len(known[1])
        tables.append(known[1])
        if fields["balancing"][0] != self.configs["balancing"][cluster]:
            self._forget_schedule(cluster)
        self.configs[cluster] = fields[0]

    def _set_rule(self, cluster: int, policy: ClusterPolicy) -> None:
        """Overwrite the health rule of a cluster."""
        rule = self.health_rules[cluster : cluster + 1]
        rule[0] = np.zeros(1, HEALTH_RULE_DTYPE)[0]
        if is_watched(policy) or policy.locality is not None:
            self.configs["health"][cluster] = cluster
            fill_health_rule(rule, policy)
        if policy.health_check is not None:
            self._check_paths[cluster] = policy.health_check.path or "/"

    def _forget_schedule(self, cluster: int) -> None:
        """Clear the schedule of a cluster that balances otherwise: hashing scribbles on it."""
        self.clusters["cursor"][cluster] = self._first_cursors[cluster]
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
        self.high.remember()

    def _empty_departed(self) -> None:
        """Leave clusters that are gone without members: a retry finds no host, as in Envoy.

        Envoy, source/common/router/router.cc (doRetry): sendNoHealthyUpstreamResponse.
        """
        departed = np.ones(len(self.clusters), np.bool_)
        departed[list(self.cluster_rows.values())] = False
        departed[list(self.lanes.rows)] = False
        self.clusters["member_count"][departed] = 0


def _joined(rows: Rows, added: Rows) -> Rows:
    return np.concatenate([rows, added], dtype=rows.dtype)
