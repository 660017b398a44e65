"""A schedule on real sockets: endpoints that answer by a script, and the client that asks.

Everything runs on one event loop of the caller's process.  HTTP/1.1, requests without bodies,
one after the other on a connection.
"""

import asyncio
import re
from collections import Counter
from functools import partial
from typing import NamedTuple

from envoy_resources import NUMBER

_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
#: Header with the name of the endpoint that answered.
ENDPOINT = "x-endpoint"


class Ask(NamedTuple):
    """One request of a schedule; `at_s` counts in an open loop only."""

    at_s: float = 0.0
    path: str = "/"
    method: str = "GET"
    headers: dict[str, str] = {}  # noqa: RUF012 - nobody writes to it


class Reply(NamedTuple):
    """What an endpoint does with a request: answers late, or loses the connection."""

    status: int = 200
    after_s: float = 0.0
    reset: bool = False
    headers: dict[str, str] = {}  # noqa: RUF012 - nobody writes to it


class Visit(NamedTuple):
    """A request as it came to an endpoint."""

    at_s: float
    endpoint: str
    number: int


class Answer(NamedTuple):
    """What the client got; `flags` are as in Envoy's access log."""

    number: int
    at_s: float
    after_s: float
    status: int
    endpoint: str
    flags: str = ""


def _values(head):
    lines = head.decode("latin-1").split("\r\n")[1:]
    return {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}


class _Connection(asyncio.Protocol):
    """One connection to an endpoint, which answers as its script says."""

    def __init__(self, name, endpoints):
        self._name = name
        self._endpoints = endpoints
        self._received = b""

    def connection_made(self, transport):
        self._transport = transport
        self._endpoints.connections.add(transport)

    def connection_lost(self, exc):
        self._endpoints.left(self._transport)

    def data_received(self, data):
        self._received += data
        while _END in self._received:
            head, _, self._received = self._received.partition(_END)
            values = _values(head)
            if NUMBER in values:
                reply = self._endpoints.visited(self._name, int(values[NUMBER]))
            else:
                reply = self._endpoints.checked(self._name)
            if reply.after_s:
                loop = asyncio.get_running_loop()
                due_s = loop.time() + reply.after_s
                loop.call_at(due_s, self._answer_late, reply, due_s)
            else:
                self._answer(reply)

    def _answer_late(self, reply, due_s):
        self._endpoints.late_s = max(
            self._endpoints.late_s, asyncio.get_running_loop().time() - due_s
        )
        self._answer(reply)

    def _answer(self, reply):
        if reply.reset:
            self._transport.abort()
            return
        headers = {ENDPOINT: self._name, "content-length": "0", **reply.headers}
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self._transport.write(f"HTTP/1.1 {reply.status} -\r\n{lines}\r\n".encode())


class Endpoints:
    """Servers that follow a script, and the record of who came to them.

    Parameters
    ----------
    script : callable
        (endpoint, number of the request, tries before) -> Reply.
    checks : callable
        (endpoint, health checks before) -> Reply.

    Attributes
    ----------
    visits : dict of int to list of Visit
        By number of the request.
    late_s : float
        By how much the latest answer was later than the script says.
    """

    def __init__(self, script, checks):
        self.late_s = 0.0
        self._script = script
        self._checks = checks
        self._checked = Counter()
        self._servers = []
        self._all_left = asyncio.Event()
        self.connections = set()
        self.visits = {}

    async def serve(self, sockets):
        """Answer on listening sockets, which are given by name of the endpoint."""
        loop = asyncio.get_running_loop()
        for name, item in sockets.items():
            accept = partial(_Connection, name, self)
            self._servers.append(await loop.create_server(accept, sock=item, backlog=512))

    def visited(self, name, number):
        """Note a request; return what becomes of it."""
        tries = self.visits.setdefault(number, [])
        reply = self._script(name, number, len(tries))
        tries.append(Visit(asyncio.get_running_loop().time(), name, number))
        return reply

    def checked(self, name):
        """Note a health check; return what becomes of it."""
        self._checked[name] += 1
        return self._checks(name, self._checked[name] - 1)

    def left(self, connection):
        """Forget a connection that is closed."""
        self.connections.discard(connection)
        if not self.connections:
            self._all_left.set()

    async def close(self):
        """Close all connections and listening sockets, and wait until it is done."""
        self._all_left = asyncio.Event()
        for server in self._servers:
            server.close()
        for connection in list(self.connections):
            connection.abort()
        if self.connections:
            await self._all_left.wait()


class Client:
    """Asks one port, over kept connections; opens one more where all are busy."""

    def __init__(self, port, tls=None):
        self._port = port
        self._tls = tls
        self._idle = []

    async def ask(self, number, ask):
        """Send one request; return its answer, status 0 if the connection is lost."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        if self._idle:
            reader, writer = self._idle.pop()
        else:
            name = "" if self._tls else None
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", self._port, ssl=self._tls, server_hostname=name
            )
        headers = {"host": "b", NUMBER: str(number), **ask.headers}
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        writer.write(f"{ask.method} {ask.path} HTTP/1.1\r\n{lines}\r\n".encode())
        head = await reader.readuntil(_END)
        length = _LENGTH.search(head)
        if length and int(length[1]):
            await reader.readexactly(int(length[1]))
        values = _values(head)
        if values.get("connection") == "close":
            writer.close()
        else:
            self._idle.append((reader, writer))
        return Answer(
            number,
            began_s,
            loop.time() - began_s,
            int(head[9:12]),
            values.get(ENDPOINT, ""),
        )

    async def close(self):
        for _, writer in self._idle:
            writer.close()
        for _, writer in self._idle:
            await writer.wait_closed()


async def drive(port, asks, callers, tls=None):
    """Play a schedule; return the answers by number.

    `callers` 0: an open loop, every request at its time; else that many ask one after the other.
    """
    client = Client(port, tls)
    loop = asyncio.get_running_loop()
    origin_s = loop.time()

    async def at(number, ask):
        await asyncio.sleep(origin_s + ask.at_s - loop.time())
        return await client.ask(number, ask)

    async def one_after_the_other(queue):
        return [await client.ask(number, ask) for number, ask in queue]

    try:
        if callers == 0:
            answers = await asyncio.gather(*(at(*item) for item in enumerate(asks)))
        else:
            queue = enumerate(asks)
            lists = await asyncio.gather(*(one_after_the_other(queue) for _ in range(callers)))
            answers = sorted(answer for answered in lists for answer in answered)
    finally:
        await client.close()
    return [answer._replace(at_s=answer.at_s - origin_s) for answer in answers], origin_s
