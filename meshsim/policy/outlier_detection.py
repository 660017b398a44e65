"""Outlier detection: a host that fails is ejected for a while, by each client proxy on its own.

Rule (Envoy).  What a request to a host came to is one of

- a status: 5xx count as failures, 502, 503 and 504 as gateway failures; anything else ends both
  runs, and a 5xx that is no gateway failure ends the run of gateway failures;
- a *local origin* failure: no connection, a reset (counted as 503), a timeout (as 504).  With
  `split_external_local_origin_errors` those have a run of their own, which a request that gets
  its connection ends, and they count as no status.

The n-th failure of a run detects an outlier at once; two more detectors and the way back in are
the sweep's (`meshsim.policy.outlier_sweep`).

A detected host is ejected if one more keeps within `max_ejection_percent` of the hosts (or
`always_eject_one_host` and none is ejected yet; else `ejections_overflow`), and if a coin of
`enforcing_*` percent says so.  The n-th ejection in a row lasts

    min(base_ejection_time * n, max_ejection_time) + jitter

and ends at the first sweep after that, which resets the runs.

Small clusters: the default of 10 % ejects nobody of fewer than 10 hosts (measured, Envoy 1.40.0).
Releases before Envoy 1.28 always ejected one; `always_eject_one_host` (Envoy 1.32) says so.

References
----------
Envoy, source/common/upstream/outlier_detection_impl.cc; source/common/router/router.cc
(updateOutlierDetection); api/envoy/config/cluster/v3/outlier_detection.proto;
docs/root/intro/arch_overview/upstream/outlier.rst; pull requests 27909, 34796.
"""

from __future__ import annotations

from typing import Any

from meshsim.jit import kernel_jit
from meshsim.rng import key_uniform, mix_in
from meshsim.state.codes import RESET_NONE, RESET_PER_TRY_TIMEOUT
from meshsim.state.health import (
    BY_OUTLIER,
    EJECTION_CONSECUTIVE_5XX,
    EJECTION_CONSECUTIVE_GATEWAY_FAILURE,
    EJECTION_CONSECUTIVE_LOCAL_ORIGIN_FAILURE,
    EJECTION_COUNT,
    EJECTION_FAILURE_PERCENTAGE,
    EJECTION_LOCAL_ORIGIN_SUCCESS_RATE,
    EJECTION_SUCCESS_RATE,
    WITHDRAWN,
)

__all__ = [
    "count_ejected",
    "detect",
    "ejection_time_ns",
    "next_draw",
    "on_connected",
    "on_result",
    "uneject",
]

_NS_PER_MS = 1_000_000
#: Reasons not to detect a host: it is ejected already, or no member.
_OUT = BY_OUTLIER | WITHDRAWN
_BAD_GATEWAY = 502
_SERVICE_UNAVAILABLE = 503
_GATEWAY_TIMEOUT = 504


@kernel_jit
def ejection_time_ns(rules: Any, rule: int, back_off: int, jitter_ns: int) -> int:
    """Return how long the ejection number `back_off` in a row lasts at least [ns].

    Parameters
    ----------
    rules : ndarray[HEALTH_RULE_DTYPE], shape (n_rules,)
        Read only.
    rule : int
        Row of `rules`.
    back_off : int
        Ejections in a row, this one included, >= 1.
    jitter_ns : int
        Drawn for this ejection [ns].
    """
    time_ns = rules["base_ejection_time_ns"][rule] * back_off
    return min(time_ns, rules["max_ejection_time_ns"][rule]) + jitter_ns


@kernel_jit
def count_ejected(hosts: Any, members: Any, clusters: Any, cluster: int) -> tuple[int, int]:
    """Return how many members of `cluster` are ejected (``ejections_active``), and of how many."""
    start = clusters["member_start"][cluster]
    ejected = 0
    count = 0
    for position in range(clusters["member_count"][cluster]):
        reasons = hosts["unhealthy"][members[start + position]]
        if reasons & WITHDRAWN == 0:
            count += 1
            if reasons & BY_OUTLIER != 0:
                ejected += 1
    return ejected, count


# --- Ejecting -------------------------------------------------------------------------------


@kernel_jit
def next_draw(groups: Any, group: int) -> float:
    """Return the next draw of a cluster in [0, 1)."""
    groups["draws"][group] += 1
    return key_uniform(mix_in(groups["key"][group], groups["draws"][group]))


