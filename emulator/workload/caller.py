"""Requests to one proxy on this machine: what a workload or a load generator sends.

Rule: a caller knows no policy.  It sends each request over the connection it used last, or opens
another if all are in use, up to a stated number, beyond which requests wait in order; it never
tries again and never gives up by itself.  Whoever cancels a request closes its connection, as
HTTP/1.1 has no other way.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from emulator.http.connection import UpstreamConnection, dial
from emulator.http.heads import ResponseHead
from meshsim.state.codes import FLAG_NAMES, FLAG_NONE, FLAG_UC, FLAG_UF, RESET_CONNECT_FAILURE

__all__ = ["Caller", "PendingRequest", "Reply"]

#: Connections that nobody needed for this long are closed [real s].
_TRIM_S = 5.0
_FLAG_HEADER = b"x-meshsim-flag"
_FLAGS = {name.encode(): code for code, name in enumerate(FLAG_NAMES)}


class Reply(NamedTuple):
    """How a request ended: status, 0 if there was no response, and `FLAG_*` code."""

    status: int
    response_flag: int


Done = Callable[[Reply], None]


class _Address(NamedTuple):
    name: str
    host: str
    port: int
    principal: str = ""


class PendingRequest:
    """One request that has not ended; told what happens by its connection.

    Parameters
    ----------
    caller : Caller
    data : bytes
        Head and body.
    method : bytes
    done : callable
        Called once with the `Reply`, never from within `Caller.request`.
    """

    __slots__ = ("_caller", "_connection", "_done", "_reply", "data", "method")

    def __init__(self, caller: Caller, data: bytes, method: bytes, done: Done) -> None:
        self.data = data
        self.method = method
        self._caller = caller
        self._done: Done | None = done
        self._connection: UpstreamConnection | None = None
        self._reply = Reply(0, FLAG_UC)

    def cancel(self) -> None:
        """Give up: close the connection; `done` is not called."""
        self._done = None
        connection = self._connection
        if connection is not None:
            self._connection = None
            connection.close()
            self._caller.lost(connection)

    @property
    def is_cancelled(self) -> bool:
        """Whether it was given up, or has ended."""
        return self._done is None

    def _end(self, reply: Reply) -> None:
        done, self._done = self._done, None
        self._connection = None
        if done is not None:
            done(reply)

    # --- UpstreamClient ---

    def on_connection(self, connection: UpstreamConnection) -> None:
        """Send the request."""
        self._connection = connection
        connection.use(self, self.method)
        connection.write(self.data)

    def on_refused(self, reset: int) -> None:
        """End: nobody listens."""
        self._end(Reply(0, FLAG_UF))

    def on_lost(self) -> None:
        """End: the connection was there, and was lost before the request was sent."""
        self._end(Reply(0, FLAG_UC))

    def on_response_head(self, head: ResponseHead) -> None:
        """Note the status, and the flag of a proxy's own answer."""
        flag = FLAG_NONE
        for name, value in head.headers:
            if name == _FLAG_HEADER:
                flag = _FLAGS.get(value, FLAG_NONE)
        self._reply = Reply(head.status, flag)

    def on_response_body(self, piece: bytes) -> None:
        """Drop the body."""

    def on_response_pause(self) -> None:
        """Have nothing to pass on."""

    def on_response_end(self, reusable: bool) -> None:
        """End with the response."""
        connection = self._connection
        assert connection is not None
        self._caller.free(connection, reusable)
        self._end(self._reply)

    def on_reset(self) -> None:
        """End without a whole response."""
        connection = self._connection
        assert connection is not None
        self._caller.lost(connection)
        self._end(Reply(0, FLAG_UC))

    def on_upstream_writable(self, writable: bool) -> None:
        """Go on: the request is written whole."""


