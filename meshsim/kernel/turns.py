"""Where the round robin of each proxy begins, at the start of a run and of those that come.

Rule: as `meshsim.policy.load_balancing.round_robin` draws it, by the name of the cluster; lanes of
priorities and localities begin where their cluster does, a subset by itself.  A cluster that
hashes has no turns: its row knows tables by the same field.  Requests of HIGH priority share the
turns of the cluster's own row.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from meshsim.controlplane.names import cluster_name
from meshsim.kernel.regrouping import subset_lanes
from meshsim.policy.load_balancing.round_robin import draw_cursors, subset_name
from meshsim.state.codes import MAGLEV, PICK_HIGH, PICK_SUBSET, RING_HASH

__all__ = ["begin_turns"]


def begin_turns(kernel: Any, first: int = 0) -> None:
    """Draw where the round robins of the CLUSTER rows from `first` on begin."""
    if not kernel.config_names:  # nobody calls anybody: the row is a blank
        return
    clusters, configs = kernel.state.clusters, kernel.state.configs
    config_names = [cluster_name(*name) for name in kernel.config_names]
    of = clusters["config"][first:]
    names = [config_names[config] for config in of.tolist()]
    for row in np.flatnonzero(configs["picking"][of] == PICK_SUBSET).tolist():
        for lane in subset_lanes(kernel, first + row):
            names[lane - first] = subset_name(names[row], _endpoints(kernel, lane))
    cursors = draw_cursors(kernel.stream_seed, clusters["proxy"][first:].tolist(), names)
    none = np.isin(configs["balancing"][of], (RING_HASH, MAGLEV))
    none |= configs["picking"][of] == PICK_HIGH
    clusters["cursor"][first:] = np.where(none, 0, cursors)


def _endpoints(kernel: Any, lane: int) -> list[str]:
    """Return the names of the endpoints of a lane."""
    state = kernel.state
    start = state.clusters["member_start"][lane]
    members = state.members[start : start + state.clusters["member_count"][lane]]
    return [kernel.endpoint_names[row] for row in state.hosts["endpoint"][members]]
