"""Outlier detection, failure accrual, health checks and slow start in running kernels."""

import pytest
from kernel_runs import Run, recorded, wire, worker

from meshsim.state.health import EJECTION_CONSECUTIVE_5XX, EJECTION_COUNT

pytestmark = pytest.mark.usefixtures("first_turns")

OUTLIERS = {
    "consecutive_5xx": 3,
    "interval": "500ms",
    "base_ejection_time": "1s",
    "max_ejection_percent": 50,
}
#: Without traffic as often as with it.
CHECKS = {"interval": "1s", "timeout": "100ms", "no_traffic_interval": "1s"}


def every(step_ms, count):
    """Arrivals every `step_ms`, 1 ms off the grid of sweeps."""
    return recorded(*(f"{number * step_ms + 1}ms" for number in range(count)))


def pair(arrivals, *, error_rate=1.0, policy="ROUND_ROBIN", balancing=None, **policies):
    """A good and a bad workload of one replica each, in this order."""
    workloads = {
        "good": worker({"sleep": "1ms"}),
        "bad": worker({"sleep": "1ms"}, error_rate=error_rate),
    }
    balancing = {"policy": policy, **(balancing or {})}
    return Run(
        {"b": {"workloads": workloads}},
        arrivals,
        policies={"b": {"load_balancing": balancing, **policies}},
    )


def failures(run):
    return [span.start for span in run.spans() if span.status >= 500]


def test_a_failing_host_is_ejected_and_taken_back_at_the_sweep():
    # Round robin: the bad one gets every other request, at 11, 31 and 51 ms; its error is at
    # once.  Ejected at 51 ms for 1 s, so until the sweep at 1,500 ms; then, after three more
    # errors, at 1,541 ms for 2 s, until the sweep at 4,000 ms.
    run = pair(every(10, 500), outlier_detection=OUTLIERS).to(5_100)
    assert failures(run) == [11, 31, 51, 1501, 1521, 1541, 4001, 4021, 4041]
    assert run.state.ejections[0, EJECTION_CONSECUTIVE_5XX] == 3
    assert run.state.ejections[0, EJECTION_COUNT + EJECTION_CONSECUTIVE_5XX] == 3


def test_a_second_ejection_is_believed_a_window_later():
    # Two of four fail: the first error of each is at 1 and 2 ms, the second at 5 and 6 ms, when
    # the first of them is ejected at once and the other for the proxy's books only.  Until
    # 106 ms three hosts take turns, so the bad one gets every third of the next hundred.
    workloads = {
        "bad": worker({"sleep": "100us"}, error_rate=1.0, replicas=2),
        "good": worker({"sleep": "100us"}, replicas=2),
    }
    run = Run(
        {"b": {"workloads": workloads}},
        every(1, 300),
        policies={
            "b": {
                "load_balancing": {"policy": "ROUND_ROBIN", "update_merge_window": "100ms"},
                "outlier_detection": {
                    "consecutive_5xx": 2,
                    "interval": "1s",
                    "base_ejection_time": "100s",
                    "max_ejection_percent": 100,
                },
            }
        },
    ).to(400)
    failed = failures(run)
    assert failed[:4] == [1, 2, 5, 6]
    assert failed[4] > 7
    assert failed[-1] < 107
    assert len(failed) == 4 + 33
    assert run.state.cluster_health["ejections_enforced"][0] == 2
    assert run.state.cluster_health["merged"][0] == 1


def test_nobody_is_ejected_from_a_small_cluster_at_ten_percent():
    rule = {**OUTLIERS, "max_ejection_percent": 10}
    run = pair(every(10, 100), outlier_detection=rule).to(2_000)
    assert len(failures(run)) == 50
    assert run.state.cluster_health["ejections_overflow"][0] == 50 // 3


def test_each_client_ejects_for_itself():
    workloads = {
        "good": worker({"sleep": "1ms"}),
        "bad": worker({"sleep": "1ms"}, error_rate=1.0),
    }
    caller = {"concurrency": 100, "replicas": 1, "steps": [{"call": "b"}]}
    run = Run(
        {"a": caller, "b": {"workloads": workloads}},
        traffic={
            "many": {"to": "a", "arrivals": every(10, 100)},
            "few": {"to": "b", "arrivals": recorded("2001ms", "2002ms", "2003ms", "2004ms")},
        },
        policies={
            "b": {"load_balancing": {"policy": "ROUND_ROBIN"}, "outlier_detection": OUTLIERS}
        },
    ).to(3_000)
    assert len([span for span in run.spans("a>b") if span.status == 500]) == 3
    assert len([span for span in run.spans("few>b") if span.status == 500]) == 2


def test_timeouts_eject():
    # Requests that take 1 s and are given up after 5 ms: each is a gateway failure.
    workloads = {"good": worker({"sleep": "1ms"}), "bad": worker({"sleep": "1s"}, concurrency=99)}
    run = Run(
        {"b": {"workloads": workloads}},
        every(10, 50),
        policies={
            "b": {
                "load_balancing": {"policy": "ROUND_ROBIN"},
                "outlier_detection": OUTLIERS,
                "routes": [{"timeout": "5ms"}],
            }
        },
    ).to(2_000)
    assert [span.flag for span in run.spans() if span.status == 504] == ["UT"] * 3


def test_refused_connections_eject():
    run = pair(every(10, 50), error_rate=0.0, outlier_detection=OUTLIERS)
    run.control.kill("b", workload="bad")
    run.to(2_000)
    assert [span.flag for span in run.spans() if span.status == 503] == ["UF"] * 3


