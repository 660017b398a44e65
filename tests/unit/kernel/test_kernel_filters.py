"""Limits, faults, mirrors and redirects in the kernel, with exact times."""

import numpy as np
import pytest
from kernel_runs import Run, recorded, wire, worker

from meshsim.kernel.statistics import stats
from meshsim.topology.profile import ProxyCost

FREE = ProxyCost()


def compute(time):
    return {"compute": time}


def routed(*times, server=None, traffic=None, mesh="none", **route):
    """A class "load" that calls "b" by one route."""
    return Run(
        {"b": server or worker(compute("1ms"), concurrency=100)},
        recorded(*times),
        traffic=traffic,
        mesh=mesh,
        cost=FREE,
        policies={"b": {"routes": [route]}},
    )


def counted(run):
    """Envoy's counters by proxy."""
    return stats(run.state, run.kernel._proxy_names)


TWO_A_SECOND = {"token_bucket": {"max_tokens": 2, "tokens_per_fill": 2, "fill_interval": "1s"}}
TICKS = {**TWO_A_SECOND, "refill": "TICKS"}


# --- Limits ---------------------------------------------------------------------------------


def test_a_route_refuses_what_finds_no_token_at_once():
    run = routed("0ms", "1ms", "2ms", "999ms", "1000ms", "1001ms", "1002ms", rate_limit=TICKS)
    assert run.to(5000).outcomes() == [
        (0, 1, 200, "-"),
        (1, 2, 200, "-"),
        (2, 2, 429, "RL"),
        (999, 999, 429, "RL"),
        (1000, 1001, 200, "-"),
        (1001, 1002, 200, "-"),
        (1002, 1002, 429, "RL"),
    ]
    name = "outbound.http_local_rate_limit."
    assert counted(run) == {
        "load": {
            name + "enabled": 7,
            name + "ok": 4,
            name + "rate_limited": 3,
            name + "enforced": 3,
        }
    }
    assert run.idle()


def test_by_default_tokens_come_evenly():
    run = routed("0ms", "1ms", "499ms", "500ms", rate_limit=TWO_A_SECOND)
    assert [span.status for span in run.to(5000).spans()] == [200, 200, 429, 200]


def test_a_refused_request_asks_nobody_and_is_not_retried():
    run = routed(
        "0ms", "1ms", "2ms", rate_limit=TICKS, retry={"num_retries": 3, "retry_on": ["5xx"]}
    )
    assert [span.tries for span in run.to(100).spans()] == [1, 1, 1]
    assert run.endpoint("b-v1-0")["requests"] == 2


def test_every_proxy_has_buckets_of_its_own():
    front = {"replicas": 2, "concurrency": 10, "steps": [{"call": "b"}]}
    run = Run(
        {"a": front, "b": worker(concurrency=10)},
        recorded(*(f"{number}ms" for number in range(8))),
        policies={
            "a": {"load_balancing": {"policy": "ROUND_ROBIN"}},
            "b": {"routes": [{"rate_limit": TICKS}]},
        },
    )
    run.to(100)
    assert [counted(run)[f"a-v1-{n}"]["outbound.http_local_rate_limit.ok"] for n in (0, 1)] == [
        2,
        2,
    ]
    assert sum(span.status == 429 for span in run.spans("a>b")) == 4


def test_a_descriptor_has_a_bucket_of_its_own():
    """Class vip has 1 token beside the 3 of all; its second request takes none of those."""
    one = {"max_tokens": 1, "fill_interval": "100s"}
    limit = {
        "token_bucket": {"max_tokens": 3, "fill_interval": "100s"},
        "descriptors": [{"entries": {"X-Tier": "vip", ":path": "/buy"}, "token_bucket": one}],
    }
    classes = {
        "vip": {"to": "b", "path": "/buy?n=1", "headers": {"x-tier": "vip"},
                "arrivals": recorded("0ms", "1ms")},
        "free": {"to": "b", "path": "/buy", "arrivals": recorded("2ms", "3ms", "4ms")},
    }  # fmt: skip
    run = routed(traffic=classes, rate_limit=limit).to(100)
    assert [(span.edge, span.status) for span in run.spans()] == [
        ("vip>b", 200),
        ("vip>b", 429),
        ("free>b", 200),
        ("free>b", 200),
        ("free>b", 200),  # a gateway a class: its own default bucket of 3
    ]


def test_a_descriptor_may_have_a_bucket_for_each_value():
    one = {"max_tokens": 1, "fill_interval": "100s"}
    limit = {
        "token_bucket": {"max_tokens": 9, "fill_interval": "100s"},
        "descriptors": [{"entries": {"user": "*"}, "token_bucket": one}],
    }
    calls = [{"call": {"service": "b", "headers": {"user": user}}} for user in ("x", "y", "x")]
    run = Run(
        {"a": worker(*calls), "b": worker(compute("1ms"))},
        recorded("0ms"),
        policies={"b": {"routes": [{"rate_limit": limit}]}},
    )
    assert [span.status for span in run.to(100).spans("a>b")] == [200, 200, 429]


