import numpy as np
import pytest
from policy_rows import OFFSET, make_cluster

from meshsim.rng import PURPOSE_PICK, make_streams, next_index
from meshsim.state.codes import LEAST_REQUEST, LEAST_REQUEST_FULL_SCAN, NO_HOST


def test_the_busier_of_two_is_picked_a_quarter_of_the_time():
    # Envoy, api/.../least_request.proto: with replacement, both draws hit it with 1/4.
    cluster = make_cluster(LEAST_REQUEST, [1, 1])
    cluster.hosts["requests_active"][OFFSET] = 1
    share = cluster.picks(4000).count(0) / 4000
    assert share == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / 4000) ** 0.5)


def test_ties_keep_the_first_draw():
    cluster = make_cluster(LEAST_REQUEST, [1] * 7)
    reference = make_streams(1, PURPOSE_PICK, 1)[0]
    for _ in range(50):
        first = int(next_index(reference, 7))
        next_index(reference, 7)
        assert cluster.pick() == first


def test_more_choices_find_the_idle_one_more_often():
    cluster = make_cluster(LEAST_REQUEST, [1] * 4, choice_count=8)
    cluster.hosts["requests_active"][OFFSET : OFFSET + 3] = 1
    # P(missed by all) = (3/4)**8 = 0.1001; 4 standard errors of 2000 draws are 0.027.
    assert cluster.picks(2000).count(3) / 2000 == pytest.approx(0.8999, abs=0.027)


def test_full_scan_takes_the_least_and_draws_among_the_tied():
    cluster = make_cluster(LEAST_REQUEST_FULL_SCAN, [1] * 5, healthy=[1, 1, 1, 0, 1])
    cluster.hosts["requests_active"][OFFSET:] = [4, 2, 2, 0, 2]
    picks = cluster.picks(3000)
    assert set(picks) == {1, 2, 4}
    # 4 standard errors of a share 1/3 of 3000 draws.
    assert np.bincount(picks)[[1, 2, 4]] / 3000 == pytest.approx([1 / 3] * 3, abs=0.035)


def test_no_selectable_member_is_no_host():
    for balancing in (LEAST_REQUEST, LEAST_REQUEST_FULL_SCAN):
        assert make_cluster(balancing, healthy=[0, 0, 0]).pick() == NO_HOST
        assert make_cluster(balancing, []).pick() == NO_HOST
