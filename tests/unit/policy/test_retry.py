import numpy as np
import pytest
from policy_rows import make_route

from meshsim.errors import ConfigError
from meshsim.policy.retry import RETRY_ON_BITS, back_off_ns, retry_allowed, retry_on_bits
from meshsim.state.codes import (
    JITTER_DECORRELATED,
    JITTER_EQUAL,
    JITTER_FULL,
    JITTER_NONE,
    RESET_CONNECT_FAILURE,
    RESET_NO_HOST,
    RESET_NONE,
    RESET_OVERFLOW,
    RESET_PER_TRY_TIMEOUT,
    RESET_RATELIMITED,
    RESET_REFUSED_STREAM,
    RESET_REMOTE,
)

MS = 1_000_000
CODES = np.array([418, 503, 429, 404], np.int32)


def allowed(names, status=0, reset=RESET_NONE, code_start=0, code_count=0):
    routes = make_route(retry_on=retry_on_bits(names), code_start=code_start, code_count=code_count)
    return bool(retry_allowed(routes, 0, CODES, status, reset))


@pytest.mark.parametrize(
    ("name", "statuses"),
    [
        ("5xx", {500, 501, 502, 503, 504, 599}),
        ("gateway-error", {502, 503, 504}),
        ("retriable-4xx", {409}),
        ("reset", set()),
        ("connect-failure", set()),
        ("retriable-status-codes", {503, 429}),
        ("unavailable", set()),
        ("envoy-ratelimited", set()),
    ],
)
def test_which_statuses_are_retriable(name, statuses):
    probes = (200, 302, 404, 409, 418, 429, 500, 501, 502, 503, 504, 599)
    found = {status for status in probes if allowed([name], status, code_start=1, code_count=2)}
    assert found == statuses


@pytest.mark.parametrize(
    ("name", "resets"),
    [
        ("5xx", {"connect", "remote", "refused", "per-try"}),
        ("gateway-error", {"connect", "remote", "refused", "per-try"}),
        ("reset", {"connect", "remote", "refused", "per-try"}),
        ("reset-before-request", {"connect"}),
        ("connect-failure", {"connect"}),
        ("refused-stream", {"refused"}),
        ("retriable-4xx", set()),
        ("retriable-status-codes", set()),
    ],
)
def test_which_resets_are_retriable(name, resets):
    codes = {
        "connect": RESET_CONNECT_FAILURE,
        "remote": RESET_REMOTE,
        "refused": RESET_REFUSED_STREAM,
        "per-try": RESET_PER_TRY_TIMEOUT,
        "overflow": RESET_OVERFLOW,
        "no host": RESET_NO_HOST,
    }
    assert {label for label, reset in codes.items() if allowed([name], 503, reset)} == resets


def test_overflow_and_no_host_are_never_retried():
    for reset in (RESET_OVERFLOW, RESET_NO_HOST):
        assert not allowed(RETRY_ON_BITS, 503, reset, 0, 4)


def test_a_response_that_is_marked_ratelimited_has_one_condition():
    every = [name for name in RETRY_ON_BITS if name != "envoy-ratelimited"]
    for status in (429, 503):
        assert not allowed(every, status, RESET_RATELIMITED, 0, 4)
        assert allowed(["envoy-ratelimited"], status, RESET_RATELIMITED)


def test_no_condition_no_retry():
    assert not allowed([], 503)


def test_unknown_conditions_are_all_named():
    with pytest.raises(ConfigError) as error:
        retry_on_bits(["5xx", "5XX", "gateway"])
    assert [problem.found for problem in error.value.problems] == ["5XX", "gateway"]


def bounds_ms(base_ms, max_ms, count=6):
    routes = make_route(base_interval_ns=int(base_ms * MS), max_interval_ns=int(max_ms * MS))
    almost_one = 1 - 2**-53
    return [
        int(back_off_ns(routes, 0, number, 0, almost_one)) // MS + 1
        for number in range(1, count + 1)
    ]


def test_bounds_double_up_to_ten_times_the_base():
    # Measured on Envoy 1.40.0 with base 25 ms: p99 of the n-th gap 36/62/108/200/251/249 ms.
    assert bounds_ms(25, 250) == [25, 50, 100, 200, 250, 250]


def test_doubling_stops_at_half_the_maximum():
    # Envoy, source/common/common/backoff_strategy.cc: max from where double is not below it.
    assert bounds_ms(25, 30) == [25, 30, 30, 30, 30, 30]
    assert bounds_ms(5, 20) == [5, 10, 20, 20, 20, 20]
    assert bounds_ms(25, 51, 3) == [25, 51, 51]
    assert bounds_ms(0.5, 0.5, 2) == [1, 1]  # at least a millisecond


def test_back_offs_are_whole_milliseconds_from_zero():
    routes = make_route()
    assert back_off_ns(routes, 0, 1, 0, 0.0) == 0
    waits = {int(back_off_ns(routes, 0, 1, 0, (index + 0.5) / 25)) for index in range(25)}
    assert waits == {index * MS for index in range(25)}


@pytest.mark.parametrize(
    ("jitter", "low_ms", "high_ms"),
    [
        (JITTER_FULL, [0, 0, 0, 0, 0], [10, 20, 40, 80, 100]),
        (JITTER_EQUAL, [5, 10, 20, 40, 50], [10, 20, 40, 80, 100]),
        (JITTER_NONE, [10, 20, 40, 80, 100], [10, 20, 40, 80, 100]),
    ],
)
def test_jitter_spreads_back_offs_below_one_bound(jitter, low_ms, high_ms):
    routes = make_route(base_interval_ns=10 * MS, max_interval_ns=100 * MS, jitter=jitter)
    for retry, (low, high) in enumerate(zip(low_ms, high_ms, strict=True), 1):
        assert back_off_ns(routes, 0, retry, 0, 0.0) == low * MS
        almost = int(back_off_ns(routes, 0, retry, 0, np.nextafter(1.0, 0.0)))
        assert high * MS - MS <= almost <= high * MS


def test_decorrelated_jitter_remembers_the_last_wait():
    routes = make_route(
        base_interval_ns=10 * MS, max_interval_ns=100 * MS, jitter=JITTER_DECORRELATED
    )
    waits = [int(back_off_ns(routes, 0, 1, 77 * MS, uniform)) for uniform in (0.0, 0.5)]
    assert waits == [10 * MS, 20 * MS]  # the first knows no last: uniform over [base, 3 base)
    waits = [int(back_off_ns(routes, 0, 2, 20 * MS, uniform)) for uniform in (0.0, 0.5)]
    assert waits == [10 * MS, 35 * MS]
    assert back_off_ns(routes, 0, 9, 90 * MS, 0.9) == 100 * MS
