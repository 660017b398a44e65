"""Which row is whose: zones, nodes, workloads and endpoints in the order of the scenario.

Rule: replica i of a workload runs on the i-th of its nodes, round robin over the nodes it
names, or over all nodes if it names none.  A scenario without nodes has one zone and gives
every container its own cores.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from meshsim.state.codes import NO_INDEX
from meshsim.topology.model import Topology, Workload

__all__ = ["Layout", "Place", "Rows", "lay_out"]

Rows = npt.NDArray[Any]


@dataclass(frozen=True)
class Place:
    """One workload and its rows."""

    service: str
    workload: str
    first_endpoint: int
    replicas: int


@dataclass(frozen=True)
class Layout:
    """Names of rows.  `endpoint_*` are arrays of length n_endpoints."""

    zones: tuple[str, ...]
    regions: tuple[str, ...]  # of each zone
    nodes: tuple[str, ...]
    workloads: tuple[Place, ...]
    services: dict[str, tuple[int, ...]]  # workload indices
    endpoint_names: tuple[str, ...]
    endpoint_workload: Rows
    endpoint_node: Rows
    endpoint_zone: Rows


def lay_out(topology: Topology) -> Layout:
    """Return the layout of `topology`."""
    zones: dict[str, str] = {}
    for node in topology.nodes.values():
        zones.setdefault(node.zone, node.region)
    for traffic in topology.traffic.values():
        if traffic.zone is not None:
            zones.setdefault(traffic.zone, traffic.zone)
    if not zones:
        zones["default"] = "default"
    zone_index = {name: index for index, name in enumerate(zones)}
    node_index = {name: index for index, name in enumerate(topology.nodes)}
    node_zone = [zone_index[node.zone] for node in topology.nodes.values()]
    places: list[Place] = []
    services: dict[str, tuple[int, ...]] = {}
    names: list[str] = []
    workload_rows: list[int] = []
    node_rows: list[int] = []
    for service_name, service in topology.services.items():
        first = len(places)
        for workload_name, workload in service.workloads.items():
            nodes = _nodes_of(workload, node_index)
            for replica in range(workload.replicas):
                names.append(f"{service_name}-{workload_name}-{replica}")
                node_rows.append(nodes[replica % len(nodes)] if nodes else NO_INDEX)
                workload_rows.append(len(places))
            places.append(
                Place(
                    service_name, workload_name, len(names) - workload.replicas, workload.replicas
                )
            )
        services[service_name] = tuple(range(first, len(places)))
    zone_rows = [node_zone[node] if node != NO_INDEX else 0 for node in node_rows]
    return Layout(
        tuple(zones),
        tuple(zones.values()),
        tuple(topology.nodes),
        tuple(places),
        services,
        tuple(names),
        np.array(workload_rows, np.int32),
        np.array(node_rows, np.int32),
        np.array(zone_rows, np.int32),
    )


def _nodes_of(workload: Workload, node_index: dict[str, int]) -> list[int]:
    return [node_index[name] for name in workload.nodes] or list(node_index.values())
