"""What a mesh says where the user says nothing: one named value per policy field.

Rule: a default is a value and the place it is documented, never a bare number, so that
``explain`` can answer "why 2 retries?".  This module holds the shape of a mesh's defaults and
the values that Envoy (and Linkerd, for peak EWMA) give to load-balancing fields in every mesh.

References
----------
envoyproxy/data-plane-api: envoy/config/cluster/v3/cluster.proto,
envoy/config/cluster/v3/circuit_breaker.proto,
envoy/extensions/load_balancing_policies/{least_request,maglev}/v3;
linkerd/linkerd2-proxy: linkerd/app/outbound/src/http/concrete.rs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from meshsim.topology.model import Provenance
from meshsim.units import NS_PER_S

__all__ = [
    "ADAPTIVE_CONCURRENCY",
    "CONCURRENCY_LIMIT",
    "ENVOY_BALANCERS",
    "ENVOY_HEALTH_CHECK",
    "ENVOY_HIGH_PRIORITY",
    "ENVOY_LOCALITY",
    "ENVOY_OUTLIER_DETECTION",
    "ENVOY_RETRY_BUDGET",
    "ENVOY_SLOW_START",
    "ENVOY_TOKEN_BUCKET",
    "ENVOY_ZONE_AWARE",
    "GLOBAL_RATE_LIMIT",
    "HASHING_POLICIES",
    "LINKERD_FAILURE_ACCRUAL",
    "LOCAL_RATE_LIMIT",
    "MIN_RTT_CALC",
    "MIRROR",
    "RATE_LIMITED_BACK_OFF",
    "UNLIMITED",
    "Block",
    "Default",
    "PolicyDefaults",
    "from_source",
]

#: Envoy's uint32 limit that is never reached; Istio writes it for "no limit".
UNLIMITED = 2**32 - 1
#: Policies that send equal keys to equal hosts: a retry must not be steered elsewhere.
HASHING_POLICIES = frozenset({"RING_HASH", "MAGLEV"})


@dataclass(frozen=True)
class Default:
    """A value nobody stated, and who says so.

    Parameters
    ----------
    value : object
        As the topology model keeps it (durations in ns).
    source : str
        A sentence for people, e.g. ``Istio default (pilot/pkg/.../retry.go)``.
    """

    value: Any
    source: str

    @cached_property
    def provenance(self) -> Provenance:
        """The one `Provenance` shared by all fields that take this default."""
        return Provenance(default=self.source)


#: Field name -> default, for one block of a policy.
Block = Mapping[str, Default]


def from_source(source: str, **values: Any) -> dict[str, Default]:
    """Return a block whose fields all come from one `source`.

    Examples
    --------
    >>> from_source("Istio default (mesh.go)", connect_timeout=1)["connect_timeout"].value
    1
    """
    return {name: Default(value, source) for name, value in values.items()}


@dataclass(frozen=True)
class PolicyDefaults:
    """The defaults of one mesh, block by block as in `meshsim.topology.model`.

    Parameters
    ----------
    load_balancing, circuit_breakers, retry_budget, connection_pool, route, retry : Block
        Of `LoadBalancing`, `CircuitBreakers`, `RetryBudget` (only where a budget is stated),
        `ConnectionPool`, `Route` (the timeout) and `RetryPolicy`.
    locality, zone_aware : Block
        Of `LocalityLoadBalancing` and `ZoneAware`, only where they are stated.
    outlier_detection, failure_accrual, health_check, slow_start : Block
        Of the blocks of these names, only where they are stated.
    high_priority : Block
        Of `CircuitBreakers.high`, where it is stated or a route of priority HIGH leads.
    panic_watched : Block
        Replaces `healthy_panic_threshold` of `load_balancing` where outlier detection is stated.
    retry_stated : Block
        Replaces fields of `retry` in a route that states a retry policy.
    retry_hashed : Block
        Replaces fields of `retry` in a route to a cluster with a hashing policy.
    max_interval_factor : int
        The longest back-off is this many base intervals.
    max_interval_source : str
        Where that factor is documented.
    """

    load_balancing: Block
    circuit_breakers: Block
    retry_budget: Block
    connection_pool: Block
    route: Block
    retry: Block
    locality: Block = field(default_factory=lambda: ENVOY_LOCALITY)
    zone_aware: Block = field(default_factory=lambda: ENVOY_ZONE_AWARE)
    outlier_detection: Block = field(default_factory=lambda: ENVOY_OUTLIER_DETECTION)
    failure_accrual: Block = field(default_factory=lambda: LINKERD_FAILURE_ACCRUAL)
    health_check: Block = field(default_factory=lambda: ENVOY_HEALTH_CHECK)
    slow_start: Block = field(default_factory=lambda: ENVOY_SLOW_START)
    high_priority: Block = field(default_factory=lambda: ENVOY_HIGH_PRIORITY)
    panic_watched: Block = field(default_factory=dict)
    retry_stated: Block = field(default_factory=dict)
    retry_hashed: Block = field(default_factory=dict)
    max_interval_factor: int = 10
    max_interval_source: str = "Envoy default (route_components.proto: 10 base intervals)"


#: Limits of a priority that nobody configured.
ENVOY_HIGH_PRIORITY: Block = from_source(
    "Envoy default (circuit_breaker.proto)",
    max_connections=1024,
    max_pending_requests=1024,
    max_requests=1024,
    max_retries=3,
)


#: Fields of every load balancer; all but the chosen policy's are unused.
ENVOY_BALANCERS: Block = {
    **from_source(
        "Envoy default (least_request.proto)",
        choice_count=2,
        active_request_bias=1.0,
        selection_method="N_CHOICES",
    ),
    **from_source(
        "Envoy default (cluster.proto RingHashLbConfig)",
        minimum_ring_size=1024,
        maximum_ring_size=8_388_608,
    ),
    **from_source("Envoy default (maglev.proto)", table_size=65_537),
    **from_source("Envoy default (no bounded load)", hash_balance_factor=0),
    **from_source("Envoy default (no hash policy: a random key)", hash_source_ip=False),
    **from_source(
        "Linkerd default (linkerd2-proxy outbound http/concrete.rs)",
        decay=10 * NS_PER_S,
        default_rtt=30_000_000,
    ),
    **from_source("Envoy default (endpoint weight 1)", weights={}),
    **from_source(
        "Envoy default (client_side_weighted_round_robin.proto)",
        blackout_period=10 * NS_PER_S,
        weight_expiration_period=180 * NS_PER_S,
        weight_update_period=NS_PER_S,
        error_utilization_penalty=1.0,
    ),
    **from_source(
        "Prequal's evaluation (Wydrowski et al., NSDI 2024, section 5)",
        r_probe=3.0,
        r_remove=1.0,
        q_rif=2.0**-0.25,
        probe_pool_size=16,
        probe_max_age=NS_PER_S,
        reuse_delta=1.0,
    ),
    **from_source(
        "oracles: two draws with replacement, as Envoy's; views are never old",
        distinct_choices=False,
        view_interval=0,
    ),
    **from_source(
        "Envoy default (cluster.proto CommonLbConfig)",
        healthy_panic_threshold=50.0,
        update_merge_window=NS_PER_S,
    ),
}

#: A stated budget without numbers.
ENVOY_RETRY_BUDGET: Block = from_source(
    "Envoy default (circuit_breaker.proto)", budget_percent=20.0, min_retry_concurrency=3
)

#: A stated back-off by a header, without its longest interval.
RATE_LIMITED_BACK_OFF: Block = from_source(
    "Envoy default (route_components.proto, RateLimitedRetryBackOff)",
    max_interval=300 * NS_PER_S,
)

#: A stated bucket without its fill.
ENVOY_TOKEN_BUCKET: Block = from_source(
    "Envoy default (type/v3/token_bucket.proto)", tokens_per_fill=1
)

#: A stated local rate limit: it holds for every request, since who declares one means it.
GLOBAL_RATE_LIMIT: Block = from_source(
    "Envoy default (rate_limit.proto)",
    timeout=20_000_000,
    failure_mode_deny=False,
    status_on_error=500,
    rate_limited_status=429,
)

ADAPTIVE_CONCURRENCY: Block = from_source(
    "Envoy default (adaptive_concurrency.proto)",
    sample_aggregate_percentile=50.0,
    concurrency_limit_exceeded_status=503,
)
CONCURRENCY_LIMIT: Block = from_source(
    "Envoy default (adaptive_concurrency.proto)", max_concurrency_limit=1000
)
MIN_RTT_CALC: Block = from_source(
    "Envoy default (adaptive_concurrency.proto)",
    request_count=50,
    jitter=15.0,
    min_concurrency=3,
    buffer=25.0,
)

LOCAL_RATE_LIMIT: Block = {
    **from_source(
        "Envoy default (local_rate_limit.proto)",
        status=429,
        enable_x_ratelimit_headers="OFF",
        local_rate_limit_per_downstream_connection=False,
    ),
    **from_source(
        "Envoy (token_bucket_impl.h, AtomicTokenBucketImpl; measured on 1.40.0: no ticks)",
        refill="CONTINUOUS",
    ),
    **from_source(
        "a declared limit holds (Envoy's own default, 0 %, is for runtime keys)",
        filter_enabled=100.0,
        filter_enforced=100.0,
    ),
}

#: A stated mirror without a share.
MIRROR: Block = from_source(
    "Envoy default (route_components.proto, RequestMirrorPolicy: all requests)", percentage=100.0
)

#: Priorities and localities, where they are stated.
ENVOY_LOCALITY: Block = {
    **from_source(
        "Envoy default (endpoint.proto ClusterLoadAssignment.Policy)", overprovisioning_factor=140
    ),
    **from_source("Envoy default (cluster.proto CommonLbConfig)", locality_weighted=False),
}

#: Zone-aware routing, where it is stated.
ENVOY_ZONE_AWARE: Block = from_source(
    "Envoy default (cluster.proto ZoneAwareLbConfig)",
    routing_enabled=100,
    min_cluster_size=6,
    fail_traffic_on_panic=False,
    force_local_zone_min_size=0,
)

#: Outlier detection that is stated without numbers; `max_ejection_time` depends on the base.
ENVOY_OUTLIER_DETECTION: Block = {
    **from_source(
        "Envoy default (outlier_detection.proto)",
        consecutive_5xx=5,
        interval=10 * NS_PER_S,
        base_ejection_time=30 * NS_PER_S,
        max_ejection_percent=10,
        enforcing_consecutive_5xx=100,
        enforcing_success_rate=100,
        success_rate_minimum_hosts=5,
        success_rate_request_volume=100,
        success_rate_stdev_factor=1900,
        consecutive_gateway_failure=5,
        enforcing_consecutive_gateway_failure=0,
        split_external_local_origin_errors=False,
        consecutive_local_origin_failure=5,
        enforcing_consecutive_local_origin_failure=100,
        enforcing_local_origin_success_rate=100,
        failure_percentage_threshold=85,
        enforcing_failure_percentage=0,
        enforcing_failure_percentage_local_origin=0,
        failure_percentage_minimum_hosts=5,
        failure_percentage_request_volume=50,
        max_ejection_time_jitter=0,
        successful_active_health_check_uneject_host=True,
        always_eject_one_host=False,
    ),
}

#: Failure accrual that is stated without numbers.
LINKERD_FAILURE_ACCRUAL: Block = from_source(
    "Linkerd default (linkerd2 policy-controller/k8s/index/src/outbound/index.rs)",
    consecutive_max_failures=7,
    consecutive_min_penalty=NS_PER_S,
    consecutive_max_penalty=60 * NS_PER_S,
    consecutive_jitter_ratio=0.5,
)

#: Health checks without numbers; Envoy asks for the first four, the edge intervals follow
#: the others.
ENVOY_HEALTH_CHECK: Block = {
    **from_source(
        "Kubernetes default of a probe (core/v1 Probe), as Envoy has none",
        timeout=NS_PER_S,
        interval=10 * NS_PER_S,
        unhealthy_threshold=3,
        healthy_threshold=1,
        path="/healthz",
    ),
    **from_source(
        "Envoy default (health_check.proto)",
        initial_jitter=0,
        interval_jitter=0,
        interval_jitter_percent=0,
        no_traffic_interval=60 * NS_PER_S,
    ),
}

#: Slow start that is stated without numbers.
ENVOY_SLOW_START: Block = from_source(
    "Envoy default (load_balancing_policies/common/v3/common.proto)",
    aggression=1.0,
    min_weight_percent=10.0,
)
