"""CLIENT_SIDE_WEIGHTED_ROUND_ROBIN: weights that servers' load reports give.

Rule (gRFC A58, Envoy): a report that comes with a response says the server's rate of requests, its
utilization and its rate of errors, and makes

    weight = rps / (utilization + eps / rps * error_utilization_penalty)

A weight counts from `blackout_period` after the first report on, until it was not renewed for
`weight_expiration_period`; then the blackout begins anew.  Every `weight_update_period` the
weights of all hosts are set: those that count, and for the others the median of them (1 if there
is none).  Picks are weighted round robin (`edf`, bias 0).

When a weight has changed the schedule begins anew, as Envoy's does.

Departures: Envoy cuts weights to whole numbers; here they are scaled so that the largest is
10,000, and at least 1.  Weights are set at the first pick after they are due.

References
----------
Envoy, source/extensions/load_balancing_policies/common/orca_weight_manager.cc
(calculateWeightFromOrcaReport, updateWeightsOnHosts);
api/envoy/extensions/load_balancing_policies/client_side_weighted_round_robin/v3;
grpc/proposal A58-client-side-weighted-round-robin-lb-policy.md.
"""

from __future__ import annotations

from typing import Any

from meshsim.jit import kernel_jit
from meshsim.state.codes import NEVER_NS

__all__ = ["on_report", "reported_weight", "set_weights"]

#: The largest weight.
_LARGEST = 10_000.0


@kernel_jit
def reported_weight(rps: float, utilization: float, eps: float, penalty: float) -> float:
    """Return the weight that a report gives; 0.0 if it gives none.

    Parameters
    ----------
    rps, eps : float
        Requests and errors [1/s].
    utilization : float
        0 to 1, or more.
    penalty : float
        `error_utilization_penalty` [1].
    """
    if rps <= 0.0:
        return 0.0
    load = utilization + penalty * eps / rps
    return rps / load if load > 0.0 else 0.0


@kernel_jit
def on_report(weights: Any, host: int, weight: float, now_ns: int) -> None:
    """Take note of the weight that a report of `host` gives, if it gives one.

    Parameters
    ----------
    weights : ndarray[REPORTED_WEIGHT_DTYPE], shape (n_hosts,)
        Row `host` is modified in place.
    host : int
        Row of `weights`.
    weight : float
        0.0: none.
    now_ns : int
        Current time of the caller's clock [ns].
    """
    if weight <= 0.0:
        return
    weights["weight"][host] = weight
    weights["updated_ns"][host] = now_ns
    if weights["since_ns"][host] == NEVER_NS:
        weights["since_ns"][host] = now_ns


@kernel_jit
def _counts(weights: Any, host: int, rules: Any, rule: int, now_ns: int) -> bool:
    """Return whether the weight of `host` counts; one that has expired begins anew."""
    since_ns = weights["since_ns"][host]
    if since_ns == NEVER_NS or now_ns - since_ns < rules["blackout_period_ns"][rule]:
        return False
    if now_ns - weights["updated_ns"][host] > rules["weight_expiration_period_ns"][rule]:
        weights["since_ns"][host] = NEVER_NS
        return False
    return True


@kernel_jit
def _median(weights: Any, members: Any, start: int, count: int) -> float:
    """Return the median of the first `count` scratch values, which are sorted (Shell's sort)."""
    gap = count // 2
    while gap > 0:
        for place in range(gap, count):
            value = weights["scratch"][members[start + place]]
            hole = place
            while hole >= gap and weights["scratch"][members[start + hole - gap]] > value:
                moved = weights["scratch"][members[start + hole - gap]]
                weights["scratch"][members[start + hole]] = moved
                hole -= gap
            weights["scratch"][members[start + hole]] = value
        gap //= 2
    middle = weights["scratch"][members[start + count // 2]]
    if count % 2 == 1:
        return float(middle)
    return float(0.5 * (middle + weights["scratch"][members[start + count // 2 - 1]]))


@kernel_jit
def set_weights(
    hosts: Any,
    members: Any,
    start: int,
    count: int,
    weights: Any,
    rules: Any,
    rule: int,
    now_ns: int,
) -> None:
    """Set the weights of the members of a cluster by what their servers reported.

    Parameters
    ----------
    hosts : ndarray[HOST_DTYPE], shape (n_hosts,)
        Modified in place: weight; edf_order, if a weight has changed.
    members : ndarray[int32], shape (n_members,)
        Read only; the cluster's are ``members[start : start + count]``.
    start, count : int
        See `members`.
    weights : ndarray[REPORTED_WEIGHT_DTYPE], shape (n_hosts,)
        Modified in place where a weight has expired; `scratch`.
    rules : ndarray[REPORT_RULE_DTYPE], shape (n_rules,)
        Read only.
    rule : int
        Row of `rules`.
    now_ns : int
        Current time of the caller's clock [ns].
    """
    valid = 0
    largest = 0.0
    for position in range(start, start + count):
        host = members[position]
        weights["counts"][host] = 0
        if _counts(weights, host, rules, rule, now_ns):
            weights["counts"][host] = 1
            weight = weights["weight"][host]
            weights["scratch"][members[start + valid]] = weight
            valid += 1
            largest = max(largest, weight)
    default = _median(weights, members, start, valid) if valid > 0 else 1.0
    scale = _LARGEST / largest if valid > 0 else 1.0
    changed = False
    for position in range(start, start + count):
        host = members[position]
        weight = weights["weight"][host] if weights["counts"][host] != 0 else default
        whole = max(1, int(weight * scale + 0.5))
        changed = changed or whole != hosts["weight"][host]
        hosts["weight"][host] = whole
    if changed:
        for position in range(start, start + count):
            hosts["edf_order"][members[position]] = 0
