"""Weights by load reports, in running meshes."""

import pytest
from kernel_runs import Run, served

from meshsim.errors import ConfigError

BALANCING = {
    "policy": "CLIENT_SIDE_WEIGHTED_ROUND_ROBIN",
    "blackout_period": "2s",
    "weight_expiration_period": "30s",
}


def run_of(workloads, rate=400.0, **balancing):
    return Run(
        {"s": {"workloads": workloads}},
        {"poisson": rate},
        policies={"s": {"load_balancing": {**BALANCING, **balancing}}},
    )


def server(speed=1.0, **fields):
    return {
        "concurrency": 2,
        "speed": speed,
        "steps": [{"compute": {"exponential": {"mean": "1ms"}}}],
        **fields,
    }


def shares(run, since_ms, until_ms):
    run.to(since_ms)
    before = served(run)
    run.to(until_ms)
    counts = {name: count - before[name] for name, count in served(run).items()}
    return {name: count / sum(counts.values()) for name, count in counts.items()}


def test_a_fast_server_gets_more_once_it_has_reported():
    run = run_of({"slow": server(1.0), "fast": server(3.0)})
    early = shares(run, 0, 1900)
    assert early["s-fast-0"] == pytest.approx(0.5, abs=0.01)
    # rps / utilization is the capacity: 3 to 1.
    late = shares(run, 8000, 20_000)
    assert late["s-fast-0"] == pytest.approx(0.75, abs=0.03)


def test_errors_lower_a_weight():
    run = run_of({"good": server(), "bad": server(error_rate=0.5)}, error_utilization_penalty=1.0)
    late = shares(run, 8000, 16_000)
    # Failed requests cost no work: without the penalty the bad one would get more.
    assert late["s-bad-0"] < 0.3
    run = run_of({"good": server(), "bad": server(error_rate=0.5)}, error_utilization_penalty=0.0)
    assert shares(run, 8000, 16_000)["s-bad-0"] > 0.5


def test_added_replicas_get_the_median_and_then_their_own():
    run = run_of({"v1": server(replicas=2)})
    run.to(5000).control.add_replicas("s", "v1", 1)
    first = shares(run, 5000, 6500)
    assert first["s-v1-2"] == pytest.approx(1 / 3, abs=0.08)
    assert run.to(12_000).state.reported_weights["weight"].min() > 0


def test_what_cannot_be_is_refused():
    with pytest.raises(ConfigError, match="at least 100ms"):
        run_of({"v1": server()}, weight_update_period="50ms")
