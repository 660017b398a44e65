"""Fill what a scenario left unsaid with the defaults of its mesh.

Rule: a stated value wins; an unset field of a stated block takes the mesh's default; a subset
takes each *block* (load_balancing, locality, circuit_breakers, outlier_detection, ...) from
itself, else
from its service, else from the defaults, as Istio merges subset policies.  A service that states no
route gets one that sends everything to itself.  A service that states routes gets none added:
a request that matches none of them is answered 404 (flag NR), as Envoy does.

After `resolve` these stay None because None is their meaning: ``hash_header`` (no header),
``retry_budget``, ``retry_throttling``, ``rate_limited_retry_back_off``, ``high`` (no route of that
priority), ``fault``,
``rate_limit``, ``global_rate_limit`` and ``adaptive_concurrency`` (none), ``locality`` (members
are not grouped) and what it leaves out, ``subset_config`` (one balancer for all hosts),
``outlier_detection``, ``failure_accrual``, ``health_check`` and ``slow_start`` (off),
``direct_response`` and ``redirect`` (forward), ``custom`` and ``admission`` (no function of the
user's), and the ``subset`` of a split or mirror (all).

References
----------
istio/istio pilot/pkg/networking/core/cluster_traffic_policy.go (MergeTrafficPolicy);
envoyproxy/envoy source/common/router/config_impl.cc (no route: 404).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

from meshsim.meshes.defaults import (
    ADAPTIVE_CONCURRENCY,
    CONCURRENCY_LIMIT,
    ENVOY_TOKEN_BUCKET,
    GLOBAL_RATE_LIMIT,
    HASHING_POLICIES,
    LOCAL_RATE_LIMIT,
    MIN_RTT_CALC,
    MIRROR,
    RATE_LIMITED_BACK_OFF,
    Block,
    Default,
    PolicyDefaults,
)
from meshsim.topology.model import (
    AdaptiveConcurrency,
    CircuitBreakers,
    ClusterPolicy,
    ConnectionPool,
    HealthCheck,
    LoadBalancing,
    LocalityLoadBalancing,
    LocalRateLimit,
    Mirror,
    Model,
    OutlierDetection,
    Provenance,
    RetryPolicy,
    Route,
    ServicePolicy,
    Thresholds,
    Topology,
    WeightedCluster,
)
from meshsim.topology.profile import MeshProfile
from meshsim.topology.releases import always_ejects_one, release_of
from meshsim.units import NS_PER_S

__all__ = ["fill"]

_Element = TypeVar("_Element", bound=Model)
_Limits = TypeVar("_Limits", bound=Thresholds)
_NOT_WEIGHTED = Default(False, "Envoy: zone_aware and locality_weighted exclude each other")
#: Envoy's longest ejection, unless the base is longer.
_EJECTION_TIME_MAX_NS = 300 * NS_PER_S
_EJECTION_TIME = Default(
    None, "Envoy default (outlier_detection.proto: 300 s, or base_ejection_time if longer)"
)
_ALWAYS_ONE = Default(True, "Envoy before 1.28: one host may always be ejected")
_ITSELF = Default(None, "default: the service itself")
_NO_MERGING = Default(0, "default with failure accrual: Linkerd merges no changes of health")
_NO_PANIC = Default(0.0, "default with failure accrual: Linkerd does not panic")
_BLOCKS = (
    "load_balancing",
    "locality",
    "subset_config",
    "circuit_breakers",
    "connection_pool",
    "outlier_detection",
    "failure_accrual",
    "health_check",
)


def fill(topology: Topology, profile: MeshProfile, defaults: PolicyDefaults) -> Topology:
    """Return `topology` with every policy field of every service filled.

    Parameters
    ----------
    topology : Topology
        As declared; unchanged.
    profile : MeshProfile
        The mesh; without proxies, policies read from a mesh's configuration are dropped.
    defaults : PolicyDefaults
        Of the same mesh.

    Returns
    -------
    Topology
        With `policies` for exactly its services and the provenance of each filled field.
        Filling again changes nothing.
    """
    notices = list(topology.notices)
    stated = topology.policies
    origin = topology.policy_origin
    provenance = dict(topology.provenance)
    if topology.policy_origin and not profile.sidecars and stated:
        notices.append(
            f"mesh {profile.name}: the policies read from {topology.policy_origin} configuration "
            "are not applied; a client without a proxy ignores them"
        )
        provenance = {
            path: place for path, place in provenance.items() if not path.startswith("policies.")
        }
        stated = {}
        origin = ""
    if not profile.sidecars:
        stated = _without_inbound(stated, profile.name, notices)
    release = topology.envoy_release or profile.envoy_release
    if topology.envoy_release is None and release is not None:
        said = f"profile {profile.name}: the release that its costs were measured on"
        provenance["envoy_release"] = Provenance(default=said)
    if always_ejects_one(release_of(release)):
        block = {**defaults.outlier_detection, "always_eject_one_host": _ALWAYS_ONE}
        defaults = replace(defaults, outlier_detection=block)
    filler = _Filler(defaults, provenance, notices, _high_priority(stated))
    policies = {
        name: filler.service(name, stated.get(name, ServicePolicy())) for name in topology.services
    }
    update = {
        "policies": policies,
        "envoy_release": release,
        "policy_origin": origin,
        "provenance": provenance,
        "notices": tuple(dict.fromkeys(notices)),
    }
    return topology.model_copy(update=update)


#: What inbound proxies do, and what takes its place where there is none.
_INBOUND = {"rate_limit": " (a route's rate_limit is)", "adaptive_concurrency": ""}


def _without_inbound(
    policies: Mapping[str, ServicePolicy], mesh: str, notices: list[str]
) -> dict[str, ServicePolicy]:
    """Return `policies` without what only inbound proxies do; say so."""
    kept = dict(policies)
    for name in policies:
        for item, instead in _INBOUND.items():
            if getattr(policies[name], item) is not None:
                notices.append(
                    f"mesh {mesh}: policies.{name}.{item} is not applied; there is no "
                    f"inbound proxy{instead}"
                )
                kept[name] = kept[name].model_copy(update={item: None})
    return kept


def _high_priority(policies: Mapping[str, ServicePolicy]) -> set[str]:
    """Return the services that routes of priority HIGH lead to."""
    return {
        destination.service or name
        for name, policy in policies.items()
        for route in policy.routes
        if route.priority == "HIGH"
        for destination in route.split or (WeightedCluster(),)
    }


class _Filler:
    """Fills one policy after another; writes into `provenance` and `notices`."""

    def __init__(
        self,
        defaults: PolicyDefaults,
        provenance: dict[str, Provenance],
        notices: list[str],
        high_priority: set[str],
    ) -> None:
        self.defaults = defaults
        self.provenance = provenance
        self.notices = notices
        self.high_priority = high_priority
        self.has_high = False

    def service(self, name: str, policy: ServicePolicy) -> ServicePolicy:
        """Return the full policy of service `name`."""
        path = f"policies.{name}"
        self.has_high = name in self.high_priority
        blocks = self._cluster(policy, path)
        filled = policy.model_copy(update=blocks)
        subsets = {}
        for subset_name, subset in policy.subsets.items():
            subset_path = f"{path}.subsets.{subset_name}"
            subsets[subset_name] = subset.model_copy(
                update=self._subset(subset, subset_path, filled, path)
            )
        limit = self._rate_limit(policy.rate_limit, f"{path}.rate_limit")
        adaptive = self._adaptive(policy.adaptive_concurrency, f"{path}.adaptive_concurrency")
        update = {"subsets": subsets, "rate_limit": limit, "adaptive_concurrency": adaptive}
        filled = filled.model_copy(update=update)
        return filled.model_copy(update={"routes": self._routes(name, filled, path)})

    def _cluster(self, policy: ClusterPolicy, path: str) -> dict[str, Model | None]:
        return {
            "load_balancing": self._load_balancing(policy, f"{path}.load_balancing"),
            "outlier_detection": self._outlier_detection(
                policy.outlier_detection, f"{path}.outlier_detection"
            ),
            "locality": self._locality(policy.locality, f"{path}.locality"),
            "subset_config": policy.subset_config,
            "failure_accrual": self._optional(
                policy.failure_accrual, self.defaults.failure_accrual, f"{path}.failure_accrual"
            ),
            "health_check": self._health_check(policy.health_check, f"{path}.health_check"),
            "circuit_breakers": self._breakers(policy.circuit_breakers, f"{path}.circuit_breakers"),
            "connection_pool": self._block(
                policy.connection_pool or ConnectionPool(),
                self.defaults.connection_pool,
                f"{path}.connection_pool",
            ),
        }

    def _subset(
        self, subset: ClusterPolicy, path: str, service: ServicePolicy, service_path: str
    ) -> dict[str, Model | None]:
        own = subset.model_copy()
        inherited: dict[str, Model] = {}
        for block in _BLOCKS:
            if getattr(subset, block) is None and getattr(service, block) is not None:
                inherited[block] = getattr(service, block)
                self._copy_provenance(
                    inherited[block], f"{service_path}.{block}", f"{path}.{block}"
                )
        if subset.admission is None:
            own = own.model_copy(update={"admission": service.admission})
        return self._cluster(own.model_copy(update=inherited), path)

    def _copy_provenance(self, block: Model, source: str, target: str) -> None:
        for name in type(block).model_fields:
            place = self.provenance.get(f"{source}.{name}")
            if place is not None:
                self.provenance[f"{target}.{name}"] = place
            nested = getattr(block, name)
            if isinstance(nested, Model):
                self._copy_provenance(nested, f"{source}.{name}", f"{target}.{name}")

    def _block(self, stated: _Element, defaults: Block, path: str) -> _Element:
        update = {}
        for name, default in defaults.items():
            if getattr(stated, name) is None:
                update[name] = default.value
                self.provenance[f"{path}.{name}"] = default.provenance
        return stated.model_copy(update=update)

    def _locality(
        self, stated: LocalityLoadBalancing | None, path: str
    ) -> LocalityLoadBalancing | None:
        if stated is None:
            return None
        block = dict(self.defaults.locality)
        if stated.zone_aware is not None:  # Envoy has one of the two
            block["locality_weighted"] = _NOT_WEIGHTED
        filled = self._block(stated, block, path)
        if filled.zone_aware is None:
            return filled
        zone_aware = self._block(filled.zone_aware, self.defaults.zone_aware, f"{path}.zone_aware")
        return filled.model_copy(update={"zone_aware": zone_aware})

    def _optional(self, stated: _Element | None, defaults: Block, path: str) -> _Element | None:
        """Return a block that is off unless it is stated."""
        return None if stated is None else self._block(stated, defaults, path)

    def _load_balancing(self, policy: ClusterPolicy, path: str) -> LoadBalancing:
        block = dict(self.defaults.load_balancing)
        if policy.failure_accrual is not None:
            block["healthy_panic_threshold"] = _NO_PANIC
            block["update_merge_window"] = _NO_MERGING
        if policy.outlier_detection is not None:
            block |= self.defaults.panic_watched
        filled = self._block(policy.load_balancing or LoadBalancing(), block, path)
        slow_start = self._optional(
            filled.slow_start, self.defaults.slow_start, f"{path}.slow_start"
        )
        return filled.model_copy(update={"slow_start": slow_start})

    def _outlier_detection(
        self, stated: OutlierDetection | None, path: str
    ) -> OutlierDetection | None:
        filled = self._optional(stated, self.defaults.outlier_detection, path)
        if filled is None or filled.max_ejection_time is not None:
            return filled
        longest_ns = max(_EJECTION_TIME_MAX_NS, filled.base_ejection_time or 0)
        self.provenance[f"{path}.max_ejection_time"] = _EJECTION_TIME.provenance
        return filled.model_copy(update={"max_ejection_time": longest_ns})

    def _health_check(self, stated: HealthCheck | None, path: str) -> HealthCheck | None:
        filled = self._optional(stated, self.defaults.health_check, path)
        if filled is None:
            return None
        following = (
            ("unhealthy_interval", "interval"),
            ("unhealthy_edge_interval", "unhealthy_interval"),
            ("healthy_edge_interval", "interval"),
            ("no_traffic_healthy_interval", "no_traffic_interval"),
        )
        for name, model in following:
            if getattr(filled, name) is None:
                filled = filled.model_copy(update={name: getattr(filled, model)})
                self.provenance[f"{path}.{name}"] = Provenance(
                    default=f"Envoy default (health_check.proto: {model})"
                )
        return filled

    def _breakers(self, stated: CircuitBreakers | None, path: str) -> CircuitBreakers:
        filled = self._block(stated or CircuitBreakers(), self.defaults.circuit_breakers, path)
        filled = self._budget(filled, path)
        if filled.high is None and not self.has_high:
            return filled
        high = self._block(filled.high or Thresholds(), self.defaults.high_priority, f"{path}.high")
        return filled.model_copy(update={"high": self._budget(high, f"{path}.high")})

    def _budget(self, stated: _Limits, path: str) -> _Limits:
        if stated.retry_budget is None:
            return stated
        budget = self._block(
            stated.retry_budget, self.defaults.retry_budget, f"{path}.retry_budget"
        )
        return stated.model_copy(update={"retry_budget": budget})

    def _routes(self, service: str, policy: ServicePolicy, path: str) -> tuple[Route, ...]:
        routes = policy.routes
        if not routes:
            routes = (Route(),)
            self.provenance[f"{path}.routes[0]"] = Provenance(
                default="default: a service without routes takes every request itself"
            )
        elif all(route.match for route in routes):
            self.notices.append(
                f"{path}.routes: the last rule has a match; a request that matches no rule is "
                "answered 404 (NR)"
            )
        return tuple(
            self._route(service, route, policy, f"{path}.routes[{index}]")
            for index, route in enumerate(routes)
        )

    def _route(self, service: str, route: Route, policy: ServicePolicy, path: str) -> Route:
        split = self._split(service, route, path)
        filled = self._block(route, self.defaults.route, path)
        retry = self._retry(route.retry, self._is_hashed(service, split, policy), f"{path}.retry")
        update = {
            "split": split,
            "retry": retry,
            "rate_limit": self._rate_limit(route.rate_limit, f"{path}.rate_limit"),
            "global_rate_limit": self._optional(
                route.global_rate_limit, GLOBAL_RATE_LIMIT, f"{path}.global_rate_limit"
            ),
            "mirrors": self._mirrors(service, route, path),
        }
        return filled.model_copy(update=update)

    def _rate_limit(self, stated: LocalRateLimit | None, path: str) -> LocalRateLimit | None:
        if stated is None:
            return None
        filled = self._block(stated, LOCAL_RATE_LIMIT, path)
        bucket = self._block(stated.token_bucket, ENVOY_TOKEN_BUCKET, f"{path}.token_bucket")
        descriptors = []
        for index, item in enumerate(stated.descriptors):
            at = f"{path}.descriptors[{index}].token_bucket"
            own = self._block(item.token_bucket, ENVOY_TOKEN_BUCKET, at)
            descriptors.append(item.model_copy(update={"token_bucket": own}))
        update = {"token_bucket": bucket, "descriptors": tuple(descriptors)}
        return filled.model_copy(update=update)

    def _adaptive(
        self, stated: AdaptiveConcurrency | None, path: str
    ) -> AdaptiveConcurrency | None:
        if stated is None:
            return None
        filled = self._block(stated, ADAPTIVE_CONCURRENCY, path)
        at = f"{path}.concurrency_limit_params"
        limits = self._block(stated.concurrency_limit_params, CONCURRENCY_LIMIT, at)
        at = f"{path}.min_rtt_calc_params"
        least = self._block(stated.min_rtt_calc_params, MIN_RTT_CALC, at)
        update = {"concurrency_limit_params": limits, "min_rtt_calc_params": least}
        return filled.model_copy(update=update)

    def _mirrors(self, service: str, route: Route, path: str) -> tuple[Mirror, ...]:
        mirrors = []
        for index, mirror in enumerate(route.mirrors):
            at = f"{path}.mirrors[{index}]"
            filled = self._block(mirror, MIRROR, at)
            if filled.service is None:
                filled = filled.model_copy(update={"service": service})
                self.provenance[f"{at}.service"] = _ITSELF.provenance
            mirrors.append(filled)
        return tuple(mirrors)

    def _split(self, service: str, route: Route, path: str) -> tuple[WeightedCluster, ...]:
        if route.answer is not None:
            return route.split
        split = []
        for index, destination in enumerate(route.split or (WeightedCluster(),)):
            if destination.service is None:
                destination = destination.model_copy(update={"service": service})
                self.provenance[f"{path}.split[{index}].service"] = _ITSELF.provenance
            split.append(destination)
        return tuple(split)

    def _is_hashed(
        self, service: str, split: tuple[WeightedCluster, ...], policy: ServicePolicy
    ) -> bool:
        """Say if a destination of `split` within this service hashes its requests."""
        clusters: list[ClusterPolicy] = [
            policy.subsets.get(destination.subset, policy) if destination.subset else policy
            for destination in split
            if destination.service == service
        ]
        return any(
            cluster.load_balancing is not None and cluster.load_balancing.policy in HASHING_POLICIES
            for cluster in clusters
        )

    def _retry(self, stated: RetryPolicy | None, hashed: bool, path: str) -> RetryPolicy:
        block = dict(self.defaults.retry)
        if stated is not None:
            block |= self.defaults.retry_stated
        if hashed:
            block |= self.defaults.retry_hashed
        filled = self._block(stated or RetryPolicy(), block, path)
        if filled.max_interval is None:
            interval = (filled.base_interval or 0) * self.defaults.max_interval_factor
            place = Provenance(default=self.defaults.max_interval_source)
            self.provenance[f"{path}.max_interval"] = place
            filled = filled.model_copy(update={"max_interval": interval})
        limited = self._optional(
            filled.rate_limited_retry_back_off,
            RATE_LIMITED_BACK_OFF,
            f"{path}.rate_limited_retry_back_off",
        )
        return filled.model_copy(update={"rate_limited_retry_back_off": limited})
