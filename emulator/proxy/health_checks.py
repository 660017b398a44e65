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

from emulator.clock import ModelClock
from emulator.decisions.engine import ProxyEngine
from emulator.http.connection import ClientContexts, UpstreamConnection
from emulator.http.heads import CHECK_AGENT
from emulator.proxy.asking import Asking
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
        self._engine = engine
        self._clock = clock
        self._asking = Asking(engine, clock, contexts, wire, CHECK_AGENT)
        self.partition = self._asking.partition
        self._sessions: dict[int, asyncio.Task[None]] = {}
        self._aborted = False

    def reconfigured(self) -> None:
        """Begin to check the hosts that are to be checked, and end the checks of others."""
        wanted = set() if self._aborted else self._engine.checked_hosts()
        for host in list(self._sessions):
            if host not in wanted:
                self._sessions.pop(host).cancel()
        for host in sorted(wanted - self._sessions.keys()):
            self._sessions[host] = asyncio.get_running_loop().create_task(self._session(host))

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
        try:
            reply, connection = await self._asking.ask(host, connection, path, timeout_ns)
        except TimeoutError:
            return CHECK_TIMEOUT, None
        except OSError:  # also ssl.SSLError
            return CHECK_NETWORK_FAILURE, None
        if reply.status != _GOOD:
            return CHECK_FAILED, connection
        degraded = b"x-envoy-degraded" in reply.headers
        return CHECK_DEGRADED if degraded else CHECK_PASSED, connection
