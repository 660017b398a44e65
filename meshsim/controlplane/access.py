"""Access rules as one proxy receives them, and which endpoints its packets do not reach.

Rule: a proxy learns the policies of its own workload, who is behind each principal (Consul asks
for services, Cilium for labels), and its mutual TLS mode.  Network policies act on packets, at
both ends; a live mesh on loopback has no packets to filter, so each proxy is told which
endpoints it does not reach, and its connections to them hang until their connect timeout.

A caller is known by its principal; in plaintext it is nobody.  Rules that look at more (labels,
addresses, Consul's services) cannot be carried out where workloads without a proxy call, or
where different callers share a service account: that is refused before anything starts
(`check_enforceable`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from pydantic import Field

from meshsim.errors import ConfigError, Problem
from meshsim.policy.authentication import DISABLE
from meshsim.policy.authorization import Party, Request, labels_of
from meshsim.state.codes import ACCESS_DROPPED
from meshsim.topology.access.model import AccessPolicy, PortPattern
from meshsim.topology.base import Boolean, Integer, Model
from meshsim.topology.compiled.access import AccessMap, policies_of, policy_rules, selector_of
from meshsim.topology.compiled.layout import Layout
from meshsim.topology.model import Topology

__all__ = [
    "AccessParty",
    "AccessWriter",
    "ListenerAccess",
    "check_enforceable",
]

#: Fields of a source that a principal does not answer for.
_LOOKS = (
    "ip_blocks",
    "not_ip_blocks",
    "remote_ip_blocks",
    "not_remote_ip_blocks",
    "services",
    "not_services",
    "workloads",
)


class AccessParty(Model):
    """Who somebody is (`meshsim.policy.authorization.Party`)."""

    name: str
    service: str = ""
    namespace: str = "default"
    labels: dict[str, str] = Field(default_factory=dict)
    namespace_labels: dict[str, str] = Field(default_factory=dict)
    principal: str | None = None
    address: str | None = None
    outside: Boolean = False

    @staticmethod
    def of(party: Party) -> AccessParty:
        """Return `party` in the form in which it is sent."""
        return AccessParty(
            name=party.name,
            service=party.service,
            namespace=party.namespace,
            labels=dict(party.labels),
            namespace_labels=dict(party.namespace_labels),
            principal=party.principal,
            address=party.address,
            outside=party.outside,
        )

    def party(self) -> Party:
        """Return it as access rules see it."""
        return Party(
            self.name,
            self.service,
            self.namespace,
            labels_of(self.labels),
            labels_of(self.namespace_labels),
            self.principal,
            self.address,
            self.outside,
        )


class ListenerAccess(Model):
    """What a proxy must know to judge requests, and to lose packets.

    `port` and `port_name` are those of the pod; `reason` is where the mode comes from;
    `unreachable` are endpoints to which this proxy's packets are dropped.
    """

    target: AccessParty
    port: Integer = 80
    port_name: PortPattern = ""
    reason: str = ""
    policies: tuple[AccessPolicy, ...] = ()
    callers: tuple[AccessParty, ...] = ()
    unreachable: tuple[str, ...] = ()


class AccessWriter:
    """Writes the access of each proxy of a mesh.

    Parameters
    ----------
    topology : Topology
    layout : Layout
        Of `topology`.
    sidecars : bool
        Whether the mesh's clients are proxies.
    trust_domain : str, optional
        In place of the topology's.
    """

    def __init__(
        self, topology: Topology, layout: Layout, sidecars: bool, trust_domain: str | None = None
    ) -> None:
        self.map = AccessMap(topology, sidecars, trust_domain)
        self.layout = layout
        self._policies = policies_of(topology.access)
        self._callers = tuple(AccessParty.of(party) for party in self._parties() if party.principal)

    def _parties(self) -> Iterable[Party]:
        for place in self.layout.workloads:
            yield self.map.workload(place.service, place.workload)
        for name in self.map.topology.traffic:
            yield self.map.gateway(name)

    def presents(self, service: str, workload: str) -> str:
        """Return the SPIFFE id that callers find at a workload; "" if it speaks plaintext."""
        mode = self.map.mode(service, workload)
        plain = mode is None or mode.mode == DISABLE
        return "" if plain else self.map.principal(service, workload)

    def mode(self, service: str, workload: str, otherwise: str) -> str:
        """Return the mode of a workload that access rules state; `otherwise` without any."""
        mode = self.map.mode(service, workload) if self.map.used else None
        return otherwise if mode is None or otherwise == DISABLE else mode.mode

    def of_workload(self, service: str, workload: str) -> ListenerAccess | None:
        """Return the access of a workload's proxy; None without access rules."""
        if not self.map.used:
            return None
        party = self.map.workload(service, workload)
        port, port_name = self.map.port(service)
        mode = self.map.mode(service, workload)
        return ListenerAccess(
            target=AccessParty.of(party),
            port=port,
            port_name=port_name,
            reason="" if mode is None else mode.reason,
            policies=self._chosen(party) if mode is not None else (),
            callers=self._callers,
            unreachable=self.unreachable(party),
        )

    def of_gateway(self, traffic: str) -> ListenerAccess | None:
        """Return the access of a gateway, whom nobody calls; None without access rules."""
        if not self.map.used:
            return None
        party = self.map.gateway(traffic)
        return ListenerAccess(target=AccessParty.of(party), unreachable=self.unreachable(party))

    def _chosen(self, party: Party) -> tuple[AccessPolicy, ...]:
        return tuple(
            item
            for item in self._policies
            if item.direction == "ingress" and selector_of(item.selector).selects(party)
        )

    def unreachable(self, party: Party) -> tuple[str, ...]:
        """Return the endpoints to which packets of `party` are dropped."""
        if not any(policy.network for policy in self._policies):
            return ()
        names: list[str] = []
        for place in self.layout.workloads:
            port, port_name = self.map.port(place.service)
            request = Request(port=port, port_name=port_name)
            decision = self.map.decide(party, place.service, place.workload, request)
            if decision.outcome == ACCESS_DROPPED:
                rows = range(place.first_endpoint, place.first_endpoint + place.replicas)
                names += [self.layout.endpoint_names[row] for row in rows]
        return tuple(names)