def test_an_inbound_limit_is_each_replicas():
    run = Run(
        {"b": worker(compute("1ms"), replicas=2, concurrency=9)},
        recorded(*(f"{number}ms" for number in range(6))),
        mesh="istio-sidecar",
        cost=FREE,
        network=wire("100us"),
        policies={
            "b": {"rate_limit": TICKS, "load_balancing": {"policy": "ROUND_ROBIN"}, "routes": [{}]}
        },
    )
    run.to(1000)
    assert [span.status for span in run.spans()] == [200, 200, 200, 200, 429, 429]
    # A refusal is answered by the proxy: one way there, one way back, no work.
    assert run.ends()[4:] == pytest.approx([4.2, 5.2])
    assert {span.flag for span in run.spans()} == {"-"}  # RL is the inbound proxy's
    name = "inbound.http_local_rate_limit."
    each = {
        name + "enabled": 3,
        name + "ok": 2,
        name + "rate_limited": 1,
        name + "enforced": 1,
    }
    assert counted(run) == {"b-v1-0": each, "b-v1-1": each}
    assert [run.endpoint(f"b-v1-{n}")["requests"] for n in (0, 1)] == [2, 2]
    assert run.idle()


@pytest.mark.parametrize(
    ("headers", "retry_on", "tries"),
    [
        # As Envoy does: its refusal carries no mark unless it is told to.
        ({}, "envoy-ratelimited", 1),
        ({}, "retriable-status-codes", 2),
        ({"X-Envoy-RateLimited": "true"}, "envoy-ratelimited", 2),
        ({"x-envoy-ratelimited": "true"}, "retriable-status-codes", 1),
    ],
)
def test_the_mark_of_an_inbound_refusal_decides_on_its_retry(headers, retry_on, tries):
    retry = {
        "num_retries": 1,
        "retry_on": [retry_on],
        "retriable_status_codes": [429],
        "base_interval": "1ms",
    }
    limit = {**TICKS, "response_headers_to_add": headers}
    run = Run(
        {"b": worker()},
        recorded("0ms", "1ms", "2ms"),
        mesh="istio-sidecar",
        cost=FREE,
        policies={"b": {"rate_limit": limit, "routes": [{"retry": retry}]}},
    )
    spans = run.to(100).spans()
    assert [span.tries for span in spans] == [1, 1, tries]
    assert spans[2].status == 429
    assert spans[2].flag == ("URX" if tries == 2 else "-")


def test_a_connection_that_carried_a_refusal_serves_on():
    run = Run(
        {"b": worker()},
        recorded("0ms", "1ms", "2ms", "3ms"),
        mesh="istio-sidecar",
        cost=FREE,
        policies={"b": {"rate_limit": TICKS}},
    )
    run.to(100)
    assert int(run.state.clusters["connections_total"].sum()) == 1


def test_added_replicas_limit_with_full_buckets():
    run = Run(
        {"b": worker(compute("1ms"), concurrency=9)},
        recorded(*(f"{number}ms" for number in range(12))),
        mesh="istio-sidecar",
        cost=FREE,
        policies={"b": {"rate_limit": TICKS, "load_balancing": {"policy": "ROUND_ROBIN"}}},
    )
    run.to(3.5)
    run.control.add_replicas("b", "v1")
    run.to(100)
    assert sum(span.status == 200 for span in run.spans()) == 4
    assert int(run.state.limit_counts["ok"].sum()) == 4


# --- Faults ---------------------------------------------------------------------------------


def delay(time="5ms", percentage=100.0, **fields):
    return {"delay": {"fixed_delay": time, "percentage": percentage}, **fields}


def abort(status=503, percentage=100.0):
    return {"abort": {"http_status": status, "percentage": percentage}}


def test_a_delay_comes_before_the_routes_timeout():
    run = routed("0ms", "10ms", fault=delay(), timeout="2ms")
    assert run.to(100).outcomes() == [(0, 6, 200, "DI"), (10, 16, 200, "DI")]
    assert [span.proxy for span in run.spans()] == [0, 0]
    assert run.state.fault_counts["active"].tolist() == [0] * len(run.state.fault_counts)
    assert counted(run) == {"load": {"outbound.fault.delays_injected": 2}}
    assert run.idle()


def test_what_goes_wrong_after_a_delay_keeps_its_flag():
    run = routed("0ms", fault=delay(), timeout="500us")
    assert run.to(100).outcomes() == [(0, 5.5, 504, "UT")]


