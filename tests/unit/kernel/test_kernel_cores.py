"""Shared cores: max-min shares between containers, equal shares within one.  Exact [ms]."""

import pytest
from kernel_runs import Run, recorded, worker

#: An end on shared cores is rounded up to a whole ns.
ROUNDING_MS = 2e-6


def near(*times):
    return pytest.approx(times, abs=ROUNDING_MS)


def test_two_equal_jobs_share_a_core_and_take_twice_the_time():
    body = worker({"compute": "1ms"}, concurrency=9, discipline="PROCESSOR_SHARING")
    run = Run({"a": body}, recorded("0s", "0s", "10ms")).to(100)
    assert run.ends() == near(2, 2, 11)
    assert run.endpoint("a-v1-0")["cpu_ns"] == 3_000_000


def test_processor_sharing_in_the_middle_of_a_job():
    body = worker({"compute": "4ms"}, concurrency=9, discipline="PROCESSOR_SHARING")
    run = Run({"a": body}, recorded("0s", "2ms")).to(100)
    # alone until 2 (2 left), both at half speed until 6 (first ends), second alone 2 more
    assert run.ends() == near(6, 8)


def test_a_cpu_limit_below_the_workers_is_shared():
    run = Run({"a": worker({"compute": "1ms"}, concurrency=4, cpu=2.0)}, recorded(*["0s"] * 4))
    assert run.to(100).ends() == near(2, 2, 2, 2)


def test_sleep_does_not_use_the_cores():
    body = worker({"sleep": "1ms"}, {"compute": "1ms"}, concurrency=2, cpu=1.0)
    run = Run({"a": body}, recorded("0s", "500us")).to(100)
    # the first computes alone from 1 to 1.5, both until 2.5, the second alone until 3
    assert run.ends() == near(2.5, 3.0)


def test_the_concurrency_penalty_slows_everyone():
    body = worker({"compute": "1ms"}, concurrency=2, concurrency_penalty=0.5)
    assert Run({"a": body}, recorded("0s", "0s")).to(100).ends() == near(1.5, 1.5)


def test_speed_scales_computing():
    body = worker({"compute": "1ms"}, concurrency=2, cpu=1.0, speed=0.25)
    assert Run({"a": body}, recorded("0s")).to(100).ends() == near(4)


def node_of(cores, **bodies):
    return Run(
        bodies,
        traffic={
            f"to-{name}": {"to": name, "arrivals": recorded(*["0s"] * body["concurrency"])}
            for name, body in bodies.items()
        },
        nodes={"n": {"cores": cores}},
    ).to(1000)


def test_max_min_shares_of_a_node():
    # a wants 1 core, b 4; of 3 cores a gets 1 and b 2 until a ends, then b gets 3 of its 4
    run = node_of(
        3.0,
        a=worker({"compute": "2ms"}, concurrency=1),
        b=worker({"compute": "6ms"}, concurrency=4),
    )
    # b: 4 tasks of 6 at 0.5 each until 2 (5 left), then 0.75 each: 5 / 0.75
    assert run.ends("to-a>a") == near(2)
    assert run.ends("to-b>b") == near(*[2 + 5 / 0.75] * 4)


def test_a_limit_caps_a_container_of_a_node():
    run = node_of(
        2.0,
        a=worker({"compute": "1ms"}, concurrency=4, cpu=0.5),
        b=worker({"compute": "3ms"}, concurrency=2),
    )
    # a: 4 tasks on half a core, 8 ms; b has 1.5 cores until it ends at 4
    assert run.ends("to-a>a") == near(8, 8, 8, 8)
    assert run.ends("to-b>b") == near(4, 4)


def test_a_proxy_on_a_full_node_competes_with_the_application():
    free = Run({"a": worker({"compute": "1ms"})}, recorded("0s"), mesh="istio-sidecar").to(100)
    full = Run(
        {"a": worker({"compute": "1ms"})},
        recorded("0s"),
        mesh="istio-sidecar",
        nodes={"n": {"cores": 1.0}},
    ).to(100)
    assert full.ends() == near(*free.ends())  # one request: nothing competes
    pair = recorded("0s", "0s")
    busy = {"a": worker({"compute": "1ms"}, concurrency=2)}
    free = Run(busy, pair, mesh="istio-sidecar").to(100)
    full = Run(busy, pair, mesh="istio-sidecar", nodes={"n": {"cores": 1.0}}).to(100)
    assert max(full.ends()) > max(free.ends()) + 0.9  # two jobs of 1 ms on one core


def test_many_jobs_end_in_the_order_of_their_work():
    body = worker({"compute": {"exponential": "1ms"}}, concurrency=50, cpu=1.0)
    run = Run({"a": body}, recorded(*["0s"] * 50)).to(1000)
    total = run.endpoint("a-v1-0")["cpu_ns"]
    assert max(run.ends()) == pytest.approx(total / 1e6, abs=1e-4)  # work is conserved
