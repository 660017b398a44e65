"""Pools of probes by hand, as section 4 of the Prequal paper (NSDI 2024) says."""

from itertools import pairwise

import numpy as np
import pytest

from meshsim.policy.load_balancing import prequal
from meshsim.rng import PURPOSE_PICK, make_streams
from meshsim.state.codes import NO_HOST
from meshsim.state.prequal import (
    BUCKET_SAMPLES,
    FLIGHTS,
    POOL_MAX,
    PREQUAL_POOL_DTYPE,
    PREQUAL_RULE_DTYPE,
    PREQUAL_SERVER_DTYPE,
    PROBE_DTYPE,
    PROBE_FLIGHT_DTYPE,
    RIF_BUCKETS,
    RIF_SAMPLES,
)
from meshsim.state.upstream import HOST_DTYPE

SECOND_NS = 1_000_000_000
US = 1_000


class Client:
    """Pool 1 of a client with `count` servers, HOST rows 3 and on."""

    def __init__(self, count=8, **rule):
        self.hosts = np.zeros(3 + count, HOST_DTYPE)
        self.hosts["healthy"] = 1
        self.members = np.arange(3 + count, dtype=np.int32)
        self.count = count
        self.rules = np.zeros(1, PREQUAL_RULE_DTYPE)
        fields = {"r_probe": 3, "r_remove": 0, "q_rif": 0.75, "reuse_delta": 1e12, "pool_size": 4}
        for name, value in {**fields, "max_age_ns": SECOND_NS, **rule}.items():
            self.rules[name] = value
        self.pools = np.zeros(2, PREQUAL_POOL_DTYPE)
        self.probes = np.zeros((2, POOL_MAX), PROBE_DTYPE)
        self.rifs = np.zeros((2, RIF_SAMPLES), np.int32)
        self.flights = np.zeros((2, FLIGHTS), PROBE_FLIGHT_DTYPE)
        self.rng = make_streams(1, PURPOSE_PICK, 1)[0]

    @property
    def state(self):
        return self.pools, 1, self.probes, self.rifs, self.rules, 0

    def told(self, host, rif, latency_us, now_ns=0):
        prequal.take_probe(*self.state, host, rif, latency_us * US, self.count, now_ns, self.rng)
        return self

    def pick(self, now_ns=0):
        hosts = self.hosts, self.members, 3, self.count
        return int(prequal.pick(*hosts, *self.state, now_ns, self.rng))

    @property
    def pool(self):
        rows = self.probes[1, : self.pools["count"][1]]
        return {int(row["host"]): int(row["rif"]) for row in rows}


def test_a_cold_server_with_the_lowest_latency_is_chosen():
    # RIF 1, 2, 3 and 9: the quantile of 3/4 is 3, so the quickest server is hot.
    client = Client().told(3, 1, 80).told(4, 2, 60).told(5, 3, 70).told(6, 9, 5)
    assert [client.pick() for _ in range(4)] == [4, 4, 5, 3]
    # 4 went from 2 to 3 and is no more than the quantile; then to 4, which is hot; then 5 is.
    assert client.pool == {3: 2, 4: 4, 5: 4, 6: 9}


def test_if_all_are_hot_the_lowest_rif_is_chosen():
    client = Client(q_rif=0.0).told(3, 5, 1).told(4, 2, 90).told(5, 3, 70)
    assert [client.pick() for _ in range(3)] == [4, 4, 5]


def test_with_quantile_one_nobody_is_hot_who_is_not_above_all():
    client = Client(q_rif=1.0).told(3, 5, 1).told(4, 2, 90)
    assert [client.pick(), client.pick()] == [3, 4]  # 3 went to 6, above all that was told


@pytest.mark.parametrize("known", [0, 1])
def test_with_fewer_than_two_probes_the_pick_is_random(known):
    client = Client()
    if known:
        client.told(5, 0, 1)
    picks = [client.pick() for _ in range(400)]
    assert set(picks) == set(range(3, 11))
    assert client.pools["random_picks"][1] == 400
    if known:
        assert client.pool == {5: picks.count(5)}


def test_nobody_selectable_is_no_host():
    client = Client().told(3, 1, 80).told(4, 2, 60)
    client.hosts["healthy"] = 0
    assert client.pick() == NO_HOST
    assert client.pool == {}


def test_probes_age_and_leave_with_their_server():
    client = Client().told(3, 1, 10, 0).told(4, 1, 20, 5).told(5, 1, 30, 6).told(6, 1, 40, 6)
    client.hosts["healthy"][4] = 0
    assert client.pick(SECOND_NS + 1) == 5
    assert set(client.pool) == {5, 6}


def test_a_new_answer_takes_the_place_of_the_servers_old_one_or_of_the_oldest():
    client = Client()
    for host in (3, 4, 5, 6):
        client.told(host, 1, 10, host)
    client.told(3, 7, 10, 7)
    assert client.pool == {3: 7, 4: 1, 5: 1, 6: 1}
    client.told(9, 2, 10, 8)
    assert client.pool == {3: 7, 9: 2, 5: 1, 6: 1}


