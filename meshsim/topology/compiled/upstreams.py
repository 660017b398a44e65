"""Upstreams: clusters, hosts, routes and hash tables, as each client proxy holds them.

Rule: a client proxy holds CLUSTER and HOST rows only for the clusters its routes can reach;
the replicas of one workload hold equal ones.  A cluster is a (service, subset) pair.  Routes
are matched once for each (call site, traffic class): headers of the class travel along the
call path, headers of the call are added, and the authority is the called service.

The hash key of a request is the value of the header (or the source address) that the
cluster's policy names; a class with `users` carries that many values, named
``<value>-<number>``.

A cluster with priorities or localities is held otherwise in each zone: its members are sorted
by `meshsim.topology.compiled.placement`.  Its lanes, and those of subsets, are CLUSTER rows behind
all others.

In a mesh of sidecars a workload without one has no client-side policies: its calls go to a
random endpoint of the service, without routes, retries, timeouts or limits.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from meshsim.policy.hashing import xxh64
from meshsim.policy.routing import NO_ROUTE, match_route
from meshsim.state.codes import NEVER_NS, NO_INDEX, PICK_GROUPED, PICK_SUBSET
from meshsim.state.health import HEALTHY
from meshsim.state.kernel import TIMER_DTYPE
from meshsim.state.upstream import (
    CLUSTER_DTYPE,
    HOST_DTYPE,
    ROUTE_DTYPE,
    SPLIT_DTYPE,
)
from meshsim.topology.compiled.clusters import (
    BARE,
    ClusterConfigs,
    ClusterName,
    cluster_endpoints,
    policy_of,
)
from meshsim.topology.compiled.draws import Draws
from meshsim.topology.compiled.filters import Filters
from meshsim.topology.compiled.hash_sets import hash_name_rows, lay_out_sets
from meshsim.topology.compiled.health import beliefs, rules_of
from meshsim.topology.compiled.lanes import Lanes
from meshsim.topology.compiled.layout import Layout, Rows
from meshsim.topology.compiled.oracle import oracle_rows
from meshsim.topology.compiled.placement import Group, is_grouped, workload_labels
from meshsim.topology.compiled.policies import (
    copy_of,
    fill_route,
    hash_source,
    hash_table,
    memory_count,
    no_clusters,
    no_hosts,
    weighted,
)
from meshsim.topology.compiled.prequal import prequal_rows, probes_max
from meshsim.topology.compiled.priorities import add_high_priority
from meshsim.topology.compiled.programs import CallSite, Programs, attributes_of
from meshsim.topology.compiled.quotas import Quotas
from meshsim.topology.compiled.reports import report_rows
from meshsim.topology.compiled.users import name_of_user, telling_headers
from meshsim.topology.model import (
    Route,
    Topology,
    TrafficClass,
    WeightedCluster,
)

__all__ = [
    "ClusterName",
    "Upstreams",
    "cluster_endpoints",
    "compile_upstreams",
    "hash_table",
    "policy_of",
]

#: Caller (workload index, or ~class), called service, number of its route, and what else tells
#: routes apart: its hash keys, LIMIT row and QUOTA row.
RouteIdentity = tuple[int, str, int, tuple[int, ...]]
#: In place of the called service: the route of a mirror's copies.
_COPIES = ""


@dataclass(frozen=True)
class Upstreams:
    """Arrays of the upstream side, and which proxy holds which CLUSTER rows.

    `cluster_start` and the like are by proxy: endpoints first, then traffic classes; `inbound`
    is the INBOUND row by endpoint.
    """

    arrays: dict[str, Rows]
    config_names: tuple[ClusterName, ...]  # of each CLUSTER_CONFIG row
    splits: tuple[tuple[int, int, str, str | None], ...]  # ROUTE, SPLIT, service, subset
    cluster_start: Rows
    cluster_count: Rows
    bucket_start: Rows
    bucket_count: Rows
    inbound: Rows
    mirrors_max: int  # of one route
    probes_max: int  # of one pick


def compile_upstreams(
    topology: Topology, layout: Layout, programs: Programs, draws: Draws, sidecars: bool
) -> Upstreams:
    """Compile routes and clusters, of proxies or not; fills `route_start` of the CALL rows."""
    compiler = _Compiler(topology, layout, draws, sidecars)
    traffic = list(topology.traffic.items())
    # Classes whose requests look alike take the same routes behind their entry.
    first_alike: dict[tuple[Any, ...], int] = {}
    alike = [
        first_alike.setdefault((*sorted(item.headers.items()), item.users), column)
        for column, (_, item) in enumerate(traffic)
    ]
    routes_by_traffic = np.full((len(programs.sites), max(len(traffic), 1)), NO_INDEX, np.int32)
    for row, site in enumerate(programs.sites):
        for column, (name, item) in enumerate(traffic):
            inner = site.workload is not None
            if inner and alike[column] != column:
                routes_by_traffic[row, column] = routes_by_traffic[row, alike[column]]
            elif inner or programs.entry_calls[name] == row:  # an entry serves its class only
                routes_by_traffic[row, column] = compiler.route(site, item, column)
    inbound = compiler.filters.inbound(layout, programs.sites, sidecars)
    programs.arrays["calls"]["route_start"] = np.arange(len(programs.sites)) * max(len(traffic), 1)
    return compiler.build(routes_by_traffic, inbound)


class _Compiler:
    def __init__(self, topology: Topology, layout: Layout, draws: Draws, sidecars: bool) -> None:
        self.topology = topology
        self.sidecars = sidecars
        self.layout = layout
        self.local: dict[int | None, dict[ClusterName, int]] = {}  # by caller
        self.routes: dict[RouteIdentity, int] = {}
        self.route_rows: list[tuple[Route, list[tuple[int, int, int]], tuple[int, int], int]] = []
        self.filters = Filters(topology)
        self.quotas = Quotas(topology, draws)
        self.hash_keys: dict[tuple[str, int | None], int] = {}
        self.hash_values: list[int] = []
        self.clusters = ClusterConfigs(topology, layout)
        self.lanes = Lanes(topology, layout, self.clusters.lane_config)

    # --- Routes ---

    def route(self, site: CallSite, traffic: TrafficClass, column: int) -> int:
        """Return the ROUTE row of requests of `traffic`, class `column`, at `site`, or NO_INDEX."""
        call = site.call
        target = call.to if isinstance(call, TrafficClass) else call.service
        labels: dict[str, str] = {}
        if site.workload is not None:
            at = self.layout.workloads[site.workload]
            labels = workload_labels(self.topology, at.service, at.workload)
            workload = self.topology.services[at.service].workloads[at.workload]
            if self.sidecars and not workload.meshed:
                bare = Route(split=(WeightedCluster(service=target, subset=BARE),))
                return self._row((site.workload, target, NO_ROUTE, (0, 0)), bare)
        request = attributes_of(site, traffic)
        policy = self.topology.policies[target]
        number = match_route(policy.routes, request, labels)
        if number == NO_ROUTE:
            return NO_INDEX
        chosen = policy.routes[number]
        keys = self._hash_slice(chosen, target, site, traffic)
        caller = site.workload if site.workload is not None else ~column
        limit = self.filters.limit(caller, (target, number), chosen.rate_limit, site, traffic)
        quota = self.quotas.row(chosen.global_rate_limit, site, traffic)
        return self._row((caller, target, number, (*keys, limit, quota)), chosen)

    def _row(self, identity: RouteIdentity, chosen: Route) -> int:
        """Return the ROUTE row of `chosen`, added if it is new."""
        if identity not in self.routes:
            caller, target, _, (start, count, *filtered) = identity
            self.routes[identity] = row = len(self.route_rows)
            split = self._split(caller, chosen, target)
            if chosen.priority == "HIGH":
                names = ((item.service or target, item.subset) for item in weighted(chosen))
                self.clusters.high.update(dict.fromkeys(names, NO_INDEX))
            self.route_rows.append((chosen, split, (start, count), NO_INDEX))
            filters = self._filters(identity, chosen, filtered)
            self.route_rows[row] = (chosen, split, (start, count), filters)
        return self.routes[identity]

    # --- Filters ---

    def _filters(self, identity: RouteIdentity, chosen: Route, filtered: list[int]) -> int:
        """Return the FILTER row of a route, or NO_INDEX."""
        rows = self.filters.rows
        limit = filtered[0] if chosen.rate_limit is not None else NO_INDEX
        quota = filtered[1] if chosen.global_rate_limit is not None else NO_INDEX
        caller, target, number, _ = identity
        copies = []
        for place, mirror in enumerate(chosen.mirrors):
            name = (mirror.service or target, mirror.subset)
            split = (WeightedCluster(service=name[0], subset=name[1]),)
            copy = (caller, _COPIES, self.routes[identity], (0, 0, number, place))
            route = self._row(copy, copy_of(chosen, split))
            copies.append((mirror.percentage, route, self._local(caller, name)))
        return rows.filters(rows.fault(chosen.fault), limit, quota, rows.mirrors(copies))

    def _split(self, caller: int, chosen: Route, target: str) -> list[tuple[int, int, int]]:
        """Return (cluster, chain of lanes, weight) of each destination."""
        names = [(item.service or target, item.subset) for item in weighted(chosen)]
        return [
            (self._local(caller, name), self.clusters.chain(name, item), item.weight)
            for name, item in zip(names, weighted(chosen), strict=True)
        ]

    def _local(self, caller: int, name: ClusterName) -> int:
        self.clusters.add(name)
        clusters = self.local.setdefault(caller, {})
        return clusters.setdefault(name, len(clusters))

    def _hash_slice(
        self, chosen: Route, target: str, site: CallSite, traffic: TrafficClass
    ) -> tuple[int, int]:
        """Return the slice of hash keys of these requests; empty if they carry none."""
        destination = chosen.split[0] if chosen.split else None
        service = (destination.service if destination else None) or target
        balancing = policy_of(self.topology, (service, destination.subset if destination else None))
        headers = attributes_of(site, traffic).headers
        value = hash_source(balancing, {k.lower(): text for k, text in headers.items()}, "source")
        if value is None:
            return 0, 0
        settings, users = balancing.load_balancing, traffic.users
        by_header = settings is not None and not settings.hash_source_ip and settings.hash_header
        if by_header and not telling_headers(site, traffic, {by_header.lower()}):
            users = None
        key = (value, users)
        if key not in self.hash_keys:
            self.hash_keys[key] = len(self.hash_values)
            names: Iterable[str] = [value]
            if users is not None:
                names = (name_of_user(value, number) for number in range(users))
            self.hash_values += [xxh64(name) for name in names]
        return self.hash_keys[key], users or 1

    # --- Rows ---

    def build(self, routes_by_traffic: Rows, inbound: Rows) -> Upstreams:
        timers = _Timers()
        route_arrays = self._route_arrays(timers)
        self.clusters.build()
        hosts, clusters, start, count = self._holdings()
        filter_arrays, bucket_start, bucket_count = self.filters.build(self._callers(), len(start))
        arrays = self.clusters.arrays()
        memory = self._memory(clusters)
        policies = [policy_of(self.topology, name) for name in self.clusters.numbers]
        rules = rules_of(policies, arrays["configs"])
        held = self.lanes.clusters(clusters, len(hosts))
        members = self.lanes.members(len(hosts))
        high_clusters, high_hosts = np.zeros((2, 0), np.int32)
        high = self.clusters.high_priority(clusters)
        if high:
            added = add_high_priority(hosts, held, members, high_clusters, high)
            hosts, held, members, high_clusters, high_hosts = added.values()
        endpoint_count = len(self.layout.endpoint_names)
        sets = lay_out_sets(arrays["configs"], held, len(arrays["table"]))
        arrays = {
            "hash_sets": sets,
            **hash_name_rows(self.layout.endpoint_names, sets),
            **oracle_rows(hosts, held, arrays["configs"], endpoint_count),
            **report_rows(len(hosts), held, arrays["configs"], endpoint_count),
            **prequal_rows(held, arrays["configs"], endpoint_count),
            **route_arrays,
            **filter_arrays,
            **self.quotas.build(len(start)),
            "routes_by_traffic": routes_by_traffic.reshape(-1),
            "hash_keys": np.array(self.hash_values or [0], np.uint64),
            **arrays,
            "health_rules": rules,
            **beliefs(hosts, held, arrays["configs"]),
            "hosts": hosts,
            "members": members,
            "clusters": held,
            "high_clusters": high_clusters,
            "high_hosts": high_hosts,
            "lane_links": self.lanes.links(len(clusters)),
            "memory": memory,
            **self.lanes.groupings.build(len(clusters)),
            "timers": timers.build(),
        }
        splits = tuple(
            (row, start_of + number, target, item.subset)
            for row, (chosen, target, start_of) in enumerate(self._split_starts())
            for number, item in enumerate(weighted(chosen))
            if target != _COPIES
        )
        return Upstreams(
            arrays,
            tuple(self.clusters.config_names),
            splits,
            start,
            count,
            bucket_start,
            bucket_count,
            inbound,
            self.filters.rows.mirrors_max,
            probes_max(policies),
        )

    def _split_starts(self) -> Iterable[tuple[Route, str, int]]:
        """Yield (route, routed service, first SPLIT row) of each ROUTE row."""
        first = 0
        rows = zip(self.routes, self.route_rows, strict=True)
        for (_, target, _, _), (chosen, split, _, _) in rows:
            yield chosen, target, first
            first += len(split)

    def _route_arrays(self, timers: _Timers) -> dict[str, Rows]:
        routes = np.zeros(max(len(self.route_rows), 1), ROUTE_DTYPE)
        splits: list[tuple[int, int, int]] = []
        codes: list[int] = []
        for row, (chosen, split, keys, filters) in enumerate(self.route_rows):
            fields = routes[row : row + 1]
            fields["split_start"] = len(splits)
            fields["split_count"] = len(split)
            fields["weight_total"] = sum(weight for _, _, weight in split)
            fields["hash_start"], fields["hash_count"] = keys
            fill_route(fields, chosen, codes)
            fields["filters"] = filters
            fields["timeout_timer"] = timers.row("route", int(fields["timeout_ns"][0]))
            fields["per_try_timer"] = timers.row("try", int(fields["per_try_timeout_ns"][0]))
            splits += split
        return {
            "routes": routes,
            "splits": np.array(splits or [(0, NO_INDEX, 0)], SPLIT_DTYPE),
            "codes": np.array(codes or [0], np.int32),
        }

    def _holdings(self) -> tuple[Rows, Rows, Rows, Rows]:
        """Return HOST and CLUSTER rows, and the cluster range of each proxy."""
        endpoint_count = len(self.layout.endpoint_names)
        proxy_count = endpoint_count + len(self.topology.traffic)
        start = np.zeros(proxy_count, np.int32)
        count = np.zeros(proxy_count, np.int32)
        host_blocks: list[Rows] = []
        cluster_blocks: list[Rows] = []
        host_total = 0
        cluster_total = 0
        members_of = {
            name: cluster_endpoints(self.topology, self.layout, name)
            for name in self.clusters.numbers
        }
        weights_of = {
            name: self.clusters.weights(name, members_of[name]) for name in self.clusters.numbers
        }
        for caller, first_proxy, replicas in self._callers():
            names = list(self.local.get(caller, {}))
            proxies = np.arange(first_proxy, first_proxy + replicas)
            start[proxies] = cluster_total + np.arange(replicas) * len(names)
            count[proxies] = len(names)
            if not names or replicas == 0:
                continue
            configs = (self.clusters.row(name) for name in names)
            if any(config["picking"][0] in (PICK_GROUPED, PICK_SUBSET) for config in configs):
                for proxy in proxies:
                    hosts, clusters = self._holding_with_lanes(
                        names, caller, int(proxy), members_of, (cluster_total, host_total)
                    )
                    hosts["cluster"] += cluster_total
                    start[proxy] = cluster_total
                    host_blocks.append(hosts)
                    cluster_blocks.append(clusters)
                    host_total += len(hosts)
                    cluster_total += len(clusters)
                continue
            hosts, clusters = _holding(names, self.clusters.numbers, members_of, weights_of)
            per_proxy = len(hosts)
            hosts = np.tile(hosts, replicas)
            clusters = np.tile(clusters, replicas)
            shift = np.repeat(np.arange(replicas), per_proxy)
            hosts["cluster"] += (cluster_total + shift * len(names)).astype(np.int32)
            shift = np.repeat(np.arange(replicas), len(names))
            clusters["member_start"] += (host_total + shift * per_proxy).astype(np.int32)
            clusters["proxy"] = np.repeat(proxies, len(names))
            host_blocks.append(hosts)
            cluster_blocks.append(clusters)
            host_total += len(hosts)
            cluster_total += len(clusters)
        # The dtype is stated because joining drops what fills up a row.
        hosts = np.concatenate([*host_blocks, no_hosts(int(host_total == 0))], dtype=HOST_DTYPE)
        clusters = np.concatenate(
            [*cluster_blocks, no_clusters(int(cluster_total == 0))],
            dtype=CLUSTER_DTYPE,
        )
        return hosts, clusters, start, count

    def _holding_with_lanes(
        self,
        names: list[ClusterName],
        caller: int,
        proxy: int,
        members_of: dict[ClusterName, Rows],
        first: tuple[int, int],
    ) -> tuple[Rows, Rows]:
        """Return the HOST and CLUSTER rows of one proxy, some of whose clusters have lanes.

        `first` is where its clusters and hosts will be.
        """
        client = self.lanes.client(caller, proxy)
        groups_of: dict[ClusterName, list[Group]] = {}
        ordered = dict(members_of)
        for name in names:
            policy = policy_of(self.topology, name)
            if policy.locality is not None and is_grouped(self.layout, policy.locality):
                weights = self.clusters.weights(name, members_of[name])
                groups = self.lanes.groups(policy.locality, members_of[name], weights, client)
                groups_of[name] = groups
                ordered[name] = np.array([row for item in groups for row in item.endpoints], "i4")
        weights_of = {name: self.clusters.weights(name, ordered[name]) for name in names}
        hosts, clusters = _holding(names, self.clusters.numbers, ordered, weights_of)
        clusters["proxy"] = proxy
        for row, name in enumerate(names):
            if name in groups_of:
                self.lanes.add(name, groups_of[name], hosts, clusters, row, first)
            elif name in self.clusters.subsets:
                self.lanes.add_subsets(self.clusters.subset_lanes(name), clusters, row, first)
        clusters["member_start"] += first[1]
        return hosts, clusters

    def _memory(self, clusters: Rows) -> Rows:
        """Give each CLUSTER row its part of the memory of custom policies; return that."""
        own = [row[0] for row in self.route_rows if row[0].retry and row[0].retry.custom]
        numbers = self.clusters.numbers
        counts = [memory_count(policy_of(self.topology, name), own) for name in numbers]
        clusters["memory_count"] = np.array(counts or [0], np.int32)[clusters["config"]]
        ends = np.cumsum(clusters["memory_count"])
        clusters["memory_start"] = ends - clusters["memory_count"]
        return np.zeros(max(int(ends[-1]), 1))

    def _callers(self) -> Iterable[tuple[int, int, int]]:
        """Yield (caller, first proxy, number of proxies) in the order of the proxies."""
        for index, at in enumerate(self.layout.workloads):
            yield index, at.first_endpoint, at.replicas
        for index in range(len(self.topology.traffic)):
            yield ~index, len(self.layout.endpoint_names) + index, 1


class _Timers:
    """TIMER lists: one for each duration and kind of row (route or try)."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, int], int] = {}

    def row(self, kind: str, duration_ns: int) -> int:
        if duration_ns == NEVER_NS:
            return NO_INDEX
        return self.rows.setdefault((kind, duration_ns), len(self.rows))

    def build(self) -> Rows:
        timers = np.zeros(max(len(self.rows), 1), TIMER_DTYPE)
        timers["head"] = timers["tail"] = NO_INDEX
        for (_, duration_ns), row in self.rows.items():
            timers["duration_ns"][row] = duration_ns
        return timers


def _holding(
    names: list[ClusterName],
    configs: dict[ClusterName, int],
    members_of: dict[ClusterName, Rows],
    weights_of: dict[ClusterName, list[int]],
) -> tuple[Rows, Rows]:
    """Return the HOST and CLUSTER rows of one proxy, indices from 0."""
    clusters = no_clusters(len(names))
    blocks = []
    total = 0
    for row, name in enumerate(names):
        endpoints = members_of[name]
        hosts = no_hosts(len(endpoints))
        hosts["endpoint"] = endpoints
        hosts["cluster"] = row
        hosts["weight"] = weights_of[name]
        hosts["table_index"] = np.arange(len(endpoints))
        hosts["healthy"] = HEALTHY
        blocks.append(hosts)
        clusters["config"][row] = configs[name]
        clusters["member_start"][row] = total
        clusters["member_count"][row] = len(endpoints)
        total += len(endpoints)
    return np.concatenate(blocks, dtype=HOST_DTYPE), clusters