def check_enforceable(topology: Topology, sidecars: bool) -> None:
    """Refuse access rules that a live mesh cannot carry out.

    Raises
    ------
    ConfigError
        If a rule looks at more of a caller than its principal, and that does not tell; or if a
        network policy looks at HTTP where a workload has no proxy.
    """
    access = AccessMap(topology, sidecars)
    bare, shared = _unproxied(access), _shared_accounts(access)
    problems = []
    for policy in policies_of(topology.access):
        http = policy.network and any(rule.uses_http for rule in policy_rules(policy).rules)
        sources = [source for rule in policy.rules for source in rule.sources]
        looks = any(getattr(source, name) for source in sources for name in _LOOKS)
        looks = looks and sidecars and (http or not policy.network)
        message = f"{policy.name} cannot be carried out on live sockets, only in a simulation"
        if bare and (http or looks):
            what = "conditions on HTTP" if http else "labels, addresses or services of callers"
            found = f"{what}, and no proxy at {', '.join(bare[:5])}"
            problems.append(Problem(message, path="access", found=found))
        elif shared and looks:
            found = f"labels, addresses or services of callers that share {', '.join(shared[:5])}"
            allowed = "a service account of its own for each workload"
            problems.append(Problem(message, path="access", found=found, allowed=allowed))
    if problems:
        raise ConfigError(problems)


def _unproxied(access: AccessMap) -> list[str]:
    return [
        f"{service}/{name}"
        for service, stated in access.topology.services.items()
        for name in stated.workloads
        if not access.meshed(service, name)
    ]


def _shared_accounts(access: AccessMap) -> list[str]:
    """Return the principals of callers that differ in what rules may look at."""
    services = access.topology.services
    parties = [access.workload(name, own) for name in services for own in services[name].workloads]
    parties += [access.gateway(name) for name in access.topology.traffic]
    differing: dict[str, set[Party]] = {}
    for party in parties:
        if party.principal is not None:
            differing.setdefault(party.principal, set()).add(replace(party, name=""))
    return [principal for principal, found in differing.items() if len(found) > 1]
