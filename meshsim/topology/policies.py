"""Policies: what a person says of how proxies treat requests, in Envoy's vocabulary.

Rule: a field that is `None` was not said; a mesh profile (`meshsim.meshes`) fills it.  Field
names are Envoy's; times are `int` nanoseconds, written as ``"14ms"`` in YAML.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from meshsim.state.prequal import POOL_MAX
from meshsim.topology.base import Boolean, Duration, Integer, Model, Number, one_of
from meshsim.topology.filters import (
    AdaptiveConcurrency,
    Fault,
    GlobalRateLimit,
    LocalRateLimit,
    Mirror,
    Redirect,
)
from meshsim.topology.health import FailureAccrual, HealthCheck, OutlierDetection, SlowStart
from meshsim.topology.hedging import HedgePolicy
from meshsim.topology.locality import LocalityLoadBalancing
from meshsim.topology.subsets import SubsetConfig
from meshsim.units import NS_PER_S

__all__ = [
    "RESET_MAX_NS",
    "CircuitBreakers",
    "ClusterPolicy",
    "ConnectionPool",
    "CustomName",
    "GrpcThrottling",
    "LoadBalancing",
    "LoadBalancingPolicy",
    "RateLimitedRetryBackOff",
    "ResetHeader",
    "RetryBudget",
    "RetryOn",
    "RetryPolicy",
    "RetryThrottling",
    "Route",
    "RouteMatch",
    "ServicePolicy",
    "StringMatch",
    "Subset",
    "Thresholds",
    "TokenBudget",
    "WeightedCluster",
]


def _read_custom(value: Any) -> Any:
    """Return the name of a decorated function, or the text that is one."""
    return getattr(value, "name", value)


#: ``module:function`` of a policy of the user's (`meshsim.policy.custom`), or that policy itself.
CustomName = Annotated[
    str, BeforeValidator(_read_custom), Field(pattern=r"^[\w.]+:[\w.<>]+$", max_length=200)
]

#: Those called ORACLE see the true queues of servers: simulated only, and no mesh has them.
LoadBalancingPolicy = Literal[
    "ROUND_ROBIN",
    "LEAST_REQUEST",
    "RANDOM",
    "RING_HASH",
    "MAGLEV",
    "PEAK_EWMA",
    "CUSTOM",
    "CLIENT_SIDE_WEIGHTED_ROUND_ROBIN",
    "PREQUAL",
    "ORACLE_SHORTEST_QUEUE",
    "ORACLE_STALE_QUEUE",
    "ORACLE_IDLE_QUEUE",
]


class StringMatch(Model):
    """Exactly one of exact, prefix, regex (RE2 full match), present."""

    exact: str | None = None
    prefix: str | None = None
    regex: str | None = None
    present: Boolean | None = None
    invert: Boolean = False

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return {"exact": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _exactly_one(self) -> StringMatch:
        one_of(self, ("exact", "prefix", "regex", "present"))
        return self


class RouteMatch(Model):
    """All conditions must hold; an empty match holds for every request.

    `ignore_case` applies to exact and prefix of `path`; `source_labels` restricts the match to
    callers whose workload carries these labels.
    """

    path: StringMatch | None = None
    method: StringMatch | None = None
    authority: StringMatch | None = None
    headers: dict[str, StringMatch] = Field(default_factory=dict)
    query: dict[str, StringMatch] = Field(
        default_factory=dict, description="parameters of the query by name; names mind the case"
    )
    ignore_case: Boolean = False
    source_labels: dict[str, str] = Field(default_factory=dict)


class WeightedCluster(Model):
    """One destination of a split: a service (default: the routed one) and perhaps a subset.

    `metadata_match` are labels that its hosts must have, if the cluster has a `subset_config`;
    each of `fallback_list` is put over them and tried in turn.
    """

    service: str | None = None
    subset: str | None = None
    weight: Integer = Field(default=1, ge=0, le=2**32 - 1)
    metadata_match: dict[str, str] = Field(default_factory=dict)
    fallback_list: tuple[dict[str, str], ...] = ()


RetryOn = Literal[
    "5xx",
    "gateway-error",
    "reset",
    "reset-before-request",
    "connect-failure",
    "refused-stream",
    "retriable-4xx",
    "retriable-status-codes",
    "unavailable",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "envoy-ratelimited",
]


Jitter = Literal["FULL", "NONE", "EQUAL", "DECORRELATED"]
StatusCode = Annotated[Integer, Field(ge=100, le=599)]
#: The longest interval that a header may ask for [ns].
RESET_MAX_NS = 9 * 3600 * NS_PER_S


class ResetHeader(Model):
    """A response header that says when a rate limit is reset: after some seconds, or at a time.

    Simulated answers have ``x-ratelimit-reset`` and ``retry-after``, in seconds.
    """

    name: str = Field(min_length=1, max_length=200)
    format: Literal["SECONDS", "UNIX_TIMESTAMP"] = "SECONDS"


class RateLimitedRetryBackOff(Model):
    """Envoy's back-off by a header of the response, where that asks for one."""

    reset_headers: tuple[ResetHeader, ...] = Field(min_length=1)
    max_interval: Duration | None = Field(
        default=None, gt=0, le=RESET_MAX_NS, description="what is longer is not heeded"
    )