def test_in_panic_everybody_is_used():
    rule = {**OUTLIERS, "max_ejection_percent": 100}
    balancing = {"healthy_panic_threshold": 60}
    run = pair(every(10, 100), outlier_detection=rule, balancing=balancing).to(1_000)
    # One of two is less than 60 %, so the ejected host goes on to be used.
    assert len(failures(run)) == 50
    # The errors at 11, 31 and 51 ms eject; from 61 ms on the picks are in panic.
    assert run.state.cluster_health["panic_picks"][0] == 94
    assert run.state.ejections[0, 0] == 1


def test_without_panic_there_is_no_host():
    rule = {**OUTLIERS, "max_ejection_percent": 100}
    run = Run(
        {"b": worker({"sleep": "1ms"}, error_rate=1.0)},
        every(10, 20),
        policies={"b": {"outlier_detection": rule}},
    ).to(1_000)
    outcomes = [(span.status, span.flag) for span in run.spans()]
    assert outcomes == [(500, "-")] * 3 + [(503, "UH")] * 17


def test_failure_accrual_probes_with_one_request():
    accrual = {
        "consecutive_max_failures": 3,
        "consecutive_min_penalty": "1s",
        "consecutive_jitter_ratio": 0,
    }
    run = pair(every(10, 500), failure_accrual=accrual).to(5_100)
    # Three errors until 51 ms, a probe after one second, another after two more, four, ...
    assert failures(run) == [11, 31, 51, 1051, 3051]


def test_health_checks_find_a_dead_host():
    checks = {**CHECKS, "unhealthy_threshold": 2}
    run = pair(every(10, 1000), error_rate=0.0, health_check=checks)
    run.to(2_500)
    run.control.kill("b", workload="bad")
    run.to(6_000)
    # Checks at 0, 1, 2, 3 and 4 s: the second failure is the one at 4 s.
    flags = [(span.start, span.flag) for span in run.spans() if span.flag != "-"]
    assert {flag for _, flag in flags} == {"UF"}
    assert flags[-1][0] < 4_000
    run.control.restore("b", workload="bad")
    run.to(9_000)
    group = run.state.cluster_health[0]
    assert group["check_network_failures"] == 4  # at 3, 4, 5 and 6 s
    served = [span for span in run.spans() if span.start > 6_500 and span.endpoint == "b-bad-0"]
    assert served


def test_a_paused_host_fails_its_checks_by_timeout():
    checks = {**CHECKS, "unhealthy_threshold": 1}
    run = pair(every(10, 10), error_rate=0.0, health_check=checks)
    run.to(500)
    run.control.slow("b", 0.0, workload="bad")
    run.to(1_099)
    assert run.state.hosts["healthy"].tolist() == [1, 1]
    run.to(1_100)
    assert run.state.hosts["healthy"].tolist() == [1, 0]


def test_a_check_that_comes_too_late_has_failed():
    checks = {**CHECKS, "unhealthy_threshold": 1}
    run = Run(
        {"b": worker({"sleep": "1ms"})},
        every(1000, 10),
        network=wire("60ms"),
        policies={"b": {"health_check": checks}},
    ).to(150)
    assert run.state.hosts["healthy"].tolist() == [0]


def test_a_new_replica_starts_slowly():
    slow_start = {"slow_start": {"slow_start_window": "10s"}}
    run = Run(
        {"b": worker({"sleep": "1ms"}, concurrency=100)},
        every(10, 3000),
        policies={"b": {"load_balancing": {"policy": "ROUND_ROBIN", **slow_start}}},
    )
    run.to(1_000)
    run.control.add_replicas("b", "v1")
    run.to(2_000)
    new = [span for span in run.spans() if span.endpoint != "b-v1-0"]
    # In its first second a tenth of the weight: 1 of 11 requests, of 100.
    assert len(new) == pytest.approx(100 / 11, abs=1)
    run.to(13_000)
    late = [span for span in run.spans() if span.start > 12_000]
    assert len([span for span in late if span.endpoint == "b-v1-0"]) == 50


def test_added_replicas_are_watched():
    run = pair(every(10, 500), outlier_detection={**OUTLIERS, "max_ejection_percent": 67})
    run.to(5)
    run.control.add_replicas("b", "bad")
    run.to(900)
    assert sorted(run.state.hosts["healthy"].tolist()) == [0, 0, 1]
    assert len(failures(run)) == 6


def test_who_is_withdrawn_and_comes_back_has_a_clean_slate():
    run = pair(every(10, 200), outlier_detection={**OUTLIERS, "base_ejection_time": "100s"})
    run.to(100)
    assert run.state.hosts["healthy"].tolist() == [1, 0]
    run.control.withdraw("b", workload="bad")
    run.to(200)
    run.control.withdraw("b", workload="bad", healthy=True)
    assert run.state.hosts["healthy"].tolist() == [1, 1]
    run.to(300)
    assert len(failures(run)) == 6


def test_counters_have_envoys_names():
    run = pair(every(10, 100), outlier_detection=OUTLIERS)
    run.to(2_000)
    run.kernel.end_window(59)
    (counters,) = run.kernel.record().stats.values()
    assert counters == {
        "outbound.outlier_detection.ejections_enforced_total": 1,
        "outbound.outlier_detection.ejections_detected_consecutive_5xx": 1,
        "outbound.outlier_detection.ejections_enforced_consecutive_5xx": 1,
    }
