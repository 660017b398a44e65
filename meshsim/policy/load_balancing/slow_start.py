"""Slow start: a new host gets its share of the traffic little by little.

Rule (Envoy): for `slow_start_window` after it was added (with health checks: after it became
healthy) the weight of a healthy host is multiplied by

    max(min_weight_percent / 100, (max(elapsed, 1 ms) / window) ** (1 / aggression))

Only ROUND_ROBIN and LEAST_REQUEST know it.  While a member is in its window they pick by EDF
(`edf`) even if the weights are equal.

Hosts that come with their cluster begin together, which favours none of them; they are not
counted as new.  Envoy goes on with EDF after the window until the hosts change; here the
unweighted rule is back at once.

References
----------
Envoy, source/extensions/load_balancing_policies/common/load_balancer_impl.cc
(applySlowStartFactor, recalculateHostsInSlowStart);
docs/root/intro/arch_overview/upstream/load_balancing/slow_start.rst, whose formula has 1 s for
the code's 1 ms.
"""

from __future__ import annotations

import math
from typing import Any

from meshsim.jit import kernel_jit

__all__ = ["any_starts", "begin_slow_start", "slow_start_factor", "weight_factor"]

_SHORTEST_NS = 1_000_000


@kernel_jit
def slow_start_factor(elapsed_ns: int, window_ns: int, aggression: float, least: float) -> float:
    """Return the factor of a host's weight, in (0, 1].

    Parameters
    ----------
    elapsed_ns : int
        Since its slow start began [ns], >= 0.
    window_ns : int
        Length of the window [ns], > 0.
    aggression : float
        > 0; above 1 the weight rises fast at first.
    least : float
        Smallest factor, in [0, 1].
    """
    if elapsed_ns >= window_ns:
        return 1.0
    share = max(elapsed_ns, _SHORTEST_NS) / window_ns
    if aggression != 1.0:
        share = math.pow(share, 1.0 / aggression)
    return max(share, least)


@kernel_jit
def weight_factor(hosts: Any, host: int, configs: Any, config: int, now_ns: int) -> float:
    """Return the factor of the weight of `host` at `now_ns`.

    Parameters
    ----------
    hosts : ndarray[HOST_DTYPE], shape (n_hosts,)
        Read only.
    host : int
        Row of `hosts`.
    configs : ndarray[CLUSTER_CONFIG_DTYPE], shape (n_configs,)
        Read only.
    config : int
        Row of `configs`.
    now_ns : int
        Current time of the caller's clock [ns].
    """
    left_ns = hosts["slow_start_end_ns"][host] - now_ns
    if left_ns <= 0 or hosts["unhealthy"][host] != 0:
        return 1.0
    window_ns = configs["slow_start_window_ns"][config]
    if window_ns == 0:
        return 1.0
    aggression = configs["slow_start_aggression"][config]
    least = configs["slow_start_min_weight"][config]
    return slow_start_factor(max(window_ns - left_ns, 0), window_ns, aggression, least)


@kernel_jit
def any_starts(hosts: Any, members: Any, start: int, count: int, now_ns: int) -> bool:
    """Return whether a member is in its window; O(members)."""
    for position in range(count):
        if hosts["slow_start_end_ns"][members[start + position]] > now_ns:
            return True
    return False


@kernel_jit
def begin_slow_start(hosts: Any, host: int, configs: Any, config: int, now_ns: int) -> None:
    """Begin the window of `host` at `now_ns`, if its cluster has slow start."""
    window_ns = configs["slow_start_window_ns"][config]
    hosts["slow_start_end_ns"][host] = now_ns + window_ns if window_ns > 0 else 0
