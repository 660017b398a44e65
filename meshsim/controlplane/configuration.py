"""The configuration of one proxy, and the four resources it travels in.

Rule: a proxy receives what its workload calls, and no more: the route tables of the called
services, and the clusters these tables can reach with their endpoints (Istio's ``Sidecar``
scope drawn from the call graph).  A workload outside the mesh has no policies; its client picks
any endpoint of the service at random, as kube-proxy does.

A resource is one type of one proxy's configuration, as xDS types are:

=========== ============================================ ==========================
type        body                                         Envoy's
=========== ============================================ ==========================
clusters    cluster name -> policies                     CDS
endpoints   cluster name -> addresses                    EDS
routes      labels of the caller, service -> route table RDS
listener    mTLS mode and who may connect                LDS, PeerAuthentication
=========== ============================================ ==========================

A body that a proxy could not carry out is refused as a whole, with every problem named: unknown
fields, policies left open, a split without weight.  That is what a NACK says.

References
----------
Envoy, api/envoy/service/discovery/v3 (resource types, versions);
istio/api networking/v1alpha3/sidecar.proto (scope), security/v1beta1/peer_authentication.proto.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from pydantic import ConfigDict, TypeAdapter, ValidationError

from meshsim.controlplane.access import AccessWriter, ListenerAccess
from meshsim.controlplane.completeness import find_open, simulated_only
from meshsim.controlplane.endpoints import EndpointAddress, EndpointLocality, Name, placed
from meshsim.controlplane.names import (
    cluster_name,
    destinations,
    gateway_name,
    mirror_names,
    principal_of,
    principals_of,
)
from meshsim.errors import ConfigError, Problem
from meshsim.topology.base import Model
from meshsim.topology.calls import call_steps
from meshsim.topology.compiled.clusters import BARE
from meshsim.topology.compiled.layout import Layout, Place
from meshsim.topology.compiled.placement import (
    Client,
    clients_of,
    gateway_client,
    group_endpoints,
    is_grouped,
    workload_labels,
)
from meshsim.topology.compiled.upstreams import ClusterName, cluster_endpoints, policy_of
from meshsim.topology.model import (
    AdaptiveConcurrency,
    ClusterPolicy,
    LoadBalancing,
    LocalRateLimit,
    Route,
    Topology,
    WeightedCluster,
)
from meshsim.yamlfile import field_path

__all__ = [
    "TYPES",
    "EndpointAddress",
    "EndpointLocality",
    "ListenerPolicy",
    "Mode",
    "ProxyConfiguration",
    "Resource",
    "cluster_name",
    "configurations_of",
    "destinations",
    "gateway_name",
    "mirror_names",
    "missing_clusters",
    "principal_of",
    "principals_of",
    "with_resource",
]

Mode = Literal["STRICT", "PERMISSIVE", "DISABLE"]
_MODE: dict[str, Mode] = {mode: mode for mode in get_args(Mode)}

#: Types of resources in the order Istio pushes them: a route must not name a cluster that is
#: not there yet (istio/istio pilot/pkg/xds/delta.go, PushOrder: CDS, EDS, LDS, RDS).
TYPES = ("clusters", "endpoints", "listener", "routes")

#: A resource as JSON: {"proxy": ..., "type": ..., "version": ..., "body": ...}.
Resource = dict[str, Any]


@dataclass(frozen=True)
class ListenerPolicy:
    """Who may connect to a proxy's inbound side.

    Parameters
    ----------
    mode : "STRICT", "PERMISSIVE" or "DISABLE"
        Mutual TLS required, accepted beside plaintext, or refused.
    trust_domains : tuple of str
        Of accepted client identities.
    principals : tuple of str
        Accepted clients; empty accepts every identity of the trust domains.
    rate_limit : LocalRateLimit or None
        Of the requests that come in.
    adaptive_concurrency : AdaptiveConcurrency or None
        Of the requests that come in.
    access : ListenerAccess or None
        Access rules of its requests; None without any.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    mode: Mode = "STRICT"
    trust_domains: tuple[str, ...] = ("cluster.local",)
    principals: tuple[str, ...] = ()
    rate_limit: LocalRateLimit | None = None
    adaptive_concurrency: AdaptiveConcurrency | None = None
    access: ListenerAccess | None = None


class _Routes(Model):
    """Body of the type "routes"."""

    labels: dict[str, str]
    tables: dict[Name, tuple[Route, ...]]


