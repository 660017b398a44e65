"""What must hold within one element of a topology.

Rule: `CHECKS` is a table from the class of an element to the function that yields its breaches
and notices; what an element names elsewhere is looked up by `meshsim.topology.validate`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from meshsim.topology import model
from meshsim.topology.faults import fields_of, is_limit, is_momentary
from meshsim.units import format_duration
from meshsim.yamlfile import FieldPath

__all__ = ["CHECKS", "Finding"]

_Z99 = NormalDist().inv_cdf(0.99)
#: No lognormal has a larger ratio of 99th percentile to mean: exp(z99**2 / 2) = 14.97.
LOGNORMAL_RATIO_MAX = math.exp(_Z99 * _Z99 / 2)
#: The probabilities of a hyperexponential may miss 1 by this much.
_PROBABILITY_TOLERANCE = 1e-9
#: Envoy's defaults (api/envoy/config/cluster/v3/cluster.proto, RingHashLbConfig).
_RING_SIZE_MIN, _RING_SIZE_MAX = 1024, 8_388_608
_WEIGHT_UPDATE_MIN_NS = 100_000_000
#: Policies without slow start (Envoy, slow_start.rst).
_NO_SLOW_START = frozenset({"RANDOM", "RING_HASH", "MAGLEV", "PEAK_EWMA"})

#: Envoy's least fill_interval of an HTTP local rate limit (local_rate_limit.proto).
_FILL_INTERVAL_MIN_NS = 50_000_000
#: A continuous bucket counts in tokens times nanoseconds of its interval, in an int64.
_FILL_MAX = 2**62
_PSEUDO_HEADERS = (":path", ":method", ":authority")


@dataclass(frozen=True)
class Finding:
    """One breach, or one notice, before it has a place in a file.

    `refers` is the path of what was looked up, e.g. ``("services", "ratings")``.
    """

    path: FieldPath
    message: str
    found: str = ""
    allowed: str = ""
    suggestion: str = ""
    refers: FieldPath = ()
    notice: bool = False


# --- Distributions and arrivals -------------------------------------------------------------


def _positive(path: FieldPath, field: str, duration_ns: int) -> Iterator[Finding]:
    if duration_ns <= 0:
        yield Finding((*path, field), "must be longer than 0", format_duration(duration_ns))


def _mean(path: FieldPath, element: model.Exponential | model.Gamma) -> Iterator[Finding]:
    yield from _positive(path, "mean", element.mean)


def _lognormal(path: FieldPath, element: model.Lognormal) -> Iterator[Finding]:
    yield from _positive(path, "mean", element.mean)
    if element.mean > 0 and not 1 < element.p99 / element.mean <= LOGNORMAL_RATIO_MAX:
        allowed = (
            f"longer than the mean, {format_duration(element.mean)}, and at most "
            f"{LOGNORMAL_RATIO_MAX:.2f} times as long"
        )
        message = "no lognormal distribution has this mean and this 99th percentile"
        yield Finding((*path, "p99"), message, format_duration(element.p99), allowed)


def _pareto(path: FieldPath, element: model.ParetoBounded) -> Iterator[Finding]:
    yield from _positive(path, "low", element.low)
    if element.high <= element.low:
        allowed = f"longer than low, {format_duration(element.low)}"
        yield Finding((*path, "high"), "too short", format_duration(element.high), allowed)


def _hyperexponential(path: FieldPath, element: model.Hyperexponential) -> Iterator[Finding]:
    total = math.fsum(phase.probability for phase in element.phases)
    if abs(total - 1) > _PROBABILITY_TOLERANCE:
        message = "the probabilities do not add up to 1"
        yield Finding((*path, "phases"), message, f"{total:g} in all")
    for index, phase in enumerate(element.phases):
        yield from _positive((*path, "phases", index), "mean", phase.mean)


def _workload(path: FieldPath, element: model.Workload) -> Iterator[Finding]:
    if element.steps and "default" in element.operations:
        at = (*path, "operations", "default")
        yield Finding(at, "steps are the default operation already; say it once")
    if element.autoscale is not None and element.cpu is None:
        message = "an autoscaled workload says its cpu, of which utilisation is a share"
        yield Finding((*path, "autoscale"), message)


def _autoscale(path: FieldPath, element: model.Autoscale) -> Iterator[Finding]:
    yield from _positive(path, "sync_period", element.sync_period)
    if element.min_replicas > element.max_replicas:
        found = f"{element.min_replicas} to {element.max_replicas}"
        yield Finding((*path, "min_replicas"), "more than max_replicas", found)


def _renewal(path: FieldPath, element: model.Renewal) -> Iterator[Finding]:
    constant, empirical = element.interval.constant, element.interval.empirical
    if (constant and constant.value == 0) or (empirical and max(empirical.values) == 0):
        yield Finding((*path, "interval"), "an interval of 0 is an infinite rate", "0s")


def _batch(path: FieldPath, element: model.Batch) -> Iterator[Finding]:
    if element.size_distribution == "fixed" and element.size != int(element.size):
        message = "a fixed size is a whole number of requests"
        yield Finding((*path, "size"), message, f"{element.size:g}")


def _modulated(path: FieldPath, element: model.ModulatedPhase) -> Iterator[Finding]:
    yield from _positive(path, "mean_sojourn", element.mean_sojourn)


def _diurnal(path: FieldPath, element: model.Diurnal) -> Iterator[Finding]:
    yield from _positive(path, "period", element.period)


def _ascending(path: FieldPath, times: tuple[int, ...]) -> Iterator[Finding]:
    for index in range(1, len(times)):
        if times[index] < times[index - 1]:
            allowed = f"not before {format_duration(times[index - 1])}"
            found = format_duration(times[index])
            yield Finding((*path, index), "the times descend", found, allowed)
            return


def _piecewise(path: FieldPath, element: model.Piecewise) -> Iterator[Finding]:
    yield from _ascending((*path, "points"), tuple(point.at for point in element.points))


def _recorded(path: FieldPath, element: model.Recorded) -> Iterator[Finding]:
    yield from _ascending((*path, "times"), element.times)
    if not element.times and element.file is None:
        yield Finding(path, "no arrival is recorded", allowed="times, or a file that holds them")


# --- Faults ---------------------------------------------------------------------------------


def _fault(path: FieldPath, element: model.TimedFault) -> Iterator[Finding]:
    yield from _fault_fields(path, element)
    yield from _fault_target(path, element)
    if element.kind == "errors" and element.factor > 1:
        found = f"{element.factor:g}"
        yield Finding((*path, "factor"), "an error rate is a probability", found, "0 to 1")
    if element.workload is not None and element.service is None:
        yield Finding((*path, "workload"), "a workload is named with its service")
    if element.replica is not None and element.workload is None:
        yield Finding((*path, "replica"), "a replica is named with its service and workload")
    if element.duration is not None:
        yield from _positive(path, "duration", element.duration)
        yield from _fault_spans(path, element, element.duration)


def _fault_fields(path: FieldPath, element: model.TimedFault) -> Iterator[Finding]:
    """Find what a fault says that its kind does not read."""
    read = fields_of(element.kind)
    for name, field in type(element).model_fields.items():
        known = name in ("kind", "at", "duration", "trigger", *read)
        if not known and getattr(element, name) != field.default:
            message = f"a fault of kind {element.kind} has no {name}"
            yield Finding((*path, name), message, allowed=", ".join(read))
    if element.duration is not None and is_momentary(element.kind):
        message = f"a fault of kind {element.kind} ends by itself"
        yield Finding((*path, "duration"), message, allowed="no duration")


def _fault_target(path: FieldPath, element: model.TimedFault) -> Iterator[Finding]:
    """Find that a fault does not say what it hits."""
    if element.kind == "rate":
        if element.traffic is None:
            yield Finding(path, "a fault of kind rate names the traffic class it changes")
    elif element.kind == "rollout":
        if element.service is None:
            yield Finding(path, "a fault of kind rollout names the service it replaces")
        for name in ("max_surge", "max_unavailable"):
            limit = getattr(element, name)
            if not is_limit(limit):
                allowed = "a number >= 0, or a percentage, e.g. 25%"
                yield Finding((*path, name), f"{name} is no limit", str(limit), allowed)
    elif element.kind == "network":
        if element.zones is None:
            yield Finding(path, "a fault of kind network names the two zones it is between")
    elif element.service is None and element.zone is None and element.node is None:
        message = f"a fault of kind {element.kind} names the service or the zone it hits"
        yield Finding(path, message)
    if element.kind == "gray" and element.factor <= 0:
        found, allowed = f"{element.factor:g}", "above 0; a pause is a kind of its own"
        yield Finding((*path, "factor"), "a gray replica serves", found, allowed)
    if element.kind == "squeeze" and not 0 < element.factor <= 1:
        found = f"{element.factor:g}"
        yield Finding((*path, "factor"), "a share of the cores", found, "above 0, up to 1")


def _fault_spans(path: FieldPath, element: model.TimedFault, duration_ns: int) -> Iterator[Finding]:
    """Find spans within a fault that are longer than it."""
    within = {"drain": "grace", "rate": "ramp"}.get(element.kind)
    if within is not None and getattr(element, within) > duration_ns:
        found = format_duration(getattr(element, within))
        allowed = f"up to the duration, {format_duration(duration_ns)}"
        yield Finding((*path, within), f"the {within} is a part of the duration", found, allowed)


# --- Policies -------------------------------------------------------------------------------


def _route(path: FieldPath, element: model.Route) -> Iterator[Finding]:
    if element.split and sum(cluster.weight for cluster in element.split) == 0:
        at = (*path, "split")
        yield Finding(at, "the weights add up to 0", "0", "at least one weight above 0")
    if element.direct_response is not None and element.redirect is not None:
        yield Finding((*path, "redirect"), "a route answers directly or redirects, not both")
    if element.split and element.answer is not None:
        at = (*path, "redirect" if element.redirect else "direct_response")
        yield Finding(at, "a route either answers itself or splits over clusters, not both")
    if element.mirrors and element.answer is not None:
        at = (*path, "mirrors")
        yield Finding(at, "a route that answers itself has no requests to mirror")
    if element.hedge_policy is not None:
        yield from _hedging((*path, "hedge_policy"), element.hedge_policy, element.retry)
    limit = element.retry.per_try_timeout if element.retry else None
    if limit and element.timeout and limit >= element.timeout:
        # Envoy, router.cc, FilterUtility::finalTimeout: it is then reset to 0, off.
        message = (
            f"per_try_timeout is not shorter than the route's timeout, "
            f"{format_duration(element.timeout)}; Envoy ignores it"
        )
        at = (*path, "retry", "per_try_timeout")
        yield Finding(at, message, format_duration(limit), notice=True)


def _hedging(
    path: FieldPath, element: model.HedgePolicy, retry: model.RetryPolicy | None
) -> Iterator[Finding]:
    if element.hedge_on_per_try_timeout and element.max_attempts is not None:
        message = "a route hedges on a per-try timeout or after a delay, not both"
        yield Finding((*path, "max_attempts"), message, str(element.max_attempts))
    if element.max_attempts is None:
        for field in ("hedging_delay", "non_fatal_status_codes"):
            if getattr(element, field):
                yield Finding((*path, field), f"{field} needs max_attempts, of how many copies")
    elif retry is not None and retry.custom is not None:
        message = "copies at a fixed pace take the place of retries, so no policy is asked"
        yield Finding((*path, "max_attempts"), message, allowed="one of custom and max_attempts")
    if element.hedge_on_per_try_timeout and not (retry and retry.per_try_timeout):
        message = "hedge_on_per_try_timeout without a per_try_timeout does nothing"
        yield Finding((*path, "hedge_on_per_try_timeout"), message, notice=True)


def _retry(path: FieldPath, element: model.RetryPolicy) -> Iterator[Finding]:
    if element.base_interval is not None:
        yield from _positive(path, "base_interval", element.base_interval)
        if element.max_interval is not None and element.max_interval < element.base_interval:
            # Envoy refuses such a policy: retry_policy.max_interval must be >= base_interval.
            allowed = f"not shorter than base_interval, {format_duration(element.base_interval)}"
            found = format_duration(element.max_interval)
            yield Finding((*path, "max_interval"), "too short", found, allowed)
    conditions = element.retry_on or ()
    if "retriable-status-codes" in conditions and not element.retriable_status_codes:
        message = "retriable-status-codes without retriable_status_codes never matches"
        yield Finding((*path, "retry_on"), message, notice=True)


def _string_match(path: FieldPath, element: model.StringMatch) -> Iterator[Finding]:
    if element.regex is not None:
        try:
            re.compile(element.regex)
        except (re.error, OverflowError, RecursionError) as error:
            message = f"not a regular expression: {error}"
            yield Finding((*path, "regex"), message, element.regex[:60])


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, math.isqrt(number) + 1))


def _load_balancing(path: FieldPath, element: model.LoadBalancing) -> Iterator[Finding]:
    if (element.policy == "CUSTOM") != (element.custom is not None):
        message = "policy CUSTOM and custom, the function that picks, are said together"
        found = f"policy {element.policy}, custom {element.custom}"
        yield Finding((*path, "policy"), message, found)
    if element.table_size is not None and not _is_prime(element.table_size):
        message = "the size of a Maglev table is a prime number"
        near = next(n for n in range(element.table_size, 6_000_000) if _is_prime(n))
        found = str(element.table_size)
        yield Finding((*path, "table_size"), message, found, suggestion=str(near))
    low = _RING_SIZE_MIN if element.minimum_ring_size is None else element.minimum_ring_size
    high = _RING_SIZE_MAX if element.maximum_ring_size is None else element.maximum_ring_size
    if low > high:
        said = "minimum_ring_size" if element.minimum_ring_size else "maximum_ring_size"
        message = "the smallest ring is larger than the largest"
        yield Finding((*path, said), message, f"minimum {low}, maximum {high}")
    factor = element.hash_balance_factor
    if factor is not None and 0 < factor < 100:
        # Envoy, CommonLbConfig.ConsistentHashingLbConfig: gte 100.
        yield Finding(
            (*path, "hash_balance_factor"), "too small", str(factor), "0 (off), or >= 100"
        )
    if element.policy is not None and element.policy.startswith("ORACLE"):
        message = f"{element.policy} sees the true queues of servers, as no proxy can: an oracle"
        yield Finding((*path, "policy"), message, notice=True)
    update_ns = element.weight_update_period
    if update_ns is not None and update_ns < _WEIGHT_UPDATE_MIN_NS:
        # Envoy, client_side_weighted_round_robin.proto: at least 100 ms.
        found = format_duration(update_ns)
        yield Finding((*path, "weight_update_period"), "too short", found, "at least 100ms")
    if element.policy == "ORACLE_STALE_QUEUE" and not element.view_interval:
        message = "a stale view has an interval; without one, say ORACLE_SHORTEST_QUEUE"
        yield Finding((*path, "view_interval"), message)
    hashes = element.hash_header is not None or element.hash_source_ip
    if element.policy in ("RING_HASH", "MAGLEV") and not hashes:
        message = (
            f"{element.policy} without hash_header or hash_source_ip: requests have no hash, "
            "and Envoy picks a random host for each"
        )
        yield Finding((*path, "policy"), message, notice=True)
    if element.slow_start is not None and element.policy in _NO_SLOW_START:
        message = f"{element.policy} has no slow start; only ROUND_ROBIN and LEAST_REQUEST have"
        yield Finding((*path, "slow_start"), message, notice=True)


def _outlier_detection(path: FieldPath, element: model.OutlierDetection) -> Iterator[Finding]:
    for field in ("interval", "base_ejection_time", "max_ejection_time"):
        if getattr(element, field) is not None:
            yield from _positive(path, field, getattr(element, field))
    base, longest = element.base_ejection_time, element.max_ejection_time
    if base is not None and longest is not None and longest < base:
        # Envoy refuses it (DetectorImpl::create).
        allowed = f"not shorter than base_ejection_time, {format_duration(base)}"
        yield Finding((*path, "max_ejection_time"), "too short", format_duration(longest), allowed)
    if element.max_ejection_percent == 0 and not element.always_eject_one_host:
        at = (*path, "max_ejection_percent")
        yield Finding(at, "no host is ever ejected", "0", notice=True)


def _failure_accrual(path: FieldPath, element: model.FailureAccrual) -> Iterator[Finding]:
    shortest, longest = element.consecutive_min_penalty, element.consecutive_max_penalty
    if shortest is not None:
        yield from _positive(path, "consecutive_min_penalty", shortest)
    if shortest is not None and longest is not None and longest < shortest:
        allowed = f"not shorter than consecutive_min_penalty, {format_duration(shortest)}"
        at = (*path, "consecutive_max_penalty")
        yield Finding(at, "too short", format_duration(longest), allowed)


def _health_check(path: FieldPath, element: model.HealthCheck) -> Iterator[Finding]:
    fields = (
        "timeout",
        "interval",
        "no_traffic_interval",
        "no_traffic_healthy_interval",
        "unhealthy_interval",
        "unhealthy_edge_interval",
        "healthy_edge_interval",
    )
    for field in fields:
        if getattr(element, field) is not None:
            yield from _positive(path, field, getattr(element, field))


def _slow_start(path: FieldPath, element: model.SlowStart) -> Iterator[Finding]:
    yield from _positive(path, "slow_start_window", element.slow_start_window)


def _token_bucket(path: FieldPath, element: model.TokenBucket) -> Iterator[Finding]:
    at = (*path, "fill_interval")
    yield from _positive(path, "fill_interval", element.fill_interval)
    if 0 < element.fill_interval < _FILL_INTERVAL_MIN_NS:
        message = "Envoy refuses an interval this short"
        found, allowed = format_duration(element.fill_interval), "50ms or more"
        yield Finding(at, message, found, allowed, notice=True)
    # As `meshsim.topology.compiled.filters.bucket_rows` keeps the rate: in lowest terms.
    divisor = math.gcd(element.tokens_per_fill or 1, element.fill_interval) or 1
    if element.max_tokens * (element.fill_interval // divisor) > _FILL_MAX:
        message = "max_tokens times fill_interval is too large to count in"
        found = f"{element.max_tokens} x {format_duration(element.fill_interval)}"
        yield Finding(path, message, found, "fewer tokens, or a shorter interval")


def _descriptor(path: FieldPath, element: model.RateLimitDescriptor) -> Iterator[Finding]:
    for name in element.entries:
        if name.startswith(":") and name not in _PSEUDO_HEADERS:
            allowed = ", ".join(_PSEUDO_HEADERS)
            yield Finding((*path, "entries", name), "no such part of a request", name, allowed)


def _injected(path: FieldPath, element: model.Fault) -> Iterator[Finding]:
    kinds = ("delay", "abort", "response_rate_limit")
    if all(getattr(element, kind) is None for kind in kinds):
        yield Finding(path, "a fault that injects nothing", allowed="one of " + ", ".join(kinds))
    if element.delay is not None:
        yield from _positive((*path, "delay"), "fixed_delay", element.delay.fixed_delay)


def _locality(path: FieldPath, element: model.LocalityLoadBalancing) -> Iterator[Finding]:
    if element.zone_aware is not None and (element.locality_weighted or element.distribute):
        # Envoy, CommonLbConfig: a oneof.
        message = "localities are weighted or zone-aware, not both"
        yield Finding((*path, "zone_aware"), message)
    others = element.failover is not None or element.failover_priority is not None
    if element.distribute is not None and others:
        # istio/istio pkg/config/validation/validation.go (validateLocalityLbSetting).
        message = "distribute excludes failover and failover_priority"
        yield Finding((*path, "distribute"), message)
    for source, shares in (element.distribute or {}).items():
        total = sum(shares.values())
        if total != 100:
            at = (*path, "distribute", source)
            yield Finding(at, "the shares do not add up to 100", f"{total} in all")
    for source, target in (element.failover or {}).items():
        if source == target:
            yield Finding((*path, "failover", source), "a region fails over to another", target)


def _subset_config(path: FieldPath, element: model.SubsetConfig) -> Iterator[Finding]:
    if element.fallback_policy == "DEFAULT_SUBSET" and not element.default_subset:
        yield Finding((*path, "default_subset"), "DEFAULT_SUBSET needs the labels of one")
    for index, selector in enumerate(element.subset_selectors):
        at = (*path, "subset_selectors", index)
        fewer, keys = set(selector.fallback_keys_subset), set(selector.keys)
        if (selector.fallback_policy == "KEYS_SUBSET") != bool(fewer):
            message = "KEYS_SUBSET and fallback_keys_subset are said together"
            yield Finding((*at, "fallback_keys_subset"), message)
        elif fewer and not fewer < keys:
            # Envoy, subset_lb_config.cc: a subset of the selector's keys, not all of them.
            found, allowed = ", ".join(sorted(fewer)), ", ".join(sorted(keys))
            message = "these are not fewer of the selector's keys"
            yield Finding((*at, "fallback_keys_subset"), message, found, f"some of {allowed}")
        if selector.fallback_policy == "DEFAULT_SUBSET" and not element.default_subset:
            yield Finding((*at, "fallback_policy"), "DEFAULT_SUBSET needs a default_subset")


def _cluster_policy(path: FieldPath, element: model.ClusterPolicy) -> Iterator[Finding]:
    policy = (element.load_balancing and element.load_balancing.policy) or ""
    alone = policy.startswith("ORACLE")
    alone = alone or policy in ("CLIENT_SIDE_WEIGHTED_ROUND_ROBIN", "CUSTOM", "PREQUAL")
    for part in ("locality", "subset_config"):
        if alone and getattr(element, part) is not None:
            message = f"{policy} together with a {part} is not simulated"
            yield Finding((*path, part), message, allowed="one of the two")
    if element.subset_config is None:
        return
    if element.locality is not None:
        message = "a subset_config together with a locality is not simulated"
        yield Finding((*path, "subset_config"), message, allowed="one of the two")
    if len(set(((element.load_balancing and element.load_balancing.weights) or {}).values())) > 1:
        message = "unequal weights together with a subset_config are not simulated"
        yield Finding((*path, "load_balancing", "weights"), message, allowed="one of the two")


#: Element class -> its check.
CHECKS: dict[type, Callable[[FieldPath, Any], Iterator[Finding]]] = {
    model.Exponential: _mean,
    model.Gamma: _mean,
    model.Lognormal: _lognormal,
    model.ParetoBounded: _pareto,
    model.Hyperexponential: _hyperexponential,
    model.Workload: _workload,
    model.Autoscale: _autoscale,
    model.Renewal: _renewal,
    model.Batch: _batch,
    model.ModulatedPhase: _modulated,
    model.Diurnal: _diurnal,
    model.Piecewise: _piecewise,
    model.Recorded: _recorded,
    model.TimedFault: _fault,
    model.Route: _route,
    model.RetryPolicy: _retry,
    model.StringMatch: _string_match,
    model.LoadBalancing: _load_balancing,
    model.TokenBucket: _token_bucket,
    model.RateLimitDescriptor: _descriptor,
    model.Fault: _injected,
    model.LocalityLoadBalancing: _locality,
    model.ServicePolicy: _cluster_policy,
    model.Subset: _cluster_policy,
    model.ClusterPolicy: _cluster_policy,
    model.SubsetConfig: _subset_config,
    model.OutlierDetection: _outlier_detection,
    model.FailureAccrual: _failure_accrual,
    model.HealthCheck: _health_check,
    model.SlowStart: _slow_start,
}
