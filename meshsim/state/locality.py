"""Priorities and localities of the clusters whose members are grouped by them.

The members of such a cluster are sorted by (priority, locality), so that a priority is a range
of them and a locality a range within it.  Each range that a host can be picked from is a
*lane*: a CLUSTER row behind all others that has a member range, a cursor and an EDF schedule
of its own, and nothing else; what is counted is counted at the cluster itself.
"""

from __future__ import annotations

import numpy as np

# Zone-aware routing of a cluster's first priority (`routing` of GROUPING_DTYPE).
ROUTING_NONE = 0
ROUTING_DIRECT = 1  # everything to the client's own zone
ROUTING_RESIDUAL = 2  # what fits to the client's own zone, the rest by residual capacity

LOCALITY_CONFIG_DTYPE = np.dtype(
    [
        ("overprovisioning_factor", "i4"),  # percent
        ("fail_traffic_on_panic", "i4"),  # 1: a priority in panic answers "no host"
        ("locality_weighted", "i4"),  # 1: a locality is picked by its weight
        ("routing_enabled", "i4"),  # percent of the picks that go by zone; 0: none
        ("min_cluster_size", "i4"),  # healthy hosts of the first priority, for routing by zone
        ("force_local_zone", "i4"),  # healthy hosts in the own zone that take all; 0: off
    ],
    align=True,
)

#: One a cluster of one proxy that is grouped.
GROUPING_DTYPE = np.dtype(
    [
        ("version", "i4"),  # of the cluster's health, for which all below holds; -1: of none
        ("priority_start", "i4"),
        ("priority_count", "i4"),
        ("routing", "i4"),  # ROUTING_*
        ("local_share", "i4"),  # ROUTING_RESIDUAL: picks of the own zone, of 10,000
    ],
    align=True,
)

PRIORITY_DTYPE = np.dtype(
    [
        ("lane", "i4"),  # CLUSTER row with all its members
        ("locality_start", "i4"),
        ("locality_count", "i4"),  # at least 1
        ("hosts", "i4"),  # but for those that discovery does not name
        ("healthy", "i4"),  # hosts
        ("degraded", "i4"),  # hosts
        ("availability", "i4"),  # min(100, factor * healthy / hosts) [percent]
        ("degraded_availability", "i4"),
        ("load", "i4"),  # picks of its healthy hosts [percent]
        ("degraded_load", "i4"),
        ("panic", "i4"),  # 1: all its hosts are selectable
        ("edf_time", "f8"),  # schedule of its localities
        ("edf_next_order", "i8"),
    ],
    align=True,
)

LOCALITY_DTYPE = np.dtype(
    [
        ("lane", "i4"),  # CLUSTER row with its members
        ("weight", "i4"),
        ("counted", "i4"),  # 1: `weight` is the sum of its hosts' weights
        ("local", "i4"),  # 1: the client is in this zone
        ("clients", "i4"),  # share of the client's service in this zone, of 10,000; -1: unknown
        ("hosts", "i4"),  # but for those that discovery does not name
        ("healthy", "i4"),  # hosts
        ("residual", "i4"),  # capacity left, summed up to here, of 10,000
        ("edf_order", "i8"),
        ("effective_weight", "f8"),
        ("edf_deadline", "f8"),
    ],
    align=True,
)
