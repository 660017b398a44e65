import numpy as np
from policy_rows import make_cluster

from meshsim.state.codes import NO_HOST, RANDOM

#: 99.9 % quantiles of chi squared with 4 and 2 degrees of freedom; the seeds are fixed.
CHI2_4, CHI2_2 = 18.47, 13.82


def chi2(picks, positions):
    counts = np.bincount(picks, minlength=5)[positions]
    expected = len(picks) / len(positions)
    return float(np.sum((counts - expected) ** 2) / expected)


def test_is_uniform_whatever_the_weights():
    assert chi2(make_cluster(RANDOM, [9, 1, 1, 1, 1]).picks(5000), range(5)) < CHI2_4


def test_is_uniform_over_the_healthy():
    picks = make_cluster(RANDOM, [1] * 5, healthy=[1, 0, 1, 0, 1]).picks(5000)
    assert set(picks) == {0, 2, 4}
    assert chi2(picks, [0, 2, 4]) < CHI2_2


def test_no_selectable_member_is_no_host():
    assert make_cluster(RANDOM, healthy=[0, 0, 0]).pick() == NO_HOST
    assert make_cluster(RANDOM, []).pick() == NO_HOST