def test_removal_takes_the_worst_and_the_oldest_in_turn():
    client = Client(r_remove=0.5, pool_size=6, q_rif=0.5)
    for host, rif, latency_us in ((3, 1, 10), (4, 8, 20), (5, 1, 90), (6, 9, 30), (7, 1, 15)):
        client.told(host, rif, latency_us, host)
    left = []
    for _ in range(6):
        client.pick(10)
        left.append(sorted(client.pool))
    # Every second request removes one: the hot 6 (RIF 9), the oldest 3, the hot 4 (RIF 8).
    assert left == [[3, 4, 5, 6, 7]] + [[3, 4, 5, 7]] * 2 + [[4, 5, 7]] * 2 + [[5, 7]]


def test_without_hot_ones_the_slowest_is_removed():
    client = Client(r_remove=1.0, q_rif=1.0).told(3, 1, 10).told(4, 1, 90).told(5, 9, 20)
    client.pick()
    assert sorted(client.pool) == [3, 5]


def test_a_probe_is_used_as_often_as_its_budget_says():
    # b = (1 + 1) / ((1 - 4/8) 3 - 0.5) = 2
    client = Client(r_remove=0.5, reuse_delta=1).told(3, 0, 10)
    client.told(4, 9, 99).told(5, 9, 99).told(6, 9, 99)
    client.rules["r_remove"] = 0.0
    assert [client.pick() for _ in range(3)][:2] == [3, 3]
    assert 3 not in client.pool


@pytest.mark.parametrize(
    ("rule", "count", "expected"),
    [
        ({"r_remove": 1}, 16, 2 / (0.75 * 3 - 1)),
        ({"r_remove": 1, "reuse_delta": 9}, 16, 10 / 1.25),
        ({"r_remove": 0, "r_probe": 5}, 1000, 1.0),  # at least once
    ],
)
def test_a_budget_is_rounded_to_its_mean(rule, count, expected):
    client = Client(**{"reuse_delta": 1, **rule})
    uniforms = (np.arange(1000) + 0.5) / 1000
    drawn = [prequal.reuse_budget(client.rules, 0, count, draw) for draw in uniforms]
    assert np.mean(drawn) == pytest.approx(expected, abs=0.001)
    assert max(drawn) - min(drawn) <= 1


def test_a_pool_as_large_as_the_cluster_has_no_budget():
    client = Client(r_remove=1)
    assert prequal.reuse_budget(client.rules, 0, 4, 0.5) >= 10**9


def test_probes_of_a_fractional_rate():
    client = Client(r_probe=0.4)
    counts = [int(prequal.count_probes(client.pools, 1, client.rules, 0)) for _ in range(10)]
    assert sum(counts) == 4
    assert set(counts) == {0, 1}


def test_the_targets_of_one_request_differ_and_are_selectable():
    client = Client(count=5)
    client.hosts["healthy"][6] = 0
    seen = np.zeros(8, int)
    for _ in range(300):
        targets = []
        for number in range(4):
            host = prequal.draw_target(
                client.hosts, client.members, 3, 5, client.pools, 1, client.flights, number,
                client.rng,
            )  # fmt: skip
            slot = client.pools["flight_next"][1]
            client.flights["host"][1, slot] = host
            client.pools["flight_next"][1] = (slot + 1) % FLIGHTS
            targets.append(int(host))
        assert sorted(targets) == [3, 4, 5, 7]
        seen[targets[0]] += 1
    # 75 of 300 each; the standard deviation is 7.5.
    assert all(abs(seen[host] - 75) < 30 for host in (3, 4, 5, 7))


def test_an_estimate_is_the_median_of_what_was_seen_nearest_to_this_rif():
    servers = np.zeros((2, RIF_BUCKETS), PREQUAL_SERVER_DTYPE)
    samples = np.zeros((2, RIF_BUCKETS * BUCKET_SAMPLES), np.int64)

    def estimates(*rifs):
        return [prequal.estimate_latency_ns(servers, samples, 1, rif) for rif in rifs]

    assert estimates(3) == [0]
    for rif, latency_ns in ((2, 50), (2, 10), (2, 40), (9, 90), (9, 70)):
        prequal.on_answered(servers, samples, 1, rif, latency_ns)
    assert estimates(0, 2, 5, 6, 9, 500) == [40, 40, 40, 70, 70, 70]
    for latency_ns in (1, 2, 3, 4, 5):  # older ones are forgotten
        prequal.on_answered(servers, samples, 1, 2, latency_ns)
    assert estimates(2, 9) == [3, 70]


def test_buckets_are_exact_below_sixteen_and_eight_an_octave_above():
    buckets = [int(prequal.rif_bucket(rif)) for rif in range(2000)]
    assert buckets[:16] == list(range(16))
    assert buckets[16:64:4] == [16, 18, 20, 22, *range(24, 32)]
    assert buckets == sorted(buckets)
    assert buckets[-1] == RIF_BUCKETS - 1


def test_more_in_flight_never_makes_a_server_cold():
    client = Client()
    for rif in (0, 1, 1, 2, 5, 8, 13):
        client.told(3, rif, 10)
    hot = [
        prequal.is_hot(client.pools, 1, client.rifs, rif, client.rules["q_rif"][0])
        for rif in range(20)
    ]
    assert all(after or not before for before, after in pairwise(hot))
    assert hot.index(True) == 9  # the sixth of seven, 8, is the quantile of 3/4
