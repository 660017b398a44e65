"""Permits of calls: who has one, who waits, who is refused."""

import numpy as np

from meshsim.policy.bulkhead import (
    CALL_PERMITTED,
    CALL_REFUSED,
    CALL_WAITS,
    may_call,
    on_call_ended,
    on_wait_ended,
)
from meshsim.state.server import BULKHEAD_DTYPE


def bulkhead(calls=2, waiting=1, wait_ns=10):
    rows = np.zeros(1, BULKHEAD_DTYPE)
    rows["max_concurrent_calls"] = calls
    rows["max_waiting_calls"] = waiting
    rows["max_wait_ns"] = wait_ns
    return rows


def counts(rows):
    names = ("active", "waiting", "permitted", "waited", "rejected")
    return tuple(int(rows[name][0]) for name in names)


def test_beyond_the_permits_one_waits_and_the_rest_are_refused():
    rows = bulkhead()
    found = [may_call(rows, 0) for _ in range(4)]
    assert found == [CALL_PERMITTED, CALL_PERMITTED, CALL_WAITS, CALL_REFUSED]
    assert counts(rows) == (2, 1, 2, 1, 1)


def test_a_permit_goes_to_who_waits():
    rows = bulkhead()
    for _ in range(3):
        may_call(rows, 0)
    assert on_call_ended(rows, 0)
    assert counts(rows) == (2, 0, 3, 1, 0)
    assert not on_call_ended(rows, 0)
    assert not on_call_ended(rows, 0)
    assert counts(rows) == (0, 0, 3, 1, 0)


def test_without_a_wait_nobody_waits():
    rows = bulkhead(calls=1, waiting=9, wait_ns=0)
    assert [may_call(rows, 0) for _ in range(2)] == [CALL_PERMITTED, CALL_REFUSED]


def test_a_wait_that_expires_is_a_refusal_and_one_that_is_given_up_is_not():
    rows = bulkhead(calls=1, waiting=2)
    for _ in range(3):
        may_call(rows, 0)
    on_wait_ended(rows, 0, True)
    on_wait_ended(rows, 0, False)
    assert counts(rows) == (1, 0, 1, 2, 1)
