"""One connection of a proxy to an upstream: HTTP/1.1, one request at a time.

Rule: whoever holds the connection writes a request and is told of the response as it comes; the
end of the response, or the loss of the connection, is told exactly once.  Responses of status 1xx
are not passed on (the proxy has answered ``expect: 100-continue`` itself).  A response that
cannot be read unambiguously (`emulator.http.heads`) is the loss of the connection, and so is a word
from an upstream that was not asked.

References
----------
RFC 9112, 6.3 and 9.6.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import Callable
from typing import Any, Protocol, cast

from emulator.http.bodies import Body, HttpError, UntilCloseBody, body_of
from emulator.http.heads import ResponseHead, parse_response_head, split_head
from meshsim.errors import ConfigError

__all__ = [
    "Address",
    "ClientContexts",
    "UpstreamClient",
    "UpstreamConnection",
    "dial",
    "reset_transport",
]

#: Linger of nothing: closing a socket resets the connection (struct linger of socket(7)).
_LINGER_RESET = struct.pack("ii", 1, 0)
#: Keeps what is late in order: timers of one instant run in any [s].
_INSTANT_S = 1e-6


class Address(Protocol):
    """Where an endpoint listens, and who it must prove to be."""

    @property
    def name(self) -> str:
        """Name of the endpoint."""

    @property
    def host(self) -> str:
        """IP address or name."""

    @property
    def port(self) -> int:
        """TCP port."""

    @property
    def principal(self) -> str:
        """SPIFFE identity; empty if the endpoint speaks plain text."""


class ClientContexts(Protocol):
    """Who this proxy is (`emulator.access.identity.Identity`)."""

    def client_context(self) -> ssl.SSLContext:
        """Return the context for a new connection, with the current certificate."""


class UpstreamClient(Protocol):
    """Whoever has a request for an upstream: waits for a connection, then holds one."""

    def on_connection(self, connection: UpstreamConnection) -> None:
        """Send the request, whose turn it is, over `connection`."""

    def on_refused(self, reset: int) -> None:
        """Wait no longer: RESET_CONNECT_FAILURE or RESET_OVERFLOW."""

    def on_response_head(self, head: ResponseHead) -> None:
        """Take the head of the final response."""

    def on_response_body(self, piece: bytes) -> None:
        """More of the response's body came."""

    def on_response_end(self, reusable: bool) -> None:
        """Take the end of the response; a `reusable` connection may serve another request."""

    def on_response_pause(self) -> None:
        """Pass on what was handed over: no more was received yet."""

    def on_reset(self) -> None:
        """Do without the connection, lost before the response was complete."""

    def on_upstream_writable(self, writable: bool) -> None:
        """Send more of the request's body, or for now do not."""


def reset_transport(transport: asyncio.Transport) -> None:
    """Close at once with a TCP reset, as the kernel does for a process that was killed."""
    sock = transport.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
    transport.abort()


