"""What a scenario says of priorities and localities, in Envoy's and in Istio's vocabulary.

Rule: a zone is a locality; it is written ``region/zone``, and ``region/*`` or ``*`` means all
below.  A cluster without this block is not grouped: its balancer picks among all its hosts.

Envoy's words (`endpoints`, `locality_weighted`, `zone_aware`) say what every client holds;
Istio's (`distribute`, `failover`, `failover_priority`) are worked out for each client by where
it is (`meshsim.topology.placement`).

References
----------
Envoy, api/envoy/config/endpoint/v3/endpoint.proto (ClusterLoadAssignment),
endpoint_components.proto (LocalityLbEndpoints), config/cluster/v3/cluster.proto (CommonLbConfig);
istio/api networking/v1alpha3/destination_rule.proto (LocalityLoadBalancerSetting).
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from meshsim.topology.base import Boolean, Integer, Model

__all__ = ["LocalityEndpoints", "LocalityLoadBalancing", "ZoneAware"]

_Percent = Annotated[Integer, Field(ge=0, le=100)]


class LocalityEndpoints(Model):
    """Priority and weight of the endpoints of a locality, or of a workload; the first that fits.

    A locality without `load_balancing_weight` weighs as much as its endpoints together.
    """

    locality: str = "*"
    workload: str | None = None
    priority: Integer = Field(default=0, ge=0, le=128)
    load_balancing_weight: Integer | None = Field(default=None, ge=1, le=2**31 - 1)


class ZoneAware(Model):
    """Envoy's zone-aware routing: prefer the client's own zone as far as its share allows."""

    routing_enabled: _Percent | None = None
    min_cluster_size: Integer | None = Field(default=None, ge=0, le=2**31 - 1)
    fail_traffic_on_panic: Boolean | None = None
    force_local_zone_min_size: Integer | None = Field(
        default=None, ge=0, le=2**31 - 1, description="0: not forced"
    )


class LocalityLoadBalancing(Model):
    """Priorities and localities of a cluster's endpoints.

    `distribute` maps the locality of clients to shares of localities [percent], the first that
    fits; `failover` a region to the region that its clients turn to after their own;
    `failover_priority` is a list of labels (``name`` or ``name=value``): endpoints that share
    more of them, from the first on, with the client come first.
    """

    overprovisioning_factor: Integer | None = Field(default=None, ge=100, le=100_000)
    endpoints: tuple[LocalityEndpoints, ...] = ()
    locality_weighted: Boolean | None = None
    zone_aware: ZoneAware | None = None
    distribute: dict[str, dict[str, _Percent]] | None = None
    failover: dict[str, str] | None = None
    failover_priority: tuple[str, ...] | None = None
