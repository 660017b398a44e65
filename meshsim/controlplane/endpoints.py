"""Endpoints as a proxy is told of them: where they listen, who they are, where they stand.

Rule: an address names its endpoint; priority and locality are those that the control plane worked
out for the proxy it tells, as Istio's does.

References
----------
Envoy, api/envoy/config/endpoint/v3/endpoint_components.proto (LbEndpoint, LocalityLbEndpoints).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field

from meshsim.topology.base import Boolean, Integer
from meshsim.topology.compiled.placement import Group

__all__ = ["EndpointAddress", "EndpointLocality", "Name", "placed"]


def _read_text(value: Any) -> Any:
    if isinstance(value, str) and (not value or len(value) > 253):
        raise ValueError("a name has 1 to 253 characters")
    return value


#: A name on the wire.
Name = Annotated[str, BeforeValidator(_read_text)]


@dataclass(frozen=True)
class EndpointLocality:
    """Where one endpoint of a grouped cluster stands for the proxy that is told of it.

    Parameters
    ----------
    priority : int
        0 first.
    weight : int
        Of its zone within the priority.
    local : bool
        Whether the proxy is in this zone.
    clients : int
        Share of the proxy's own service that is in this zone, of 10,000; -1 if that says nothing.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    priority: Annotated[Integer, Field(ge=0, le=2**16)] = 0
    weight: Annotated[Integer, Field(ge=1, le=2**31 - 1)] = 1
    local: Boolean = False
    clients: Annotated[Integer, Field(ge=-1, le=10_000)] = -1


@dataclass(frozen=True)
class EndpointAddress:
    """Where one endpoint of a cluster listens, and who it must prove to be.

    Parameters
    ----------
    name, workload : str
        The endpoint ("reviews-v1-0") and its workload ("v1").
    host : str
    port : int
        Of the endpoint's inbound proxy, or of the workload where it has none; 1 to 65535.
    weight : int
        Load-balancing weight, 1 to 128.
    principal : str
        SPIFFE id its certificate must carry; empty if it has no proxy.
    zone : str
    locality : EndpointLocality, optional
        In a cluster whose policies have a `locality`.
    labels : mapping of str to str, optional
        Of its workload, in a cluster whose policies have a `subset_config`.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    name: Name
    workload: Name
    host: Name
    port: Annotated[Integer, Field(ge=1, le=65535)]
    weight: Annotated[Integer, Field(ge=1, le=128)] = 1
    principal: str = ""
    zone: str = "default"
    locality: EndpointLocality | None = None
    labels: dict[str, str] | None = None


def placed(
    addresses: Mapping[int, EndpointAddress], groups: Iterable[Group]
) -> tuple[EndpointAddress, ...]:
    """Return the addresses of endpoints in the order of their groups, with where they stand."""
    return tuple(
        replace(
            addresses[row],
            locality=EndpointLocality(group.priority, group.weight, group.local, group.clients),
        )
        for group in groups
        for row in group.endpoints
    )
