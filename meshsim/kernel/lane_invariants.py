"""What must hold of lanes and of pools of probes; see `meshsim.kernel.invariants`."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from meshsim.kernel.memory import KernelState, Rows
from meshsim.state.codes import PICK_GROUPED

__all__ = ["check_lanes", "check_probes"]

Story = Iterator[str]


def check_lanes(state: KernelState) -> Story:
    """Lanes of grouped clusters tile their members, and their loads add up."""
    clusters, priorities, localities = state.clusters, state.priorities, state.localities
    for cluster in np.flatnonzero(state.configs["picking"][clusters["config"]] == PICK_GROUPED):
        row = state.groupings[state.lane_links[cluster]]
        levels = range(row["priority_start"], row["priority_start"] + row["priority_count"])
        yield from _tiles(clusters, int(cluster), priorities["lane"][levels], "priorities")
        for level in levels:
            first = priorities["locality_start"][level]
            lanes = localities["lane"][first : first + priorities["locality_count"][level]]
            lane = int(priorities["lane"][level])
            yield from _tiles(clusters, lane, lanes, f"localities of priority {level}")
        loads = priorities["load"][levels].sum() + priorities["degraded_load"][levels].sum()
        version = state.cluster_health["version"][clusters["health"][cluster]]
        if row["version"] == version and loads != 100:
            yield f"cluster {cluster}: the loads of its priorities add up to {loads}"


def check_probes(state: KernelState) -> Story:
    """Every probe is of a host of its cluster; no host has two."""
    for pool, row in enumerate(state.prequal_pools):
        rule = state.configs["prequal_rule"][state.clusters["config"][row["cluster"]]]
        hosts = state.probes["host"][pool, : row["count"]]
        strange = (state.hosts["cluster"][hosts] != row["cluster"]).any()
        crowded = len(hosts) > state.prequal_rules["pool_size"][rule]
        if strange or crowded or len(np.unique(hosts)) < len(hosts):
            yield f"pool {pool} of cluster {row['cluster']} has probes of {hosts}"


def _tiles(clusters: Rows, whole: int, parts: Rows, what: str) -> Story:
    start = clusters["member_start"][whole]
    for part in parts:
        if clusters["member_start"][part] != start:
            yield f"cluster {whole}: its {what} leave a gap before lane {part}"
        start += clusters["member_count"][part]
    if start != clusters["member_start"][whole] + clusters["member_count"][whole]:
        yield f"cluster {whole}: its {what} do not cover its members"
