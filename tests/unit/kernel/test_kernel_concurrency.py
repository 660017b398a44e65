"""Adaptive concurrency at inbound proxies, in the kernel."""

import numpy as np
from kernel_runs import Run, recorded, wire, worker

from meshsim.kernel.statistics import stats
from meshsim.topology.profile import ProxyCost

PREFIX = "inbound.adaptive_concurrency.gradient_controller."
ADAPTIVE = {
    "concurrency_limit_params": {"concurrency_update_interval": "100ms"},
    "min_rtt_calc_params": {"interval": "60s", "request_count": 5, "jitter": 0},
}


def run_limited(arrivals, until, *, body=None, adaptive=ADAPTIVE, **policy):
    policies = {**policy, **({"adaptive_concurrency": adaptive} if adaptive else {})}
    return Run(
        {"a": body or worker({"compute": "10ms"}, concurrency=4)},
        arrivals,
        mesh="istio-sidecar",
        cost=ProxyCost(),
        policies={"a": {"routes": [{"retry": {"num_retries": 0}}], **policies}},
    ).to(until)


def controller(run, row=0):
    return {name: run.state.gradients[name][row].item() for name in run.state.gradients.dtype.names}


def test_what_exceeds_the_limit_is_refused_at_once_without_a_flag():
    run = run_limited(recorded(*["0ms"] * 5), until=5)
    assert controller(run)["outstanding"] == 3
    run.to(100)
    assert sorted(run.outcomes()) == [(0, 0, 503, "-")] * 2 + [(0, 10, 200, "-")] * 3
    assert controller(run)["outstanding"] == 0
    counted = {
        PREFIX + "rq_blocked": 2,
        PREFIX + "concurrency_limit": 3,
        PREFIX + "min_rtt_calculation_active": 1,
    }
    assert stats(run.state, run.kernel._proxy_names) == {"a-v1-0": counted}


def test_a_refusal_is_retried_as_any_503():
    retry = {"num_retries": 2, "retry_on": ["5xx"], "base_interval": "15ms"}
    run = run_limited(recorded(*["0ms"] * 4), 500, routes=[{"retry": retry}])
    assert [span.status for span in run.spans()] == [200] * 4
    assert sorted(span.tries for span in run.spans())[:3] == [1, 1, 1]


def test_who_gives_up_leaves_its_place_one_wire_later():
    body = worker({"compute": "50ms"}, concurrency=4, on_timeout="continue")
    run = Run(
        {"a": body},
        recorded("0ms"),
        mesh="istio-sidecar",
        cost=ProxyCost(),
        network=wire("1ms"),
        policies={"a": {"adaptive_concurrency": ADAPTIVE, "routes": [{"timeout": "20ms"}]}},
    )
    assert controller(run.to(20.9))["outstanding"] == 1
    assert controller(run.to(21.1))["outstanding"] == 0
    assert controller(run.to(100))["samples"] == 0
    assert run.idle()


def test_what_dies_with_its_server_is_no_sample():
    run = run_limited(recorded("0ms", "1ms"), 5)
    run.control.kill("a")
    assert controller(run.to(50))["outstanding"] == 0
    assert controller(run)["samples"] == 0


def test_each_replica_has_a_controller_those_that_are_added_too():
    body = worker({"compute": "10ms"}, concurrency=4, replicas=2)
    run = run_limited({"poisson": 400.0}, 300, body=body)
    run.control.add_replicas("a", "v1")
    run.to(2000)
    assert len(run.state.gradients) == 3
    assert (run.state.gradients["min_rtt_us"] > 9_000).all()
    assert run.state.gradients["key"][0] != run.state.gradients["key"][1]


def test_a_local_rate_limit_comes_first():
    bucket = {"max_tokens": 1, "tokens_per_fill": 1, "fill_interval": "1s"}
    run = run_limited(recorded("0ms", "1ms"), 100, rate_limit={"token_bucket": bucket})
    assert run.outcomes() == [(0, 10, 200, "-"), (1, 1, 429, "-")]
    assert controller(run)["blocked"] == 0


def test_the_limit_settles_near_the_workers_and_keeps_the_queue_short():
    # 4 workers of 10 ms serve 400/s; 800/s come.  The controller holds the median near
    # (1 + buffer) times the least latency, so about one request waits for each four in service;
    # sqrt(limit) of headroom come on top.
    run = run_limited({"poisson": 800.0}, 10_000)
    windows = [span for span in run.spans() if span.start > 3_000]
    ok = [span.end - span.start for span in windows if span.status == 200]
    assert 4 <= controller(run)["limit"] <= 12
    assert np.quantile(ok, 0.99) < 40
    assert 0.45 < len(ok) / len(windows) < 0.55  # the workers are never idle
    # Without it the queue grows for as long as the overload lasts: 400 a second.
    free = run_limited({"poisson": 800.0}, 3_000, adaptive=None)
    assert free.endpoint("a-v1-0")["queued"] > 1_000
