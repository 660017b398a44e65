"""Rows that come, or are named no more, while the run goes on: replicas, versions of the routes.

Rule: rows never move.  A new endpoint and its proxy are appended; every cluster that the
workload belongs to gets a HOST row at the end and a new member list, and the old list is
abandoned.  Hash tables are rebuilt under a new config row, which every proxy of the old one
takes at once.  A version of the routes is a block of `routes_by_traffic` at the end, with new
ROUTE and SPLIT rows for what differs from the version before; a proxy reads its own version.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from meshsim.kernel.bulkheads import append_bulkheads
from meshsim.kernel.caching import append_cache
from meshsim.kernel.concurrency import add_controller
from meshsim.kernel.hash_tables import extend_names, replace_table
from meshsim.kernel.idle import report_idle
from meshsim.kernel.memory import Rows
from meshsim.kernel.regrouping import (
    copy_lanes,
    extend_subsets,
    insert_host,
    is_grouped,
    rebuild_lane_tables,
    recount_clients,
    remove_host,
    shrink_subsets,
)
from meshsim.kernel.turns import begin_turns
from meshsim.kernel.watching import watch_added, withdraw_hosts
from meshsim.policy.rate_limit import fill_bucket
from meshsim.rng import PURPOSE_IDLE, PURPOSE_PICK, make_streams
from meshsim.state.codes import MAGLEV, NO_INDEX, RING_HASH
from meshsim.state.filters import DIRECTION_COUNT
from meshsim.state.health import BY_DISCOVERY, HEALTHY, UNHEALTHY, WITHDRAWN
from meshsim.topology.compiled.oracle import oracle_rows
from meshsim.topology.compiled.policies import HOST_LINKS, no_hosts
from meshsim.topology.compiled.prequal import prequal_rows
from meshsim.topology.compiled.priorities import add_high_priority, high_hosts
from meshsim.topology.compiled.reports import report_rows
from meshsim.topology.compiled.upstreams import hash_table, policy_of

__all__ = ["push_routes", "with_replicas", "without_replica"]


def with_replicas(kernel: Any, like: int) -> None:
    """Append an endpoint equal to endpoint `like`, and make every proxy know it."""
    state = kernel.state
    known_clusters, known_hosts = len(state.clusters), len(state.hosts)
    endpoint = _append_endpoint(kernel, like)
    extend_names(kernel)
    clusters = state.clusters
    holds = state.hosts["endpoint"] == like
    holding = np.unique(state.hosts["cluster"][holds])
    first_host = len(state.hosts)
    hosts = no_hosts(len(holding))
    members, models = [state.members], []
    size = len(state.members)
    for row, cluster in enumerate(holding):
        start, count = clusters["member_start"][cluster], clusters["member_count"][cluster]
        current = state.members[start : start + count]
        model = current[state.hosts["endpoint"][current] == like][0]
        models.append(model)
        hosts["weight"][row] = state.hosts["weight"][model]
        hosts["table_index"][row] = count
        hosts["cluster"][row] = cluster
        if is_grouped(state, cluster):
            members.append(insert_host(state, cluster, model, first_host + row, size))
        else:
            members.append(np.append(current, np.int32(first_host + row)))
        clusters["member_start"][cluster] = size
        clusters["member_count"][cluster] = count + 1
        size += count + 1
    hosts["endpoint"] = endpoint
    hosts["healthy"] = HEALTHY
    hosts["rtt_updated_ns"] = kernel.now_ns
    state.replace(hosts=_joined(state.hosts, hosts), members=np.concatenate(members))
    for row, cluster in enumerate(holding):
        extend_subsets(kernel, int(cluster), int(models[row]), first_host + row)
    _rebuild_tables(kernel, holding)
    watch_added(kernel, known_clusters, known_hosts)
    _extend_high_priority(state)
    add_controller(kernel, like)
    _extend_oracle(kernel)
    _extend_reports(kernel)
    _extend_probes(kernel)
    recount_clients(state, _siblings(kernel, endpoint))


def _extend_oracle(kernel: Any) -> None:
    """Let balancers that see the servers see the new one, if there are any."""
    state = kernel.state
    known = ("oracle_hosts", "oracle_clusters", "oracle_endpoints")
    blank = oracle_rows(state.hosts, state.clusters, state.configs, len(state.endpoints))
    if not len(blank["oracle_endpoints"]):
        return
    first = len(state.oracle_endpoints)
    for name in known:
        before = getattr(state, name)
        for field in set(before.dtype.names) - {"host_start", "host_count"}:
            blank[name][field][: len(before)] = before[field]
    streams = make_streams(kernel.stream_seed, PURPOSE_IDLE, len(state.endpoints))
    streams[:first] = state.idle_streams
    state.replace(**blank, idle_streams=streams)
    for endpoint in range(first, len(state.endpoints)):
        report_idle(state, endpoint)


def _extend_high_priority(state: Any) -> None:
    """Link the hosts that were added to clusters with a HIGH priority, if there are any."""
    short = len(state.clusters) - len(state.high_clusters)
    if len(state.high_clusters):
        links = np.append(state.high_clusters, np.full(short, NO_INDEX, np.int32))
        state.replace(high_clusters=links, high_hosts=high_hosts(state.hosts, links))


def _extend_reports(kernel: Any) -> None:
    """Let clusters that weigh by load reports take those of the new server, if there are any."""
    state = kernel.state
    counts = len(state.hosts), len(state.endpoints)
    blank = report_rows(counts[0], state.clusters, state.configs, counts[1])
    for name, rows in blank.items():
        before = getattr(state, name)
        rows[: len(before)] = before
    first = len(state.load_reports)
    blank["load_reports"]["since_ns"][first:] = kernel.now_ns
    state.replace(**blank)


def _extend_probes(kernel: Any) -> None:
    """Let new clusters probe and the new server answer, if anybody probes."""
    state = kernel.state
    blank = prequal_rows(state.clusters, state.configs, len(state.endpoints))
    for name, rows in blank.items():
        before = getattr(state, name)
        if name != "prequal_links":
            rows[: len(before)] = before
    state.replace(**blank)


def _siblings(kernel: Any, endpoint: int) -> list[int]:
    """Return the proxies of all replicas of the service of `endpoint`."""
    layout = kernel.compiled.layout
    endpoints = kernel.state.endpoints
    service = layout.workloads[int(endpoints["workload"][endpoint])].service
    own = np.isin(endpoints["workload"], layout.services[service])
    return [int(proxy) for proxy in endpoints["proxy"][own]]


def without_replica(kernel: Any, endpoint: int) -> None:
    """Take `endpoint` out of every proxy's members; what it has to do, it finishes."""
    state = kernel.state
    # Who may be picked among the others, panic included, is as if it were not there.
    withdraw_hosts(kernel, [endpoint], healthy=False)
    holding = np.unique(state.hosts["cluster"][state.hosts["endpoint"] == endpoint])
    members = [state.members]
    size = len(state.members)
    for cluster in holding:
        start, count = (
            state.clusters["member_start"][cluster],
            state.clusters["member_count"][cluster],
        )
        current = state.members[start : start + count]
        gone = current[state.hosts["endpoint"][current] == endpoint]
        if len(gone) and is_grouped(state, cluster):
            rest = remove_host(state, cluster, int(gone[0]), size)
        else:
            rest = current[state.hosts["endpoint"][current] != endpoint]
            state.hosts["table_index"][rest] = np.arange(len(rest))
        members.append(rest)
        state.clusters["member_start"][cluster] = size
        state.clusters["member_count"][cluster] = len(rest)
        size += len(rest)
    state.replace(members=np.concatenate(members))
    for cluster in holding:
        hosts = np.flatnonzero(
            (state.hosts["cluster"] == cluster) & (state.hosts["endpoint"] == endpoint)
        )
        shrink_subsets(kernel, int(cluster), int(hosts[0]))
    _rebuild_tables(kernel, holding)


