"""Kubernetes' autoscaler, by hand; figures of its documentation where it has them."""

import pytest

from meshsim.controlplane.autoscaler import Autoscaler, Behavior, ScalingPolicy
from meshsim.errors import ConfigError

S = 1_000_000_000


def scaler(**fields):
    return Autoscaler(0.5, **{"max_replicas": 100, **fields})


def test_twice_the_target_is_twice_the_replicas():
    # "if the current metric value is 200m and the desired value is 100m, the number of replicas
    # will be doubled"
    assert scaler().decide([1.0] * 3, 0, 3, 0) == 6


def test_half_the_target_is_half_the_replicas_after_the_stabilisation():
    it = scaler()
    it.decide([0.5] * 8, 0, 8, 0)
    assert it.decide([0.25] * 8, 0, 8, 15 * S) == 8
    assert it.decide([0.25] * 8, 0, 8, 299 * S) == 8
    assert it.decide([0.25] * 8, 0, 8, 300 * S) == 4


@pytest.mark.parametrize("utilization", [0.45, 0.5, 0.55])
def test_within_the_tolerance_nothing_changes(utilization):
    assert (
        scaler(down=Behavior(0, (ScalingPolicy(100, percent=True),))).decide(
            [utilization] * 5, 0, 5, 0
        )
        == 5
    )


def test_it_grows_by_four_or_doubles_in_fifteen_seconds():
    it = scaler()
    assert it.decide([5.0], 0, 1, 0) == 5
    assert it.decide([5.0] * 5, 0, 5, 10 * S) == 5  # 1 + 4 within 15 s
    assert it.decide([5.0] * 5, 0, 5, 15 * S) == 10  # doubled
    assert it.decide([5.0] * 10, 0, 10, 30 * S) == 20


def test_it_shrinks_by_what_the_policies_allow():
    slowly = Behavior(0, (ScalingPolicy(10, 60, percent=True), ScalingPolicy(2, 60)))
    it = scaler(down=slowly)
    assert it.decide([0.1] * 50, 0, 50, 0) == 45  # 10 % is more than 2
    assert it.decide([0.1] * 45, 0, 45, 30 * S) == 45
    assert it.decide([0.1] * 45, 0, 45, 60 * S) == 40
    assert it.decide([0.01] * 12, 0, 12, 300 * S) == 10  # 2 are more than 10 %


def test_the_bounds_hold():
    assert scaler(max_replicas=4).decide([5.0] * 3, 0, 3, 0) == 4
    no_wait = Behavior(0, (ScalingPolicy(100, percent=True),))
    assert scaler(min_replicas=2, down=no_wait).decide([0.0] * 5, 0, 5, 0) == 2


def test_replicas_on_their_way_count_as_idle():
    # 4 ready at 0.8 would ask for 7; with 4 unready at 0: 8 * 0.4 / 0.5 = 6.4, fewer than there are
    assert scaler().decide([0.8] * 4, 4, 8, 0) == 8
    # with 1 unready: 3.2 / 5 / 0.5 = 1.28 of 5
    assert scaler().decide([0.8] * 4, 1, 5, 0) == 7


def test_a_slow_rise_waits_for_its_stabilisation():
    patient = Behavior(60, (ScalingPolicy(100, percent=True),))
    it = scaler(up=patient)
    assert it.decide([0.5] * 4, 0, 4, 0) == 4
    assert it.decide([1.0] * 4, 0, 4, 30 * S) == 4
    assert it.decide([0.75] * 4, 0, 4, 60 * S) == 6  # the lowest of the last minute


def test_nothing_ready_and_switched_off_change_nothing():
    assert scaler().decide([], 3, 3, 0) == 3
    assert scaler().decide([], 0, 0, 0) == 0


def test_wrong_values_are_refused():
    with pytest.raises(ConfigError, match="target utilisation"):
        Autoscaler(0.0)
    with pytest.raises(ConfigError, match="1 <= min <= max"):
        Autoscaler(0.5, min_replicas=5, max_replicas=4)
