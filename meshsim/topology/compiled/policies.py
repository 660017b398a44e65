"""Policies as rows: what of a cluster and of a route the policy engine reads.

Rule: a policy whose fields are filled becomes one CLUSTER_CONFIG or ROUTE row and perhaps a
hash table; whoever runs the engine (the compiler of a scenario, a live proxy) fills rows here,
so that equal policies decide equally everywhere.  Indices into tables, splits and timers are
the caller's.  None means Envoy's default: no limit, or off.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from meshsim.policy.custom import find
from meshsim.policy.custom.entries import NO_FUNCTION
from meshsim.policy.load_balancing.maglev import build_maglev
from meshsim.policy.load_balancing.ring_hash import build_ring, ring_capacity
from meshsim.policy.retry import retry_on_bits
from meshsim.policy.retry_throttling import THROTTLE_FLOATS, THROTTLE_GRPC, THROTTLE_TOKENS
from meshsim.state.codes import (
    CUSTOM,
    HEDGE_AFTER_DELAY,
    HEDGE_ON_PER_TRY_TIMEOUT,
    JITTER_DECORRELATED,
    JITTER_EQUAL,
    JITTER_FULL,
    JITTER_NONE,
    LEAST_REQUEST,
    LEAST_REQUEST_FULL_SCAN,
    MAGLEV,
    NEVER_NS,
    NO_INDEX,
    ORACLE_IDLE_QUEUE,
    ORACLE_SHORTEST_QUEUE,
    ORACLE_STALE_QUEUE,
    PEAK_EWMA,
    PICK_HASHED,
    PICK_ORACLE,
    PREQUAL,
    PRIORITY_DEFAULT,
    PRIORITY_HIGH,
    RANDOM,
    RESET_BY_RATELIMIT,
    RESET_BY_RETRY_AFTER,
    RETRY_CUSTOM,
    RETRY_RESET,
    RETRY_RETRIABLE_STATUS_CODES,
    RING_HASH,
    ROUND_ROBIN,
)
from meshsim.state.upstream import CLUSTER_DTYPE, HOST_DTYPE, TABLE_DTYPE
from meshsim.topology.compiled.layout import Rows
from meshsim.topology.model import (
    ClusterPolicy,
    HedgePolicy,
    LoadBalancing,
    RetryPolicy,
    RetryThrottling,
    Route,
    Thresholds,
    WeightedCluster,
)
from meshsim.topology.policies import RESET_MAX_NS
from meshsim.units import NS_PER_S

__all__ = [
    "HOST_LINKS",
    "copy_of",
    "fill_cluster_config",
    "fill_route",
    "fill_thresholds",
    "hash_capacity",
    "hash_source",
    "hash_table",
    "memory_count",
    "no_clusters",
    "no_hosts",
    "weighted",
    "weights_equal",
]

#: Fields of a HOST row that name another row, or none.
HOST_LINKS = (
    "endpoint",
    "idle_newest",
    "idle_oldest",
    "pending_head",
    "pending_tail",
    "health",
)
#: Policies with slow start.
_SLOW_STARTING = (None, "ROUND_ROBIN", "LEAST_REQUEST")
_JITTER = {
    "FULL": JITTER_FULL,
    "NONE": JITTER_NONE,
    "EQUAL": JITTER_EQUAL,
    "DECORRELATED": JITTER_DECORRELATED,
}
#: Those that simulated answers may have.
_RESET_HEADERS = {
    "x-ratelimit-reset": RESET_BY_RATELIMIT,
    "retry-after": RESET_BY_RETRY_AFTER,
}
_BALANCING = {
    "ROUND_ROBIN": ROUND_ROBIN,
    "LEAST_REQUEST": LEAST_REQUEST,
    "RANDOM": RANDOM,
    "RING_HASH": RING_HASH,
    "MAGLEV": MAGLEV,
    "PEAK_EWMA": PEAK_EWMA,
    "CUSTOM": CUSTOM,
    "CLIENT_SIDE_WEIGHTED_ROUND_ROBIN": ROUND_ROBIN,  # with weights that reports give
    "PREQUAL": PREQUAL,
    "ORACLE_SHORTEST_QUEUE": ORACLE_SHORTEST_QUEUE,
    "ORACLE_STALE_QUEUE": ORACLE_STALE_QUEUE,
    "ORACLE_IDLE_QUEUE": ORACLE_IDLE_QUEUE,
}


def hash_table(
    endpoint_names: Sequence[str],
    policy: ClusterPolicy,
    endpoints: Rows | Sequence[int],
    weights: Sequence[int],
) -> Rows:
    """Return the ring or Maglev table of a cluster with these endpoints; empty if it has none.

    Hosts are hashed by their endpoint names, as Envoy does with ``hash_key`` metadata.
    """
    settings = policy.load_balancing or LoadBalancing()
    names = [endpoint_names[endpoint] for endpoint in endpoints]
    if names and settings.policy == "RING_HASH":
        assert settings.minimum_ring_size is not None
        assert settings.maximum_ring_size is not None
        return build_ring(names, weights, settings.minimum_ring_size, settings.maximum_ring_size)
    if names and settings.policy == "MAGLEV":
        assert settings.table_size is not None
        return build_maglev(names, weights, settings.table_size)
    return np.zeros(0, TABLE_DTYPE)


def hash_capacity(policy: ClusterPolicy, weights: Sequence[int]) -> int:
    """Return the size of the largest table over any of some hosts with these weights."""
    settings = policy.load_balancing or LoadBalancing()
    if weights and settings.policy == "RING_HASH":
        assert settings.minimum_ring_size is not None
        assert settings.maximum_ring_size is not None
        return ring_capacity(weights, settings.minimum_ring_size, settings.maximum_ring_size)
    if weights and settings.policy == "MAGLEV":
        assert settings.table_size is not None
        return settings.table_size
    return 0


def hash_source(policy: ClusterPolicy, headers: Mapping[str, str], source: str) -> str | None:
    """Return the text whose hash is the key of a request to a cluster, or None if it has none.

    Parameters
    ----------
    policy : ClusterPolicy
    headers : mapping of str to str
        Of the request; names in lower case.
    source : str
        What stands for the source address.
    """
    settings = policy.load_balancing or LoadBalancing()
    if settings.hash_source_ip:
        return source
    if settings.hash_header is None:
        return None
    return headers.get(settings.hash_header.lower())


def weighted(route: Route) -> tuple[WeightedCluster, ...]:
    """Return the destinations of `route`; those of weight 0 are kept, they may get weight."""
    return () if route.answer is not None else route.split


def copy_of(route: Route, split: tuple[WeightedCluster, ...] = ()) -> Route:
    """Return the route of the copies that mirrors of `route` get: its timeout, nothing else."""
    return Route.model_construct(split=split, timeout=route.timeout)


def no_hosts(count: int) -> Rows:
    """Return HOST rows that are no belief about anything yet."""
    hosts = np.zeros(count, HOST_DTYPE)
    for field in HOST_LINKS:
        hosts[field] = NO_INDEX
    return hosts


def no_clusters(count: int) -> Rows:
    """Return CLUSTER rows that nothing was sent through yet."""
    clusters = np.zeros(count, CLUSTER_DTYPE)
    clusters["health"] = NO_INDEX
    return clusters


def weights_equal(policy: ClusterPolicy, weights: Sequence[int]) -> int:
    """Return what `weights_equal` of a CLUSTER_CONFIG row says: 0 no, 1 yes, 2 but for slow start.

    Parameters
    ----------
    policy : ClusterPolicy
    weights : sequence of int
        Of the cluster's hosts.
    """
    if len(set(weights)) > 1:
        return 0
    settings = policy.load_balancing or LoadBalancing()
    return 1 if settings.slow_start is None or settings.policy not in _SLOW_STARTING else 2


def _never(duration_ns: int | None) -> int:
    """Return `duration_ns`, or NEVER_NS for 0 or None: Envoy's 0 disables."""
    return duration_ns or NEVER_NS


