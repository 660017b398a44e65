import numpy as np
from policy_rows import make_cluster

from meshsim.policy.load_balancing.round_robin import draw_cursors, subset_name
from meshsim.state.codes import NO_HOST, ROUND_ROBIN


def test_goes_through_the_members_in_order_from_the_cursor():
    cluster = make_cluster(ROUND_ROBIN)
    cluster.clusters["cursor"][1] = 2
    assert cluster.picks(5) == [2, 0, 1, 2, 0]


def test_a_cursor_beyond_a_shrunken_cluster_wraps():
    cluster = make_cluster(ROUND_ROBIN)
    cluster.clusters["cursor"][1] = 7
    assert cluster.picks(2) == [1, 2]


def test_skipping_an_unhealthy_member_does_not_double_its_successor():
    cluster = make_cluster(ROUND_ROBIN, [1] * 4, healthy=[1, 0, 1, 1])
    assert cluster.picks(6) == [0, 2, 3, 0, 2, 3]


def test_no_selectable_member_is_no_host():
    assert make_cluster(ROUND_ROBIN, healthy=[0, 0, 0]).pick() == NO_HOST
    assert make_cluster(ROUND_ROBIN, []).pick() == NO_HOST


def test_the_largest_cursor_is_a_member():
    # 2**63 - 1 = 7 * 1317624576693539401: of five members it is number 2.
    cluster = make_cluster(ROUND_ROBIN, [1] * 5)
    cluster.clusters["cursor"][1] = 2**63 - 1
    assert cluster.picks(4) == [2, 3, 4, 0]


def test_proxies_begin_at_members_drawn_uniformly():
    begun = np.bincount(draw_cursors(7, range(2000), ["b"] * 2000) % 5, minlength=5)
    # 2000 draws of five: a standard deviation is 18, and 4.5 of them are 80.
    assert np.abs(begun - 400).max() < 80


def test_clusters_subsets_and_runs_are_drawn_apart():
    proxies = list(range(500))
    names = ["b", "c", "b|v2", subset_name("b", ["b-v1-0"]), subset_name("b", ["b-v1-1"])]
    drawn = [draw_cursors(1, proxies, [name] * 500) % 5 for name in names]
    drawn.append(draw_cursors(2, proxies, ["b"] * 500) % 5)
    for row, first in enumerate(drawn):
        for second in drawn[:row]:
            # As often equal as chance makes it: 100 of 500, a standard deviation of 9.
            assert 60 < (first == second).sum() < 140
    assert (draw_cursors(1, proxies, ["b"] * 500) % 5 == drawn[0]).all()
