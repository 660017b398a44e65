"""ROUND_ROBIN: one host after the other.

Rule: with equal weights, the next selectable member after the last one picked; with unequal
weights, EDF on the weights (`edf`).  Members that are not selectable are passed over, so the
others are picked equally often.

Envoy starts at a random member; here that is the initial `cursor`, which the owner of the
state draws.

References
----------
Envoy, source/extensions/load_balancing_policies/round_robin/round_robin_lb.h.
"""

from __future__ import annotations

from typing import Any

from meshsim.jit import kernel_jit_inline
from meshsim.state.codes import NO_HOST

__all__ = ["pick"]


@kernel_jit_inline
def pick(hosts: Any, members: Any, start: int, count: int, clusters: Any, cluster: int) -> int:
    """Pick the next selectable member.

    Parameters
    ----------
    hosts : ndarray[HOST_DTYPE], shape (n_hosts,)
        Read only.
    members : ndarray[int32], shape (n_members,)
        Read only; the cluster's are ``members[start : start + count]``.
    start, count : int
        See `members`.
    clusters : ndarray[CLUSTER_DTYPE], shape (n_clusters,)
        Modified in place: cursor.
    cluster : int
        Row of `clusters`.

    Returns
    -------
    int
        Position in [0, count), or `NO_HOST`.
    """
    picked = NO_HOST
    if count > 0:
        position = clusters["cursor"][cluster]
        if position >= count:
            position %= count
        for _ in range(count):
            if hosts["healthy"][members[start + position]] != 0:
                picked = position
                break
            position = position + 1 if position + 1 < count else 0
        clusters["cursor"][cluster] = picked + 1 if picked != NO_HOST else position
    return picked
