"""What must hold between the fields of a topology.

Rule: a value is right by itself (`meshsim.topology.model`) and in its place: what it names
exists, what it orders is in order, what it divides adds up, and no request calls for ever.
Every breach is found in one pass and reported with its field path; what is legal but has no
effect, or one that surprises, is a notice.

The checks of single elements are in `meshsim.topology.checks`; those that look things up in the
whole topology are the functions of `_LOOKUPS`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from pydantic import BaseModel

from meshsim.errors import Problem
from meshsim.topology import model
from meshsim.topology.access.checks import access_findings
from meshsim.topology.calls import call_steps, endless_calls, operation_names
from meshsim.topology.checks import CHECKS, Finding
from meshsim.topology.model import Provenance, Topology
from meshsim.topology.problems import refuse
from meshsim.yamlfile import FieldPath, did_you_mean, field_path

__all__ = ["find", "find_below", "provenance_at", "validated"]

#: Most names listed as allowed.
_ALLOWED_MAX = 12


def find(topology: Topology) -> list[Finding]:
    """Return every breach and notice of a topology; O(size of the topology)."""
    findings = [finding for look_up in _LOOKUPS for finding in look_up(topology)]
    return findings + find_below(topology, ())


def find_below(part: Any, path: FieldPath) -> list[Finding]:
    """Return what is wrong with each element of `part` (an element, dict or tuple) by itself."""
    walk = ((CHECKS.get(type(element)), at, element) for at, element in _walk(part, path))
    return [finding for check, at, element in walk if check for finding in check(at, element)]


def validated(topology: Topology) -> Topology:
    """Return `topology` with the notices of its check added.

    Raises
    ------
    ConfigError
        With every breach, placed by the topology's provenance.
    """
    problems: list[Problem] = []
    notices = list(topology.notices)
    for finding in find(topology):
        origin = provenance_at(topology, finding.path) or Provenance()
        problem = Problem(
            finding.message,
            origin.file,
            origin.line,
            origin.column,
            field_path(finding.path),
            finding.found,
            finding.allowed,
            finding.suggestion,
        )
        if finding.notice:
            notices.append(str(problem))
        else:
            problems.append(problem)
    refuse(problems)
    known = tuple(dict.fromkeys(notices))
    return topology if known == topology.notices else topology.model_copy(update={"notices": known})


def provenance_at(topology: Topology, path: FieldPath | str) -> Provenance | None:
    """Return where the value at `path` comes from: its own place, or that of its first part.

    None if nothing is known of it or of a part of it.
    """
    text = path if isinstance(path, str) else field_path(path)
    origins = topology.provenance
    while text:
        if text in origins:
            return origins[text]
        for known in origins:
            if known.startswith(text) and known[len(text)] in ".[":
                return origins[known]
        text = re.sub(r"(\.[^.\[]*|\[\d+\])$", "", text) if re.search(r"[.\[]", text) else ""
    return None


def _walk(element: Any, path: FieldPath) -> Iterator[tuple[FieldPath, BaseModel]]:
    """Yield every element of the model below `element` with its path, depth first."""
    if isinstance(element, BaseModel):
        yield path, element
        children: Iterable[tuple[Any, Any]] = element.__dict__.items()
    elif isinstance(element, dict):
        children = element.items()
    elif isinstance(element, tuple):
        children = enumerate(element)
    else:
        return
    for name, child in children:
        if isinstance(child, (BaseModel, dict, tuple)) and name != "provenance":
            yield from _walk(child, (*path, name))


def _unknown(
    path: FieldPath, what: str, name: str, known: Iterable[str], refers: FieldPath
) -> Finding:
    names = list(known)
    listed = ", ".join(names[:_ALLOWED_MAX])
    if len(names) > _ALLOWED_MAX:
        listed += f", ... ({len(names)} in all)"
    allowed = listed or "none is declared"
    return Finding(path, f"unknown {what}", name, allowed, did_you_mean(name, names), refers)


# --- Names ----------------------------------------------------------------------------------


def _targets(
    topology: Topology, path: FieldPath, field: str, service: str, operation: str
) -> Iterator[Finding]:
    """Check that a request to (service, operation) can be answered."""
    refers = ("services", service)
    if service not in topology.services:
        yield _unknown((*path, field), "service", service, topology.services, refers)
        return
    names = operation_names(topology.services[service])
    if operation not in names:
        yield _unknown((*path, "operation"), f"operation of {service}", operation, names, refers)


def _call_targets(topology: Topology) -> Iterator[Finding]:
    for service_name, service in topology.services.items():
        for name, workload in service.workloads.items():
            base = ("services", service_name, "workloads", name)
            for path, call, _ in call_steps(workload):
                at = (*base, *path)
                yield from _targets(topology, at, "service", call.service, call.operation)
            for called in workload.bulkheads:
                if called not in topology.services:
                    at = (*base, "bulkheads", called)
                    yield _unknown(at, "service", called, topology.services, ("services", called))
            for index, node in enumerate(workload.nodes):
                if node not in topology.nodes:
                    at = (*base, "nodes", index)
                    yield _unknown(at, "node", node, topology.nodes, ("nodes", node))


def _zones(topology: Topology) -> list[str]:
    """Return the zones of the nodes and of those who send traffic."""
    zones = {node.zone for node in topology.nodes.values()}
    zones |= {traffic.zone for traffic in topology.traffic.values() if traffic.zone is not None}
    return sorted(zones) or ["default"]


def _regions(topology: Topology) -> Iterator[Finding]:
    region_of: dict[str, str] = {}
    for name, node in topology.nodes.items():
        region = region_of.setdefault(node.zone, node.region)
        if region != node.region:
            message = f"zone {node.zone} is in region {region} for an earlier node"
            yield Finding(("nodes", name, "region"), message, node.region, region)


def _traffic_targets(topology: Topology) -> Iterator[Finding]:
    for name, traffic in topology.traffic.items():
        path = ("traffic", name)
        yield from _targets(topology, path, "to", traffic.to, traffic.operation)
        inside = {node.zone for node in topology.nodes.values()}
        if inside and traffic.zone is not None and traffic.zone not in inside:
            near = did_you_mean(traffic.zone, inside)
            message = "no node is in this zone; the traffic comes from outside"
            where = (*path, "zone")
            yield Finding(where, message, traffic.zone, "", near, ("nodes",), notice=True)
    for index, link in enumerate(topology.network.links):
        for end, zone in enumerate(link.zones):
            if zone not in _zones(topology):
                at = ("network", "links", index, "zones", end)
                yield _unknown(at, "zone", zone, _zones(topology), ("nodes",))


def _policy_targets(topology: Topology) -> Iterator[Finding]:
    for name, policy in topology.policies.items():
        path: FieldPath = ("policies", name)
        refers: FieldPath = ("services", name)
        if name not in topology.services:
            yield _unknown(path, "service", name, topology.services, refers)
            continue
        workloads = topology.services[name].workloads
        clusters: list[tuple[FieldPath, model.ClusterPolicy]] = [(path, policy)]
        for subset_name, subset in policy.subsets.items():
            at = (*path, "subsets", subset_name)
            clusters.append((at, subset))
            chosen = (workload.labels.items() for workload in workloads.values())
            if not any(subset.labels.items() <= labels for labels in chosen):
                message = "the subset selects no workload; requests to it find no host"
                yield Finding(at, message, refers=refers, notice=True)
        for at, cluster in clusters:
            weights = (cluster.load_balancing and cluster.load_balancing.weights) or {}
            for workload in weights:
                if workload not in workloads:
                    where = (*at, "load_balancing", "weights", workload)
                    yield _unknown(where, f"workload of {name}", workload, workloads, refers)
        for index, route in enumerate(policy.routes):
            at = (*path, "routes", index)
            yield from _split_targets(topology, name, route.split, (*at, "split"))
            yield from _split_targets(topology, name, route.mirrors, (*at, "mirrors"))


def _split_targets(
    topology: Topology,
    service: str,
    targets: Iterable[model.WeightedCluster | model.Mirror],
    path: FieldPath,
) -> Iterator[Finding]:
    for index, cluster in enumerate(targets):
        name = cluster.service if cluster.service is not None else service
        at = (*path, index)
        if name not in topology.services:
            refers: FieldPath = ("services", name)
            yield _unknown((*at, "service"), "service", name, topology.services, refers)
            continue
        policy = topology.policies.get(name)
        subsets = policy.subsets if policy else {}
        if cluster.subset is not None and cluster.subset not in subsets:
            what = f"subset of {name}"
            refers = ("policies", name)
            yield _unknown((*at, "subset"), what, cluster.subset, subsets, refers)


def _fault_targets(topology: Topology) -> Iterator[Finding]:
    for index, fault in enumerate(topology.faults):
        path = ("faults", index)
        if fault.traffic is not None and fault.traffic not in topology.traffic:
            refers: FieldPath = ("traffic", fault.traffic)
            at = (*path, "traffic")
            yield _unknown(at, "traffic class", fault.traffic, topology.traffic, refers)
        if fault.zone is not None and fault.zone not in _zones(topology):
            at = (*path, "zone")
            yield _unknown(at, "zone", fault.zone, _zones(topology), ("nodes",))
        for number, name in enumerate(fault.callers):
            if name not in topology.services:
                where = (*path, "callers", number)
                yield _unknown(where, "service", name, topology.services, ("services", name))
        for number, name in enumerate(fault.zones or ()):
            if name not in _zones(topology):
                where = (*path, "zones", number)
                yield _unknown(where, "zone", name, _zones(topology), ("nodes",))
        if fault.node is not None:
            yield from _fault_node(topology, (*path, "node"), fault.node)
        if fault.service is None:
            continue
        refers = ("services", fault.service)
        service = topology.services.get(fault.service)
        if service is None:
            at = (*path, "service")
            yield _unknown(at, "service", fault.service, topology.services, refers)
        elif fault.kind == "rollout" and fault.workload is None and len(service.workloads) > 1:
            message, allowed = "which workload is replaced", ", ".join(service.workloads)
            yield Finding((*path, "service"), message, fault.service, allowed, refers=refers)
        elif fault.workload is not None and fault.workload not in service.workloads:
            what = f"workload of {fault.service}"
            at = (*path, "workload")
            yield _unknown(at, what, fault.workload, service.workloads, refers)
        elif fault.workload is not None and fault.replica is not None:
            replicas = service.workloads[fault.workload].replicas
            if fault.replica >= replicas:
                at = (*path, "replica")
                allowed = f"0 to {replicas - 1}" if replicas else "there is no replica"
                yield Finding(at, "no such replica", str(fault.replica), allowed, refers=refers)


def _fault_node(topology: Topology, at: FieldPath, name: str) -> Iterator[Finding]:
    if name not in topology.nodes:
        yield _unknown(at, "node", name, topology.nodes, ("nodes",))
    elif topology.nodes[name].cores is None:
        message = f"node {name} has no cores that are shared"
        yield Finding(at, message, allowed="one that states its cores", refers=("nodes", name))


def _endless(topology: Topology) -> Iterator[Finding]:
    for path, cycle in endless_calls(topology):
        message = f"the calls never end: {' -> '.join(cycle)}"
        allowed = "a probability below 1 for one of these calls"
        yield Finding(path, message, allowed=allowed, refers=("services", cycle[0]))


_LOOKUPS: tuple[Callable[[Topology], Iterator[Finding]], ...] = (
    _call_targets,
    _regions,
    _traffic_targets,
    _policy_targets,
    _fault_targets,
    access_findings,
    _endless,
)
