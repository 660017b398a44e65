"""Bulkheads of replicas in the kernel, with exact times."""

import pytest
from kernel_runs import Run, recorded, worker

from meshsim.errors import ConfigError
from meshsim.kernel.statistics import stats

CALL = {"call": "b"}
SLOW = worker({"sleep": "10ms"}, concurrency=99)


def caller(bulkhead, *times, steps=(CALL,), b=SLOW, **fields):
    """A class calls "a", whose replicas call "b" through a bulkhead."""
    a = {"concurrency": 99, "bulkheads": {"b": bulkhead}, **fields}
    policies = {"a": {"load_balancing": {"policy": "ROUND_ROBIN"}}}
    return Run({"a": worker(*steps, **a), "b": b}, recorded(*times), policies=policies)


def counted(run, endpoint="a-v1-0"):
    found = stats(run.state, run.kernel._proxy_names).get(endpoint, {})
    return {
        name.removeprefix("application.bulkhead_"): count
        for name, count in found.items()
        if name.startswith("application.bulkhead_")
    }


def test_by_default_25_calls_are_under_way_and_the_others_fail():
    run = caller({}, *["0s"] * 27).to(1_000)
    assert [span.status for span in run.spans("load>a")] == [200] * 25 + [500] * 2
    assert len(run.spans("a>b")) == 25
    assert counted(run) == {"permitted": 25, "rejected": 2}
    assert run.idle()


def test_a_refused_call_may_fall_back():
    step = {"call": "b", "fallback": [{"sleep": "1ms"}]}
    run = caller({"max_concurrent_calls": 1}, "0s", "2ms", steps=[step]).to(1_000)
    assert run.outcomes("load>a") == [(0, 10, 200, "-"), (2, 3, 200, "-")]


def test_calls_wait_in_order_for_as_long_as_they_may():
    bulkhead = {"max_concurrent_calls": 1, "max_wait_duration": "12ms"}
    run = caller(bulkhead, "0ms", "1ms", "2ms", "3ms").to(1_000)
    assert run.outcomes("load>a") == [
        (0, 10, 200, "-"),
        (1, 20, 200, "-"),
        (2, 14, 500, "-"),
        (3, 15, 500, "-"),
    ]
    assert [span.start for span in run.spans("a>b")] == [0, 10]
    assert counted(run) == {"permitted": 2, "rejected": 2, "waited": 3}
    assert run.idle()


def test_so_many_may_wait():
    bulkhead = {
        "max_concurrent_calls": 1,
        "max_wait_duration": "1s",
        "max_waiting_calls": 1,
    }
    run = caller(bulkhead, "0ms", "1ms", "2ms").to(1_000)
    assert run.outcomes("load>a") == [(0, 10, 200, "-"), (1, 20, 200, "-"), (2, 2, 500, "-")]


def test_who_is_given_up_gives_up_its_place_or_its_permit():
    bulkhead = {"max_concurrent_calls": 1, "max_wait_duration": "1s"}
    a = {"concurrency": 99, "bulkheads": {"b": bulkhead}, "on_timeout": "cancel_work"}
    run = Run(
        {"a": worker(CALL, **a), "b": worker({"sleep": "50ms"}, concurrency=99)},
        recorded("0ms", "10ms", "25ms"),
        policies={"a": {"routes": [{"timeout": "30ms"}]}},
    )
    # The first gives its permit to the second at 30 ms, which is given up at 40 ms: to the third.
    run.to(29)
    run.to(35)
    assert run.state.bulkheads["waiting"].tolist() == [1]
    run.to(45)
    assert run.state.bulkheads["waiting"].tolist() == [0]
    run.to(1_000)
    assert [span.start for span in run.spans("a>b")] == [0, 30, 40]
    assert run.state.bulkheads["active"].tolist() == [0]
    assert run.idle()


def test_every_replica_has_its_own_also_one_that_is_added():
    run = caller({"max_concurrent_calls": 1}, *["0s"] * 4, "1s", "1s", replicas=2)
    run.to(500)
    assert [span.status for span in run.spans("load>a")].count(200) == 2
    run.control.add_replicas("a", "v1")
    run.to(5_000)
    assert len(run.state.bulkheads) == 3
    assert [span.status for span in run.spans("load>a")].count(200) == 4


def test_a_dead_replica_forgets_its_calls():
    run = caller({"max_concurrent_calls": 1, "max_wait_duration": "1s"}, "0ms", "1ms")
    run.to(5)
    run.control.kill("a")
    run.to(100)
    assert run.state.bulkheads["active"].tolist() == [0]
    assert run.state.bulkheads["waiting"].tolist() == [0]


def test_only_services_that_are_there_have_one():
    with pytest.raises(ConfigError, match="nobody"):
        Run({"a": worker(bulkheads={"nobody": {}})}, recorded("0s"))
