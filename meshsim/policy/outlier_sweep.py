"""The sweep of outlier detection: who stands out, who comes back, what is forgiven.

Rule (Envoy).  Sweeps are at ``origin + n * interval``, from when the cluster came to be.  Each

1. takes back every host whose ejection has lasted long enough (`ejection_time_ns`);
2. looks at what the interval brought.  A host counts if it is in use and had at least
   `success_rate_request_volume` requests; if `success_rate_minimum_hosts` hosts count, those
   below

       mean - success_rate_stdev_factor / 1000 * standard deviation

   of their success rates (of the population, in percent) are detected.  Likewise, with
   `failure_percentage_request_volume` and `failure_percentage_minimum_hosts`, those with at
   least `failure_percentage_threshold` percent of failures.  With
   `split_external_local_origin_errors` both are done for statuses and for local origin apart;
3. counts one ejection less for every host that is in use and was taken back at least an interval
   ago.

A sweep that could change nothing is not due (`sweep_is_due`), so an idle cluster costs nothing.

Departure: a host whose success rate and failure percentage both stand out is ejected once; Envoy
counts it twice among the ejected.

References
----------
Envoy, source/common/upstream/outlier_detection_impl.cc (onIntervalTimer, checkHostForUneject,
processSuccessRateEjections, successRateEjectionThreshold).
"""

from __future__ import annotations

import math
from typing import Any

from meshsim.jit import kernel_jit
from meshsim.policy.outlier_detection import detect, ejection_time_ns, uneject
from meshsim.state.codes import NEVER_NS
from meshsim.state.health import (
    BY_OUTLIER,
    EJECTION_FAILURE_PERCENTAGE,
    EJECTION_LOCAL_ORIGIN_FAILURE_PERCENTAGE,
    EJECTION_LOCAL_ORIGIN_SUCCESS_RATE,
    EJECTION_SUCCESS_RATE,
    WITHDRAWN,
)

__all__ = ["success_rate_threshold", "sweep", "sweep_is_due"]


@kernel_jit
def success_rate_threshold(mean: float, deviation: float, stdev_factor: int) -> float:
    """Return the success rate below which a host stands out [percent].

    Parameters
    ----------
    mean, deviation : float
        Of the hosts' success rates; the deviation is that of the population [percent].
    stdev_factor : int
        `success_rate_stdev_factor`, of 1000.
    """
    return mean - stdev_factor / 1000.0 * deviation


