"""Compile a resolved topology into state arrays.

Rule: compilation is a pure function of (topology, profile); it draws nothing and knows no
seed.  Rows are laid out in the order of the scenario: services, workloads, replicas; sidecars
in the order of their endpoints, then one gateway a traffic class; the HOST rows of one proxy
are adjacent.  Everything a request needs on its way is an index by then: routes are matched
once for each (call site, traffic class), because headers and paths are known.

Limits: an endpoint's proxy is one Envoy whose load-balancing state is shared by its workers;
PREEMPTIVE_PRIORITY needs dedicated cores.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from meshsim.state.codes import HEDGE_NEVER, NO_INDEX
from meshsim.state.record import Catalog
from meshsim.topology.compiled.access_table import compile_access
from meshsim.topology.compiled.draws import Draws
from meshsim.topology.compiled.layout import Layout, Rows, lay_out
from meshsim.topology.compiled.programs import CallSite, Programs, compile_programs
from meshsim.topology.compiled.servers import Servers, compile_servers
from meshsim.topology.compiled.upstreams import ClusterName, compile_upstreams
from meshsim.topology.compiled.workload import compile_traffic
from meshsim.topology.model import TimedFault, Topology
from meshsim.topology.profile import MeshProfile

__all__ = ["CompiledTopology", "compile_topology"]

#: Events that one try may cause which is given up: its server hears of it, and its connection
#: is replaced by another, over which the next in line is sent.
_EVENTS_A_COPY = 3


@dataclass(frozen=True)
class CompiledTopology:
    """A topology as rows, ready to be copied into a kernel's memory.

    Parameters
    ----------
    topology : Topology
        As resolved.
    profile : MeshProfile
    layout : Layout
        Which rows belong to which name.
    arrays : dict of str to ndarray
        By the field names of `meshsim.kernel.memory.KernelState`; pools, streams and
        recording are the kernel's own.
    config_names : tuple
        (service, subset) of each CLUSTER_CONFIG row.
    splits : tuple
        (ROUTE row, SPLIT row, routed service, subset) of every destination of a split.
    catalog : Catalog
    fan_out : int
        The most rows one event can need in any pool, at least 16.
    sites : tuple of CallSite
        Who calls what: one a CALL row.
    operations : mapping of str to int
        Column of each operation in ``arrays["programs"]``.
    """

    topology: Topology
    profile: MeshProfile
    layout: Layout
    arrays: dict[str, Rows]
    config_names: tuple[ClusterName, ...]
    splits: tuple[tuple[int, int, str, str | None], ...]
    catalog: Catalog
    fan_out: int
    sites: tuple[CallSite, ...]
    operations: Mapping[str, int]


def compile_topology(topology: Topology, profile: MeshProfile) -> CompiledTopology:
    """Compile `topology`, whose policies are filled (`meshsim.meshes.resolve`).

    Raises
    ------
    ConfigError
        If the topology asks for what the kernel cannot do (see the limits above), or a
        distribution is impossible.
    """
    layout = lay_out(topology)
    draws = Draws()
    programs = compile_programs(topology, layout, draws, profile.request_ns)
    upstreams = compile_upstreams(topology, layout, programs, draws, profile.sidecars)
    servers = compile_servers(topology, profile, layout, draws, upstreams)
    arrays = {
        **programs.arrays,
        **upstreams.arrays,
        **servers.arrays,
        **programs.caches.build(servers.arrays["endpoints"]),
        **programs.bulkheads.build(servers.arrays["endpoints"]),
        **compile_traffic(topology, layout, programs, draws),
        **compile_access(topology, layout, programs, profile.sidecars),
    }
    return CompiledTopology(
        topology,
        profile,
        layout,
        arrays,
        upstreams.config_names,
        upstreams.splits,
        _catalog(topology, profile, layout, programs, servers),
        (programs.fan_out + 2 * upstreams.mirrors_max + _EVENTS_A_COPY * _copies_max(arrays))
        * (1 + upstreams.probes_max),
        tuple(programs.sites),
        programs.operations,
    )


def _copies_max(arrays: Mapping[str, Rows]) -> int:
    """Return how many tries of one request may be under way, if that is more than one."""
    routes = arrays["routes"]
    hedged = routes["num_retries"][routes["hedging"] != HEDGE_NEVER]
    return 1 + int(hedged.max()) if len(hedged) else 0


def _catalog(
    topology: Topology,
    profile: MeshProfile,
    layout: Layout,
    programs: Programs,
    servers: Servers,
) -> Catalog:
    digest = hashlib.sha256(topology.model_dump_json().encode()).hexdigest()[:16]
    workloads = [layout.workloads[index] for index in layout.endpoint_workload]
    return Catalog(
        scenario=topology.name,
        mesh=profile.name,
        topology_hash=digest,
        traffic=tuple(topology.traffic),
        edges=tuple(programs.edges),
        edge_is_entry=tuple(programs.edge_is_entry),
        endpoints=tuple(
            (place.service, place.workload, name)
            for place, name in zip(workloads, layout.endpoint_names, strict=True)
        ),
        endpoint_concurrency=tuple(
            int(value) for value in servers.arrays["endpoints"]["concurrency"]
        ),
        endpoint_zones=tuple(layout.zones[zone] for zone in layout.endpoint_zone),
        proxies=servers.proxy_names,
        proxy_memory_bytes=profile.cost.memory_bytes,
        connection_memory_bytes=profile.cost.connection_memory_bytes,
        timed_faults=bool(topology.faults),
        trigger=any(fault.trigger for fault in topology.faults),
        fault_spans=tuple(_fault_span(fault) for fault in topology.faults),
    )


def _fault_span(fault: TimedFault) -> tuple[str, int, int]:
    """Return what a fault does to what, and from when to when [ns]."""
    end_ns = NO_INDEX if fault.duration is None else fault.at + fault.duration
    target = fault.service or fault.traffic or fault.zone or ""
    return f"{fault.kind} {target}".strip(), fault.at, end_ns
