"""Deadlines that travel with calls, in the kernel, with exact times."""

import pytest
from kernel_runs import Run, recorded, wire, worker

from meshsim.kernel.statistics import stats

PROPAGATES = {"deadline": {"propagate": True}}


def compute(time):
    return {"compute": time}


def chain(*steps, times=("0s",), a=None, timeout="100ms", retry=None, b=None, c=None, **fields):
    """A class calls "a" by a route with a timeout; "a" runs `steps`, which may call "b"."""
    services = {"a": worker(*steps, **{"concurrency": 9, **(a or {})}), "b": b or worker()}
    if c is not None:
        services["c"] = c
    route = {"timeout": timeout, **({"retry": retry} if retry else {})}
    return Run(services, recorded(*times), policies={"a": {"routes": [route]}}, **fields).to(5_000)


@pytest.mark.parametrize(("a", "end"), [({}, 160), (PROPAGATES, 100)])
def test_a_call_has_what_is_left(a, end):
    steps = (compute("60ms"), {"call": "b"})
    on_timeout = {"on_timeout": "continue"}
    b = worker(compute("100ms"), on_timeout="cancel_work")
    run = chain(*steps, a={**a, **on_timeout}, b=b)
    assert run.outcomes("load>a") == [(0, 100, 504, "UT")]
    assert run.outcomes("a>b") == [(60, end, *((504, "UT") if a else (200, "-")))]
    assert run.endpoint("b-v1-0")["cpu_ns"] == (end - 60) * 1_000_000
    assert run.idle()


def test_a_call_that_is_too_late_is_not_sent():
    steps = (compute("150ms"), {"call": "b"})
    for a, requests in (({}, 1), (PROPAGATES, 0)):
        run = chain(*steps, a={**a, "on_timeout": "continue"})
        assert run.endpoint("b-v1-0")["requests"] == requests
    assert run.outcomes("a>b") == [(150, 150, 504, "UT")]
    # Envoy has no such counter: it sends with a timeout of 1 ms.
    assert stats(run.state, [f"proxy{i}" for i in range(3)])["proxy0"] == {
        "outbound.upstream_rq_deadline_exceeded": 1
    }


@pytest.mark.parametrize(("of_caller", "end"), [({}, 160), (PROPAGATES, 100)])
def test_a_copy_has_the_deadline_of_its_request(of_caller, end):
    run = Run(
        {
            "a": worker(compute("20ms"), {"call": "b"}, **of_caller),
            "b": worker(),
            "m": worker({"call": "c"}, **PROPAGATES),
            "c": worker(compute("200ms"), on_timeout="cancel_work"),
        },
        recorded("0s"),
        policies={
            "a": {"routes": [{"timeout": "100ms"}]},
            "b": {"routes": [{"timeout": "140ms", "mirrors": [{"service": "m"}]}]},
        },
    ).to(5_000)
    assert run.outcomes("load>a") == [(0, 20, 200, "-")]
    assert run.endpoint("c-v1-0")["cpu_ns"] == (end - 20) * 1_000_000
    assert run.idle()


def test_an_earlier_timeout_of_the_next_route_holds():
    run = Run(
        {"a": worker({"call": "b"}, **PROPAGATES), "b": worker(compute("200ms"))},
        recorded("0s"),
        policies={
            "a": {"routes": [{"timeout": "100ms"}]},
            "b": {"routes": [{"timeout": "30ms"}]},
        },
    ).to(5_000)
    assert run.outcomes("a>b") == [(0, 30, 504, "UT")]
    assert run.outcomes("load>a") == [(0, 30, 500, "-")]
    assert run.idle()


def test_the_deadline_of_a_try_is_its_own_timeout():
    retry = {
        "num_retries": 1,
        "retry_on": ["5xx"],
        "per_try_timeout": "40ms",
        "base_interval": "1ms",
    }
    a = {**PROPAGATES, "on_timeout": "continue"}
    run = chain({"call": "b"}, a=a, retry=retry, b=worker(compute("200ms"), concurrency=9))
    assert run.outcomes("load>a") == [(0, 80, 504, "UT")]
    assert [span.end for span in run.spans("a>b")] == [40, 80]


def test_it_goes_on_through_every_service_and_branch():
    services = {
        "a": worker({"parallel": [[{"call": "b"}], [{"call": "b"}]]}, **PROPAGATES),
        "b": worker(compute("30ms"), {"call": "c"}, concurrency=9, **PROPAGATES),
        "c": worker(compute("200ms"), concurrency=9),
    }
    policies = {"a": {"routes": [{"timeout": "70ms"}]}}
    run = Run(services, recorded("0s"), policies=policies, network=wire("1ms")).to(5_000)
    assert [span.end for span in run.spans("b>c")] == [70, 70]
    assert [span.status for span in run.spans("a>b")] == [504, 504]
    assert run.idle()


@pytest.mark.parametrize(
    ("fields", "left_ms"),
    [
        ({**PROPAGATES}, 50),
        ({}, 53),  # the caller gives up, and its server hears of it a wire later
        ({**PROPAGATES, "on_timeout": "continue"}, None),
    ],
)
def test_nothing_waits_beyond_its_deadline(fields, left_ms):
    run = Run(
        {"a": worker(compute("1s"), **fields)},
        recorded("0s", "1ms"),
        policies={"a": {"routes": [{"timeout": "49ms"}]}},
        network=wire("3ms"),
    )
    run.advance(49.5)
    assert run.endpoint("a-v1-0")["queued"] == 1
    if left_ms is None:
        assert run.to(500).endpoint("a-v1-0")["queued"] == 1
        return
    run.advance(left_ms - 0.5)
    assert run.endpoint("a-v1-0")["queued"] == 1
    assert run.to(left_ms + 0.5).endpoint("a-v1-0")["queued"] == 0


def test_without_timeouts_there_is_no_deadline():
    run = chain({"call": "b"}, a=PROPAGATES, timeout="0s", b=worker(compute("1s")))
    assert run.outcomes("a>b") == [(0, 1000, 200, "-")]
    assert run.state.counters["event_count"][0] == 0
