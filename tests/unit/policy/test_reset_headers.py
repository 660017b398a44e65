"""Back-offs that a header of the response asks for."""

import numpy as np
import pytest
from filter_rows import SECOND, bucket, limit
from policy_rows import make_exchange, make_limits, make_route

from meshsim.policy import request as machine
from meshsim.policy import transitions
from meshsim.policy.rate_limit import NOT_LIMITED, check_limit, seconds_until_reset
from meshsim.policy.reset_headers import (
    NOT_TOLD,
    TOLD_MAX_S,
    limit_reset_told,
    rate_limited_back_off_ns,
    reset_seconds,
    retry_after_told,
    told_interval_ns,
)
from meshsim.rng import PURPOSE_BACK_OFF, make_streams
from meshsim.state import codes

MS = 1_000_000
KEY = np.uint64(7)
BOTH = codes.RESET_BY_RATELIMIT | codes.RESET_BY_RETRY_AFTER


@pytest.mark.parametrize(
    ("text", "is_timestamp", "seconds"),
    [
        ("0", False, 0),
        (" 7 ", False, 7),
        ("1700000030", True, 30),
        ("1700000000", True, 0),
        ("1699999999", True, codes.NO_INDEX),  # it has passed
        ("", False, codes.NO_INDEX),
        ("-1", False, codes.NO_INDEX),
        ("1.5", False, codes.NO_INDEX),
        ("²", False, codes.NO_INDEX),
        ("Wed, 21 Oct 2026 07:28:00 GMT", False, codes.NO_INDEX),
        ("9" * 40, False, codes.NO_INDEX),
    ],
)
def test_a_header_is_a_whole_number_or_nothing(text, is_timestamp, seconds):
    assert reset_seconds(text, is_timestamp, 1_700_000_000) == seconds


def test_a_route_heeds_the_headers_it_names_up_to_its_longest_interval():
    routes = make_route(
        reset_headers=codes.RESET_BY_RATELIMIT, reset_max_interval_ns=300 * SECOND + 999 * MS
    )
    assert told_interval_ns(routes, 0, limit_reset_told(300)) == 300 * SECOND
    assert told_interval_ns(routes, 0, limit_reset_told(301)) == 0
    assert told_interval_ns(routes, 0, retry_after_told(3)) == 0
    assert told_interval_ns(routes, 0, NOT_TOLD) == 0
    routes["reset_headers"] = BOTH
    assert told_interval_ns(routes, 0, retry_after_told(3)) == 3 * SECOND
    assert told_interval_ns(routes, 0, limit_reset_told(0)) == 0
    routes["reset_max_interval_ns"] = 9 * 3600 * SECOND
    assert told_interval_ns(routes, 0, retry_after_told(10**9)) == 0
    assert abs(retry_after_told(10**9)) < 2**15
    assert TOLD_MAX_S > 9 * 3600


def test_the_wait_is_uniform_in_one_to_one_and_a_half_intervals():
    assert rate_limited_back_off_ns(2 * SECOND, 0.0) == 2000 * MS
    assert rate_limited_back_off_ns(2 * SECOND, 0.5) == 2500 * MS
    assert rate_limited_back_off_ns(2 * SECOND, 0.9999) == 2999 * MS


class Limited:
    """One exchange on a route that heeds ``retry-after``."""

    def __init__(self, **fields):
        self.routes = make_route(
            retry_on=codes.RETRY_5XX,
            num_retries=3,
            reset_headers=BOTH,
            reset_max_interval_ns=300 * SECOND,
            **fields,
        )
        self.clusters, self.configs = make_limits()
        self.exchanges = make_exchange()
        self.rng = make_streams(3, PURPOSE_BACK_OFF, 1)[0]
        self.tell(transitions.STIMULUS_REQUEST)

    def tell(self, stimulus, status=0, reset=codes.RESET_NONE):
        rows = (self.exchanges, 0, self.routes, np.zeros(0, np.int32), self.clusters, self.configs)
        said = machine.step(*rows, np.zeros(1), stimulus, status, reset, 0, self.rng)
        return int(said[0]), int(said[1])

    def respond(self, status, interval_ns=0):
        self.exchanges["reset_interval_ns"] = interval_ns
        return self.tell(transitions.STIMULUS_RESPONSE, status)

    def counted(self, *names):
        return tuple(int(self.clusters[name][0]) for name in names)


