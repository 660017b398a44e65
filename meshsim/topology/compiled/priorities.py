"""Requests of HIGH priority: limits, counts and connection pools of their own.

Rule: Envoy keeps circuit breakers and connection pools by priority, and one load balancer and one
belief in the health of hosts for both.  A cluster that routes of HIGH priority lead to has
another CLUSTER row behind all others, with a configuration of its own, and so have its hosts
another HOST row each: there the HIGH requests are counted, wait, and have their connections.
`high_clusters` and `high_hosts` lead from one row to the other, and back; both are empty if
nothing is of HIGH priority.

References
----------
Envoy, source/common/upstream/resource_manager_impl.h;
source/common/upstream/cluster_manager_impl.cc (httpConnPoolImpl: one pool a host and priority);
api/envoy/config/cluster/v3/circuit_breaker.proto.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from meshsim.policy.circuit_breakers import retries_max
from meshsim.state.codes import NO_INDEX, PICK_HIGH, ROUND_ROBIN
from meshsim.state.health import HEALTHY
from meshsim.topology.compiled.layout import Rows
from meshsim.topology.compiled.policies import fill_thresholds, no_clusters, no_hosts
from meshsim.topology.model import ClusterPolicy, Thresholds

__all__ = [
    "OVERFLOWS",
    "RETRY_STATS",
    "add_high_priority",
    "high_config",
    "high_hosts",
    "open_breakers",
]

#: What a row of HIGH priority has in common with the cluster's.
_SHARED = ("proxy", "memory_start", "memory_count")


def high_config(fields: Rows, policy: ClusterPolicy) -> Rows:
    """Return the CLUSTER_CONFIG row of the HIGH priority of a cluster.

    Parameters
    ----------
    fields : ndarray[CLUSTER_CONFIG_DTYPE], shape (1,)
        Of the cluster; read only.
    policy : ClusterPolicy
        Of the cluster.
    """
    own = fields.copy()
    own["picking"] = PICK_HIGH
    own["balancing"] = ROUND_ROBIN  # never asked: the cluster's own row picks
    own["table_count"] = own["set_capacity"] = 0
    own["health"] = own["locality"] = own["report_rule"] = NO_INDEX
    breakers = policy.circuit_breakers
    fill_thresholds(own, (breakers.high if breakers else None) or Thresholds())
    return own


def add_high_priority(
    hosts: Rows, clusters: Rows, members: Rows, high_clusters: Rows, configs: Mapping[int, int]
) -> dict[str, Rows]:
    """Return `hosts`, `clusters`, `members`, `high_clusters` and `high_hosts` with rows added.

    Parameters
    ----------
    hosts, clusters, members, high_clusters : ndarray
        As they are; read only.
    configs : mapping of int to int
        By CLUSTER row that gets another of HIGH priority: its CLUSTER_CONFIG row.
    """
    added_hosts, size = [], len(hosts)
    rows = no_clusters(len(configs))
    for row, (cluster, config) in enumerate(configs.items()):
        for field in _SHARED:
            rows[field][row] = clusters[field][cluster]
        start, count = clusters["member_start"][cluster], clusters["member_count"][cluster]
        own = no_hosts(int(count))
        own["endpoint"] = hosts["endpoint"][members[start : start + count]]
        own["cluster"] = len(clusters) + row
        own["healthy"] = HEALTHY
        rows["config"][row] = config
        rows["member_start"][row] = len(members) + size - len(hosts)
        rows["member_count"][row] = count
        added_hosts.append(own)
        size += int(count)
    links = np.full(len(clusters) + len(rows), NO_INDEX, np.int32)
    links[: len(high_clusters)] = high_clusters
    links[list(configs)] = np.arange(len(clusters), len(links))
    links[len(clusters) :] = list(configs)
    all_hosts = np.concatenate([hosts, *added_hosts], dtype=hosts.dtype)
    return {
        "hosts": all_hosts,
        "clusters": np.concatenate([clusters, rows], dtype=clusters.dtype),
        "members": np.concatenate([members, np.arange(len(hosts), size, dtype=np.int32)]),
        "high_clusters": links,
        "high_hosts": high_hosts(all_hosts, links),
    }


def high_hosts(hosts: Rows, high_clusters: Rows) -> Rows:
    """Return, by HOST row, the row of the same endpoint in the other priority, or NO_INDEX.

    Parameters
    ----------
    hosts : ndarray[HOST_DTYPE]
    high_clusters : ndarray[int32]
        By CLUSTER row; a row of HIGH priority comes behind that of its cluster.
    """
    links = np.full(len(hosts) if len(high_clusters) else 0, NO_INDEX, np.int32)
    if not len(links):
        return links
    other = high_clusters[hosts["cluster"]]
    linked = np.flatnonzero((other != NO_INDEX) & (hosts["endpoint"] != NO_INDEX))
    high = other[linked] < hosts["cluster"][linked]
    base, above = linked[~high], linked[high]
    base = base[np.lexsort((hosts["endpoint"][base], hosts["cluster"][base]))]
    above = above[np.lexsort((hosts["endpoint"][above], other[above]))]
    links[base], links[above] = above, base
    return links


#: Envoy's counters of refusals by the circuit breakers of a cluster, and where they are.
OVERFLOWS = {
    "upstream_cx_overflow": "connection_overflow",
    "upstream_rq_pending_overflow": "pending_overflow",
    "upstream_rq_active_overflow": "request_overflow",
    "upstream_rq_retry_overflow": "retry_overflow",
}
#: Those of timeouts and retries.
RETRY_STATS = {
    "upstream_rq_timeout": "timeouts",
    "upstream_rq_per_try_timeout": "per_try_timeouts",
    "upstream_rq_retry": "retries_total",
    "upstream_rq_retry_success": "retry_success",
    "upstream_rq_retry_limit_exceeded": "retry_limit_exceeded",
    "upstream_rq_retry_backoff_exponential": "backoff_exponential",
    "upstream_rq_retry_backoff_ratelimited": "backoff_ratelimited",
    "upstream_rq_deadline_exceeded": "deadline_exceeded",  # ours: Envoy sends them
}


def open_breakers(clusters: Rows, rows: Mapping[str, int], configs: Rows) -> dict[str, int]:
    """Return Envoy's gauges of circuit breakers: 1 where a limit is reached, else 0.

    Parameters
    ----------
    clusters, configs : ndarray
        CLUSTER and CLUSTER_CONFIG rows; read only.
    rows : mapping of str to int
        CLUSTER row by priority, ``default`` and perhaps ``high``.
    """
    found: dict[str, int] = {}
    for priority, row in rows.items():
        limits, counts = configs[clusters["config"][row]], clusters[row]
        reached = {
            "cx_open": counts["connections_active"] >= limits["max_connections"],
            "rq_pending_open": counts["pending_active"] >= limits["max_pending_requests"],
            "rq_open": counts["requests_active"] >= limits["max_requests"],
            "rq_retry_open": counts["retries_active"] >= retries_max(clusters, row, configs),
        }
        found |= {f"circuit_breakers.{priority}.{name}": int(is_) for name, is_ in reached.items()}
    return found
