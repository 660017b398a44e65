"""Names and shares of the hosts that a hash table is built over.

Rule: a table is built over the hosts that are selectable, in the order of the members.  The share
of a host is w / (sum of w) of these; where localities are weighted it is

    w / (sum of w in its locality) * (weight of the locality / sum over the localities)

A locality without selectable hosts keeps its part of the second sum, so that the shares may add
up to less than 1; one of weight 0 has no host in the table.

References
----------
Envoy, source/extensions/load_balancing_policies/common/thread_aware_lb_impl.cc
(normalizeHostWeights, normalizeLocalityWeights).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from meshsim.jit import kernel_jit
from meshsim.policy.hashing import xxh64, xxh64_bytes
from meshsim.state.hash_set import HASH_NAME_DTYPE, SUFFIX_BYTES
from meshsim.state.upstream import HOST_DTYPE

__all__ = ["candidates", "name_rows", "point_hash", "share_out"]

_Rows = npt.NDArray[Any]
_UNDERSCORE = 95
_ZERO = 48
_SEED = np.uint64(0)


def name_rows(names: Sequence[str]) -> tuple[_Rows, _Rows]:
    """Return HASH_NAME rows of `names`, and the letters they name.

    Examples
    --------
    >>> rows, letters = name_rows(["b", "a"])
    >>> rows["rank"].tolist(), len(letters)
    ([1, 0], 26)
    """
    rows = np.zeros(len(names), HASH_NAME_DTYPE)
    parts = [name.encode() + bytes(SUFFIX_BYTES) for name in names]
    sizes = [len(part) for part in parts]
    rows["length"] = [size - SUFFIX_BYTES for size in sizes]
    rows["start"] = np.cumsum([0, *sizes])[: len(names)]
    rows["hash"] = np.array([xxh64(name) for name in names], np.uint64)
    rows["second_hash"] = np.array([xxh64(name, 1) for name in names], np.uint64)
    rows["rank"][sorted(range(len(names)), key=names.__getitem__)] = np.arange(len(names))
    return rows, np.frombuffer(b"".join(parts), np.uint8).copy()


def candidates(names: Sequence[str], weights: Sequence[int]) -> tuple[_Rows, ...]:
    """Return hosts, members, HASH_NAME rows with shares, and letters: for a table over `names`."""
    hosts = np.zeros(len(names), HOST_DTYPE)
    hosts["endpoint"] = hosts["table_index"] = np.arange(len(names))
    hosts["weight"] = weights
    rows, letters = name_rows(names)
    rows["share"] = np.array(weights) / max(sum(weights), 1)
    return hosts, np.arange(len(names), dtype=np.int32), rows, letters


@kernel_jit
def point_hash(names: Any, letters: Any, endpoint: int, point: int) -> Any:
    """Return the xxHash of "<name>_<point>".

    Parameters
    ----------
    names : ndarray[HASH_NAME_DTYPE], shape (n_endpoints,)
        Read only.
    letters : ndarray[uint8], shape (n_bytes,)
        The `SUFFIX_BYTES` behind the name are scratch.
    endpoint : int
        Row of `names`.
    point : int
        0 <= point < 10**11.
    """
    start = names["start"][endpoint]
    end = start + names["length"][endpoint]
    letters[end] = _UNDERSCORE
    digits = 1
    left = point // 10
    while left > 0:
        digits += 1
        left //= 10
    left = point
    for place in range(digits):
        letters[end + digits - place] = _ZERO + left % 10
        left //= 10
    return xxh64_bytes(letters, int(start), int(end + 1 + digits - start), _SEED)


@kernel_jit
def share_out(
    hosts: Any,
    members: Any,
    clusters: Any,
    cluster: int,
    names: Any,
    localities: Any,
    first: int,
    count: int,
) -> None:
    """Write the share of every member of a cluster; 0: it is not selectable, or has no weight.

    Parameters
    ----------
    hosts : ndarray[HOST_DTYPE], shape (n_hosts,)
        Read only.
    members : ndarray[int32], shape (n_members,)
        Read only.
    clusters : ndarray[CLUSTER_DTYPE], shape (n_clusters,)
        Read only.
    cluster : int
        Row of `clusters`.
    names : ndarray[HASH_NAME_DTYPE], shape (n_endpoints,)
        Modified in place: share.
    localities : ndarray[LOCALITY_DTYPE], shape (n_localities,)
        Read only.
    first, count : int
        ``localities[first : first + count]`` are weighted; count 0: localities do not matter.
    """
    if count == 0:
        _share_out_part(hosts, members, clusters, cluster, names, 1.0)
        return
    total = 0
    for row in range(first, first + count):
        if localities["hosts"][row] > 0:
            total += localities["weight"][row]
    for row in range(first, first + count):
        part = float(localities["weight"][row]) / float(max(total, 1))
        _share_out_part(hosts, members, clusters, localities["lane"][row], names, part)


@kernel_jit
def _share_out_part(
    hosts: Any, members: Any, clusters: Any, lane: int, names: Any, part: float
) -> None:
    """Share `part` out among the selectable members of a lane."""
    start = clusters["member_start"][lane]
    end = start + clusters["member_count"][lane]
    total = 0
    for place in range(start, end):
        if hosts["healthy"][members[place]] != 0:
            total += hosts["weight"][members[place]]
    for place in range(start, end):
        host = members[place]
        share = 0.0
        if hosts["healthy"][host] != 0:
            share = float(hosts["weight"][host]) * part / float(total)
        names["share"][hosts["endpoint"][host]] = share
