"""What must hold between the fields of a topology.

Rule: a value is right by itself (`meshsim.topology.model`) and in its place: what it names
exists, what it orders is in order, what it divides adds up, and no request calls for ever.
Every breach is found in one pass and reported with its field path; what is legal but has no
effect, or one that surprises, is a notice.

The checks of single elements are a table from class to function, `_CHECKS`; those that look
things up in the whole topology are the functions of `_LOOKUPS`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from pydantic import BaseModel

from meshsim.errors import Problem
from meshsim.topology import model
from meshsim.topology.calls import call_steps, endless_calls, operation_names
from meshsim.topology.model import Provenance, Topology
from meshsim.topology.problems import refuse
from meshsim.units import format_duration
from meshsim.yamlfile import FieldPath, did_you_mean, field_path

__all__ = ["Finding", "find", "find_below", "provenance_at", "validated"]

_Z99 = NormalDist().inv_cdf(0.99)
#: No lognormal has a larger ratio of 99th percentile to mean: exp(z99**2 / 2) = 14.97.
LOGNORMAL_RATIO_MAX = math.exp(_Z99 * _Z99 / 2)
#: The probabilities of a hyperexponential may miss 1 by this much.
_PROBABILITY_TOLERANCE = 1e-9
#: Envoy's defaults (api/envoy/config/cluster/v3/cluster.proto, RingHashLbConfig).
_RING_SIZE_MIN, _RING_SIZE_MAX = 1024, 8_388_608
#: Most names listed as allowed.
_ALLOWED_MAX = 12


@dataclass(frozen=True)
class Finding:
    """One breach, or one notice, before it has a place in a file.

    `refers` is the path of what was looked up, e.g. ``("services", "ratings")``.
    """

    path: FieldPath
    message: str
    found: str = ""
    allowed: str = ""
    suggestion: str = ""
    refers: FieldPath = ()
    notice: bool = False


def find(topology: Topology) -> list[Finding]:
    """Return every breach and notice of a topology; O(size of the topology)."""
    findings = [finding for look_up in _LOOKUPS for finding in look_up(topology)]
    return findings + find_below(topology, ())


def find_below(part: Any, path: FieldPath) -> list[Finding]:
    """Return what is wrong with each element of `part` (an element, dict or tuple) by itself."""
    walk = ((_CHECKS.get(type(element)), at, element) for at, element in _walk(part, path))
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
            yield from _split_targets(topology, name, route, (*path, "routes", index, "split"))


def _split_targets(
    topology: Topology, service: str, route: model.Route, path: FieldPath
) -> Iterator[Finding]:
    for index, cluster in enumerate(route.split):
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
        if fault.service is None:
            continue
        refers = ("services", fault.service)
        service = topology.services.get(fault.service)
        if service is None:
            at = (*path, "service")
            yield _unknown(at, "service", fault.service, topology.services, refers)
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
    _endless,
)

# --- Distributions and arrivals -------------------------------------------------------------


def _positive(path: FieldPath, field: str, duration_ns: int) -> Iterator[Finding]:
    if duration_ns <= 0:
        yield Finding((*path, field), "must be longer than 0", format_duration(duration_ns))


def _mean(path: FieldPath, element: model.Exponential | model.Gamma) -> Iterator[Finding]:
    yield from _positive(path, "mean", element.mean)


def _lognormal(path: FieldPath, element: model.Lognormal) -> Iterator[Finding]:
    yield from _positive(path, "mean", element.mean)
    largest = element.mean * LOGNORMAL_RATIO_MAX
    if element.mean > 0 and not element.mean < element.p99 <= largest:
        allowed = (
            f"longer than the mean, {format_duration(element.mean)}, and at most "
            f"{LOGNORMAL_RATIO_MAX:.2f} times it, {format_duration(math.floor(largest))}"
        )
        message = "no lognormal distribution has this mean and this 99th percentile"
        yield Finding((*path, "p99"), message, format_duration(element.p99), allowed)


def _pareto(path: FieldPath, element: model.ParetoBounded) -> Iterator[Finding]:
    yield from _positive(path, "low", element.low)
    if element.high <= element.low:
        allowed = f"longer than low, {format_duration(element.low)}"
        yield Finding((*path, "high"), "too short", format_duration(element.high), allowed)


def _hyperexponential(path: FieldPath, element: model.Hyperexponential) -> Iterator[Finding]:
    total = math.fsum(phase.probability for phase in element.phases)
    if abs(total - 1) > _PROBABILITY_TOLERANCE:
        message = "the probabilities do not add up to 1"
        yield Finding((*path, "phases"), message, f"{total:g} in all")
    for index, phase in enumerate(element.phases):
        yield from _positive((*path, "phases", index), "mean", phase.mean)


def _workload(path: FieldPath, element: model.Workload) -> Iterator[Finding]:
    if element.steps and "default" in element.operations:
        at = (*path, "operations", "default")
        yield Finding(at, "steps are the default operation already; say it once")


def _renewal(path: FieldPath, element: model.Renewal) -> Iterator[Finding]:
    constant, empirical = element.interval.constant, element.interval.empirical
    if (constant and constant.value == 0) or (empirical and max(empirical.values) == 0):
        yield Finding((*path, "interval"), "an interval of 0 is an infinite rate", "0s")


def _batch(path: FieldPath, element: model.Batch) -> Iterator[Finding]:
    if element.size_distribution == "fixed" and element.size != int(element.size):
        message = "a fixed size is a whole number of requests"
        yield Finding((*path, "size"), message, f"{element.size:g}")


def _modulated(path: FieldPath, element: model.ModulatedPhase) -> Iterator[Finding]:
    yield from _positive(path, "mean_sojourn", element.mean_sojourn)


def _diurnal(path: FieldPath, element: model.Diurnal) -> Iterator[Finding]:
    yield from _positive(path, "period", element.period)


def _ascending(path: FieldPath, times: tuple[int, ...]) -> Iterator[Finding]:
    for index in range(1, len(times)):
        if times[index] < times[index - 1]:
            allowed = f"not before {format_duration(times[index - 1])}"
            found = format_duration(times[index])
            yield Finding((*path, index), "the times descend", found, allowed)
            return


def _piecewise(path: FieldPath, element: model.Piecewise) -> Iterator[Finding]:
    yield from _ascending((*path, "points"), tuple(point.at for point in element.points))


def _recorded(path: FieldPath, element: model.Recorded) -> Iterator[Finding]:
    yield from _ascending((*path, "times"), element.times)
    if not element.times and element.file is None:
        yield Finding(path, "no arrival is recorded", allowed="times, or a file that holds them")


# --- Faults ---------------------------------------------------------------------------------


def _fault(path: FieldPath, element: model.TimedFault) -> Iterator[Finding]:
    if element.kind == "rate":
        if element.traffic is None:
            yield Finding(path, "a fault of kind rate names the traffic class it changes")
    elif element.service is None and element.zone is None:
        message = f"a fault of kind {element.kind} names the service or the zone it hits"
        yield Finding(path, message)
    if element.kind == "errors" and element.factor > 1:
        found = f"{element.factor:g}"
        yield Finding((*path, "factor"), "an error rate is a probability", found, "0 to 1")
    if element.workload is not None and element.service is None:
        yield Finding((*path, "workload"), "a workload is named with its service")
    if element.replica is not None and element.workload is None:
        yield Finding((*path, "replica"), "a replica is named with its service and workload")
    if element.duration is not None:
        yield from _positive(path, "duration", element.duration)


# --- Policies -------------------------------------------------------------------------------


def _route(path: FieldPath, element: model.Route) -> Iterator[Finding]:
    if element.split and sum(cluster.weight for cluster in element.split) == 0:
        at = (*path, "split")
        yield Finding(at, "the weights add up to 0", "0", "at least one weight above 0")
    if element.split and element.direct_response is not None:
        at = (*path, "direct_response")
        yield Finding(at, "a route either answers itself or splits over clusters, not both")
    limit = element.retry.per_try_timeout if element.retry else None
    if limit and element.timeout and limit >= element.timeout:
        # Envoy, router.cc, FilterUtility::finalTimeout: it is then reset to 0, off.
        message = (
            f"per_try_timeout is not shorter than the route's timeout, "
            f"{format_duration(element.timeout)}; Envoy ignores it"
        )
        at = (*path, "retry", "per_try_timeout")
        yield Finding(at, message, format_duration(limit), notice=True)


def _retry(path: FieldPath, element: model.RetryPolicy) -> Iterator[Finding]:
    if element.base_interval is not None:
        yield from _positive(path, "base_interval", element.base_interval)
        if element.max_interval is not None and element.max_interval < element.base_interval:
            # Envoy refuses such a policy: retry_policy.max_interval must be >= base_interval.
            allowed = f"not shorter than base_interval, {format_duration(element.base_interval)}"
            found = format_duration(element.max_interval)
            yield Finding((*path, "max_interval"), "too short", found, allowed)
    conditions = element.retry_on or ()
    if "retriable-status-codes" in conditions and not element.retriable_status_codes:
        message = "retriable-status-codes without retriable_status_codes never matches"
        yield Finding((*path, "retry_on"), message, notice=True)


def _string_match(path: FieldPath, element: model.StringMatch) -> Iterator[Finding]:
    if element.regex is not None:
        try:
            re.compile(element.regex)
        except (re.error, OverflowError, RecursionError) as error:
            message = f"not a regular expression: {error}"
            yield Finding((*path, "regex"), message, element.regex[:60])


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, math.isqrt(number) + 1))


def _load_balancing(path: FieldPath, element: model.LoadBalancing) -> Iterator[Finding]:
    if element.table_size is not None and not _is_prime(element.table_size):
        message = "the size of a Maglev table is a prime number"
        near = next(n for n in range(element.table_size, 6_000_000) if _is_prime(n))
        found = str(element.table_size)
        yield Finding((*path, "table_size"), message, found, suggestion=str(near))
    low = _RING_SIZE_MIN if element.minimum_ring_size is None else element.minimum_ring_size
    high = _RING_SIZE_MAX if element.maximum_ring_size is None else element.maximum_ring_size
    if low > high:
        said = "minimum_ring_size" if element.minimum_ring_size else "maximum_ring_size"
        message = "the smallest ring is larger than the largest"
        yield Finding((*path, said), message, f"minimum {low}, maximum {high}")
    factor = element.hash_balance_factor
    if factor is not None and 0 < factor < 100:
        # Envoy, CommonLbConfig.ConsistentHashingLbConfig: gte 100.
        yield Finding(
            (*path, "hash_balance_factor"), "too small", str(factor), "0 (off), or >= 100"
        )
    hashes = element.hash_header is not None or element.hash_source_ip
    if element.policy in ("RING_HASH", "MAGLEV") and not hashes:
        message = (
            f"{element.policy} without hash_header or hash_source_ip: requests have no hash, "
            "and Envoy picks a random host for each"
        )
        yield Finding((*path, "policy"), message, notice=True)


_CHECKS: dict[type, Callable[[FieldPath, Any], Iterator[Finding]]] = {
    model.Exponential: _mean,
    model.Gamma: _mean,
    model.Lognormal: _lognormal,
    model.ParetoBounded: _pareto,
    model.Hyperexponential: _hyperexponential,
    model.Workload: _workload,
    model.Renewal: _renewal,
    model.Batch: _batch,
    model.ModulatedPhase: _modulated,
    model.Diurnal: _diurnal,
    model.Piecewise: _piecewise,
    model.Recorded: _recorded,
    model.TimedFault: _fault,
    model.Route: _route,
    model.RetryPolicy: _retry,
    model.StringMatch: _string_match,
    model.LoadBalancing: _load_balancing,
}
