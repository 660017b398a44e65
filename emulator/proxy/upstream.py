"""Connections of one proxy to its upstreams: HTTP/1.1, one request at a time.

Rule, as Envoy's `ConnPoolImplBase` and `meshsim.kernel.connections`: a request takes the idle
connection of its host that was used last; otherwise it must be allowed to wait, and waits, first
come first served, until a connection of that host is ready.  While more wait than connections are
connecting, others are opened if that is allowed: when a request begins to wait, when some still
wait beside one that got a connection, and when a connection was closed because it had served
`max_requests_per_connection`, or its request was reset or given up.  If a host refuses the
connection, all that wait for it fail.

Whether to wait, to open and to send is asked of the engine (`meshsim.policy.circuit_breakers`);
this module owns sockets, the order of those that wait, and the idle time-out.

References
----------
envoyproxy/envoy, source/common/conn_pool/conn_pool_base.cc.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Final

from emulator.clock import ModelClock
from emulator.decisions.engine import ProxyEngine
from emulator.http.connection import (
    ClientContexts,
    UpstreamClient,
    UpstreamConnection,
    dial,
)
from emulator.proxy.wire import Wire
from meshsim.policy.circuit_breakers import CONNECTIONS_AT_ONCE, OPEN, OPEN_NONE
from meshsim.state.codes import (
    NEVER_NS,
    RESET_CONNECT_FAILURE,
    RESET_OVERFLOW,
)

__all__ = [
    "OVERFLOW",
    "Overflow",
    "UpstreamPools",
]


class Overflow:
    """`UpstreamPools.request` says: a circuit breaker refused the try."""


OVERFLOW: Final = Overflow()


class _Pool:
    """The connections of one host that nobody holds, and who waits for one."""

    __slots__ = ("connecting", "departed", "host", "idle", "pending", "timer")

    def __init__(self, host: int) -> None:
        self.host = host
        self.connecting = 0  # connections that are not established yet
        self.departed = False  # no longer a member
        self.idle: deque[UpstreamConnection] = deque()  # used last: rightmost
        self.pending: dict[UpstreamClient, None] = {}  # in order of arrival
        self.timer: asyncio.TimerHandle | None = None


class UpstreamPools:
    """All upstream connections of one proxy.

    Parameters
    ----------
    engine : ProxyEngine
        Decides.
    clock : ModelClock
        Model time, of which idle and connect time-outs are.
    contexts : ClientContexts, optional
        Who this proxy is; None: plain text only.
    wire : Wire
        The network to its upstreams.
    """

    def __init__(
        self, engine: ProxyEngine, clock: ModelClock, contexts: ClientContexts | None, wire: Wire
    ) -> None:
        self._wire = wire
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
        pool.pending[client] = None
        self._engine.pending_added(host)
        self._open_wanted(pool)
        return None

    def leave(self, host: int, client: UpstreamClient) -> None:
        """Let `client` wait no longer, if it still does."""
        pool = self._pools[host]
        if client in pool.pending:
            del pool.pending[client]
            self._engine.pending_removed(host)

    def stand_in(self, host: int, client: UpstreamClient, other: UpstreamClient) -> None:
        """Let `other` wait in the place of `client`."""
        pool = self._pools[host]
        pool.pending = {other if one is client else one: None for one in pool.pending}

    def give_back(self, connection: UpstreamConnection, reusable: bool) -> None:
        """Pass on a connection whose request was answered, or close it."""
        pool = self._pools[connection.host]
        connection.requests += 1
        limit = self._engine.pool_settings(connection.host)[2]
        used_up = 0 < limit <= connection.requests
        if not reusable or used_up or pool.departed or connection.closed:
            self.close(connection)
            return
        connection.resume_reading()
        self._serve_pending(pool, connection)

    def close(self, connection: UpstreamConnection) -> None:
        """Close a connection that a client held; open another if requests wait for one."""
        pool = self._pools[connection.host]
        self._forget(connection)
        self._open_wanted(pool)

    def close_idle(self) -> None:
        """Close the connections that nobody holds."""
        for pool in self._pools.values():
            while pool.idle:
                self._forget(pool.idle.pop())
            self._stop_timer(pool)

    def reconfigured(self) -> None:
        """Close the connections of hosts that are no longer members, or at their old address.

        Those that are idle go at once, those that are held when their request is answered.
        """
        for pool in self._pools.values():
            pool.departed = not self._engine.is_member(pool.host)
            for connection in list(pool.idle):
                peer = connection.get_extra_info("peername")
                moved = peer is None or peer[1] != self._engine.address(pool.host).port
                if pool.departed or moved:
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

    def rewired(self) -> None:
        """Let every connection be as late as the network is now."""
        for connection in self._connections:
            self._wire.attach(connection, self._engine.address(connection.host).name)

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

    def _open_wanted(self, pool: _Pool) -> None:
        """Open the connections that those who wait want, as far as they are allowed."""
        for _ in range(CONNECTIONS_AT_ONCE):
            if self._aborted or not self._engine.wants_connection(pool.host, pool.connecting):
                return
            allowed = self._engine.can_open(pool.host)
            if allowed != OPEN_NONE:
                self._open(pool)
            if allowed != OPEN:
                return

    def _open(self, pool: _Pool) -> None:
        self._engine.opened(pool.host)
        pool.connecting += 1
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
                await self._wire.connect(address.name)
                await dial(connection, address, self._contexts)
        except OSError:  # also TimeoutError and ssl.SSLError
            connection.close()
        pool.connecting -= 1
        if connection.closed:
            self._fail_pending(pool)
            self._forget(connection)
        else:
            self._wire.attach(connection, address.name)
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
                self._open_wanted(pool)
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
