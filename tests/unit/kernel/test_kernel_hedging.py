"""Tries side by side in the kernel.  All times are constants, so exact [ms]."""

import pytest
from kernel_runs import Run, recorded, wire, worker

pytestmark = pytest.mark.usefixtures("first_turns")

RETRY = {
    "num_retries": 1,
    "retry_on": ["5xx"],
    "per_try_timeout": "5ms",
    "base_interval": "1ms",
    "max_interval": "1ms",
}
HEDGED = {"retry": RETRY, "hedge_policy": {"hedge_on_per_try_timeout": True}}


def copies(count, delay="0s", codes=(), **retry):
    retry = {"previous_hosts": True, "host_selection_retry_max_attempts": 100, **retry}
    hedging = {"max_attempts": count, "hedging_delay": delay}
    return {"retry": retry, "hedge_policy": {**hedging, "non_fatal_status_codes": list(codes)}}


def one_each(*times_ms, on_timeout="cancel_work", error_rates=None):
    """Return a service of one worker a time, picked in this order."""
    rates = error_rates or [0.0] * len(times_ms)
    return {
        "workloads": {
            f"v{row}": {
                **worker({"compute": f"{time}ms"}, on_timeout=on_timeout),
                "error_rate": rate,
            }
            for row, (time, rate) in enumerate(zip(times_ms, rates, strict=True), 1)
        }
    }


def run(service, route, *times, until=1000, breakers=None, **fields):
    policy = {"routes": [route], "load_balancing": {"policy": "ROUND_ROBIN"}}
    if breakers:
        policy["circuit_breakers"] = breakers
    arrivals = recorded(*(times or ("0s",)))
    return Run({"a": service}, arrivals, policies={"a": policy}, **fields).to(until)


def cpu_ms(ran, count):
    return [ran.endpoint(f"a-v{row}-0")["cpu_ns"] / 1e6 for row in range(1, count + 1)]


def span_of(ran):
    (span,) = ran.spans()
    return span.end, span.status, span.flag, span.tries, span.endpoint


# --- On a per-try timeout -------------------------------------------------------------------


def test_the_retry_wins_and_the_late_try_is_given_up():
    ran = run(one_each(20, 3), HEDGED)
    assert span_of(ran) == (8, 200, "-", 2, "a-v2-0")
    assert cpu_ms(ran, 2) == [8, 3]
    assert ran.idle()


def test_the_late_try_wins_and_the_retry_is_given_up():
    ran = run(one_each(7, 20), HEDGED)
    assert span_of(ran) == (7, 200, "-", 2, "a-v1-0")
    assert cpu_ms(ran, 2) == [7, 2]
    span = ran.spans()[0]
    assert (span.service, span.queue) == (7, 0)  # the winner's alone
    assert ran.idle()


def test_what_a_loser_costs_is_its_servers_to_say():
    ran = run(one_each(20, 3, on_timeout="continue"), HEDGED)
    assert span_of(ran) == (8, 200, "-", 2, "a-v2-0")
    assert cpu_ms(ran, 2) == [20, 3]


def test_the_loser_hears_of_it_one_wire_later():
    route = {**HEDGED, "retry": {**RETRY, "per_try_timeout": "6ms"}}
    ran = run(one_each(20, 3), route, network=wire("1ms"))
    # handshake 2, request 1: it works from 3; the hedge leaves at 8 (a handshake again),
    # works from 11 to 14 and answers at 15; at 16 the loser hears of it
    assert span_of(ran) == (15, 200, "-", 2, "a-v2-0")
    assert cpu_ms(ran, 2) == [13, 3]


def test_a_bad_answer_of_the_hedge_waits_for_the_late_try():
    ran = run(one_each(9, 1, error_rates=[0.0, 1.0]), HEDGED)
    assert span_of(ran) == (9, 200, "URX", 2, "a-v1-0")


def test_without_retries_left_a_late_try_goes_on():
    route = {**HEDGED, "retry": {**RETRY, "num_retries": 0}}
    assert span_of(run(one_each(9), route)) == (9, 200, "URX", 1, "a-v1-0")


