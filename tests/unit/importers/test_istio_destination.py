"""DestinationRule: subsets, balancing, pools."""

from collections.abc import Callable

import pytest

from meshsim.errors import ConfigError
from meshsim.meshes import resolve
from meshsim.topology.model import ServicePolicy, Topology

Load = Callable[..., Topology]


def rule(policy: str, subsets: str = "[]", name: str = "web", host: str = "web") -> str:
    return (
        f"apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: {name}}}\n"
        f"spec:\n  host: '{host}'\n  trafficPolicy: {policy}\n  subsets: {subsets}\n"
    )


def policy(topology: Topology) -> ServicePolicy:
    return topology.policies["web"]


def told(topology: Topology, text: str) -> bool:
    return any(text in notice for notice in topology.notices)


@pytest.mark.parametrize(
    ("simple", "expected"),
    [
        ("ROUND_ROBIN", "ROUND_ROBIN"),
        ("LEAST_CONN", "LEAST_REQUEST"),
        ("LEAST_REQUEST", "LEAST_REQUEST"),
        ("RANDOM", "RANDOM"),
        ("UNSPECIFIED", None),
        ("PASSTHROUGH", None),
    ],
)
def test_simple_balancers(load: Load, simple: str, expected: str | None) -> None:
    topology = load(rule(f"{{loadBalancer: {{simple: {simple}}}}}"))
    balancing = policy(topology).load_balancing
    assert balancing
    assert balancing.policy == expected


@pytest.mark.parametrize(
    ("hashing", "expected"),
    [
        ("{httpHeaderName: user}", ("RING_HASH", "user", None, None, None)),
        ("{useSourceIp: true}", ("RING_HASH", None, True, None, None)),
        (
            "{httpHeaderName: u, ringHash: {minimumRingSize: 64}}",
            ("RING_HASH", "u", None, 64, None),
        ),
        ("{httpHeaderName: u, minimumRingSize: 32}", ("RING_HASH", "u", None, 32, None)),
        ("{httpHeaderName: u, maglev: {tableSize: 101}}", ("MAGLEV", "u", None, None, 101)),
    ],
)
def test_consistent_hash(load: Load, hashing: str, expected: tuple[object, ...]) -> None:
    balancing = policy(
        load(rule(f"{{loadBalancer: {{consistentHash: {hashing}}}}}"))
    ).load_balancing
    assert balancing
    assert (
        balancing.policy,
        balancing.hash_header,
        balancing.hash_source_ip,
        balancing.minimum_ring_size,
        balancing.table_size,
    ) == expected


def test_connection_pools_and_retry_budget(load: Load) -> None:
    topology = load(
        rule(
            "{connectionPool: {tcp: {maxConnections: 10, connectTimeout: 30ms, idleTimeout: 5s},"
            " http: {http1MaxPendingRequests: 1, http2MaxRequests: 20, maxRequestsPerConnection: 7,"
            " maxRetries: 3, idleTimeout: 9s}}, retryBudget: {percent: 25, minRetryConcurrency: 2}}"
        )
    )
    breakers, pool = policy(topology).circuit_breakers, policy(topology).connection_pool
    assert breakers
    assert (breakers.max_connections, breakers.max_pending_requests) == (10, 1)
    assert (breakers.max_requests, breakers.max_retries) == (20, 3)
    assert breakers.retry_budget
    assert breakers.retry_budget.budget_percent == 25
    assert breakers.retry_budget.min_retry_concurrency == 2
    assert pool
    assert (pool.connect_timeout, pool.idle_timeout) == (30_000_000, 9_000_000_000)
    assert pool.max_requests_per_connection == 7
    place = topology.provenance["policies.web.circuit_breakers.max_requests"]
    assert place.field == "spec.trafficPolicy.connectionPool.http.http2MaxRequests"


def test_a_limit_of_zero_is_unset(load: Load) -> None:
    breakers = policy(load(rule("{connectionPool: {tcp: {maxConnections: 0}}}"))).circuit_breakers
    assert breakers
    assert breakers.max_connections is None


