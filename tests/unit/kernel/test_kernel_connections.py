"""HTTP/1.1 pools: one connection a request; opening one takes a round trip.  Exact [ms]."""

import pytest
from kernel_runs import Run, recorded, wire, worker

from meshsim.topology.profile import ProxyCost

pytestmark = pytest.mark.usefixtures("first_turns")


def run_pool(*times, breakers=None, pool=None, latency="1ms", body=None, until=1000, **policy):
    """Run one service over a wire of 1 ms, and return the run.

    A first request takes 2 ms (handshake) + 1 + service + 1; the next on the same connection
    does without the handshake.
    """
    policies = {"circuit_breakers": breakers or {}, "connection_pool": pool or {}, **policy}
    return Run(
        {"a": body or worker({"compute": "1ms"}, concurrency=9)},
        recorded(*times),
        network=wire(latency),
        policies={"a": policies},
    ).to(until)


def opened(run):
    return int(run.state.clusters["connections_total"][0])


def test_a_connection_is_opened_once_and_used_again():
    run = run_pool("0s", "10ms")
    assert run.ends() == [5, 13]
    assert opened(run) == 1
    assert run.spans()[0].wire == 2  # the handshake is not the request's


def test_as_many_connections_as_requests_at_once():
    run = run_pool("0s", "0s", "10ms", "10ms", "10ms")
    assert run.ends() == [5, 5, 13, 13, 15]
    assert opened(run) == 3


def run_encrypted(*times, **fields):
    """Run one service behind two proxies that take 1 ms a pass and 3 ms a TLS handshake."""
    return Run(
        {"a": worker({"compute": "1ms"}, concurrency=9)},
        recorded(*times),
        mesh="istio-sidecar",
        network=wire("1ms"),
        cost=ProxyCost(pass_ns=1_000_000, handshake_ns=3_000_000, workers=1),
        **fields,
    ).to(1000)


def test_tls_takes_another_round_trip_and_the_cpu_of_both_sides():
    run = run_encrypted("0s", "50ms")
    # pass 1 + TCP 2 + TLS 2 + 3 + 3, then wire, pass, compute, pass, wire, pass: 1 each
    assert run.ends() == [17, 57]
    cpu_ms = run.state.proxies["cpu_ns"] / 1e6
    assert cpu_ms.tolist() == [3 + 4, 3 + 4]  # a handshake; two passes for each request


def test_handshakes_queue_for_the_worker():
    run = run_encrypted("0s", "0s")
    # Passes end at 1 and 2.  The client computes its handshakes from 2 to 5 and to 8; the server,
    # from 1 to 4 and to 7.  Ready: 1 + 4 + 4 + 3 = 12 and 2 + 4 + 6 + 5 = 17; then 6 as above.
    assert run.ends() == [18, 23]


def test_whoever_is_not_in_the_mesh_speaks_plain_text():
    body = {"workloads": {"v1": worker({"compute": "1ms"}, concurrency=9, meshed=False)}}
    run = Run(
        {"a": body},
        recorded("0s"),
        mesh="istio-sidecar",
        network=wire("1ms"),
        cost=ProxyCost(pass_ns=1_000_000, handshake_ns=3_000_000, workers=1),
    ).to(1000)
    assert run.ends() == [1 + 2 + 1 + 1 + 1 + 1]


def test_no_wire_no_handshake():
    assert run_pool("0s", "0s", latency="0s").ends() == [1, 1]


def test_requests_wait_for_max_connections_first_come_first_served():
    run = run_pool("0s", "100us", "200us", breakers={"max_connections": 1})
    assert run.ends() == [5, 8, 11]
    assert opened(run) == 1
    # at 0.1 and 0.2 ms as they begin to wait; at 2 and 5 ms as others still wait beside the one
    # that gets the connection
    assert run.state.clusters["connection_overflow"][0] == 4


def test_who_waits_gets_the_connection_that_another_host_gave_back():
    # The hosts take turns, and have one of the two connections each.  The second dies at 5 ms;
    # when the first answers at 14, the third request takes its connection, and the fifth does
    # not wait for that: it may have another, ready at 16.
    run = run_pool(
        *["0s", "0s", "1ms", "1ms", "1ms"],
        body=worker({"compute": "10ms"}, replicas=2, concurrency=9),
        breakers={"max_connections": 2},
        load_balancing={"policy": "ROUND_ROBIN"},
        until=5,
    )
    run.control.kill("a", replica=1)
    assert run.to(1000).outcomes() == [
        (0, 14, 200, "-"),
        (0, 6, 503, "UC"),
        (1, 26, 200, "-"),
        (1, 8, 503, "UF"),
        (1, 28, 200, "-"),
    ]
    assert run.idle()


