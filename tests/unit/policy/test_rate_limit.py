"""Token buckets by hand: when tokens come, which request finds one, what is counted."""

import numpy as np
import pytest
from filter_rows import SECOND, bucket, limit

from meshsim.policy.rate_limit import (
    NOT_LIMITED,
    begin_bucket,
    check_limit,
    take_token,
    tokens,
)
from meshsim.rng import mix

KEY = np.uint64(7)


def taken(rows, *times_s):
    """Ask for a token at each time [s]; return who got one."""
    return [bool(take_token(rows, 0, round(time * SECOND))) for time in times_s]


@pytest.mark.parametrize("refill", ["TICKS", "CONTINUOUS"])
def test_a_bucket_starts_full_and_holds_no_more(refill):
    rows = bucket(3, 1, "1s", refill)
    assert taken(rows, 0, 0, 0, 0) == [True, True, True, False]
    assert taken(rows, 100, 100, 100, 100) == [True, True, True, False]


def test_ticks_come_at_multiples_of_the_interval():
    rows = bucket(2, 2, "1s")
    assert taken(rows, 0.3, 0.4, 0.999, 1.0, 1.1, 1.2) == [True, True, False, True, True, False]
    # The tick of 2 s, not one a second after the last request.
    assert taken(rows, 1.999, 2.0) == [False, True]


def test_a_late_tick_brings_no_more_than_one_that_was_seen():
    """Lazy refill is the eager one: two ticks of 1 give 2, capped at the brim."""
    rows = bucket(5, 1, "1s")
    assert taken(rows, *[0] * 6) == [True] * 5 + [False]
    assert tokens(rows, 0, round(2.9 * SECOND)) == 2
    assert taken(rows, 2.9, 2.9, 2.9) == [True, True, False]
    assert tokens(rows, 0, 100 * SECOND) == 5


def test_a_continuous_bucket_refills_evenly():
    rows = bucket(2, 4, "1s", "CONTINUOUS")  # a token each 250 ms
    assert taken(rows, 0, 0, 0.1, 0.249999999, 0.25) == [True, True, False, False, True]
    # What was asked for in vain costs nothing: the next is due at 0.5 s.
    assert taken(rows, 0.4, 0.499999999, 0.5) == [False, False, True]


def test_a_continuous_bucket_loses_no_fraction():
    """Three tokens in ten seconds: never a rounded interval."""
    rows = bucket(2, 3, "10s", "CONTINUOUS")
    assert taken(rows, 0, 0) == [True, True]
    assert not take_token(rows, 0, 3_333_333_333)
    assert take_token(rows, 0, 3_333_333_334)
    # The fraction of a nanosecond that was too much is not lost, or 1 ns more would be needed.
    assert not take_token(rows, 0, 6_666_666_666)
    assert take_token(rows, 0, 6_666_666_667)
    assert take_token(rows, 0, 10_000_000_000)


def test_a_daily_quota_of_millions_is_exact():
    """8,640,000 a day is one each 10 ms."""
    rows = bucket(8_640_000, 8_640_000, "24h", "CONTINUOUS")
    rows["level"] = 0
    assert not take_token(rows, 0, 9_999_999)
    assert take_token(rows, 0, 10_000_000)
    assert tokens(rows, 0, 24 * 3600 * SECOND) == 8_639_999


def test_the_deterministic_burst_of_a_policer():
    """1,000 requests 1 ms apart against 50/s with a burst of 100: 100 + floor(0.999 x 50)."""
    rows = bucket(100, 50, "1s", "CONTINUOUS")
    assert sum(taken(rows, *(0.001 * number for number in range(1000)))) == 149


@pytest.mark.parametrize("refill", ["TICKS", "CONTINUOUS"])
def test_a_read_changes_nothing_and_no_time_overflows(refill):
    rows = bucket(2**31, 2**31, "1s", refill)
    before = rows.copy()
    assert tokens(rows, 0, 2**62) == 2**31
    assert (rows == before).all()
    assert take_token(rows, 0, 2**62)
    assert tokens(rows, 0, 2**62) == 2**31 - 1


def test_before_the_first_tick_time_may_be_negative():
    rows = bucket(1, 1, "1s")
    assert taken(rows, -5, -4, 0.5, 1) == [True, False, False, True]


@pytest.mark.parametrize("refill", ["TICKS", "CONTINUOUS"])
def test_a_connections_bucket_begins_full_and_its_time_with_it(refill):
    full, rows = bucket(2, 2, "1s", refill), bucket(9, 5, "3s")
    begin_bucket(full, 0, rows, 0, round(0.7 * SECOND))
    assert taken(rows, 0.7, 0.7, 0.7) == [True, True, False]
    # By ticks, both come one interval after the beginning; evenly, the first after half of it.
    expected = [False, True, True, False] if refill == "TICKS" else [True, True, False, False]
    assert taken(rows, 1.699999999, 1.7, 1.7, 1.7) == expected
    assert tokens(full, 0, 0) == 2


# --- Limits ---------------------------------------------------------------------------------


def check(rows, limits, now_ns=0, key=KEY, row=1):
    declared, places, counts = limits
    return check_limit(declared, 0, places, rows, 0, counts, row, key, now_ns)


def counted(limits, row=1):
    return tuple(int(value) for value in limits[2][row])


def test_a_refusal_has_the_status_of_the_limit_and_is_counted_where_it_happens():
    rows, limits = bucket(1, 1, "1s"), limit(status=503)
    assert check(rows, limits) == NOT_LIMITED
    assert check(rows, limits) == 503
    assert counted(limits) == (2, 1, 1, 1)  # enabled, ok, rate_limited, enforced
    assert counted(limits, 0) == (0, 0, 0, 0)


def test_what_is_not_enabled_takes_no_token():
    rows, limits = bucket(1, 1, "1s"), limit(enabled=0.0)
    assert check(rows, limits) == NOT_LIMITED
    assert tokens(rows, 0, 0) == 1
    assert counted(limits) == (0, 0, 0, 0)


def test_what_is_not_enforced_passes_and_is_counted():
    rows, limits = bucket(1, 1, "1s"), limit(enforced=0.0)
    assert [check(rows, limits) for _ in range(3)] == [NOT_LIMITED] * 3
    assert counted(limits) == (3, 1, 2, 0)


def test_coins_are_the_requests_own():
    rows, limits = bucket(1, 1, "1000s"), limit(enabled=0.5, enforced=0.5)
    take_token(rows, 0, 0)
    keys = [np.uint64(mix(np.uint64(number))) for number in range(4000)]
    first = [check(rows, limits, key=key) for key in keys]
    assert first == [check(rows, limits, key=key) for key in keys]
    refused = sum(status == 429 for status in first)
    # Two independent coins of one half: 1000 of 4000, with sigma = sqrt(4000 x 3/16) = 27.4.
    assert abs(refused - 1000) < 4 * 27.4


def test_the_first_empty_bucket_refuses_and_what_was_taken_is_gone():
    rows = np.concatenate([bucket(2, 1, "10s"), bucket(1, 1, "10s")])
    limits = limit(places=(0, 1))
    assert [check(rows, limits) for _ in range(3)] == [NOT_LIMITED, 429, 429]
    assert [int(tokens(rows, place, 0)) for place in (0, 1)] == [0, 0]