def test_a_subset_replaces_block_by_block(load: Load) -> None:
    topology = resolve(
        load(
            rule(
                "{loadBalancer: {simple: RANDOM}, connectionPool: {tcp: {maxConnections: 10},"
                " http: {maxRequestsPerConnection: 4}}, retryBudget: {percent: 5}}",
                "[{name: v1, labels: {version: v1},"
                " trafficPolicy: {connectionPool: {http: {http2MaxRequests: 9}}}},"
                " {name: v2, labels: {version: v2}}]",
            )
        )
    )
    v1, v2 = (policy(topology).subsets[name] for name in ("v1", "v2"))
    assert v1.load_balancing
    assert v1.load_balancing.policy == "RANDOM"
    assert v1.circuit_breakers
    # The block connectionPool is replaced whole, retryBudget is inherited.
    assert (v1.circuit_breakers.max_requests, v1.circuit_breakers.max_connections) == (9, 2**32 - 1)
    assert v1.circuit_breakers.retry_budget
    assert v1.circuit_breakers.retry_budget.budget_percent == 5
    assert v1.connection_pool
    assert v1.connection_pool.max_requests_per_connection == 0
    assert v2.circuit_breakers
    assert v2.circuit_breakers.max_connections == 10
    origin = str(topology.provenance["policies.web.subsets.v2.circuit_breakers.max_connections"])
    assert origin.endswith("spec.trafficPolicy.connectionPool.tcp.maxConnections")


def test_port_level_settings_replace_everything(load: Load) -> None:
    settings = (
        "{loadBalancer: {simple: RANDOM}, connectionPool: {tcp: {maxConnections: 10}},"
        " portLevelSettings: [{port: {number: %d}, loadBalancer: {simple: ROUND_ROBIN}}]}"
    )
    here = resolve(load(rule(settings % 8080)))
    balancing, breakers = policy(here).load_balancing, policy(here).circuit_breakers
    assert balancing
    assert breakers
    assert (balancing.policy, breakers.max_connections) == ("ROUND_ROBIN", 2**32 - 1)
    elsewhere = load(rule(settings % 9090))
    balancing = policy(elsewhere).load_balancing
    assert balancing
    assert balancing.policy == "RANDOM"
    assert told(elsewhere, "port 9090 is not the simulated port 8080")


def test_rules_for_one_host_put_their_subsets_together(load: Load) -> None:
    topology = load(
        rule("{loadBalancer: {simple: RANDOM}}", "[{name: v1, labels: {version: v1}}]", "b"),
        rule("{loadBalancer: {simple: ROUND_ROBIN}}", "[{name: v2, labels: {version: v2}}]", "a"),
    )
    balancing = policy(topology).load_balancing
    assert balancing
    # Without creation times the name decides which is older.
    assert balancing.policy == "ROUND_ROBIN"
    assert set(policy(topology).subsets) == {"v1", "v2"}
    assert told(topology, "DestinationRule default/b: its trafficPolicy is not used")


def test_the_most_specific_host_holds(load: Load) -> None:
    topology = load(
        rule("{loadBalancer: {simple: RANDOM}}", name="a", host="*.svc.cluster.local"),
        rule("{loadBalancer: {simple: ROUND_ROBIN}}", name="b"),
    )
    balancing = policy(topology).load_balancing
    assert balancing
    assert balancing.policy == "ROUND_ROBIN"
    assert told(topology, "no service uses this rule for host '*.svc.cluster.local'")


def test_what_is_not_simulated_is_told(load: Load) -> None:
    topology = load(
        rule(
            "{outlierDetection: {consecutiveErrors: 5, interval: 1s,"
            " outlierDetectionHttpErrorCodes: [429]}, tls: {mode: ISTIO_MUTUAL},"
            " loadBalancer: {simple: RANDOM, zoneAwareLbSetting: {enabled: true}},"
            " connectionPol: {}}"
        )
    )
    assert told(topology, "outlierDetectionHttpErrorCodes is not simulated yet")
    assert told(topology, "was removed from Istio and has no effect")
    assert told(topology, "spec.trafficPolicy.tls is not simulated yet")
    assert told(topology, "zoneAwareLbSetting is not simulated yet")
    assert told(
        topology, "spec.trafficPolicy.connectionPol is not read; did you mean connectionPool?"
    )


def test_wrong_values_are_refused(load: Load) -> None:
    with pytest.raises(ConfigError) as raised:
        load(
            rule(
                "{loadBalancer: {simple: RONDOM}, connectionPool: {tcp: {maxConnections: many,"
                " connectTimeout: 5}}}",
                "[{labels: {version: v1}}, {name: v2, labels: {version: 2}}]",
            )
        )
    text = str(raised.value)
    assert "did you mean RANDOM?" in text
    assert "maxConnections: wrong value; found 'many'" in text
    assert "connectTimeout: wrong value; found 5" in text
    assert "a subset needs a name" in text
    assert "spec.subsets[1].labels: wrong value" in text
    assert len(raised.value.problems) == 5
