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

from meshsim.jit import kernel_jit, kernel_jit_inline
from meshsim.policy.load_balancing.hash_names import candidates, point_hash
from meshsim.policy.load_balancing.hash_table import selectable_entry
from meshsim.state.upstream import TABLE_DTYPE

__all__ = ["build_ring", "fill_ring", "pick", "ring_capacity"]


@kernel_jit_inline
def _is_less(table: Any, one: int, other: int) -> bool:
    if table["hash"][one] != table["hash"][other]:
        return bool(table["hash"][one] < table["hash"][other])
    return bool(table["table_index"][one] < table["table_index"][other])


@kernel_jit_inline
def _swap(table: Any, one: int, other: int) -> None:
    key = table["hash"][one]
    index = table["table_index"][one]
    table["hash"][one] = table["hash"][other]
    table["table_index"][one] = table["table_index"][other]
    table["hash"][other] = key
    table["table_index"][other] = index


@kernel_jit
def _sink(table: Any, first: int, place: int, count: int) -> None:
    """Restore the heap of `count` entries from `first` on below `place`."""
    while True:
        child = 2 * place + 1
        if child >= count:
            return
        if child + 1 < count and _is_less(table, first + child, first + child + 1):
            child += 1
        if not _is_less(table, first + place, first + child):
            return
        _swap(table, first + place, first + child)
        place = child


@kernel_jit
def fill_ring(
    hosts: Any,
    members: Any,
    start: int,
    count: int,
    names: Any,
    letters: Any,
    table: Any,
    first: int,
    capacity: int,
    minimum_ring_size: int,
    maximum_ring_size: int,
) -> int:
    """Write the ring of the members that have a share; return its number of points.

    Parameters
    ----------
    hosts : ndarray[HOST_DTYPE], shape (n_hosts,)
        Read only.
    members : ndarray[int32], shape (n_members,)
        Read only; the cluster's are ``members[start : start + count]``.  Their order matters
        for the rounding, as in Envoy.
    start, count : int
        See `members`.
    names : ndarray[HASH_NAME_DTYPE], shape (n_endpoints,)
        With shares (`meshsim.policy.load_balancing.hash_names`).  Read only.
    letters : ndarray[uint8], shape (n_bytes,)
        What is behind the names is scratch.
    table : ndarray[TABLE_DTYPE], shape (n_entries,)
        Written from `first` on, at most `capacity` entries, sorted by hash.
    first, capacity : int
        See `table`.
    minimum_ring_size, maximum_ring_size : int
        In points.

    Notes
    -----
    O(points * log(points)): Williams' heap sort, which needs no memory.
    """
    lightest = 1.0
    for place in range(start, start + count):
        share = names["share"][hosts["endpoint"][members[place]]]
        if share > 0.0:
            lightest = min(lightest, share)
    scale = min(math.ceil(lightest * minimum_ring_size) / lightest, float(maximum_ring_size))
    size = 0
    target = 0.0
    for place in range(start, start + count):
        host = members[place]
        endpoint = hosts["endpoint"][host]
        target += scale * names["share"][endpoint]
        point = 0
        while float(size) < target and size < capacity:
            table["hash"][first + size] = point_hash(names, letters, endpoint, point)
            table["table_index"][first + size] = hosts["table_index"][host]
            point += 1
            size += 1
    for place in range(size // 2 - 1, -1, -1):
        _sink(table, first, place, size)
    for last in range(size - 1, 0, -1):
        _swap(table, first, first + last)
        _sink(table, first, 0, last)
    return size


def ring_capacity(weights: Sequence[int], minimum_ring_size: int, maximum_ring_size: int) -> int:
    """Return how many points a ring over any of some hosts has at most.

    Parameters
    ----------
    weights : sequence of int
        Of the hosts.
    minimum_ring_size, maximum_ring_size : int

    Notes
    -----
    ceil(s * minimum) / s <= minimum + 1 / s for the lightest share s, which is lightest of all
    among all hosts; and each host rounds up by less than one point.
    """
    positive = [weight for weight in weights if weight > 0]
    if not positive:
        return 0
    scale = minimum_ring_size + -(-sum(positive) // min(positive))
    return min(scale, maximum_ring_size) + len(positive) + 1


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
    capacity = ring_capacity(weights, minimum_ring_size, maximum_ring_size)
    ring = np.zeros(capacity, TABLE_DTYPE)
    hosts, members, rows, letters = candidates(names, weights)
    sizes = minimum_ring_size, maximum_ring_size
    size = fill_ring(hosts, members, 0, len(names), rows, letters, ring, 0, capacity, *sizes)
    return ring[:size].copy()


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