def fill_route(fields: Rows, route: Route, codes: list[int]) -> None:
    """Fill the answer, the timeouts and the retries of a ROUTE row.

    Parameters
    ----------
    fields : ndarray[ROUTE_DTYPE], shape (1,)
        Zero so far.  Its split, hash keys, filters and timers are the caller's.
    route : Route
    codes : list of int
        Retriable status codes of all routes; those of this route are appended.
    """
    retry = route.retry
    fields["direct_response"] = route.answer or 0
    fields["filters"] = NO_INDEX
    fields["priority"] = PRIORITY_HIGH if route.priority == "HIGH" else PRIORITY_DEFAULT
    fields["code_start"] = len(codes)
    fields["timeout_ns"] = _never(route.timeout)
    fields["timeout_timer"] = NO_INDEX
    fields["per_try_timeout_ns"] = NEVER_NS
    fields["per_try_timer"] = NO_INDEX
    if retry is not None:
        _fill_retry(fields, retry, codes)
    if route.hedge_policy is not None:
        _fill_hedging(fields, route.hedge_policy, codes)


def _fill_retry(fields: Rows, retry: RetryPolicy, codes: list[int]) -> None:
    fields["num_retries"] = retry.num_retries or 0
    fields["retry_on"] = retry_on_bits(retry.retry_on or ())
    if retry.custom is not None:
        fields["retry_on"] |= RETRY_CUSTOM
        fields["custom_retry"] = find(retry.custom, "retry").address
    fields["code_count"] = len(retry.retriable_status_codes or ())
    codes += retry.retriable_status_codes or ()
    fields["previous_hosts"] = int(bool(retry.previous_hosts))
    fields["host_selection_attempts"] = retry.host_selection_retry_max_attempts or 1
    fields["base_interval_ns"] = retry.base_interval or 0
    fields["max_interval_ns"] = retry.max_interval or 0
    fields["jitter"] = _JITTER[retry.jitter or "FULL"]
    limited = retry.rate_limited_retry_back_off
    if limited is not None:
        fields["reset_max_interval_ns"] = limited.max_interval or RESET_MAX_NS
        for header in limited.reset_headers:
            if header.format == "SECONDS":
                fields["reset_headers"] |= _RESET_HEADERS.get(header.name.lower(), 0)
    per_try_ns = _never(retry.per_try_timeout)
    if per_try_ns < fields["timeout_ns"][0]:  # Envoy ignores one that is not shorter
        fields["per_try_timeout_ns"] = per_try_ns


