"""RANDOM: a uniform draw over the selectable hosts.

Rule: every selectable host is equally likely, whatever its weight.  The draw is O(1) while all
hosts are selectable: only if the drawn host is not, the selectable ones are counted and one of
them is drawn; the result is uniform either way (1/n + (n - m)/n * 1/m = 1/m for m of n).

References
----------
Envoy, source/extensions/load_balancing_policies/random/random_lb.cc (hosts % size).
"""

from __future__ import annotations

from typing import Any

from meshsim.jit import kernel_jit, kernel_jit_inline
from meshsim.rng import next_index
from meshsim.state.codes import NO_HOST

__all__ = ["count_selectable", "pick", "selectable_at"]


@kernel_jit
def count_selectable(hosts: Any, members: Any, start: int, count: int) -> int:
    """Return how many of the members are selectable (healthy != 0)."""
    selectable = 0
    for position in range(count):
        if hosts["healthy"][members[start + position]] != 0:
            selectable += 1
    return selectable


@kernel_jit
def selectable_at(hosts: Any, members: Any, start: int, count: int, rank: int) -> int:
    """Return the position of the selectable member number `rank` (from 0), or `NO_HOST`."""
    for position in range(count):
        if hosts["healthy"][members[start + position]] != 0:
            if rank == 0:
                return position
            rank -= 1
    return NO_HOST


@kernel_jit
def _pick_among_selectable(hosts: Any, members: Any, start: int, count: int, rng: Any) -> int:
    selectable = count_selectable(hosts, members, start, count)
    if selectable == 0:
        return NO_HOST
    return selectable_at(hosts, members, start, count, next_index(rng, selectable))


@kernel_jit_inline
def pick(hosts: Any, members: Any, start: int, count: int, rng: Any) -> int:
    """Draw a selectable member uniformly.

    Parameters
    ----------
    hosts : ndarray[HOST_DTYPE], shape (n_hosts,)
        Read only.
    members : ndarray[int32], shape (n_members,)
        HOST rows; the cluster's are ``members[start : start + count]``.  Read only.
    start, count : int
        See `members`; count >= 0.
    rng : ndarray[uint64], shape (2,)
        Advanced in place, once, or twice if the first host drawn is not selectable.

    Returns
    -------
    int
        Position in [0, count), or `NO_HOST`.
    """
    position = NO_HOST
    if count > 0:
        position = next_index(rng, count)
        if hosts["healthy"][members[start + position]] == 0:
            position = _pick_among_selectable(hosts, members, start, count, rng)
    return position
