"""Linkerd's Server, AuthorizationPolicy and their kin in the normal form.

Rule: a Server takes a port of some pods; requests to it are refused (403) unless its
accessPolicy or a grant admits them.  Grants are AuthorizationPolicies of the Server, of its
namespace or of a route on it, and ServerAuthorizations.  The authentications of one
AuthorizationPolicy must all hold, of one authentication any identity or network.  Once routes
are attached to a Server, a request that matches none is answered 404, and a grant of a route
admits only that route.  Ports without a Server admit everyone (the default inbound policy
all-unauthenticated).

References
----------
linkerd/website reference/authorization-policy.md, tasks/configuring-per-route-policy.md;
linkerd2 policy-controller/k8s/index/src/inbound (index.rs, server_authorization.rs).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from meshsim.policy.authorization.matching import REGEX, literal
from meshsim.topology.access.fields import Fields, one_or_more
from meshsim.topology.access.model import (
    AccessOperation,
    AccessPolicy,
    AccessRule,
    AccessSource,
    WorkloadSelector,
)
from meshsim.topology.policies import StringMatch

__all__ = ["LINKERD_KINDS", "LinkerdObject", "read_servers"]

#: Kinds that are read, all together.
LINKERD_KINDS = (
    "Server",
    "ServerAuthorization",
    "AuthorizationPolicy",
    "MeshTLSAuthentication",
    "NetworkAuthentication",
    "HTTPRoute",
    "GRPCRoute",
)
_IDENTITY = re.compile(r"([^.]+)\.([^.]+)\.serviceaccount\.identity\..+")
_ROUTES = ("HTTPRoute", "GRPCRoute")
#: What an accessPolicy admits beside the grants; deny admits nobody.
_OPEN: dict[str, tuple[AccessSource, ...]] = {
    "all-unauthenticated": (),
    "audit": (),
    "all-authenticated": (AccessSource(principals=("*",)),),
    "cluster-unauthenticated": (AccessSource(workloads=(WorkloadSelector(outside=False),)),),
    "cluster-authenticated": (
        AccessSource(principals=("*",), workloads=(WorkloadSelector(outside=False),)),
    ),
}


class LinkerdObject(NamedTuple):
    """An object: kind, namespace, name, labels and spec."""

    kind: str
    namespace: str
    name: str
    labels: dict[str, str]
    spec: Fields

    @property
    def title(self) -> str:
        """Its name for people."""
        return f"{self.kind} {self.namespace}/{self.name}"


#: Whom a grant admits (empty: everyone), and which route it is for ("" for the whole Server).
class _Grant(NamedTuple):
    title: str
    sources: tuple[AccessSource, ...]
    route: str = ""


def read_servers(objects: Sequence[LinkerdObject]) -> list[AccessPolicy]:
    """Return the policies of all Servers among `objects` in the normal form."""
    reader = _Reader(objects)
    return [policy for server in reader.of("Server") for policy in reader.server(server)]


class _Reader:
    def __init__(self, objects: Sequence[LinkerdObject]) -> None:
        self.objects = objects
        self.by_name = {(item.kind, item.namespace, item.name): item for item in objects}
        self.sources = {
            (item.kind, item.namespace, item.name): _authentication(item)
            for item in objects
            if item.kind in ("MeshTLSAuthentication", "NetworkAuthentication")
        }
        self.operations = {
            (item.namespace, item.name): _operations(item)
            for item in objects
            if item.kind in _ROUTES
        }
        self.grants = [(item, self._grant(item)) for item in self.of("AuthorizationPolicy")]

    def of(self, *kinds: str) -> list[LinkerdObject]:
        return [item for item in self.objects if item.kind in kinds]

    # --- Servers ---

    def server(self, server: LinkerdObject) -> list[AccessPolicy]:
        """Return the policies of one Server: its routes if it has any, and its grants."""
        spec = server.spec
        spec.ignore("proxyProtocol")
        if spec.has("externalWorkloadSelector"):
            spec.notice(f"{server.title} is for external workloads", "externalWorkloadSelector")
            return []
        selector = spec.fields("podSelector").selector(server.namespace)
        ports = (spec.port("port"),) if spec.port("port") else ()
        routes = [item for item in self.of(*_ROUTES) if self._is_on(item, server)]
        policies = []
        if routes:
            found = [
                AccessRule(operations=self.operations[item.namespace, item.name], note=item.title)
                for item in routes
            ]
            policies.append(
                AccessPolicy(
                    name=f"routes of {server.title}",
                    selector=selector,
                    ports=ports,
                    rules=tuple(found),
                    status=404,
                    filter="linkerd-routes",
                )
            )
        policies.append(
            AccessPolicy(
                name=server.title,
                selector=selector,
                ports=ports,
                rules=tuple(self._rules(server, routes)),
                filter="linkerd",
            )
        )
        return policies

    def _is_on(self, route: LinkerdObject, server: LinkerdObject) -> bool:
        parents = route.spec.items("parentRefs")
        for parent in parents:
            parent.ignore("group", "namespace", "port", "sectionName")
        return route.namespace == server.namespace and any(
            parent.text("kind") == "Server" and parent.text("name") == server.name
            for parent in parents
        )

    def _rules(
        self, server: LinkerdObject, routes: Sequence[LinkerdObject]
    ) -> Iterable[AccessRule]:
        choices = ("deny", *_OPEN)
        stated = server.spec.choice("accessPolicy", choices, "deny")
        if stated in _OPEN:
            yield AccessRule(sources=_OPEN[stated], note=f"accessPolicy {stated}")
        names = {item.name for item in routes}
        for item, grant in self.grants:
            if grant is None or item.namespace != server.namespace:
                continue
            target = item.spec.fields("targetRef")
            kind, name = target.text("kind"), target.text("name")
            if kind == "Namespace" or (kind == "Server" and name == server.name):
                yield AccessRule(sources=grant.sources, note=grant.title)
            elif grant.route in names and kind in _ROUTES:
                operations = self.operations[item.namespace, grant.route]
                yield AccessRule(sources=grant.sources, operations=operations, note=grant.title)
        for item in self.of("ServerAuthorization"):
            if self._authorizes(item, server):
                yield AccessRule(sources=_clients(item), note=item.title)

    def _authorizes(self, item: LinkerdObject, server: LinkerdObject) -> bool:
        chosen = item.spec.fields("server")
        if chosen.has("name"):
            named = chosen.text("name") == server.name
        else:
            wanted = chosen.fields("selector").labels("matchLabels")
            named = wanted.items() <= server.labels.items()
        return named and item.namespace == server.namespace

    # --- Grants ---

    def _grant(self, item: LinkerdObject) -> _Grant | None:
        """Return an AuthorizationPolicy as a grant, None if it can admit nobody."""
        target = item.spec.fields("targetRef")
        target.ignore("group")
        kind = target.choice("kind", ("Server", "Namespace", *_ROUTES), "")
        route = target.text("name") if kind in _ROUTES else ""
        if kind not in _ROUTES:
            target.ignore("name")
        sources: tuple[AccessSource, ...] = ()
        for reference in item.spec.items("requiredAuthenticationRefs"):
            found = self._referenced(reference, item.namespace)
            merged = [
                both
                for one in one_or_more(sources)
                for other in found
                if (both := _both(one, other, reference)) is not None
            ]
            if not merged:
                return None
            sources = tuple(merged)
        return _Grant(item.title, sources, route)

    def _referenced(self, reference: Fields, namespace: str) -> tuple[AccessSource, ...]:
        reference.ignore("group")
        kind, name = reference.text("kind"), reference.text("name")
        space = reference.text("namespace") or namespace
        if kind == "ServiceAccount":
            return (AccessSource(service_accounts=(f"{space}/{name}",)),)
        found = self.sources.get((kind, space, name))
        if found is None:
            reference.notice(f"{kind} {space}/{name} is not there: nobody is admitted")
            return ()
        return found


def _both(one: AccessSource | None, other: AccessSource, reference: Fields) -> AccessSource | None:
    """Return the source that meets both; two lists of one field cannot be joined."""
    if one is None:
        return other
    stated = {name for name in one.model_fields_set if getattr(one, name)}
    added = {name for name in other.model_fields_set if getattr(other, name)}
    if stated & added:
        reference.problem("two authentications of one kind are not read")
        return None
    return one.model_copy(update={name: getattr(other, name) for name in added})


def _authentication(item: LinkerdObject) -> tuple[AccessSource, ...]:
    """Return whom an authentication means."""
    if item.kind == "NetworkAuthentication":
        return _networks(item.spec.items("networks"))
    sources = _identities(item.spec.texts("identities"))
    for reference in item.spec.items("identityRefs"):
        reference.ignore("group")
        kind, name = reference.text("kind"), reference.text("name")
        space = reference.text("namespace") or item.namespace
        if kind == "Namespace":
            sources.append(AccessSource(namespaces=(name or "*",)))
        elif kind == "ServiceAccount":
            sources.append(AccessSource(service_accounts=(f"{space}/{name or '*'}",)))
        else:
            reference.problem("an identity is of a ServiceAccount or a Namespace", "kind")
    return tuple(sources)


def _networks(items: Sequence[Fields]) -> tuple[AccessSource, ...]:
    return tuple(
        AccessSource(ip_blocks=(item.text("cidr"),), not_ip_blocks=item.texts("except"))
        for item in items
    )


def _identities(names: Iterable[str]) -> list[AccessSource]:
    """Return who bears Linkerd's names ``account.namespace.serviceaccount.identity...``."""
    sources = []
    for name in names:
        found = _IDENTITY.fullmatch(name)
        if found is None:
            sources.append(AccessSource(principals=(name,)))
        elif found[1] == "*":
            sources.append(AccessSource(namespaces=(found[2],)))
        else:
            sources.append(AccessSource(service_accounts=(f"{found[2]}/{found[1]}",)))
    return sources


