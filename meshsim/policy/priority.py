"""Which priority of a cluster the next request goes to.

Rule: hosts have a priority, 0 first.  All figures are whole percents, as Envoy's:

    availability(P) = min(100, factor * healthy / hosts)        factor: overprovisioning, 140
    total           = min(100, sum of the availabilities)
    load(P)         = min(100 - loads before, availability(P) * 100 / total)

so a priority takes everything while 72 % of its hosts are healthy, and what it cannot take
spills over to the next.  What is left when every healthy host has its load goes to degraded
hosts by the same formula, and what rounding leaves to the first priority that has any hosts
available.  If the total is below 100, a priority of which less than `panic_threshold` percent
are healthy or degraded panics: all its hosts are selectable; if all panic, they get their load
by their numbers of hosts.

Envoy's documentation (panic_threshold.rst) prints 7/93 for two priorities of which 5 % and 65 %
are healthy; its code, and this, give the rounding to the first: 8/92.

References
----------
Envoy, source/extensions/load_balancing_policies/common/load_balancer_impl.cc
(recalculatePerPriorityState, recalculatePerPriorityPanic, choosePriority).
"""

from __future__ import annotations

from typing import Any

from meshsim.jit import kernel_jit
from meshsim.policy.panic import is_below_threshold

__all__ = ["choose_priority", "distribute_load"]


@kernel_jit
def _measure_availability(priorities: Any, start: int, count: int, factor: int) -> int:
    """Write the availabilities of some priorities; return their total, at most 100 [percent]."""
    total = 0
    for row in range(start, start + count):
        hosts = priorities["hosts"][row]
        priorities["availability"][row] = 0
        priorities["degraded_availability"][row] = 0
        priorities["load"][row] = 0
        priorities["degraded_load"][row] = 0
        priorities["panic"][row] = 0
        if hosts > 0:
            healthy = min(100, factor * priorities["healthy"][row] // hosts)
            degraded = min(100, factor * priorities["degraded"][row] // hosts)
            priorities["availability"][row] = healthy
            priorities["degraded_availability"][row] = degraded
            total += healthy + degraded
    return min(total, 100)


@kernel_jit
def _share_out(priorities: Any, start: int, count: int, total: int) -> None:
    """Give healthy, then degraded hosts their load; rounding to the first available."""
    left = 100
    for row in range(start, start + count):
        load = min(left, priorities["availability"][row] * 100 // total)
        priorities["load"][row] = load
        left -= load
    for row in range(start, start + count):
        load = min(left, priorities["degraded_availability"][row] * 100 // total)
        priorities["degraded_load"][row] = load
        left -= load
    for row in range(start, start + count):
        if left > 0 and priorities["availability"][row] > 0:
            priorities["load"][row] += left
            left = 0
    for row in range(start, start + count):
        if left > 0 and priorities["degraded_availability"][row] > 0:
            priorities["degraded_load"][row] += left
            left = 0


@kernel_jit
def _share_out_in_panic(priorities: Any, start: int, count: int) -> None:
    """Every priority panics: give each its share of the hosts; rounding to the first."""
    hosts = 0
    first = start
    for row in range(start, start + count):
        if hosts == 0:
            first = row
        hosts += priorities["hosts"][row]
    if hosts == 0:
        first = start
    left = 100
    for row in range(start, start + count):
        load = 100 * priorities["hosts"][row] // hosts if hosts > 0 else 0
        priorities["load"][row] = load
        priorities["degraded_load"][row] = 0
        left -= load
    priorities["load"][first] += left


@kernel_jit
def distribute_load(
    priorities: Any, start: int, count: int, factor: int, panic_threshold: int
) -> None:
    """Write the availability, the load and the panic of some priorities.

    Parameters
    ----------
    priorities : ndarray[PRIORITY_DTYPE], shape (n_priorities,)
        Rows ``start`` to ``start + count - 1``: hosts, healthy and degraded are read, the rest
        of the percents is modified in place.  The loads add up to 100.
    start, count : int
        See `priorities`; count >= 1.
    factor : int
        `overprovisioning_factor` [percent].
    panic_threshold : int
        0 to 100 [percent]; 0 disables.
    """
    total = _measure_availability(priorities, start, count, factor)
    if total > 0:
        _share_out(priorities, start, count, total)
    if total == 100:
        return
    if panic_threshold == 0:
        if total == 0:
            priorities["load"][start] = 100  # nobody there will be found
        return
    panicking = 0
    for row in range(start, start + count):
        available = priorities["healthy"][row] + priorities["degraded"][row]
        if is_below_threshold(available, priorities["hosts"][row], panic_threshold):
            priorities["panic"][row] = 1
            panicking += 1
    if panicking == count:
        _share_out_in_panic(priorities, start, count)


@kernel_jit
def choose_priority(priorities: Any, start: int, count: int, percentile: int) -> tuple[int, bool]:
    """Return the priority that `percentile` falls into, and whether its degraded hosts are meant.

    Parameters
    ----------
    priorities : ndarray[PRIORITY_DTYPE], shape (n_priorities,)
        Read only; with loads.
    start, count : int
        Its rows are ``start`` to ``start + count - 1``.
    percentile : int
        0 to 99.
    """
    below = 0
    for row in range(start, start + count):
        below += priorities["load"][row]
        if percentile < below:
            return row, False
    for row in range(start, start + count):
        below += priorities["degraded_load"][row]
        if percentile < below:
            return row, True
    return start, False
