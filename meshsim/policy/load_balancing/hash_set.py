"""Hash tables by set of hosts: a ring or Maglev table is over the hosts that are selectable.

Rule (Envoy): when the health of a host changes, the table of its priority is built anew over the
healthy hosts (over all of them in panic).  Shares change with the set, so on a ring also keys of
other hosts move.

Here a cluster asks before a pick (`renew_table`).  While nothing has changed that is one
comparison; after a change the table over the present set is looked for among those at hand, and
built in the place of the one that was used least recently if it is not there.  So a set is built
once, whoever has it: a ring of 1,024 points or a Maglev table of 65,537 slots takes about a
millisecond.  The memory is that of the places: `set_count` of a configuration times the size of
its largest table.

Of a CLUSTER row that hashes, `cursor` is the first entry of the present table, or 0: that of its
configuration, which is over all members; `edf_next_order` is its number of entries, and
`edf_time` the HOST field `selections` for which all this holds.

References
----------
Envoy, source/extensions/load_balancing_policies/common/thread_aware_lb_impl.cc (refresh).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from meshsim.jit import kernel_jit
from meshsim.policy.load_balancing.hash_names import share_out
from meshsim.policy.load_balancing.maglev import fill_maglev
from meshsim.policy.load_balancing.random_pick import count_selectable
from meshsim.policy.load_balancing.ring_hash import fill_ring
from meshsim.rng import mix, mix_in
from meshsim.state.codes import MAGLEV, NO_INDEX, RING_HASH

__all__ = ["renew_table"]

_NO_KEY = np.uint64(0)
#: Shares enter a key as whole numbers of this.
_SHARE_BITS = float(1 << 52)
#: `selections` for which a CLUSTER row holds nothing: a host's is never negative.
_NEVER = -1.0


@kernel_jit
def _key_of(hosts: Any, members: Any, start: int, count: int, names: Any) -> Any:
    """Return the key of the members that have a share."""
    key = np.uint64(mix(np.uint64(count)))
    for place in range(start, start + count):
        endpoint = hosts["endpoint"][members[place]]
        if names["share"][endpoint] > 0.0:
            key = np.uint64(mix_in(key, endpoint))
            key = np.uint64(mix_in(key, hosts["table_index"][members[place]]))
            key = np.uint64(mix_in(key, int(names["share"][endpoint] * _SHARE_BITS)))
    return key


@kernel_jit
def _forget(clusters: Any, configs: Any, first: int) -> None:
    """Let every cluster that hashes by the table at `first` look for another."""
    for cluster in range(clusters.shape[0]):
        balancing = configs["balancing"][clusters["config"][cluster]]
        if balancing in (RING_HASH, MAGLEV) and clusters["cursor"][cluster] == first:
            clusters["cursor"][cluster] = 0
            clusters["edf_time"][cluster] = _NEVER


@kernel_jit
def _find(sets: Any, first: int, count: int, key: Any) -> int:
    """Return the place of the table with `key`, else the one that was used least recently."""
    oldest = NO_INDEX
    for row in range(first, first + count):
        if sets["key"][row] == key:
            return row
        if oldest == NO_INDEX or sets["used_ns"][row] < sets["used_ns"][oldest]:
            oldest = row
    return oldest


@kernel_jit
def renew_table(
    hosts: Any,
    members: Any,
    clusters: Any,
    cluster: int,
    configs: Any,
    table: Any,
    sets: Any,
    names: Any,
    letters: Any,
    localities: Any,
    first_locality: int,
    locality_count: int,
    now_ns: int,
) -> None:
    """Let the next pick of a cluster that hashes be by the table over its selectable hosts.

    Parameters
    ----------
    hosts : ndarray[HOST_DTYPE], shape (n_hosts,)
        Read only.
    members : ndarray[int32], shape (n_members,)
        Read only.
    clusters : ndarray[CLUSTER_DTYPE], shape (n_clusters,)
        Modified in place: cursor, edf_time and edf_next_order of rows that hash.
    cluster : int
        Row of `clusters`.
    configs : ndarray[CLUSTER_CONFIG_DTYPE], shape (n_configs,)
        Read only.
    table : ndarray[TABLE_DTYPE], shape (n_entries,)
        Modified in place where `sets` says.
    sets : ndarray[HASH_SET_DTYPE], shape (n_sets,)
        Modified in place.
    names : ndarray[HASH_NAME_DTYPE], shape (n_endpoints,)
        Shares and scratch are modified in place.
    letters : ndarray[uint8], shape (n_bytes,)
        What is behind the names is scratch.
    localities : ndarray[LOCALITY_DTYPE], shape (n_localities,)
        Read only.
    first_locality, locality_count : int
        Those of the lane whose weights matter; count 0: none.
    now_ns : int
        Current time of the caller's clock [ns].
    """
    start = clusters["member_start"][cluster]
    count = clusters["member_count"][cluster]
    if count == 0:
        return
    selections = float(hosts["selections"][members[start]])
    if clusters["edf_time"][cluster] == selections:
        return
    clusters["edf_time"][cluster] = selections
    clusters["cursor"][cluster] = 0
    config = clusters["config"][cluster]
    selectable = count_selectable(hosts, members, start, count)
    whole = selectable == 0 or selectable == count
    if whole or configs["set_count"][config] == 0:
        return
    share_out(hosts, members, clusters, cluster, names, localities, first_locality, locality_count)
    key = _key_of(hosts, members, start, count, names)
    row = _find(sets, configs["set_start"][config], configs["set_count"][config], key)
    first = int(sets["start"][row])
    if sets["key"][row] != key:
        if sets["key"][row] != _NO_KEY:
            _forget(clusters, configs, first)
            clusters["edf_time"][cluster] = selections
        sets["key"][row] = key
        capacity = int(sets["capacity"][row])
        if configs["balancing"][config] == MAGLEV:
            size = fill_maglev(hosts, members, start, count, names, table, first, capacity)
        else:
            smallest = configs["minimum_ring_size"][config]
            largest = configs["maximum_ring_size"][config]
            size = fill_ring(
                hosts, members, start, count, names, letters, table, first, capacity,
                smallest, largest,
            )  # fmt: skip
        sets["count"][row] = size
    sets["used_ns"][row] = now_ns
    clusters["cursor"][cluster] = first
    clusters["edf_next_order"][cluster] = sets["count"][row]
