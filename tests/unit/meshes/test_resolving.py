"""What is filled, from where, and what is left alone."""

import pytest

from meshsim.errors import ConfigError
from meshsim.meshes import PROFILES, profile, resolve
from meshsim.topology.model import Provenance, Topology

MAY_BE_NONE = {
    "adaptive_concurrency",
    "admission",
    "fixed_value",
    "custom",
    "hash_header",
    "high",
    "retry_throttling",
    "rate_limited_retry_back_off",
    "retry_budget",
    "direct_response",
    "redirect",
    "fault",
    "max_active_faults",
    "abort",
    "response_rate_limit",
    "global_rate_limit",
    "rate_limit",
    "subset",
    "locality",
    "subset_config",
    "hedge_policy",
    "outlier_detection",
    "failure_accrual",
    "health_check",
    "slow_start",
}


def topology(policies: dict | None = None, **fields: object) -> Topology:
    return Topology.model_validate(
        {
            "name": "t",
            "services": {"a": {"workloads": {"v1": {}}}, "b": {"workloads": {"v1": {}}}},
            "policies": policies or {},
            **fields,
        }
    )


def unset(value: object, path: str = "") -> list[str]:
    if value is None:
        return [] if path.rsplit(".", 1)[-1] in MAY_BE_NONE else [path]
    if isinstance(value, dict):
        return [found for key, item in value.items() for found in unset(item, f"{path}.{key}")]
    if isinstance(value, (list, tuple)):
        return [
            found for index, item in enumerate(value) for found in unset(item, f"{path}[{index}]")
        ]
    return []


RICH = {
    "a": {
        "load_balancing": {"policy": "RING_HASH", "hash_header": "user"},
        "circuit_breakers": {"max_requests": 7, "retry_budget": {}, "high": {"retry_budget": {}}},
        "outlier_detection": {},
        "failure_accrual": {},
        "health_check": {"interval": "3s"},
        "subsets": {
            "v1": {
                "labels": {},
                "load_balancing": {"choice_count": 3, "slow_start": {"slow_start_window": "9s"}},
            },
            "v2": {"labels": {}},
        },
        "routes": [
            {"match": [{"path": {"prefix": "/x"}}], "split": [{"subset": "v1"}]},
            {"match": [{"path": "/y"}], "direct_response": 404},
            {
                "retry": {"num_retries": 5, "base_interval": "10ms"},
                "fault": {"delay": {"fixed_delay": "1ms", "percentage": 1.0}},
                "mirrors": [{"subset": "v2"}],
                "rate_limit": {
                    "token_bucket": {"max_tokens": 9, "fill_interval": "1s"},
                    "descriptors": [
                        {
                            "entries": {"user": "*"},
                            "token_bucket": {"max_tokens": 1, "fill_interval": "1s"},
                        }
                    ],
                },
            },
        ],
        "rate_limit": {"token_bucket": {"max_tokens": 9, "fill_interval": "1s"}},
        "adaptive_concurrency": {
            "concurrency_limit_params": {"concurrency_update_interval": "1s"},
            "min_rtt_calc_params": {"interval": "1m"},
        },
    }
}


@pytest.mark.parametrize("mesh", ["none", "istio-sidecar"])
def test_no_field_of_any_service_stays_unset(mesh: str) -> None:
    resolved = resolve(topology(RICH, mesh=mesh))
    assert set(resolved.policies) == {"a", "b"}
    dumped = {name: policy.model_dump() for name, policy in resolved.policies.items()}
    matches = [route.pop("match") for policy in dumped.values() for route in policy["routes"]]
    assert len(matches) == 4
    assert unset(dumped) == []


@pytest.mark.parametrize("mesh", ["none", "istio-sidecar"])
def test_every_filled_field_has_a_provenance(mesh: str) -> None:
    resolved = resolve(topology(mesh=mesh))
    policy = resolved.policies["a"]
    for block in ("load_balancing", "circuit_breakers", "connection_pool"):
        for field, value in getattr(policy, block):
            if value is not None:
                assert resolved.provenance[f"policies.a.{block}.{field}"].default
    for field, value in policy.routes[0].retry or ():
        if value is not None:
            assert resolved.provenance[f"policies.a.routes[0].retry.{field}"].default
    assert resolved.provenance["policies.a.routes[0].timeout"].default