_ADAPTERS: dict[str, TypeAdapter[Any]] = {
    "clusters": TypeAdapter(dict[Name, ClusterPolicy]),
    "endpoints": TypeAdapter(dict[Name, tuple[EndpointAddress, ...]]),
    "routes": TypeAdapter(_Routes),
    "listener": TypeAdapter(ListenerPolicy),
}


@dataclass(frozen=True)
class ProxyConfiguration:
    """Everything one proxy is told.

    Parameters
    ----------
    proxy : str
        Name of the endpoint it serves, or ``gateway-<traffic class>``.
    labels : mapping of str to str
        Of the proxy's own workload, which routes may ask for (`RouteMatch.source_labels`).
    clusters : mapping of str to ClusterPolicy
        By cluster name ("reviews", "reviews|v2"), every field filled.
    endpoints : mapping of str to tuple of EndpointAddress
        By cluster name.
    routes : mapping of str to tuple of Route
        By called service, in the order they are tried.
    listener : ListenerPolicy
    versions : mapping of str to int
        Of each type, from 1; a type that is absent was never received.
    """

    proxy: str
    labels: Mapping[str, str] = field(default_factory=dict)
    clusters: Mapping[str, ClusterPolicy] = field(default_factory=dict)
    endpoints: Mapping[str, tuple[EndpointAddress, ...]] = field(default_factory=dict)
    routes: Mapping[str, tuple[Route, ...]] = field(default_factory=dict)
    listener: ListenerPolicy = field(default_factory=ListenerPolicy)
    versions: Mapping[str, int] = field(default_factory=dict)

    def body(self, kind: str) -> Any:
        """Return the body of type `kind` as JSON-able data."""
        value = _Routes(labels=dict(self.labels), tables=dict(self.routes))
        content = value if kind == "routes" else getattr(self, kind)
        return _ADAPTERS[kind].dump_python(content, mode="json", exclude_none=True)

    def to_json(self, kind: str) -> Resource:
        """Return the resource of type `kind`."""
        version = self.versions.get(kind, 0)
        return {"proxy": self.proxy, "type": kind, "version": version, "body": self.body(kind)}

    @staticmethod
    def from_json(resources: Iterable[Resource]) -> ProxyConfiguration:
        """Return the configuration that `resources` of one proxy make up.

        Raises
        ------
        ConfigError
            If there is none, they name different proxies, or one is malformed.
        """
        resources = list(resources)
        names = sorted({str(resource.get("proxy")) for resource in resources})
        if len(names) != 1:
            raise ConfigError(f"resources of one proxy are wanted, found those of {names}")
        configuration = ProxyConfiguration(names[0])
        for resource in resources:
            configuration = with_resource(configuration, resource)
        return configuration


def with_resource(configuration: ProxyConfiguration, resource: Resource) -> ProxyConfiguration:
    """Return `configuration` with one resource replaced by a new version.

    Raises
    ------
    ConfigError
        With every problem, if the resource is not a mapping of proxy, type, version and body,
        is another proxy's, or its body cannot be carried out.
    """
    kind, version, body = _opened(configuration.proxy, resource)
    try:
        content = _ADAPTERS[kind].validate_python(body)
    except ValidationError as error:
        raise ConfigError(
            Problem(detail["msg"], path=field_path((kind, *detail["loc"])), found=_found(detail))
            for detail in error.errors(include_url=False)
        ) from None
    problems = [] if kind == "listener" else find_open(kind, _elements(kind, content))
    if problems:
        raise ConfigError(problems)
    versions = {**configuration.versions, kind: version}
    if kind == "routes":
        return replace(
            configuration, labels=content.labels, routes=content.tables, versions=versions
        )
    return replace(configuration, **{kind: content}, versions=versions)


def _elements(kind: str, content: Any) -> Any:
    return content.tables if kind == "routes" else content


def _found(detail: Any) -> str:
    return repr(detail["input"])[:60]


def _opened(proxy: str, resource: Any) -> tuple[str, int, Any]:
    """Return type, version and body of a resource of `proxy`."""
    if not isinstance(resource, dict) or resource.keys() != {"proxy", "type", "version", "body"}:
        raise ConfigError("a resource is a mapping of proxy, type, version and body")
    kind, version = resource["type"], resource["version"]
    problems = []
    if resource["proxy"] != proxy:
        problems.append(
            Problem("another proxy's", path="proxy", found=repr(resource["proxy"])[:60])
        )
    if not isinstance(kind, str) or kind not in TYPES:
        problems.append(
            Problem("unknown type", path="type", found=repr(kind)[:60], allowed=", ".join(TYPES))
        )
    if not isinstance(version, int) or isinstance(version, bool) or not 1 <= version < 2**53:
        problems.append(
            Problem("not a version", path="version", found=repr(version)[:60], allowed="1, 2, ...")
        )
    if problems:
        raise ConfigError(problems)
    return kind, version, resource["body"]


