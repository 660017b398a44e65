"""Laws of token buckets: lazily filled is eagerly filled, and no window gets more than it may."""

import numpy as np
import pytest
from filter_rows import bucket_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from meshsim.policy.rate_limit import take_token, tokens
from meshsim.topology.model import TokenBucket

NS_PER_MS = 1_000_000


def rows_of(max_tokens, per_fill, interval_ms, refill):
    declared = TokenBucket.model_construct(
        max_tokens=max_tokens, tokens_per_fill=per_fill, fill_interval=interval_ms * NS_PER_MS
    )
    return bucket_rows([(declared, refill)])


buckets = st.tuples(st.integers(1, 20), st.integers(1, 30), st.integers(1, 50))
gaps = st.lists(st.integers(0, 120), min_size=1, max_size=80)


@settings(max_examples=80, deadline=None)
@given(buckets, gaps)
def test_ticks_are_those_of_a_timer(shape, gaps_ms):
    """The reference adds tokens at every tick, one after the other."""
    max_tokens, per_fill, interval_ms = shape
    rows = rows_of(*shape, "TICKS")
    level, next_tick, now_ms = max_tokens, interval_ms, 0
    for gap in gaps_ms:
        now_ms += gap
        while next_tick <= now_ms:
            level = min(max_tokens, level + per_fill)
            next_tick += interval_ms
        assert int(tokens(rows, 0, now_ms * NS_PER_MS)) == level
        assert bool(take_token(rows, 0, now_ms * NS_PER_MS)) is (level > 0)
        level = max(level - 1, 0)


@settings(max_examples=80, deadline=None)
@given(buckets, gaps)
def test_a_continuous_bucket_is_the_generic_cell_rate_algorithm(shape, gaps_ms):
    """GCRA (ITU-T I.371): conforming if the cell is not before its theoretical arrival time.

    In units of 1 ms / tokens_per_fill the increment is the interval and times are whole, so
    that the reference is exact as well.
    """
    max_tokens, per_fill, interval_ms = shape
    rows = rows_of(*shape, "CONTINUOUS")
    increment, tolerance = interval_ms, (max_tokens - 1) * interval_ms
    arrival, now_ms = -(10**9), 0
    for gap in gaps_ms:
        now_ms += gap
        now = now_ms * per_fill
        conforms = now >= arrival - tolerance
        assert bool(take_token(rows, 0, now_ms * NS_PER_MS)) is conforms
        if conforms:
            arrival = max(arrival, now) + increment


@pytest.mark.parametrize("refill", ["TICKS", "CONTINUOUS"])
@settings(max_examples=60, deadline=None)
@given(shape=buckets, gaps_ms=gaps)
def test_no_window_gets_more_than_burst_and_rate(refill, shape, gaps_ms):
    max_tokens, per_fill, interval_ms = shape
    rows = rows_of(*shape, refill)
    times = np.cumsum(gaps_ms)
    passed = [time for time in times if take_token(rows, 0, int(time) * NS_PER_MS)]
    for first in range(len(passed)):
        for last in range(first, len(passed)):
            span_ms = passed[last] - passed[first]
            fills = span_ms / interval_ms if refill == "CONTINUOUS" else span_ms // interval_ms + 1
            assert last - first + 1 <= max_tokens + per_fill * fills + 1e-9


@settings(max_examples=40, deadline=None)
@given(buckets, st.integers(0, 2**61), st.integers(0, 2**61))
def test_any_two_times_leave_a_level_that_can_be(shape, one, other):
    for refill in ("TICKS", "CONTINUOUS"):
        rows = rows_of(*shape, refill)
        take_token(rows, 0, min(one, other))
        take_token(rows, 0, max(one, other))
        assert 0 <= int(tokens(rows, 0, 2**62)) <= shape[0]
