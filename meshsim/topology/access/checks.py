"""What must hold of ``access``: patterns that can be compared, names that exist.

Rule: an expression, an address block, a port or an attribute that could never be compared is a
mistake; a policy that selects nobody, or refuses nobody, is a notice.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from meshsim.policy.authentication import is_trust_domain
from meshsim.policy.authorization.matching import REGEX, is_block, port_range
from meshsim.policy.authorization.rules import ATTRIBUTES, is_token
from meshsim.topology.access.model import (
    AccessCondition,
    AccessOperation,
    AccessPolicy,
    AccessSource,
    PeerAuthenticationPolicy,
    WorkloadSelector,
)
from meshsim.topology.access.reading import read_documents
from meshsim.topology.checks import Finding
from meshsim.topology.model import Topology
from meshsim.yamlfile import FieldPath, did_you_mean

__all__ = ["access_findings"]

_PORT_MAX = 65_535
_HEADER = re.compile(r"request\.headers\[[^\]]+\]")
_BLOCKS = ("ip_blocks", "not_ip_blocks", "remote_ip_blocks", "not_remote_ip_blocks")


def access_findings(topology: Topology) -> Iterator[Finding]:
    """Yield the breaches and notices of a topology's access."""
    access = topology.access
    if not is_trust_domain(access.trust_domain):
        allowed = "1 to 255 of a-z 0-9 . _ -"
        yield Finding(
            ("access", "trust_domain"), "not a trust domain", access.trust_domain, allowed
        )
    for number, policy in enumerate(access.policies):
        yield from _policy(("access", "policies", number), policy, topology)
    for number, mode in enumerate(access.peer_authentication):
        yield from _mode(("access", "peer_authentication", number), mode, topology)
    yield from _identities(topology)
    yield from _documents(topology)


def _documents(topology: Topology) -> Iterator[Finding]:
    """Check what documents say; one may name services that the scenario does not have."""
    access = topology.access
    reading = read_documents(access.documents, root_namespace=access.root_namespace)
    for remark in reading.remarks:
        path = ("access", "documents", remark.document, *remark.path)
        yield Finding(path, remark.message, remark.found, remark.allowed, notice=remark.notice)
    for policy in reading.policies:
        for finding in _policy((), policy, topology):
            yield replace(
                finding,
                path=("access", "documents"),
                message=f"{policy.name}: {finding.message}",
                notice=finding.notice or bool(finding.refers),
                refers=(),
            )


# --- Policies -------------------------------------------------------------------------------


def _policy(path: FieldPath, policy: AccessPolicy, topology: Topology) -> Iterator[Finding]:
    if policy.direction == "egress" and not policy.network:
        yield Finding((*path, "direction"), "only network policies act on what leaves", "egress")
    if policy.network and policy.action not in ("ALLOW", "DENY"):
        at = (*path, "action")
        yield Finding(at, "a network policy allows or denies", policy.action, "ALLOW, DENY")
    if policy.action in ("DENY", "CUSTOM") and not policy.rules:
        yield Finding(path, f"{policy.action} without rules refuses nobody", notice=True)
    yield from _ports((*path, "ports"), policy.ports)
    yield from _selector((*path, "selector"), policy.selector, topology)
    for number, rule in enumerate(policy.rules):
        at = (*path, "rules", number)
        for index, source in enumerate(rule.sources):
            yield from _source((*at, "sources", index), source, topology)
        for index, operation in enumerate(rule.operations):
            yield from _operation((*at, "operations", index), operation)
        for index, condition in enumerate(rule.when):
            yield from _condition((*at, "when", index), condition)


def _texts(path: FieldPath, element: Any, names: tuple[str, ...]) -> Iterator[Finding]:
    """Check the regular expressions of some fields of an element."""
    for name in names:
        for index, value in enumerate(getattr(element, name)):
            if value.startswith(REGEX):
                yield from _regex((*path, name, index), value)


def _regex(path: FieldPath, value: str) -> Iterator[Finding]:
    try:
        re.compile(value[len(REGEX) :])
    except (re.error, OverflowError, RecursionError) as error:
        yield Finding(path, f"not a regular expression: {error}", value[:60])