def _fill_hedging(fields: Rows, hedging: HedgePolicy, codes: list[int]) -> None:
    """Say how a route hedges; copies at a fixed pace take the place of its retries."""
    if hedging.hedge_on_per_try_timeout:
        fields["hedging"] = HEDGE_ON_PER_TRY_TIMEOUT
    if hedging.max_attempts is None:
        return
    fatal_not = hedging.non_fatal_status_codes
    fields["hedging"] = HEDGE_AFTER_DELAY
    fields["hedging_delay_ns"] = hedging.hedging_delay or 0
    fields["num_retries"] = hedging.max_attempts - 1
    fields["retry_on"] = RETRY_RETRIABLE_STATUS_CODES | (RETRY_RESET if 503 in fatal_not else 0)
    fields["code_start"] = len(codes)
    fields["code_count"] = len(fatal_not)
    codes += fatal_not


def fill_cluster_config(fields: Rows, policy: ClusterPolicy) -> None:
    """Fill the load balancing, the limits and the connection pool of a CLUSTER_CONFIG row.

    Parameters
    ----------
    fields : ndarray[CLUSTER_CONFIG_DTYPE], shape (1,)
        Zero so far.  `weights_equal`, `health` (here: nobody watches), the hash table's place,
        `locality` and the rules of balancers (here: none) are the caller's.
    policy : ClusterPolicy
        With circuit breakers and connection pool.
    """
    settings = policy.load_balancing or LoadBalancing()
    breakers = policy.circuit_breakers
    pool = policy.connection_pool
    fields["balancing"] = _BALANCING[settings.policy or "ROUND_ROBIN"]
    if settings.policy == "LEAST_REQUEST" and settings.selection_method == "FULL_SCAN":
        fields["balancing"] = LEAST_REQUEST_FULL_SCAN
    fields["locality"] = fields["report_rule"] = fields["prequal_rule"] = NO_INDEX
    fields["choice_count"] = settings.choice_count or 2
    if (settings.policy or "").startswith("ORACLE"):
        fields["picking"] = PICK_ORACLE
        fields["distinct_choices"] = int(bool(settings.distinct_choices))
        fields["view_interval_ns"] = settings.view_interval or 0
        if settings.selection_method == "FULL_SCAN":
            fields["choice_count"] = 0
    if settings.policy in ("RING_HASH", "MAGLEV"):
        fields["picking"] = PICK_HASHED
        fields["minimum_ring_size"] = settings.minimum_ring_size or 0
        fields["maximum_ring_size"] = settings.maximum_ring_size or 0
    bias = settings.active_request_bias
    fields["active_request_bias"] = 1.0 if bias is None else bias
    fields["hash_balance_factor"] = settings.hash_balance_factor or 0
    fields["health"] = NO_INDEX
    fields["update_merge_window_ns"] = settings.update_merge_window or 0
    fields["panic_threshold"] = round(settings.healthy_panic_threshold or 0)
    if settings.slow_start is not None and settings.policy in _SLOW_STARTING:
        fields["slow_start_window_ns"] = settings.slow_start.slow_start_window
        fields["slow_start_aggression"] = settings.slow_start.aggression
        fields["slow_start_min_weight"] = (settings.slow_start.min_weight_percent or 0.0) / 100.0
    fields["decay_ns"] = settings.decay or 0
    fields["default_rtt_ns"] = settings.default_rtt or 0
    assert breakers is not None
    assert pool is not None
    fill_thresholds(fields, breakers)
    _fill_throttling(fields, breakers.retry_throttling)
    fields["connect_timeout_ns"] = _never(pool.connect_timeout)
    fields["idle_timeout_ns"] = _never(pool.idle_timeout)
    fields["max_requests_per_connection"] = pool.max_requests_per_connection or 0
    if settings.custom is not None:
        balancer = find(settings.custom, "load_balancer")
        fields["custom_pick"] = balancer.address
        fields["custom_learn"] = balancer.learns.address if balancer.learns else NO_FUNCTION
    if policy.admission is not None:
        fields["custom_admit"] = find(policy.admission, "admission").address


