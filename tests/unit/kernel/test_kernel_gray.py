"""Gray failures: whom they hit, what they cost, and that health checks do not see them."""

import pytest
from kernel_runs import Run, recorded, worker

from meshsim.errors import ConfigError
from meshsim.kernel.faults import fault_process
from meshsim.topology.model import TimedFault

COUNT = 2000


def every(step_ms, count=COUNT):
    return recorded(*(f"{number * step_ms}ms" for number in range(count)))


def test_a_share_of_the_requests_is_hit_and_a_share_of_those_fails():
    run = Run({"a": worker({"compute": "1ms"}, {"sleep": "1ms"})}, every(10))
    run.control.gray("a", 0.4, factor=0.25, error_rate=0.5)
    spans = run.to(10 * COUNT + 100).spans()
    failed = [span for span in spans if span.status == 500]
    slow = [span for span in spans if span.end - span.start == pytest.approx(8, abs=1e-5)]
    assert {span.end - span.start for span in failed} == {0}
    # Four standard deviations of a binomial share of 0.2.
    spread = 4 * (0.2 * 0.8 / COUNT) ** 0.5
    assert abs(len(failed) / COUNT - 0.2) < spread
    assert abs(len(slow) / COUNT - 0.2) < spread
    assert {round(span.end - span.start) for span in spans} == {0, 2, 8}


def test_some_callers_only():
    services = {
        "one": worker({"call": "a"}),
        "two": worker({"call": "a"}),
        "a": worker({"compute": "1ms"}),
    }
    traffic = {
        name: {"to": name, "arrivals": recorded(f"{at}ms", f"{at + 100}ms")}
        for at, name in enumerate(("one", "two", "a"))
    }
    run = Run(services, traffic=traffic)
    run.control.gray("a", error_rate=1.0, callers=("two",))
    run.to(500)
    statuses = {edge: {span.status for span in run.spans(edge)} for edge in ("one>a", "two>a")}
    assert statuses == {"one>a": {200}, "two>a": {500}}
    assert {span.status for span in run.spans("a>a")} == {200}  # of the gateway


def test_branches_are_as_slow_as_their_request():
    step = {"parallel": [[{"compute": "1ms"}], [{"sleep": "3ms"}]]}
    run = Run({"a": worker(step)}, recorded("0s"))
    run.control.gray("a", factor=0.5)
    assert run.to(100).ends() == pytest.approx([6], abs=1e-5)


def test_a_request_that_was_there_before_is_not_hit():
    run = Run({"a": worker({"compute": "2ms"}, {"compute": "2ms"})}, recorded("0s", "10ms")).to(1)
    run.control.gray("a", factor=0.5)
    assert run.to(100).ends() == pytest.approx([4, 18], abs=1e-5)


def test_health_checks_do_not_see_it_and_outlier_detection_does():
    check = {"interval": "5ms", "timeout": "4ms", "unhealthy_threshold": 1}
    outliers = {"consecutive_5xx": 3, "interval": "10ms", "base_ejection_time": "1s"}
    shares = {}
    for name, policy in (("check", {"health_check": check}), ("outlier", {})):
        if name == "outlier":
            policy = {"outlier_detection": {**outliers, "max_ejection_percent": 100}}
        rotation = {"load_balancing": {"policy": "ROUND_ROBIN"}, **policy}
        run = Run({"a": worker(replicas=2)}, every(5, 200), policies={"a": rotation}).to(97.5)
        run.control.gray("a", error_rate=1.0, replica=0)
        spans = [span for span in run.to(2000).spans() if span.start > 200]
        shares[name] = sum(span.status == 500 for span in spans) / len(spans)
    assert shares == {"check": pytest.approx(0.5, abs=0.01), "outlier": 0.0}


def test_restoring_and_adding_replicas_makes_them_sound():
    run = Run({"a": worker({"compute": "1ms"})}, recorded("0s", "50ms", "100ms"))
    run.control.gray("a", factor=0.1)
    run.to(40).control.restore("a")
    run.to(90).control.gray("a", factor=0.1)
    run.control.add_replicas("a", "v1")
    assert run.state.endpoints["gray"].tolist() == [1, -1]
    assert run.to(49).ends()[:2] == pytest.approx([10, 51], abs=1e-5)


def test_a_timed_gray_failure_begins_and_ends():
    run = Run({"a": worker({"compute": "1ms"})}, recorded("0s", "20ms", "60ms"))
    fault = TimedFault(kind="gray", service="a", at="10ms", duration="30ms", factor=0.5)
    run.env.process(fault_process(run.env, run.control, fault))
    assert run.to(100).ends() == pytest.approx([1, 22, 61], abs=1e-5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"share": 2.0}, r"share is in \[0, 1\]"),
        ({"error_rate": -0.1}, r"share is in \[0, 1\]"),
        ({"factor": 0.0}, "speed is > 0"),
        ({"callers": ("aa",)}, "unknown service.*did you mean a"),
    ],
)
def test_what_is_not_meant_is_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        Run({"a": worker()}, recorded("0s")).control.gray("a", **values)
