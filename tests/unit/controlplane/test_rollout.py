"""A Deployment's rolling update: its limits, and that it ends with them kept."""

import pytest

from meshsim.controlplane.rollout import Rollout, rollout
from meshsim.errors import ConfigError


@pytest.mark.parametrize(
    ("replicas", "surge", "unavailable", "expected"),
    [
        (4, "25%", "25%", (1, 1)),
        (10, "25%", "25%", (3, 2)),  # up and down: 2.5
        (3, "25%", "25%", (1, 0)),
        (1, "25%", "25%", (1, 0)),
        (10, "30%", 0, (3, 0)),
        (10, 0, 0, (0, 1)),  # both 0 would never end
        (2, "0%", "10%", (0, 1)),
        (2, 9, 9, (9, 2)),
    ],
)
def test_limits_are_resolved_as_kubernetes_does(replicas, surge, unavailable, expected):
    limits = rollout(replicas, surge, unavailable)
    assert (limits.surge, limits.unavailable) == expected


@pytest.mark.parametrize("limit", [-1, "25", "x%", "-5%", 0.25, True])
def test_what_is_no_limit_is_refused(limit):
    with pytest.raises(ConfigError, match=r"max_surge is no limit.*percentage"):
        rollout(4, limit, 0)


def test_the_documented_example():
    """Of 10 replicas with the defaults: at least 8 available, at most 13 in all."""
    limits = rollout(10, "25%", "25%")
    assert limits.step(old=10, starting=0, ready=0) == (3, 2)
    assert limits.step(old=8, starting=3, ready=0) == (2, 0)
    assert limits.step(old=8, starting=4, ready=1) == (0, 1)


@pytest.mark.parametrize("replicas", [1, 2, 7])
@pytest.mark.parametrize("surge", [0, 1, 7])
@pytest.mark.parametrize("unavailable", [0, 1, 7])
def test_a_rollout_ends_and_keeps_its_limits(replicas, surge, unavailable):
    limits = rollout(replicas, surge, unavailable)
    old, starting, ready = replicas, 0, 0
    for _ in range(100):
        create, stop = limits.step(old, starting, ready)
        old, starting = old - stop, starting + create
        assert old + starting + ready <= replicas + limits.surge
        assert old + ready >= replicas - limits.unavailable
        if starting:
            starting, ready = starting - 1, ready + 1
    assert (old, starting, ready) == (0, 0, replicas)


def test_more_old_ones_than_wanted_go_first():
    assert Rollout(2, 1, 0).step(old=5, starting=0, ready=0) == (0, 3)
