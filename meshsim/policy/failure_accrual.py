"""Failure accrual: an endpoint that fails in a row is left alone, then tried with one request.

Rule (Linkerd, ``balancer.linkerd.io/failure-accrual: consecutive``).  A host is

- *available* until `max_failures` failures in a row: statuses 5xx, and requests that ended
  without a response;
- then *unavailable* for a penalty; the penalty number i in a row, from 0, is

      base = min(min_penalty * 2**i, max_penalty)
      penalty = min(base + U[0, 1) * jitter_ratio * base, max_penalty)

  and what is still answered meanwhile is ignored;
- then in *probation*: it takes exactly one request.  The first result that comes decides: a
  success makes it available and forgets the penalties, a failure begins the next penalty.

A request that its proxy gave up by a timeout counts as a failure.  If nobody waits for the probe
any more the host is in probation again.  Where every host is unavailable a request ends at once
(503, UH); Linkerd lets it wait for its failfast timeout first.

References
----------
linkerd/linkerd2-proxy linkerd/app/outbound/src/http/breaker/consecutive_failures.rs,
linkerd/exp-backoff/src/lib.rs;
linkerd/linkerd2 policy-controller/k8s/index/src/outbound/index.rs (defaults 7, 1 s, 1 min, 0.5).
"""

from __future__ import annotations

from typing import Any

from meshsim.jit import kernel_jit
from meshsim.policy.outlier_detection import next_draw
from meshsim.state.codes import NEVER_NS
from meshsim.state.health import (
    ACCRUAL_AVAILABLE,
    ACCRUAL_PROBATION,
    ACCRUAL_PROBING,
    ACCRUAL_UNAVAILABLE,
    BY_ACCRUAL,
)

__all__ = [
    "begin_probation",
    "end_penalties",
    "on_answered",
    "on_probe_lost",
    "penalty_is_over",
    "penalty_ns",
]


@kernel_jit
def penalty_ns(rules: Any, rule: int, penalties: int, uniform: float) -> int:
    """Return the length of a penalty [ns].

    Parameters
    ----------
    rules : ndarray[HEALTH_RULE_DTYPE], shape (n_rules,)
        Read only.
    rule : int
        Row of `rules`.
    penalties : int
        Penalties in a row before this one, >= 0.
    uniform : float
        Draw in [0, 1).
    """
    longest_ns = rules["max_penalty_ns"][rule]
    base_ns = rules["min_penalty_ns"][rule]
    for _ in range(penalties):
        if base_ns >= longest_ns:
            break
        base_ns *= 2
    base_ns = min(base_ns, longest_ns)
    jitter_ns = int(uniform * rules["jitter_ratio"][rule] * base_ns)
    return int(min(base_ns + jitter_ns, longest_ns))


@kernel_jit
def on_answered(
    hosts: Any,
    rules: Any,
    rule: int,
    healths: Any,
    groups: Any,
    group: int,
    host: int,
    failed: bool,
    now_ns: int,
) -> bool:
    """Take the result of a request to `host`; return whether its `unhealthy` changed.

    Parameters
    ----------
    hosts : ndarray[HOST_DTYPE], shape (n_hosts,)
        Row `host` is modified in place: unhealthy.
    rules : ndarray[HEALTH_RULE_DTYPE], shape (n_rules,)
        Read only.
    rule : int
        Row of `rules`.
    healths : ndarray[HOST_HEALTH_DTYPE], shape (n_healths,)
        The host's row is modified in place.
    groups : ndarray[CLUSTER_HEALTH_DTYPE], shape (n_groups,)
        Row `group` is modified in place.
    group : int
        Row of `groups`.
    host : int
        Row of `hosts`.
    failed : bool
    now_ns : int
        Current time of the caller's clock [ns].
    """
    health = hosts["health"][host]
    state = healths["accrual_state"][health]
    if state == ACCRUAL_UNAVAILABLE:
        return False
    if not failed:
        healths["failures"][health] = 0
        if state == ACCRUAL_AVAILABLE:
            return False
        healths["penalties"][health] = 0
        healths["accrual_state"][health] = ACCRUAL_AVAILABLE
        hosts["unhealthy"][host] &= ~BY_ACCRUAL
        return True
    healths["failures"][health] += 1
    if state == ACCRUAL_AVAILABLE and healths["failures"][health] < rules["max_failures"][rule]:
        return False
    length_ns = penalty_ns(rules, rule, healths["penalties"][health], next_draw(groups, group))
    healths["penalties"][health] += 1
    healths["penalty_end_ns"][health] = now_ns + length_ns
    healths["accrual_state"][health] = ACCRUAL_UNAVAILABLE
    hosts["unhealthy"][host] |= BY_ACCRUAL
    groups["accrual_total"][group] += 1
    return True


@kernel_jit
def penalty_is_over(hosts: Any, members: Any, clusters: Any, cluster: int, healths: Any) -> int:
    """Return when the next penalty of a member of `cluster` ends [ns], or `NEVER_NS`."""
    start = clusters["member_start"][cluster]
    earliest_ns = NEVER_NS
    for position in range(clusters["member_count"][cluster]):
        health = hosts["health"][members[start + position]]
        if healths["accrual_state"][health] == ACCRUAL_UNAVAILABLE:
            earliest_ns = min(earliest_ns, int(healths["penalty_end_ns"][health]))
    return earliest_ns


@kernel_jit
def end_penalties(
    hosts: Any, members: Any, clusters: Any, cluster: int, healths: Any, now_ns: int
) -> bool:
    """Put hosts whose penalty is over in probation; return whether there was one."""
    start = clusters["member_start"][cluster]
    changed = False
    for position in range(clusters["member_count"][cluster]):
        host = members[start + position]
        health = hosts["health"][host]
        unavailable = healths["accrual_state"][health] == ACCRUAL_UNAVAILABLE
        if unavailable and healths["penalty_end_ns"][health] <= now_ns:
            healths["accrual_state"][health] = ACCRUAL_PROBATION
            hosts["unhealthy"][host] &= ~BY_ACCRUAL
            changed = True
    return changed


@kernel_jit
def begin_probation(hosts: Any, healths: Any, host: int) -> bool:
    """Let the request that was just sent to `host` be its probe, if it is in probation.

    Returns whether its `unhealthy` changed: nothing else is sent to it before the result.
    """
    health = hosts["health"][host]
    if healths["accrual_state"][health] != ACCRUAL_PROBATION:
        return False
    healths["accrual_state"][health] = ACCRUAL_PROBING
    hosts["unhealthy"][host] |= BY_ACCRUAL
    return True


@kernel_jit
def on_probe_lost(hosts: Any, healths: Any, host: int) -> bool:
    """Let `host` take another probe if one was under way; return whether `unhealthy` changed."""
    health = hosts["health"][host]
    if healths["accrual_state"][health] != ACCRUAL_PROBING:
        return False
    healths["accrual_state"][health] = ACCRUAL_PROBATION
    hosts["unhealthy"][host] &= ~BY_ACCRUAL
    return True