def fill_thresholds(fields: Rows, thresholds: Thresholds) -> None:
    """Fill the limits of a CLUSTER_CONFIG row; one that is None is none.

    Parameters
    ----------
    fields : ndarray[CLUSTER_CONFIG_DTYPE], shape (1,)
    thresholds : Thresholds
    """
    for field in ("max_connections", "max_pending_requests", "max_requests", "max_retries"):
        value = getattr(thresholds, field)
        fields[field] = np.iinfo(np.int64).max if value is None else value
    fields["budget_percent"] = -1.0
    if thresholds.retry_budget is not None:
        fields["budget_percent"] = thresholds.retry_budget.budget_percent
        fields["min_retry_concurrency"] = thresholds.retry_budget.min_retry_concurrency


def _fill_throttling(fields: Rows, throttling: RetryThrottling | None) -> None:
    if throttling is None:
        return
    if throttling.grpc is not None:
        fields["throttle"] = THROTTLE_GRPC
        fields["throttle_ratio"] = throttling.grpc.token_ratio
        fields["throttle_reserve"] = throttling.grpc.max_tokens
    if throttling.token_budget is not None:
        budget = throttling.token_budget
        fields["throttle"] = THROTTLE_TOKENS
        fields["throttle_ratio"] = budget.retry_ratio
        fields["throttle_ttl_ns"] = budget.ttl
        fields["throttle_reserve"] = budget.min_retries_per_second * budget.ttl / NS_PER_S


def memory_count(policy: ClusterPolicy, routes: Iterable[Route]) -> int:
    """Return how many floats a cluster remembers: retry tokens, then its custom policies'.

    Parameters
    ----------
    policy : ClusterPolicy
    routes : iterable of Route
        That may lead to the cluster.
    """
    balancing = policy.load_balancing
    named = [
        (balancing.custom if balancing else None, "load_balancer"),
        (policy.admission, "admission"),
        *((route.retry.custom, "retry") for route in routes if route.retry),
    ]
    custom = max((find(name, kind).memory for name, kind in named if name is not None), default=0)
    breakers = policy.circuit_breakers
    throttled = breakers is not None and breakers.retry_throttling is not None
    return custom + (THROTTLE_FLOATS if throttled else 0)
