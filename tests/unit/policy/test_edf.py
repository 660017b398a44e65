import numpy as np
import pytest
from policy_rows import OFFSET, make_cluster

from meshsim.state.codes import LEAST_REQUEST, NO_HOST, ROUND_ROBIN


def test_equal_deadlines_are_first_in_first_out():
    # Weights 1:2: deadlines 1 and 0.5; then 1 and 1, where the older entry is first.
    assert make_cluster(ROUND_ROBIN, [1, 2]).picks(6) == [1, 0, 1, 1, 0, 1]


def test_one_cycle_of_weights_is_exact():
    picks = make_cluster(ROUND_ROBIN, [5, 3, 2, 1, 1]).picks(12 * 50)
    assert np.bincount(picks).tolist() == [250, 150, 100, 50, 50]


def test_a_host_that_was_away_does_not_catch_up():
    cluster = make_cluster(ROUND_ROBIN, [1, 2, 1])
    cluster.picks(8)
    cluster.hosts["healthy"][OFFSET + 2] = 0
    assert 2 not in cluster.picks(60)
    cluster.hosts["healthy"][OFFSET + 2] = 1
    # Its share is a quarter; catching up would give it the next dozens.
    assert cluster.picks(40).count(2) == pytest.approx(10, abs=1)


def test_active_requests_lower_the_weight_by_the_bias():
    # weight / (active + 1) ** bias: 1 / (3 + 1) = 1/4 of an idle equal one.
    cluster = make_cluster(LEAST_REQUEST, [1, 1], weights_equal=0)
    cluster.hosts["requests_active"][OFFSET] = 3
    assert cluster.picks(50).count(0) == 10
    cluster = make_cluster(LEAST_REQUEST, [1, 1], weights_equal=0, active_request_bias=2.0)
    cluster.hosts["requests_active"][OFFSET] = 3
    assert cluster.picks(170).count(0) == 10
    cluster = make_cluster(LEAST_REQUEST, [1, 1], weights_equal=0, active_request_bias=0.0)
    cluster.hosts["requests_active"][OFFSET] = 3
    assert cluster.picks(50).count(0) == 25


def test_no_selectable_member_is_no_host():
    assert make_cluster(ROUND_ROBIN, [1, 2], healthy=[0, 0]).pick() == NO_HOST