def _joined(*rows: Rows) -> Rows:
    """Join rows of one dtype and keep it: numpy's own choice drops what fills up a row."""
    return np.concatenate(rows, dtype=rows[0].dtype)


def _append_endpoint(kernel: Any, like: int) -> int:
    """Append the ENDPOINT and PROXY rows (with own clusters and hosts); return the endpoint."""
    state = kernel.state
    endpoint, proxy = len(state.endpoints), len(state.proxies)
    kernel.endpoint_names.append(f"{kernel.endpoint_names[like].rpartition('-')[0]}-{endpoint}")
    added = state.endpoints[like : like + 1].copy()
    for field in ("busy", "queued", "requests", "rejected", "reneged", "completed"):
        added[field] = 0
    for field in ("busy_ns", "queue_ns", "cpu_ns", "fallbacks"):
        added[field] = 0
    added["alive"] = 1
    added["running_head"] = NO_INDEX
    added["updated_ns"] = kernel.now_ns
    added["proxy"] = proxy
    append_cache(state, added)
    append_bulkheads(state, added, like)
    model = int(state.endpoints["proxy"][like])
    proxies = state.proxies[model : model + 1].copy()
    proxies["endpoint"] = endpoint
    for field in ("requests", "cpu_ns", "rbac_allowed", "rbac_denied"):
        proxies[field] = 0
    proxies["worker_start"] = len(state.worker_free_ns)
    proxies["cluster_start"] = len(state.clusters)
    workers = np.full(int(proxies["workers"][0]), kernel.now_ns, np.int64)
    added["container"] = _copy_container(state, int(added["container"][0]))
    proxies["container"] = _copy_container(state, int(proxies["container"][0]))
    _copy_holdings(kernel, model, proxy)
    proxies["bucket_start"] = _copy_filters(state, model)
    blank = np.full((1, state.queue_heads.shape[1]), NO_INDEX, np.int32)
    streams = make_streams(kernel.stream_seed, PURPOSE_PICK, proxy + 1)
    state.replace(
        endpoints=_joined(state.endpoints, added),
        proxies=_joined(state.proxies, proxies),
        worker_free_ns=np.concatenate([state.worker_free_ns, workers]),
        queue_heads=np.concatenate([state.queue_heads, blank]),
        queue_tails=np.concatenate([state.queue_tails, blank]),
        pick_streams=np.concatenate([state.pick_streams, streams[proxy:]]),
    )
    return endpoint