def test_an_abort_asks_nobody_and_is_not_retried():
    retry = {"num_retries": 3, "retry_on": ["5xx"]}
    run = routed("0ms", "1ms", fault=abort(), retry=retry)
    assert run.to(100).outcomes() == [(0, 0, 503, "FI"), (1, 1, 503, "FI")]
    assert run.endpoint("b-v1-0")["requests"] == 0
    assert counted(run) == {"load": {"outbound.fault.aborts_injected": 2}}


def test_both_delay_first_then_abort():
    run = routed("0ms", fault={**delay(), **abort(500)})
    assert run.to(100).outcomes() == [(0, 5, 500, "FI")]
    assert counted(run)["load"] == {
        "outbound.fault.delays_injected": 1,
        "outbound.fault.aborts_injected": 1,
    }
    assert run.idle()


def test_an_aborted_request_takes_no_token():
    run = routed("0ms", fault=abort(), rate_limit=TICKS)
    run.to(100)
    assert int(run.state.limit_counts["enabled"].sum()) == 0


def test_the_delay_is_cut_when_the_caller_gives_up():
    run = Run(
        {"a": worker({"call": "b"}, on_timeout="cancel_work"), "b": worker()},
        recorded("0ms"),
        policies={
            "a": {"routes": [{"timeout": "2ms"}]},
            "b": {"routes": [{"fault": delay("50ms", max_active_faults=1)}]},
        },
    )
    run.to(10)
    assert run.outcomes() == [(0, 2, 504, "UT"), (0, 2, 0, "DC")]
    assert run.state.fault_counts["active"].sum() == 0
    assert run.to(100).idle()


def test_faults_overflow_beyond_the_most_at_once():
    run = routed("0ms", "1ms", "2ms", "6ms", fault=delay(max_active_faults=2), server=worker())
    assert [span.flag for span in run.to(100).spans()] == ["DI", "DI", "-", "DI"]
    assert counted(run)["load"]["outbound.fault.faults_overflow"] == 1


def test_a_fault_moves_no_other_draw():
    """The same requests meet the same service times and splits with and without a fault."""

    def times(**route):
        run = routed(
            *(f"{number * 100}ms" for number in range(50)),
            server=worker({"compute": {"exponential": "1ms"}}),
            **route,
        )
        return [span.service for span in run.to(60_000).spans()]

    assert times() == times(fault=delay(percentage=50.0))


def test_half_of_the_requests_are_delayed():
    run = routed(*(f"{number}ms" for number in range(400)), fault=delay("1ms", 50.0))
    delayed = sum(span.flag == "DI" for span in run.to(1000).spans())
    assert abs(delayed - 200) <= 40  # 4 sigma of 400 fair coins


def test_calls_made_behind_a_delayed_request_are_not_delayed_themselves():
    """What marks an exchange is not inherited by the calls it causes."""
    run = Run(
        {"a": worker({"call": "b"}), "b": worker()},
        recorded("0ms"),
        policies={"a": {"routes": [{"fault": delay(max_active_faults=1)}]}},
    )
    assert [span.flag for span in run.to(100).spans()] == ["DI", "-"]
    assert run.state.fault_counts["active"].sum() == 0


def test_a_slow_response_is_late_and_holds_no_connection():
    pace = {"response_rate_limit": {"limit_kbps": 20, "percentage": 100.0}}
    classes = {
        "load": {"to": "b", "response_bytes": 2048, "arrivals": recorded("0ms", "10ms")},
    }
    run = routed(traffic=classes, fault=pace, timeout="20ms")
    assert run.to(1000).outcomes() == [(0, 51, 200, "-"), (10, 61, 200, "-")]
    assert int(run.state.clusters["connections_total"].sum()) == 1
    assert run.idle()


# --- Mirrors --------------------------------------------------------------------------------


def test_a_mirror_loads_its_service_and_nobody_waits():
    run = Run(
        {
            "b": worker(compute("1ms")),
            "shadow": worker(compute("40ms"), {"call": "last"}, error_rate=1.0),
            "last": worker(),
        },
        recorded("0ms", "10ms"),
        policies={"b": {"routes": [{"mirrors": [{"service": "shadow"}]}]}},
    )
    run.to(15)
    assert run.outcomes() == [(0, 1, 200, "-"), (10, 11, 200, "-")]
    run.to(200)
    assert run.endpoint("shadow-v1-0")["requests"] == 2
    assert run.endpoint("b-v1-0")["requests"] == 2
    assert len(run.spans()) == 2  # copies are not recorded
    assert run.kernel.measured_in_flight == 0
    assert run.idle()


