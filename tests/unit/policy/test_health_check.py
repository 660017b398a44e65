"""Active health checks: thresholds, the first check, and when the next one is."""

import pytest
from health_rows import NS_PER_S, OUTLIERS, Watched

from meshsim.state.health import (
    BY_CHECK,
    CHECK_DEGRADED,
    CHECK_FAILED,
    CHECK_NETWORK_FAILURE,
    CHECK_PASSED,
    CHECK_TIMEOUT,
    DEGRADED_BY_DISCOVERY,
)

CHECKS = {
    "check_interval_ns": 10 * NS_PER_S,
    "check_timeout_ns": NS_PER_S,
    "unhealthy_interval_ns": 4 * NS_PER_S,
    "unhealthy_edge_interval_ns": 2 * NS_PER_S,
    "healthy_edge_interval_ns": 3 * NS_PER_S,
    "no_traffic_interval_ns": 60 * NS_PER_S,
    "no_traffic_healthy_interval_ns": 70 * NS_PER_S,
    "unhealthy_threshold": 3,
    "healthy_threshold": 2,
}


def checked(**fields):
    """Three hosts that were checked before, in a cluster with traffic."""
    cluster = Watched(3, **{**CHECKS, **fields})
    cluster.healths["checked"] = 1
    cluster.clusters["connections_total"] = 1
    return cluster


def test_a_pass_may_say_degraded():
    # HttpActiveHealthCheckSession: a 200 with x-envoy-degraded sets DEGRADED_ACTIVE_HC, one
    # without clears it, a failure leaves it; discovery's own flag stays what it is.
    cluster = checked()
    cluster.hosts["degraded"][1] = DEGRADED_BY_DISCOVERY
    flags = []
    for result in (CHECK_DEGRADED, CHECK_FAILED, CHECK_DEGRADED, CHECK_PASSED, CHECK_PASSED):
        cluster.checked(1, result)
        flags.append((int(cluster.hosts["degraded"][1]), bool(cluster.hosts["unhealthy"][1])))
    assert flags == [(3, False), (3, True), (3, True), (1, False), (1, False)]


@pytest.mark.parametrize("result", [CHECK_NETWORK_FAILURE, CHECK_TIMEOUT])
def test_network_failures_in_a_row(result):
    cluster = checked()
    assert [cluster.checked(1, result) for _ in range(2)] == [2, 2]
    assert cluster.at(0) == [0, 1, 2]
    assert cluster.checked(1, result) == 4
    assert cluster.at(0) == [0, 2]
    assert cluster.checked(1, result) == 4


def test_a_failed_status_is_enough():
    cluster = checked()
    assert cluster.checked(1, CHECK_FAILED) == 4
    assert cluster.at(0) == [0, 2]


def test_a_pass_ends_the_run():
    cluster = checked()
    for _ in range(5):
        cluster.checked(1, CHECK_TIMEOUT)
        cluster.checked(1, CHECK_TIMEOUT)
        assert cluster.checked(1, CHECK_PASSED) == 10
    assert cluster.at(0) == [0, 1, 2]


def test_passes_in_a_row_bring_a_host_back():
    cluster = checked()
    cluster.checked(1, CHECK_FAILED)
    assert cluster.checked(1, CHECK_PASSED) == 3
    assert cluster.checked(1, CHECK_FAILED) == 4
    assert cluster.checked(1, CHECK_PASSED) == 3
    assert cluster.at(0) == [0, 2]
    assert cluster.checked(1, CHECK_PASSED) == 10
    assert cluster.at(0) == [0, 1, 2]


def test_the_first_check_of_a_life_is_enough():
    cluster = checked()
    cluster.healths["checked"][1] = 0
    cluster.hosts["unhealthy"][1] = BY_CHECK
    assert cluster.checked(1, CHECK_PASSED) == 10
    assert cluster.at(0) == [0, 1, 2]


def test_a_cluster_without_traffic_is_checked_rarely():
    cluster = checked()
    cluster.clusters["connections_total"] = 0
    assert cluster.checked(1, CHECK_PASSED) == 70
    assert cluster.checked(1, CHECK_FAILED) == 60
    assert cluster.checked(1, CHECK_PASSED) == 60  # a change is pending


def test_jitter():
    cluster = checked(interval_jitter_percent=10, interval_jitter_ns=2 * NS_PER_S)
    waits = [cluster.checked(1, CHECK_PASSED) for _ in range(400)]
    assert 10 <= min(waits) < 10.3
    assert 12.6 < max(waits) < 13  # U[0, 1) + U[0, 2) above 10


def test_a_pass_takes_back_who_was_ejected():
    cluster = checked(**{**OUTLIERS, "max_ejection_percent": 100})
    cluster.result(1, 500, times=5)
    assert cluster.at(0) == [0, 2]
    cluster.checked(1, CHECK_PASSED, at_s=1)
    assert cluster.at(1) == [0, 1, 2]
    assert cluster.healths["unejected_ns"][1] == NS_PER_S


def test_a_pass_takes_nobody_back_if_that_is_switched_off():
    rule = {**OUTLIERS, "successful_active_health_check_uneject_host": 0}
    cluster = checked(**{**rule, "max_ejection_percent": 100})
    cluster.result(1, 500, times=5)
    cluster.checked(1, CHECK_PASSED, at_s=1)
    assert cluster.at(1) == [0, 2]


def test_coming_back_begins_slow_start():
    cluster = Watched(2, slow_start_s=60, **CHECKS)
    cluster.healths["checked"] = 1
    cluster.checked(1, CHECK_FAILED)
    cluster.checked(1, CHECK_PASSED, at_s=5)
    assert cluster.hosts["slow_start_end_ns"][1] == 0
    cluster.checked(1, CHECK_PASSED, at_s=8)
    assert cluster.hosts["slow_start_end_ns"].tolist() == [0, 68 * NS_PER_S]