def test_the_route_timeout_ends_all_tries():
    ran = run(one_each(50, 50), {**HEDGED, "timeout": "12ms"})
    assert span_of(ran)[:3] == (12, 504, "UT")
    assert cpu_ms(ran, 2) == [12, 7]
    assert ran.idle()


def test_a_soft_timeout_counts_against_the_host_once():
    """Envoy tells outlier detection of it, and not again when the route times out."""
    policy = {
        "routes": [{**HEDGED, "timeout": "12ms", "retry": {**RETRY, "num_retries": 0}}],
        "outlier_detection": {"consecutive_5xx": 2, "base_ejection_time": "30s"},
    }
    ran = Run({"a": one_each(50, 50)}, recorded("0s"), policies={"a": policy}).to(100)
    healths = ran.state.host_health
    assert sorted(healths["consecutive_5xx"][:2].tolist()) == [0, 1]


def test_a_filter_that_holds_the_answer_back_outlives_the_back_off():
    fault = {"response_rate_limit": {"limit_kbps": 1, "percentage": 100.0}}
    retry = {**RETRY, "base_interval": "40ms", "max_interval": "40ms"}
    ran = run(one_each(6, 1), {**HEDGED, "retry": retry, "fault": fault}, until=5000)
    assert ran.state.counters["invalid"][0] == 0
    assert ran.idle()


# --- After a delay --------------------------------------------------------------------------


def test_copies_leave_at_a_fixed_pace():
    ran = run(one_each(30, 30, 2), copies(3, "5ms"))
    assert span_of(ran) == (12, 200, "-", 3, "a-v3-0")
    assert cpu_ms(ran, 3) == [12, 7, 2]
    assert ran.idle()


def test_a_fast_answer_needs_no_copy():
    ran = run(one_each(4, 1), copies(2, "5ms"))
    assert span_of(ran) == (4, 200, "-", 1, "a-v1-0")
    assert cpu_ms(ran, 2) == [4, 0]
    assert ran.state.clusters["retries_total"][0] == 0


def test_no_delay_sends_all_at_once_to_different_hosts():
    ran = run(one_each(9, 3, 6), copies(3))
    assert span_of(ran) == (3, 200, "-", 3, "a-v2-0")
    assert cpu_ms(ran, 3) == [3, 3, 3]


def test_a_failure_that_is_not_fatal_brings_the_next_copy_forward():
    service = one_each(1, 9, 1, error_rates=[1.0, 0.0, 0.0])
    ran = run(service, copies(3, "5ms", codes=[500]))
    # the first fails at once; the second leaves then, the third 5 ms later
    assert span_of(ran) == (6, 200, "-", 3, "a-v3-0")


def test_a_fatal_answer_is_the_answer():
    ran = run(one_each(9, 1, error_rates=[0.0, 1.0]), copies(2, "5ms"))
    assert span_of(ran) == (5, 500, "-", 2, "a-v2-0")


def test_a_dead_host_is_passed_over_if_that_is_not_fatal():
    ran = Run(
        {"a": one_each(4, 3)},
        recorded("10ms"),
        policies={
            "a": {
                "routes": [copies(2, "50ms", codes=[503])],
                "load_balancing": {"policy": "ROUND_ROBIN"},
            }
        },
    )
    ran.control.kill("a", workload="v1")
    ran.to(1000)
    assert span_of(ran) == (13, 200, "-", 2, "a-v2-0")
    assert ran.idle()


@pytest.mark.parametrize("retries", [0, 1])
def test_copies_are_retries_to_the_circuit_breaker(retries):
    breakers = {"max_retries": retries}
    ran = run(one_each(9, 1), copies(2, "2ms"), breakers=breakers)
    assert span_of(ran)[0] == (3 if retries else 9)
    assert ran.state.clusters["retry_overflow"][0] == 1 - retries


def test_a_cancelled_copy_leaves_the_queue():
    ran = run(one_each(10, 10, on_timeout="cancel_queued"), copies(2), "0s", "1ms")
    # both copies of the first are at work; those of the second wait, and one is cancelled
    assert [span.end for span in ran.spans()] == [10, 20]
    assert sum(cpu_ms(ran, 2)) == 40
    assert ran.idle()