class Caller:
    """Connections to one address.

    Parameters
    ----------
    host : str
    port : int
    connections_max : int
        More requests at once than this wait for a connection, and are counted.
    """

    def __init__(self, host: str, port: int, connections_max: int) -> None:
        self._address = _Address("", host, port)
        self._connections_max = connections_max
        self._idle: list[UpstreamConnection] = []
        self._all: set[UpstreamConnection] = set()
        self._waiting: deque[PendingRequest] = deque()
        self._dialling: set[asyncio.Task[None]] = set()
        self._opening = 0  # connections that are not there yet
        self._unused = 0  # connections that nobody needed since the last look
        self._trimming: asyncio.TimerHandle | None = None
        self._closed = False
        #: Requests that found every connection in use and no more allowed.
        self.overflows = 0
        self.connections_peak = 0

    @property
    def connections(self) -> int:
        """Connections that are open or being opened."""
        return len(self._all)

    def request(self, data: bytes, method: bytes, done: Done) -> PendingRequest:
        """Send a request; `done` is called with the reply unless it is cancelled."""
        pending = PendingRequest(self, data, method, done)
        if self._idle:
            connection = self._idle.pop()
            self._unused = min(self._unused, len(self._idle))
            pending.on_connection(connection)
            return pending
        self._unused = 0
        self._waiting.append(pending)
        if len(self._all) < self._connections_max:
            self._open()
        else:
            self.overflows += 1
        return pending

    def _open(self) -> None:
        connection = UpstreamConnection(-1, self.lost)
        self._all.add(connection)
        self._opening += 1
        self.connections_peak = max(self.connections_peak, len(self._all))
        task = asyncio.get_running_loop().create_task(self._dial(connection))
        self._dialling.add(task)
        task.add_done_callback(self._dialling.discard)

    async def _dial(self, connection: UpstreamConnection) -> None:
        refused = False
        try:
            await dial(connection, self._address, None)
        except OSError:
            refused = True
        self._opening -= 1
        if not refused and not connection.closed:
            if self._closed:
                connection.close()
            else:
                self.free(connection, True)
            return
        # Who waits longest fails with the connection, or nobody would open another for him.
        pending = self._next_waiting()
        self.lost(connection)
        if pending is not None and refused:
            pending.on_refused(RESET_CONNECT_FAILURE)
        elif pending is not None:
            pending.on_lost()

    def _next_waiting(self) -> PendingRequest | None:
        while self._waiting:
            pending = self._waiting.popleft()
            if not pending.is_cancelled:
                return pending
        return None

    def free(self, connection: UpstreamConnection, reusable: bool) -> None:
        """Give `connection` to the request that waits longest, or keep it for the next."""
        if not reusable:
            connection.close()
            self.lost(connection)
            return
        pending = self._next_waiting()
        if pending is not None:
            pending.on_connection(connection)
            return
        self._idle.append(connection)
        if self._trimming is None and not self._closed:
            loop = asyncio.get_running_loop()
            self._trimming = loop.call_later(_TRIM_S, self._trim)

    def _trim(self) -> None:
        """Close what a burst left behind: the one used last is used next, the first ones rest."""
        for connection in self._idle[: self._unused]:
            connection.close()
            self._all.discard(connection)
        del self._idle[: self._unused]
        self._unused = len(self._idle)
        self._trimming = None
        if self._idle:
            loop = asyncio.get_running_loop()
            self._trimming = loop.call_later(_TRIM_S, self._trim)

    def lost(self, connection: UpstreamConnection) -> None:
        """Forget `connection`; open another if requests wait that none is opened for."""
        self._all.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
            self._unused = min(self._unused, len(self._idle))
        short = len(self._waiting) > self._opening
        if short and not self._closed and len(self._all) < self._connections_max:
            self._open()

    def abort(self) -> None:
        """Reset every connection and forget every request."""
        self._closed = True
        if self._trimming is not None:
            self._trimming.cancel()
            self._trimming = None
        self._waiting.clear()
        self._idle.clear()
        for connection in self._all:
            connection.reset()
        self._all.clear()

    async def close(self) -> None:
        """Close every connection, once no request is under way."""
        self.abort()
        if self._dialling:
            await asyncio.wait(self._dialling)
