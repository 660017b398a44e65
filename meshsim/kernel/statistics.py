"""Envoy's counters of filters, circuit breakers and health of every proxy, by their names.

Rule: counters that are 0 are left out, and so is a proxy that has none; names begin with the side
of the proxy that counts, or with ``application`` if its workload does.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from meshsim.kernel.memory import KernelState, Rows
from meshsim.state.codes import NO_INDEX
from meshsim.state.filters import (
    DIRECTION_COUNT,
    FAULT_STATS,
    INBOUND,
    LIMIT_STATS,
    OUTBOUND,
    QUOTA_STATS,
)
from meshsim.state.prequal import PREQUAL_STATS
from meshsim.state.server import APPLICATION_STATS, BULKHEAD_STATS
from meshsim.topology.compiled.concurrency import controller_stats
from meshsim.topology.compiled.health import health_counters
from meshsim.topology.compiled.priorities import OVERFLOWS, RETRY_STATS, open_breakers

__all__ = ["stats"]

_SIDES = {OUTBOUND: "outbound", INBOUND: "inbound"}


def stats(state: KernelState, names: list[str]) -> dict[str, dict[str, int]]:
    """Return proxy -> name of the counter -> count.

    Parameters
    ----------
    state : KernelState
        Read only.
    names : list of str
        Of the proxies that are reported, in the order of their rows.
    """
    found: dict[str, dict[str, int]] = {}
    for proxy, name in enumerate(names):
        counts: dict[str, int] = {}
        if len(state.fault_counts):
            counts |= _counts(state.fault_counts[proxy], FAULT_STATS, "outbound")
        if len(state.quota_counts):
            counts |= _counts(state.quota_counts[proxy], QUOTA_STATS, "outbound")
        if len(state.limit_counts):
            for side, said in _SIDES.items():
                row = state.limit_counts[DIRECTION_COUNT * proxy + side]
                counts |= _counts(row, LIMIT_STATS, said)
        if proxy < len(state.gradients) and state.gradients["rule"][proxy] != NO_INDEX:
            gauges = controller_stats(state.gradients[proxy])
            counts |= {f"inbound.{key}": value for key, value in gauges.items()}
        endpoint = int(state.proxies["endpoint"][proxy])
        if endpoint != NO_INDEX:
            counts |= _counts(state.endpoints[endpoint], APPLICATION_STATS, "application")
            counts |= _bulkhead_counts(state, endpoint)
        counts |= _breaker_counts(state, proxy)
        counts |= _health_counts(state, proxy)
        counts |= _probe_counts(state, proxy)
        if counts:
            found[name] = counts
    return found


def _bulkhead_counts(state: KernelState, endpoint: int) -> dict[str, int]:
    """Return what the bulkheads of a replica let through and refused."""
    start = int(state.endpoints["bulkhead_start"][endpoint])
    count = int(state.bulkhead_counts[state.endpoints["workload"][endpoint]])
    own = state.bulkheads[start : start + count]
    counts = {
        f"application.{name}": int(own[field].sum()) for name, field in BULKHEAD_STATS.items()
    }
    return {name: count for name, count in counts.items() if count}


def _breaker_counts(state: KernelState, proxy: int) -> dict[str, int]:
    """Return what became of tries and retries, and the circuit breakers that are open."""
    start = int(state.proxies["cluster_start"][proxy])
    counts: Counter[str] = Counter()
    for cluster in range(start, start + int(state.proxies["cluster_count"][proxy])):
        rows = {"default": cluster}
        if len(state.high_clusters) and state.high_clusters[cluster] != NO_INDEX:
            rows["high"] = int(state.high_clusters[cluster])
        own = state.clusters[list(rows.values())]
        counted = {**OVERFLOWS, **RETRY_STATS}
        counts.update({name: int(own[field].sum()) for name, field in counted.items()})
        counts.update(open_breakers(state.clusters, rows, state.configs))
    return {f"outbound.{name}": count for name, count in counts.items() if count}


def _health_counts(state: KernelState, proxy: int) -> dict[str, int]:
    """Return the counters of health of the clusters of a proxy together."""
    groups = np.flatnonzero(state.clusters["proxy"][state.cluster_health["cluster"]] == proxy)
    if not len(groups):
        return {}
    clusters = state.cluster_health["cluster"][groups]
    hosts = state.hosts[np.isin(state.hosts["cluster"], clusters)]
    counts = health_counters(hosts, state.cluster_health[groups], state.ejections[groups])
    return {f"outbound.{name}": count for name, count in counts.items() if count}


def _probe_counts(state: KernelState, proxy: int) -> dict[str, int]:
    """Return what was counted of the probes of a proxy."""
    pools = state.prequal_pools
    own = pools[state.clusters["proxy"][pools["cluster"]] == proxy]
    counts = {f"outbound.{name}": int(own[field].sum()) for name, field in PREQUAL_STATS.items()}
    return {name: count for name, count in counts.items() if count}


def _counts(row: Rows, fields: dict[str, str], side: str) -> dict[str, int]:
    counts = {f"{side}.{name}": int(row[field]) for name, field in fields.items()}
    return {name: count for name, count in counts.items() if count}
