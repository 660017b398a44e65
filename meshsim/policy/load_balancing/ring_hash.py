"""RING_HASH: the host at the next point of a ring (ketama).

Rule: host i has about scale * w_i points, w_i being its share of the weights and

    scale = min(ceil(w_min * minimum_ring_size) / w_min, maximum_ring_size)

so that the lightest host gets a whole number; running sums spread the rounding of the others.
Point k of a host is xxh64("<name>_<k>").  A key goes to the first point with hash >= its own,
beyond the last to the first.  When a retry asks for another host, attempt a looks a points
further.

Names and keys as Envoy hashes them give the hosts that Envoy picks (``data/hash_vectors.json``).

References
----------
Envoy, source/extensions/load_balancing_policies/ring_hash/ring_hash_lb.cc.
Karger et al., "Consistent hashing and random trees", STOC 1997.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from meshsim.jit import kernel_jit
from meshsim.policy.hashing import xxh64
from meshsim.policy.load_balancing.hash_table import selectable_entry
from meshsim.state.upstream import TABLE_DTYPE

__all__ = ["build_ring", "pick"]


def build_ring(
    names: Sequence[str],
    weights: Sequence[int],
    minimum_ring_size: int = 1024,
    maximum_ring_size: int = 8_388_608,
) -> npt.NDArray[np.void]:
    """Return the ring of some hosts, sorted by hash.

    Parameters
    ----------
    names : sequence of str
        What is hashed: Envoy takes ``envoy.lb`` metadata `hash_key`, else ``address:port``.
        The order of the hosts matters for the rounding, as in Envoy.
    weights : sequence of int
        One a name, >= 1.
    minimum_ring_size, maximum_ring_size : int
        Envoy's defaults are 1024 and 8 Mi.

    Returns
    -------
    ndarray[TABLE_DTYPE], shape (n_points,)
        `table_index` counts `names`; empty if there are none.

    Examples
    --------
    >>> len(build_ring(["a", "b", "c"], [1, 1, 1], minimum_ring_size=10))
    12
    """
    total = sum(weights)
    entries: list[tuple[int, int]] = []
    if names:
        lightest = min(weights) / total
        scale = min(math.ceil(lightest * minimum_ring_size) / lightest, float(maximum_ring_size))
        current = 0.0
        target = 0.0
        for index, (name, weight) in enumerate(zip(names, weights, strict=True)):
            target += scale * (weight / total)
            point = 0
            while current < target:
                entries.append((xxh64(f"{name}_{point}"), index))
                point += 1
                current += 1.0
    ring = np.zeros(len(entries), TABLE_DTYPE)
    if entries:
        ring["hash"] = np.array([entry[0] for entry in entries], np.uint64)
        ring["table_index"] = [entry[1] for entry in entries]
        ring = ring[np.argsort(ring["hash"], kind="stable")]
    return ring


@kernel_jit
def pick(
    hosts: Any,
    members: Any,
    start: int,
    count: int,
    table: Any,
    table_start: int,
    table_count: int,
    hash_key: Any,
    attempt_number: int,
) -> int:
    """Pick the host of the first point at or after `hash_key`.

    Parameters
    ----------
    hosts : ndarray[HOST_DTYPE], shape (n_hosts,)
        Read only.
    members : ndarray[int32], shape (n_members,)
        Read only; the cluster's are ``members[start : start + count]``.
    start, count : int
        See `members`.
    table : ndarray[TABLE_DTYPE], shape (n_entries,)
        Read only; the ring is ``table[table_start : table_start + table_count]``.
    table_start, table_count : int
        See `table`; table_count >= 1.
    hash_key : uint64
        Hash of the request.
    attempt_number : int
        0 for the first selection, a for the a-th reselection within one try.

    Returns
    -------
    int
        Position in [0, count), or `NO_HOST`.
    """
    low = 0
    high = table_count
    while low < high:
        middle = (low + high) // 2
        if table["hash"][table_start + middle] < hash_key:
            low = middle + 1
        else:
            high = middle
    index = (low % table_count + attempt_number) % table_count
    return selectable_entry(hosts, members, start, count, table, table_start, table_count, index)
