"""Weights that servers' load reports give."""

import numpy as np
import pytest

from meshsim.policy.load_balancing.reported import on_report, reported_weight, set_weights
from meshsim.state.codes import NEVER_NS
from meshsim.state.load_report import REPORT_RULE_DTYPE, REPORTED_WEIGHT_DTYPE
from meshsim.state.upstream import HOST_DTYPE

S = 1_000_000_000


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        ((100.0, 0.5, 0.0, 1.0), 200.0),
        ((100.0, 0.5, 10.0, 1.0), 100 / 0.6),
        ((100.0, 0.5, 10.0, 2.0), 100 / 0.7),
        ((100.0, 0.5, 10.0, 0.0), 200.0),
        ((0.0, 0.5, 0.0, 1.0), 0.0),
        ((100.0, 0.0, 0.0, 1.0), 0.0),
        ((100.0, 0.0, 50.0, 1.0), 200.0),
    ],
)
def test_the_weight_of_a_report(report, expected):
    assert reported_weight(*report) == pytest.approx(expected, rel=1e-12)


class Members:
    """A cluster of `count` hosts behind two of another, with Envoy's periods."""

    def __init__(self, count):
        self.count = count
        self.hosts = np.zeros(2 + count, HOST_DTYPE)
        self.hosts["weight"] = 1
        self.hosts["edf_order"] = 7
        self.members = np.arange(2 + count, dtype=np.int32)
        self.weights = np.zeros(2 + count, REPORTED_WEIGHT_DTYPE)
        self.weights["since_ns"] = NEVER_NS
        self.rules = np.zeros(1, REPORT_RULE_DTYPE)
        self.rules["blackout_period_ns"] = 10 * S
        self.rules["weight_expiration_period_ns"] = 180 * S

    def report(self, now_s, *weights):
        for host, weight in enumerate(weights, 2):
            on_report(self.weights, host, weight, now_s * S)

    def set(self, now_s):
        """Set the weights and return them, and whether the schedule began anew."""
        self.hosts["edf_order"] = 7
        set_weights(self.hosts, self.members, 2, self.count, self.weights, self.rules, 0, now_s * S)
        assert self.hosts["weight"][:2].tolist() == [1, 1]
        anew = set(self.hosts["edf_order"][2:].tolist()) == {0}
        return self.hosts["weight"][2:].tolist(), anew


def test_without_reports_all_weigh_the_same():
    assert Members(3).set(100) == ([1, 1, 1], False)


def test_reports_count_after_the_blackout():
    made = Members(2)
    made.report(5, 300.0, 100.0)
    assert made.set(14) == ([1, 1], False)
    assert made.set(15) == ([10_000, 3333], True)
    assert made.set(16) == ([10_000, 3333], False)
    made.report(16, 300.0, 300.0)
    assert made.set(17) == ([10_000, 10_000], True)


def test_who_reports_nothing_gets_the_median():
    made = Members(4)
    made.report(0, 400.0, 100.0, 200.0, 0.0)
    assert made.set(10)[0] == [10_000, 2500, 5000, 5000]
    made = Members(5)
    made.report(0, 400.0, 100.0, 200.0, 300.0)
    assert made.set(10)[0] == [10_000, 2500, 5000, 7500, 6250]


def test_a_weight_expires_and_begins_a_blackout_again():
    made = Members(2)
    made.report(0, 400.0, 100.0)
    made.report(100, 400.0)
    assert made.set(180)[0] == [10_000, 2500]
    assert made.set(181)[0] == [10_000, 10_000]  # the median of one
    made.report(182, 400.0, 100.0)
    assert made.set(191)[0] == [10_000, 10_000]
    assert made.set(192)[0] == [10_000, 2500]


def test_no_weight_is_zero():
    made = Members(2)
    made.report(0, 1e9, 1.0)
    assert made.set(10)[0] == [10_000, 1]


def test_the_median_of_many():
    values = np.random.default_rng(1).permutation(np.arange(1.0, 102.0))
    made = Members(102)
    made.report(0, *values)
    found, _ = made.set(10)
    assert found[-1] == round(51 / 101 * 10_000)
