"""Active health checks of one proxy: real requests to the hosts it would send to.

Rule: each checked host has a session of its own: wait, ask (``GET path`` over a connection that is
kept), tell the engine what came, and wait as long as it says (`meshsim.policy.health_check`).  A
check passes with status 200, and may say ``x-envoy-degraded``; any other status fails it; so do a
refused or lost connection, and a timeout, after which the connection is closed.  It is asked of the
host's inbound proxy like any request, with Envoy's user agent, and taken up by the workload before
it queues.

References
----------
Envoy, source/extensions/health_checkers/http/health_checker_impl.cc.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from emulator.clock import ModelClock
from emulator.decisions.engine import ProxyEngine
from emulator.http.connection import ClientContexts, UpstreamConnection, dial
from emulator.http.heads import CHECK_AGENT, ResponseHead
from emulator.proxy.wire import Wire
from meshsim.state.health import (
    CHECK_DEGRADED,
    CHECK_FAILED,
    CHECK_NETWORK_FAILURE,
    CHECK_PASSED,
    CHECK_TIMEOUT,
)

__all__ = ["HealthChecks"]

_GOOD = 200


class _Check:
    """One check under way: the client of its connection."""

    def __init__(self, outcome: asyncio.Future[int]) -> None:
        self._outcome = outcome
        self._status = 0
        self._degraded = False
        self.reusable = False

    def _end(self, result: int) -> None:
        if not self._outcome.done():
            self._outcome.set_result(result)

    def on_connection(self, connection: UpstreamConnection) -> None:
        """Do nothing: a check does not wait for connections."""

    def on_refused(self, reset: int) -> None:
        """Do nothing: a check does not wait for connections."""

    def on_response_head(self, head: ResponseHead) -> None:
        """Remember the status, and whether the host calls itself degraded."""
        self._status = head.status
        self._degraded = b"x-envoy-degraded" in dict(head.headers)

    def on_response_body(self, piece: bytes) -> None:
        """Drop the body."""

    def on_response_end(self, reusable: bool) -> None:
        """End with the status."""
        self.reusable = reusable
        passed = CHECK_DEGRADED if self._degraded else CHECK_PASSED
        self._end(passed if self._status == _GOOD else CHECK_FAILED)

    def on_response_pause(self) -> None:
        """Wait for more."""

    def on_reset(self) -> None:
        """End without an answer."""
        self._end(CHECK_NETWORK_FAILURE)

    def on_upstream_writable(self, writable: bool) -> None:
        """Do nothing: a check has no body."""


class HealthChecks:
    """All health checks of one proxy.

    Parameters
    ----------
    engine : ProxyEngine
        Is told the results, and says when to ask again.
    clock : ModelClock
        Model time, of which intervals and timeouts are.
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
        self._sessions: dict[int, asyncio.Task[None]] = {}
        self._unreachable: frozenset[str] = frozenset()
        self._aborted = False

    def reconfigured(self) -> None:
        """Begin to check the hosts that are to be checked, and end the checks of others."""
        wanted = set() if self._aborted else self._engine.checked_hosts()
        for host in list(self._sessions):
            if host not in wanted:
                self._sessions.pop(host).cancel()
        for host in sorted(wanted - self._sessions.keys()):
            self._sessions[host] = asyncio.get_running_loop().create_task(self._session(host))

    def partition(self, names: Iterable[str]) -> None:
        """Lose every packet to and from the endpoints `names`, and to no others."""
        self._unreachable = frozenset(names)

    def abort(self) -> None:
        """Ask nobody any more."""
        self._aborted = True
        for task in self._sessions.values():
            task.cancel()
        self._sessions.clear()

    async def _until(self, time_ns: int) -> None:
        """Wait for model time `time_ns`."""
        loop = asyncio.get_running_loop()
        reached: asyncio.Future[None] = loop.create_future()
        timer = self._clock.call_at(loop, time_ns, reached.set_result, None)
        try:
            await reached
        finally:
            timer.cancel()

    async def _session(self, host: int) -> None:
        """Check `host` again and again."""
        connection: UpstreamConnection | None = None
        next_ns = self._engine.first_check(host, self._clock.now_ns())
        try:
            while True:
                await self._until(next_ns)
                result, connection = await self._ask(host, connection)
                next_ns = self._engine.checked(host, result, self._clock.now_ns())
        finally:
            if connection is not None:
                connection.close()

    async def _ask(
        self, host: int, connection: UpstreamConnection | None
    ) -> tuple[int, UpstreamConnection | None]:
        """Return the result of one check, and the connection if it is kept."""
        timeout_ns, path = self._engine.check_settings(host)
        outcome: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        check = _Check(outcome)
        if connection is None or connection.closed:
            connection = UpstreamConnection(host, lambda _: None)
        try:
            async with asyncio.timeout(self._clock.real_s(timeout_ns)):
                await self._send(host, connection, check, path)
                result = await outcome
        except TimeoutError:
            result = CHECK_TIMEOUT
        except OSError:  # also ssl.SSLError
            result = CHECK_NETWORK_FAILURE
        except asyncio.CancelledError:
            connection.close()
            raise
        if check.reusable and not connection.closed:
            return result, connection
        connection.close()
        return result, None

    async def _send(
        self, host: int, connection: UpstreamConnection, check: _Check, path: str
    ) -> None:
        address = self._engine.address(host)
        if address.name in self._unreachable:
            await asyncio.Event().wait()  # until the timeout
        if connection.get_extra_info("socket") is None:
            await self._wire.connect(address.name)
            await dial(connection, address, self._contexts)
        self._wire.attach(connection, address.name)
        connection.use(check, b"GET")
        connection.write(
            b"GET %b HTTP/1.1\r\nhost: %b\r\nuser-agent: %b\r\n\r\n"
            % (path.encode(), address.name.encode(), CHECK_AGENT)
        )
