"""Deadlines that travel with live calls: at the proxy, at the workload, and in the log."""

import asyncio
import contextlib

import pytest
from engine_rows import cluster, endpoints, new_engine, route
from kernel_runs import Run, recorded, worker
from proxy_fakes import Caller, RealClock, Upstream, ok, run, until
from test_workload import ROOT, Client, FakeProxy, serving

from emulator.clock import Clock
from emulator.decisions.replay import replay
from emulator.decisions.stimuli import StimulusLog
from emulator.proxy import OutboundProxy

MS = 1_000_000
PROPAGATES = {"deadline": {"propagate": True}}


@contextlib.asynccontextmanager
async def outbound(answer, log=None, **fields):
    """An outbound proxy with a real engine; `fields` are of its one route."""
    upstream = await Upstream(answer).start()
    members = {"b": endpoints("b-v1-0", port=upstream.port)}
    engine = new_engine({"b": cluster()}, members, {"b": (route(**fields),)}, log=log)
    proxy = OutboundProxy(engine, RealClock())
    _, port = await proxy.start()
    try:
        yield engine, upstream, port
    finally:
        await proxy.drain(2)
        await upstream.stop()
    if log is not None:
        engine.close()


async def asked(port, left_ms):
    """Send a request that has `left_ms` until its deadline; return status, flag, time [ms]."""
    now_ns = RealClock().now_ns()
    async with Caller(port) as caller:
        found = await caller.get("b", extra=f"x-meshsim-deadline: {now_ns + left_ms * MS}\r\n")
    flag = found[1].get("x-meshsim-flag", "-")
    return found[0], flag, (RealClock().now_ns() - now_ns) / MS


@pytest.mark.parametrize("timeout", ["10s", "0s"])
def test_a_request_ends_with_what_is_left(timeout, tmp_path):
    async def scenario():
        path = tmp_path / "stimuli.jsonl"
        with StimulusLog(path) as log:
            async with outbound(lambda *_: None, log, timeout=timeout) as (engine, upstream, port):
                status, flag, taken_ms = await asked(port, 60)
                assert (status, flag) == (504, "UT")
                assert 60 <= taken_ms < 5_000
                assert engine.counters()["b"]["upstream_rq_timeout"] == 1
            assert len(upstream.heads) == 1
        assert replay(path).divergences == ()

    run(scenario)


def test_a_route_timeout_that_comes_first_holds():
    async def scenario():
        async with outbound(lambda *_: None, timeout="30ms") as (_, upstream, port):
            assert (await asked(port, 20_000))[:2] == (504, "UT")
        (head,) = upstream.heads
        sent_ns = int(head.lower().split("x-meshsim-deadline: ")[1].split()[0])
        assert sent_ns < RealClock().now_ns() + 100 * MS

    run(scenario)


def test_a_request_that_is_too_late_is_not_sent():
    async def scenario():
        async with outbound(lambda *_: ok(), timeout="10s") as (engine, upstream, port):
            assert (await asked(port, -1))[:2] == (504, "UT")
            assert upstream.heads == []
            counters = engine.counters()["b"]
            assert counters["upstream_rq_deadline_exceeded"] == 1
            assert counters["upstream_rq_total"] == 0

    run(scenario)


def workload(*steps, **fields):
    services = {"a": worker(*steps, **fields), "b": worker()}
    traffic = {"load": {"to": "a", "arrivals": recorded("0s")}}
    return Run(services, traffic=traffic).compiled


@pytest.mark.parametrize(("fields", "passed"), [(PROPAGATES, "99999"), ({}, None)])
def test_a_workload_passes_the_deadline_on_if_it_is_to(fields, passed):
    async def scenario():
        proxy = FakeProxy()
        async with serving(workload({"call": "b"}, **fields), proxy) as (_, port):
            client = await Client.connect(port)
            client.send(**ROOT)
            assert (await client.receive())[0] == 200
            await client.close()
        assert proxy.values(0).get("x-meshsim-deadline") == passed

    run(scenario)


def test_nothing_waits_in_a_queue_beyond_its_deadline():
    async def scenario():
        clock = Clock()
        compiled = workload({"sleep": "10s"}, **PROPAGATES)
        async with serving(compiled, clock=clock) as (server, port):
            clients = [await Client.connect(port) for _ in range(2)]
            clients[0].send()
            await until(lambda: server.station.busy == 1)
            clients[1].send(x_meshsim_deadline=clock.now_ns() + 50 * MS)
            await until(lambda: server.station.queued == 1)
            assert (await clients[1].receive())[0] == 503
            assert (server.station.queued, server.station.reneged) == (0, 1)
            for client in clients:
                await client.close()
            await asyncio.sleep(0)

    run(scenario)
