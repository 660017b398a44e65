"""Picks in clusters whose balancer does not pick among all members.

Rule: `meshsim.policy.locality` chooses a lane by priority and locality, `meshsim.policy.subsets`
by the labels that the route asks for; `meshsim.policy.load_balancing` picks the host on it.
A cluster that hashes does so by the table over its selectable hosts (`meshsim.kernel.hash_tables`).
Probes of servers go out beside a pick (`meshsim.kernel.probing`).
An oracle (`meshsim.policy.load_balancing.oracle`) looks at the servers itself; weights that
servers report are set before a pick (`meshsim.kernel.reports`).  Requests of HIGH priority have
CLUSTER rows of their own (`meshsim.topology.compiled.priorities`); the cluster's row picks for
them.

A stale view is of the moment of the first pick in each interval, so that looking costs nothing
while nobody asks.
"""

from __future__ import annotations

from typing import Any

from meshsim.jit import kernel_jit
from meshsim.kernel.attempts import hash_key_of
from meshsim.kernel.draws import draw_split
from meshsim.kernel.events import HEALTH_DUE
from meshsim.kernel.hash_tables import renew, renew_lane
from meshsim.kernel.memory import invoke
from meshsim.kernel.probing import pick_by_probes
from meshsim.kernel.reports import pick_reported
from meshsim.policy.load_balancing import pick_host
from meshsim.policy.load_balancing.oracle import pick_idle, pick_shortest, renew_view
from meshsim.policy.locality import choose_lane, pick_degraded
from meshsim.policy.subsets import pick_in_chain
from meshsim.state.codes import (
    MAGLEV,
    NO_HOST,
    NO_INDEX,
    ORACLE_IDLE_QUEUE,
    ORACLE_STALE_QUEUE,
    PICK_GROUPED,
    PICK_HASHED,
    PICK_HIGH,
    PICK_ORACLE,
    PICK_PLAIN,
    PICK_PROBED,
    PICK_REPORTED,
    RING_HASH,
)

__all__ = ["pick_specially"]


@kernel_jit
def _pick_plainly(state: Any, cluster: int, hash_key: Any, pick_number: int, rng: Any) -> int:
    """Return the HOST that the balancer of `cluster`, or of a lane, picks, or `NO_HOST`."""
    position = pick_host(
        state.hosts,
        state.members,
        state.clusters,
        cluster,
        state.configs,
        state.table,
        state.memory,
        hash_key,
        pick_number,
        state.counters["now_ns"][0],
        rng,
    )
    if position == NO_HOST:
        return NO_HOST
    return int(state.members[state.clusters["member_start"][cluster] + position])


@kernel_jit
def _pick_grouped(state: Any, cluster: int, hash_key: Any, pick_number: int, rng: Any) -> int:
    """Return the HOST of the next pick in a grouped `cluster`, or `NO_HOST`."""
    lane = choose_lane(
        state.hosts,
        state.members,
        state.clusters,
        cluster,
        state.configs,
        state.cluster_health,
        state.locality_configs,
        state.groupings,
        state.lane_links[cluster],
        state.priorities,
        state.localities,
        hash_key,
        rng,
    )
    if lane == NO_HOST:
        return NO_HOST
    if lane < NO_HOST:
        return pick_degraded(state.hosts, state.members, state.clusters, lane, rng)
    if state.configs["set_count"][state.clusters["config"][lane]] > 0:
        renew_lane(state, cluster, lane)
    return _pick_plainly(state, lane, hash_key, pick_number, rng)


@kernel_jit
def _pick_by_subset(
    state: Any, exchange: int, cluster: int, hash_key: Any, pick_number: int, rng: Any
) -> int:
    """Return the HOST of the next pick on the lanes that the route asks for, or `NO_HOST`."""
    chains = state.chains
    first_lane = state.lane_links[cluster]
    chain = state.splits["chain"][draw_split(state, exchange, state.exchanges["route"][exchange])]
    if state.configs["balancing"][state.clusters["config"][cluster]] in (RING_HASH, MAGLEV):
        for place in range(chain + 1, chain + 1 + chains[chain]):
            renew(state, first_lane + chains[place], 0, 0)
    return pick_in_chain(
        state.hosts,
        state.members,
        state.clusters,
        first_lane,
        state.configs,
        state.table,
        state.memory,
        chains,
        chain,
        hash_key,
        pick_number,
        state.counters["now_ns"][0],
        rng,
    )


@kernel_jit
def _pick_by_oracle(state: Any, cluster: int, rng: Any) -> int:
    """Return the HOST that a balancer which sees the servers picks, or `NO_HOST`."""
    config = state.clusters["config"][cluster]
    start = state.clusters["member_start"][cluster]
    count = state.clusters["member_count"][cluster]
    balancing = state.configs["balancing"][config]
    if balancing == ORACLE_IDLE_QUEUE:
        return pick_idle(
            state.hosts,
            state.members,
            start,
            count,
            state.endpoints,
            state.oracle_hosts,
            state.oracle_clusters,
            state.oracle_endpoints,
            cluster,
            rng,
        )
    now_ns = state.counters["now_ns"][0]
    stale = balancing == ORACLE_STALE_QUEUE
    interval_ns = state.configs["view_interval_ns"][config]
    if stale and now_ns - state.oracle_clusters["view_ns"][cluster] >= interval_ns:
        state.oracle_clusters["view_ns"][cluster] = now_ns - now_ns % interval_ns
        renew_view(state.hosts, state.members, start, count, state.endpoints, state.oracle_hosts)
    position = pick_shortest(
        state.hosts,
        state.members,
        start,
        count,
        state.endpoints,
        state.oracle_hosts,
        stale,
        state.configs["choice_count"][config],
        state.configs["distinct_choices"][config] != 0,
        rng,
    )
    return NO_HOST if position == NO_HOST else int(state.members[start + position])


@kernel_jit
def pick_specially(state: Any, exchange: int, pick_number: int) -> int:
    """Return the HOST of a pick in a cluster that does not pick plainly, or `NO_HOST`."""
    cluster = state.exchanges["cluster"][exchange]
    rng = state.pick_streams[state.exchanges["proxy"][exchange]]
    hash_key = hash_key_of(state, exchange, state.exchanges["route"][exchange])
    picking = state.configs["picking"][state.clusters["config"][cluster]]
    if picking == PICK_HIGH:  # it has no balancer of its own
        cluster = state.high_clusters[cluster]
        picking = state.configs["picking"][state.clusters["config"][cluster]]
        if pick_number == 0 and state.clusters["health"][cluster] != NO_INDEX:
            invoke(state, HEALTH_DUE, cluster, 0)
    if picking == PICK_PLAIN:
        return _pick_plainly(state, cluster, hash_key, pick_number, rng)
    if picking == PICK_GROUPED:
        return _pick_grouped(state, cluster, hash_key, pick_number, rng)
    if picking == PICK_ORACLE:
        return _pick_by_oracle(state, cluster, rng)
    if picking == PICK_REPORTED:
        rule = state.configs["report_rule"][state.clusters["config"][cluster]]
        return pick_reported(state, cluster, rule)
    if picking == PICK_PROBED:
        return pick_by_probes(state, exchange, cluster, pick_number, rng)
    if picking == PICK_HASHED:
        renew(state, cluster, 0, 0)
        return _pick_plainly(state, cluster, hash_key, pick_number, rng)
    return _pick_by_subset(state, exchange, cluster, hash_key, pick_number, rng)
