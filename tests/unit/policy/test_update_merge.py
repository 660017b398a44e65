"""Merged changes of health, as ClusterManagerImpl::scheduleUpdate of Envoy says."""

import pytest
from policy_rows import OFFSET, make_cluster

from meshsim.policy.update_merge import believe_change, believe_now
from meshsim.state.codes import NEVER_NS, ROUND_ROBIN
from meshsim.state.health import BY_OUTLIER, blank_cluster_health

MS = 1_000_000
WINDOW_MS = 1000


class Believer:
    def __init__(self, window_ms=WINDOW_MS, watched=True):
        self.cluster = make_cluster(ROUND_ROBIN, update_merge_window_ns=window_ms * MS)
        self.groups = blank_cluster_health(1)
        self.cluster.clusters["health"][1] = 0 if watched else -1

    def change(self, position, out, now_ms, believe=believe_change):
        cluster = self.cluster
        cluster.hosts["unhealthy"][OFFSET + position] = BY_OUTLIER if out else 0
        rows = cluster.hosts, cluster.members, cluster.clusters
        believe(*rows, 1, cluster.configs, self.groups, int(now_ms * MS))
        return cluster.hosts["healthy"][OFFSET:].tolist()

    @property
    def due_ms(self):
        due_ns = int(self.groups["merge_due_ns"][0])
        assert self.groups["due_ns"][0] == due_ns
        return None if due_ns == NEVER_NS else due_ns / MS


def test_the_first_change_is_believed_at_once_and_one_soon_after_waits_a_window():
    believer = Believer()
    assert believer.change(0, True, 0) == [0, 1, 1]
    assert believer.due_ms is None
    assert believer.change(1, True, 300) == [0, 1, 1]
    assert believer.due_ms == 1300  # a window after it, not after the first
    assert believer.change(0, False, 900) == [0, 1, 1]
    assert believer.due_ms == 1300
    assert believer.groups["merged"][0] == 2


@pytest.mark.parametrize(
    ("after_ms", "healthy"), [(1000, [0, 1, 1]), (1000.999999, [0, 1, 1]), (1001, [0, 0, 1])]
)
def test_a_window_is_over_when_more_whole_milliseconds_have_passed(after_ms, healthy):
    believer = Believer()
    believer.change(0, True, 0)
    assert believer.change(1, True, after_ms) == healthy


def test_members_that_come_or_go_bring_along_what_waits():
    believer = Believer()
    believer.change(0, True, 0)
    believer.change(1, True, 300)
    assert believer.change(2, False, 400, believe_now) == [0, 0, 1]
    assert believer.groups["merge_due_ns"][0] == NEVER_NS
    assert believer.change(1, False, 1300) == [0, 0, 1]  # a window counts from then


@pytest.mark.parametrize("believer", [Believer(window_ms=0), Believer(watched=False)])
def test_without_a_window_or_a_row_everything_is_believed_at_once(believer):
    for now_ms in range(3):
        assert believer.change(now_ms, True, now_ms)[now_ms] == 0
