"""Sources and wires: when requests enter, and how long they are under way.  Exact [ms]."""

from dataclasses import replace

import pytest
from kernel_runs import NO_WIRE, Run, recorded, worker

from meshsim.meshes import profile

PASS_MS = 0.027
WAKEUP_MS = 0.0485
BYTE_MS = 0.23e-6


def test_recorded_arrivals_enter_at_exactly_their_times():
    run = Run({"a": worker()}, recorded("1ns", "1234567ns", "5ms", "5ms")).to(100)
    assert [span.start for span in run.spans()] == [1e-6, 1.234567, 5, 5]
    assert run.state.counters["event_count"][0] == 0


def test_users_wait_think_and_ask_again():
    loop = {"closed_loop": {"users": 2, "think_time": "3ms"}}
    run = Run({"a": worker({"compute": "1ms"})}, traffic={"load": {"to": "a", **loop}}).to(11.5)
    # both ask at 3; served 3-4 and 4-5; again at 7 and 8; served at once
    assert run.outcomes() == [
        (3, 4, 200, "-"),
        (3, 5, 200, "-"),
        (7, 8, 200, "-"),
        (8, 9, 200, "-"),
    ]
    assert run.state.traffic["in_flight"][0] == 1


def test_users_never_exceed_their_number():
    loop = {"closed_loop": {"users": 7, "think_time": "0s"}}
    run = Run({"a": worker({"compute": "1ms"})}, traffic={"load": {"to": "a", **loop}}).to(20)
    assert run.state.traffic["in_flight"][0] == 7
    assert len(run.spans()) == 20  # the one worker is never idle


def test_a_batch_enters_at_one_instant():
    batch = {"batch": {"rate": 1000.0, "size": 5}}
    run = Run({"a": worker(concurrency=99)}, batch).to(1000)
    starts = [span.start for span in run.spans()]
    assert len(starts) % 5 == 0
    assert all(len(set(starts[i : i + 5])) == 1 for i in range(0, len(starts), 5))
    # 200 batches a second, Poisson: four standard deviations are 57
    assert abs(len(starts) / 5 - 200) < 57


ZONES = {
    "nodes": {
        "n0": {"zone": "west-a", "region": "west"},
        "n1": {"zone": "west-a", "region": "west"},
        "n2": {"zone": "west-b", "region": "west"},
        "n3": {"zone": "east-a", "region": "east"},
    },
    "network": {
        "latency": {
            "same_node": "1ms",
            "same_zone": "2ms",
            "same_region": "3ms",
            "cross_region": "4ms",
        }
    },
}


@pytest.mark.parametrize(
    ("node", "one_way"),
    [("n0", 1), ("n1", 2), ("n2", 3), ("n3", 4)],
    ids=["node", "zone", "region", "far"],
)
def test_a_wire_is_as_long_as_its_ends_are_apart(node, one_way):
    services = {"a": worker({"call": "b"}, nodes=["n0"]), "b": worker(nodes=[node])}
    traffic = {"load": {"to": "a", "zone": "west-a", "arrivals": recorded("0s")}}
    run = Run(services, traffic=traffic, **ZONES).to(100)
    call = run.spans("a>b")[0]
    assert call.end - call.start == 4 * one_way  # handshake, request, response
    assert call.wire == 2 * one_way


def test_a_link_overrides_the_table_in_both_directions():
    network = {**ZONES["network"], "links": [{"zones": ["west-b", "west-a"], "latency": "7ms"}]}
    services = {"a": worker({"call": "b"}, nodes=["n0"]), "b": worker(nodes=["n2"])}
    traffic = {"load": {"to": "a", "zone": "west-a", "arrivals": recorded("0s")}}
    run = Run(services, traffic=traffic, nodes=ZONES["nodes"], network=network).to(100)
    assert run.spans("a>b")[0].wire == 14


def sidecars(*times, body=None, **fields):
    sizes = {"request_bytes": 0, "response_bytes": 0}
    traffic = {"load": {"to": "a", "arrivals": recorded(*times), **sizes, **fields}}
    body = body or worker(concurrency=9)
    mesh = "istio-sidecar"
    passes_alone = replace(profile(mesh).cost, handshake_ns=0)
    return Run({"a": body}, traffic=traffic, mesh=mesh, network=NO_WIRE, cost=passes_alone).to(1000)


def test_a_request_alone_wakes_both_proxies_twice():
    run = sidecars("0s", body=worker({"compute": "1ms"}))
    assert run.ends() == [pytest.approx(1 + 4 * (PASS_MS + WAKEUP_MS), abs=1e-9)]
    assert run.spans()[0].proxy == pytest.approx(4 * (PASS_MS + WAKEUP_MS), abs=1e-9)
    # each proxy's CPU: two passes
    assert run.state.proxies["cpu_ns"].tolist() == [151_000, 151_000]


def test_a_busy_worker_is_not_woken_and_is_waited_for():
    run = sidecars(*["0s"] * 4)
    assert run.state.proxies["workers"].tolist() == [2, 2]
    # Lindley's recursion, two workers.  Gateway: two wake up and pass by 0.0755, two more by
    # 0.1025.  Sidecar: wakes up 0.0755-0.151 for two; the others, there at 0.1025, wait and
    # pass by 0.178.  The answers of the first two, there at 0.151, wait for these and pass by
    # 0.205; those of the last two (0.178) by 0.232.  Gateway, idle since 0.1025: wakes up at
    # 0.205 for two, by 0.2805; the last two, there at 0.232, wait and pass by 0.3075.
    assert run.ends() == pytest.approx([0.2805, 0.2805, 0.3075, 0.3075], abs=1e-9)
    passes, wakeups = 16 * 27_000, 6 * 48_500
    assert run.state.proxies["cpu_ns"].sum() == passes + wakeups


def test_bytes_cost_time_in_each_pass():
    run = sidecars("0s", request_bytes=100_000, response_bytes=300_000)
    expected = 4 * (PASS_MS + WAKEUP_MS) + 2 * (100_000 + 300_000) * BYTE_MS
    assert run.ends() == [pytest.approx(expected, abs=1e-5)]


def test_an_unmeshed_workload_has_no_sidecar_to_pass():
    run = sidecars("0s", body=worker({"compute": "1ms"}, meshed=False))
    assert run.ends() == [pytest.approx(1 + 2 * (PASS_MS + WAKEUP_MS), abs=1e-9)]
    assert run.state.proxies["cpu_ns"].tolist() == [0, 151_000]


def test_thousands_of_classes_have_room_for_their_first_arrivals():
    traffic = {f"c{i}": {"to": "a", "arrivals": recorded("1ms")} for i in range(3000)}
    run = Run({"a": worker({"compute": "1us"}, concurrency=3000)}, traffic=traffic).to(100)
    assert run.endpoint("a-v1-0")["completed"] == 3000
