"""Who is refused, and how a proxy drains and dies."""

import asyncio
import contextlib

import pytest
from proxy_fakes import (
    Caller,
    ok,
    outbound,
    run,
    until,
)

from emulator.proxy import downstream_connection
from meshsim.state.codes import FLAG_DC, FLAG_NONE

# --- Who is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"b" * 70_000, 431),
        (b"GET / HTTP/1.1\nHost: a\n\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n"
         b"Transfer-Encoding: chunked\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n", 403),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    ],
)  # fmt: skip
def test_a_bad_request_is_answered_counted_and_its_connection_closed(data, status):
    async def scenario():
        async with outbound(lambda number, head, body: None) as (proxy, _, _, port, _):
            async with Caller(port) as caller:
                await caller.send(data)
                answered, headers, _ = await caller.response()
                assert (answered, headers["connection"]) == (status, "close")
                assert await caller.closed()
            assert proxy.counters()[f"refused_{status}"] == 1

    run(scenario)


def test_a_bad_request_after_a_good_one_is_answered_too():
    async def scenario():
        async with outbound() as (_, _, _, port, _), Caller(port) as caller:
            assert (await caller.get())[0] == 200
            await caller.send(b"GET / HTTP/1.1\r\nHost: a\n\n")
            assert (await caller.response())[0] == 400
            assert await caller.closed()

    run(scenario)


def test_a_slow_head_is_408(monkeypatch):
    monkeypatch.setattr(downstream_connection, "HEAD_TIMEOUT_S", 0.05)

    async def scenario():
        async with outbound() as (proxy, _, _, port, _), Caller(port) as slow, Caller(port) as idle:
            await slow.send(b"GET / HTTP/1.1\r\n")
            for _ in range(3):
                with contextlib.suppress(ConnectionError):
                    await slow.send(b"x: y\r\n")
                await asyncio.sleep(0.02)
            assert (await slow.response())[0] == 408
            assert await slow.closed()
            assert proxy.counters()["refused_408"] == 1
            assert (await idle.get())[0] == 200

    run(scenario)


def test_a_stalled_body_is_408(monkeypatch):
    monkeypatch.setattr(downstream_connection, "BODY_TIMEOUT_S", 0.05)

    async def scenario():
        async with outbound() as (_, _, _, port, outcomes), Caller(port) as caller:
            await caller.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc")
            assert (await caller.response())[0] == 408
            assert outcomes[0].response_flag == FLAG_DC

    run(scenario)


def test_connections_are_limited():
    async def scenario():
        async with outbound() as (proxy, _, _, port, _), Caller(port) as first:
            proxy.downstream.max_connections = 1
            await first.get()
            async with Caller(port) as second:
                assert await second.closed()
            assert proxy.counters()["downstream_cx_overflow"] == 1
            assert (await first.get())[0] == 200

    run(scenario)


# --- Draining and dying ----------------------------------------------------------------------


def test_draining_finishes_what_is_running():
    async def scenario():
        release = asyncio.Event()

        async def answer(number, head, body):
            await release.wait()
            return ok()

        async with outbound(answer) as (proxy, _, (upstream,), port, outcomes):
            async with Caller(port) as busy, Caller(port) as idle:
                await until(lambda: len(proxy.downstream.connections) == 2)
                await busy.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                await until(lambda: upstream.heads)
                draining = asyncio.create_task(proxy.drain(5))
                assert await idle.closed()
                with pytest.raises(ConnectionRefusedError):
                    await asyncio.open_connection("127.0.0.1", port)
                release.set()
                status, headers, _ = await busy.response()
                assert (status, headers["connection"]) == (200, "close")
                assert await busy.closed()
                assert await draining
            assert outcomes[0].response_flag == FLAG_NONE

    run(scenario)


def test_draining_gives_up_in_time():
    async def scenario():
        async with outbound(lambda number, head, body: None) as (proxy, _, (upstream,), port, out):
            async with Caller(port) as caller:
                await caller.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                await until(lambda: upstream.heads)
                assert not await proxy.drain(0.05)
                assert await caller.closed()
            assert out[0].response_flag == FLAG_DC

    run(scenario)


def test_a_killed_proxy_resets_its_sockets():
    async def scenario():
        async with outbound(lambda number, head, body: None) as (proxy, _, (upstream,), port, _):
            async with Caller(port) as caller:
                await caller.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                await until(lambda: upstream.heads)
                proxy.abort()
                with pytest.raises(ConnectionResetError):
                    await caller.reader.read(1)
            await until(lambda: upstream.open == 0)

    run(scenario)


def test_a_partition_is_silence_until_it_heals():
    async def scenario():
        async with outbound(n_upstreams=1) as (proxy, _, (upstream,), port, _):
            async with Caller(port) as caller:
                await caller.get()
                proxy.partition(["host-0"])
                answer = asyncio.create_task(caller.get())
                await asyncio.sleep(0.05)
                assert not answer.done()
                assert len(upstream.heads) == 1
                proxy.partition([])
                assert (await answer)[0] == 200
            async with Caller(port) as caller:
                proxy.pools.close_idle()
                proxy.partition(["host-0"])
                answer = asyncio.create_task(caller.get())
                await asyncio.sleep(0.05)
                assert upstream.connections == 1
                proxy.partition([])
                assert (await answer)[0] == 200

    run(scenario)
