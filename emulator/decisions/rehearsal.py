"""Rehearse: decide on made-up requests, so that the first real one need not wait.

Rule: compiled policies are loaded (or, the first time on a machine, compiled) when they are
first called, which takes from a third of a second to some seconds.  A process that is to carry
requests calls all of them before.
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np

from emulator.decisions.engine import ProxyEngine
from emulator.decisions.rate_limit_service import RateLimitService
from meshsim.controlplane.configuration import (
    EndpointAddress,
    ListenerPolicy,
    ProxyConfiguration,
)
from meshsim.policy.custom.decisions import learn
from meshsim.policy.transitions import STIMULUS_DOWNSTREAM_RESET, STIMULUS_RESPONSE
from meshsim.state.codes import RESET_NONE
from meshsim.state.health import CHECK_DEGRADED
from meshsim.state.upstream import CLUSTER_CONFIG_DTYPE, CLUSTER_DTYPE
from meshsim.topology.compiled.policies import no_hosts
from meshsim.topology.model import (
    AdaptiveConcurrency,
    CircuitBreakers,
    ClusterPolicy,
    ConcurrencyLimitParams,
    ConnectionPool,
    FailureAccrual,
    HealthCheck,
    LoadBalancing,
    LocalityLoadBalancing,
    LocalRateLimit,
    MinRttCalcParams,
    Model,
    OutlierDetection,
    Route,
    SubsetConfig,
    WeightedCluster,
)

__all__ = ["rehearse"]

_Element = TypeVar("_Element", bound=Model)
_MS = 1_000_000
_PLAIN, _GROUPED, _BY_SUBSET, _HASHED = "service", "grouped", "labelled", "hashed"
_PROBED = "probed"
_LIMIT = {"token_bucket": {"max_tokens": 9, "tokens_per_fill": 9, "fill_interval": "1s"}}
_TOLD = {
    "token_bucket": {"max_tokens": 1, "fill_interval": "1h"},
    "enable_x_ratelimit_headers": "DRAFT_VERSION_03",
}


def rehearse() -> None:
    """Call every function of `emulator.decisions.engine.DECISIONS` once."""
    engine = ProxyEngine("rehearsal", 0, 1)
    engine.apply(_configuration(), 0)
    rounds = (
        (_PLAIN, "response", 200),
        (_GROUPED, "abandoned", 500),
        (_BY_SUBSET, "response", 200),
        (_HASHED, "response", 200),
        (_PROBED, "response", 200),
    )
    for service, outcome, status in rounds:
        exchange = engine.start(service, "GET", "/", {}, None, 0)
        _route(engine, exchange)
        host = engine.pick(exchange, 0)
        for probe in engine.take_probes():
            engine.probed(probe.pool, probe.slot, probe.number, 0, 0, 0)
        engine.can_wait(host)
        engine.can_open(host)
        engine.opened(host)
        engine.pending_added(host)
        engine.wants_connection(host, 0)
        engine.pending_removed(host)
        engine.can_send(host)
        engine.sent(exchange, host, 0)
        engine.hear_reset(exchange, {"retry-after": "1"}, 0)
        engine.tell(exchange, STIMULUS_RESPONSE, status, RESET_NONE, _MS)
        engine.ended(exchange, host, outcome, status >= 500, _MS, _MS)
        engine.closed(host)
        engine.pace(exchange, 1, _MS)
        copy, _ = engine.mirror(exchange, 0, _MS)
        engine.tell(copy, STIMULUS_DOWNSTREAM_RESET, 0, RESET_NONE, _MS)
        engine.finish(copy)
        engine.finish(exchange)
    for _ in range(2):  # the second is refused
        engine.admit("GET", "/", "service", {}, 1, 1, _MS)
    # Of a load balancer that learns; nobody has one here.
    clusters, configs = np.zeros(1, CLUSTER_DTYPE), np.zeros(1, CLUSTER_CONFIG_DTYPE)
    learn(no_hosts(1), 0, clusters, configs, np.zeros(1), False, 0, 0)
    dropped = engine.start("service", "GET", "/", {}, None, 0)
    _route(engine, dropped)
    engine.pick(dropped, 0)
    engine.tell(dropped, STIMULUS_DOWNSTREAM_RESET, 0, RESET_NONE, _MS)
    engine.finish(dropped)
    for watched in engine.checked_hosts():
        engine.first_check(watched, _MS)
        engine.checked(watched, CHECK_DEGRADED, _MS)
    degraded = engine.start(_GROUPED, "GET", "/", {}, None, 0)
    _route(engine, degraded)
    engine.pick(degraded, 0)
    for answered in (True, False):
        _, life = engine.gate.enter(_MS)
        engine.gate.leave(life, _MS, answered, _MS)


def _route(engine: ProxyEngine, exchange: int) -> None:
    """Route a request, which is delayed, and whose rate limit service is asked."""
    engine.route(exchange, 0)
    engine.route(exchange, 0)
    domain, descriptors, _ = engine.question(exchange)
    answer = RateLimitService(1).count(domain, descriptors, 0)
    engine.heard(exchange, answer, 0)


def _filled(element: type[_Element], **fields: Any) -> _Element:
    """Return an element whose other fields are some number."""
    values: dict[str, Any] = {**dict.fromkeys(element.model_fields, 10), **fields}
    make: Any = element.model_construct
    filled: _Element = make(**values)
    return filled


def _filtered_route() -> Route:
    """Return a route whose requests pass every filter."""
    # A split in two, because one destination needs no draw.
    split = (WeightedCluster(weight=1), WeightedCluster(weight=1))
    return Route.model_validate(
        {
            "split": split,
            "timeout": "9ms",
            "retry": {
                "per_try_timeout": "5ms",
                "rate_limited_retry_back_off": {"reset_headers": [{"name": "retry-after"}]},
            },
            "fault": {
                "delay": {"fixed_delay": "1ms", "percentage": 100.0},
                "abort": {"http_status": 503, "percentage": 1e-9},
                "response_rate_limit": {"limit_kbps": 1, "percentage": 100.0},
            },
            "mirrors": [{"percentage": 100.0}],
            "rate_limit": _LIMIT,
            "global_rate_limit": {
                "descriptors": [{"requests_per_unit": 9, "unit": "SECOND"}],
                "latency": {"exponential": "1ms"},
                "timeout": "20ms",
            },
        }
    )


def _configuration() -> ProxyConfiguration:
    """Return a configuration under which a request meets every kind of decision."""
    policy = ClusterPolicy(
        load_balancing=LoadBalancing(policy="RANDOM"),
        circuit_breakers=CircuitBreakers(),
        connection_pool=ConnectionPool(),
        outlier_detection=_filled(OutlierDetection, split_external_local_origin_errors=True),
        failure_accrual=_filled(FailureAccrual, consecutive_jitter_ratio=0.0),
        health_check=_filled(HealthCheck, path="/"),
    )
    locality = LocalityLoadBalancing(overprovisioning_factor=140, locality_weighted=False)
    by_subset = SubsetConfig(fallback_policy="ANY_ENDPOINT")
    hashing = LoadBalancing(policy="MAGLEV", table_size=2, hash_source_ip=True)
    probing = LoadBalancing(
        policy="PREQUAL",
        r_probe=1.0,
        r_remove=1.0,
        q_rif=0.5,
        reuse_delta=1.0,
        probe_max_age="1s",
        probe_pool_size=2,
    )
    clusters = {
        _PLAIN: policy,
        _GROUPED: policy.model_copy(update={"locality": locality}),
        _HASHED: policy.model_copy(update={"locality": locality, "load_balancing": hashing}),
        _BY_SUBSET: policy.model_copy(update={"subset_config": by_subset}),
        _PROBED: policy.model_copy(update={"load_balancing": probing}),
    }
    route = _filtered_route()
    address = EndpointAddress("service-v1-0", "v1", "127.0.0.1", 1)
    return ProxyConfiguration(
        "rehearsal",
        clusters=clusters,
        endpoints=dict.fromkeys(clusters, (address,)),
        routes=dict.fromkeys(clusters, (route,)),
        listener=ListenerPolicy(
            rate_limit=LocalRateLimit.model_validate(_TOLD),
            adaptive_concurrency=_filled(
                AdaptiveConcurrency,
                concurrency_limit_params=_filled(ConcurrencyLimitParams),
                min_rtt_calc_params=_filled(MinRttCalcParams),
            ),
        ),
    )