@kernel_jit
def _enforcing(rules: Any, rule: int, kind: int) -> int:
    """Return the share of detections of `kind` that eject [percent]."""
    if kind == EJECTION_CONSECUTIVE_5XX:
        return int(rules["enforcing_consecutive_5xx"][rule])
    if kind == EJECTION_CONSECUTIVE_GATEWAY_FAILURE:
        return int(rules["enforcing_consecutive_gateway_failure"][rule])
    if kind == EJECTION_CONSECUTIVE_LOCAL_ORIGIN_FAILURE:
        return int(rules["enforcing_consecutive_local_origin_failure"][rule])
    if kind == EJECTION_SUCCESS_RATE:
        return int(rules["enforcing_success_rate"][rule])
    if kind == EJECTION_LOCAL_ORIGIN_SUCCESS_RATE:
        return int(rules["enforcing_local_origin_success_rate"][rule])
    if kind == EJECTION_FAILURE_PERCENTAGE:
        return int(rules["enforcing_failure_percentage"][rule])
    return int(rules["enforcing_local_origin_failure_percentage"][rule])


@kernel_jit
def _may_eject(
    hosts: Any, members: Any, clusters: Any, cluster: int, rules: Any, rule: int
) -> bool:
    """Return whether one more host may be ejected."""
    ejected, count = count_ejected(hosts, members, clusters, cluster)
    if rules["always_eject_one_host"][rule] == 1 and ejected == 0:
        return True
    return bool(100 * (ejected + 1) <= rules["max_ejection_percent"][rule] * count)


@kernel_jit
def detect(
    hosts: Any,
    members: Any,
    clusters: Any,
    cluster: int,
    rules: Any,
    rule: int,
    healths: Any,
    groups: Any,
    ejections: Any,
    host: int,
    kind: int,
    now_ns: int,
) -> bool:
    """Count a detected outlier and eject it if that may be; return whether it was ejected.

    Parameters are those of `on_result`; `kind` is an `EJECTION_*` code.
    """
    group = clusters["health"][cluster]
    ejections[group, kind] += 1
    if not _may_eject(hosts, members, clusters, cluster, rules, rule):
        groups["ejections_overflow"][group] += 1
        return False
    enforcing = _enforcing(rules, rule, kind)
    if enforcing < 100 and (enforcing == 0 or next_draw(groups, group) * 100.0 >= enforcing):
        return False
    ejections[group, EJECTION_COUNT + kind] += 1
    groups["ejections_enforced"][group] += 1
    hosts["unhealthy"][host] |= BY_OUTLIER
    health = hosts["health"][host]
    healths["ejected_ns"][health] = now_ns
    jitter_max_ms = rules["max_ejection_time_jitter_ns"][rule] // _NS_PER_MS
    jitter_ns = 0
    if jitter_max_ms > 0:
        jitter_ns = int(next_draw(groups, group) * (jitter_max_ms + 1)) * _NS_PER_MS
    healths["jitter_ns"][health] = jitter_ns
    base_ns = rules["base_ejection_time_ns"][rule]
    if healths["back_off"][health] * base_ns < rules["max_ejection_time_ns"][rule] + base_ns:
        healths["back_off"][health] += 1
    return True


@kernel_jit
def uneject(hosts: Any, healths: Any, host: int, now_ns: int) -> None:
    """Take an ejected host back and forget its runs of failures."""
    health = hosts["health"][host]
    hosts["unhealthy"][host] &= ~BY_OUTLIER
    healths["unejected_ns"][health] = now_ns
    healths["consecutive_5xx"][health] = 0
    healths["consecutive_gateway_failure"][health] = 0
    healths["consecutive_local_origin_failure"][health] = 0


# --- What a request came to -----------------------------------------------------------------


@kernel_jit
def _on_status(
    hosts: Any,
    members: Any,
    clusters: Any,
    cluster: int,
    rules: Any,
    rule: int,
    healths: Any,
    groups: Any,
    ejections: Any,
    host: int,
    status: int,
    now_ns: int,
) -> bool:
    health = hosts["health"][host]
    healths["external_requests"][health] += 1
    if status < 500:
        healths["external_successes"][health] += 1
        healths["consecutive_5xx"][health] = 0
        healths["consecutive_gateway_failure"][health] = 0
        return False
    ejected = False
    if _BAD_GATEWAY <= status <= _GATEWAY_TIMEOUT:
        healths["consecutive_gateway_failure"][health] += 1
        run = healths["consecutive_gateway_failure"][health]
        in_use = hosts["unhealthy"][host] & _OUT == 0
        if run == rules["consecutive_gateway_failure"][rule] and in_use:
            kind = EJECTION_CONSECUTIVE_GATEWAY_FAILURE
            ejected = detect(
                hosts, members, clusters, cluster, rules, rule, healths, groups, ejections,
                host, kind, now_ns,
            )  # fmt: skip
            healths["consecutive_gateway_failure"][health] = 0
    else:
        healths["consecutive_gateway_failure"][health] = 0
    healths["consecutive_5xx"][health] += 1
    in_use = hosts["unhealthy"][host] & _OUT == 0
    if healths["consecutive_5xx"][health] == rules["consecutive_5xx"][rule] and in_use:
        ejected = detect(
            hosts, members, clusters, cluster, rules, rule, healths, groups, ejections,
            host, EJECTION_CONSECUTIVE_5XX, now_ns,
        )  # fmt: skip
        healths["consecutive_5xx"][health] = 0
    return ejected


