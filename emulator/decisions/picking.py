"""Picks of one live proxy: the host of the next try of a cluster.

Rule: as in the simulator, `meshsim.policy.load_balancing.pick_host` picks among the members of a
cluster; of one with priorities and localities, `meshsim.policy.locality.choose_lane` says first
among which of them, and of one with subsets `meshsim.policy.subsets.pick_in_chain` does.
"""

from __future__ import annotations

from typing import Any

from emulator.decisions.exchanges import Exchange
from emulator.decisions.holdings import Holdings
from meshsim.policy.load_balancing import pick_host
from meshsim.policy.locality import choose_lane
from meshsim.policy.subsets import pick_in_chain
from meshsim.state.codes import NO_HOST

__all__ = ["pick_once"]


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
    cluster, hash_key = item.cluster, item.hash_key
    hosts, members, clusters = holdings.hosts, holdings.members, holdings.clusters
    lanes = holdings.lanes
    if cluster in lanes.groupings:
        rows = lanes.arrays
        cluster = choose_lane(
            hosts,
            members,
            clusters,
            cluster,
            holdings.configs,
            holdings.cluster_health,
            rows["locality_configs"],
            rows["groupings"],
            lanes.groupings[cluster],
            rows["priorities"],
            rows["localities"],
            hash_key,
            rng,
        )
        if cluster == NO_HOST:
            return NO_HOST
        # Nobody tells a live proxy that a host is degraded.
        assert cluster > NO_HOST, f"lane {cluster}"
    elif cluster in lanes.by_subset:
        return pick_in_chain(
            hosts,
            members,
            clusters,
            0,
            holdings.configs,
            holdings.table,
            holdings.memory,
            lanes.chains,
            lanes.chain_of(cluster, item.asked),
            hash_key,
            pick_number,
            now_ns,
            rng,
        )
    position = pick_host(
        hosts,
        members,
        clusters,
        cluster,
        holdings.configs,
        holdings.table,
        holdings.memory,
        hash_key,
        pick_number,
        now_ns,
        rng,
    )
    if position == NO_HOST:
        return NO_HOST
    return int(members[clusters["member_start"][cluster] + position])