def _source(path: FieldPath, source: AccessSource, topology: Topology) -> Iterator[Finding]:
    names = tuple(name for name in type(source).model_fields if name not in _BLOCKS)
    yield from _texts(path, source, tuple(name for name in names if name != "workloads"))
    for name in _BLOCKS:
        for index, value in enumerate(getattr(source, name)):
            if not is_block(value):
                allowed = "an address, or a block such as 10.0.0.0/8"
                yield Finding((*path, name, index), "not a block of addresses", value, allowed)
    for index, selector in enumerate(source.workloads):
        yield from _selector((*path, "workloads", index), selector, topology)


def _operation(path: FieldPath, operation: AccessOperation) -> Iterator[Finding]:
    texts = ("hosts", "methods", "paths")
    yield from _texts(path, operation, (*texts, *(f"not_{name}" for name in texts)))
    yield from _ports((*path, "ports"), operation.ports)
    yield from _ports((*path, "not_ports"), operation.not_ports)


def _ports(path: FieldPath, ports: tuple[str, ...]) -> Iterator[Finding]:
    for index, port in enumerate(ports):
        numbers = port_range(port)
        if numbers is not None and not 1 <= numbers[0] <= numbers[1] <= _PORT_MAX:
            yield Finding((*path, index), "not a port", port, f"1 to {_PORT_MAX}")


def _condition(path: FieldPath, condition: AccessCondition) -> Iterator[Finding]:
    key = condition.key
    if key not in ATTRIBUTES and not is_token(key) and _HEADER.fullmatch(key) is None:
        allowed = f"{', '.join(ATTRIBUTES)}, request.headers[name]"
        near = did_you_mean(key, ATTRIBUTES)
        yield Finding((*path, "key"), "unknown attribute", key, allowed, near)
    if not condition.values and not condition.not_values:
        yield Finding(path, "a condition has values, or not_values")
    if key.endswith(".ip"):
        for name in ("values", "not_values"):
            for index, value in enumerate(getattr(condition, name)):
                if not is_block(value):
                    yield Finding((*path, name, index), "not a block of addresses", value)
    else:
        yield from _texts(path, condition, ("values", "not_values"))


def _mode(path: FieldPath, mode: PeerAuthenticationPolicy, topology: Topology) -> Iterator[Finding]:
    for port in mode.ports:
        numbers = port_range(port)
        if numbers is None or numbers[0] != numbers[1] or not 1 <= numbers[0] <= _PORT_MAX:
            yield Finding((*path, "ports", port), "not a port", port, f"1 to {_PORT_MAX}")
    chosen = mode.selector
    if mode.ports and not (chosen.labels or chosen.expressions or chosen.services):
        message = "modes of ports count for selected workloads only"
        yield Finding((*path, "ports"), message, notice=True)
    yield from _selector((*path, "selector"), chosen, topology)


# --- Names ----------------------------------------------------------------------------------


def _unknown(path: FieldPath, what: str, name: str, known: Any, refers: FieldPath) -> Finding:
    allowed = ", ".join(list(known)[:12]) or "none is declared"
    return Finding(path, f"unknown {what}", name, allowed, did_you_mean(name, known), refers)


def _selector(path: FieldPath, selector: WorkloadSelector, topology: Topology) -> Iterator[Finding]:
    for index, name in enumerate(selector.services):
        if name not in topology.services:
            refers = ("services", name)
            at = (*path, "services", index)
            yield _unknown(at, "service", name, topology.services, refers)


def _identities(topology: Topology) -> Iterator[Finding]:
    access = topology.access
    for name, identity in access.services.items():
        path: FieldPath = ("access", "services", name)
        if name not in topology.services:
            yield _unknown(path, "service", name, topology.services, ("services", name))
            continue
        yield from _address(path, identity.address)
        known = topology.services[name].workloads
        for workload, own in identity.workloads.items():
            at = (*path, "workloads", workload)
            if workload not in known:
                yield _unknown(at, f"workload of {name}", workload, known, ("services", name))
            yield from _address(at, own.address)
    for name, gateway in access.traffic.items():
        path = ("access", "traffic", name)
        if name not in topology.traffic:
            yield _unknown(path, "traffic class", name, topology.traffic, ("traffic", name))
        yield from _address(path, gateway.address)


def _address(path: FieldPath, address: str | None) -> Iterator[Finding]:
    if address is not None and (not is_block(address) or "/" in address):
        yield Finding((*path, "address"), "not an IP address", address)
