"""ROUND_ROBIN: one host after the other.

Rule: with equal weights, the next selectable member after the last one picked; with unequal
weights, EDF on the weights (`edf`).  Members that are not selectable are passed over, so the
others are picked equally often.

Every proxy begins at a random member, as Envoy does, so that those of a mesh do not go round in
step: the initial `cursor` is a number drawn for (run, proxy, cluster), of which the remainder by
the count of members is the first.  Parts of one load balancer (its priorities and localities)
begin with the same number; each subset has a load balancer, and a number, of its own.  With
unequal weights the schedule begins that many picks ahead (`edf`).

References
----------
Envoy, source/extensions/load_balancing_policies/round_robin/round_robin_lb.h (refreshHostSource,
unweightedHostPick); source/extensions/load_balancing_policies/common/load_balancer_impl.cc
(EdfLoadBalancerBase: seed_).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from meshsim.jit import kernel_jit, kernel_jit_inline
from meshsim.policy.hashing import xxh64
from meshsim.rng import PURPOSE_ROUND_ROBIN, mix, mix_in
from meshsim.state.codes import NO_HOST

__all__ = ["draw_cursors", "pick", "subset_name"]


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


@kernel_jit
def _fill_cursors(cursors: Any, seed: Any, proxies: Any, names: Any) -> None:
    base = mix_in(mix(seed), PURPOSE_ROUND_ROBIN)
    for row in range(cursors.shape[0]):
        key = mix(mix_in(base, proxies[row]) ^ names[row])
        cursors[row] = int(key >> np.uint64(1))


def draw_cursors(
    run_seed: int, proxies: Sequence[int], clusters: Sequence[str]
) -> npt.NDArray[np.int64]:
    """Return the initial cursor of each cluster: 0 <= cursor < 2**63.

    Parameters
    ----------
    run_seed : int
        Of the run, 0 <= run_seed < 2**62.
    proxies : sequence of int
        Index of the proxy of each cluster.
    clusters : sequence of str
        Name of each cluster ("reviews", "reviews|v2"), or `subset_name`.

    Examples
    --------
    >>> (draw_cursors(1, [0, 0, 1, 0], ["a", "b", "a", "a"]) % 5).tolist()
    [0, 1, 0, 0]
    """
    hashes = {name: xxh64(name) for name in dict.fromkeys(clusters)}
    names = np.array([hashes[name] for name in clusters], np.uint64)
    cursors = np.zeros(len(names), np.int64)
    _fill_cursors(cursors, np.uint64(run_seed), np.array(proxies, np.int64), names)
    return cursors


def subset_name(cluster: str, endpoints: Sequence[str]) -> str:
    """Return what tells the load balancer of some endpoints of a cluster from others."""
    return " ".join((cluster, *endpoints))
