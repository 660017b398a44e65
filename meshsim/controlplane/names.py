"""Names on the wire: clusters, gateways, identities.

Rule: a cluster is named by its service and subset, as Istio's are; a proxy by its endpoint, or
by the traffic class whose gateway it is; an identity by the service account of its workload.

References
----------
SPIFFE, SPIFFE-ID specification; istio/istio pkg/spiffe (spiffe://<domain>/ns/<ns>/sa/<account>).
"""

from __future__ import annotations

from collections.abc import Iterable

from meshsim.topology.compiled.access import AccessMap
from meshsim.topology.compiled.layout import Layout
from meshsim.topology.model import Route, Topology

__all__ = [
    "cluster_name",
    "destinations",
    "gateway_name",
    "mirror_names",
    "principal_of",
    "principals_of",
]


def cluster_name(service: str, subset: str | None) -> str:
    """Return a cluster's name on the wire.

    Examples
    --------
    >>> cluster_name("reviews", None), cluster_name("reviews", "v2")
    ('reviews', 'reviews|v2')
    """
    return f"{service}|{subset}" if subset else service


def destinations(service: str, route: Route) -> Iterable[str]:
    """Yield the clusters that `route` of `service` can forward to, those of weight 0 too."""
    if route.answer is None:
        for item in route.split:
            yield cluster_name(item.service or service, item.subset)


def mirror_names(service: str, route: Route) -> Iterable[str]:
    """Yield the clusters that get copies of the requests of `route` of `service`."""
    for item in route.mirrors:
        yield cluster_name(item.service or service, item.subset)


def gateway_name(traffic: str) -> str:
    """Return the name of the gateway proxy of a traffic class."""
    return f"gateway-{traffic}"


def principal_of(account: str, trust_domain: str = "cluster.local") -> str:
    """Return the SPIFFE id of a service account in the namespace "default".

    Examples
    --------
    >>> principal_of("reviews-v1")
    'spiffe://cluster.local/ns/default/sa/reviews-v1'
    """
    return f"spiffe://{trust_domain}/ns/default/sa/{account}"


def principals_of(
    topology: Topology, layout: Layout, trust_domain: str | None = None
) -> dict[str, str]:
    """Return the SPIFFE id of every proxy by name: endpoints first, then gateways.

    `trust_domain` stands in place of the topology's.
    """
    access = AccessMap(topology, True, trust_domain)
    principals = {
        layout.endpoint_names[row]: access.principal(place.service, place.workload)
        for place in layout.workloads
        for row in range(place.first_endpoint, place.first_endpoint + place.replicas)
    }
    gateways = {gateway_name(name): access.gateway_principal(name) for name in topology.traffic}
    return principals | gateways