@kernel_jit
def sweep_is_due(
    hosts: Any,
    members: Any,
    clusters: Any,
    cluster: int,
    rules: Any,
    rule: int,
    healths: Any,
    groups: Any,
    now_ns: int,
) -> int:
    """Return when the next sweep that changes anything is [ns], or `NEVER_NS`.

    Parameters are those of `meshsim.policy.outlier_detection.on_result`.  A sweep changes
    something if a host is ejected, has ejections that are not forgiven, or had a request since
    the last one.
    """
    start = clusters["member_start"][cluster]
    for position in range(clusters["member_count"][cluster]):
        host = members[start + position]
        health = hosts["health"][host]
        if (
            hosts["unhealthy"][host] & BY_OUTLIER != 0
            or healths["back_off"][health] != 0
            or healths["external_requests"][health] != 0
            or healths["local_requests"][health] != 0
        ):
            interval_ns = rules["interval_ns"][rule]
            origin_ns = groups["origin_ns"][clusters["health"][cluster]]
            return int(origin_ns + ((now_ns - origin_ns) // interval_ns + 1) * interval_ns)
    return NEVER_NS


@kernel_jit
def _requests(healths: Any, health: int, local: bool) -> int:
    if local:
        return int(healths["local_requests"][health])
    return int(healths["external_requests"][health])


@kernel_jit
def _success_rate(healths: Any, health: int, local: bool) -> float:
    """Return the success rate of a host since the last sweep [percent]; it had requests."""
    if local:
        return healths["local_successes"][health] * 100.0 / healths["local_requests"][health]
    return healths["external_successes"][health] * 100.0 / healths["external_requests"][health]


@kernel_jit
def _counts(hosts: Any, healths: Any, host: int, local: bool, volume: int) -> bool:
    """Return whether `host` is in use and had requests enough to be judged."""
    if hosts["unhealthy"][host] & (BY_OUTLIER | WITHDRAWN) != 0:
        return False
    requests = _requests(healths, hosts["health"][host], local)
    return requests > 0 and requests >= volume


@kernel_jit
def _threshold_of(
    hosts: Any,
    members: Any,
    clusters: Any,
    cluster: int,
    rules: Any,
    rule: int,
    healths: Any,
    local: bool,
) -> tuple[float, float]:
    """Return mean and threshold of the hosts' success rates, or -1 if too few hosts count."""
    start = clusters["member_start"][cluster]
    count = clusters["member_count"][cluster]
    volume = rules["success_rate_request_volume"][rule]
    total = 0.0
    judged = 0
    for position in range(count):
        host = members[start + position]
        if _counts(hosts, healths, host, local, volume):
            total += _success_rate(healths, hosts["health"][host], local)
            judged += 1
    if judged == 0 or judged < rules["success_rate_minimum_hosts"][rule]:
        return -1.0, -1.0
    mean = total / judged
    squares = 0.0
    for position in range(count):
        host = members[start + position]
        if _counts(hosts, healths, host, local, volume):
            distance = _success_rate(healths, hosts["health"][host], local) - mean
            squares += distance * distance
    deviation = math.sqrt(squares / judged)
    factor = rules["success_rate_stdev_factor"][rule]
    return mean, success_rate_threshold(mean, deviation, factor)


@kernel_jit
def _enough_for_failures(
    hosts: Any,
    members: Any,
    clusters: Any,
    cluster: int,
    rules: Any,
    rule: int,
    healths: Any,
    local: bool,
) -> bool:
    """Return whether enough hosts count for their failure percentage to be judged."""
    start = clusters["member_start"][cluster]
    volume = rules["failure_percentage_request_volume"][rule]
    judged = 0
    for position in range(clusters["member_count"][cluster]):
        if _counts(hosts, healths, members[start + position], local, volume):
            judged += 1
    return bool(judged > 0 and judged >= rules["failure_percentage_minimum_hosts"][rule])


@kernel_jit
def _judge_rates(
    hosts: Any,
    members: Any,
    clusters: Any,
    cluster: int,
    rules: Any,
    rule: int,
    healths: Any,
    groups: Any,
    ejections: Any,
    local: bool,
    now_ns: int,
) -> bool:
    """Eject hosts whose success rate stands out; return whether any was ejected."""
    start = clusters["member_start"][cluster]
    mean, threshold = _threshold_of(hosts, members, clusters, cluster, rules, rule, healths, local)
    if not local:
        groups["success_rate_average"][clusters["health"][cluster]] = mean
        groups["success_rate_threshold"][clusters["health"][cluster]] = threshold
    kind = EJECTION_LOCAL_ORIGIN_SUCCESS_RATE if local else EJECTION_SUCCESS_RATE
    volume = rules["success_rate_request_volume"][rule]
    changed = False
    for position in range(clusters["member_count"][cluster]):
        host = members[start + position]
        if not _counts(hosts, healths, host, local, volume):
            continue
        # Without enough hosts the threshold is -1, which no rate is below.
        if _success_rate(healths, hosts["health"][host], local) < threshold and detect(
            hosts, members, clusters, cluster, rules, rule, healths, groups, ejections,
            host, kind, now_ns,
        ):  # fmt: skip
            changed = True
    return changed


@kernel_jit
def _judge_failures(
    hosts: Any,
    members: Any,
    clusters: Any,
    cluster: int,
    rules: Any,
    rule: int,
    healths: Any,
    groups: Any,
    ejections: Any,
    local: bool,
    now_ns: int,
) -> bool:
    """Eject hosts whose failure percentage stands out; return whether any was ejected."""
    start = clusters["member_start"][cluster]
    kind = EJECTION_LOCAL_ORIGIN_FAILURE_PERCENTAGE if local else EJECTION_FAILURE_PERCENTAGE
    volume = rules["failure_percentage_request_volume"][rule]
    changed = False
    for position in range(clusters["member_count"][cluster]):
        host = members[start + position]
        if not _counts(hosts, healths, host, local, volume):
            continue
        failed = 100.0 - _success_rate(healths, hosts["health"][host], local)
        if failed >= rules["failure_percentage_threshold"][rule] and detect(
            hosts, members, clusters, cluster, rules, rule, healths, groups, ejections,
            host, kind, now_ns,
        ):  # fmt: skip
            changed = True
    return changed


@kernel_jit
def _judge(
    hosts: Any,
    members: Any,
    clusters: Any,
    cluster: int,
    rules: Any,
    rule: int,
    healths: Any,
    groups: Any,
    ejections: Any,
    local: bool,
    now_ns: int,
) -> bool:
    """Eject hosts by success rate and failure percentage; return whether any was."""
    # Whether enough hosts count is decided before any of them is ejected.
    judged = _enough_for_failures(hosts, members, clusters, cluster, rules, rule, healths, local)
    changed = _judge_rates(
        hosts, members, clusters, cluster, rules, rule, healths, groups, ejections, local, now_ns
    )
    if judged and _judge_failures(
        hosts, members, clusters, cluster, rules, rule, healths, groups, ejections, local, now_ns
    ):
        changed = True
    return changed


@kernel_jit
def _forgive(rules: Any, rule: int, healths: Any, health: int, now_ns: int) -> None:
    """Count one ejection less of a host that is in use for at least an interval."""
    unejected_ns = healths["unejected_ns"][health]
    known = healths["back_off"][health] > 0 and unejected_ns != NEVER_NS
    if known and now_ns - unejected_ns >= rules["interval_ns"][rule]:
        healths["back_off"][health] -= 1


@kernel_jit
def sweep(
    hosts: Any,
    members: Any,
    clusters: Any,
    cluster: int,
    rules: Any,
    rule: int,
    healths: Any,
    groups: Any,
    ejections: Any,
    now_ns: int,
) -> bool:
    """Carry out the sweep of `now_ns`; return whether any host was ejected or taken back.

    Parameters are those of `meshsim.policy.outlier_detection.on_result`.
    """
    start = clusters["member_start"][cluster]
    count = clusters["member_count"][cluster]
    changed = False
    for position in range(count):
        host = members[start + position]
        health = hosts["health"][host]
        if hosts["unhealthy"][host] & BY_OUTLIER != 0:
            back_off, jitter_ns = healths["back_off"][health], healths["jitter_ns"][health]
            ejected_for_ns = now_ns - healths["ejected_ns"][health]
            if ejection_time_ns(rules, rule, back_off, jitter_ns) <= ejected_for_ns:
                uneject(hosts, healths, host, now_ns)
                changed = True
    split = rules["split_external_local_origin_errors"][rule] != 0
    if _judge(
        hosts, members, clusters, cluster, rules, rule, healths, groups, ejections, False, now_ns
    ):
        changed = True
    if split and _judge(
        hosts, members, clusters, cluster, rules, rule, healths, groups, ejections, True, now_ns
    ):
        changed = True
    for position in range(count):
        host = members[start + position]
        health = hosts["health"][host]
        if hosts["unhealthy"][host] & BY_OUTLIER == 0:
            _forgive(rules, rule, healths, health, now_ns)
        healths["external_requests"][health] = healths["external_successes"][health] = 0
        healths["local_requests"][health] = healths["local_successes"][health] = 0
    return changed