class UpstreamConnection(asyncio.Protocol):
    """One connection to an upstream; reads responses for whoever holds it.

    Parameters
    ----------
    host : int
        Host handle of the engine; -1 where there is only one upstream.
    on_idle_closed : callable
        Called with the connection if it is lost, or says something, while nobody holds it.
    """

    __slots__ = (
        "_body",
        "_client",
        "_due_s",
        "_head",
        "_held",
        "_method",
        "_on_idle_closed",
        "_paused",
        "_rest",
        "_silent",
        "_transport",
        "closed",
        "host",
        "idle_since_ns",
        "late_s",
        "requests",
    )

    def __init__(self, host: int, on_idle_closed: Callable[[UpstreamConnection], object]) -> None:
        self.host = host
        self.closed = False
        self.idle_since_ns = 0
        self.requests = 0
        self._on_idle_closed = on_idle_closed
        self._client: UpstreamClient | None = None
        self._transport: asyncio.Transport | None = None
        self._method = b""
        self._rest = b""
        self._head: ResponseHead | None = None
        self._body: Body | None = None
        self._paused = False
        self._silent = False
        self._held: list[bytes] = []  # written while no packets got through
        #: How late what is sent (0), or comes (1), is [s]; None: the network is sound.
        self.late_s: Callable[[int], float] | None = None
        self._due_s = [0.0, 0.0]  # when the last of it arrives, by the clock of the loop

    # --- For whoever holds it -------------------------------------------------------------

    def use(self, client: UpstreamClient, method: bytes) -> None:
        """Let `client` hold the connection for one request of `method`."""
        self._client = client
        self._method = method
        self._head = None
        self._body = None

    def hand_over(self, client: UpstreamClient) -> None:
        """Let `client` take the rest of what the holder takes; not while that is being told."""
        self._client = client

    def write(self, data: bytes) -> None:
        """Send a part of the request."""
        if self.late_s is not None:
            self._later(0, self._write, data)
        else:
            self._write(data)

    def _later(self, way: int, arrive: Callable[..., object], *what: bytes) -> None:
        """Let something arrive as late as the network says, after what was sent before it."""
        assert self.late_s is not None
        loop = asyncio.get_running_loop()
        due_s = max(loop.time() + self.late_s(way), self._due_s[way] + _INSTANT_S)
        self._due_s[way] = due_s
        loop.call_at(due_s, arrive, *what)

    def _write(self, data: bytes) -> None:
        if self._transport is None or self.closed:
            return
        if self._silent:
            self._held.append(data)
            self.pause_writing()
        else:
            self._transport.write(data)

    def pause_reading(self) -> None:
        """Take no more of the response for now."""
        if not self._paused:
            self._paused = True
            self._update_reading(was_reading=not self._silent)

    def resume_reading(self) -> None:
        """Take the response again."""
        if self._paused:
            self._paused = False
            self._update_reading(was_reading=False)

    def silence(self, silent: bool) -> None:
        """Let no packet through in either direction, or let through what was held back."""
        if silent == self._silent:
            return
        self._silent = silent
        self._update_reading(was_reading=silent and not self._paused)
        if not silent and self._held:
            data = b"".join(self._held)
            self._held.clear()
            self.write(data)
            self.resume_writing()

    def _update_reading(self, was_reading: bool) -> None:
        transport = self._transport
        reading = not self._paused and not self._silent
        if transport is None or self.closed or reading == was_reading:
            return
        if reading:
            transport.resume_reading()
        else:
            transport.pause_reading()

    def close(self) -> None:
        """Close at once; nobody is told."""
        self._client = None
        self.closed = True
        if self._transport is not None:
            self._transport.abort()

    def reset(self) -> None:
        """Close at once with a TCP reset; nobody is told."""
        self._client = None
        self.closed = True
        if self._transport is not None:
            reset_transport(self._transport)

    def get_extra_info(self, name: str) -> Any:
        """Return what the transport knows, e.g. ``ssl_object``."""
        return None if self._transport is None else self._transport.get_extra_info(name)

    # --- asyncio ---------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, now that the handshakes are done."""
        self._transport = cast(asyncio.Transport, transport)
        if self.closed:
            self._transport.abort()
        elif self._silent:
            self._transport.pause_reading()

    def data_received(self, data: bytes) -> None:
        """Hand what was received to the client, when it has arrived."""
        if self.late_s is not None:
            self._later(1, self._received, data)
        else:
            self._received(data)

    def _received(self, data: bytes) -> None:
        if self.closed:
            return
        client = self._client
        if client is None:
            self._idle_closed()
            return
        if self._rest:
            data = self._rest + data
            self._rest = b""
        try:
            at = self._read(client, data)
        except HttpError:
            self._lost()
            return
        if self._client is client:
            self._rest = data[at:]
            client.on_response_pause()

    def _read(self, client: UpstreamClient, data: bytes) -> int:
        """Read messages while `client` holds the connection; return the offset reached."""
        at = 0
        while self._client is client:
            body = self._body
            if body is None:
                end = split_head(data, at)
                if end < 0:
                    return at
                head = parse_response_head(data[at:end], self._method)
                at = end
                if head.status < 200:
                    continue  # 100 Continue was answered here; other news are not passed on
                self._head = head
                self._body = body = body_of(head.length)
                client.on_response_head(head)
            else:
                piece, after = body.take(data, at)
                if piece:
                    client.on_response_body(piece)
                elif after == at and not body.done:
                    return at
                at = after
            if body.done and self._client is client:
                self._end(client, at == len(data))
        return at

    def _end(self, client: UpstreamClient, nothing_left: bool) -> None:
        keep_alive = self._head is not None and self._head.keep_alive
        self._client = None
        self._body = None
        client.on_response_end(keep_alive and nothing_left)

    def eof_received(self) -> bool:
        """End a body that ends with its connection; the transport closes itself."""
        if self.late_s is not None:
            self._later(1, self._ended)
        else:
            self._ended()
        return False

    def _ended(self) -> None:
        client = self._client
        if client is not None and isinstance(self._body, UntilCloseBody):
            self._end(client, True)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever is concerned, once, when it has arrived."""
        if self.late_s is not None:
            self._later(1, self._lost)
        else:
            self._lost()

    def _lost(self) -> None:
        if self.closed:
            return
        client = self._client
        if client is None:
            self._idle_closed()
            return
        self.close()
        client.on_reset()

    def _idle_closed(self) -> None:
        if not self.closed:
            self.close()
            self._on_idle_closed(self)

    def pause_writing(self) -> None:
        """Tell the client that the upstream reads slower than the request comes."""
        if self._client is not None:
            self._client.on_upstream_writable(False)

    def resume_writing(self) -> None:
        """Tell the client that the upstream has caught up."""
        if self._client is not None:
            self._client.on_upstream_writable(True)


async def dial(
    connection: UpstreamConnection, address: Address, contexts: ClientContexts | None
) -> None:
    """Connect `connection`, and make sure that the upstream is who it must be.

    Parameters
    ----------
    connection : UpstreamConnection
        New.
    address : Address
        With a `principal`, and given `contexts`, the connection is mutual TLS and the server
        must prove to be that principal.
    contexts : ClientContexts, optional
        Who this proxy is.

    Raises
    ------
    OSError
        Nobody listens, or it is not who it must be (`ssl.SSLError`), or this proxy has no
        certificate yet.
    """
    loop = asyncio.get_running_loop()
    if contexts is None or not address.principal:
        await loop.create_connection(lambda: connection, address.host, address.port)
        return
    from emulator.access.identity import verify_server

    try:
        context = contexts.client_context()
    except ConfigError as error:  # the proxy was told of its upstreams before it was certified
        raise ConnectionError(str(error)) from None
    await loop.create_connection(lambda: connection, address.host, address.port, ssl=context)
    verify_server(connection.get_extra_info("ssl_object"), address.principal)
