"""Requests of a proxy's own to its hosts: health checks and probes, over connections of their own.

Rule: ``GET`` to the host's inbound proxy, in the proxy's name, over a connection that is kept if
it may be.  Packets to hosts that cannot be reached are lost, and those over a bad network late, as
those of any request.  What an answer means is for whoever asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import NamedTuple

from emulator.clock import ModelClock
from emulator.decisions.engine import ProxyEngine
from emulator.http.connection import ClientContexts, UpstreamConnection, dial
from emulator.http.heads import ResponseHead
from emulator.proxy.wire import Wire

__all__ = ["Asking", "Reply"]


class Reply(NamedTuple):
    """An answer without its body; `headers` by name, in lower case."""

    status: int
    headers: dict[bytes, bytes]


class _Question:
    """One question under way: the client of its connection."""

    def __init__(self, outcome: asyncio.Future[Reply]) -> None:
        self._outcome = outcome
        self._head = Reply(0, {})
        self.reusable = False

    def on_connection(self, connection: UpstreamConnection) -> None:
        """Do nothing: a question does not wait for connections."""

    def on_refused(self, reset: int) -> None:
        """Do nothing: a question does not wait for connections."""

    def on_response_head(self, head: ResponseHead) -> None:
        """Remember the head."""
        self._head = Reply(head.status, dict(head.headers))

    def on_response_body(self, piece: bytes) -> None:
        """Drop the body."""

    def on_response_end(self, reusable: bool) -> None:
        """End with the head."""
        self.reusable = reusable
        if not self._outcome.done():
            self._outcome.set_result(self._head)

    def on_response_pause(self) -> None:
        """Wait for more."""

    def on_reset(self) -> None:
        """End without an answer."""
        if not self._outcome.done():
            self._outcome.set_exception(ConnectionResetError())

    def on_upstream_writable(self, writable: bool) -> None:
        """Do nothing: a question has no body."""


class Asking:
    """How one proxy asks its hosts.

    Parameters
    ----------
    engine : ProxyEngine
        Says where a host is.
    clock : ModelClock
        Model time, of which timeouts are.
    contexts : ClientContexts, optional
        Who this proxy is; None: plain text only.
    wire : Wire
        The network to its upstreams.
    agent : bytes
        What it calls itself: ``user-agent``.
    """

    def __init__(
        self,
        engine: ProxyEngine,
        clock: ModelClock,
        contexts: ClientContexts | None,
        wire: Wire,
        agent: bytes,
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._contexts = contexts
        self._wire = wire
        self._agent = agent
        self._unreachable: frozenset[str] = frozenset()

    def partition(self, names: Iterable[str]) -> None:
        """Lose every packet to and from the endpoints `names`, and to no others."""
        self._unreachable = frozenset(names)

    async def ask(
        self, host: int, connection: UpstreamConnection | None, path: str, timeout_ns: int
    ) -> tuple[Reply, UpstreamConnection | None]:
        """Ask a host; return its answer, and the connection if that may be kept.

        Parameters
        ----------
        host : int
        connection : UpstreamConnection, optional
            One that was kept.
        path : str
        timeout_ns : int
            For all of it [model ns].

        Raises
        ------
        TimeoutError
        OSError
            If the connection is refused or lost; an ssl.SSLError is one, too.
        """
        outcome: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        question = _Question(outcome)
        if connection is None or connection.closed:
            connection = UpstreamConnection(host, lambda _: None)
        try:
            async with asyncio.timeout(self._clock.real_s(timeout_ns)):
                await self._send(host, connection, question, path)
                reply = await outcome
        except (OSError, asyncio.CancelledError):  # a TimeoutError is an OSError
            connection.close()
            raise
        if question.reusable and not connection.closed:
            return reply, connection
        connection.close()
        return reply, None

    async def _send(
        self, host: int, connection: UpstreamConnection, question: _Question, path: str
    ) -> None:
        address = self._engine.address(host)
        if address.name in self._unreachable:
            await asyncio.Event().wait()  # until the timeout
        if connection.get_extra_info("socket") is None:
            await self._wire.connect(address.name)
            await dial(connection, address, self._contexts)
        self._wire.attach(connection, address.name)
        connection.use(question, b"GET")
        connection.write(
            b"GET %b HTTP/1.1\r\nhost: %b\r\nuser-agent: %b\r\n\r\n"
            % (path.encode(), address.name.encode(), self._agent)
        )
