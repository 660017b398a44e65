"""EDF: weighted picks in proportion to weight, spread as evenly as can be.

Rule (earliest deadline first): every host has a deadline in the cluster's virtual time; the
earliest is picked, FIFO among equal ones; the virtual time moves to that deadline, and the host
gets a new one

    deadline = virtual time + 1 / (weight / (requests_active + 1) ** active_request_bias)

(the weight times the factor of its slow start, `slow_start`), computed when it is picked, before
the new request counts.  Bias 0 is weighted round robin; with a bias, busy hosts come later
(weighted LEAST_REQUEST).

Deadlines closer than `_TIE` count as equal, because sums of 1/3 are not exact: so the sequence
is that of exact arithmetic, as is that of Envoy 1.40.0 (``data/hash_vectors.json``), which starts
its schedule at a random point.  Weights up to 128 differ by 1/(128 * 127) in virtual time.

A deadline before the virtual time cannot belong to a host that takes part in the schedule: it
is one that was away (unhealthy, or no member), and it enters anew as if picked just now, so
that it does not catch up on what it missed.  Envoy rebuilds the schedule instead.

The earliest is found by looking at all members, O(n): EDF is for clusters with unequal weights.

References
----------
Envoy, source/common/upstream/edf_scheduler.h (pickAndAdd);
source/extensions/load_balancing_policies/least_request/least_request_lb.cc (hostWeight).
"""

from __future__ import annotations

import math
from typing import Any

from meshsim.jit import kernel_jit, kernel_jit_inline
from meshsim.policy.load_balancing.slow_start import weight_factor
from meshsim.state.codes import NO_HOST

__all__ = ["is_earlier", "pick"]

#: Rounding stays below, differences between weights above [virtual time].
_TIE = 1e-6


@kernel_jit_inline
def is_earlier(deadline: float, order: int, other: float, other_order: int) -> bool:
    """Return whether an entry of an EDF schedule comes before another.

    Parameters
    ----------
    deadline, other : float
        Virtual deadlines [1 / weight], >= 0.
    order, other_order : int
        Insertion orders, which decide among equal deadlines.
    """
    return deadline < other - _TIE or (deadline < other + _TIE and order < other_order)


@kernel_jit_inline
def _weight(hosts: Any, host: int, bias: float, configs: Any, config: int, now_ns: int) -> float:
    """Return the weight of `host` under its present load."""
    weight = float(hosts["weight"][host])
    if bias == 1.0:
        weight /= float(hosts["requests_active"][host] + 1)
    elif bias > 0.0:
        weight /= math.pow(float(hosts["requests_active"][host] + 1), bias)
    if hosts["slow_start_end_ns"][host] > now_ns:
        weight *= weight_factor(hosts, host, configs, config, now_ns)
    return weight


@kernel_jit_inline
def _schedule(
    hosts: Any,
    host: int,
    clusters: Any,
    cluster: int,
    configs: Any,
    time: float,
    bias: float,
    now_ns: int,
) -> None:
    """Give `host` its next deadline, counted from `time`, behind all with the same."""
    clusters["edf_next_order"][cluster] += 1
    hosts["edf_order"][host] = clusters["edf_next_order"][cluster]
    weight = _weight(hosts, host, bias, configs, clusters["config"][cluster], now_ns)
    hosts["edf_deadline"][host] = time + 1.0 / weight


@kernel_jit
def pick(
    hosts: Any,
    members: Any,
    start: int,
    count: int,
    clusters: Any,
    cluster: int,
    configs: Any,
    bias: float,
    now_ns: int,
) -> int:
    """Pick the selectable member with the earliest deadline, and schedule it again.

    Parameters
    ----------
    hosts : ndarray[HOST_DTYPE], shape (n_hosts,)
        Modified in place: edf_deadline, edf_order.  `edf_order` 0 means never scheduled.
        Weights >= 1.
    members : ndarray[int32], shape (n_members,)
        Read only; the cluster's are ``members[start : start + count]``.
    start, count : int
        See `members`.
    clusters : ndarray[CLUSTER_DTYPE], shape (n_clusters,)
        Modified in place: edf_time, edf_next_order.
    cluster : int
        Row of `clusters`.
    configs : ndarray[CLUSTER_CONFIG_DTYPE], shape (n_configs,)
        Read only.
    bias : float
        `active_request_bias`, >= 0 [1].
    now_ns : int
        Current time of the caller's clock [ns].

    Returns
    -------
    int
        Position in [0, count), or `NO_HOST`.
    """
    time = clusters["edf_time"][cluster]
    picked = NO_HOST
    deadline = 0.0
    order = 0
    for position in range(count):
        host = members[start + position]
        if hosts["healthy"][host] == 0:
            continue
        if hosts["edf_order"][host] == 0 or hosts["edf_deadline"][host] < time - _TIE:
            _schedule(hosts, host, clusters, cluster, configs, time, bias, now_ns)
        other = hosts["edf_deadline"][host]
        if picked == NO_HOST or is_earlier(other, hosts["edf_order"][host], deadline, order):
            picked = position
            deadline = other
            order = hosts["edf_order"][host]
    if picked != NO_HOST:
        clusters["edf_time"][cluster] = deadline
        host = members[start + picked]
        _schedule(hosts, host, clusters, cluster, configs, deadline, bias, now_ns)
    return picked
