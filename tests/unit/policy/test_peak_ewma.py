import math

import pytest
from policy_rows import OFFSET, make_cluster

from meshsim.policy.load_balancing import on_abandoned, on_error, on_request_sent, on_response
from meshsim.policy.load_balancing.peak_ewma import cost_ns, rtt_ns
from meshsim.state.codes import NO_HOST, PEAK_EWMA, ROUND_ROBIN

HOST = OFFSET
SECOND_NS = 1_000_000_000


def with_average(rtt_ms, updated_ns=0, balancing=PEAK_EWMA):
    cluster = make_cluster(balancing)
    cluster.hosts["rtt_ewma_ns"][HOST] = rtt_ms * 1e6
    cluster.hosts["rtt_updated_ns"][HOST] = updated_ns
    return cluster


def rtt(cluster, now_ns):
    return rtt_ns(cluster.hosts, HOST, cluster.configs, 1, now_ns)


def respond(cluster, sample_ms, now_ns):
    on_response(cluster.hosts, HOST, cluster.configs, 1, int(sample_ms * 1e6), now_ns)


def test_jumps_to_a_larger_sample():
    # Finagle: the cost follows a peak at once.
    cluster = with_average(50)
    respond(cluster, 80, 0)
    assert rtt(cluster, 0) == 80e6


def test_load_is_average_times_active_plus_one():
    cluster = with_average(30)
    cluster.hosts["requests_active"][HOST] = 4
    assert cost_ns(cluster.hosts, HOST, cluster.configs, 1, 0) == 150e6


def test_moves_towards_a_smaller_sample_by_age():
    cluster = with_average(100)
    respond(cluster, 10, 10 * SECOND_NS)
    kept = math.exp(-1.0)
    assert rtt(cluster, 10 * SECOND_NS) == pytest.approx(100e6 * kept + 10e6 * (1 - kept))


def test_a_sample_above_what_is_left_of_the_average_is_a_peak():
    # linkerd/ewma, add_peak: 10 s at decay 10 s leave 36.8 of 100, below 50.
    cluster = with_average(100)
    respond(cluster, 50, 10 * SECOND_NS)
    assert rtt(cluster, 10 * SECOND_NS) == 50e6


def test_reading_decays_towards_zero_and_changes_nothing():
    cluster = with_average(1, updated_ns=SECOND_NS)
    before = cluster.hosts.tobytes()
    assert rtt(cluster, 11 * SECOND_NS) == pytest.approx(1e6 * math.exp(-1.0), rel=1e-12)
    assert rtt(cluster, 0) == 1e6
    assert cluster.hosts.tobytes() == before


def test_before_the_first_sample_the_default_holds():
    cluster = make_cluster(PEAK_EWMA)
    assert rtt(cluster, 0) == 30e6
    respond(cluster, 40, 0)
    assert rtt(cluster, 0) == 40e6


def test_a_decay_of_zero_is_a_millisecond():
    cluster = make_cluster(PEAK_EWMA, decay_ns=0.0)
    assert rtt(cluster, 1_000_000) == pytest.approx(30e6 * math.exp(-1.0))


def test_the_cheaper_of_two_is_always_taken():
    # Two distinct candidates of two hosts: the dearer one is never picked.
    cluster = make_cluster(PEAK_EWMA, [1, 1])
    cluster.hosts["requests_active"][OFFSET] = 1
    assert set(cluster.picks(200)) == {1}


def test_of_three_the_dearest_is_never_picked():
    cluster = make_cluster(PEAK_EWMA, [1] * 3)
    cluster.hosts["requests_active"][OFFSET:] = [9, 1, 0]
    picks = cluster.picks(3000)
    # The pair is uniform: the cheapest is in 2 of 3 pairs; 4 standard errors are 0.035.
    assert picks.count(0) == 0
    assert picks.count(2) / 3000 == pytest.approx(2 / 3, abs=0.035)


def test_unhealthy_candidates_are_drawn_again():
    cluster = make_cluster(PEAK_EWMA, [1] * 4, healthy=[0, 1, 0, 1])
    cluster.hosts["requests_active"][OFFSET + 1] = 1
    assert set(cluster.picks(200)) == {3}
    assert set(make_cluster(PEAK_EWMA, healthy=[0, 1, 0]).picks(20)) == {1}
    assert make_cluster(PEAK_EWMA, healthy=[0, 0, 0]).pick() == NO_HOST
    assert make_cluster(PEAK_EWMA, [1]).pick() == 0


def test_counts_follow_what_happens():
    cluster = with_average(50)
    hosts = cluster.hosts
    for _ in range(3):
        on_request_sent(hosts, HOST, 0)
    respond(cluster, 20, 0)
    on_abandoned(hosts, HOST, cluster.configs, 1, 70_000_000, 0)
    on_error(hosts, HOST)
    row = hosts[HOST]
    assert (row["requests_active"], row["requests_total"], row["errors_total"]) == (1, 3, 1)
    assert row["latency_sum_ns"] == 20_000_000
    assert rtt(cluster, 0) == 70e6  # the abandoned request is a sample too (tower)


def test_other_policies_learn_no_latency():
    cluster = with_average(50, balancing=ROUND_ROBIN)
    respond(cluster, 80, 5)
    assert cluster.hosts["rtt_ewma_ns"][HOST] == 50e6
