"""Where a cluster's endpoints stand for one client: priority, locality and its weight.

Rule: a client proxy is told groups of endpoints.  Declared priorities and weights come first.
Then, as Istio's control plane does for the locality of each proxy, one of these holds:

- `distribute`: of the first entry that fits the client, each destination's percentage is the
  weight of its localities, divided by their own weights and rounded up; localities that no
  destination names are left out;
- `failover_priority`: an endpoint that shares all labels with the client gets priority 0, one
  that differs in label j of n gets n - j; then `failover`, if stated;
- `failover`: priority 0 for the client's zone, 2 for its region, 3 beyond, or 4 beyond and not
  in the region that `failover` names for the client's (1 is for subzones, which are not
  modelled).

Both count within the declared priorities.  Priorities are then numbered without gaps.

Istio goes through the destinations of `distribute` in random order; here it is the declared
one.  A destination that a wildcard before it has taken gets nothing.

Groups are sorted by priority, then the client's own zone, then in the order of the scenario.

References
----------
istio/istio pilot/pkg/networking/core/loadbalancer/loadbalancer.go (applyLocalityWeights,
applyLocalityFailover, applyFailoverPriorities), pilot/pkg/networking/util/util.go
(LocalityMatch, LbPriority).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from meshsim.topology.compiled.layout import Layout, Place
from meshsim.topology.locality import LocalityLoadBalancing
from meshsim.topology.model import Topology, TrafficClass

__all__ = [
    "Client",
    "Group",
    "clients_of",
    "fits_locality",
    "gateway_client",
    "group_endpoints",
    "is_grouped",
    "workload_labels",
]

#: What a share is counted in.
_WHOLE = 10_000
_REGION_LABEL = "topology.kubernetes.io/region"
_ZONE_LABEL = "topology.kubernetes.io/zone"
#: Istio multiplies the priorities there are by this before it adds those of `failover`.
_FAILOVER_PRIORITIES = 5


class Client(NamedTuple):
    """Who asks: its zone, its labels, and in how many of its kind in each zone.

    Parameters
    ----------
    zone : int
        Index into `Layout.zones`.
    labels : mapping of str to str
    peers : mapping of int to int
        Proxies of the client's own service by zone; empty if it is a gateway.
    """

    zone: int
    labels: Mapping[str, str]
    peers: Mapping[int, int]


class Group(NamedTuple):
    """Endpoints of one priority and locality.

    Parameters
    ----------
    priority : int
        From 0, without gaps.
    zone : int
    weight : int
        Of the locality within its priority.
    counted : bool
        Whether `weight` is the sum of the endpoints' weights.
    local : bool
        Whether the client is in this zone.
    clients : int
        Share of the client's service that is in this zone, of 10,000; -1 if that says nothing.
    endpoints : tuple of int
    """

    priority: int
    zone: int
    weight: int
    counted: bool
    local: bool
    clients: int
    endpoints: tuple[int, ...]


class _Bucket(NamedTuple):
    """A group under construction."""

    priority: int
    zone: int
    weight: int | None  # None: the sum of the endpoints' weights
    endpoints: tuple[int, ...]


def clients_of(topology: Topology, layout: Layout, at: Place) -> dict[int, Client]:
    """Return the client that a replica of a workload is, by its zone."""
    rows = [
        np.arange(other.first_endpoint, other.first_endpoint + other.replicas)
        for other in (layout.workloads[index] for index in layout.services[at.service])
    ]
    peers = Counter(layout.endpoint_zone[np.concatenate(rows)].tolist())
    labels = workload_labels(topology, at.service, at.workload)
    return {zone: Client(zone, labels, peers) for zone in peers}


def gateway_client(layout: Layout, traffic: TrafficClass) -> Client:
    """Return the client that the gateway of a traffic class is: alone of its kind."""
    zone = 0 if traffic.zone is None else layout.zones.index(traffic.zone)
    return Client(zone, {}, {})


def workload_labels(topology: Topology, service: str, workload: str) -> dict[str, str]:
    """Return a workload's labels; ``version`` is its name unless it says otherwise."""
    return {"version": workload, **topology.services[service].workloads[workload].labels}


def is_grouped(layout: Layout, settings: LocalityLoadBalancing | None) -> bool:
    """Return whether these settings can make more than one group: one zone alone is none."""
    if settings is None:
        return False
    anywhere = settings.endpoints or settings.failover_priority or settings.zone_aware
    return len(layout.zones) > 1 or bool(anywhere)


def fits_locality(layout: Layout, zone: int, text: str) -> bool:
    """Return whether a zone is the locality ``region/zone``, or below ``region/*`` or ``*``.

    A third part, a subzone, fits if it is empty or ``*``: zones have none.
    """
    region, wanted, subzone = (*text.split("/"), "", "")[:3]
    return (
        region in ("*", layout.regions[zone])
        and wanted in ("*", "", layout.zones[zone])
        and subzone in ("*", "")
    )


