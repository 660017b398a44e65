"""Balancers that see the true queues of servers."""

import numpy as np
import pytest

from meshsim.policy.load_balancing.oracle import (
    join_idle_queue,
    leave_idle_queue,
    pick_idle,
    pick_shortest,
    renew_view,
)
from meshsim.rng import PURPOSE_PICK, make_streams
from meshsim.state.codes import NO_HOST, NO_INDEX
from meshsim.state.oracle import (
    ORACLE_CLUSTER_DTYPE,
    ORACLE_ENDPOINT_DTYPE,
    ORACLE_HOST_DTYPE,
)
from meshsim.state.server import ENDPOINT_DTYPE
from meshsim.state.upstream import HOST_DTYPE


class Servers:
    """Servers with these loads; clusters (of proxies) that all know all of them."""

    def __init__(self, loads, clusters=1, seed=1):
        count = len(loads)
        self.endpoints = np.zeros(count, ENDPOINT_DTYPE)
        self.endpoints["busy"] = np.minimum(loads, 1)
        self.endpoints["queued"] = np.maximum(np.array(loads) - 1, 0)
        self.hosts = np.zeros(count * clusters, HOST_DTYPE)
        self.hosts["endpoint"] = np.tile(np.arange(count), clusters)
        self.hosts["cluster"] = np.repeat(np.arange(clusters), count)
        self.hosts["healthy"] = 1
        self.members = np.arange(count * clusters, dtype=np.int32)
        self.views = np.zeros(count * clusters, ORACLE_HOST_DTYPE)
        self.queues = np.zeros(clusters, ORACLE_CLUSTER_DTYPE)
        self.queues["idle_head"] = self.queues["idle_tail"] = NO_INDEX
        self.listed = np.zeros(count, ORACLE_ENDPOINT_DTYPE)
        self.listed["listed"] = NO_INDEX
        self.listed["host_count"] = clusters
        self.listed["host_start"] = np.arange(count) * clusters
        self.watchers = np.argsort(self.hosts["endpoint"], kind="stable").astype(np.int32)
        self.rng = make_streams(seed, PURPOSE_PICK, 1)[0]

    def shortest(self, choices=2, distinct=False, stale=False):
        position = pick_shortest(
            self.hosts,
            self.members,
            0,
            len(self.endpoints),
            self.endpoints,
            self.views,
            stale,
            choices,
            distinct,
            self.rng,
        )
        return int(position)

    def share(self, count=8000, **how):
        picks = [self.shortest(**how) for _ in range(count)]
        return [picks.count(server) / count for server in range(len(self.endpoints))]

    def join(self, server):
        join_idle_queue(
            self.hosts,
            self.views,
            self.queues,
            self.listed,
            self.watchers,
            server,
            self.rng,
        )

    def idle(self, cluster=0):
        count = len(self.endpoints)
        host = pick_idle(
            self.hosts,
            self.members,
            cluster * count,
            count,
            self.endpoints,
            self.views,
            self.queues,
            self.listed,
            cluster,
            self.rng,
        )
        return int(host)

    def line(self, cluster=0):
        """Return the servers in the idle queue of a cluster, first in line first."""
        found, host = [], self.queues["idle_head"][cluster]
        while host != NO_INDEX:
            found.append(int(self.hosts["endpoint"][host]))
            host = self.views["next"][host]
        return found


def test_the_shorter_of_two_draws_is_kept():
    # With replacement the busiest of three is picked 1/9, the next 3/9, the idlest 5/9 of the time;
    # 4 standard deviations of 8,000 draws are 0.022.
    made = Servers([3, 1, 2])
    assert made.share() == pytest.approx([1 / 9, 5 / 9, 3 / 9], abs=0.022)


def test_two_distinct_draws_never_keep_the_busiest():
    made = Servers([3, 1, 2])
    assert made.share(distinct=True) == pytest.approx([0, 2 / 3, 1 / 3], abs=0.022)
    made.hosts["healthy"][1:] = 0
    assert made.shortest(distinct=True) == 0


def test_three_distinct_draws_leave_one_of_four_out():
    # The idlest is left out a quarter of the time, and then the next one has the least.
    made = Servers([2, 0, 3, 1])
    assert made.share(choices=3, distinct=True) == pytest.approx([0, 3 / 4, 0, 1 / 4], abs=0.022)
    even = Servers([1, 1, 1, 1])
    assert even.share(choices=3, distinct=True) == pytest.approx([1 / 4] * 4, abs=0.022)
    made.hosts["healthy"][1] = 0
    assert {made.shortest(choices=9, distinct=True) for _ in range(100)} == {3}


def test_all_are_looked_at_and_ties_are_drawn():
    made = Servers([2, 1, 1, 5])
    assert made.share(choices=0) == pytest.approx([0, 0.5, 0.5, 0], abs=0.022)
    made.hosts["healthy"] = 0
    assert made.shortest(choices=0) == NO_HOST
    assert made.shortest() == NO_HOST


def test_a_stale_view_does_not_see_what_happened_since():
    made = Servers([0, 1])
    renew_view(made.hosts, made.members, 0, 2, made.endpoints, made.views)
    made.endpoints["busy"] = 1
    made.endpoints["queued"] = [9, 0]
    assert made.shortest(choices=0, stale=True) == 0
    assert made.shortest(choices=0) == 1
    renew_view(made.hosts, made.members, 0, 2, made.endpoints, made.views)
    assert made.shortest(choices=0, stale=True) == 1


def test_idle_servers_are_picked_in_the_order_in_which_they_told():
    made = Servers([0, 0, 0, 0])
    for server in (2, 0, 3):
        made.join(server)
    assert made.line() == [2, 0, 3]
    assert [made.idle() for _ in range(2)] == [2, 0]
    assert made.listed["listed"].tolist() == [NO_INDEX, NO_INDEX, NO_INDEX, 3]
    assert made.queues["idle_picks"][0] == 2


def test_a_server_that_got_work_is_passed_over():
    made = Servers([0, 0, 0])
    for server in (0, 1, 2):
        made.join(server)
    made.endpoints["busy"][0] = 1
    made.hosts["healthy"][1] = 0
    assert made.idle() == 2
    assert made.line() == []


def test_without_idle_servers_a_random_one_is_picked():
    made = Servers([1, 1, 1])
    picks = [made.idle() for _ in range(3000)]
    assert [picks.count(n) / 3000 for n in range(3)] == pytest.approx([1 / 3] * 3, abs=0.035)
    assert made.queues["idle_picks"][0] == 0
    made.hosts["healthy"] = 0
    assert made.idle() == NO_HOST


def test_a_server_stands_in_one_queue_at_most():
    made = Servers([0] * 6, clusters=3)
    for _ in range(20):
        for server in range(6):
            made.join(server)
    lines = [made.line(cluster) for cluster in range(3)]
    assert sorted(server for line in lines for server in line) == list(range(6))
    host = int(made.queues["idle_head"][0])
    leave_idle_queue(made.hosts, made.views, made.queues, host)
    assert made.line() == lines[0][1:]