def test_istio_defaults() -> None:
    policy = resolve(topology()).policies["b"]
    balancing, breakers, pool = (
        policy.load_balancing,
        policy.circuit_breakers,
        policy.connection_pool,
    )
    assert balancing
    assert (balancing.policy, balancing.choice_count, balancing.active_request_bias) == (
        "LEAST_REQUEST",
        2,
        1.0,
    )
    assert breakers
    assert breakers.max_pending_requests == 4_294_967_295
    assert pool
    assert (pool.connect_timeout, pool.idle_timeout) == (10_000_000_000, 3_600_000_000_000)
    (route,) = policy.routes
    assert (route.timeout, route.split[0].service) == (0, "b")
    assert route.retry
    assert route.retry.num_retries == 2
    assert "connect-failure" in (route.retry.retry_on or ())
    assert route.retry.retriable_status_codes == ()
    assert (route.retry.base_interval, route.retry.max_interval) == (25_000_000, 250_000_000)
    assert (route.retry.previous_hosts, route.retry.host_selection_retry_max_attempts) == (True, 5)


def test_no_mesh_neither_retries_nor_limits() -> None:
    policy = resolve(topology(mesh="none")).policies["b"]
    assert policy.load_balancing
    assert policy.load_balancing.policy == "RANDOM"
    assert policy.routes[0].retry
    assert policy.routes[0].retry.num_retries == 0
    assert policy.routes[0].timeout == 0


def test_a_retry_policy_stated_without_a_number_still_retries_without_mesh() -> None:
    stated = topology({"a": {"routes": [{"retry": {"retry_on": ["5xx"]}}]}}, mesh="none")
    retry = resolve(stated).policies["a"].routes[0].retry
    assert retry
    assert (retry.num_retries, retry.retry_on) == (1, ("5xx",))


def test_stated_values_win_and_back_off_follows_the_stated_base() -> None:
    policy = resolve(topology(RICH)).policies["a"]
    retry = policy.routes[2].retry
    assert retry
    assert (retry.num_retries, retry.base_interval, retry.max_interval) == (
        5,
        10_000_000,
        100_000_000,
    )
    assert policy.circuit_breakers
    assert policy.circuit_breakers.max_requests == 7
    assert policy.circuit_breakers.retry_budget
    assert policy.circuit_breakers.retry_budget.budget_percent == 20.0


def test_a_subset_replaces_whole_blocks_and_inherits_the_others() -> None:
    scenario = topology(RICH)
    place = Provenance(file="f.yaml", line=9)
    scenario = scenario.model_copy(
        update={"provenance": {"policies.a.circuit_breakers.max_requests": place}}
    )
    resolved = resolve(scenario)
    subsets = resolved.policies["a"].subsets
    assert subsets["v1"].load_balancing
    assert subsets["v1"].load_balancing.policy == "LEAST_REQUEST"
    assert subsets["v1"].load_balancing.choice_count == 3
    assert subsets["v2"].load_balancing
    assert subsets["v2"].load_balancing.policy == "RING_HASH"
    assert subsets["v2"].circuit_breakers
    assert subsets["v2"].circuit_breakers.max_requests == 7
    inherited = "policies.a.subsets.v2.circuit_breakers.max_requests"
    assert resolved.provenance[inherited] == place


def test_previous_hosts_are_not_avoided_with_a_consistent_hash() -> None:
    routes = resolve(topology(RICH)).policies["a"].routes
    avoided = [route.retry.previous_hosts for route in routes if route.retry]
    # To the LEAST_REQUEST subset v1; a direct response; to the hashing service itself.
    assert avoided == [True, True, False]


def test_routes_without_catch_all_stay_so_and_are_told() -> None:
    resolved = resolve(topology({"a": {"routes": [{"match": [{"path": "/x"}]}]}}))
    assert len(resolved.policies["a"].routes) == 1
    assert any("404 (NR)" in notice for notice in resolved.notices)


def test_without_proxies_a_mesh_configuration_is_dropped_and_told() -> None:
    scenario = topology(RICH, mesh="none", policy_origin="istio")
    scenario = scenario.model_copy(
        update={"provenance": {"policies.a.circuit_breakers.max_requests": Provenance(line=3)}}
    )
    resolved = resolve(scenario)
    assert resolved.policies["a"].subsets == {}
    assert any("without a proxy" in notice for notice in resolved.notices)
    assert resolved.provenance["policies.a.circuit_breakers.max_requests"].default
    kept = resolve(topology(RICH, mesh="none"))
    assert kept.policies["a"].circuit_breakers
    assert kept.policies["a"].circuit_breakers.max_requests == 7


