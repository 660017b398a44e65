"""The gradient controller against the published formula, computed here a second time."""

import math

import numpy as np
import pytest

from meshsim.policy.adaptive_concurrency import (
    ADMITTED,
    may_pass,
    on_answered,
    on_given_up,
    settle_controller,
)
from meshsim.state.codes import NEVER_NS
from meshsim.topology.compiled.concurrency import (
    blank_controllers,
    controller_stats,
    gradient_rule,
    start_controller,
)
from meshsim.topology.model import AdaptiveConcurrency

MS = 1_000_000
STATED = {
    "sample_aggregate_percentile": 50,
    "concurrency_limit_params": {
        "max_concurrency_limit": 1000,
        "concurrency_update_interval": "100ms",
    },
    "min_rtt_calc_params": {
        "interval": "60s",
        "request_count": 5,
        "jitter": 0,
        "min_concurrency": 3,
        "buffer": 25,
    },
    "concurrency_limit_exceeded_status": 503,
}


class Controller:
    """One controller, and a clock that only goes on."""

    def __init__(self, **least):
        stated = {**STATED, "min_rtt_calc_params": {**STATED["min_rtt_calc_params"], **least}}
        if "fixed_value" in least:
            del stated["min_rtt_calc_params"]["interval"]
        self.rules = gradient_rule(AdaptiveConcurrency.model_validate(stated))
        self.rows, self.bins = blank_controllers(1)
        self.rows["rule"] = 0
        self.now_ns = 0
        start_controller(self.rows, 0, self.rules, self.bins, 1, 0, 0)

    def __getitem__(self, field):
        return self.rows[field][0].item()

    def to(self, time_ms):
        self.now_ns = round(time_ms * MS)
        settle_controller(self.rows, 0, self.rules, self.bins, self.now_ns)
        return self

    def asks(self):
        return may_pass(self.rows, 0, self.rules, self.bins, self.now_ns)

    def answers(self, latency_ms, count=1):
        """Let `count` requests pass that are answered after `latency_ms`."""
        for _ in range(count):
            assert self.asks() == ADMITTED
            passed_ns = self.now_ns
            self.now_ns += round(latency_ms * MS)
            on_answered(self.rows, 0, self.rules, self.bins, passed_ns, self.now_ns)
        return self


def measured(latency_ms=10.0, **least):
    """Return a controller that has measured this least latency."""
    return Controller(**least).answers(latency_ms, 5)


def test_it_begins_with_a_measurement_at_the_least_limit():
    controller = Controller()
    assert [controller.asks() for _ in range(4)] == [ADMITTED, ADMITTED, ADMITTED, 503]
    assert controller_stats(controller.rows[0]) == {
        "adaptive_concurrency.gradient_controller.rq_blocked": 1,
        "adaptive_concurrency.gradient_controller.concurrency_limit": 3,
        "adaptive_concurrency.gradient_controller.min_rtt_calculation_active": 1,
    }
    on_given_up(controller.rows, 0)
    assert controller.asks() == ADMITTED


def test_the_measurement_ends_with_its_last_sample():
    controller = Controller().answers(10, 4)
    assert controller["deferred_limit"] == 3
    controller.answers(10)
    # 10 ms is the bin from 10 to 11 ms; the median of 5 is half of it further
    assert (controller["deferred_limit"], controller["min_rtt_us"]) == (0, 10_500)
    assert controller["measure_ns"] == 50 * MS + 60_000 * MS
    assert controller["update_ns"] == 50 * MS + 100 * MS


def limits(least_us, samples_us, limit=3, buffer=0.25):
    """Return the limits that the published formula gives, one a window."""
    found = []
    for sample_us in samples_us:
        gradient = max(0.5, min(2.0, least_us * (1 + buffer) / sample_us))
        limit = max(3, min(1000, math.floor(gradient * limit + math.sqrt(gradient * limit))))
        found.append(limit)
    return found


def test_the_limit_follows_the_formula():
    controller = measured()
    latencies_ms = [10, 10, 12, 30, 90, 11, 13, 9]
    found, samples_us = [], []
    for window, latency_ms in enumerate(latencies_ms):
        controller.to(50 + 100 * window).answers(latency_ms).to(150 + 100 * window)
        found.append(controller["limit"])
        samples_us.append(controller["sample_rtt_us"])
    assert samples_us == [10_500, 10_500, 12_500, 30_500, 90_500, 11_500, 13_500, 9_050]
    assert found == limits(10_500, samples_us)


