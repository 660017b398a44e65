"""The proxy in front of a workload."""

import contextlib

from proxy_fakes import (
    Caller,
    Upstream,
    ok,
    run,
    until,
)

from emulator.proxy import InboundProxy


@contextlib.asynccontextmanager
async def inbound(answer=lambda number, head, body: ok()):
    workload = await Upstream(answer).start()
    proxy = InboundProxy("reviews-v1-0", workload.port)
    _, port = await proxy.start()
    try:
        yield proxy, workload, port
    finally:
        await proxy.drain(2)
        await workload.stop()
    counters = proxy.counters()
    assert counters["downstream_rq_active"] == counters["downstream_cx_active"] == 0
    assert counters["upstream_cx_active"] == 0


def test_inbound_passes_everything_on():
    async def scenario():
        async with inbound(lambda number, head, body: ok(body, 201)) as (proxy, workload, port):
            async with Caller(port) as caller:
                for _ in range(3):
                    await caller.send(
                        b"POST /x HTTP/1.1\r\nHost: a\r\nx-request-id: r\r\n"
                        b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n"
                    )
                    assert (await caller.response())[::2] == (201, b"ab")
            assert "x-request-id: r\r\n" in workload.heads[0]
            assert workload.connections == 1
            assert proxy.counters()["downstream_rq_completed"] == 3

    run(scenario)


def test_inbound_answers_for_a_workload_that_is_gone():
    async def scenario():
        async with inbound(lambda number, head, body: b"") as (proxy, workload, port):
            async with Caller(port) as caller:
                status, headers, _ = await caller.get()
                assert (status, headers["x-meshsim-flag"]) == (503, "UC")
                await workload.stop()
                status, headers, _ = await caller.get()
                assert (status, headers["x-meshsim-flag"]) == (503, "UF")
            assert proxy.counters()["downstream_rq_failed_UF"] == 1

    run(scenario)


def test_inbound_tells_the_workload_that_the_caller_has_gone():
    async def scenario():
        async with inbound(lambda number, head, body: None) as (proxy, workload, port):
            async with Caller(port) as caller:
                await caller.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                await until(lambda: workload.heads)
            await until(lambda: workload.open == 0)
            assert proxy.counters()["downstream_rq_failed_DC"] == 1

    run(scenario)