@kernel_jit
def _on_local_failure(
    hosts: Any,
    members: Any,
    clusters: Any,
    cluster: int,
    rules: Any,
    rule: int,
    healths: Any,
    groups: Any,
    ejections: Any,
    host: int,
    now_ns: int,
) -> bool:
    health = hosts["health"][host]
    healths["local_requests"][health] += 1
    healths["consecutive_local_origin_failure"][health] += 1
    run = healths["consecutive_local_origin_failure"][health]
    in_use = hosts["unhealthy"][host] & _OUT == 0
    if run != rules["consecutive_local_origin_failure"][rule] or not in_use:
        return False
    ejected = detect(
        hosts, members, clusters, cluster, rules, rule, healths, groups, ejections,
        host, EJECTION_CONSECUTIVE_LOCAL_ORIGIN_FAILURE, now_ns,
    )  # fmt: skip
    healths["consecutive_local_origin_failure"][health] = 0
    return ejected


@kernel_jit
def on_connected(hosts: Any, rules: Any, rule: int, healths: Any, host: int) -> None:
    """Note that a request to `host` has its connection.

    Parameters are those of `on_result`.
    """
    if rules["split_external_local_origin_errors"][rule] == 0:
        return
    health = hosts["health"][host]
    healths["local_requests"][health] += 1
    healths["local_successes"][health] += 1
    healths["consecutive_local_origin_failure"][health] = 0


@kernel_jit
def on_result(
    hosts: Any,
    members: Any,
    clusters: Any,
    cluster: int,
    rules: Any,
    rule: int,
    healths: Any,
    groups: Any,
    ejections: Any,
    host: int,
    status: int,
    reset: int,
    now_ns: int,
) -> bool:
    """Take what a request to `host` came to; return whether the host was ejected.

    Parameters
    ----------
    hosts : ndarray[HOST_DTYPE], shape (n_hosts,)
        Row `host` is modified in place: unhealthy.
    members : ndarray[int32], shape (n_members,)
        Read only.
    clusters : ndarray[CLUSTER_DTYPE], shape (n_clusters,)
        Read only.
    cluster : int
        Row of `clusters`, the host's.
    rules : ndarray[HEALTH_RULE_DTYPE], shape (n_rules,)
        Read only.
    rule : int
        Row of `rules`.
    healths : ndarray[HOST_HEALTH_DTYPE], shape (n_healths,)
        The host's row is modified in place.
    groups : ndarray[CLUSTER_HEALTH_DTYPE], shape (n_groups,)
        The cluster's row is modified in place.
    ejections : ndarray[int64], shape (n_groups, 2 * EJECTION_COUNT)
        The cluster's row is modified in place.
    host : int
        Row of `hosts`, a member of the cluster.
    status : int
        Of the response, if `reset` is RESET_NONE.
    reset : int
        `RESET_*` code of what ended the request without a response; an overflow is not the
        host's doing and must not come here.
    now_ns : int
        Current time of the caller's clock [ns].
    """
    if reset == RESET_NONE:
        return _on_status(
            hosts, members, clusters, cluster, rules, rule, healths, groups, ejections,
            host, status, now_ns,
        )  # fmt: skip
    if rules["split_external_local_origin_errors"][rule] != 0:
        return _on_local_failure(
            hosts, members, clusters, cluster, rules, rule, healths, groups, ejections,
            host, now_ns,
        )  # fmt: skip
    status = _GATEWAY_TIMEOUT if reset == RESET_PER_TRY_TIMEOUT else _SERVICE_UNAVAILABLE
    return _on_status(
        hosts, members, clusters, cluster, rules, rule, healths, groups, ejections,
        host, status, now_ns,
    )  # fmt: skip
