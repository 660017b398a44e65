"""Rows of clusters that balance by probes (PREQUAL): none unless somebody does."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from meshsim.state.codes import NO_INDEX, PREQUAL
from meshsim.state.prequal import (
    BUCKET_SAMPLES,
    FLIGHTS,
    POOL_MAX,
    PREQUAL_POOL_DTYPE,
    PREQUAL_RULE_DTYPE,
    PREQUAL_SERVER_DTYPE,
    PROBE_DTYPE,
    PROBE_FLIGHT_DTYPE,
    RIF_BUCKETS,
    RIF_SAMPLES,
)
from meshsim.topology.compiled.layout import Rows
from meshsim.topology.model import ClusterPolicy, LoadBalancing

__all__ = ["prequal_rows", "prequal_rule", "probes_max"]


def prequal_rule(settings: LoadBalancing) -> Rows:
    """Return the rule of a cluster: ndarray[PREQUAL_RULE_DTYPE], shape (1,)."""
    rule = np.zeros(1, PREQUAL_RULE_DTYPE)
    rule["r_probe"] = settings.r_probe
    rule["r_remove"] = settings.r_remove
    rule["q_rif"] = settings.q_rif
    rule["reuse_delta"] = settings.reuse_delta
    rule["max_age_ns"] = settings.probe_max_age
    rule["pool_size"] = settings.probe_pool_size
    return rule


def probes_max(policies: Iterable[ClusterPolicy]) -> int:
    """Return how many probes one pick can send at most, whatever its cluster."""
    settings = [policy.load_balancing for policy in policies]
    rates = [item.r_probe for item in settings if item is not None and item.policy == "PREQUAL"]
    return max((math.ceil(rate or 0.0) + 1 for rate in rates), default=0)


def prequal_rows(clusters: Rows, configs: Rows, endpoint_count: int) -> dict[str, Rows]:
    """Return the rows of probes, blank.

    Parameters
    ----------
    clusters, configs : ndarray
        CLUSTER and CLUSTER_CONFIG rows.
    endpoint_count : int
    """
    probing = np.flatnonzero(configs["balancing"][clusters["config"]] == PREQUAL)
    count = len(probing)
    links = np.full(len(clusters) if count else 0, NO_INDEX, np.int32)
    links[probing] = np.arange(count)
    pools = np.zeros(count, PREQUAL_POOL_DTYPE)
    pools["cluster"] = probing
    servers = endpoint_count if count else 0
    return {
        "prequal_links": links,
        "prequal_pools": pools,
        "probes": np.zeros((count, POOL_MAX), PROBE_DTYPE),
        "probe_rifs": np.zeros((count, RIF_SAMPLES), np.int32),
        "probe_flights": np.zeros((count, FLIGHTS), PROBE_FLIGHT_DTYPE),
        "prequal_servers": np.zeros((servers, RIF_BUCKETS), PREQUAL_SERVER_DTYPE),
        "prequal_samples": np.zeros((servers, RIF_BUCKETS * BUCKET_SAMPLES), np.int64),
    }
