"""MAGLEV: the host that owns slot hash mod M of a table.

Rule: the table has a prime number M of slots (65537).  Hosts, sorted by name, take turns; in
its turn a host takes the next free slot of its own permutation

    (offset + n * skip) mod M,  offset = xxh64(name) mod M,  skip = xxh64(name, 1) mod (M - 1) + 1

With weights, the heaviest takes a slot in every round and the others in proportion.  So the
slots of equal hosts differ by one at most.  When a retry asks for another host, attempt a
looks up hash xor -a.

Names and keys as Envoy hashes them give the hosts that Envoy picks (``data/hash_vectors.json``).

References
----------
Eisenbud et al., "Maglev: a fast and reliable software network load balancer", NSDI 2016.
Envoy, source/extensions/load_balancing_policies/maglev/maglev_lb.cc.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from meshsim.jit import kernel_jit
from meshsim.policy.load_balancing.hash_names import candidates
from meshsim.policy.load_balancing.hash_table import selectable_entry
from meshsim.state.codes import NO_INDEX
from meshsim.state.upstream import TABLE_DTYPE

__all__ = ["build_maglev", "fill_maglev", "pick"]


@kernel_jit
def _put_in_order(hosts: Any, members: Any, start: int, count: int, names: Any) -> int:
    """Write the members with a share, sorted by name, into `order`; return how many there are."""
    size = 0
    for place in range(start, start + count):
        endpoint = hosts["endpoint"][members[place]]
        if names["share"][endpoint] <= 0.0:
            continue
        rank = names["rank"][endpoint]
        at = size
        while at > 0:
            before = names["order"][hosts["endpoint"][members[start + at - 1]]]
            if names["rank"][hosts["endpoint"][members[before]]] < rank:
                break
            names["order"][hosts["endpoint"][members[start + at]]] = before
            at -= 1
        names["order"][hosts["endpoint"][members[start + at]]] = place
        names["tried"][endpoint] = 0
        names["turns"][endpoint] = 0.0
        size += 1
    return size


@kernel_jit
def fill_maglev(
    hosts: Any,
    members: Any,
    start: int,
    count: int,
    names: Any,
    table: Any,
    first: int,
    table_size: int,
) -> int:
    """Let the members that have a share take turns until every slot has an owner.

    Parameters
    ----------
    names : ndarray[HASH_NAME_DTYPE], shape (n_endpoints,)
        With shares; order, tried and turns are scratch.
    table : ndarray[TABLE_DTYPE], shape (n_entries,)
        Written: ``table[first : first + table_size]``.
    first : int
        See `table`.
    table_size : int
        Number of slots; a prime.

    Returns
    -------
    int
        `table_size`, or 0 if nobody has a share.

    Notes
    -----
    The others are those of `meshsim.policy.load_balancing.ring_hash.fill_ring`.
    """
    taking = _put_in_order(hosts, members, start, count, names)
    if taking == 0:
        return 0
    largest = 0.0
    for place in range(start, start + count):
        largest = max(largest, names["share"][hosts["endpoint"][members[place]]])
    for slot in range(first, first + table_size):
        table["table_index"][slot] = NO_INDEX
    size = np.uint64(table_size)
    filled = 0
    turn = 1
    while filled < table_size:
        for taker in range(taking):
            if filled == table_size:
                break
            host = members[names["order"][hosts["endpoint"][members[start + taker]]]]
            endpoint = hosts["endpoint"][host]
            if turn * names["share"][endpoint] < names["turns"][endpoint]:
                continue
            names["turns"][endpoint] += largest
            offset = int(np.int64(names["hash"][endpoint] % size))
            skip = int(np.int64(names["second_hash"][endpoint] % (size - np.uint64(1)))) + 1
            slot = (offset + skip * names["tried"][endpoint]) % table_size
            while table["table_index"][first + slot] != NO_INDEX:
                slot = (slot + skip) % table_size
                names["tried"][endpoint] += 1
            table["table_index"][first + slot] = hosts["table_index"][host]
            names["tried"][endpoint] += 1
            filled += 1
        turn += 1
    return table_size


def build_maglev(
    names: Sequence[str], weights: Sequence[int], table_size: int = 65537
) -> npt.NDArray[np.void]:
    """Return the Maglev table of some hosts.

    Parameters
    ----------
    names : sequence of str
        What is hashed: Envoy takes ``envoy.lb`` metadata `hash_key`, else ``address:port``.
    weights : sequence of int
        One a name, >= 1.
    table_size : int
        Number of slots; a prime, at most 5 000 011.

    Returns
    -------
    ndarray[TABLE_DTYPE], shape (table_size,)
        `table_index` counts `names`; empty if there are none.

    Examples
    --------
    >>> table = build_maglev(["a", "b"], [1, 2])
    >>> [int(slots) for slots in np.bincount(table["table_index"])]
    [21846, 43691]
    """
    table = np.zeros(table_size, TABLE_DTYPE)
    hosts, members, rows, _ = candidates(names, weights)
    size = fill_maglev(hosts, members, 0, len(names), rows, table, 0, table_size)
    return table[:size].copy()


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
    """Pick the owner of the slot of `hash_key`.

    Parameters and result are those of `meshsim.policy.load_balancing.ring_hash.pick`; the
    table is a Maglev table.
    """
    if attempt_number > 0:
        hash_key = hash_key ^ (np.uint64(0) - np.uint64(attempt_number))
    index = int(np.int64(hash_key % np.uint64(table_count)))
    return selectable_entry(hosts, members, start, count, table, table_start, table_count, index)
