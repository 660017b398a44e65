"""Places for hash tables over some of a cluster's hosts: none unless somebody hashes.

Rule: a configuration has one place for each cluster that uses it and one to spare, at most
`_SETS_MAX`; all places together have `_ENTRIES_MAX` entries (256 MiB), but every configuration
has at least one.  With fewer places than sets in use a table is built again more often.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from meshsim.policy.load_balancing.hash_names import name_rows
from meshsim.state.hash_set import HASH_SET_DTYPE
from meshsim.topology.compiled.layout import Rows

__all__ = ["hash_name_rows", "lay_out_sets"]

_SETS_MAX = 16
_ENTRIES_MAX = 1 << 24


def lay_out_sets(configs: Rows, clusters: Rows, table_size: int) -> Rows:
    """Give configurations that hash their places; return HASH_SET rows.

    Parameters
    ----------
    configs : ndarray[CLUSTER_CONFIG_DTYPE], shape (n_configs,)
        Modified in place: set_start, set_count.
    clusters : ndarray[CLUSTER_DTYPE], shape (n_clusters,)
        Read only.
    table_size : int
        Entries of the shared tables; the places begin behind them.

    Examples
    --------
    >>> from meshsim.state.upstream import CLUSTER_CONFIG_DTYPE, CLUSTER_DTYPE
    >>> configs = np.zeros(1, CLUSTER_CONFIG_DTYPE)
    >>> configs["set_capacity"] = 100
    >>> lay_out_sets(configs, np.zeros(2, CLUSTER_DTYPE), 50)["start"].tolist()
    [50, 150, 250]
    """
    users = np.bincount(clusters["config"], minlength=len(configs))
    capacities = configs["set_capacity"].astype(np.int64)
    counts = np.where((capacities > 0) & (users > 0), np.minimum(users + 1, _SETS_MAX), 0)
    wanted = int((counts * capacities).sum())
    if wanted > _ENTRIES_MAX:
        counts = np.minimum(counts, np.maximum(counts * _ENTRIES_MAX // wanted, 1))
    configs["set_count"] = counts
    configs["set_start"] = np.cumsum(counts) - counts
    sets = np.zeros(int(counts.sum()), HASH_SET_DTYPE)
    sets["capacity"] = np.repeat(capacities, counts)
    sets["start"] = table_size + np.cumsum(sets["capacity"], dtype=np.int64) - sets["capacity"]
    return sets


def hash_name_rows(names: Sequence[str], sets: Rows) -> dict[str, Rows]:
    """Return `hash_names` and `hash_letters` of hosts with these names; empty without `sets`."""
    rows, letters = name_rows(names if len(sets) else ())
    return {"hash_names": rows, "hash_letters": letters}