def group_endpoints(
    topology: Topology,
    layout: Layout,
    settings: LocalityLoadBalancing,
    endpoints: Sequence[int],
    weights: Sequence[int],
    client: Client,
) -> list[Group]:
    """Return the groups of a cluster's endpoints for one client.

    Parameters
    ----------
    topology : Topology
    layout : Layout
    settings : LocalityLoadBalancing
    endpoints : sequence of int
        Of the cluster, in the order of the scenario.
    weights : sequence of int
        Their load-balancing weights.
    client : Client

    Returns
    -------
    list of Group
        Sorted.  Endpoints of a locality that `distribute` leaves out are in none.
    """
    weight_of = dict(zip(endpoints, weights, strict=True))
    buckets = _declared(layout, settings, endpoints)
    if settings.distribute:
        buckets = _distributed(layout, settings.distribute, buckets, weight_of, client)
    else:
        if settings.failover_priority:
            buckets = _by_labels(topology, layout, settings.failover_priority, buckets, client)
        if settings.failover is not None:
            buckets = _by_distance(layout, settings.failover, buckets, client)
    numbers = {old: new for new, old in enumerate(sorted({item.priority for item in buckets}))}
    shares = _shares(settings, client)
    groups = [
        Group(
            numbers[item.priority],
            item.zone,
            sum(weight_of[row] for row in item.endpoints) if item.weight is None else item.weight,
            item.weight is None,
            item.zone == client.zone,
            shares.get(item.zone, 0) if shares else -1,
            item.endpoints,
        )
        for item in buckets
    ]
    return sorted(groups, key=lambda group: (group.priority, not group.local))


def _declared(
    layout: Layout, settings: LocalityLoadBalancing, endpoints: Sequence[int]
) -> list[_Bucket]:
    """Group endpoints by declared priority and zone."""
    found: dict[tuple[int, int], tuple[int | None, list[int]]] = {}
    for row in endpoints:
        zone = int(layout.endpoint_zone[row])
        workload = layout.workloads[layout.endpoint_workload[row]].workload
        priority, weight = 0, None
        for entry in settings.endpoints:
            if entry.workload in (None, workload) and fits_locality(layout, zone, entry.locality):
                priority, weight = entry.priority, entry.load_balancing_weight
                break
        known = found.setdefault((priority, zone), (weight, []))
        known[1].append(int(row))
    return [
        _Bucket(priority, zone, weight, tuple(rows))
        for (priority, zone), (weight, rows) in found.items()
    ]


def _distributed(
    layout: Layout,
    distribute: Mapping[str, Mapping[str, int]],
    buckets: list[_Bucket],
    weight_of: Mapping[int, int],
    client: Client,
) -> list[_Bucket]:
    fitting = (
        to for source, to in distribute.items() if fits_locality(layout, client.zone, source)
    )
    shares = next(fitting, None)
    if shares is None:
        return buckets
    left = list(buckets)
    chosen: dict[_Bucket, int] = {}
    for destination, percent in shares.items():
        taken = [item for item in left if fits_locality(layout, item.zone, destination)]
        left = [item for item in left if item not in taken]
        own = {
            item: sum(weight_of[row] for row in item.endpoints)
            if item.weight is None
            else item.weight
            for item in taken
        }
        total = sum(own.values())
        chosen |= {
            item: math.ceil(weight * percent / total) for item, weight in own.items() if percent
        }
    return [item._replace(weight=chosen[item]) for item in buckets if item in chosen]


def _by_labels(
    topology: Topology,
    layout: Layout,
    labels: Sequence[str],
    buckets: list[_Bucket],
    client: Client,
) -> list[_Bucket]:
    """Split groups by how many of `labels` their endpoints share with the client."""
    names = [label.partition("=") for label in labels]
    own = {**_zone_labels(layout, client.zone), **client.labels}
    wanted = [(name, value if stated else own.get(name, "")) for name, stated, value in names]
    split: dict[tuple[int, int, int | None], list[int]] = {}
    for bucket in buckets:
        for row in bucket.endpoints:
            at = layout.workloads[layout.endpoint_workload[row]]
            has = {
                **_zone_labels(layout, bucket.zone),
                **workload_labels(topology, at.service, at.workload),
            }
            differing = (j for j, (name, value) in enumerate(wanted) if has.get(name, "") != value)
            first = next(differing, len(wanted))
            priority = bucket.priority * (len(wanted) + 1) + len(wanted) - first
            split.setdefault((priority, bucket.zone, bucket.weight), []).append(row)
    return [_Bucket(*key, tuple(rows)) for key, rows in split.items()]


def _zone_labels(layout: Layout, zone: int) -> dict[str, str]:
    return {_REGION_LABEL: layout.regions[zone], _ZONE_LABEL: layout.zones[zone]}


def _by_distance(
    layout: Layout, failover: Mapping[str, str], buckets: list[_Bucket], client: Client
) -> list[_Bucket]:
    region = layout.regions[client.zone]

    def distance(zone: int) -> int:
        if zone == client.zone:
            return 0
        if layout.regions[zone] == region:
            return 2
        return 3 if failover.get(region, layout.regions[zone]) == layout.regions[zone] else 4

    return [
        item._replace(priority=item.priority * _FAILOVER_PRIORITIES + distance(item.zone))
        for item in buckets
    ]


def _shares(settings: LocalityLoadBalancing, client: Client) -> dict[int, int]:
    """Return the share of the client's service by zone; empty where routing by zone is off.

    Envoy needs two zones of the client's own service, unless the own zone is forced, and the
    client among them.
    """
    zone_aware = settings.zone_aware
    if zone_aware is None or not client.peers.get(client.zone):
        return {}
    if len(client.peers) < 2 and not zone_aware.force_local_zone_min_size:
        return {}
    total = sum(client.peers.values())
    return {zone: _WHOLE * count // total for zone, count in client.peers.items()}