@pytest.mark.parametrize("mesh", ["none", "istio-sidecar"])
def test_resolving_twice_changes_nothing(mesh: str) -> None:
    once = resolve(topology(RICH, mesh=mesh, policy_origin="istio"))
    twice = resolve(once)
    assert twice == once
    assert twice.provenance == once.provenance
    assert twice.notices == once.notices


def test_unknown_mesh_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"istio-sidecar.*did you mean istio-sidecar"):
        profile("istio-sidcar")
    assert set(PROFILES) == {"none", "istio-sidecar"}


def test_a_declared_limit_holds_for_every_request() -> None:
    policy = resolve(topology(RICH, mesh="istio-sidecar")).policies["a"]
    limit = policy.routes[2].rate_limit
    assert limit is not None
    assert (limit.status, limit.filter_enabled, limit.filter_enforced) == (429, 100, 100)
    assert limit.token_bucket.tokens_per_fill == 1
    assert limit.descriptors[0].token_bucket.tokens_per_fill == 1
    assert policy.rate_limit is not None
    assert policy.rate_limit.refill == limit.refill
    (mirror,) = policy.routes[2].mirrors
    assert (mirror.service, mirror.subset, mirror.percentage) == ("a", "v2", 100)


def test_without_proxies_nobody_limits_what_comes_in() -> None:
    resolved = resolve(topology(RICH, mesh="none"))
    assert resolved.policies["a"].rate_limit is None
    assert resolved.policies["a"].routes[2].rate_limit is not None
    (notice,) = [text for text in resolved.notices if "rate_limit" in text]
    assert "there is no inbound proxy" in notice


def test_health_blocks_follow_their_own_values() -> None:
    policies = {
        "a": {
            "outlier_detection": {"base_ejection_time": "400s"},
            "health_check": {"interval": "3s", "unhealthy_interval": "1s"},
        }
    }
    policy = resolve(topology(policies, mesh="istio-sidecar")).policies["a"]
    assert policy.outlier_detection is not None
    assert policy.outlier_detection.max_ejection_time == 400_000_000_000
    check = policy.health_check
    assert check is not None
    assert check.unhealthy_edge_interval == 1_000_000_000
    assert check.healthy_edge_interval == 3_000_000_000
    assert check.no_traffic_healthy_interval == 60_000_000_000


@pytest.mark.parametrize(
    ("block", "mesh", "threshold"),
    [
        ({}, "istio-sidecar", 50),
        ({"outlier_detection": {}}, "istio-sidecar", 0),
        ({"failure_accrual": {}}, "istio-sidecar", 0),
        ({"load_balancing": {"healthy_panic_threshold": 9}}, "istio-sidecar", 9),
        ({}, "none", 0),
    ],
)
def test_who_panics(block: dict, mesh: str, threshold: int) -> None:
    policy = resolve(topology({"a": block}, mesh=mesh)).policies["a"]
    assert policy.load_balancing is not None
    assert policy.load_balancing.healthy_panic_threshold == threshold


@pytest.mark.parametrize(("mesh", "requests"), [("istio-sidecar", 1024), ("none", 2**32 - 1)])
def test_high_priority_has_limits_where_a_route_leads(mesh, requests):
    routes = [{"priority": "HIGH", "split": [{"service": "b"}]}]
    filled = resolve(topology({"a": {"routes": routes}}, mesh=mesh))
    assert filled.policies["a"].circuit_breakers.high is None
    high = filled.policies["b"].circuit_breakers.high
    assert high.max_requests == requests
    assert "policies.b.circuit_breakers.high.max_requests" in filled.provenance


def test_a_global_rate_limit_has_envoys_defaults():
    limit = {"latency": "1ms", "descriptors": [{"requests_per_unit": 1, "unit": "DAY"}]}
    filled = resolve(topology({"a": {"routes": [{"global_rate_limit": limit}]}}))
    found = filled.policies["a"].routes[0].global_rate_limit
    assert (found.timeout, found.failure_mode_deny) == (20_000_000, False)
    assert (found.status_on_error, found.rate_limited_status) == (500, 429)
