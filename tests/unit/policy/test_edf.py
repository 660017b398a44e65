import numpy as np
import pytest
from policy_rows import OFFSET, make_cluster

from meshsim.policy.load_balancing.round_robin import draw_cursors
from meshsim.state.codes import LEAST_REQUEST, NO_HOST, ROUND_ROBIN


def test_equal_deadlines_are_first_in_first_out():
    # Weights 1:2: deadlines 1 and 0.5; then 1 and 1, where the older entry is first.
    assert make_cluster(ROUND_ROBIN, [1, 2]).picks(6) == [1, 0, 1, 1, 0, 1]


def at_random(cluster, cursor):
    """Return `cluster` with a schedule that begins `cursor` picks ahead."""
    cluster.clusters["cursor"][1] = cursor
    return cluster


def test_a_schedule_begins_at_any_point_of_its_cycle():
    # 1:2 is 1 0 1; a million is one more than a multiple of three.
    assert at_random(make_cluster(ROUND_ROBIN, [1, 2]), 1).picks(4) == [0, 1, 1, 0]
    assert at_random(make_cluster(ROUND_ROBIN, [1, 2]), 2).picks(4) == [1, 1, 0, 1]
    assert at_random(make_cluster(ROUND_ROBIN, [2, 1]), 2).picks(4) == [0, 0, 1, 0]
    assert at_random(make_cluster(ROUND_ROBIN, [1, 2]), 1_000_000).picks(4) == [0, 1, 1, 0]


@pytest.mark.parametrize("weights", [(1, 2), (7, 1, 1, 2, 3, 1, 1, 1, 4), (5, 5, 2), (128, 127)])
def test_a_schedule_that_begins_later_is_that_after_as_many_picks(weights):
    cycle = sum(weights)
    for ahead in range(0, 2 * cycle, max(1, cycle // 20)):
        begun = make_cluster(ROUND_ROBIN, weights)
        begun.picks(ahead)
        assert at_random(make_cluster(ROUND_ROBIN, weights), ahead).picks(60) == begun.picks(60)


def test_a_schedule_by_load_begins_later_too():
    # 3 / 2, 1 / 4 and 2: a cycle of fifteen picks.
    for ahead in range(45):
        clusters = [make_cluster(LEAST_REQUEST, [3, 1, 2]) for _ in range(2)]
        for cluster in clusters:
            cluster.hosts["requests_active"][OFFSET:] = [1, 3, 0]
        clusters[0].picks(ahead)
        assert at_random(clusters[1], ahead).picks(40) == clusters[0].picks(40)


def test_the_host_that_is_the_first_is_drawn_by_weight():
    weights = np.array([5, 3, 2, 1, 1])
    cursors = draw_cursors(3, range(600), ["b"] * 600)
    firsts = [at_random(make_cluster(ROUND_ROBIN, weights), cursor).pick() for cursor in cursors]
    expected = 600 * weights / weights.sum()
    # chi-square of four degrees of freedom; 18.5 is exceeded once in a thousand.
    assert (((np.bincount(firsts, minlength=5) - expected) ** 2) / expected).sum() < 18.5


def test_hosts_that_are_away_have_no_part_in_where_a_schedule_begins():
    cluster = at_random(make_cluster(ROUND_ROBIN, [1, 50, 2], healthy=[1, 0, 1]), 1)
    assert cluster.picks(4) == [0, 2, 2, 0]


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
