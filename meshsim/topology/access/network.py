"""NetworkPolicy of Kubernetes and Cilium's in the normal form: what packets pass.

Rule: policies of a direction that select a pod make it closed in that direction but for what
one of their rules allows; policies add up.  Who is refused hears nothing.  Both ends count: the
caller's egress and the server's ingress.

Kubernetes: no peers in a rule means every peer; ``ingress: [{}]`` allows all, ``ingress: []``
nothing.  A podSelector alone means the policy's own namespace.

Cilium: deny rules win; ``ingress: [{}]`` allows nothing, an empty list is no policy at all;
selectors mean the policy's own namespace unless they name another; rules on HTTP are anchored
regular expressions, and what they do not match is answered 403.

References
----------
Kubernetes API, networking.k8s.io/v1 NetworkPolicy; Cilium, Documentation/security/policy
(language.rst), pkg/policy/api (rule.go, l4.go, http.go, entity.go).
"""

from __future__ import annotations

from typing import Any

from meshsim.policy.authorization.matching import REGEX
from meshsim.topology.access.fields import Fields, one_or_more
from meshsim.topology.access.model import (
    AccessOperation,
    AccessPolicy,
    AccessRule,
    AccessSource,
    WorkloadSelector,
)
from meshsim.topology.policies import StringMatch

__all__ = ["read_cilium_policy", "read_network_policy"]

_FILTER = "network"
#: Direction, its key, the key of its peers, and the policy type of Kubernetes.
_DIRECTIONS = (("ingress", "from", "Ingress"), ("egress", "to", "Egress"))
#: A selector that selects nothing.
_NOBODY = WorkloadSelector(labels={"meshsim/nobody": "true"}, outside=False)


def _policy(**fields: Any) -> AccessPolicy:
    return AccessPolicy.model_validate({"network": True, "filter": _FILTER, **fields})


def _blocks(fields: Fields) -> AccessSource:
    cidr = fields.text("cidr")
    if not cidr:
        fields.problem("an address block has a cidr", "cidr")
    return AccessSource(ip_blocks=(cidr,) if cidr else (), not_ip_blocks=fields.texts("except"))


# --- Kubernetes -----------------------------------------------------------------------------


def read_network_policy(spec: Fields, name: str, namespace: str) -> list[AccessPolicy]:
    """Return a NetworkPolicy in the normal form, one policy a direction."""
    selector = spec.fields("podSelector").selector(namespace)
    stated = spec.texts("policyTypes")
    types = stated or ("Ingress", *(("Egress",) if spec.has("egress") else ()))
    policies = []
    for direction, peers, kind in _DIRECTIONS:
        rules = (_network_rule(item, peers, namespace) for item in spec.items(direction))
        found = tuple(rule for rule in rules if rule is not None)
        if kind in types:
            policies.append(_policy(name=name, selector=selector, direction=direction, rules=found))
        elif found:
            spec.notice(f"{name}: policyTypes leaves {kind} out", direction)
    return policies


def _network_rule(fields: Fields, peers: str, namespace: str) -> AccessRule | None:
    sources = tuple(_network_peer(item, namespace) for item in fields.items(peers))
    ports, tcp = [], True
    if fields.has("ports"):
        items = fields.items("ports")
        ports = [port for port in map(_network_port, items) if port is not None]
        tcp = bool(ports) or not items
    if not tcp:
        return None
    # A port entry without a number means all ports.
    numbers = () if "" in ports else tuple(ports)
    operations = (AccessOperation(ports=numbers),) if numbers else ()
    return AccessRule(sources=sources, operations=operations)


def _network_port(fields: Fields) -> str | None:
    """Return the port or range of an entry, None if it is not of TCP."""
    first, last = fields.port("port"), fields.port("endPort")
    if fields.choice("protocol", ("TCP", "UDP", "SCTP"), "TCP") != "TCP":
        return None
    return f"{first}-{last}" if last else first


def _network_peer(fields: Fields, namespace: str) -> AccessSource:
    if fields.has("ipBlock"):
        return _blocks(fields.fields("ipBlock"))
    pods = fields.fields("podSelector").selector()
    if not fields.has("namespaceSelector"):
        pods = pods.model_copy(update={"namespaces": (namespace,), "outside": False})
        return AccessSource(workloads=(pods,))
    spaces = fields.fields("namespaceSelector").selector()
    chosen = WorkloadSelector(
        labels=pods.labels,
        expressions=pods.expressions,
        namespace_labels=spaces.labels,
        namespace_expressions=spaces.expressions,
        outside=False,
    )
    return AccessSource(workloads=(chosen,))


# --- Cilium ---------------------------------------------------------------------------------

_NAMESPACE_LABEL = "io.kubernetes.pod.namespace"
_NAMESPACE_LABELS = "io.cilium.k8s.namespace.labels."
_ENTITIES = {
    "all": WorkloadSelector(),
    "cluster": WorkloadSelector(outside=False),
    "world": WorkloadSelector(outside=True),
    "world-ipv4": WorkloadSelector(outside=True),
}
#: What describes peers, after "from" or "to".
_PEERS = ("Endpoints", "Entities", "CIDR", "CIDRSet", "FQDNs", "Services", "Requires", "Nodes")


def read_cilium_policy(body: Fields, name: str, namespace: str) -> list[AccessPolicy]:
    """Return a CiliumNetworkPolicy (``namespace`` "": a cluster-wide one) in the normal form."""
    specs = body.items("specs")
    if body.has("spec"):
        specs.append(body.fields("spec"))
    return [policy for spec in specs for policy in _cilium_spec(spec, name, namespace)]


