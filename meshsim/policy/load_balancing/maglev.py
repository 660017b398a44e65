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
from meshsim.policy.hashing import xxh64
from meshsim.policy.load_balancing.hash_table import selectable_entry
from meshsim.state.codes import NO_INDEX
from meshsim.state.upstream import TABLE_DTYPE

__all__ = ["build_maglev", "pick"]


@kernel_jit
def _fill(slots: Any, offsets: Any, skips: Any, shares: Any, tried: Any, targets: Any) -> None:
    """Let the hosts take turns until every slot of `slots` (all NO_INDEX) has an owner.

    `tried` counts the slots a host has looked at, `targets` the turns it has had, in units of
    the largest share; both start at 0.
    """
    size = slots.shape[0]
    largest = 0.0
    for host in range(shares.shape[0]):
        largest = max(largest, shares[host])
    filled = 0
    turn = 1
    while filled < size:
        for host in range(shares.shape[0]):
            if filled == size:
                break
            if turn * shares[host] < targets[host]:
                continue
            targets[host] += largest
            slot = (offsets[host] + skips[host] * tried[host]) % size
            while slots[slot] != NO_INDEX:
                tried[host] += 1
                slot = (offsets[host] + skips[host] * tried[host]) % size
            slots[slot] = host
            tried[host] += 1
            filled += 1
        turn += 1


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
    if not names:
        return np.zeros(0, TABLE_DTYPE)
    order = sorted(range(len(names)), key=lambda index: names[index])
    total = sum(weights)
    slots = np.full(table_size, NO_INDEX, np.int64)
    _fill(
        slots,
        np.array([xxh64(names[index]) % table_size for index in order], np.int64),
        np.array([xxh64(names[index], 1) % (table_size - 1) + 1 for index in order], np.int64),
        np.array([weights[index] / total for index in order], np.float64),
        np.zeros(len(order), np.int64),
        np.zeros(len(order), np.float64),
    )
    table = np.zeros(table_size, TABLE_DTYPE)
    table["table_index"] = np.array(order)[slots]
    return table


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
