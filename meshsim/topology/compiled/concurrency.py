"""Adaptive concurrency as rows: rules, controllers, and what they report.

Rule: whoever runs the engine (the compiler of a scenario, a live proxy) makes rows here.  Each
inbound proxy has a controller of its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from meshsim.policy.adaptive_concurrency import begin_controller
from meshsim.rng import PURPOSE_CONCURRENCY, mix, mix_in
from meshsim.state.codes import NEVER_NS, NO_INDEX
from meshsim.state.concurrency import (
    GRADIENT_DTYPE,
    GRADIENT_RULE_DTYPE,
    LATENCY_BIN_COUNT,
)
from meshsim.topology.compiled.layout import Rows
from meshsim.topology.model import AdaptiveConcurrency

__all__ = ["blank_controllers", "controller_stats", "gradient_rule", "start_controller"]

_PREFIX = "adaptive_concurrency.gradient_controller."


def gradient_rule(stated: AdaptiveConcurrency) -> Rows:
    """Return the GRADIENT_RULE row of a filter whose fields are filled: shape (1,)."""
    limits, least = stated.concurrency_limit_params, stated.min_rtt_calc_params
    rule = np.zeros(1, GRADIENT_RULE_DTYPE)
    rule["sample_aggregate"] = _share(stated.sample_aggregate_percentile)
    rule["status"] = stated.concurrency_limit_exceeded_status
    rule["concurrency_update_interval_ns"] = limits.concurrency_update_interval
    rule["max_concurrency_limit"] = limits.max_concurrency_limit
    rule["interval_ns"] = NEVER_NS if least.interval is None else least.interval
    rule["fixed_us"] = (least.fixed_value or 0) // 1_000
    rule["request_count"] = least.request_count
    rule["min_concurrency"] = least.min_concurrency
    rule["jitter"] = _share(least.jitter)
    rule["buffer"] = _share(least.buffer)
    return rule


def _share(percentage: float | None) -> float:
    return 0.0 if percentage is None else percentage / 100


def blank_controllers(count: int) -> tuple[Rows, Rows]:
    """Return GRADIENT rows that control nothing, and their bins."""
    controllers = np.zeros(count, GRADIENT_DTYPE)
    controllers["rule"] = NO_INDEX
    return controllers, np.zeros((count, LATENCY_BIN_COUNT), np.int32)


def start_controller(
    controllers: Rows, row: int, rules: Rows, bins: Rows, run_seed: int, proxy: int, now_ns: int
) -> None:
    """Begin the life of the controller of a proxy, whose `rule` is set.

    Parameters
    ----------
    controllers, row, rules, bins
        As for `meshsim.policy.adaptive_concurrency`; row `row` is modified in place.
    run_seed, proxy : int
        Of the run and the proxy: they select the draws.
    now_ns : int
        [ns].
    """
    key = np.uint64(mix(np.uint64(run_seed)))
    for part in (PURPOSE_CONCURRENCY, proxy):
        key = np.uint64(mix_in(key, part))
    controllers["key"][row] = key
    begin_controller(controllers, row, rules, bins, now_ns)


def controller_stats(controller: Any) -> dict[str, int]:
    """Return Envoy's counter and gauges of one GRADIENT row, without those that are 0."""
    found = {
        "rq_blocked": int(controller["blocked"]),
        "concurrency_limit": int(controller["limit"]),
        "gradient": int(1000 * controller["gradient"]),  # in thousandths, as Envoy reports it
        "burst_queue_size": int(controller["burst_queue_size"]),
        "min_rtt_msecs": int(controller["min_rtt_us"]) // 1_000,
        "sample_rtt_msecs": int(controller["sample_rtt_us"]) // 1_000,
        "min_rtt_calculation_active": int(controller["deferred_limit"] > 0),
    }
    return {_PREFIX + name: value for name, value in found.items() if value}