def missing_clusters(configuration: ProxyConfiguration) -> set[str]:
    """Return clusters that are named and that have no policies or no list of endpoints.

    While there are any, the parts do not fit together: some are older than others.
    """
    clusters, endpoints = configuration.clusters.keys(), configuration.endpoints.keys()
    wanted = {
        name
        for service, table in configuration.routes.items()
        for route in table
        for names in (destinations(service, route), mirror_names(service, route))
        for name in names
    }
    return (wanted | clusters | endpoints) - (clusters & endpoints)


# --- From a topology ------------------------------------------------------------------------


def configurations_of(
    topology: Topology,
    layout: Layout,
    addresses: Mapping[str, tuple[str, int]],
    *,
    sidecars: bool = True,
    mode: Mode = "STRICT",
    modes: Mapping[str, Mode] | None = None,
    trust_domain: str | None = None,
) -> dict[str, ProxyConfiguration]:
    """Return the configuration of every proxy by name: endpoints first, then gateways.

    Parameters
    ----------
    topology : Topology
        Resolved (`meshsim.meshes.resolve`).
    layout : Layout
        Of `topology` (`meshsim.topology.compiled.layout.lay_out`).
    addresses : mapping of str to (str, int)
        Host and port of each endpoint by its name; an endpoint without one is left out of its
        clusters (it has not started, or has gone).
    sidecars : bool
        Whether the mesh's clients are proxies (`MeshProfile.sidecars`).
    mode : "STRICT", "PERMISSIVE" or "DISABLE"
        Of every listener; where the topology has access rules, they state it, but for DISABLE.
    modes : mapping of str to mode, optional
        By service, before `mode`.
    trust_domain : str, optional
        In place of the topology's.

    Returns
    -------
    dict of str to ProxyConfiguration
        Without versions: `meshsim.controlplane.snapshots` numbers them.

    Raises
    ------
    ConfigError
        If the topology asks for what only the simulator can do.
    """
    problems = simulated_only(topology)
    if problems:
        raise ConfigError(problems)
    access = AccessWriter(topology, layout, sidecars, trust_domain)
    writer = _Writer(topology, layout, addresses, access)
    domains = (access.map.trust_domain,)
    configurations: dict[str, ProxyConfiguration] = {}
    for place in layout.workloads:
        stated = access.mode(place.service, place.workload, (modes or {}).get(place.service, mode))
        rules = access.of_workload(place.service, place.workload)
        policy = topology.policies[place.service]
        limits = {name: getattr(policy, name) for name in ("rate_limit", "adaptive_concurrency")}
        listener = ListenerPolicy(_MODE[stated], domains, access=rules, **limits)
        clients = clients_of(topology, layout, place)
        shared: dict[int, ProxyConfiguration] = {}  # by zone
        for row in range(place.first_endpoint, place.first_endpoint + place.replicas):
            zone = int(layout.endpoint_zone[row])
            if zone not in shared:
                shared[zone] = writer.of_workload(place, listener, clients[zone])
            name = layout.endpoint_names[row]
            configurations[name] = replace(shared[zone], proxy=name)
    for name, traffic in topology.traffic.items():
        listener = ListenerPolicy(mode, domains, access=access.of_gateway(name))
        gateway = gateway_name(name)
        client = gateway_client(layout, traffic)
        configurations[gateway] = writer.configuration(gateway, {}, {traffic.to}, listener, client)
    return configurations


