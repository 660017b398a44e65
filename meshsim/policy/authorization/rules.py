"""What access rules are made of, whichever family they come from.

Rule: a policy is a list of rules; a rule matches if one of its sources does (none: every
caller), one of its operations does (none: every request), and all of `when` do.  A source or an
operation is a list of conditions that must all hold.  A condition looks at one attribute, named
as Istio names it, and holds if the attribute meets one of its values; negated, if it meets none,
which an absent attribute does.

============================== ==========================================================
attribute                      what it is
============================== ==========================================================
``source.principal``           SPIFFE id by mutual TLS; absent in plaintext
``source.namespace``           the namespace that the principal names
``source.serviceAccount``      ``namespace/account`` that the principal names
``source.service``             the service of an authenticated caller (Consul)
``source.workload``            who the caller is by labels, whatever it presents
``source.ip``, ``remote.ip``   the connection's other end; the last of X-Forwarded-For
``destination.port``           of the pod; by number or name
``destination.ip``             of the pod
``request.method`` ...         ``path``, ``host``, ``headers[name]``: of HTTP only
``request.auth...``            of a token: never present, as requests carry none here
``connection.sni``             never present: nobody sends a server name here
============================== ==========================================================

References
----------
istio/api security/v1beta1/authorization_policy.proto; istio/istio
pilot/pkg/security/authz/model/generator.go (namespaces are taken from the principal).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from meshsim.policy.authorization.matching import (
    in_block,
    matches_host,
    matches_path,
    matches_port,
    matches_text,
)

__all__ = [
    "ATTRIBUTES",
    "Action",
    "Condition",
    "LabelRule",
    "Party",
    "Policy",
    "Request",
    "Rule",
    "Selector",
    "header_of",
    "is_http",
    "is_token",
    "labels_of",
]

Action = Literal["ALLOW", "DENY", "CUSTOM", "FIRST_MATCH"]
#: Attributes with a name of their own; others are ``request.headers[...]``, ``request.auth...``.
ATTRIBUTES = (
    "source.principal",
    "source.namespace",
    "source.serviceAccount",
    "source.service",
    "source.workload",
    "source.ip",
    "remote.ip",
    "destination.port",
    "destination.ip",
    "connection.sni",
    "request.method",
    "request.path",
    "request.host",
)
_HEADER = re.compile(r"request\.headers\[([^\]]+)\]")
_SPIFFE = re.compile(r"(?:spiffe://)?[^/]+/ns/([^/]+)/sa/([^/]+)")
_FORWARDED = "x-forwarded-for"

#: Label pairs, sorted.
Labels = tuple[tuple[str, str], ...]


def labels_of(labels: Mapping[str, str]) -> Labels:
    """Return labels as a `Party` keeps them."""
    return tuple(sorted(labels.items()))


def is_http(attribute: str) -> bool:
    """Say whether only HTTP requests have `attribute`."""
    return attribute.startswith("request.")


def is_token(attribute: str) -> bool:
    """Say whether `attribute` is taken from a token (JWT)."""
    return attribute.startswith("request.auth")


def header_of(attribute: str) -> str | None:
    """Return the header that an attribute is, its name in lower case; None if it is none."""
    found = _HEADER.fullmatch(attribute)
    return None if found is None else found[1].lower()


@dataclass(frozen=True)
class Party:
    """A workload, or a gateway, as access rules see it.

    Parameters
    ----------
    name : str
        For people, e.g. ``reviews/v1``.
    service, namespace : str
    labels, namespace_labels : tuple of (str, str)
        See `labels_of`.
    principal : str or None
        What it presents by mutual TLS; None if it speaks plaintext.
    address : str or None
        Its IP address, if it is known.
    outside : bool
        Whether it is no workload of the cluster.
    """

    name: str
    service: str = ""
    namespace: str = "default"
    labels: Labels = ()
    namespace_labels: Labels = ()
    principal: str | None = None
    address: str | None = None
    outside: bool = False


@dataclass(frozen=True)
class Request:
    """One request, or with ``http=False`` a connection of another protocol.

    Parameters
    ----------
    method, path, host : str
    headers : tuple of (str, str)
        Names in lower case; see `labels_of`.
    port : int
        Of the pod that is called.
    port_name : str
        What the pod calls it; "" without a name.
    http : bool
        Whether the proxy takes it for HTTP.
    """

    method: str = "GET"
    path: str = "/"
    host: str = ""
    headers: Labels = ()
    port: int = 80
    port_name: str = ""
    http: bool = True


@dataclass(frozen=True)
class LabelRule:
    """A condition on labels, as Kubernetes' selectors know them.

    `operator` is In, NotIn, Exists or DoesNotExist; NotIn holds for an absent label.
    """

    key: str
    operator: str = "Exists"
    values: tuple[str, ...] = ()

    def holds(self, labels: Mapping[str, str]) -> bool:
        """Decide whether `labels` meet the condition."""
        found = labels.get(self.key)
        if self.operator in ("Exists", "DoesNotExist"):
            return (found is not None) == (self.operator == "Exists")
        return (found is not None and found in self.values) == (self.operator == "In")


@dataclass(frozen=True)
class Selector:
    """Which workloads are meant: all conditions hold; an empty one means every workload.

    Parameters
    ----------
    services : tuple of str
        Any of these; empty: any service.
    labels, namespace_labels : tuple of LabelRule
        Of the workload, and of its namespace.
    outside : bool or None
        Only what is outside the cluster, only what is inside, or both.
    """

    services: tuple[str, ...] = ()
    labels: tuple[LabelRule, ...] = ()
    namespace_labels: tuple[LabelRule, ...] = ()
    outside: bool | None = None

    def selects(self, party: Party) -> bool:
        """Decide whether `party` is meant."""
        if self.services and party.service not in self.services:
            return False
        if self.outside is not None and party.outside != self.outside:
            return False
        if not all(rule.holds(dict(party.labels)) for rule in self.labels):
            return False
        return all(rule.holds(dict(party.namespace_labels)) for rule in self.namespace_labels)


@dataclass(frozen=True)
class Condition:
    """A condition on one attribute.

    Parameters
    ----------
    attribute : str
        See this module's table.
    values : tuple of str
        Patterns (`meshsim.policy.authorization.matching`).
    negated : bool
    selectors : tuple of Selector
        In place of `values` for ``source.workload``.
    """

    attribute: str
    values: tuple[str, ...] = ()
    negated: bool = False
    selectors: tuple[Selector, ...] = ()

    def holds(self, peer: Party, request: Request, target: Party) -> bool:
        """Decide whether the condition holds for a request of `peer` to `target`."""
        return self._meets(peer, request, target) != self.negated

    def _meets(self, peer: Party, request: Request, target: Party) -> bool:
        attribute = self.attribute
        if attribute == "source.workload":
            return any(selector.selects(peer) for selector in self.selectors)
        if attribute == "destination.port":
            return any(matches_port(p, request.port, request.port_name) for p in self.values)
        value = _value(attribute, peer, request, target)
        if value is None:
            return False
        if attribute.endswith(".ip"):
            return any(in_block(block, value) for block in self.values)
        if attribute == "request.path":
            return any(matches_path(pattern, value) for pattern in self.values)
        if attribute == "request.host":
            return any(matches_host(pattern, value) for pattern in self.values)
        if attribute == "source.principal":
            plain = (pattern.removeprefix("spiffe://") for pattern in self.values)
            return any(matches_text(pattern, value) for pattern in plain)
        return any(matches_text(pattern, value) for pattern in self.values)


def _value(attribute: str, peer: Party, request: Request, target: Party) -> str | None:
    """Return the value of an attribute, None if it is absent."""
    principal = None if peer.principal is None else peer.principal.removeprefix("spiffe://")
    match attribute:
        case "source.principal":
            return principal
        case "source.service":
            return None if principal is None else peer.service
        case "source.namespace" | "source.serviceAccount":
            return _part(attribute, principal)
        case "source.ip":
            return peer.address
        case "remote.ip":
            forwarded = dict(request.headers).get(_FORWARDED)
            return forwarded.rpartition(",")[2].strip() if forwarded else peer.address
        case "destination.ip":
            return target.address
    return _http_value(attribute, request) if request.http else None


def _http_value(attribute: str, request: Request) -> str | None:
    match attribute:
        case "request.method":
            return request.method
        case "request.path":
            return request.path
        case "request.host":
            return request.host
    header = header_of(attribute)
    return None if header is None else dict(request.headers).get(header)


def _part(attribute: str, principal: str | None) -> str | None:
    """Return the namespace or the account that a principal names."""
    found = None if principal is None else _SPIFFE.fullmatch(principal)
    if found is None:
        return None
    return found[1] if attribute == "source.namespace" else f"{found[1]}/{found[2]}"


#: Conditions that must all hold.
Conditions = tuple[Condition, ...]


@dataclass(frozen=True)
class Rule:
    """One rule of a policy.

    Parameters
    ----------
    sources, operations : tuple of tuple of Condition
        Alternatives; empty: any.
    when : tuple of Condition
    action : str
        ALLOW or DENY; counts only in a FIRST_MATCH policy.
    note : str
        Added to the reason of a decision.
    """

    sources: tuple[Conditions, ...] = ()
    operations: tuple[Conditions, ...] = ()
    when: Conditions = ()
    action: str = "ALLOW"
    note: str = ""

    @property
    def uses_http(self) -> bool:
        """Whether a condition looks at what only HTTP has."""
        return any(is_http(condition.attribute) for condition in self.conditions())

    def conditions(self) -> Iterable[Condition]:
        """Yield every condition of the rule."""
        for alternatives in (self.sources, self.operations, (self.when,)):
            for conditions in alternatives:
                yield from conditions

    def matches(
        self, peer: Party, request: Request, target: Party, without_http: bool = False
    ) -> bool:
        """Decide whether the rule matches; `without_http` leaves conditions on HTTP out."""

        def hold(conditions: Conditions) -> bool:
            return all(
                (without_http and is_http(condition.attribute))
                or condition.holds(peer, request, target)
                for condition in conditions
            )

        return (
            (not self.sources or any(hold(source) for source in self.sources))
            and (not self.operations or any(hold(item) for item in self.operations))
            and hold(self.when)
        )


@dataclass(frozen=True)
class Policy:
    """A policy that holds for one workload.

    Parameters
    ----------
    name : str
        For people, e.g. ``AuthorizationPolicy foo/viewers``.
    action : str
        Of its rules: `Action`.
    rules : tuple of Rule
    network : bool
        Whether it is enforced on packets (who is refused hears nothing), or by the proxy.
    filter : str
        Policies of one filter are taken together; every filter must let a request pass.
    ports : tuple of str
        Ports of the workload that it bears on; empty: all.
    default : str
        What a FIRST_MATCH policy does where no rule matches, and what the provider of a CUSTOM
        policy answers; ALLOW or DENY.
    status : int
        What an ALLOW policy answers to those it does not allow: 403, or 404.
    """

    name: str
    action: Action = "ALLOW"
    rules: tuple[Rule, ...] = ()
    network: bool = False
    filter: str = ""
    ports: tuple[str, ...] = ()
    default: str = "DENY"
    status: int = 403

    def bears_on(self, request: Request) -> bool:
        """Say whether the policy holds for the port of `request`."""
        number, name = request.port, request.port_name
        return not self.ports or any(matches_port(port, number, name) for port in self.ports)