def _cilium_spec(spec: Fields, name: str, namespace: str) -> list[AccessPolicy]:
    spec.ignore("description", "labels")
    if spec.has("nodeSelector"):
        spec.notice(f"{name} is for nodes, not for pods", "nodeSelector")
        return []
    selector = _cilium_selector(spec.fields("endpointSelector"), namespace)
    policies = []
    for direction, side, _ in _DIRECTIONS:
        allow, deny = spec.items(direction), spec.items(f"{direction}Deny")
        if not allow and not deny:
            continue
        for action, items in (("ALLOW", allow), ("DENY", deny)):
            found = [_cilium_rule(item, side, namespace) for item in items]
            rules = tuple(rule for rule in found if rule is not None)
            if action == "ALLOW" or rules:
                chosen = {"name": name, "selector": selector, "direction": direction}
                policies.append(_policy(action=action, rules=rules, **chosen))
    return policies


def _cilium_rule(fields: Fields, side: str, namespace: str) -> AccessRule | None:
    """Return a rule in the normal form, None if it matches nothing."""
    fields.ignore("authentication")
    named = any(fields.has(side + peers) for peers in _PEERS)
    sources = _cilium_peers(fields, side, namespace) if named else ()
    operations = tuple(
        operation for item in fields.items("toPorts") for operation in _cilium_ports(item)
    )
    has_ports = fields.has("toPorts")
    if fields.has("icmps") or (named and not sources) or (has_ports and not operations):
        return None
    if not named and not has_ports:
        return None
    return AccessRule(sources=sources, operations=operations)


def _cilium_peers(fields: Fields, side: str, namespace: str) -> tuple[AccessSource, ...]:
    chosen = [_cilium_selector(item, namespace) for item in fields.items(f"{side}Endpoints")]
    chosen = [item.model_copy(update={"outside": False}) for item in chosen]
    for entity in fields.texts(f"{side}Entities"):
        chosen.append(_ENTITIES.get(entity, _NOBODY))
    for item in fields.items(f"{side}Services"):
        service = item.fields("k8sService")
        service.ignore("namespace")
        chosen.append(WorkloadSelector(services=(service.text("serviceName"),), outside=False))
    if fields.has(f"{side}FQDNs"):
        fields.ignore(f"{side}FQDNs")
        chosen.append(_NOBODY)
    sources = [AccessSource(workloads=tuple(chosen))] if chosen else []
    blocks = fields.texts(f"{side}CIDR")
    if blocks:
        sources.append(AccessSource(ip_blocks=blocks))
    sources += [_blocks(item) for item in fields.items(f"{side}CIDRSet")]
    for key in (f"{side}Requires", f"{side}Nodes"):
        if fields.has(key):
            fields.notice(f"{key} is not read", key)
    return tuple(sources)


def _plain_key(key: str) -> str:
    """Return a label's key without Cilium's source prefix."""
    return key.removeprefix("k8s:").removeprefix("any:")


def _cilium_selector(fields: Fields, namespace: str) -> WorkloadSelector:
    stated = fields.selector()
    labels = {_plain_key(key): value for key, value in stated.labels.items()}
    expressions = [
        item.model_copy(update={"key": _plain_key(item.key)}) for item in stated.expressions
    ]
    own = labels.pop(_NAMESPACE_LABEL, "")
    anywhere = any(item.key == _NAMESPACE_LABEL for item in expressions)
    spaces = {
        key.removeprefix(_NAMESPACE_LABELS): labels.pop(key)
        for key in list(labels)
        if key.startswith(_NAMESPACE_LABELS)
    }
    if not (own or anywhere or spaces):
        own = namespace
    name_key = "kubernetes.io/metadata.name"
    return WorkloadSelector(
        namespaces=(own,) if own else (),
        labels=labels,
        expressions=tuple(item for item in expressions if item.key != _NAMESPACE_LABEL),
        namespace_labels=spaces,
        namespace_expressions=tuple(
            item.model_copy(update={"key": name_key})
            for item in expressions
            if item.key == _NAMESPACE_LABEL
        ),
    )


def _cilium_ports(fields: Fields) -> list[AccessOperation]:
    ports = []
    tcp = not fields.has("ports")
    for item in fields.items("ports"):
        first, last = item.port("port"), item.port("endPort")
        if item.choice("protocol", ("TCP", "UDP", "SCTP", "ANY"), "ANY") in ("TCP", "ANY"):
            tcp = True
            ports.append(f"{first}-{last}" if last else first)
    if not tcp:
        return []
    numbers = () if "0" in ports or "" in ports else tuple(ports)
    rules = fields.fields("rules")
    for other in ("kafka", "l7", "l7proto"):
        if rules.has(other):
            rules.notice(f"{other} is not read", other)
    rules.ignore("dns")
    return [
        AccessOperation(ports=numbers) if http is None else _cilium_http(http, numbers)
        for http in one_or_more(rules.items("http"))
    ]


def _cilium_http(fields: Fields, ports: tuple[str, ...]) -> AccessOperation:
    found: dict[str, Any] = {"ports": ports}
    for name, key in (("methods", "method"), ("paths", "path"), ("hosts", "host")):
        if fields.text(key):
            found[name] = (REGEX + fields.text(key),)
    headers = {}
    for line in fields.texts("headers"):
        header, separator, value = line.partition(":")
        if not separator:
            header, separator, value = line.partition(" ")
        match = {"exact": value.strip()} if separator else {"present": True}
        headers[header.strip()] = StringMatch.model_validate(match)
    for item in fields.items("headerMatches"):
        if item.has("mismatch") or item.has("secret"):
            item.notice("mismatch and secret are not read")
        match = {"exact": item.text("value")} if item.has("value") else {"present": True}
        headers[item.text("name")] = StringMatch.model_validate(match)
    return AccessOperation.model_validate({**found, "headers": headers})
