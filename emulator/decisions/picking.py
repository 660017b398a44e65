"""Picks of one live proxy: the host of the next try of a cluster.

Rule: as in the simulator, `meshsim.policy.load_balancing.pick_host` picks among the members of a
cluster, where it hashes by the table over those that are selectable
(`meshsim.policy.load_balancing.hash_set`); of one with priorities and localities,
`meshsim.policy.locality.choose_lane` says first among which of them, and of one with subsets
`meshsim.policy.subsets.pick_in_chain` does.  One that balances by probes picks among those
(`emulator.decisions.probing`).
"""

from __future__ import annotations

from typing import Any

from emulator.decisions.exchanges import Exchange
from emulator.decisions.holdings import Holdings
from meshsim.policy.load_balancing import pick_host
from meshsim.policy.load_balancing.hash_set import renew_table
from meshsim.policy.locality import choose_lane, pick_degraded, weighted_localities
from meshsim.policy.subsets import pick_in_chain
from meshsim.state.codes import NO_HOST

__all__ = ["pick_once"]


def _renew(holdings: Holdings, cluster: int, first: int, count: int, now_ns: int) -> None:
    """Let a CLUSTER row that hashes pick by the table over its selectable hosts."""
    hashing = holdings.hashing
    renew_table(
        holdings.hosts,
        holdings.members,
        holdings.clusters,
        cluster,
        holdings.configs,
        holdings.table,
        hashing["hash_sets"],
        hashing["hash_names"],
        hashing["hash_letters"],
        holdings.lanes.arrays["localities"],
        first,
        count,
        now_ns,
    )


def _pick_grouped(
    holdings: Holdings, item: Exchange, pick_number: int, now_ns: int, rng: Any
) -> int:
    """Return the HOST of a pick by priority and locality, or `NO_HOST`."""
    lanes, configs = holdings.lanes, holdings.configs
    rows, grouping = lanes.arrays, lanes.groupings[item.cluster]
    lane = choose_lane(
        holdings.hosts,
        holdings.members,
        holdings.clusters,
        item.cluster,
        configs,
        holdings.cluster_health,
        rows["locality_configs"],
        rows["groupings"],
        grouping,
        rows["priorities"],
        rows["localities"],
        item.hash_key,
        rng,
    )
    if lane == NO_HOST:
        return NO_HOST
    if lane < NO_HOST:
        return int(pick_degraded(holdings.hosts, holdings.members, holdings.clusters, lane, rng))
    if configs["set_count"][lane] > 0:
        part = weighted_localities(
            rows["locality_configs"],
            int(configs["locality"][item.cluster]),
            rows["groupings"],
            grouping,
            rows["priorities"],
            lane,
        )
        _renew(holdings, lane, *part, now_ns)
    return _pick_plainly(holdings, item, lane, pick_number, now_ns, rng)


def _pick_by_subset(
    holdings: Holdings, item: Exchange, pick_number: int, now_ns: int, rng: Any
) -> int:
    """Return the HOST of a pick on the lanes that the route asks for, or `NO_HOST`."""
    lanes = holdings.lanes
    chain = lanes.chain_of(item.cluster, item.asked)
    if holdings.configs["set_count"][item.cluster] > 0:
        for lane in lanes.chains[chain + 1 : chain + 1 + lanes.chains[chain]].tolist():
            _renew(holdings, lane, 0, 0, now_ns)
    return pick_in_chain(
        holdings.hosts,
        holdings.members,
        holdings.clusters,
        0,
        holdings.configs,
        holdings.table,
        holdings.memory,
        lanes.chains,
        chain,
        item.hash_key,
        pick_number,
        now_ns,
        rng,
    )


def _pick_plainly(
    holdings: Holdings, item: Exchange, cluster: int, pick_number: int, now_ns: int, rng: Any
) -> int:
    """Return the HOST of a pick among all members of a CLUSTER row, or `NO_HOST`."""
    position = pick_host(
        holdings.hosts,
        holdings.members,
        holdings.clusters,
        cluster,
        holdings.configs,
        holdings.table,
        holdings.memory,
        item.hash_key,
        pick_number,
        now_ns,
        rng,
    )
    if position == NO_HOST:
        return NO_HOST
    return int(holdings.members[holdings.clusters["member_start"][cluster] + position])


def pick_once(holdings: Holdings, item: Exchange, pick_number: int, now_ns: int, rng: Any) -> int:
    """Return the HOST of one pick for a request, or `NO_HOST`.

    Parameters
    ----------
    holdings : Holdings
    item : Exchange
        Routed to a cluster.
    pick_number : int
        0 for the first selection of a try, a for the a-th reselection.
    now_ns : int
    rng : ndarray[uint64], shape (2,)
        The proxy's stream of picks; advanced in place.
    """
    cluster = item.cluster
    if cluster in holdings.lanes.groupings:
        return _pick_grouped(holdings, item, pick_number, now_ns, rng)
    if cluster in holdings.lanes.by_subset:
        return _pick_by_subset(holdings, item, pick_number, now_ns, rng)
    if cluster in holdings.pools.of:
        return holdings.pools.pick(cluster, pick_number, now_ns, rng)
    if holdings.configs["set_count"][cluster] > 0:
        _renew(holdings, cluster, 0, 0, now_ns)
    return _pick_plainly(holdings, item, cluster, pick_number, now_ns, rng)
