"""EDF: weighted picks in proportion to weight, spread as evenly as can be.

Rule (earliest deadline first): every host has a deadline in the cluster's virtual time; the
earliest is picked, FIFO among equal ones; the virtual time moves to that deadline, and the host
gets a new one

    deadline = virtual time + 1 / (weight / (requests_active + 1) ** active_request_bias)

(the weight times the factor of its slow start, `slow_start`), computed when it is picked, before
the new request counts.  Bias 0 is weighted round robin; with a bias, busy hosts come later
(weighted LEAST_REQUEST).

A schedule of which no member has a deadline yet begins as if `cursor` picks had been made, at a
random point of its cycle (`meshsim.policy.load_balancing.round_robin`).  After P picks from
deadlines of 1 / w on, with the sum of weights W, a host has been picked at least floor(P * w / W)
times, and P / W is the virtual time: so what is left of its deadline is (1 - fraction of
P * w / W) / w, and the few picks that are missing follow one by one.  Of equal deadlines the least
weight is the first, because it has been waiting for longest.

Deadlines closer than `_TIE` count as equal, because sums of 1/3 are not exact: so the sequence
is that of exact arithmetic, as is that of Envoy 1.40.0 (``data/hash_vectors.json``).  Weights up
to 128 differ by 1/(128 * 127) in virtual time.

A deadline before the virtual time cannot belong to a host that takes part in the schedule: it
is one that was away (unhealthy, or no member), and it enters anew as if picked just now, so
that it does not catch up on what it missed.  Envoy rebuilds the schedule instead.

The earliest is found by looking at all members, O(n): EDF is for clusters with unequal weights.

References
----------
Envoy, source/common/upstream/edf_scheduler.h (pickAndAdd, createWithPicks);
source/extensions/load_balancing_policies/common/load_balancer_impl.cc (refresh);
source/extensions/load_balancing_policies/least_request/least_request_lb.cc (hostWeight).
"""

from __future__ import annotations

import math
from typing import Any

from meshsim.jit import kernel_jit, kernel_jit_inline
from meshsim.policy.load_balancing.slow_start import weight_factor
from meshsim.state.codes import NO_HOST

__all__ = ["PICKS_AHEAD_MAX", "first_order", "is_earlier", "pick", "turn_passed"]

#: Rounding stays below, differences between weights above [virtual time].
_TIE = 1e-6
#: A schedule begins at most so many picks ahead, of which the fractions are exact to 1e-8; a cycle
#: is the sum of the weights.  (Envoy takes the remainder by 429,496,729.)
PICKS_AHEAD_MAX = 1 << 24
#: Weights that differ by less are equal where deadlines are.
_WEIGHTS_A_UNIT = 1 << 16


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
def turn_passed(ahead: float, weight: float, total: float) -> float:
    """Return which part of its present turn an entry has waited for, in [0, 1).

    Parameters
    ----------
    ahead : float
        Whole picks since the schedule began, 0 <= ahead < `PICKS_AHEAD_MAX`.
    weight, total : float
        Of the entry, and of all; > 0.
    """
    turns = ahead * weight / total
    return turns - math.floor(turns)


@kernel_jit_inline
def first_order(weight: float, position: int, count: int) -> int:
    """Return the insertion order, >= 1, that an entry has before any of its schedule is picked.

    Parameters
    ----------
    weight : float
        > 0.
    position, count : int
        Of the entry among all: 0 <= position < count.
    """
    return int(weight * _WEIGHTS_A_UNIT) * count + position + 1


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
def _is_fresh(hosts: Any, members: Any, start: int, count: int) -> bool:
    """Return whether no selectable member has a deadline; O(1) unless it is so."""
    for position in range(start, start + count):
        host = members[position]
        if hosts["healthy"][host] != 0 and hosts["edf_order"][host] != 0:
            return False
    return True


@kernel_jit
def _begin(
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
    """Give all selectable members their deadlines after whole shares of the picks ahead.

    Returns
    -------
    int
        How many of the picks are still to be made, less than the members.
    """
    config = clusters["config"][cluster]
    time = clusters["edf_time"][cluster]
    known_order = clusters["edf_next_order"][cluster]
    ahead = float(clusters["cursor"][cluster] % PICKS_AHEAD_MAX)
    total = 0.0
    for position in range(count):
        host = members[start + position]
        if hosts["healthy"][host] != 0:
            total += _weight(hosts, host, bias, configs, config, now_ns)
    missing = 0.0
    for position in range(count):
        host = members[start + position]
        if hosts["healthy"][host] == 0:
            continue
        weight = _weight(hosts, host, bias, configs, config, now_ns)
        passed = turn_passed(ahead, weight, total)
        missing += passed
        hosts["edf_deadline"][host] = time + (1.0 - passed) / weight
        order = known_order + first_order(weight, position, count)
        hosts["edf_order"][host] = order
        clusters["edf_next_order"][cluster] = max(clusters["edf_next_order"][cluster], order)
    return int(missing + 0.5)


@kernel_jit
def _pick_next(
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
    """Pick the selectable member with the earliest deadline, and schedule it again."""
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
    """Pick the selectable member whose turn it is, of a schedule that begins if it has not yet.

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
    if _is_fresh(hosts, members, start, count):
        missing = _begin(hosts, members, start, count, clusters, cluster, configs, bias, now_ns)
        for _ in range(missing):
            _pick_next(hosts, members, start, count, clusters, cluster, configs, bias, now_ns)
    return _pick_next(hosts, members, start, count, clusters, cluster, configs, bias, now_ns)
