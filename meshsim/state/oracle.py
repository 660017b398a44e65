"""What balancers that see the true queues of servers keep; empty where nobody uses one.

ORACLE_HOST rows belong to HOST rows, ORACLE_CLUSTER rows to CLUSTER rows, ORACLE_ENDPOINT rows to
ENDPOINT rows, each by the same number.
"""

from __future__ import annotations

import numpy as np

ORACLE_HOST_DTYPE = np.dtype(
    [
        ("load", "i4"),  # of its server, as of the last view
        ("next", "i4"),  # in the idle queue of its cluster
        ("previous", "i4"),
    ],
    align=True,
)

ORACLE_CLUSTER_DTYPE = np.dtype(
    [
        ("idle_head", "i4"),  # HOST that is idle for longest, or NO_INDEX
        ("idle_tail", "i4"),
        ("view_ns", "i8"),  # when the loads were seen last
        ("idle_picks", "i8"),  # picks that found an idle server in the queue
    ],
    align=True,
)

ORACLE_ENDPOINT_DTYPE = np.dtype(
    [
        ("host_start", "i4"),  # watchers[host_start:][:host_count]: HOST rows it can tell
        ("host_count", "i4"),
        ("listed", "i4"),  # HOST in whose cluster's idle queue it is, or NO_INDEX
    ],
    align=True,
)
