"""Connections of a workload or a load generator: how many, whose turn, and what is lost."""

import asyncio
from contextlib import asynccontextmanager

from emulator.http.connection import dial
from emulator.proxy.downstream import Downstream
from emulator.workload.caller import Caller, Reply
from meshsim.state.codes import FLAG_NONE, FLAG_UC, FLAG_UF, FLAG_UH

REQUEST = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"


class Held:
    """A server that answers when it is told to, in whatever order."""

    def __init__(self):
        self.waiting = []
        self.lost = 0
        self.downstream = Downstream(self.begin)

    def begin(self, head, connection):
        self.waiting.append(connection)
        return self

    def on_request_body(self, piece):
        pass

    def on_request_end(self):
        pass

    def on_downstream_lost(self):
        self.lost += 1

    def on_downstream_writable(self, writable):
        pass

    def answer(self, status=200, headers=()):
        self.waiting.pop(0).respond(status, headers)


@asynccontextmanager
async def calling(connections_max):
    server = Held()
    loop = asyncio.get_running_loop()
    listener = await loop.create_server(server.downstream.protocol, "127.0.0.1", 0)
    caller = Caller(*listener.sockets[0].getsockname(), connections_max)
    try:
        async with asyncio.timeout(10):
            yield server, caller, listener
    finally:
        await caller.close()
        listener.close()
        server.downstream.abort()
        await server.downstream.emptied()


async def until(condition):
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.001)


def test_requests_share_connections_up_to_the_limit_and_wait_in_order():
    async def main():
        async with calling(2) as (server, caller, _):
            ended = []
            for number in range(4):
                caller.request(REQUEST, b"GET", lambda reply, n=number: ended.append((n, reply)))
            await until(lambda: len(server.waiting) == 2)
            assert caller.connections == 2
            assert caller.overflows == 2
            for count in range(1, 5):
                server.answer()
                await until(lambda count=count: len(ended) == count)
                await until(lambda count=count: len(server.waiting) == min(2, 4 - count))
            return ended, caller.connections_peak

    ended, peak = asyncio.run(main())
    assert [number for number, _ in ended] == [0, 1, 2, 3]
    assert {reply for _, reply in ended} == {Reply(200, FLAG_NONE)}
    assert peak == 2


def test_the_connection_that_was_used_last_is_used_again():
    async def main():
        async with calling(9) as (server, caller, _):
            ended = []
            for _ in range(3):
                caller.request(REQUEST, b"GET", ended.append)
                await until(lambda: server.waiting)
                server.answer(503, ((b"x-meshsim-flag", b"UH"),))
                count = len(ended) + 1
                await until(lambda count=count: len(ended) == count)
            return ended, caller.connections

    ended, connections = asyncio.run(main())
    assert ended == [Reply(503, FLAG_UH)] * 3
    assert connections == 1


def test_a_request_that_is_given_up_closes_its_connection_and_lets_the_next_go_on():
    async def main():
        async with calling(1) as (server, caller, _):
            ended = []
            first = caller.request(REQUEST, b"GET", ended.append)
            waiting = caller.request(REQUEST, b"GET", ended.append)
            caller.request(REQUEST, b"GET", ended.append)
            await until(lambda: server.waiting)
            waiting.cancel()
            first.cancel()
            await until(lambda: server.lost == 1)
            server.waiting.pop(0)
            await until(lambda: server.waiting)
            server.answer()
            await until(lambda: ended)
            return ended, caller.connections

    assert asyncio.run(main()) == ([Reply(200, FLAG_NONE)], 1)


def test_a_lost_connection_ends_its_request_and_lets_the_next_go_on():
    async def main():
        async with calling(1) as (server, caller, _):
            ended = []
            for _ in range(2):
                caller.request(REQUEST, b"GET", ended.append)
            await until(lambda: server.waiting)
            server.waiting.pop().reset()
            await until(lambda: server.waiting)
            server.answer()
            await until(lambda: len(ended) == 2)
            return ended

    assert asyncio.run(main()) == [Reply(0, FLAG_UC), Reply(200, FLAG_NONE)]


def test_where_nobody_listens_every_request_fails():
    async def main():
        async with calling(2) as (_, caller, listener):
            listener.close()
            await listener.wait_closed()
            ended = []
            for _ in range(5):
                caller.request(REQUEST, b"GET", ended.append)
            assert not ended
            await until(lambda: len(ended) == 5)
            return ended, caller.connections

    assert asyncio.run(main()) == ([Reply(0, FLAG_UF)] * 5, 0)


def test_an_idle_connection_that_is_closed_is_forgotten():
    async def main():
        async with calling(2) as (server, caller, _):
            ended = []
            caller.request(REQUEST, b"GET", ended.append)
            await until(lambda: server.waiting)
            server.answer()
            await until(lambda: ended)
            server.downstream.abort()
            await until(lambda: caller.connections == 0)

    asyncio.run(main())


def test_connections_that_a_burst_left_behind_are_closed(monkeypatch):
    monkeypatch.setattr("emulator.workload.caller._TRIM_S", 0.02)

    async def main():
        async with calling(8) as (server, caller, _):
            replies = []
            for _ in range(6):
                caller.request(REQUEST, b"GET", replies.append)
            await until(lambda: len(server.waiting) == 6)
            for _ in range(6):
                server.answer()
            await until(lambda: len(replies) == 6)
            assert caller.connections == 6
            await until(lambda: caller.connections == 0)
            caller.request(REQUEST, b"GET", replies.append)
            await until(lambda: server.waiting)
            server.answer()
            await until(lambda: len(replies) == 7)
            return caller.connections_peak

    assert asyncio.run(main()) == 6


def test_a_connection_that_is_lost_before_it_is_handed_over_keeps_no_request(monkeypatch):
    async def main():
        async with calling(1) as (server, caller, _):
            dials = []

            async def dial_and_lose(connection, *address):
                await dial(connection, *address)
                dials.append(connection)
                if len(dials) == 1:  # the other side resets it before we hear that it is there
                    connection.connection_lost(ConnectionResetError())

            monkeypatch.setattr("emulator.workload.caller.dial", dial_and_lose)
            ended = []
            caller.request(REQUEST, b"GET", ended.append)
            caller.request(REQUEST, b"GET", ended.append)
            await until(lambda: server.waiting)
            server.answer()
            await until(lambda: len(ended) == 2)
            return ended, len(dials), caller.connections

    replies = [Reply(0, FLAG_UC), Reply(200, FLAG_NONE)]
    assert asyncio.run(main()) == (replies, 2, 1)
