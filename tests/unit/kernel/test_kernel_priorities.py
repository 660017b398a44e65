"""Requests of HIGH priority have limits and connections of their own.  Exact [ms]."""

import pytest
from kernel_runs import Run, recorded, wire, worker

from meshsim.kernel.statistics import stats

pytestmark = pytest.mark.usefixtures("first_turns")

HIGH = {"match": [{"headers": {"x-priority": "high"}}], "priority": "HIGH"}


def run_both(default, high, breakers, *, latency="0s", body=None, until=1000, **policy):
    """Run requests of both priorities at the times `default` and `high`."""
    routes = [{**HIGH, **policy.pop("route", {})}, policy.pop("other", {})]
    traffic = {}
    if default:
        traffic["low"] = {"to": "a", "arrivals": recorded(*default)}
    if high:
        headers = {"x-priority": "high"}
        traffic["high"] = {"to": "a", "headers": headers, "arrivals": recorded(*high)}
    return Run(
        {"a": body or worker({"compute": "10ms"}, concurrency=9)},
        traffic=traffic,
        network=wire(latency),
        policies={"a": {"routes": routes, "circuit_breakers": breakers, **policy}},
    ).to(until)


def rows(run, proxy, *fields):
    """Return fields of the rows of DEFAULT and HIGH priority of a proxy's one cluster."""
    state = run.state
    mine = state.clusters[state.clusters["proxy"] == proxy]
    return [tuple(row[field] for field in fields) for row in mine]


def test_a_full_default_priority_leaves_the_high_one_alone():
    high = [{"call": {"service": "a", "headers": {"x-priority": "high"}}}]
    front = worker({"parallel": [high, high, [{"call": "a"}], [{"call": "a"}]]})
    run = Run(
        {"front": front, "a": worker({"compute": "10ms"}, concurrency=9)},
        recorded("1ms"),
        policies={
            "a": {
                "routes": [HIGH, {}],
                "circuit_breakers": {"max_requests": 1, "high": {"max_requests": 2}},
            }
        },
    ).to(100)
    found = [(span.status, span.flag) for span in run.spans("front>a")]
    assert sorted(found) == [(200, "-"), (200, "-"), (200, "-"), (503, "UO")]
    assert rows(run, 0, "requests_total", "request_overflow") == [(1, 1), (2, 0)]
    assert run.idle()


def test_high_requests_have_connections_of_their_own():
    run = run_both([], ["0s", "20ms", "20ms"], {"max_connections": 1, "high": {}}, latency="1ms")
    assert run.outcomes() == [(0, 14, 200, "-"), (20, 32, 200, "-"), (20, 34, 200, "-")]
    assert rows(run, 1, "connections_total", "connection_overflow") == [(0, 0), (2, 0)]


def test_the_limits_of_high_hold_for_high():
    high = {"max_connections": 1, "max_pending_requests": 1}
    run = run_both(["0s"] * 3, ["0s"] * 3, {"high": high})
    assert run.outcomes("low>a") == [(0, 10, 200, "-")] * 3
    assert [span.end for span in run.spans("high>a")] == [10, 20, 0]
    # at once: the first has the connection, the second waits, the third may not even wait
    counts = stats(run.state, run.kernel._proxy_names)["high"]
    assert counts["outbound.upstream_cx_overflow"] == 1
    assert counts["outbound.upstream_rq_pending_overflow"] == 1


def test_an_open_breaker_is_told_by_priority():
    run = run_both(["0s"], ["0s"], {"max_requests": 1, "high": {"max_connections": 1}}, until=5)
    counts = stats(run.state, run.kernel._proxy_names)
    assert counts["low"] == {"outbound.circuit_breakers.default.rq_open": 1}
    assert counts["high"] == {"outbound.circuit_breakers.high.cx_open": 1}


def test_retries_of_high_have_their_own_breaker():
    breakers = {"max_retries": 0, "high": {"max_retries": 5}}
    retry = {"retry": {"num_retries": 1, "retry_on": ["5xx"], "base_interval": "1ms"}}
    body = worker({"compute": "1ms"}, concurrency=9, error_rate=1.0)
    run = run_both(["0s"] * 3, ["0s"] * 3, breakers, body=body, route=retry, other=retry)
    assert [span.tries for span in run.spans("low>a")] == [1, 1, 1]
    assert [span.tries for span in run.spans("high>a")] == [2, 2, 2]


def test_both_priorities_take_turns_at_one_balancer():
    body = worker({"compute": "1ms"}, replicas=2, concurrency=9)
    run = run_both(
        [], ["0s", "5ms", "10ms", "15ms"], {}, body=body, load_balancing={"policy": "ROUND_ROBIN"}
    )
    assert [span.endpoint for span in run.spans("high>a")] == ["a-v1-0", "a-v1-1"] * 2


def test_replicas_that_come_and_go_serve_high_requests():
    body = worker({"compute": "1ms"}, concurrency=9)
    run = run_both(
        [], ["0s", "10ms", "20ms", "30ms", "40ms"], {}, body=body, until=5,
        load_balancing={"policy": "ROUND_ROBIN"},
    )  # fmt: skip
    run.control.add_replicas("a", "v1")
    run.to(25)
    run.control.remove_replicas("a", "v1")
    run.to(100)
    assert [span.status for span in run.spans("high>a")] == [200] * 5
    assert len({span.endpoint for span in run.spans("high>a")}) == 2
    assert run.idle()
