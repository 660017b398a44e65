"""Access, ready to be asked: who is who in a topology, and which policies stand before whom.

Rule: the policies that are declared and those that documents hold become rules of the policy
engine, chosen once for each workload.  Only a proxy enforces what is not on packets: without
sidecars, or before a workload outside the mesh, network policies alone count.  A caller has a
principal if it has a proxy; it speaks mutual TLS with whoever has one (Istio's auto mTLS).

Identities: a workload is the service account ``<service>-<workload>`` of the namespace
``default``, a traffic class comes from a gateway with the account ``gateway-<class>``, unless
``access`` says otherwise.  Consul's service of a gateway is its account.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from meshsim.policy.authentication import spiffe_id
from meshsim.policy.authorization import (
    Authorizer,
    Condition,
    Decision,
    EffectiveMode,
    LabelRule,
    Party,
    PeerAuthentication,
    Policy,
    Request,
    Rule,
    Selector,
    effective_mode,
    labels_of,
)
from meshsim.policy.authorization.matching import REGEX, literal
from meshsim.topology.access import (
    Access,
    AccessIdentity,
    AccessOperation,
    AccessPolicy,
    AccessReading,
    AccessRule,
    AccessSource,
    LabelExpression,
    PeerAuthenticationPolicy,
    ServiceIdentity,
    WorkloadSelector,
    read_documents,
)
from meshsim.topology.model import StringMatch, Topology

__all__ = ["AccessMap", "peer_authentication_of", "policies_of", "policy_rules", "selector_of"]

#: The label by which Kubernetes names a namespace.
_NAME_LABEL = "kubernetes.io/metadata.name"
#: Attribute of each field of a source and of an operation.
_SOURCE = {
    "principals": "source.principal",
    "namespaces": "source.namespace",
    "service_accounts": "source.serviceAccount",
    "services": "source.service",
    "ip_blocks": "source.ip",
    "remote_ip_blocks": "remote.ip",
    "request_principals": "request.auth.principal",
}
_OPERATION = {
    "hosts": "request.host",
    "ports": "destination.port",
    "methods": "request.method",
    "paths": "request.path",
}
_NOBODY = AccessIdentity()


# --- From the model to rules ----------------------------------------------------------------


def policies_of(access: Access) -> tuple[AccessPolicy, ...]:
    """Return the policies of `access`, those of its documents included."""
    return access.policies + tuple(_read(access).policies)


def peer_authentication_of(access: Access) -> tuple[PeerAuthenticationPolicy, ...]:
    """Return the modes of `access`, those of its documents included; the oldest first."""
    return access.peer_authentication + tuple(_read(access).peer_authentication)


def _read(access: Access) -> AccessReading:
    return read_documents(
        access.documents,
        root_namespace=access.root_namespace,
        default_intention=access.default_intention,
    )


def _label_rules(
    labels: Mapping[str, str], expressions: Iterable[LabelExpression]
) -> tuple[LabelRule, ...]:
    exact = (LabelRule(key, "In", (value,)) for key, value in labels.items())
    return (*exact, *(LabelRule(item.key, item.operator, item.values) for item in expressions))


def selector_of(element: WorkloadSelector) -> Selector:
    """Return a selector of the model as one of the policy engine."""
    names = (LabelRule(_NAME_LABEL, "In", element.namespaces),) if element.namespaces else ()
    spaces = _label_rules(element.namespace_labels, element.namespace_expressions)
    labels = _label_rules(element.labels, element.expressions)
    return Selector(element.services, labels, (*names, *spaces), element.outside)


def _conditions(
    element: AccessSource | AccessOperation, attributes: Mapping[str, str]
) -> tuple[Condition, ...]:
    found = []
    for name, attribute in attributes.items():
        values = getattr(element, name)
        refused = getattr(element, f"not_{name}")
        found += [Condition(attribute, values)] if values else []
        found += [Condition(attribute, refused, negated=True)] if refused else []
    return tuple(found)


def _source(element: AccessSource) -> tuple[Condition, ...]:
    conditions = _conditions(element, _SOURCE)
    if not element.workloads:
        return conditions
    selectors = tuple(selector_of(item) for item in element.workloads)
    return (*conditions, Condition("source.workload", selectors=selectors))


def _header(name: str, match: StringMatch) -> Condition:
    attribute = f"request.headers[{name.lower()}]"
    if match.present is not None:
        return Condition(attribute, (f"{REGEX}(?s:.*)",), match.present == match.invert)
    if match.regex is not None:
        pattern = REGEX + match.regex
    elif match.prefix is not None:
        pattern = literal(match.prefix, prefix=True)
    else:
        pattern = literal(match.exact or "")
    return Condition(attribute, (pattern,), match.invert)


def _operation(element: AccessOperation) -> tuple[Condition, ...]:
    headers = (_header(name, match) for name, match in element.headers.items())
    return (*_conditions(element, _OPERATION), *headers)


def _rule(element: AccessRule) -> Rule:
    when = []
    for item in element.when:
        when += [Condition(item.key, item.values)] if item.values else []
        when += [Condition(item.key, item.not_values, negated=True)] if item.not_values else []
    return Rule(
        tuple(_source(item) for item in element.sources),
        tuple(_operation(item) for item in element.operations),
        tuple(when),
        element.action,
        element.note,
    )


def policy_rules(element: AccessPolicy) -> Policy:
    """Return a policy of the model as one of the policy engine."""
    return Policy(
        name=element.name,
        action=element.action,
        rules=tuple(_rule(item) for item in element.rules),
        network=element.network,
        filter=element.filter,
        ports=element.ports,
        default=element.default,
        status=element.status,
    )


def _statement(element: PeerAuthenticationPolicy) -> PeerAuthentication:
    ports = tuple((int(port), mode) for port, mode in element.ports.items())
    name = element.name or "peer authentication"
    return PeerAuthentication(name, element.mode, selector_of(element.selector), ports)


# --- Who is who -----------------------------------------------------------------------------


class AccessMap:
    """Everybody in a topology, and the rules in front of each workload.

    Parameters
    ----------
    topology : Topology
        Resolved or not.
    sidecars : bool
        Whether its mesh has proxies (`MeshProfile.sidecars`).
    trust_domain : str, optional
        In place of the topology's.
    """

    def __init__(self, topology: Topology, sidecars: bool, trust_domain: str | None = None) -> None:
        self.topology = topology
        self.trust_domain = trust_domain or topology.access.trust_domain
        self.access = topology.access
        self.sidecars = sidecars
        compiled = [(item, policy_rules(item)) for item in policies_of(self.access)]
        self._policies = [
            (item.direction, selector_of(item.selector), rules) for item, rules in compiled
        ]
        self._modes = [_statement(item) for item in peer_authentication_of(self.access)]
        self._incoming: dict[tuple[str, str], Authorizer] = {}
        self._outgoing: dict[Party, Authorizer | None] = {}

    @property
    def used(self) -> bool:
        """Whether anything can ever be refused."""
        return bool(self._policies or self._modes)

    def identity(self, service: str) -> ServiceIdentity:
        """Return what is declared of the identities of a service."""
        return self.access.services.get(service, ServiceIdentity())

    def meshed(self, service: str, workload: str) -> bool:
        """Say whether a workload has a proxy."""
        return self.sidecars and self.topology.services[service].workloads[workload].meshed

    def workload(self, service: str, workload: str) -> Party:
        """Return a workload as access rules see it."""
        of_service = self.identity(service)
        own = of_service.workloads.get(workload, _NOBODY)
        namespace = own.namespace or of_service.namespace or "default"
        stated = self.topology.services[service].workloads[workload].labels
        proxied = self.meshed(service, workload)
        return Party(
            name=f"{service}/{workload}",
            service=service,
            namespace=namespace,
            labels=labels_of({"version": workload, **stated, **own.labels}),
            namespace_labels=self._namespace(namespace),
            principal=self.principal(service, workload) if proxied else None,
            address=own.address or of_service.address,
        )

    def gateway(self, traffic: str) -> Party:
        """Return where a traffic class comes from: its gateway, or clients outside the mesh."""
        own = self.access.traffic.get(traffic, _NOBODY)
        namespace = own.namespace or "default"
        return Party(
            name=traffic,
            service=own.service_account or f"gateway-{traffic}",
            namespace=namespace,
            labels=labels_of(own.labels),
            namespace_labels=self._namespace(namespace),
            principal=self.gateway_principal(traffic) if self.sidecars else None,
            address=own.address,
            outside=not self.sidecars,
        )

    def principal(self, service: str, workload: str) -> str:
        """Return the SPIFFE id of a workload's service account, whether it has a proxy or not."""
        of_service = self.identity(service)
        own = of_service.workloads.get(workload, _NOBODY)
        namespace = own.namespace or of_service.namespace or "default"
        account = own.service_account or of_service.service_account or f"{service}-{workload}"
        return spiffe_id(self.trust_domain, namespace, account)

    def gateway_principal(self, traffic: str) -> str:
        """Return the SPIFFE id of a traffic class's gateway."""
        own = self.access.traffic.get(traffic, _NOBODY)
        account = own.service_account or f"gateway-{traffic}"
        return spiffe_id(self.trust_domain, own.namespace or "default", account)

    def _namespace(self, name: str) -> tuple[tuple[str, str], ...]:
        return labels_of({_NAME_LABEL: name, **self.access.namespaces.get(name, {})})

    # --- Decisions ---

    def port(self, service: str) -> tuple[int, str]:
        """Return the port of a service's pods, and what they call it."""
        declared = self.identity(service)
        return declared.target_port or self.topology.services[service].port, declared.port_name

    def at_port(self, request: Request, port: int, port_name: str) -> Request:
        """Return `request` to another port."""
        return replace(request, port=port, port_name=port_name)

    def filters(self, service: str, workload: str, request: Request) -> bool:
        """Say whether the proxy of a workload holds rules for `request`."""
        return self.incoming(service, workload).filters(request)

    def mode(self, service: str, workload: str) -> EffectiveMode | None:
        """Return the mutual TLS mode of a workload's port; None without a proxy."""
        if not self.meshed(service, workload):
            return None
        port, _ = self.port(service)
        return effective_mode(self._modes, self.workload(service, workload), port)

    def incoming(self, service: str, workload: str) -> Authorizer:
        """Return the rules in front of a workload."""
        key = (service, workload)
        if key not in self._incoming:
            party = self.workload(service, workload)
            mode = self.mode(service, workload)
            chosen = self.chosen("ingress", party)
            chosen = [policy for policy in chosen if policy.network or mode is not None]
            self._incoming[key] = Authorizer(party, chosen, mode)
        return self._incoming[key]

    def chosen(self, direction: str, party: Party) -> list[Policy]:
        """Return the policies of a direction that select `party`."""
        return [
            policy
            for stated, selector, policy in self._policies
            if stated == direction and selector.selects(party)
        ]

    def outgoing(self, caller: Party) -> Authorizer | None:
        """Return the network policies behind a caller, None if there are none."""
        if caller not in self._outgoing:
            policies = self.chosen("egress", caller)
            self._outgoing[caller] = Authorizer(caller, policies, None) if policies else None
        return self._outgoing[caller]

    def decide(self, caller: Party, service: str, workload: str, request: Request) -> Decision:
        """Return the answer to a request of `caller` to a workload.

        Parameters
        ----------
        caller : Party
            By `workload` or `gateway`.
        service, workload : str
            Who is called.
        request : Request
            `port` is that of the pod (`port`).
        """
        outgoing = self.outgoing(caller)
        if outgoing is not None:
            left = outgoing.decide(self.workload(service, workload), request)
            if not left.allowed:
                return left
        return self.incoming(service, workload).decide(caller, request)
