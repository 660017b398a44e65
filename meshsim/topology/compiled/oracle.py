"""Rows of balancers that see the true queues of servers: none unless somebody uses one."""

from __future__ import annotations

import numpy as np

from meshsim.state.codes import NO_INDEX, ORACLE_IDLE_QUEUE, PICK_ORACLE
from meshsim.state.oracle import (
    ORACLE_CLUSTER_DTYPE,
    ORACLE_ENDPOINT_DTYPE,
    ORACLE_HOST_DTYPE,
)
from meshsim.topology.compiled.layout import Rows

__all__ = ["oracle_rows"]

#: Before the first look at the loads.
_NEVER_SEEN = -(1 << 62)


def oracle_rows(hosts: Rows, clusters: Rows, configs: Rows, endpoint_count: int) -> dict[str, Rows]:
    """Return `oracle_hosts`, `oracle_clusters`, `oracle_endpoints` and `watchers`, blank.

    Parameters
    ----------
    hosts, clusters, configs : ndarray
        HOST, CLUSTER and CLUSTER_CONFIG rows.
    endpoint_count : int
    """
    picking, balancing = configs["picking"], configs["balancing"]
    used = bool((picking[clusters["config"]] == PICK_ORACLE).any())
    views = np.zeros(len(hosts) if used else 0, ORACLE_HOST_DTYPE)
    queues = np.zeros(len(clusters) if used else 0, ORACLE_CLUSTER_DTYPE)
    servers = np.zeros(endpoint_count if used else 0, ORACLE_ENDPOINT_DTYPE)
    queues["idle_head"] = queues["idle_tail"] = servers["listed"] = NO_INDEX
    queues["view_ns"] = _NEVER_SEEN
    watchers = np.zeros(0, np.int32)
    if used:
        config = clusters["config"][hosts["cluster"]]
        idle = balancing[config] == ORACLE_IDLE_QUEUE
        told = np.flatnonzero(idle & (hosts["endpoint"] != NO_INDEX))
        watchers = told[np.argsort(hosts["endpoint"][told], kind="stable")].astype(np.int32)
        counts = np.bincount(hosts["endpoint"][told], minlength=endpoint_count)
        servers["host_count"] = counts
        servers["host_start"] = np.cumsum(counts) - counts
    return {
        "oracle_hosts": views,
        "oracle_clusters": queues,
        "oracle_endpoints": servers,
        "watchers": watchers,
    }