def test_too_many_pending_requests_overflow():
    limits = {"max_connections": 1, "max_pending_requests": 1}
    run = run_pool("0s", "100us", "3ms", "3100us", breakers=limits)
    # the first itself waits until its connection is ready at 2, so the second overflows; the
    # third waits for the first to end, the fourth overflows
    assert run.outcomes() == [
        (0, 5, 200, "-"),
        (0.1, 0.1, 503, "UO"),
        (3, 8, 200, "-"),
        (3.1, 3.1, 503, "UO"),
    ]
    assert run.state.clusters["pending_overflow"][0] == 2
    assert run.idle()


def test_no_request_may_wait_at_all():
    run = run_pool("0s", breakers={"max_pending_requests": 0})
    assert run.outcomes() == [(0, 0, 503, "UO")]


def test_a_host_without_any_connection_may_open_one_beyond_the_limit():
    body = worker({"compute": "1ms"}, replicas=2)
    limits = {"max_connections": 1}
    rotation = {"policy": "ROUND_ROBIN"}
    run = run_pool("0s", "0s", body=body, breakers=limits, load_balancing=rotation)
    assert run.ends() == [5, 5]
    assert opened(run) == 2


def test_thousands_that_are_refused_at_one_instant_have_room():
    run = run_pool(*["0s"] * 3000, breakers={"max_requests": 1}, body=worker(replicas=2))
    assert sorted(span.flag for span in run.spans()) == ["-"] + ["UO"] * 2999
    assert run.idle()


def test_max_requests_refuses_when_the_connection_is_ready():
    run = run_pool("0s", "0s", breakers={"max_requests": 1})
    assert run.outcomes() == [(0, 5, 200, "-"), (0, 2, 503, "UO")]
    assert run.state.clusters["request_overflow"][0] == 1
    assert run.idle()


def test_an_idle_connection_is_closed_after_its_timeout():
    run = run_pool("0s", "14ms", "28ms", pool={"idle_timeout": "10ms"})
    # idle from 5; used at 14 (9 ms old); idle from 17; expired at 28 (11 ms old)
    assert run.ends() == [5, 17, 33]
    assert opened(run) == 2


def test_idle_time_is_settled_before_the_limit_is_applied():
    body = worker({"compute": "1ms"}, replicas=2)
    run = Run(
        {"a": body},
        recorded("0s", "20ms", "20ms"),
        network=wire("1ms"),
        policies={
            "a": {
                "load_balancing": {"policy": "ROUND_ROBIN"},
                "circuit_breakers": {"max_connections": 1},
                "connection_pool": {"idle_timeout": "10ms"},
            }
        },
    ).to(100)
    assert run.ends() == [5, 25, 25]
    # at 20 ms the connection of the first host has expired, so the second's is within the limit
    assert run.state.clusters["connections_total"][0] == 3
    assert run.state.clusters["connection_overflow"][0] == 1


def test_a_connection_serves_its_share_and_is_closed():
    run = run_pool("0s", "10ms", "20ms", pool={"max_requests_per_connection": 2})
    assert run.ends() == [5, 13, 25]
    assert opened(run) == 2
    assert run.state.hosts["connections_open"][0] == 1


def test_a_connection_with_requests_waiting_serves_no_more_than_its_share():
    run = run_pool(
        *["0s"] * 3,
        breakers={"max_connections": 1},
        pool={"max_requests_per_connection": 1},
    )
    assert run.ends() == [5, 10, 15]  # a handshake each
    assert opened(run) == 3


def test_a_dead_endpoint_refuses_and_everything_pending_fails():
    run = Run({"a": worker()}, recorded("1ms", "2ms", "20ms"), network=wire("1ms"))
    run.to(0.5).control.kill("a")
    run.to(10).control.restore("a")
    run.to(100)
    # both wait for a connection; the first refusal, at 3, is that of both
    assert run.outcomes()[:2] == [(1, 3, 503, "UF"), (2, 3, 503, "UF")]
    assert run.outcomes()[2] == (20, 24, 200, "-")
    assert run.idle()


def test_a_request_that_waits_is_abandoned_at_its_timeout():
    run = run_pool(
        "0s",
        "0s",
        breakers={"max_connections": 1},
        body=worker({"compute": "10ms"}),
        routes=[{"timeout": "3ms"}],
    )
    # both give up at 3; the first's connection is closed with it
    assert run.outcomes() == [(0, 3, 504, "UT"), (0, 3, 504, "UT")]
    assert run.state.clusters["pending_active"][0] == 0
    assert run.idle()


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_retries_leave_no_connection_behind(limit):
    run = run_pool(
        *["0s"] * 4,
        breakers={"max_connections": limit},
        body=worker({"compute": "3ms"}),
        routes=[
            {
                "retry": {
                    "num_retries": 3,
                    "retry_on": ["5xx"],
                    "per_try_timeout": "4ms",
                    "base_interval": "1ms",
                }
            }
        ],
    )
    assert run.idle()
    assert run.state.clusters["connections_active"][0] <= limit
