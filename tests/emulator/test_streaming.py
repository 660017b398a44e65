"""Bodies that do not fit, or are not waited for."""

import asyncio

from proxy_fakes import (
    Caller,
    FakeEngine,
    RealClock,
    ok,
    outbound,
    run,
    until,
)

from emulator.proxy import OutboundProxy
from meshsim.state.codes import FLAG_NONE


def test_a_long_body_is_streamed_at_the_readers_pace():
    async def scenario():
        size = 8 << 20

        async def answer(number, head, body):
            assert len(body) == size
            return ok(body)

        async with (
            outbound(answer) as (proxy, _, (upstream,), port, _),
            Caller(port) as caller,
        ):
            body = bytes(range(256)) * (size // 256)
            head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size
            sending = asyncio.create_task(caller.send(head + body))
            await until(lambda: upstream.heads)
            await sending
            # Nobody reads the response: it may not pile up in the proxy.
            await until(lambda: any(not c.writable for c in proxy.downstream.connections))
            (connection,) = proxy.downstream.connections
            assert connection._transport.get_write_buffer_size() < 1 << 20
            assert (await caller.response())[2] == body

    run(scenario)


def test_a_long_body_is_not_replayed():
    async def scenario():
        async with (
            outbound(lambda number, head, body: ok(b"no", 503), retries=3) as (
                _, _, (upstream,), port, outcomes,
            ),
            Caller(port) as caller,
        ):  # fmt: skip
            size = 3 << 20
            head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size
            await caller.send(head + bytes(size))
            status, headers, body = await caller.response()
            assert (status, body) == (503, b"no")
            assert "x-meshsim-flag" not in headers
            assert len(upstream.heads) == 1
            assert outcomes[0].response_flag == FLAG_NONE

    run(scenario)


def test_an_early_response_closes_both_connections():
    async def scenario():
        async def serve(reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(ok(b"early", 413))
            await writer.drain()
            await reader.read()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        engine = FakeEngine(server.sockets[0].getsockname()[1])
        proxy = OutboundProxy(engine, RealClock())
        _, port = await proxy.start()
        async with Caller(port) as caller:
            await caller.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\n\r\npart")
            status, headers, body = await caller.response()
            assert (status, headers["connection"], body) == (413, "close", b"early")
            assert await caller.closed()
        assert engine.active["connections"] == 0
        await proxy.drain(1)
        server.close()
        engine.assert_quiet()

    run(scenario)