def test_the_header_holds_for_the_response_that_said_it():
    driven = Limited()
    action, waits_ns = driven.respond(503, 2 * SECOND)
    assert action == transitions.ACTION_BACK_OFF
    assert 2 * SECOND <= waits_ns < 3 * SECOND
    assert waits_ns % MS == 0
    driven.tell(transitions.STIMULUS_BACK_OFF_EXPIRED)
    # The next try ends without a response: the second of the exponential back-offs.
    action, waits_ns = driven.tell(transitions.STIMULUS_RESET, reset=codes.RESET_REMOTE)
    assert action == transitions.ACTION_BACK_OFF
    assert waits_ns < 50 * MS
    assert driven.counted("backoff_ratelimited", "backoff_exponential") == (1, 1)


def test_a_route_without_headers_heeds_none():
    driven = Limited()
    driven.routes["reset_max_interval_ns"] = 0
    assert driven.respond(503, 2 * SECOND)[1] < 25 * MS
    assert driven.counted("backoff_ratelimited", "backoff_exponential") == (0, 1)


# --- Envoy's counters of retries ------------------------------------------------------------


def test_a_retry_that_needs_no_other_is_a_success():
    """Envoy counts by whether a retry is wanted: 404 is a success, and so is what it may not."""
    for status in (200, 404):
        driven = Limited()
        driven.respond(503)
        driven.tell(transitions.STIMULUS_BACK_OFF_EXPIRED)
        driven.respond(status)
        assert driven.counted("retries_total", "retry_success") == (1, 1)
    first = Limited()
    first.respond(200)
    assert first.counted("retry_success") == (0,)


def test_a_retry_that_fails_for_good_exceeds_the_limit():
    driven = Limited()
    for _ in range(3):
        driven.respond(503)
        driven.tell(transitions.STIMULUS_BACK_OFF_EXPIRED)
    driven.respond(503)
    names = ("retries_total", "retry_success", "retry_limit_exceeded", "backoff_exponential")
    assert driven.counted(*names) == (3, 0, 1, 3)


def test_no_host_for_a_retry_is_no_success_and_an_overflow_is():
    """Envoy asks its retry state about an overflow (no), and not about a missing host."""
    for stimulus, count in ((transitions.STIMULUS_NO_HOST, 0), (transitions.STIMULUS_OVERFLOW, 1)):
        driven = Limited()
        driven.respond(503)
        driven.tell(transitions.STIMULUS_BACK_OFF_EXPIRED)
        driven.tell(stimulus)
        assert driven.counted("retry_success") == (count,)


def test_timeouts_are_counted_by_kind():
    driven = Limited()
    driven.tell(transitions.STIMULUS_PER_TRY_TIMEOUT)
    driven.tell(transitions.STIMULUS_BACK_OFF_EXPIRED)
    driven.tell(transitions.STIMULUS_ROUTE_TIMEOUT)
    assert driven.counted("per_try_timeouts", "timeouts") == (1, 1)


# --- What a limit says ----------------------------------------------------------------------


def told(rows, now_s):
    limits, places, counts = limit()
    now_ns = round(now_s * SECOND)
    status = check_limit(limits, 0, places, rows, 0, counts, 0, KEY, now_ns)
    if status == NOT_LIMITED:
        return None
    return int(seconds_until_reset(limits, 0, places, rows, 0, now_ns))


def test_a_bucket_says_when_it_has_a_token_rounded_up():
    """As measured on Envoy 1.40.0 with a bucket of 3, one token each 3.5 s."""
    rows = bucket(3, 1, "3.5s", "CONTINUOUS")
    times = (0, 0.79, 1.54, 2.26, 2.99, 3.71, 4.46, 5.19, 5.91, 6.64, 7.35, 8.09)
    assert [told(rows, time) for time in times] == [
        *(None, None, None, 2, 1, None),
        *(3, 2, 2, 1, None, 3),
    ]


def test_ticks_come_at_multiples_of_the_interval():
    rows = bucket(1, 1, "10s")
    assert [told(rows, time) for time in (0.5, 0.5, 7.25, 9.999, 10.0)] == [None, 10, 3, 1, None]


def test_the_bucket_that_refused_is_asked():
    rows = np.concatenate([bucket(5, 1, "100s"), bucket(1, 1, "7s")])
    limits, places, counts = limit((0, 1))
    asked = [check_limit(limits, 0, places, rows, 0, counts, 0, KEY, SECOND) for _ in range(2)]
    assert asked == [NOT_LIMITED, 429]
    assert seconds_until_reset(limits, 0, places, rows, 0, SECOND) == 6
