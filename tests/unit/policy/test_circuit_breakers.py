import pytest
from policy_rows import make_limits

from meshsim.policy import circuit_breakers as breakers


def test_requests_up_to_the_limit_then_overflow():
    clusters, configs = make_limits(max_requests=2)
    sent = 0
    for _ in range(5):
        if breakers.can_send_request(clusters, 0, configs):
            breakers.on_request_started(clusters, 0)
            sent += 1
    assert sent == 2
    assert (clusters["requests_total"][0], clusters["request_overflow"][0]) == (2, 3)
    breakers.on_request_ended(clusters, 0)
    assert breakers.can_send_request(clusters, 0, configs)
    assert clusters["requests_active"][0] == 1


def test_pending_up_to_the_limit_then_overflow():
    clusters, configs = make_limits(max_pending_requests=1)
    assert breakers.can_wait(clusters, 0, configs)
    breakers.on_pending_added(clusters, 0)
    assert not breakers.can_wait(clusters, 0, configs)
    assert clusters["pending_overflow"][0] == 1
    breakers.on_pending_removed(clusters, 0)
    assert breakers.can_wait(clusters, 0, configs)


def test_a_host_without_connection_may_open_one_though_it_overflows():
    clusters, configs = make_limits(max_connections=1)
    assert breakers.can_open_connection(clusters, 0, configs, 0) == breakers.OPEN
    breakers.on_connection_opened(clusters, 0)
    assert breakers.can_open_connection(clusters, 0, configs, 1) == breakers.OPEN_NONE
    assert breakers.can_open_connection(clusters, 0, configs, 0) == breakers.OPEN_BEYOND
    assert (clusters["connection_overflow"][0], clusters["connections_total"][0]) == (2, 1)
    breakers.on_connection_closed(clusters, 0)
    assert breakers.can_open_connection(clusters, 0, configs, 1)


def test_zero_allows_nothing():
    clusters, configs = make_limits(max_requests=0, max_pending_requests=0, max_retries=0)
    assert not breakers.can_send_request(clusters, 0, configs)
    assert not breakers.can_wait(clusters, 0, configs)
    assert not breakers.can_retry(clusters, 0, configs)


def test_three_retries_at_once_by_default():
    clusters, configs = make_limits()
    for _ in range(3):
        assert breakers.can_retry(clusters, 0, configs)
        breakers.on_retry_started(clusters, 0)
    assert not breakers.can_retry(clusters, 0, configs)
    assert (clusters["retry_overflow"][0], clusters["retries_total"][0]) == (1, 3)
    breakers.on_retry_ended(clusters, 0)
    assert breakers.can_retry(clusters, 0, configs)


@pytest.mark.parametrize(
    ("active", "pending", "allowed"),
    [(0, 0, 3), (15, 0, 3), (20, 0, 4), (24, 0, 4), (20, 5, 5), (100, 0, 20)],
)
def test_a_budget_is_a_share_of_active_and_pending_but_at_least_three(active, pending, allowed):
    # Envoy, circuit_breaker.proto: budget_percent 20, min_retry_concurrency 3; cut to a whole.
    clusters, configs = make_limits(budget_percent=20.0, max_retries=1)
    clusters["requests_active"] = active
    clusters["pending_active"] = pending
    assert breakers.retries_max(clusters, 0, configs) == allowed
    clusters["retries_active"] = allowed - 1
    assert breakers.can_retry(clusters, 0, configs)
    clusters["retries_active"] = allowed
    assert not breakers.can_retry(clusters, 0, configs)


@pytest.mark.parametrize(
    ("pending", "connecting", "wanted"), [(0, 0, False), (1, 0, True), (1, 1, False), (3, 2, True)]
)
def test_connections_are_wanted_while_more_wait_than_connect(pending, connecting, wanted):
    # Envoy, conn_pool_base.cc: pending_streams > connecting_stream_capacity.
    assert breakers.wants_connection(pending, connecting) is wanted
