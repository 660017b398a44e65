"""Servers: endpoints, the cores they share, and the proxies in front of them.

Rule: an endpoint has dedicated cores, one a worker, unless something says otherwise: a CPU
limit below its concurrency, processor sharing (one core unless limited), a concurrency
penalty, or a node with a stated number of cores.  Then it is a container of a node; a
container on no limited node is alone on a node of its own.

Proxies are in the order of their endpoints, then one gateway a traffic class.  A gateway has
as many workers as its class needs at its highest rate to stay below 30 % utilisation: it is
a cost, not the bottleneck under study.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from meshsim.errors import ConfigError, Problem
from meshsim.state.codes import NO_INDEX
from meshsim.state.kernel import PROXY_DTYPE
from meshsim.state.server import (
    CONTAINER_DTYPE,
    ENDPOINT_DTYPE,
    FCFS,
    GRAY_DTYPE,
    NODE_DTYPE,
    ON_TIMEOUT_CANCEL_QUEUED,
    ON_TIMEOUT_CANCEL_WORK,
    ON_TIMEOUT_CONTINUE,
    PREEMPTIVE_PRIORITY,
    PRIORITY,
    PRIORITY_COUNT,
)
from meshsim.topology.compiled.draws import Draws
from meshsim.topology.compiled.layout import Layout, Place, Rows
from meshsim.topology.compiled.upstreams import Upstreams
from meshsim.topology.model import Topology, TrafficClass, Workload
from meshsim.topology.profile import MeshProfile
from meshsim.units import NS_PER_S

__all__ = ["Servers", "compile_servers", "peak_rate"]

_DISCIPLINES = {
    "FCFS": FCFS,
    "PROCESSOR_SHARING": FCFS,
    "PRIORITY": PRIORITY,
    "PREEMPTIVE_PRIORITY": PREEMPTIVE_PRIORITY,
}
_ON_TIMEOUT = {
    "continue": ON_TIMEOUT_CONTINUE,
    "cancel_queued": ON_TIMEOUT_CANCEL_QUEUED,
    "cancel_work": ON_TIMEOUT_CANCEL_WORK,
}
#: A queue without a stated limit; the memory of the kernel ends first.
_UNLIMITED = 2**31 - 1
_GATEWAY_UTILISATION_MAX = 0.3


@dataclass(frozen=True)
class Servers:
    """Arrays of the server side; `proxy_names` is empty for a mesh without proxies."""

    arrays: dict[str, Rows]
    proxy_names: tuple[tuple[str, str], ...]


def compile_servers(
    topology: Topology, profile: MeshProfile, layout: Layout, draws: Draws, upstreams: Upstreams
) -> Servers:
    """Compile endpoints, containers, nodes and proxies."""
    problems: list[Problem] = []
    cores = _Cores(topology, layout)
    endpoints = np.zeros(len(layout.endpoint_names), ENDPOINT_DTYPE)
    endpoints["workload"] = layout.endpoint_workload
    endpoints["node"] = layout.endpoint_node
    endpoints["zone"] = layout.endpoint_zone
    endpoints["proxy"] = np.arange(len(endpoints))
    endpoints["alive"] = 1
    endpoints["running_head"] = NO_INDEX
    endpoints["inbound"] = upstreams.inbound
    endpoints["gray"] = NO_INDEX
    for place in layout.workloads:
        workload = topology.services[place.service].workloads[place.workload]
        rows = slice(place.first_endpoint, place.first_endpoint + place.replicas)
        _fill(endpoints[rows], workload, draws)
        endpoints["container"][rows] = NO_INDEX
        for endpoint in range(rows.start, rows.stop):
            if cores.shared(workload, int(layout.endpoint_node[endpoint])):
                endpoints["container"][endpoint] = cores.add_workload(workload, endpoint)
                problems += _preemptive_problem(workload, place)
    if problems:
        raise ConfigError(dict.fromkeys(problems))
    proxies = _proxies(topology, profile, layout, upstreams, cores)
    queues = np.full((len(endpoints), PRIORITY_COUNT), NO_INDEX, np.int32)
    workers = int(proxies["workers"].sum())
    arrays = {
        "endpoints": endpoints,
        "grays": np.zeros(0, GRAY_DTYPE),
        "gray_callers": np.zeros((0, 1), np.int8),
        "queue_heads": queues,
        "queue_tails": queues.copy(),
        "proxies": proxies,
        "worker_free_ns": np.zeros(max(workers, 1), np.int64),
        **cores.build(),
    }
    return Servers(arrays, _proxy_names(topology, profile, layout))


def _preemptive_problem(workload: Workload, place: Place) -> list[Problem]:
    if workload.discipline != "PREEMPTIVE_PRIORITY":
        return []
    return [
        Problem(
            "preemption needs dedicated cores",
            path=f"services.{place.service}.workloads.{place.workload}.discipline",
            found=workload.discipline,
            allowed="no cpu limit below concurrency, no penalty, no node with stated cores",
        )
    ]


def _fill(rows: Rows, workload: Workload, draws: Draws) -> None:
    rows["discipline"] = _DISCIPLINES[workload.discipline]
    rows["concurrency"] = workload.concurrency
    rows["queue_limit"] = _UNLIMITED if workload.queue_limit is None else workload.queue_limit
    rows["hold_worker"] = int(workload.hold_worker)
    rows["on_timeout"] = _ON_TIMEOUT[workload.on_timeout]
    rows["patience"] = draws.row(workload.patience)
    rows["speed"] = workload.speed
    rows["error_rate"] = workload.error_rate
    rows["deadlines"] = int(workload.deadline.propagate)
    rows["retry_after_s"] = NO_INDEX
    if workload.retry_after is not None:
        rows["retry_after_s"] = math.ceil(workload.retry_after / NS_PER_S)


class _Cores:
    """Collects CONTAINER and NODE rows."""

    def __init__(self, topology: Topology, layout: Layout) -> None:
        self.node_cores = [topology.nodes[name].cores for name in layout.nodes]
        self.node_rows: dict[int, int] = {}
        self.nodes: list[tuple[int, int, float]] = []
        self.containers: list[tuple[int, float, float, float]] = []
        self.node_of: dict[int, int] = {
            endpoint: int(node) for endpoint, node in enumerate(layout.endpoint_node)
        }

    def limited(self, node: int) -> bool:
        """Return whether `node` states its cores."""
        return node != NO_INDEX and self.node_cores[node] is not None

    def shared(self, workload: Workload, node: int) -> bool:
        """Return whether a replica of `workload` on `node` is a container."""
        return (
            self.limited(node)
            or workload.discipline == "PROCESSOR_SHARING"
            or workload.concurrency_penalty > 0
            or (workload.cpu is not None and workload.cpu < workload.concurrency)
        )

    def add_workload(self, workload: Workload, endpoint: int) -> int:
        """Add the container of one replica; return its row."""
        limit = workload.cpu or float(workload.concurrency)
        if workload.discipline == "PROCESSOR_SHARING" and workload.cpu is None:
            limit = 1.0
        return self.add(limit, workload.speed, workload.concurrency_penalty, self.node_of[endpoint])

    def add(self, limit: float, speed: float, penalty: float, node: int) -> int:
        """Add a container on topology node `node`; return its row."""
        if self.limited(node):
            row = self.node_rows.setdefault(node, len(self.nodes))
            cores = self.node_cores[node] or 0.0
        else:
            row, cores = len(self.nodes), limit
        if row == len(self.nodes):
            self.nodes.append((NO_INDEX, 0, cores))
        self.containers.append((row, limit, speed, penalty))
        return len(self.containers) - 1

    def build(self) -> dict[str, Rows]:
        """Return `containers` and `nodes`, linked."""
        containers = np.zeros(max(len(self.containers), 1), CONTAINER_DTYPE)
        nodes = np.array(self.nodes or [(NO_INDEX, 0, 1.0)], NODE_DTYPE)
        containers["root"] = containers["next"] = NO_INDEX
        for row, (node, limit, speed, penalty) in reversed(list(enumerate(self.containers))):
            containers["node"][row] = node
            containers["limit_cores"][row] = limit
            containers["speed"][row] = speed
            containers["penalty"][row] = penalty
            containers["next"][row] = nodes["first"][node]
            nodes["first"][node] = row
        return {"containers": containers, "nodes": nodes}


def _proxies(
    topology: Topology,
    profile: MeshProfile,
    layout: Layout,
    upstreams: Upstreams,
    cores: _Cores,
) -> Rows:
    cost = profile.cost
    endpoint_count = len(layout.endpoint_names)
    proxies = np.zeros(endpoint_count + len(topology.traffic), PROXY_DTYPE)
    proxies["endpoint"] = NO_INDEX
    proxies["endpoint"][:endpoint_count] = np.arange(endpoint_count)
    proxies["cluster_start"] = upstreams.cluster_start
    proxies["cluster_count"] = upstreams.cluster_count
    proxies["bucket_start"] = upstreams.bucket_start
    proxies["bucket_count"] = upstreams.bucket_count
    proxies["container"] = NO_INDEX
    proxies["node"] = NO_INDEX
    proxies["node"][:endpoint_count] = layout.endpoint_node
    proxies["zone"][:endpoint_count] = layout.endpoint_zone
    proxies["workers"] = cost.workers
    for row, traffic in enumerate(topology.traffic.values(), endpoint_count):
        if traffic.zone is not None:
            proxies["zone"][row] = layout.zones.index(traffic.zone)
        proxies["workers"][row] = max(cost.workers, _gateway_workers(traffic, profile))
    proxies["worker_start"] = np.concatenate([[0], np.cumsum(proxies["workers"])[:-1]])
    if profile.sidecars:
        meshed = [
            topology.services[place.service].workloads[place.workload].meshed
            for place in layout.workloads
        ]
        proxies["costs"] = 1
        proxies["costs"][:endpoint_count] = np.array(meshed, np.int32)[layout.endpoint_workload]
        proxies["pass_ns"] = cost.pass_ns
        proxies["wakeup_ns"] = cost.wakeup_ns
        proxies["byte_ns"] = cost.byte_ns
        proxies["handshake_ns"] = cost.handshake_ns * proxies["costs"]
        for row in range(endpoint_count):
            if proxies["costs"][row] and cores.limited(int(proxies["node"][row])):
                proxies["container"][row] = cores.add(
                    float(cost.workers), 1.0, 0.0, int(proxies["node"][row])
                )
    return proxies


def _gateway_workers(traffic: TrafficClass, profile: MeshProfile) -> int:
    busy = peak_rate(traffic) * 2 * profile.cost.pass_ns / NS_PER_S
    return math.ceil(busy / _GATEWAY_UTILISATION_MAX)


def peak_rate(traffic: TrafficClass) -> float:
    """Return the highest mean rate that `traffic` reaches [1/s]; a closed loop's at no delay."""
    if traffic.closed_loop is not None:
        return 0.0
    arrivals = traffic.arrivals
    assert arrivals is not None
    process = getattr(arrivals, arrivals.family)
    match arrivals.family:
        case "poisson" | "batch":
            rate = process.rate
        case "modulated_poisson":
            rate = max(phase.rate for phase in process.phases)
        case "piecewise":
            rate = max(point.rate for point in process.points)
        case "diurnal":
            rate = process.mean * (1 + process.amplitude)
        case _:
            rate = 0.0
    return float(rate)


def _proxy_names(
    topology: Topology, profile: MeshProfile, layout: Layout
) -> tuple[tuple[str, str], ...]:
    if not profile.sidecars:
        return ()
    return (
        *(("sidecar", name) for name in layout.endpoint_names),
        *(("gateway", f"gateway-{name}") for name in topology.traffic),
    )
