"""When a cluster is in panic, and what may be picked then."""

import numpy as np
import pytest
from health_rows import Watched

from meshsim.policy.panic import is_in_panic, select_hosts
from meshsim.state.health import BY_CHECK, BY_OUTLIER, WITHDRAWN


@pytest.mark.parametrize(
    ("healthy", "hosts", "threshold", "panics"),
    [
        (5, 10, 50, False),  # below 50 %, not at it
        (4, 10, 50, True),
        (0, 10, 0, False),  # switched off
        (0, 10, 1, True),
        (8, 10, 90, False),  # 112 % are available: all can be served
        (7, 10, 90, True),  # 98 %
        (0, 0, 50, False),
    ],
)
def test_panic(healthy, hosts, threshold, panics):
    assert is_in_panic(healthy, hosts, threshold) == panics


def select(cluster):
    select_hosts(
        cluster.hosts,
        cluster.members,
        cluster.clusters,
        0,
        cluster.configs,
        cluster.groups,
    )
    return cluster.hosts["healthy"].tolist()


def test_in_panic_all_are_selectable():
    cluster = Watched(4, panic_threshold=50)
    cluster.hosts["unhealthy"][[0, 1]] = BY_OUTLIER
    assert select(cluster) == [0, 0, 1, 1]
    cluster.hosts["unhealthy"][2] = BY_CHECK
    assert select(cluster) == [2, 2, 2, 1]
    assert cluster.groups["panic"][0] == 1
    cluster.hosts["unhealthy"][0] = 0
    assert select(cluster) == [1, 0, 0, 1]
    assert cluster.groups["panic"][0] == 0


def test_who_is_withdrawn_is_none_of_the_hosts():
    cluster = Watched(4, panic_threshold=50)
    cluster.hosts["unhealthy"][:] = [WITHDRAWN, WITHDRAWN, BY_OUTLIER, 0]
    assert select(cluster) == [0, 0, 0, 1]  # half of two hosts are healthy
    cluster.hosts["unhealthy"][3] = BY_OUTLIER
    assert select(cluster) == [0, 0, 2, 2]


def test_picks_in_panic_are_counted():
    cluster = Watched(2, panic_threshold=50)
    cluster.picked(0)
    cluster.hosts["unhealthy"] = BY_OUTLIER
    select(cluster)
    cluster.picked(0)
    cluster.picked(1)
    assert cluster.groups["panic_picks"][0] == 2
    assert np.all(cluster.hosts["healthy"] == 2)