class RetryPolicy(Model):
    """When and how often a failed attempt is followed by another."""

    num_retries: Integer | None = Field(default=None, ge=0, le=1000)
    custom: CustomName | None = Field(
        default=None, description="module:function that decides instead of retry_on and intervals"
    )
    retry_on: tuple[RetryOn, ...] | None = None
    retriable_status_codes: tuple[StatusCode, ...] | None = None
    per_try_timeout: Duration | None = None
    base_interval: Duration | None = None
    max_interval: Duration | None = None
    jitter: Jitter | None = Field(
        default=None, description="how back-offs are spread; Envoy has FULL only"
    )
    rate_limited_retry_back_off: RateLimitedRetryBackOff | None = None
    previous_hosts: Boolean | None = None
    host_selection_retry_max_attempts: Integer | None = Field(default=None, ge=1, le=100)


class Route(Model):
    """One rule of a service's route table; rules are tried in order, the first match wins."""

    name: str = ""
    match: tuple[RouteMatch, ...] = ()
    split: tuple[WeightedCluster, ...] = ()
    direct_response: Integer | None = Field(default=None, ge=200, le=599)
    redirect: Redirect | None = None
    timeout: Duration | None = Field(default=None, description="covers all tries; 0 disables")
    priority: Literal["DEFAULT", "HIGH"] = Field(
        default="DEFAULT", description="whose circuit breakers and connections requests use"
    )
    retry: RetryPolicy | None = None
    hedge_policy: HedgePolicy | None = None
    fault: Fault | None = None
    rate_limit: LocalRateLimit | None = Field(
        default=None, description="one set of buckets a calling proxy"
    )
    global_rate_limit: GlobalRateLimit | None = Field(
        default=None, description="a service that all calling proxies ask; simulated only"
    )
    mirrors: tuple[Mirror, ...] = ()

    @field_validator("rate_limit")
    @classmethod
    def _is_of_a_proxy(cls, limit: LocalRateLimit | None) -> LocalRateLimit | None:
        """Refuse a limit per connection: who calls through its own proxy has no connections."""
        if limit is not None and limit.local_rate_limit_per_downstream_connection:
            raise ValueError(
                "the connections of callers to their own proxies are not modelled; a limit "
                "per connection belongs to inbound proxies: policies.SERVICE.rate_limit"
            )
        return limit

    @property
    def answer(self) -> int | None:
        """Status that the route itself answers with; None if it forwards."""
        return self.redirect.response_code if self.redirect else self.direct_response


#: Envoy's bound of an endpoint's weight.
Weight = Annotated[Integer, Field(ge=1, le=128)]


class LoadBalancing(Model):
    """Which host of a cluster the next request (or connection) goes to."""

    policy: LoadBalancingPolicy | None = None
    custom: CustomName | None = Field(
        default=None, description="module:function, for policy CUSTOM"
    )
    choice_count: Integer | None = Field(default=None, ge=2, le=1000)
    active_request_bias: Number | None = Field(default=None, ge=0, le=100)
    selection_method: Literal["N_CHOICES", "FULL_SCAN"] | None = None
    minimum_ring_size: Integer | None = Field(default=None, ge=1, le=8_388_608)
    maximum_ring_size: Integer | None = Field(default=None, ge=1, le=8_388_608)
    table_size: Integer | None = Field(default=None, ge=2, le=5_000_011)
    hash_balance_factor: Integer | None = Field(default=None, ge=0, le=10_000)
    hash_header: str | None = None
    hash_source_ip: Boolean | None = None
    decay: Duration | None = None
    default_rtt: Duration | None = None
    blackout_period: Duration | None = None
    weight_expiration_period: Duration | None = None
    weight_update_period: Duration | None = None
    error_utilization_penalty: Number | None = Field(default=None, ge=0, le=1e6)
    r_probe: Number | None = Field(
        default=None, ge=0, le=10, description="PREQUAL: probes of random servers a request"
    )
    r_remove: Number | None = Field(
        default=None, ge=0, le=10, description="PREQUAL: probes removed from the pool a request"
    )
    q_rif: Number | None = Field(
        default=None,
        ge=0,
        le=1,
        description="PREQUAL: quantile of requests in flight above which a server is hot",
    )
    probe_pool_size: Integer | None = Field(
        default=None, ge=2, le=POOL_MAX, description="PREQUAL: probes kept at most"
    )
    probe_max_age: Duration | None = Field(
        default=None, description="PREQUAL: age at which a probe is dropped"
    )
    reuse_delta: Number | None = Field(
        default=None, ge=0, le=1000, description="PREQUAL: the delta of the paper's b_reuse"
    )
    distinct_choices: Boolean | None = Field(
        default=None, description="oracles: draw choice_count different hosts"
    )
    view_interval: Duration | None = Field(
        default=None, description="ORACLE_STALE_QUEUE: between two looks at all loads"
    )
    weights: dict[str, Weight] | None = Field(
        default=None, description="endpoint weight by workload name, 1 to 128"
    )
    healthy_panic_threshold: Number | None = Field(
        default=None,
        ge=0,
        le=100,
        description="percent of healthy hosts below which all are used; 0: never",
    )
    update_merge_window: Duration | None = Field(
        default=None,
        description="changes of health that come sooner after another wait this long; 0: off",
    )
    slow_start: SlowStart | None = None

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        """Take a decorated function for a policy of that name."""
        if getattr(value, "kind", None) == "load_balancer":
            return {"policy": "CUSTOM", "custom": value}
        return value