def _clients(item: LinkerdObject) -> tuple[AccessSource, ...]:
    """Return whom a ServerAuthorization admits; empty means everyone."""
    client = item.spec.fields("client")
    networks = _networks(client.items("networks"))
    tls = client.fields("meshTLS")
    if client.boolean("unauthenticated"):
        return networks
    sources = _identities(tls.texts("identities"))
    for account in tls.items("serviceAccounts"):
        space = account.text("namespace") or item.namespace
        sources.append(AccessSource(service_accounts=(f"{space}/{account.text('name')}",)))
    if tls.boolean("unauthenticatedTLS"):
        sources = [AccessSource(principals=("*",))]
    return tuple(
        both
        for source in sources
        for network in one_or_more(networks)
        if (both := source if network is None else _both(source, network, client)) is not None
    ) or (AccessSource(principals=(f"nobody of {item.title}",)),)


# --- Routes ---------------------------------------------------------------------------------


def _operations(route: LinkerdObject) -> tuple[AccessOperation, ...]:
    """Return what the rules of a route match."""
    route.spec.ignore("hostnames", "parentRefs")
    found = []
    for rule in route.spec.items("rules"):
        rule.ignore("filters", "backendRefs", "timeouts")
        matches = rule.items("matches")
        found += [_operation(match, route.kind) for match in matches]
        if not matches:
            found.append(AccessOperation(paths=("/*",)))
    return tuple(found)


