"""Whether an engine could carry a resource out: nothing left open, nothing impossible.

Rule: a configuration on the wire is resolved, so a field that was left to a default is a mistake
of the sender; and what a scenario file may not say (`meshsim.topology.validate`), the wire may
not say either.  A proxy that checks this on arrival never meets it in the middle of a request.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from meshsim.errors import Problem
from meshsim.topology.model import (
    ClusterPolicy,
    FailureAccrual,
    HealthCheck,
    OutlierDetection,
    Route,
    Topology,
)
from meshsim.topology.validate import find_below
from meshsim.yamlfile import field_path

__all__ = ["find_open", "simulated_only"]

#: What an engine reads of a cluster: (block, fields that must be filled).
_WANTED = (
    ("load_balancing", ("policy",)),
    ("circuit_breakers", ()),
    ("connection_pool", ()),
)
#: What a policy needs beside.
_POLICY_FIELDS: dict[str, tuple[str, ...]] = {
    "RING_HASH": ("minimum_ring_size", "maximum_ring_size"),
    "MAGLEV": ("table_size",),
    "PREQUAL": (
        "r_probe",
        "r_remove",
        "q_rif",
        "reuse_delta",
        "probe_max_age",
        "probe_pool_size",
    ),
}
#: What a cluster with priorities or localities needs.
_LOCALITY_FIELDS = {
    "locality": ("overprovisioning_factor", "locality_weighted"),
    "locality.zone_aware": ("routing_enabled", "min_cluster_size"),
}


def simulated_only(topology: Topology) -> list[Problem]:
    """Return what a topology asks for that only the simulator can do."""
    problems: list[Problem] = []
    for name, policy in topology.policies.items():
        problems += _oracles(f"policies.{name}", policy)
        for key, subset in policy.subsets.items():
            problems += _oracles(f"policies.{name}.subsets.{key}", subset)
    return problems


def _oracles(path: str, policy: ClusterPolicy) -> Iterable[Problem]:
    balancing = policy.load_balancing.policy if policy.load_balancing else None
    message = ""
    if balancing is not None and balancing.startswith("ORACLE"):
        message = "a live proxy cannot see the queues of servers"
    if balancing == "CLIENT_SIDE_WEIGHTED_ROUND_ROBIN":
        message = "live servers do not report their load"
    if message:
        at = f"{path}.load_balancing.policy"
        yield Problem(f"{message}: this is for the simulator only", path=at, found=balancing or "")


#: Blocks that may be absent, and everything an engine reads of them.
_OPTIONAL = {
    "outlier_detection": tuple(OutlierDetection.model_fields),
    "failure_accrual": tuple(FailureAccrual.model_fields),
    "health_check": tuple(HealthCheck.model_fields),
}


def _open_fields(name: str, policy: ClusterPolicy) -> Iterable[Problem]:
    """Yield what cluster `name` leaves open."""
    for block, fields in _WANTED:
        stated = getattr(policy, block)
        if stated is None:
            yield Problem("is missing", path=f"clusters.{name}.{block}")
            continue
        needed = (*fields, *_POLICY_FIELDS.get(getattr(stated, "policy", None) or "", ()))
        for item in needed:
            if getattr(stated, item) is None:
                yield Problem("is missing", path=f"clusters.{name}.{block}.{item}")
    locality = policy.locality
    zone_aware = locality.zone_aware if locality is not None else None
    for part, stated in (("locality", locality), ("locality.zone_aware", zone_aware)):
        for item in _LOCALITY_FIELDS[part] if stated is not None else ():
            if getattr(stated, item) is None:
                yield Problem("is missing", path=f"clusters.{name}.{part}.{item}")
    yield from _oracles(f"clusters.{name}", policy)
    for block, optional in _OPTIONAL.items():
        stated = getattr(policy, block)
        for item in () if stated is None else optional:
            if getattr(stated, item) is None:
                yield Problem("is missing", path=f"clusters.{name}.{block}.{item}")
    slow_start = policy.load_balancing.slow_start if policy.load_balancing else None
    if slow_start and None in (slow_start.aggression, slow_start.min_weight_percent):
        yield Problem("is incomplete", path=f"clusters.{name}.load_balancing.slow_start")
    budget = policy.circuit_breakers.retry_budget if policy.circuit_breakers else None
    if budget is not None and None in (budget.budget_percent, budget.min_retry_concurrency):
        yield Problem("is incomplete", path=f"clusters.{name}.circuit_breakers.retry_budget")


def _open_routes(service: str, table: tuple[Route, ...]) -> Iterable[Problem]:
    """Yield what the route table of `service` leaves open."""
    for index, route in enumerate(table):
        if route.global_rate_limit is not None and route.global_rate_limit.timeout is None:
            path = f"routes.{service}[{index}].global_rate_limit.timeout"
            yield Problem("is missing", path=path)
        if route.answer is None and not route.split:
            yield Problem("goes nowhere", path=f"routes.{service}[{index}].split")


def find_open(kind: str, elements: Any) -> list[Problem]:
    """Return what is open or impossible.

    Parameters
    ----------
    kind : str
        Type of the resource.
    elements : mapping
        For "clusters" `ClusterPolicy` by name, for "routes" tuples of `Route` by service, for
        "endpoints" anything.
    """
    problems = [
        Problem(
            found.message, path=field_path(found.path), found=found.found, allowed=found.allowed
        )
        for found in find_below(elements, (kind,))
        if not found.notice
    ]
    if kind == "clusters":
        problems += [gap for name, policy in elements.items() for gap in _open_fields(name, policy)]
    if kind == "routes":
        problems += [gap for name, table in elements.items() for gap in _open_routes(name, table)]
    return problems
