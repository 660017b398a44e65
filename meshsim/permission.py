"""May a call this? The answer of the mesh's access rules, with its reason.

Rule: the topology is asked as it is declared: each workload of the caller (or the gateway of a
traffic class) asks each workload of the called service.  The host is the called service and the
port that of its pods, unless the question says otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from meshsim.errors import ConfigError, Problem
from meshsim.meshes import profile
from meshsim.policy.authorization import (
    FORBIDDEN,
    NOT_FOUND,
    OUTCOMES,
    Decision,
    Party,
    Request,
    labels_of,
)
from meshsim.topology.compiled.access import AccessMap
from meshsim.topology.model import Topology
from meshsim.yamlfile import did_you_mean

__all__ = ["Permission", "PermissionAnswer", "can_i"]

_STATUS = {FORBIDDEN: 403, NOT_FOUND: 404}


@dataclass(frozen=True)
class PermissionAnswer:
    """The answer for one caller and one workload.

    Parameters
    ----------
    source, target : str
        E.g. ``web/v1``; a traffic class by its name.
    decision : Decision
    """

    source: str
    target: str
    decision: Decision

    def __str__(self) -> str:
        return f"{self.source} -> {self.target}: {self.decision.reason}"

    def to_dict(self) -> dict[str, Any]:
        """Return the answer as JSON has it; `status` is null where no HTTP answer is given."""
        return {
            "from": self.source,
            "to": self.target,
            "allowed": self.decision.allowed,
            "outcome": OUTCOMES[self.decision.outcome],
            "status": _STATUS.get(self.decision.outcome),
            "reason": self.decision.reason,
            "policy": self.decision.policy or None,
            "rule": self.decision.rule or None,
        }


@dataclass(frozen=True)
class Permission:
    """The answers for every pair of workloads; true if all of them allow.

    Parameters
    ----------
    answers : tuple of PermissionAnswer
    """

    answers: tuple[PermissionAnswer, ...]

    @property
    def allowed(self) -> bool:
        """Whether every answer allows."""
        return all(answer.decision.allowed for answer in self.answers)

    def __bool__(self) -> bool:
        return self.allowed

    def __str__(self) -> str:
        return "\n".join(str(answer) for answer in self.answers)

    def to_dict(self) -> dict[str, Any]:
        """Return the answers as JSON has them."""
        return {"allowed": self.allowed, "answers": [item.to_dict() for item in self.answers]}


def can_i(
    topology: Topology,
    source: str,
    target: str,
    *,
    method: str = "GET",
    path: str = "/",
    host: str | None = None,
    headers: Mapping[str, str] | None = None,
    port: int | None = None,
    http: bool = True,
) -> Permission:
    """Say whether a caller may make a request, and why.

    Parameters
    ----------
    topology : Topology
    source : str
        A service, one of its workloads (``web/v1``), or a traffic class.
    target : str
        A service, or one of its workloads.
    method, path : str
    host : str, optional
        Default: the name of the service.
    headers : mapping of str to str, optional
    port : int, optional
        Of the pods; default: the one that the service's port leads to.
    http : bool
        False asks for a connection of another protocol.

    Returns
    -------
    Permission
        Its text gives one line an answer, e.g. ``web/v1 -> store/v1: denied by DENY rule 2 of
        AuthorizationPolicy shop/viewers``.

    Raises
    ------
    ConfigError
        If there is no such service, workload or traffic class, or the mesh is unknown.

    Examples
    --------
    >>> mesh = Topology.model_validate({
    ...     "name": "two",
    ...     "services": {"web": {"workloads": {"v1": {}}}, "store": {"workloads": {"v1": {}}}},
    ...     "access": {"policies": [
    ...         {"name": "readers", "rules": [{"operations": [{"methods": ["GET"]}]}]}]}})
    >>> print(can_i(mesh, "web", "store", method="PUT"))
    web/v1 -> store/v1: denied: no ALLOW rule of readers matches
    """
    access = AccessMap(topology, profile(topology.mesh).sidecars)
    answers = []
    for service, workload in _workloads(topology, target, "to"):
        number, name = access.port(service)
        request = Request(
            method=method,
            path=path,
            host=service if host is None else host,
            headers=labels_of({key.lower(): value for key, value in (headers or {}).items()}),
            port=port or number,
            port_name=name if port in (None, number) else "",
            http=http,
        )
        for caller in _callers(access, topology, source):
            decision = access.decide(caller, service, workload, request)
            answers.append(PermissionAnswer(caller.name, f"{service}/{workload}", decision))
    return Permission(tuple(answers))


def _callers(access: AccessMap, topology: Topology, name: str) -> Iterator[Party]:
    if name in topology.traffic and name not in topology.services:
        yield access.gateway(name)
        return
    for service, workload in _workloads(topology, name, "from"):
        yield access.workload(service, workload)


def _workloads(topology: Topology, name: str, where: str) -> list[tuple[str, str]]:
    """Return the (service, workload) pairs that `name` means."""
    service, separator, workload = name.partition("/")
    if service in topology.services:
        workloads = topology.services[service].workloads
        if not separator:
            return [(service, known) for known in workloads]
        if workload in workloads:
            return [(service, workload)]
        known = [f"{service}/{item}" for item in workloads]
    else:
        known = [*topology.services, *(topology.traffic if where == "from" else ())]
    what = "service, workload or traffic class" if where == "from" else "service or workload"
    near = did_you_mean(name, known)
    raise ConfigError(
        [Problem(f"unknown {what}", "", 0, 0, where, name, ", ".join(known[:12]), near)]
    )