def _copy_holdings(kernel: Any, model: int, proxy: int) -> None:
    """Give `proxy` CLUSTER and HOST rows like those of proxy `model`, unused."""
    state = kernel.state
    start = int(state.proxies["cluster_start"][model])
    clusters = state.clusters[start : start + int(state.proxies["cluster_count"][model])].copy()
    first_cluster, size, first_host = len(state.clusters), len(state.members), len(state.hosts)
    host_blocks, member_blocks = [state.hosts], [state.members]
    for row in range(len(clusters)):
        at, count = int(clusters["member_start"][row]), int(clusters["member_count"][row])
        hosts = state.hosts[state.members[at : at + count]].copy()
        _clear_hosts(hosts, first_cluster + row, kernel.now_ns)
        host_blocks.append(hosts)
        member_blocks.append(np.arange(first_host, first_host + count, dtype=np.int32))
        clusters["member_start"][row] = size
        size += count
        first_host += count
    keep = {"config", "member_start", "member_count", "memory_count"}
    for field in set(clusters.dtype.names) - keep:
        clusters[field] = 0
    clusters["proxy"] = proxy
    ends = len(state.memory) + np.cumsum(clusters["memory_count"])
    clusters["memory_start"] = ends - clusters["memory_count"]
    forgotten = np.zeros(int(clusters["memory_count"].sum()))
    clusters["health"] = NO_INDEX
    state.replace(
        memory=np.concatenate([state.memory, forgotten]),
        clusters=_joined(state.clusters, clusters),
        hosts=_joined(*host_blocks),
        members=np.concatenate(member_blocks),
    )
    for row in range(len(clusters)):
        copy_lanes(kernel, start + row, first_cluster + row)
    begin_turns(kernel, first_cluster)
    _copy_high_priority(state, start, first_cluster, len(clusters))


def _copy_high_priority(state: Any, model: int, first: int, count: int) -> None:
    """Give `count` new CLUSTER rows, copies of those from `model` on, their HIGH priority."""
    links = state.high_clusters[model : model + count].tolist()
    configs = {
        first + row: int(state.clusters["config"][link])
        for row, link in enumerate(links)
        if link != NO_INDEX
    }
    if configs:
        rows = (state.hosts, state.clusters, state.members, state.high_clusters)
        state.replace(**add_high_priority(*rows, configs))


def _copy_filters(state: Any, model: int) -> int:
    """Append full buckets like those of proxy `model`, and counts; return the first of them."""
    first = len(state.token_buckets)
    start = int(state.proxies["bucket_start"][model])
    buckets = state.token_buckets[start : start + int(state.proxies["bucket_count"][model])].copy()
    for bucket in range(len(buckets)):
        fill_bucket(buckets, bucket)
    state.replace(token_buckets=_joined(state.token_buckets, buckets))
    for name, rows in (("fault_counts", 1), ("limit_counts", DIRECTION_COUNT), ("quota_counts", 1)):
        counts = getattr(state, name)
        if len(counts):
            state.replace(**{name: _joined(counts, np.zeros(rows, counts.dtype))})
    return first