class _Writer:
    """Writes configurations; what proxies share is built once."""

    def __init__(
        self,
        topology: Topology,
        layout: Layout,
        addresses: Mapping[str, tuple[str, int]],
        access: AccessWriter,
    ) -> None:
        self.topology = topology
        self.layout = layout
        self.addresses = addresses
        self.access = access
        self._endpoints: dict[ClusterName, tuple[EndpointAddress, ...]] = {}
        self._rows = {name: row for row, name in enumerate(layout.endpoint_names)}

    def of_workload(
        self, place: Place, listener: ListenerPolicy, client: Client
    ) -> ProxyConfiguration:
        """Return what every replica of a workload in the zone of `client` receives."""
        workload = self.topology.services[place.service].workloads[place.workload]
        labels = workload_labels(self.topology, place.service, place.workload)
        called = {call.service for _, call, _ in call_steps(workload)}
        if self.access.map.sidecars and not workload.meshed:
            return self.bare(labels, called, listener)
        return self.configuration("", labels, called, listener, client)

    def bare(
        self, labels: dict[str, str], called: set[str], listener: ListenerPolicy
    ) -> ProxyConfiguration:
        """Return the configuration of a client without a proxy of its own.

        Where there are access rules it speaks plaintext, because they tell the two apart.
        """
        names = sorted(called)
        plain = self.access.map.used
        return ProxyConfiguration(
            "",
            labels,
            {name: policy_of(self.topology, (name, BARE)) for name in names},
            {
                name: tuple(
                    replace(item, weight=1, principal="" if plain else item.principal)
                    for item in self.endpoints((name, None))
                )
                for name in names
            },
            {name: (Route(split=(WeightedCluster(service=name),)),) for name in names},
            replace(listener, mode="DISABLE"),
        )

    def configuration(
        self,
        proxy: str,
        labels: dict[str, str],
        called: set[str],
        listener: ListenerPolicy,
        client: Client,
    ) -> ProxyConfiguration:
        """Return the configuration of a proxy whose workload calls the services `called`."""
        routes = {name: self.topology.policies[name].routes for name in sorted(called)}
        clusters: dict[ClusterName, None] = {}
        for service, table in routes.items():
            for route in table:
                for item in route.split if route.answer is None else ():
                    clusters.setdefault((item.service or service, item.subset))
                for mirror in route.mirrors:
                    clusters.setdefault((mirror.service or service, mirror.subset))
        return ProxyConfiguration(
            proxy,
            labels,
            {cluster_name(*name): self.policy(name) for name in clusters},
            {cluster_name(*name): self.located(name, client) for name in clusters},
            routes,
            listener,
        )

    def policy(self, name: ClusterName) -> ClusterPolicy:
        """Return the policies of a cluster, without a service's routes and subsets."""
        stated = policy_of(self.topology, name)
        blocks = {block: getattr(stated, block) for block in ClusterPolicy.model_fields}
        if not is_grouped(self.layout, stated.locality):
            blocks["locality"] = None
        return ClusterPolicy.model_construct(**blocks)

    def endpoints(self, name: ClusterName) -> tuple[EndpointAddress, ...]:
        """Return the addresses of a cluster's endpoints, in the order of the scenario."""
        if name not in self._endpoints:
            weights = (self.policy(name).load_balancing or LoadBalancing()).weights or {}
            rows = cluster_endpoints(self.topology, self.layout, name)
            found = (self.address(int(row), weights) for row in rows)
            self._endpoints[name] = tuple(address for address in found if address is not None)
        return self._endpoints[name]

    def located(self, name: ClusterName, client: Client) -> tuple[EndpointAddress, ...]:
        """Return the addresses of a cluster's endpoints as `client` sees them."""
        addresses = self.endpoints(name)
        if self.policy(name).subset_config is not None:
            return tuple(replace(item, labels=self.labels(item)) for item in addresses)
        settings = self.policy(name).locality
        if settings is None:
            return addresses
        rows = [self._rows[address.name] for address in addresses]
        weights = [address.weight for address in addresses]
        groups = group_endpoints(self.topology, self.layout, settings, rows, weights, client)
        return placed(dict(zip(rows, addresses, strict=True)), groups)

    def labels(self, address: EndpointAddress) -> dict[str, str]:
        """Return the labels of an endpoint's workload."""
        row = self._rows[address.name]
        at = self.layout.workloads[self.layout.endpoint_workload[row]]
        return workload_labels(self.topology, at.service, at.workload)

    def address(self, row: int, weights: Mapping[str, int]) -> EndpointAddress | None:
        """Return the address of endpoint `row`, or None if it has none."""
        name = self.layout.endpoint_names[row]
        if name not in self.addresses:
            return None
        host, port = self.addresses[name]
        place = self.layout.workloads[self.layout.endpoint_workload[row]]
        return EndpointAddress(
            name,
            place.workload,
            host,
            port,
            weights.get(place.workload, 1),
            self.access.presents(place.service, place.workload),
            self.layout.zones[self.layout.endpoint_zone[row]],
        )
