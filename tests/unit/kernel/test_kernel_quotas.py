"""Global rate limits: a service that all proxies ask, in the kernel.  Exact [ms]."""

import pytest
from kernel_runs import Run, recorded, worker

from meshsim.kernel.statistics import stats

TWO_A_SECOND = {"requests_per_unit": 2, "unit": "SECOND"}


def limited(*times, classes=1, until=100_000, latency="2ms", descriptors=(TWO_A_SECOND,), **fields):
    """Run requests of `classes` clients at these times on one route with a global limit."""
    limit = {"latency": latency, "descriptors": list(descriptors), **fields}
    traffic = {
        f"load{number}": {
            "to": "b",
            "headers": {"user": f"u{number}"},
            "arrivals": recorded(*times),
        }
        for number in range(classes)
    }
    return Run(
        {"b": worker({"compute": "1ms"}, concurrency=100)},
        traffic=traffic,
        policies={"b": {"routes": [{"global_rate_limit": limit, "timeout": "4ms"}]}},
    ).to(until)


def counted(run):
    return stats(run.state, run.kernel._proxy_names)


def test_requests_over_the_limit_are_refused_when_the_service_has_answered():
    run = limited("0ms", "1ms", "2ms", "999ms", "1000ms")
    assert run.outcomes() == [
        (0, 3, 200, "-"),
        (1, 4, 200, "-"),
        (2, 4, 429, "RL"),
        (999, 1001, 429, "RL"),
        (1000, 1003, 200, "-"),  # the next window, though it began only now
    ]
    assert counted(run) == {
        "load0": {"outbound.ratelimit.ok": 3, "outbound.ratelimit.over_limit": 2}
    }
    assert run.spans()[0].proxy == 2  # the wait is the proxy's
    assert run.idle()


def test_the_timeout_of_the_route_does_not_run_meanwhile():
    run = limited("0ms", latency="19ms")
    assert run.outcomes() == [(0, 20, 200, "-")]


def test_all_proxies_share_the_count():
    run = limited("0ms", classes=3)
    assert sorted(outcome[2:] for outcome in run.outcomes()) == [
        (200, "-"),
        (200, "-"),
        (429, "RL"),
    ]


def test_a_descriptor_of_values_counts_each():
    run = limited(
        "0ms", "1ms", "2ms", classes=2, descriptors=[{"entries": {"user": "*"}, **TWO_A_SECOND}]
    )
    assert [span.status for span in run.spans("load1>b")] == [200, 200, 429]
    assert [span.status for span in run.spans("load0>b")] == [200, 200, 429]


def test_nobody_is_asked_about_what_no_descriptor_fits():
    run = limited("0ms", descriptors=[{"entries": {"user": "nobody"}, **TWO_A_SECOND}])
    assert run.outcomes() == [(0, 1, 200, "-")]
    assert counted(run) == {}


def test_every_descriptor_counts_also_what_another_refuses():
    one = {"entries": {"user": "u0"}, "requests_per_unit": 0, "unit": "SECOND"}
    run = limited("0ms", classes=2, descriptors=[one, TWO_A_SECOND])
    assert [span.status for span in run.spans("load0>b")] == [429]
    assert run.state.quota_windows["requests"].tolist() == [1, 2]


@pytest.mark.parametrize(("unit", "hours"), [("MINUTE", 1 / 60), ("HOUR", 1), ("DAY", 24)])
def test_a_quota_lasts_as_long_as_its_unit(unit, hours):
    whole_ms = round(hours * 3_600_000)
    run = limited(
        "0ms", f"{whole_ms - 1}ms", f"{whole_ms}ms", latency="0s", until=whole_ms + 1000,
        descriptors=[{"requests_per_unit": 1, "unit": unit}],
    )  # fmt: skip
    assert [span.status for span in run.spans()] == [200, 429, 200]
    assert [span.end - span.start for span in run.spans()] == [1, 0, 1]


@pytest.mark.parametrize(
    ("deny", "outcome"), [(False, (0, 21, 200, "-")), (True, (0, 20, 500, "RLSE"))]
)
def test_a_service_that_is_late_lets_pass_or_refuses(deny, outcome):
    # Envoy's timeout: 20 ms.  The service counts all the same.
    run = limited("0ms", latency="1s", failure_mode_deny=deny)
    assert run.outcomes() == [outcome]
    names = {"outbound.ratelimit.error": 1, "outbound.ratelimit.failure_mode_allowed": 1 - deny}
    assert counted(run) == {"load0": {name: value for name, value in names.items() if value}}
    assert run.state.quota_windows["requests"].tolist() == [1]


def test_a_caller_that_goes_waits_for_no_service():
    front = worker({"call": "b"}, on_timeout="cancel_work")
    limit = {"latency": "15ms", "descriptors": [TWO_A_SECOND]}
    run = Run(
        {"front": front, "b": worker({"compute": "1ms"})},
        recorded("0ms"),
        policies={
            "front": {"routes": [{"timeout": "5ms"}]},
            "b": {"routes": [{"global_rate_limit": limit}]},
        },
    ).to(100)
    assert run.outcomes("front>b") == [(0, 5, 0, "DC")]
    assert run.idle()


def test_a_request_whose_caller_went_is_in_no_counter_of_the_proxy():
    # Envoy forgets the question (ratelimit.cc: onDestroy); the service has counted it.
    front = worker({"call": "b"}, on_timeout="cancel_work")
    limit = {"latency": "15ms", "descriptors": [TWO_A_SECOND]}
    policies = {"front": {"routes": [{"timeout": "5ms"}]}}
    policies["b"] = {"routes": [{"global_rate_limit": limit}]}
    services = {"front": front, "b": worker({"compute": "1ms"})}
    run = Run(services, recorded("0ms"), policies=policies).to(100)
    assert run.state.quota_windows["requests"].tolist() == [1]
    assert counted(run) == {"load": {"outbound.upstream_rq_timeout": 1}}
