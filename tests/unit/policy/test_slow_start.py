"""Slow start: the factor, and the share it gives in weighted picks."""

import numpy as np
import pytest
from policy_rows import OFFSET, make_cluster

from meshsim.policy.load_balancing.slow_start import slow_start_factor
from meshsim.state.codes import LEAST_REQUEST, ROUND_ROBIN

NS_PER_S = 1_000_000_000


@pytest.mark.parametrize(
    ("elapsed_s", "aggression", "factor"),
    [
        (30, 1.0, 0.5),
        (15, 2.0, 0.5),
        (0, 1.0, 0.1),  # min_weight_percent
        (3, 1.0, 0.1),
        (60, 1.0, 1.0),
        (6, 1.0, 0.1),
        (7.5, 1.5, 0.25),  # (1/8) ** (2/3)
    ],
)
def test_factor(elapsed_s, aggression, factor):
    window_ns = 60 * NS_PER_S
    elapsed_ns = int(elapsed_s * NS_PER_S)
    assert slow_start_factor(elapsed_ns, window_ns, aggression, 0.1) == pytest.approx(factor)


def test_without_a_least_share_the_first_millisecond_counts():
    assert slow_start_factor(0, NS_PER_S, 1.0, 0.0) == pytest.approx(1e-3)


def warming(balancing, **config):
    """Ten equal hosts of which the first is 30 s into its window of 60 s."""
    cluster = make_cluster(balancing, [1] * 10, weights_equal=2, **config)
    cluster.configs["slow_start_window_ns"][1] = 60 * NS_PER_S
    cluster.configs["slow_start_aggression"][1] = 1.0
    cluster.configs["slow_start_min_weight"][1] = 0.1
    cluster.hosts["slow_start_end_ns"][OFFSET] = 60 * NS_PER_S
    return cluster


@pytest.mark.parametrize("balancing", [ROUND_ROBIN, LEAST_REQUEST])
def test_a_host_that_warms_up_gets_its_share(balancing):
    cluster = warming(balancing)
    picks = [cluster.pick(now_ns=30 * NS_PER_S) for _ in range(1900)]
    # Half a weight of 9.5: 1 of 19.
    assert np.bincount(picks).tolist() == [100] + [200] * 9


def test_after_the_window_the_weights_are_equal_again():
    cluster = warming(ROUND_ROBIN)
    picks = [cluster.pick(now_ns=60 * NS_PER_S) for _ in range(100)]
    assert picks == [*range(10)] * 10


def test_an_unhealthy_host_has_its_full_weight():
    cluster = warming(ROUND_ROBIN)
    cluster.hosts["unhealthy"][OFFSET] = 4  # ejected, and used in panic
    cluster.hosts["healthy"][OFFSET] = 2
    picks = [cluster.pick(now_ns=30 * NS_PER_S) for _ in range(100)]
    assert np.bincount(picks).tolist() == [10] * 10
