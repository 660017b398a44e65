"""Consistent hashing, what ring and Maglev have in common: from a table entry to a host.

Rule: an entry names a host by its `table_index`.  Tables are built over the selectable members
(`meshsim.policy.load_balancing.hash_set`).  Where a table is older than the present members and
names one that is gone or not selectable, the next entries are tried in turn.  A host that is not
selectable is never returned; if none is selectable the result is `NO_HOST`.

With `hash_balance_factor` (bounded load) a host takes at most
slots = max(1, ceil(total * weight share)) requests of total = ceil((active + 1) * factor / 100)
of the cluster; it is overloaded when its active requests exceed its slots.  The overloaded
choice is replaced by the first that is not, in an order shuffled by the key alone, or by the
least overloaded.  Envoy shuffles with a Mersenne twister seeded by the hash; the numbers here
are the same, up to 227 of them (the state that needs no memory): beyond as many overloaded
hosts the least overloaded so far is taken.

References
----------
Envoy, source/extensions/load_balancing_policies/common/thread_aware_lb_impl.cc
(BoundedLoadHashingLoadBalancer).
Mirrokni, Thorup, Zadimoghaddam, "Consistent hashing with bounded loads", SODA 2018.
Chen, Coleman, Shrivastava, "Revisiting consistent hashing with bounded loads", AAAI 2021.
Matsumoto, Nishimura, "Mersenne twister", ACM TOMACS 8 (1998); MT19937, seeded as in C++11.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from meshsim.jit import kernel_jit, kernel_jit_inline
from meshsim.policy.load_balancing.random_pick import count_selectable
from meshsim.state.codes import NO_HOST

__all__ = ["bound_load", "selectable_entry"]

_WORD = 0xFFFFFFFF
_SEED_FACTOR = 1812433253
#: Distance of the words that MT19937 combines.
_TWIST = 397
#: Outputs that depend on seeded words only: 624 - 397.
_DRAWS_MAX = 227


@kernel_jit_inline
def _position(hosts: Any, members: Any, start: int, count: int, table_index: int) -> int:
    """Return the position of the member that a table calls `table_index`, or `NO_HOST`.

    O(1) if the members are those of the table, in its order.
    """
    if table_index < count and hosts["table_index"][members[start + table_index]] == table_index:
        return table_index
    for position in range(count):
        if hosts["table_index"][members[start + position]] == table_index:
            return position
    return NO_HOST


@kernel_jit
def selectable_entry(
    hosts: Any,
    members: Any,
    start: int,
    count: int,
    table: Any,
    table_start: int,
    table_count: int,
    index: int,
) -> int:
    """Return the member of the first entry from `index` on (cyclic) that is selectable.

    Parameters
    ----------
    hosts : ndarray[HOST_DTYPE], shape (n_hosts,)
        Read only.
    members : ndarray[int32], shape (n_members,)
        Read only; the cluster's are ``members[start : start + count]``.
    start, count : int
        See `members`.
    table : ndarray[TABLE_DTYPE], shape (n_entries,)
        Read only; the cluster's is ``table[table_start : table_start + table_count]``.
    table_start, table_count : int
        See `table`; table_count >= 1.
    index : int
        0 <= index < table_count.

    Returns
    -------
    int
        Position in [0, count), or `NO_HOST`.
    """
    for tried in range(table_count):
        entry = table_start + (index + tried) % table_count
        position = _position(hosts, members, start, count, table["table_index"][entry])
        if position != NO_HOST and hosts["healthy"][members[start + position]] != 0:
            return position
        if tried == 0 and count_selectable(hosts, members, start, count) == 0:
            return NO_HOST
    return NO_HOST


@kernel_jit_inline
def _load(hosts: Any, host: int, slots_total: int, weight_total: int) -> float:
    """Return active requests of `host` per slot; above 1 it is overloaded."""
    share = float(hosts["weight"][host]) / float(weight_total)
    slots = max(math.ceil(float(slots_total) * share), 1)
    return float(hosts["requests_active"][host]) / float(slots)


@kernel_jit_inline
def _seed_next(word: int, index: int) -> int:
    """Return the seeded word number `index` from the one before it."""
    return (_SEED_FACTOR * (word ^ (word >> 30)) + index) & _WORD


@kernel_jit_inline
def _twisted(word: int, following: int, far: int) -> int:
    """Return an output of MT19937 from three words of its state."""
    mixed = (word & 0x80000000) | (following & 0x7FFFFFFF)
    value = far ^ (mixed >> 1)
    if mixed & 1:
        value ^= 0x9908B0DF
    value ^= value >> 11
    value ^= (value << 7) & 0x9D2C5680
    value ^= (value << 15) & 0xEFC60000
    return value ^ (value >> 18)


@kernel_jit
def _first_not_overloaded(
    hosts: Any,
    members: Any,
    start: int,
    selectable: int,
    picked: int,
    slots_total: int,
    weight_total: int,
    seed: int,
) -> int:
    """Return the replacement of the overloaded `picked`; `edf_order` holds the order to shuffle.

    The words of the twister are recomputed along two cursors, at `drawn` and `drawn` + 397.
    """
    least = _load(hosts, members[start + picked], slots_total, weight_total)
    word = seed
    far = seed
    for index in range(1, _TWIST + 1):
        far = _seed_next(far, index)
    drawn = 0
    step = 0
    while step < selectable and drawn < _DRAWS_MAX:
        following = _seed_next(word, drawn + 1)
        remaining = selectable - step
        jump = _twisted(word, following, far) // ((_WORD + 1) // remaining)
        word = following
        drawn += 1
        far = _seed_next(far, drawn + _TWIST)
        if jump >= remaining:
            continue
        here = members[start + step]
        there = members[start + step + jump]
        other = hosts["edf_order"][there]
        hosts["edf_order"][there] = hosts["edf_order"][here]
        hosts["edf_order"][here] = other
        step += 1
        load = _load(hosts, members[start + other], slots_total, weight_total)
        if load <= 1.0:
            return int(other)
        if load < least:
            least = load
            picked = other
    return picked


@kernel_jit
def bound_load(
    hosts: Any,
    members: Any,
    start: int,
    count: int,
    clusters: Any,
    cluster: int,
    factor: int,
    picked: int,
    hash_key: Any,
) -> int:
    """Return `picked` if it is not overloaded, else the member that takes its place.

    Parameters
    ----------
    hosts : ndarray[HOST_DTYPE], shape (n_hosts,)
        `edf_order` of the members is scratch (a cluster that hashes has no EDF schedule).
    members : ndarray[int32], shape (n_members,)
        Read only; the cluster's are ``members[start : start + count]``.
    start, count : int
        See `members`.
    clusters : ndarray[CLUSTER_DTYPE], shape (n_clusters,)
        Read only.
    cluster : int
        Row of `clusters`.
    factor : int
        `hash_balance_factor`, >= 100 [percent].
    picked : int
        Position that the table gave; not `NO_HOST`.
    hash_key : uint64
        Hash of the request.

    Returns
    -------
    int
        Position in [0, count) of a selectable member.
    """
    weight_total = 0
    selectable = 0
    for position in range(count):
        host = members[start + position]
        if hosts["healthy"][host] != 0:
            weight_total += hosts["weight"][host]
            hosts["edf_order"][members[start + selectable]] = position
            selectable += 1
    slots_total = ((clusters["requests_active"][cluster] + 1) * factor + 99) // 100
    if _load(hosts, members[start + picked], slots_total, weight_total) <= 1.0:
        return picked
    seed = int(np.int64(hash_key & np.uint64(_WORD)))
    return _first_not_overloaded(
        hosts, members, start, selectable, picked, slots_total, weight_total, seed
    )
