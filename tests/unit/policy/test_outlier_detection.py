"""Runs of failures, who may be ejected, and for how long; by hand after Envoy's source."""

import numpy as np
import pytest
from health_rows import NS_PER_S, OUTLIERS, Watched

from meshsim.policy.outlier_detection import ejection_time_ns
from meshsim.state.codes import (
    RESET_CONNECT_FAILURE,
    RESET_OVERFLOW,
    RESET_PER_TRY_TIMEOUT,
    RESET_REMOTE,
)

HALF = {**OUTLIERS, "max_ejection_percent": 50}
SPLIT = {**HALF, "split_external_local_origin_errors": 1}


def test_the_fifth_5xx_in_a_row_ejects():
    cluster = Watched(4, **HALF)
    cluster.result(1, 500, times=4)
    assert cluster.ejected == []
    cluster.result(1, 500)
    assert cluster.ejected == [1]
    assert cluster.at(0) == [0, 2, 3]
    assert cluster.enforced() == {"consecutive_5xx": 1}


def test_any_other_status_ends_the_run():
    cluster = Watched(4, **HALF)
    for _ in range(10):
        cluster.result(1, 503, times=4)
        cluster.result(1, 404)
    assert cluster.detected() == {}


def test_a_threshold_of_0_is_off():
    cluster = Watched(4, **{**HALF, "consecutive_5xx": 0, "consecutive_gateway_failure": 0})
    cluster.result(1, 503, times=1000)
    assert cluster.detected() == {}


def test_gateway_failures_have_a_run_of_their_own():
    rule = {**HALF, "consecutive_5xx": 100, "enforcing_consecutive_gateway_failure": 100}
    cluster = Watched(4, **rule)
    cluster.result(1, 502, times=2)
    cluster.result(1, 504, times=2)
    cluster.result(1, 500)  # a 5xx, but no gateway failure: the run begins anew
    cluster.result(1, 503, times=4)
    assert cluster.ejected == []
    cluster.result(1, 503)
    assert cluster.ejected == [1]
    assert cluster.enforced() == {"consecutive_gateway_failure": 1}


def test_gateway_failures_are_detected_and_by_default_not_enforced():
    cluster = Watched(4, **HALF)
    cluster.result(1, 503, times=5)
    assert cluster.detected() == {"consecutive_5xx": 1, "consecutive_gateway_failure": 1}
    assert cluster.enforced() == {"consecutive_5xx": 1}


@pytest.mark.parametrize("reset", [RESET_CONNECT_FAILURE, RESET_REMOTE, RESET_PER_TRY_TIMEOUT])
def test_resets_and_timeouts_count_as_gateway_failures(reset):
    cluster = Watched(4, **HALF)
    cluster.result(1, reset=reset, times=5)
    assert cluster.detected() == {"consecutive_5xx": 1, "consecutive_gateway_failure": 1}


def test_an_overflow_says_nothing_of_the_host():
    cluster = Watched(4, **HALF)
    cluster.result(1, 500, times=4)
    cluster.result(1, reset=RESET_OVERFLOW, times=10)
    assert cluster.ejected == []
    cluster.result(1, 503)  # answered, by one that is overloaded itself
    assert cluster.ejected == [1]


def test_local_origin_failures_apart():
    cluster = Watched(4, **SPLIT)
    cluster.result(1, reset=RESET_CONNECT_FAILURE, times=4)
    cluster.result(1, 500, times=4)
    assert cluster.ejected == []
    cluster.result(1, reset=RESET_CONNECT_FAILURE)
    assert cluster.enforced() == {"consecutive_local_origin_failure": 1}


def test_a_connection_ends_the_run_of_local_origin_failures():
    cluster = Watched(4, **SPLIT)
    for _ in range(10):  # so timeouts alone never eject where local origin is apart
        cluster.connected(1)
        cluster.result(1, reset=RESET_PER_TRY_TIMEOUT)
    assert cluster.detected() == {}


def test_a_small_cluster_loses_nobody_at_ten_percent():
    cluster = Watched(9, **OUTLIERS)
    cluster.result(1, 500, times=5)
    assert cluster.ejected == []
    assert (cluster.detected(), cluster.overflow) == ({"consecutive_5xx": 1}, 1)
    cluster = Watched(10, **OUTLIERS)
    cluster.result(1, 500, times=5)
    assert cluster.ejected == [1]


def test_always_eject_one_host():
    cluster = Watched(3, always_eject_one_host=1, **OUTLIERS)
    for host in (1, 2):
        cluster.result(host, 500, times=5)
    assert (cluster.ejected, cluster.overflow) == ([1], 1)


def test_the_share_counts_the_one_to_be_ejected():
    cluster = Watched(3, **{**OUTLIERS, "max_ejection_percent": 66})
    for host in range(3):
        cluster.result(host, 500, times=5)
    assert (cluster.ejected, cluster.overflow) == ([0], 2)  # two of three are 66.7 %


def test_after_an_overflow_the_run_begins_anew():
    cluster = Watched(3, **OUTLIERS)
    cluster.result(1, 500, times=14)
    assert cluster.overflow == 2


def test_an_ejected_host_is_not_detected_again():
    cluster = Watched(2, **HALF)
    cluster.result(1, 500, times=50)
    assert cluster.detected() == {"consecutive_5xx": 1}


def test_enforcing_is_a_coin():
    # Binomial(2000, 0.3): 600 with a standard deviation of 20.5; four of them either way.
    cluster = Watched(2, **{**HALF, "enforcing_consecutive_5xx": 30})
    enforced = 0
    for _ in range(2000):
        cluster.result(1, 500, times=5)
        enforced += len(cluster.ejected)
        cluster.hosts["unhealthy"] = 0
        cluster.healths["consecutive_5xx"] = 0
    assert abs(enforced - 600) <= 4 * np.sqrt(2000 * 0.3 * 0.7)


@pytest.mark.parametrize(("number", "lasts_s"), [(1, 30), (2, 60), (5, 150), (10, 300), (30, 300)])
def test_the_nth_ejection_lasts_n_times_the_base_up_to_the_maximum(number, lasts_s):
    rules = Watched(1, **OUTLIERS).rules
    assert ejection_time_ns(rules, 0, number, 0) == lasts_s * NS_PER_S


def test_jitter_is_added_in_whole_milliseconds():
    cluster = Watched(2, max_ejection_time_jitter_ns=5_000_000, **HALF)
    seen = set()
    for _ in range(100):
        cluster.result(1, 500, times=5)
        seen.add(int(cluster.healths["jitter_ns"][1]))
        cluster.hosts["unhealthy"] = 0
        cluster.healths["consecutive_5xx"] = 0
    assert seen == {number * 1_000_000 for number in range(6)}
