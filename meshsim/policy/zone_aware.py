"""Which zone the next request to the first priority of a cluster goes to (zone-aware routing).

Rule: with at least `min_cluster_size` healthy hosts, and two zones on both sides, s(z) being the
share of the client's own service in zone z and u(z) that of the healthy hosts, the own zone takes
all if u >= s, else the share u / s; the rest goes to the other zones in proportion to u(z) - s(z),
where that is positive.

The share s counts all proxies of the client's service as healthy, because a proxy has no belief
about its own kind here.  Where Envoy draws a zone by residual capacity, a draw that hits a bound
counts to the zone before it, 1 of 10,000; here it does not.

References
----------
Envoy, source/extensions/load_balancing_policies/common/load_balancer_impl.cc
(regenerateLocalityRoutingStructures, tryChooseLocalLocalityHosts);
docs/root/intro/arch_overview/upstream/load_balancing/zone_aware.rst.
"""

from __future__ import annotations

from typing import Any

from meshsim.jit import kernel_jit
from meshsim.rng import next_index
from meshsim.state.locality import ROUTING_DIRECT, ROUTING_NONE, ROUTING_RESIDUAL

__all__ = ["weigh_zones", "zone_of_pick"]

#: What a share is counted in.
_WHOLE = 10_000


@kernel_jit
def _can_route(
    priorities: Any, priority: int, localities: Any, locality_configs: Any, config: int
) -> bool:
    """Return whether the picks of `priority` can go by zone."""
    if locality_configs["routing_enabled"][config] == 0:
        return False
    if priorities["locality_count"][priority] < 2:
        return False
    if localities["clients"][priorities["locality_start"][priority]] < 0:
        return False
    return int(priorities["healthy"][priority]) >= locality_configs["min_cluster_size"][config]


@kernel_jit
def weigh_zones(
    groupings: Any,
    grouping: int,
    priorities: Any,
    localities: Any,
    locality_configs: Any,
    config: int,
) -> None:
    """Decide how the picks of the first priority go by zone.

    Parameters
    ----------
    groupings : ndarray[GROUPING_DTYPE], shape (n_groupings,)
        Row `grouping` is modified in place: routing, local_share.
    grouping : int
    priorities : ndarray[PRIORITY_DTYPE], shape (n_priorities,)
        Read only.
    localities : ndarray[LOCALITY_DTYPE], shape (n_localities,)
        Those of the first priority, the client's own zone first: clients and healthy are read,
        `residual` is modified in place.
    locality_configs : ndarray[LOCALITY_CONFIG_DTYPE], shape (n_configs,)
        Read only.
    config : int
        Row of `locality_configs`.
    """
    priority = groupings["priority_start"][grouping]
    groupings["routing"][grouping] = ROUTING_NONE
    groupings["local_share"][grouping] = 0
    if not _can_route(priorities, priority, localities, locality_configs, config):
        return
    first = priorities["locality_start"][priority]
    total = priorities["healthy"][priority]
    if localities["local"][first] != 0:
        healthy = localities["healthy"][first]
        share = _WHOLE * healthy // total if total > 0 else 0
        clients = localities["clients"][first]
        forced = locality_configs["force_local_zone"][config]
        if (share > 0 and share >= clients) or (forced > 0 and healthy >= forced):
            groupings["routing"][grouping] = ROUTING_DIRECT
            return
        if clients > 0:
            groupings["local_share"][grouping] = share * _WHOLE // clients
    groupings["routing"][grouping] = ROUTING_RESIDUAL
    residual = 0
    for row in range(first, first + priorities["locality_count"][priority]):
        if localities["local"][row] == 0 and total > 0:
            share = _WHOLE * localities["healthy"][row] // total
            # Of a zone without healthy hosts the clients do not matter.
            residual += max(share - localities["clients"][row], 0)
        localities["residual"][row] = residual


@kernel_jit
def zone_of_pick(
    groupings: Any, grouping: int, priorities: Any, priority: int, localities: Any, rng: Any
) -> int:
    """Return the locality of the next pick by zone."""
    first = priorities["locality_start"][priority]
    count = priorities["locality_count"][priority]
    if groupings["routing"][grouping] == ROUTING_DIRECT:
        return int(first)
    if next_index(rng, _WHOLE) < groupings["local_share"][grouping]:
        return int(first)
    capacity = localities["residual"][first + count - 1]
    if capacity == 0:  # what rounding has left
        return int(first) + next_index(rng, count)
    threshold = next_index(rng, capacity)
    row = int(first)
    while threshold >= localities["residual"][row]:
        row += 1
    return row