class RetryBudget(Model):
    """Envoy's retry budget: concurrent retries as a share of active and pending requests."""

    budget_percent: Number | None = Field(default=None, ge=0, le=100)
    min_retry_concurrency: Integer | None = Field(default=None, ge=0)


class TokenBudget(Model):
    """Finagle's and Linkerd's retry budget: requests deposit tokens, retries withdraw them."""

    retry_ratio: Number = Field(default=0.2, ge=0, le=1000)
    min_retries_per_second: Integer = Field(default=10, ge=0, le=1_000_000)
    ttl: Duration = 10_000_000_000


class GrpcThrottling(Model):
    """gRPC's retry throttling: failures cost a token, successes earn a part of one."""

    max_tokens: Integer = Field(default=10, ge=1, le=1000)
    token_ratio: Number = Field(default=0.1, gt=0, le=1000)


class RetryThrottling(Model):
    """How a client throttles its retries: exactly one of token_budget, grpc."""

    token_budget: TokenBudget | None = None
    grpc: GrpcThrottling | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> RetryThrottling:
        one_of(self, ("token_budget", "grpc"))
        return self


class Thresholds(Model):
    """Envoy's concurrency limits of one priority."""

    max_connections: Integer | None = Field(default=None, ge=0, le=2**32 - 1)
    max_pending_requests: Integer | None = Field(default=None, ge=0, le=2**32 - 1)
    max_requests: Integer | None = Field(default=None, ge=0, le=2**32 - 1)
    max_retries: Integer | None = Field(default=None, ge=0, le=2**32 - 1)
    retry_budget: RetryBudget | None = None


class CircuitBreakers(Thresholds):
    """Envoy's concurrency limits, per client proxy and cluster; those of priority DEFAULT."""

    high: Thresholds | None = Field(
        default=None, description="of requests on routes of priority HIGH, which count apart"
    )
    retry_throttling: RetryThrottling | None = None


class ConnectionPool(Model):
    """How a proxy keeps connections to one host."""

    connect_timeout: Duration | None = None
    idle_timeout: Duration | None = Field(default=None, description="0 disables")
    max_requests_per_connection: Integer | None = Field(
        default=None, ge=0, description="0: no limit"
    )


class ClusterPolicy(Model):
    """Policies of one cluster (a service, or a subset of it)."""

    load_balancing: LoadBalancing | None = None
    locality: LocalityLoadBalancing | None = None
    subset_config: SubsetConfig | None = None
    circuit_breakers: CircuitBreakers | None = None
    connection_pool: ConnectionPool | None = None
    admission: CustomName | None = Field(
        default=None, description="module:function that admits or refuses each request"
    )
    outlier_detection: OutlierDetection | None = None
    failure_accrual: FailureAccrual | None = None
    health_check: HealthCheck | None = None


class Subset(ClusterPolicy):
    """The endpoints of a service whose workload carries these labels, with own policies."""

    labels: dict[str, str]


class ServicePolicy(ClusterPolicy):
    """What client proxies do with requests to one service."""

    subsets: dict[str, Subset] = Field(default_factory=dict)
    routes: tuple[Route, ...] = ()
    rate_limit: LocalRateLimit | None = Field(
        default=None, description="at the inbound proxy of each of its replicas"
    )
    adaptive_concurrency: AdaptiveConcurrency | None = Field(
        default=None, description="at the inbound proxy of each of its replicas"
    )
