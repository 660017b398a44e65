"""Rows of clusters that weigh by load reports: none unless somebody does."""

from __future__ import annotations

import numpy as np

from meshsim.state.codes import NEVER_NS, NO_INDEX
from meshsim.state.load_report import (
    LOAD_REPORT_DTYPE,
    REPORT_RULE_DTYPE,
    REPORTED_CLUSTER_DTYPE,
    REPORTED_WEIGHT_DTYPE,
)
from meshsim.topology.compiled.layout import Rows
from meshsim.topology.model import LoadBalancing

__all__ = ["report_rows", "report_rule"]


def report_rule(settings: LoadBalancing) -> Rows:
    """Return the rule of a cluster: ndarray[REPORT_RULE_DTYPE], shape (1,)."""
    rule = np.zeros(1, REPORT_RULE_DTYPE)
    rule["blackout_period_ns"] = settings.blackout_period
    rule["weight_expiration_period_ns"] = settings.weight_expiration_period
    rule["weight_update_period_ns"] = settings.weight_update_period
    rule["error_utilization_penalty"] = settings.error_utilization_penalty
    return rule


def report_rows(
    host_count: int, clusters: Rows, configs: Rows, endpoint_count: int
) -> dict[str, Rows]:
    """Return `load_reports`, `reported_weights` and `reported_clusters`, blank.

    Parameters
    ----------
    host_count, endpoint_count : int
    clusters, configs : ndarray
        CLUSTER and CLUSTER_CONFIG rows.
    """
    used = bool((configs["report_rule"][clusters["config"]] != NO_INDEX).any())
    weights = np.zeros(host_count if used else 0, REPORTED_WEIGHT_DTYPE)
    weights["since_ns"] = NEVER_NS
    return {
        "load_reports": np.zeros(endpoint_count if used else 0, LOAD_REPORT_DTYPE),
        "reported_weights": weights,
        "reported_clusters": np.zeros(len(clusters) if used else 0, REPORTED_CLUSTER_DTYPE),
    }
