from policy_rows import make_cluster

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
