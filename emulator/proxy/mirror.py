"""Copies of requests to the mirrors of a route: sent, and their answers ignored.

Rule: a copy is an exchange of its own, without retries, with its route's timeout; nobody waits
for it and it is not recorded.  It is sent when the request is complete; the body of a request
that is too long to be kept is not copied.  What it causes further on is no part of a recorded
request either, so the headers that say so are left out; its draws are its own.

References
----------
Envoy, source/common/router/router.cc (maybeDoShadowing), shadow_writer_impl.cc (``-shadow``).
"""

from __future__ import annotations

import asyncio

from emulator.decisions.engine import Decision, ProxyEngine
from emulator.http.bodies import CHUNKED
from emulator.http.connection import UpstreamConnection
from emulator.http.heads import LAST_CHUNK, RequestHead, ResponseHead, encode_chunk
from emulator.proxy.context import RequestContext
from emulator.proxy.services import ProxyServices
from emulator.proxy.upstream import Overflow
from meshsim.policy.transitions import (
    STIMULUS_NO_HOST,
    STIMULUS_OVERFLOW,
    STIMULUS_RESET,
    STIMULUS_RESPONSE,
    STIMULUS_ROUTE_TIMEOUT,
)
from meshsim.state.codes import NEVER_NS, NO_HOST, RESET_NONE, RESET_REMOTE

__all__ = ["Copies"]

#: Headers by which a request belongs to the record of a run, or to the draws of another.
_NOT_COPIED = frozenset((b"x-meshsim-arrival", b"x-meshsim-parent", b"x-meshsim-key"))


class Copies:
    """The copies that one outbound proxy has under way.

    Parameters
    ----------
    services : ProxyServices
        Of the proxy.
    """

    def __init__(self, services: ProxyServices) -> None:
        self._services = services
        self._live: set[_Copy] = set()
        self._count = 0

    def send(
        self,
        exchange: int,
        head: RequestHead,
        values: dict[bytes, bytes],
        body: tuple[bytes, ...],
    ) -> None:
        """Send a copy of a complete request to each mirror that takes one."""
        engine, now_ns = self._services.engine, self._services.clock.now_ns()
        for number in range(engine.mirror_count(exchange)):
            copy, key = engine.mirror(exchange, number, now_ns)
            if copy:
                self._count += 1
                kept = [pair for pair in head.headers if pair[0] not in _NOT_COPIED]
                kept.append((b"x-meshsim-key", b"%x" % key))
                copied = head._replace(headers=kept, host=f"{head.host}-shadow")
                context = RequestContext(copied, dict(kept), engine.name.encode(), self._count)
                self._live.add(one := _Copy(self, self._services, copy, copied, context, body))
                one.begin(now_ns)

    def ended(self, copy: _Copy) -> None:
        """Forget a copy."""
        self._live.discard(copy)

    def abort(self) -> None:
        """Give up every copy, for good."""
        for copy in list(self._live):
            copy.give_up()


class _Copy:
    """One copy, from the pick of its host to the end of the answer."""

    def __init__(
        self,
        copies: Copies,
        services: ProxyServices,
        exchange: int,
        head: RequestHead,
        context: RequestContext,
        body: tuple[bytes, ...],
    ) -> None:
        self._copies = copies
        self._engine: ProxyEngine = services.engine
        self._pools = services.pools
        self._probes = services.probes
        self._clock = services.clock
        self._id = exchange
        self._head = head
        self._context = context
        self._body = body
        self._host = NO_HOST
        self._sent_ns = 0
        self._status = 0
        self._waiting = False
        self._connection: UpstreamConnection | None = None
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, now_ns: int) -> None:
        """Pick a host and get a connection."""
        deadline_ns = self._engine.exchange_deadline_ns(self._id)
        if deadline_ns != NEVER_NS:
            loop = asyncio.get_running_loop()
            self._timer = self._clock.call_at(loop, deadline_ns, self._on_timeout)
        self._host = self._engine.pick(self._id, now_ns)
        self._probes.send(self._engine.take_probes())
        if self._host == NO_HOST:
            self._end(STIMULUS_NO_HOST)
            return
        connection = self._pools.request(self._host, self)
        if isinstance(connection, UpstreamConnection):
            self.on_connection(connection)
        elif isinstance(connection, Overflow):
            self._end(STIMULUS_OVERFLOW)
        else:
            self._waiting = True

    def on_connection(self, connection: UpstreamConnection) -> None:
        """Send the copy over `connection`."""
        self._waiting = False
        self._connection = connection
        self._sent_ns = self._clock.now_ns()
        self._engine.sent(self._id, self._host, self._sent_ns)
        connection.use(self, self._head.method)
        chunked = self._head.length == CHUNKED
        parts = [self._context.encode_try(1, self._engine.exchange_deadline_ns(self._id))]
        parts += [encode_chunk(piece) for piece in self._body] if chunked else self._body
        if chunked:
            parts.append(LAST_CHUNK)
        connection.write(b"".join(parts))

    def on_refused(self, reset: int) -> None:
        """Take note that there will be no connection."""
        if self._waiting:
            self._waiting = False
            self._end(STIMULUS_RESET, reset=reset)

    def on_reset(self) -> None:
        """Take note that the connection was lost."""
        self._end(STIMULUS_RESET, reset=RESET_REMOTE)

    def on_response_head(self, head: ResponseHead) -> None:
        """Look at the status of the answer, and at nothing else."""
        self._status = head.status

    def on_response_body(self, piece: bytes) -> None:
        """Ignore a part of the answer."""

    def on_response_pause(self) -> None:
        """Wait for more."""

    def on_response_end(self, reusable: bool) -> None:
        """Pass the connection on."""
        connection = self._connection
        if connection is not None:
            self._connection = None
            self._tell(STIMULUS_RESPONSE, self._status, RESET_NONE)
            self._discount("response", self._status >= 500)
            self._pools.give_back(connection, reusable)
            self._forget()

    def on_upstream_writable(self, writable: bool) -> None:
        """Go on: what is to be sent is handed over already."""

    def give_up(self) -> None:
        """Give the copy up, as its time is over."""
        self._end(STIMULUS_ROUTE_TIMEOUT)

    def _on_timeout(self) -> None:
        self._timer = None
        self.give_up()

    def _tell(self, stimulus: int, status: int, reset: int) -> Decision:
        return self._engine.tell(self._id, stimulus, status, reset, self._clock.now_ns())

    def _discount(self, outcome: str, failed: bool) -> None:
        now_ns = self._clock.now_ns()
        rtt_ns = now_ns - self._sent_ns
        self._engine.ended(self._id, self._host, outcome, failed, rtt_ns, now_ns)

    def _end(self, stimulus: int, reset: int = RESET_NONE) -> None:
        """Tell the machine how the copy failed, and let go of what it holds."""
        self._tell(stimulus, 0, reset)
        connection = self._connection
        if self._waiting:
            self._waiting = False
            self._pools.leave(self._host, self)
        elif connection is not None:
            self._connection = None
            self._discount("abandoned", True)
            self._pools.close(connection)
        self._forget()

    def _forget(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._engine.finish(self._id)
        self._copies.ended(self)