def test_a_window_without_answers_changes_nothing():
    controller = measured().to(50 + 100 * 500 - 1)
    assert controller["limit"] == 3
    controller.answers(10).to(50 + 100 * 501 + 99)
    assert controller["limit"] == limits(10_500, [10_500])[0]


def test_nothing_exceeds_the_greatest_limit():
    controller = measured(latency_ms=100)
    for window in range(20):
        controller.to(500 + 100 * window).answers(1).to(600 + 100 * window)
    assert controller["limit"] == 1000
    assert controller["gradient"] == 2.0


def test_a_limit_that_stays_at_the_least_is_measured_anew():
    controller = measured()
    for window in range(5):
        assert controller["deferred_limit"] == 0
        controller.to(50 + 100 * window).answers(99).to(150 + 100 * window)
    # 3 -> 0.5 * 3 + sqrt(1.5) = 2.7, which is 3 again, five times
    assert controller["deferred_limit"] == 3
    assert controller["epoch_ns"] == 550 * MS
    controller.answers(40, 5)
    assert controller["min_rtt_us"] == 40_500


def test_requests_from_before_a_measurement_are_no_samples():
    controller = measured().to(59_000)
    assert controller.asks() == ADMITTED
    passed_ns = controller.now_ns
    controller.to(60_051)
    assert controller["deferred_limit"] == 3
    on_answered(controller.rows, 0, controller.rules, controller.bins, passed_ns, 60_060 * MS)
    assert (controller["samples"], controller["outstanding"]) == (0, 0)


def test_a_measurement_is_late_by_the_jitter():
    waits_ms = {(measured(jitter=10)["measure_ns"] - 50 * MS) / MS}
    assert all(60_000 <= wait_ms < 66_000 and wait_ms == int(wait_ms) for wait_ms in waits_ms)


def test_a_fixed_least_latency_is_never_measured():
    controller = Controller(fixed_value="10ms")
    assert (controller["min_rtt_us"], controller["measure_ns"]) == (10_000, NEVER_NS)
    for window in range(9):
        controller.to(100 * window).answers(99).to(100 * window + 100)
    assert (controller["deferred_limit"], controller["limit"]) == (0, 3)


@pytest.mark.parametrize(
    ("latencies_us", "percentile", "quantile_us"),
    [
        ([1], 50, 1), ([7] * 4, 50, 7), ([99, 100], 100, 110), ([12_345] * 2, 50, 12_500),
        ([10, 20, 30, 40], 50, 21), ([10, 20, 30, 40], 75, 31), ([10, 20], 0, 10),
        (range(1, 1001), 90, 901), (range(1, 1001), 50, 501), ([0], 100, 1),
        ([10**7], 100, 11 * 10**6),
    ],
)  # fmt: skip
def test_quantiles_are_those_of_bins_of_two_digits(latencies_us, percentile, quantile_us):
    # libcircllhist, hist_approx_quantile: the edge of the bin, and the share of its width that
    # the wanted samples are of those in it.
    controller = measured()
    controller.rules["sample_aggregate"] = percentile / 100
    passed_ns = controller.now_ns
    for latency_us in latencies_us:
        controller.rows["outstanding"] += 1
        on_answered(
            controller.rows, 0, controller.rules, controller.bins, passed_ns,
            passed_ns + latency_us * 1000,
        )  # fmt: skip
        controller.rows["update_ns"] = NEVER_NS
    controller.rows["update_ns"] = passed_ns
    settle_controller(controller.rows, 0, controller.rules, controller.bins, passed_ns)
    assert controller["sample_rtt_us"] == quantile_us
    assert not controller.bins.any()


def test_the_controller_is_a_row_of_its_own():
    rules = gradient_rule(AdaptiveConcurrency.model_validate(STATED))
    rows, bins = blank_controllers(3)
    rows["rule"] = 0
    for row in range(3):
        start_controller(rows, row, rules, bins, 7, row, 0)
    before = rows[[0, 2]].copy()
    assert may_pass(rows, 1, rules, bins, 5) == ADMITTED
    assert np.array_equal(rows[[0, 2]], before)
    assert len(set(rows["key"].tolist())) == 3
