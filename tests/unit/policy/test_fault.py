"""The fault filter by hand: coins, places, slices."""

import numpy as np
import pytest
from filter_rows import fault

from meshsim.policy.fault import NO_FAULT, abort_status, delay_ns, on_fault_ended, pace_ns
from meshsim.rng import mix

KEYS = [np.uint64(mix(np.uint64(number))) for number in range(4000)]
KEY = KEYS[0]
MS = 1_000_000


def test_a_share_of_100_meets_every_request_and_0_none():
    rows, counts = fault(delay=1.0, delay_ns=5 * MS, abort=0.0, status=500)
    assert [delay_ns(rows, 0, counts, 0, key) for key in KEYS[:5]] == [5 * MS] * 5
    assert [abort_status(rows, 0, counts, 0, key, False) for key in KEYS[:5]] == [NO_FAULT] * 5
    assert int(counts["delays_injected"][0]) == int(counts["active"][0]) == 5
    assert int(counts["aborts_injected"][0]) == 0


def test_delay_and_abort_are_independent():
    rows, counts = fault(delay=0.5, delay_ns=1, abort=0.2, status=503)
    met = {
        (delay_ns(rows, 0, counts, 0, key) > 0, abort_status(rows, 0, counts, 0, key, False) > 0)
        for key in KEYS
    }
    assert len(met) == 4
    delayed = [delay_ns(rows, 0, counts, 0, key) > 0 for key in KEYS]
    aborted = [abort_status(rows, 0, counts, 0, key, False) > 0 for key in KEYS]
    both = sum(one and other for one, other in zip(delayed, aborted, strict=True))
    # sigma of 4000 coins of 0.1 is 19, of 0.5 31.6, of 0.2 25.3.
    assert abs(both - 400) < 4 * 19
    assert abs(sum(delayed) - 2000) < 4 * 31.6
    assert abs(sum(aborted) - 800) < 4 * 25.3


def test_a_request_keeps_its_coins_whatever_the_fault_does():
    """Who meets 20 % also meets 30 %: a paired comparison."""
    few, many = (fault(abort=share, status=500) for share in (0.2, 0.3))
    first = {n for n, key in enumerate(KEYS) if abort_status(few[0], 0, few[1], 0, key, False)}
    second = {n for n, key in enumerate(KEYS) if abort_status(many[0], 0, many[1], 0, key, False)}
    assert first < second


def test_places_are_held_until_the_request_has_ended():
    rows, counts = fault(delay=1.0, delay_ns=1, abort=1.0, status=500, active_max=1)
    assert delay_ns(rows, 0, counts, 0, KEY) == 1
    assert delay_ns(rows, 0, counts, 0, KEY) == NO_FAULT
    assert abort_status(rows, 0, counts, 0, KEY, False) == NO_FAULT
    assert int(counts["overflow"][0]) == 2
    # The one that was delayed holds a place already.
    assert abort_status(rows, 0, counts, 0, KEY, True) == 500
    on_fault_ended(counts, 0)
    assert delay_ns(rows, 0, counts, 0, KEY) == 1
    assert int(counts["overflow"][0]) == 2


def test_an_abort_alone_holds_no_place():
    rows, counts = fault(abort=1.0, status=500, active_max=1)
    assert [abort_status(rows, 0, counts, 0, KEY, False) for _ in range(3)] == [500] * 3
    assert int(counts["active"][0]) == 0


@pytest.mark.parametrize(
    ("size_bytes", "wait_ms"),
    # 20 KiB/s: slices of 1024 bytes, 50 ms apart, the first at once.
    [(0, 0), (1, 0), (1024, 0), (1025, 50), (2048, 50), (10 * 1024 + 1, 500)],
)
def test_a_response_leaves_in_slices(size_bytes, wait_ms):
    rows, counts = fault(pace=1.0, kibps=20)
    assert pace_ns(rows, 0, counts, 0, KEY, size_bytes) == wait_ms * MS
    assert int(counts["response_rl_injected"][0]) == 1


def test_only_a_share_of_the_responses_is_slow():
    rows, counts = fault(pace=0.25, kibps=1)
    slow = sum(pace_ns(rows, 0, counts, 0, key, 10_000) > 0 for key in KEYS)
    assert slow == int(counts["response_rl_injected"][0])
    assert abs(slow - 1000) < 4 * 27.4  # sqrt(4000 x 3/16)