def _operation(match: Fields, kind: str) -> AccessOperation:
    headers = {}
    for item in match.items("headers"):
        regex = item.choice("type", ("Exact", "RegularExpression"), "Exact") != "Exact"
        value = {"regex" if regex else "exact": item.text("value")}
        headers[item.text("name").lower()] = StringMatch.model_validate(value)
    if match.has("queryParams"):
        match.notice("queryParams are not read", "queryParams")
    if kind == "GRPCRoute":
        method = match.fields("method")
        method.ignore("type")
        service, name = method.text("service") or "{*}", method.text("method") or "{*}"
        paths: tuple[str, ...] = (f"/{service}/{name}",)
        methods: tuple[str, ...] = ("POST",)
    else:
        paths = (_path(match.fields("path")),)
        methods = (match.text("method"),) if match.text("method") else ()
    return AccessOperation.model_validate({"paths": paths, "methods": methods, "headers": headers})


def _path(path: Fields) -> str:
    kinds = ("PathPrefix", "Exact", "RegularExpression")
    kind, value = path.choice("type", kinds, "PathPrefix"), path.text("value") or "/"
    if kind == "Exact":
        return literal(value)
    if kind == "RegularExpression":
        return REGEX + value
    # A prefix of whole segments: /v2 takes /v2/x and not /v2x.
    whole = value.rstrip("/")
    return f"{REGEX}{re.escape(whole)}(/(?s:.*))?" if whole else "/*"
