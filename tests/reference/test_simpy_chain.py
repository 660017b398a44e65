"""The reference itself against theory: an oracle that is wrong is worse than none."""

import numpy as np
import pytest
from scipy import stats
from simpy_chain import CHAIN, CHAIN_RATE, Tier, simulate_chain

from meshsim import theory

REPLICATIONS = 10


def check(expected, *, rate, halfwidth, **options):
    """Check the mean after warm-up (a fifth of each run) by a t interval of 99.9 %.

    A 95 % half-width above `halfwidth` of the truth proves nothing, and fails too.
    """
    seeds = range(1, REPLICATIONS + 1)
    runs = [simulate_chain(rate=rate, seed=seed, **options) for seed in seeds]
    means = np.array([run[len(run) // 5 :].mean() for run in runs])
    error = means.std(ddof=1) / np.sqrt(REPLICATIONS)
    t_95, t_999 = stats.t.ppf([0.975, 0.9995], REPLICATIONS - 1)
    assert t_95 * error <= halfwidth * expected, "inconclusive: more requests are needed"
    assert abs(means.mean() - expected) <= t_999 * error


def test_one_tier_is_mmc():
    expected = theory.MMc(2.4, 1.0, 4).sojourn_mean
    check(expected, rate=2.4, halfwidth=0.03, tiers=(Tier(1.0, workers=4),), count=5000)


def test_random_chain_is_a_tandem():
    spare = [1 / CHAIN[0].mean - CHAIN_RATE]
    spare += [1 / tier.mean - CHAIN_RATE / tier.replicas for tier in CHAIN[1:]]
    expected = theory.Hypoexponential(tuple(spare)).mean
    assert expected == pytest.approx(0.080)
    check(expected, rate=CHAIN_RATE, halfwidth=0.05, count=8000)


def test_round_robin_split_of_poisson():
    expected = theory.round_robin_split(2.4, 1.0, 4).sojourn_mean
    tiers = (Tier(1.0, replicas=4),)
    check(expected, rate=2.4, halfwidth=0.05, tiers=tiers, count=8000, balancing="ROUND_ROBIN")


def test_held_workers_are_nested_possession():
    expected = theory.nested_possession_sojourn(0.6, 1.0, 3, 1.0, 1)
    tiers = (Tier(1.0, workers=3), Tier(1.0))
    check(expected, rate=0.6, halfwidth=0.05, tiers=tiers, count=8000, hold_worker=True)


def test_every_request_is_answered():
    assert not np.isnan(simulate_chain(count=200)).any()