def _clear_hosts(hosts: Rows, cluster: int, now_ns: int) -> None:
    keep = {"endpoint", "weight", "table_index", "unhealthy", "degraded"}
    for field in set(hosts.dtype.names or ()) - keep:
        hosts[field] = 0
    for field in set(HOST_LINKS) - keep:
        hosts[field] = NO_INDEX
    # A new proxy holds nothing against a host but what discovery says.
    hosts["unhealthy"] &= WITHDRAWN | BY_DISCOVERY
    hosts["healthy"] = np.where(hosts["unhealthy"] == 0, HEALTHY, UNHEALTHY)
    hosts["selections"] = 1  # a cluster that hashes has to look who may be picked
    hosts["cluster"] = cluster
    hosts["rtt_updated_ns"] = now_ns


def _copy_container(state: Any, container: int) -> int:
    """Append a container like `container` on the same node (its own, if it was alone)."""
    if container == NO_INDEX:
        return NO_INDEX
    node = int(state.containers["node"][container])
    alone = state.nodes["first"][node] == container
    alone = alone and state.containers["next"][container] == NO_INDEX
    added = state.containers[container : container + 1].copy()
    for field in ("running", "virtual_ns", "rate", "share_cores"):
        added[field] = 0
    added["root"] = NO_INDEX
    added["updated_ns"] = state.counters["now_ns"][0]
    row = len(state.containers)
    if alone and state.nodes["cores"][node] == state.containers["limit_cores"][container]:
        fresh = state.nodes[node : node + 1].copy()
        fresh["first"] = row
        fresh["wake"] = 0
        added["node"] = len(state.nodes)
        added["next"] = NO_INDEX
        state.replace(nodes=_joined(state.nodes, fresh))
    else:
        added["next"] = state.nodes["first"][node]
        state.nodes["first"][node] = row
    state.replace(containers=_joined(state.containers, added))
    return row


def _rebuild_tables(kernel: Any, clusters: Rows) -> None:
    """Give hashing clusters a config row with a table over their present members."""
    state = kernel.state
    grouped = np.array([is_grouped(state, cluster) for cluster in clusters], bool)
    for cluster in clusters[grouped]:
        rebuild_lane_tables(kernel, int(cluster))
    clusters = clusters[~grouped]
    for old in np.unique(state.clusters["config"][clusters]):
        if state.configs["balancing"][old] not in (RING_HASH, MAGLEV):
            continue
        users = clusters[state.clusters["config"][clusters] == old]
        start = state.clusters["member_start"][users[0]]
        count = state.clusters["member_count"][users[0]]
        hosts = state.hosts[state.members[start : start + count]]
        policy = policy_of(kernel.compiled.topology, kernel.config_names[old])
        weights = hosts["weight"].tolist()
        table = hash_table(kernel.endpoint_names, policy, hosts["endpoint"], weights)
        replace_table(kernel, users, table, policy, weights)


def push_routes(kernel: Any, changed: list[tuple[int, int, str]], weights: dict[str, int]) -> int:
    """Append a version of the routes with other weights; no proxy holds it yet.

    Parameters
    ----------
    kernel : Kernel
        Its memory and `splits` are modified.
    changed : list of (int, int, str)
        ROUTE, SPLIT and subset of the newest version that get a weight.
    weights : dict of str to int
        By subset.

    Returns
    -------
    int
        Number of the version.
    """
    state = kernel.state
    weight_of = {split: weights.get(subset, 0) for _, split, subset in changed}
    replaced: dict[int, int] = {}
    moved: dict[int, int] = {}
    routes, splits = [state.routes], [state.splits]
    for route in dict.fromkeys(route for route, _, _ in changed):
        start, count = state.routes["split_start"][route], state.routes["split_count"][route]
        row = state.routes[route : route + 1].copy()
        part = state.splits[start : start + count].copy()
        first = sum(len(block) for block in splits)
        for place in range(count):
            moved[int(start) + place] = first + place
            part["weight"][place] = weight_of.get(int(start) + place, part["weight"][place])
        row["split_start"] = first
        row["weight_total"] = part["weight"].sum()
        replaced[route] = sum(len(block) for block in routes)
        routes.append(row)
        splits.append(part)
    block = int(state.counters["route_block"][0])
    newest = state.routes_by_traffic[-block:].copy()
    for old, new in replaced.items():
        newest[newest == old] = new
    version = len(state.routes_by_traffic) // block
    state.replace(
        routes=_joined(*routes),
        splits=_joined(*splits),
        routes_by_traffic=np.concatenate([state.routes_by_traffic, newest]),
    )
    kernel.splits = [
        (replaced.get(route, route), moved.get(split, split), routed, subset)
        for route, split, routed, subset in kernel.splits
    ]
    return version
