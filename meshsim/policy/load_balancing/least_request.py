"""LEAST_REQUEST: the least busy of a few, or of all.

Rule: with equal weights, draw `choice_count` (Envoy: 2) selectable members independently *with
replacement* and keep the first with the strictly fewest active requests; so of two hosts the
busier one is still picked a quarter of the time.  With unequal weights, EDF on
weight / (active + 1) ** bias (`edf`), whichever selection method.  FULL_SCAN looks at all
members and draws uniformly among those tied for the fewest (reservoir sampling).

Active requests are this proxy's own, not the host's true load.

References
----------
Envoy, source/extensions/load_balancing_policies/least_request/least_request_lb.cc
(unweightedHostPickNChoices, unweightedHostPickFullScan).
Mitzenmacher, "The power of two choices in randomized load balancing", IEEE TPDS 12 (2001).
"""

from __future__ import annotations

from typing import Any

from meshsim.jit import kernel_jit, kernel_jit_inline
from meshsim.policy.load_balancing import random_pick
from meshsim.rng import next_index
from meshsim.state.codes import NO_HOST

__all__ = ["pick", "pick_full_scan"]


@kernel_jit_inline
def pick(hosts: Any, members: Any, start: int, count: int, choice_count: int, rng: Any) -> int:
    """Pick the least busy of `choice_count` random members.

    Parameters
    ----------
    hosts : ndarray[HOST_DTYPE], shape (n_hosts,)
        Read only.
    members : ndarray[int32], shape (n_members,)
        Read only; the cluster's are ``members[start : start + count]``.
    start, count : int
        See `members`.
    choice_count : int
        Number of draws, >= 1.
    rng : ndarray[uint64], shape (2,)
        Advanced in place.

    Returns
    -------
    int
        Position in [0, count), or `NO_HOST`.
    """
    picked = random_pick.pick(hosts, members, start, count, rng)
    if picked != NO_HOST:
        fewest = hosts["requests_active"][members[start + picked]]
        for _ in range(choice_count - 1):
            position = random_pick.pick(hosts, members, start, count, rng)
            active = hosts["requests_active"][members[start + position]]
            if active < fewest:
                picked = position
                fewest = active
    return picked


@kernel_jit
def pick_full_scan(hosts: Any, members: Any, start: int, count: int, rng: Any) -> int:
    """Pick uniformly among the selectable members with the fewest active requests.

    Parameters and result are those of `pick`; O(count).
    """
    picked = NO_HOST
    fewest = 0
    tied = 0
    for position in range(count):
        host = members[start + position]
        if hosts["healthy"][host] == 0:
            continue
        active = hosts["requests_active"][host]
        if picked == NO_HOST or active < fewest:
            picked = position
            fewest = active
            tied = 1
        elif active == fewest:
            tied += 1
            if next_index(rng, tied) == 0:
                picked = position
    return picked
