"""Linkerd's failure accrual: seven in a row, a penalty that doubles, one request on probation."""

import pytest
from health_rows import ACCRUAL, NS_PER_S, Watched

from meshsim.policy.failure_accrual import penalty_ns
from meshsim.state.codes import RESET_CONNECT_FAILURE, RESET_OVERFLOW


def shut(at_s=0.0):
    """A cluster of three whose host 1 has just become unavailable."""
    cluster = Watched(3, **ACCRUAL)
    cluster.result(1, 500, at_s=at_s, times=7)
    return cluster


@pytest.mark.parametrize(
    ("penalties", "seconds"), [(0, 1), (1, 2), (5, 32), (6, 60), (7, 60), (10_000, 60)]
)
def test_penalties_double_up_to_the_longest(penalties, seconds):
    rules = Watched(1, **ACCRUAL).rules
    assert penalty_ns(rules, 0, penalties, 0.999) == seconds * NS_PER_S


def test_jitter_is_a_share_of_the_penalty_and_never_beyond_the_longest():
    rules = Watched(1, jitter_ratio=0.5, **ACCRUAL).rules
    assert penalty_ns(rules, 0, 2, 0.5) == 5 * NS_PER_S
    assert penalty_ns(rules, 0, 6, 0.5) == 60 * NS_PER_S


def test_seven_failures_in_a_row_make_a_host_unavailable():
    cluster = Watched(3, **ACCRUAL)
    cluster.result(1, 500, times=6)
    cluster.result(1, 404)
    cluster.result(1, reset=RESET_CONNECT_FAILURE, times=6)
    assert cluster.at(0) == [0, 1, 2]
    cluster.result(1, 503)
    assert cluster.at(0) == [0, 2]
    assert cluster.groups["accrual_total"][0] == 1


def test_probation_takes_one_request():
    cluster = shut()
    assert cluster.at(0.999) == [0, 2]
    assert cluster.at(1.0) == [0, 1, 2]
    cluster.picked(1)
    assert cluster.at(1.0) == [0, 2]
    cluster.result(1, 200, at_s=1.1)
    assert cluster.at(1.1) == [0, 1, 2]


def test_a_failed_probe_begins_the_next_penalty():
    cluster = shut()
    cluster.at(1.0)
    cluster.picked(1)
    cluster.result(1, 500, at_s=1.5)
    assert cluster.at(3.499) == [0, 2]  # two seconds from 1.5 s
    assert cluster.at(3.5) == [0, 1, 2]


def test_a_success_forgets_the_penalties():
    cluster = shut()
    cluster.at(1.0)
    cluster.picked(1)
    cluster.result(1, 200, at_s=1.0)
    cluster.result(1, 500, at_s=2.0, times=7)
    assert cluster.at(3.0) == [0, 1, 2]  # one second again


def test_what_is_answered_meanwhile_is_ignored():
    cluster = shut()
    cluster.result(1, 200, at_s=0.5)
    assert cluster.at(0.5) == [0, 2]


@pytest.mark.parametrize("lost", ["dropped", "overflow"])
def test_a_lost_probe_leaves_the_host_in_probation(lost):
    cluster = shut()
    cluster.at(1.0)
    cluster.picked(1)
    if lost == "dropped":
        cluster.dropped(1)
    else:
        cluster.result(1, reset=RESET_OVERFLOW, at_s=1.0)
    assert cluster.at(1.0) == [0, 1, 2]
    cluster.picked(1)
    assert cluster.at(1.0) == [0, 2]


def test_dropping_other_requests_changes_nothing():
    cluster = Watched(3, **ACCRUAL)
    cluster.dropped(1)
    assert cluster.at(0) == [0, 1, 2]
    cluster = shut()
    cluster.dropped(1)
    assert cluster.at(0.5) == [0, 2]
