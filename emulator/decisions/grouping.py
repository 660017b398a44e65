"""Parts of the clusters of one live proxy: priorities and localities, and subsets.

Rule: the control plane has worked out where each endpoint stands for this proxy; addresses of one
priority and zone are a group.  What routes ask of the hosts of a cluster that picks by subset is
remembered as long as the proxy lives, so that a request that was routed before a push finds its
hosts after it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import NamedTuple

from meshsim.controlplane.configuration import EndpointAddress, EndpointLocality
from meshsim.topology.compiled.localities import hash_weights
from meshsim.topology.compiled.placement import Group
from meshsim.topology.model import ClusterPolicy, WeightedCluster

__all__ = [
    "NOTHING_ASKED",
    "Asked",
    "Lane",
    "as_labels",
    "asked_of",
    "grouped",
    "lane_weights",
]

_Labels = tuple[tuple[str, str], ...]
#: What a destination asks for: labels, and its fallback list.
Asked = tuple[_Labels, tuple[_Labels, ...]]
NOTHING_ASKED: Asked = ((), ())

_HASHING = ("RING_HASH", "MAGLEV")


class Lane(NamedTuple):
    """Name of a lane: a priority of a cluster, a zone (by number) of it, or some endpoints."""

    cluster: str
    priority: int = 0
    zone: int | None = None
    endpoints: tuple[str, ...] = ()


def asked_of(destination: WeightedCluster) -> Asked:
    """Return what a destination asks of the hosts of a cluster that picks by subset."""
    fallbacks = (tuple(sorted(labels.items())) for labels in destination.fallback_list)
    return tuple(sorted(destination.metadata_match.items())), tuple(fallbacks)


def as_labels(asked: Asked) -> tuple[dict[str, str], list[dict[str, str]]]:
    """Return what is asked for as labels, and as a list of labels."""
    return dict(asked[0]), [dict(labels) for labels in asked[1]]


def grouped(
    endpoints: Iterable[EndpointAddress],
) -> tuple[tuple[EndpointAddress, ...], list[Group]]:
    """Return addresses sorted by priority and zone, the proxy's own first, and their groups.

    A group's `endpoints` are positions in the sorted addresses.
    """
    zones: dict[str, int] = {}
    for item in endpoints:
        zones.setdefault(item.zone, len(zones))

    def stands(item: EndpointAddress) -> tuple[int, bool, int]:
        locality = item.locality or EndpointLocality()
        return locality.priority, not locality.local, zones[item.zone]

    ordered = tuple(sorted(endpoints, key=stands))
    groups = []
    first = 0
    for (priority, _, zone), level in groupby(ordered, key=stands):
        own = list(level)
        locality = own[0].locality or EndpointLocality()
        positions = tuple(range(first, first + len(own)))
        groups.append(
            Group(
                priority, zone, locality.weight, False, locality.local, locality.clients, positions
            )
        )
        first += len(own)
    return ordered, groups


def lane_weights(
    policy: ClusterPolicy, groups: Sequence[Group], endpoints: Sequence[EndpointAddress]
) -> list[int]:
    """Return the weights of a lane's hosts as its balancer takes them."""
    weights = [item.weight for item in endpoints]
    hashing = policy.load_balancing is not None and policy.load_balancing.policy in _HASHING
    if not hashing or policy.locality is None:
        return weights
    return hash_weights(groups, weights, policy.locality)
