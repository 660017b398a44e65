"""Istio's outlierDetection and warmup: what is written, and what the mesh makes of the rest."""

from collections.abc import Callable

import pytest

from meshsim.errors import ConfigError
from meshsim.meshes import resolve
from meshsim.topology.model import OutlierDetection, Topology

Load = Callable[..., Topology]
S = 1_000_000_000


def rule(policy: str, subsets: str = "[]") -> str:
    return (
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: web}\n"
        f"spec:\n  host: web\n  trafficPolicy: {policy}\n  subsets: {subsets}\n"
    )


def outliers(topology: Topology, subset: str | None = None) -> OutlierDetection:
    policy = topology.policies["web"]
    found = (policy.subsets[subset] if subset else policy).outlier_detection
    assert found is not None
    return found


def panic(topology: Topology, subset: str | None = None) -> float | None:
    policy = topology.policies["web"]
    balancing = (policy.subsets[subset] if subset else policy).load_balancing
    assert balancing is not None
    return balancing.healthy_panic_threshold


def test_without_the_block_it_is_off_and_envoy_panics(load: Load) -> None:
    topology = resolve(load(rule("{loadBalancer: {simple: RANDOM}}")))
    assert topology.policies["web"].outlier_detection is None
    assert panic(topology) == 50


def test_an_empty_block_switches_it_on(load: Load) -> None:
    topology = resolve(load(rule("{outlierDetection: {}}")))
    found = outliers(topology)
    assert (found.consecutive_5xx, found.enforcing_consecutive_5xx) == (5, 100)
    assert found.enforcing_success_rate == 0
    assert found.enforcing_consecutive_gateway_failure == 0
    assert (found.interval, found.base_ejection_time) == (10 * S, 30 * S)
    assert (found.max_ejection_percent, found.max_ejection_time) == (10, 300 * S)
    assert panic(topology) == 0


def test_everything_that_is_stated(load: Load) -> None:
    topology = resolve(
        load(
            rule(
                "{outlierDetection: {consecutive5xxErrors: 0, consecutiveGatewayErrors: 3,"
                " interval: 1s, baseEjectionTime: 400s, maxEjectionPercent: 70,"
                " minHealthPercent: 30, splitExternalLocalOriginErrors: true,"
                " consecutiveLocalOriginFailures: 2}}"
            )
        )
    )
    found = outliers(topology)
    assert (found.consecutive_5xx, found.enforcing_consecutive_5xx) == (0, 0)
    assert found.consecutive_gateway_failure == 3
    assert found.enforcing_consecutive_gateway_failure == 100
    assert (found.interval, found.base_ejection_time) == (S, 400 * S)
    assert found.max_ejection_time == 400 * S  # the base, which is longer than 300 s
    assert found.max_ejection_percent == 70
    assert found.split_external_local_origin_errors is True
    assert found.consecutive_local_origin_failure == 2
    assert found.enforcing_local_origin_success_rate == 0
    assert panic(topology) == 30


def test_a_subset_takes_the_block_from_itself_or_its_service(load: Load) -> None:
    subsets = (
        "[{name: own, labels: {version: v1}, trafficPolicy: {outlierDetection:"
        " {consecutive5xxErrors: 2}}}, {name: same, labels: {version: v2}},"
        " {name: bare, labels: {version: v2}, trafficPolicy: {portLevelSettings:"
        " [{port: {number: 8080}, loadBalancer: {simple: RANDOM}}]}}]"
    )
    topology = resolve(load(rule("{outlierDetection: {consecutive5xxErrors: 7}}", subsets)))
    assert outliers(topology).consecutive_5xx == 7
    assert outliers(topology, "own").consecutive_5xx == 2
    assert outliers(topology, "same").consecutive_5xx == 7
    # Port level settings replace everything, so nothing is ejected.
    assert outliers(topology, "bare").consecutive_5xx == 0


def test_wrong_values_are_refused(load: Load) -> None:
    with pytest.raises(ConfigError) as raised:
        load(rule("{outlierDetection: {maxEjectionPercent: 101, interval: soon}}"))
    paths = {problem.path for problem in raised.value.problems}
    assert paths == {
        "spec.trafficPolicy.outlierDetection.maxEjectionPercent",
        "spec.trafficPolicy.outlierDetection.interval",
    }


@pytest.mark.parametrize(
    "text",
    ["warmup: {duration: 60s, minimumPercent: 20, aggression: 2}", "warmupDurationSecs: 60s"],
)
def test_warmup(load: Load, text: str) -> None:
    topology = resolve(load(rule(f"{{loadBalancer: {{simple: ROUND_ROBIN, {text}}}}}")))
    balancing = topology.policies["web"].load_balancing
    assert balancing is not None
    found = balancing.slow_start
    assert found is not None
    assert found.slow_start_window == 60 * S
    stated = "warmup:" in text
    wanted = (20, 2) if stated else (10, 1)
    assert (found.min_weight_percent, found.aggression) == wanted


def test_a_warmup_needs_a_duration(load: Load) -> None:
    with pytest.raises(ConfigError, match="duration"):
        load(rule("{loadBalancer: {warmup: {aggression: 2}}}"))
