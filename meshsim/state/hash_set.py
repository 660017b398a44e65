"""Hash tables by set of hosts: what is kept of a table, and of the names that are hashed.

A HASH_SET row is a place in the shared hash tables for the table over one set of selectable hosts;
the places of a CLUSTER_CONFIG are a range of them (`set_start`, `set_count`).  HASH_NAME rows
belong to ENDPOINT rows by the same number; all are empty where nobody hashes.
"""

from __future__ import annotations

import numpy as np

__all__ = ["HASH_NAME_DTYPE", "HASH_SET_DTYPE", "SUFFIX_BYTES"]

#: Room behind a name for "_" and the number of a point of a ring.
SUFFIX_BYTES = 12

HASH_SET_DTYPE = np.dtype(
    [
        ("key", "u8"),  # of the hosts, their order and shares; 0: there is no table yet
        ("start", "i4"),  # first entry in the shared hash tables
        ("capacity", "i4"),  # entries there is room for
        ("count", "i4"),  # entries of the table
        ("used_ns", "i8"),  # when a cluster last took it
    ],
    align=True,
)

HASH_NAME_DTYPE = np.dtype(
    [
        ("start", "i4"),  # letters[start:][:length] is the name
        ("length", "i4"),
        ("rank", "i4"),  # among all names, sorted
        ("order", "i4"),  # scratch: whose turn it is
        ("hash", "u8"),  # of the name, seed 0
        ("second_hash", "u8"),  # seed 1
        ("share", "f8"),  # scratch: of the weights, 0 to 1
        ("tried", "i8"),  # scratch: slots looked at
        ("turns", "f8"),  # scratch: turns taken, in units of the largest share
    ],
    align=True,
)
