"""Priorities and localities as rows: of one client's cluster, from its groups of endpoints.

Rule: members are sorted by group, so each lane is a range of them.  A priority of one locality
has one lane for both.  A lane has a config row of its own, because the weights of its hosts may
be equal where those of the cluster are not, and because a hash table is built over a priority;
there, the weights of localities become part of those of the hosts.

References
----------
Envoy, source/extensions/load_balancing_policies/common/thread_aware_lb_impl.cc
(normalizeLocalityWeights).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import groupby

import numpy as np

from meshsim.state.codes import NO_INDEX
from meshsim.state.locality import (
    GROUPING_DTYPE,
    LOCALITY_CONFIG_DTYPE,
    LOCALITY_DTYPE,
    PRIORITY_DTYPE,
)
from meshsim.topology.compiled.layout import Rows
from meshsim.topology.compiled.placement import Group
from meshsim.topology.locality import LocalityLoadBalancing, ZoneAware

__all__ = ["GroupingRows", "hash_weights", "locality_configs"]

#: Version of a grouping whose loads are still to be computed.
_NEVER = -1


def _fill_config(fields: Rows, settings: LocalityLoadBalancing) -> None:
    """Fill a LOCALITY_CONFIG row.

    Parameters
    ----------
    fields : ndarray[LOCALITY_CONFIG_DTYPE], shape (1,)
    settings : LocalityLoadBalancing
        Filled (`meshsim.meshes`).
    """
    zone_aware = settings.zone_aware or ZoneAware(routing_enabled=0)
    fields["overprovisioning_factor"] = settings.overprovisioning_factor
    fields["locality_weighted"] = int(bool(settings.locality_weighted or settings.distribute))
    fields["routing_enabled"] = zone_aware.routing_enabled
    fields["min_cluster_size"] = zone_aware.min_cluster_size or 0
    fields["fail_traffic_on_panic"] = int(bool(zone_aware.fail_traffic_on_panic))
    fields["force_local_zone"] = zone_aware.force_local_zone_min_size or 0


def hash_weights(
    groups: Sequence[Group], weights: Sequence[int], settings: LocalityLoadBalancing
) -> list[int]:
    """Return the weights of a priority's hosts in its hash table, in whole numbers.

    Parameters
    ----------
    groups : sequence of Group
        Of the priority.
    weights : sequence of int
        Of the hosts, group after group.
    settings : LocalityLoadBalancing
        Says whether localities are weighted: then the hosts of one share its weight.
    """
    if not (settings.locality_weighted or settings.distribute):
        return list(weights)
    found: list[tuple[int, int, int]] = []
    first = 0
    for group in groups:
        own = weights[first : first + len(group.endpoints)]
        found += [(group.weight, weight, sum(own)) for weight in own]
        first += len(own)
    scale = math.lcm(*(total for _, _, total in found))
    scaled = [locality * weight * (scale // total) for locality, weight, total in found]
    common = math.gcd(*scaled)
    return [weight // common for weight in scaled]


class GroupingRows:
    """Collects GROUPING, PRIORITY and LOCALITY rows."""

    def __init__(self) -> None:
        self._groupings: list[tuple[int, int, int]] = []
        self._priorities: list[tuple[int, int, int]] = []
        self._localities: list[tuple[int, Group]] = []

    def add(self, groups: Sequence[Group], new_lane: Callable[[Sequence[Group], int], int]) -> int:
        """Add the groups of one cluster of one proxy; return its GROUPING row.

        Parameters
        ----------
        groups : sequence of Group
            Sorted by priority; none empty.  Without any there is one priority with nobody.
        new_lane : callable
            (groups, position of the first member) -> CLUSTER row of a lane with their members.
        """
        first_priority = len(self._priorities)
        position = 0
        nobody = [Group(0, NO_INDEX, 1, False, False, -1, ())]
        for _, level in groupby(groups or nobody, key=lambda group: group.priority):
            own = list(level)
            lane = new_lane(own, position)
            self._priorities.append((lane, len(self._localities), len(own)))
            for group in own:
                part = lane if len(own) == 1 else new_lane([group], position)
                self._localities.append((part, group))
                position += len(group.endpoints)
        count = len(self._priorities) - first_priority
        self._groupings.append((_NEVER, first_priority, count))
        return len(self._groupings) - 1

    def build(self, first_lane: int = 0) -> dict[str, Rows]:
        """Return the arrays; `first_lane` is added to the numbers of lanes."""
        groupings = np.zeros(len(self._groupings), GROUPING_DTYPE)
        for row, (version, start, count) in enumerate(self._groupings):
            groupings["version"][row] = version
            groupings["priority_start"][row] = start
            groupings["priority_count"][row] = count
        priorities = np.zeros(len(self._priorities), PRIORITY_DTYPE)
        for row, (lane, start, count) in enumerate(self._priorities):
            priorities["lane"][row] = lane + first_lane
            priorities["locality_start"][row] = start
            priorities["locality_count"][row] = count
        localities = np.zeros(len(self._localities), LOCALITY_DTYPE)
        for row, (lane, group) in enumerate(self._localities):
            localities["lane"][row] = lane + first_lane
            for name in ("weight", "counted", "local", "clients"):
                localities[name][row] = getattr(group, name)
        return {"groupings": groupings, "priorities": priorities, "localities": localities}


def locality_configs(settings: Sequence[LocalityLoadBalancing]) -> Rows:
    """Return one LOCALITY_CONFIG row for each of `settings`."""
    rows = np.zeros(len(settings), LOCALITY_CONFIG_DTYPE)
    for row, item in enumerate(settings):
        _fill_config(rows[row : row + 1], item)
    return rows
