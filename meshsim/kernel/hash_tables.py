"""Hash tables while the run goes on: over who is selectable now, and over other members.

Rule: `meshsim.policy.load_balancing.hash_set` decides by which table a cluster picks, when it is
about to.  When replicas come or go, tables are rebuilt under a new config row, which takes over
the places for tables by set, or gets larger ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from meshsim.jit import kernel_jit
from meshsim.kernel.memory import Rows
from meshsim.policy.load_balancing.hash_set import renew_table
from meshsim.policy.locality import weighted_localities
from meshsim.state.hash_set import HASH_SET_DTYPE
from meshsim.state.rows import grown
from meshsim.topology.compiled.hash_sets import hash_name_rows
from meshsim.topology.compiled.policies import hash_capacity
from meshsim.topology.model import ClusterPolicy

__all__ = ["extend_names", "renew", "renew_lane", "replace_table", "with_places"]


@kernel_jit
def renew(state: Any, cluster: int, first_locality: int, locality_count: int) -> None:
    """Let `cluster`, which hashes, pick by the table over its selectable hosts."""
    renew_table(
        state.hosts,
        state.members,
        state.clusters,
        cluster,
        state.configs,
        state.table,
        state.hash_sets,
        state.hash_names,
        state.hash_letters,
        state.localities,
        first_locality,
        locality_count,
        state.counters["now_ns"][0],
    )


@kernel_jit
def renew_lane(state: Any, cluster: int, lane: int) -> None:
    """Do so for a lane of the grouped `cluster`."""
    first, count = weighted_localities(
        state.locality_configs,
        state.configs["locality"][state.clusters["config"][cluster]],
        state.groupings,
        state.lane_links[cluster],
        state.priorities,
        lane,
    )
    renew(state, lane, first, count)


def with_places(table: Rows, sets: Rows) -> Rows:
    """Return the hash tables with the places of `sets` behind them."""
    return grown(table, int(sets["capacity"].sum()))


def extend_names(kernel: Any) -> None:
    """Let hosts of endpoints that were added be hashed, if anybody is."""
    kernel.state.replace(**hash_name_rows(kernel.endpoint_names, kernel.state.hash_sets))


def _forget_tables(state: Any, clusters: Rows | Sequence[int]) -> None:
    """Let clusters that hash look for their tables at the next pick."""
    state.clusters["cursor"][clusters] = 0
    state.clusters["edf_time"][clusters] = -1.0


def replace_table(
    kernel: Any, clusters: Rows, table: Rows, policy: ClusterPolicy, weights: Sequence[int]
) -> None:
    """Give `clusters`, which have one config row, another with `table`, over these weights."""
    state = kernel.state
    old = int(state.clusters["config"][clusters[0]])
    config = state.configs[old : old + 1].copy()
    config["table_start"], config["table_count"] = len(state.table), len(table)
    tables = np.concatenate([state.table, table], dtype=table.dtype)
    capacity = hash_capacity(policy, weights)
    if capacity > config["set_capacity"][0]:
        # A ring over more hosts has more points.
        config["set_capacity"] = capacity
        sets = np.zeros(int(config["set_count"][0]), HASH_SET_DTYPE)
        sets["capacity"] = capacity
        sets["start"] = len(tables) + capacity * np.arange(len(sets))
        config["set_start"] = len(state.hash_sets)
        tables = with_places(tables, sets)
        state.replace(hash_sets=np.concatenate([state.hash_sets, sets], dtype=sets.dtype))
    state.clusters["config"][clusters] = len(state.configs)
    _forget_tables(state, clusters)
    kernel.config_names.append(kernel.config_names[old])
    configs = np.concatenate([state.configs, config], dtype=config.dtype)
    state.replace(configs=configs, table=tables)
