"""Connections of one proxy to its upstreams: HTTP/1.1, one request at a time.

Rule, as Envoy's `ConnPoolImplBase` and `meshsim.kernel.connections`: a request takes the idle
connection of its host that was used last; otherwise it must be allowed to wait, a connection is
opened if that is allowed, and the request waits, first come first served, until a connection of
that host is ready.  A connection that has served `max_requests_per_connection`, or whose request
was reset or given up, is closed; another is opened for those that still wait.  If a host refuses
the connection, all that wait for it fail.

Whether to wait, to open and to send is asked of the engine (`meshsim.policy.circuit_breakers`);
this module owns sockets, the order of those that wait, and the idle time-out.

References
----------
envoyproxy/envoy, source/common/conn_pool/conn_pool_base.cc.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol, cast

from emulator.http1 import (
    Body,
    HttpError,
    ResponseHead,
    UntilCloseBody,
    body_of,
    parse_response_head,
    split_head,
)
from meshsim.state.codes import (
    NEVER_NS,
    RESET_CONNECT_FAILURE,
    RESET_OVERFLOW,
)

__all__ = [
    "OVERFLOW",
    "Address",
    "ClientContexts",
    "Overflow",
    "PoolClock",
    "PoolEngine",
    "UpstreamClient",
    "UpstreamConnection",
    "UpstreamPools",
    "dial",
    "reset_transport",
]

#: Linger of nothing: closing a socket resets the connection (struct linger of socket(7)).
_LINGER_RESET = struct.pack("ii", 1, 0)


class Overflow:
    """`UpstreamPools.request` says: a circuit breaker refused the try."""


OVERFLOW: Final = Overflow()


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
    """Who this proxy is (`emulator.identity.Identity`)."""

    def client_context(self) -> ssl.SSLContext:
        """Return the context for a new connection, with the current certificate."""


class PoolClock(Protocol):
    """Model time (`emulator.clock.Clock`)."""

    def now_ns(self) -> int:
        """Return the model time [ns]."""

    def real_s(self, model_ns: int) -> float:
        """Return how long a model time takes in real time [s]."""

    def call_at(
        self,
        loop: asyncio.AbstractEventLoop,
        model_ns: int,
        callback: Callable[..., object],
        *args: Any,
    ) -> asyncio.TimerHandle:
        """Call back at a model time [ns], never early."""


class PoolEngine(Protocol):
    """The decisions about connections (`emulator.engine.ProxyEngine`)."""

    def can_wait(self, host: int) -> bool:
        """Decide whether one more request may wait for a connection."""

    def can_open(self, host: int) -> bool:
        """Decide whether the host may get one more connection."""

    def can_send(self, host: int) -> bool:
        """Decide whether one more request may be active."""

    def opened(self, host: int) -> None:
        """Count a connection from the moment it starts to connect."""

    def closed(self, host: int) -> None:
        """Discount a connection."""

    def pending_added(self, host: int) -> None:
        """Count a request that starts to wait."""

    def pending_removed(self, host: int) -> None:
        """Discount a request that no longer waits."""

    def address(self, host: int) -> Address:
        """Return where the host listens."""

    def pool_settings(self, host: int) -> tuple[int, int, int]:
        """Return connect and idle time-outs [ns] and the requests a connection may serve."""


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

    # --- For whoever holds it -------------------------------------------------------------

    def use(self, client: UpstreamClient, method: bytes) -> None:
        """Let `client` hold the connection for one request of `method`."""
        self._client = client
        self._method = method
        self._head = None
        self._body = None

    def write(self, data: bytes) -> None:
        """Send a part of the request."""
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
        """Hand what was received to the client."""
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
        client = self._client
        if client is not None and isinstance(self._body, UntilCloseBody):
            self._end(client, True)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever is concerned, once."""
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
        Nobody listens, or it is not who it must be (`ssl.SSLError`).
    """
    loop = asyncio.get_running_loop()
    if contexts is None or not address.principal:
        await loop.create_connection(lambda: connection, address.host, address.port)
        return
    from emulator.identity import verify_server

    context = contexts.client_context()
    await loop.create_connection(lambda: connection, address.host, address.port, ssl=context)
    verify_server(connection.get_extra_info("ssl_object"), address.principal)


class _Pool:
    """The connections of one host that nobody holds, and who waits for one."""

    __slots__ = ("host", "idle", "pending", "timer")

    def __init__(self, host: int) -> None:
        self.host = host
        self.idle: deque[UpstreamConnection] = deque()  # used last: rightmost
        self.pending: dict[UpstreamClient, None] = {}  # in order of arrival
        self.timer: asyncio.TimerHandle | None = None


class UpstreamPools:
    """All upstream connections of one proxy.

    Parameters
    ----------
    engine : PoolEngine
        Decides.
    clock : PoolClock
        Model time, of which idle and connect time-outs are.
    contexts : ClientContexts, optional
        Who this proxy is; None: plain text only.
    """

    def __init__(
        self, engine: PoolEngine, clock: PoolClock, contexts: ClientContexts | None
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._contexts = contexts
        self._pools: dict[int, _Pool] = {}
        self._connections: set[UpstreamConnection] = set()
        self._dials: set[asyncio.Task[None]] = set()
        self._unreachable: frozenset[str] = frozenset()
        self._healed = asyncio.Event()
        self._aborted = False

    def __len__(self) -> int:
        """Return the number of connections: connecting, held and idle."""
        return len(self._connections)

    def request(self, host: int, client: UpstreamClient) -> UpstreamConnection | Overflow | None:
        """Find a connection to `host` for `client`, which sends its request over it at once.

        Returns
        -------
        UpstreamConnection, None or OVERFLOW
            None: the client waits, and `on_connection` or `on_refused` will be called.
        """
        pool = self._pools.get(host)
        if pool is None:
            pool = self._pools[host] = _Pool(host)
        connection = self._take_idle(pool)
        if connection is not None:
            if self._engine.can_send(host):
                return connection
            self._make_idle(pool, connection)
            return OVERFLOW
        if not self._engine.can_wait(host):
            return OVERFLOW
        self._open_if_allowed(pool)
        pool.pending[client] = None
        self._engine.pending_added(host)
        return None

    def leave(self, host: int, client: UpstreamClient) -> None:
        """Let `client` wait no longer, if it still does."""
        pool = self._pools[host]
        if client in pool.pending:
            del pool.pending[client]
            self._engine.pending_removed(host)

    def give_back(self, connection: UpstreamConnection, reusable: bool) -> None:
        """Pass on a connection whose request was answered, or close it."""
        pool = self._pools[connection.host]
        connection.requests += 1
        limit = self._engine.pool_settings(connection.host)[2]
        if not reusable or connection.closed or 0 < limit <= connection.requests:
            self.close(connection)
            return
        connection.resume_reading()
        self._serve_pending(pool, connection)

    def close(self, connection: UpstreamConnection) -> None:
        """Close a connection that a client held; open another if requests wait for one."""
        pool = self._pools[connection.host]
        self._forget(connection)
        if pool.pending:
            self._open_if_allowed(pool)

    def close_idle(self) -> None:
        """Close the connections that nobody holds."""
        for pool in self._pools.values():
            while pool.idle:
                self._forget(pool.idle.pop())
            self._stop_timer(pool)

    def close_moved(self) -> None:
        """Close the idle connections of hosts that are no longer at their old address."""
        for pool in self._pools.values():
            for connection in list(pool.idle):
                peer = connection.get_extra_info("peername")
                if peer is None or peer[1] != self._engine.address(pool.host).port:
                    pool.idle.remove(connection)
                    self._forget(connection)

    def partition(self, names: Iterable[str]) -> None:
        """Lose every packet to and from the endpoints `names`, and to no others.

        Their connections fall silent; new ones are not established until the partition ends or
        the connect time-out does.
        """
        self._unreachable = frozenset(names)
        healed, self._healed = self._healed, asyncio.Event()
        healed.set()
        for connection in self._connections:
            name = self._engine.address(connection.host).name
            connection.silence(name in self._unreachable)

    def abort(self) -> None:
        """Reset every connection, for good; nobody is told."""
        self._aborted = True
        for task in self._dials:
            task.cancel()
        for connection in list(self._connections):
            connection.reset()
            self._forget(connection)
        for pool in self._pools.values():
            pool.idle.clear()
            self._stop_timer(pool)

    # --- Connecting ------------------------------------------------------------------------

    def _open_if_allowed(self, pool: _Pool) -> None:
        if self._aborted or not self._engine.can_open(pool.host):
            return
        self._engine.opened(pool.host)
        connection = UpstreamConnection(pool.host, self._on_idle_closed)
        self._connections.add(connection)
        task = asyncio.get_running_loop().create_task(self._connect(pool, connection))
        self._dials.add(task)
        task.add_done_callback(self._dials.discard)

    async def _connect(self, pool: _Pool, connection: UpstreamConnection) -> None:
        address = self._engine.address(pool.host)
        connect_timeout_ns = self._engine.pool_settings(pool.host)[0]
        timeout_s = None
        if connect_timeout_ns != NEVER_NS:
            timeout_s = self._clock.real_s(connect_timeout_ns)
        try:
            async with asyncio.timeout(timeout_s):
                while address.name in self._unreachable:
                    await self._healed.wait()
                await dial(connection, address, self._contexts)
        except OSError:  # also TimeoutError and ssl.SSLError
            connection.close()
        if connection.closed:
            self._fail_pending(pool)
            self._forget(connection)
        else:
            connection.silence(address.name in self._unreachable)
            self._serve_pending(pool, connection)

    def _fail_pending(self, pool: _Pool) -> None:
        """Fail all that wait for a host that does not answer."""
        clients = list(pool.pending)
        pool.pending.clear()
        for _ in clients:
            self._engine.pending_removed(pool.host)
        for client in clients:
            client.on_refused(RESET_CONNECT_FAILURE)

    def _serve_pending(self, pool: _Pool, connection: UpstreamConnection) -> None:
        """Give a ready connection to the request waiting longest, or make it idle."""
        loop = asyncio.get_running_loop()
        while pool.pending:
            client = next(iter(pool.pending))
            del pool.pending[client]
            self._engine.pending_removed(pool.host)
            if self._engine.can_send(pool.host):
                client.on_connection(connection)
                return
            # Later in this turn of the loop, as its answer may bring the next request here.
            loop.call_soon(client.on_refused, RESET_OVERFLOW)
        self._make_idle(pool, connection)

    def _forget(self, connection: UpstreamConnection) -> None:
        """Close and discount `connection`, once."""
        connection.close()
        if connection in self._connections:
            self._connections.discard(connection)
            self._engine.closed(connection.host)

    # --- Idling ----------------------------------------------------------------------------

    def _make_idle(self, pool: _Pool, connection: UpstreamConnection) -> None:
        connection.idle_since_ns = self._clock.now_ns()
        pool.idle.append(connection)
        if pool.timer is None:
            self._start_timer(pool)

    def _start_timer(self, pool: _Pool) -> None:
        """Wake up when the connection idle for longest has idled out."""
        idle_timeout_ns = self._engine.pool_settings(pool.host)[1]
        if idle_timeout_ns == NEVER_NS:
            return
        deadline_ns = pool.idle[0].idle_since_ns + idle_timeout_ns
        loop = asyncio.get_running_loop()
        pool.timer = self._clock.call_at(loop, deadline_ns, self._on_timer, pool)

    def _stop_timer(self, pool: _Pool) -> None:
        if pool.timer is not None:
            pool.timer.cancel()
            pool.timer = None

    def _on_timer(self, pool: _Pool) -> None:
        pool.timer = None
        self._expire_idle(pool)
        if pool.idle:
            self._start_timer(pool)

    def _expire_idle(self, pool: _Pool) -> None:
        now_ns = self._clock.now_ns()
        idle_timeout_ns = self._engine.pool_settings(pool.host)[1]
        while pool.idle and now_ns - pool.idle[0].idle_since_ns >= idle_timeout_ns:
            self._forget(pool.idle.popleft())

    def _take_idle(self, pool: _Pool) -> UpstreamConnection | None:
        """Return the idle connection used last; if it has idled out, all have."""
        if not pool.idle:
            return None
        newest = pool.idle[-1]
        idle_timeout_ns = self._engine.pool_settings(pool.host)[1]
        if self._clock.now_ns() - newest.idle_since_ns < idle_timeout_ns:
            return pool.idle.pop()
        self._expire_idle(pool)
        return None

    def _on_idle_closed(self, connection: UpstreamConnection) -> None:
        pool = self._pools[connection.host]
        if connection in pool.idle:
            pool.idle.remove(connection)
        self._forget(connection)