def test_a_mirror_is_a_copy_not_a_retry_and_costs_no_time():
    retry = {"num_retries": 2, "retry_on": ["5xx"]}
    run = Run(
        {"b": worker(compute("1ms")), "dead": worker(replicas=0)},
        recorded("0ms"),
        policies={"b": {"routes": [{"mirrors": [{"service": "dead"}], "retry": retry}]}},
    )
    assert run.to(100).outcomes() == [(0, 1, 200, "-")]
    assert run.idle()


def test_copies_end_at_the_routes_timeout():
    run = Run(
        {"b": worker(), "slow": worker({"sleep": "1s"}, on_timeout="cancel_work")},
        recorded("0ms"),
        network=wire("1ms"),
        policies={"b": {"routes": [{"timeout": "20ms", "mirrors": [{"service": "slow"}]}]}},
    )
    run.to(40)
    assert run.idle()


def test_half_of_the_requests_are_mirrored_to_a_subset():
    mirror = {"subset": "v2", "percentage": 50.0}
    run = Run(
        {"b": {"workloads": {"v1": worker(), "v2": worker()}}},
        recorded(*(f"{number}ms" for number in range(400))),
        policies={
            "b": {
                "subsets": {name: {"labels": {"version": name}} for name in ("v1", "v2")},
                "routes": [{"split": [{"subset": "v1"}], "mirrors": [mirror]}],
            }
        },
    )
    run.to(1000)
    assert run.endpoint("b-v1-0")["requests"] == 400
    assert abs(run.endpoint("b-v2-0")["requests"] - 200) <= 40  # 4 sigma of 400 fair coins


def test_what_is_aborted_or_limited_is_not_mirrored():
    services = {"b": worker(), "shadow": worker()}
    for field in ({"fault": abort()}, {"rate_limit": TICKS}):
        run = Run(
            services,
            recorded("0ms", "1ms", "2ms"),
            policies={"b": {"routes": [{**field, "mirrors": [{"service": "shadow"}]}]}},
        )
        run.to(100)
        requests = run.endpoint("b-v1-0")["requests"]
        assert (
            run.endpoint("shadow-v1-0")["requests"]
            == requests
            == (2 if "rate_limit" in field else 0)
        )


def test_pushed_weights_leave_mirrors_and_filters_alone():
    run = Run(
        {"b": {"workloads": {"v1": worker(), "v2": worker()}}},
        recorded(*(f"{number}ms" for number in range(10))),
        policies={
            "b": {
                "subsets": {name: {"labels": {"version": name}} for name in ("v1", "v2")},
                "routes": [
                    {
                        "split": [{"subset": "v1", "weight": 1}, {"subset": "v2", "weight": 0}],
                        "mirrors": [{"subset": "v1"}],
                        "fault": delay("100us"),
                    }
                ],
            }
        },
    )
    run.to(4.5)
    run.control.push_weights("b", {"v1": 0, "v2": 1}, 0.0)
    run.to(100)
    assert run.endpoint("b-v1-0")["requests"] == 5 + 10
    assert run.endpoint("b-v2-0")["requests"] == 5
    assert {span.flag for span in run.spans()} == {"DI"}


# --- Answers of the route itself ------------------------------------------------------------


def test_a_redirect_asks_nobody():
    run = routed("0ms", redirect={"response_code": 308, "path": "/elsewhere"})
    assert run.to(10).outcomes() == [(0, 0, 308, "-")]


def test_filters_come_before_a_direct_response():
    run = routed("0ms", "1ms", "2ms", direct_response=204, rate_limit=TICKS)
    assert [span.status for span in run.to(10).spans()] == [204, 204, 429]


def test_a_query_chooses_the_route():
    classes = {
        name: {"to": "b", "path": path, "arrivals": recorded("0ms")}
        for name, path in (("beta", "/x?track=beta&n=1"), ("other", "/x?track=stable"))
    }
    run = Run(
        {"b": worker()},
        traffic=classes,
        policies={
            "b": {"routes": [{"match": [{"query": {"track": "beta"}}], "direct_response": 418}, {}]}
        },
    )
    statuses = {span.edge: span.status for span in run.to(10).spans()}
    assert statuses == {"beta>b": 418, "other>b": 200}


def test_who_uses_no_filter_has_no_rows():
    run = routed("0ms")
    for name in ("filters", "faults", "limits", "token_buckets", "mirrors", "inbound"):
        assert len(getattr(run.state, name)) == 0
    for name in ("full_buckets", "connection_buckets", "buckets_begun"):
        assert len(getattr(run.state, name)) == 0
    for name in ("fault_counts", "limit_counts", "inbound_limits"):
        assert len(getattr(run.state, name)) == 0
    assert np.all(run.state.routes["filters"] == -1)
