"""The inbound proxy: what the mesh sends to one workload.

Rule: who may come in is decided by the listener (`emulator.access.listener`); the access rules
of the proxy's configuration judge each request by who the listener says is asking, and answer
403 as Envoy's RBAC filter does.  They answer when a short body is here, as limits do, because
bodies stand for the bytes of requests; Envoy would not wait, and close the connection.

A request that came in is passed to the workload at once over a connection of its own while it
lasts, kept for the next one, the one used last first.  No policy of a client applies here: no
retry, no time-out.  A local rate limit may refuse a request (`admit`): 429, flag RL; so may an
adaptive concurrency limit: 503, without a flag.  A workload
that refuses the connection is answered 503 UF, one that breaks it 503 UC, as Envoy's inbound
listener does; if it breaks off a response that has begun, or the caller goes, the other side's
connection is closed.  A probe of the workload's load passes by rules and limits: it is no request
of the workload's, and the simulator's take no part in them either.

References
----------
Istio, pilot/pkg/networking/core/listener_inbound.go (inbound routes have no retries and no
time-out).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from emulator.http.bodies import CHUNKED
from emulator.http.connection import UpstreamConnection, dial
from emulator.http.heads import (
    LAST_CHUNK,
    PROBE_AGENT,
    RequestHead,
    ResponseHead,
    encode_chunk,
    encode_request,
)
from emulator.proxy.accepting import AcceptingProxy
from emulator.proxy.downstream_connection import DownstreamConnection
from meshsim.state.codes import (
    ACCESS_ALLOWED,
    ACCESS_FORBIDDEN,
    ACCESS_NOT_FOUND,
    ACCESS_UNRESTRICTED,
    FLAG_DC,
    FLAG_LR,
    FLAG_NAMES,
    FLAG_NONE,
    FLAG_UC,
    FLAG_UF,
)

__all__ = [
    "CONNECT_TIMEOUT_S",
    "AcceptingListener",
    "AccessRules",
    "InboundProxy",
    "MakeListener",
    "Refusal",
]

#: How long a workload may take to accept a connection (real time) [s]; Istio's connectTimeout.
CONNECT_TIMEOUT_S = 10.0
#: How much of a body is read before the workload has accepted the connection [bytes].
WAITING_MAX_BYTES = 1 << 16
#: Header of a gateway's request that stands for its authority.
_AUTHORITY = "x-meshsim-authority"
#: What is answered to requests that access rules refuse; the others are reset.
_STATUS = {ACCESS_FORBIDDEN: 403, ACCESS_NOT_FOUND: 404}


class AcceptingListener(Protocol):
    """Whoever accepts connections and decides who comes in, as `emulator.access.listener`."""

    async def start(self, host: str, port: int) -> int:
        """Listen; return the port."""

    def close(self) -> None:
        """Stop accepting; running connections live on."""

    def abort(self) -> None:
        """Stop accepting and reset every connection."""

    def counters(self) -> dict[str, int]:
        """Return what happened so far, by name."""


class AccessRules(Protocol):
    """Whoever judges requests, as `emulator.decisions.inbound_access`."""

    @property
    def active(self) -> bool:
        """Whether there is anything to judge by."""

    def authorize(
        self, principal: str | None, method: str, path: str, host: str, headers: Mapping[str, str]
    ) -> int:
        """Return ACCESS_* for a request of a peer."""


#: Given what makes the protocol of an admitted connection (called with the peer), the listener.
MakeListener = Callable[[Callable[[Any], asyncio.Protocol]], AcceptingListener]


class Refusal(NamedTuple):
    """The answer to a request that may not come in."""

    status: int
    headers: list[tuple[bytes, bytes]]
    response_flag: int


#: Called when a request that came in has ended: whether its caller got a whole answer.
Leave = Callable[[bool], None]


class _Workload(NamedTuple):
    """The workload's address: plain text on loopback."""

    name: str
    host: str
    port: int
    principal: str = ""


class InboundProxy(AcceptingProxy):
    """The inbound proxy of one workload replica.

    Parameters
    ----------
    name : str
        Name of the endpoint.
    upstream_port : int
        Where the workload listens, on loopback.
    make_listener : callable, optional
        Called with a function that makes the protocol of an admitted connection from its peer;
        returns the listener.  None: plain text, everyone comes in.
    host : str
        Address to listen on; loopback unless the user says otherwise.
    admit : callable, optional
        Given the head of a request and the number of its connection: how to refuse it, what to
        call when it has ended, or None.
    disconnected : callable, optional
        Told the number of each connection that ends before the proxy does.
    access : AccessRules, optional
        Judges requests, before `admit`; None: all may pass.
    """

    def __init__(
        self,
        name: str,
        upstream_port: int,
        make_listener: MakeListener | None = None,
        *,
        host: str = "127.0.0.1",
        admit: Callable[[RequestHead, int], Refusal | Leave | None] | None = None,
        disconnected: Callable[[int], object] | None = None,
        access: AccessRules | None = None,
    ) -> None:
        super().__init__(self._begin, host)
        self.workload = _Workload(name, "127.0.0.1", upstream_port)
        self.downstream.on_lost = disconnected
        self._admit = admit
        self._access = access
        self._listener = make_listener(self._protocol) if make_listener is not None else None
        self._idle: list[UpstreamConnection] = []  # used last: rightmost
        self._connections: set[UpstreamConnection] = set()
        self._dials: set[asyncio.Task[None]] = set()

    async def start(self, port: int = 0) -> tuple[str, int]:
        """Listen on `port`, or on any; return address and port."""
        if self._listener is not None:
            return self._host, await self._listener.start(self._host, port)
        return await super().start(port)

    def _abort_upstream(self) -> None:
        if self._listener is not None:
            self._listener.abort()
        for task in self._dials:
            task.cancel()
        for connection in self._connections:
            connection.reset()
        self._connections.clear()
        self._idle.clear()

    def _stop_accepting(self) -> None:
        super()._stop_accepting()
        if self._listener is not None:
            self._listener.close()

    def counters(self) -> dict[str, int]:
        """Return what happened so far, by name; those of the listener begin with ``listener.``."""
        counts = {**self.downstream.counters(), "upstream_cx_active": len(self._connections)}
        if self._listener is not None:
            listener = self._listener.counters()
            counts.update({f"listener.{name}": count for name, count in listener.items()})
        return counts

    def _protocol(self, peer: object) -> DownstreamConnection:
        connection = self.downstream.protocol()
        connection.peer = peer
        return connection

    def _begin(self, head: RequestHead, connection: DownstreamConnection) -> _Exchange:
        exchange = _Exchange(self, head, connection)
        if _is_probe(head):
            self.connect(exchange)
            return exchange
        if self._access is not None and self._access.active:
            outcome = self._judge(self._access, head, connection)
            if outcome not in (ACCESS_UNRESTRICTED, ACCESS_ALLOWED):
                exchange.forbid(outcome)
                return exchange
        admitted = self._admit(head, connection.number) if self._admit is not None else None
        if isinstance(admitted, Refusal):
            exchange.refuse(admitted)
            return exchange
        exchange.leave = admitted
        self.connect(exchange)
        return exchange

    def _judge(
        self, access: AccessRules, head: RequestHead, connection: DownstreamConnection
    ) -> int:
        """Return what the access rules say of a request, and count it."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in head.headers}
        outcome = access.authorize(
            getattr(connection.peer, "principal", None),
            head.method.decode("latin-1"),
            head.target.decode("latin-1"),
            headers.get(_AUTHORITY, head.host),
            headers,
        )
        if outcome != ACCESS_UNRESTRICTED:
            allowed = outcome == ACCESS_ALLOWED
            self.downstream.counts["rbac_allowed" if allowed else "rbac_denied"] += 1
        return outcome

    # --- Connections to the workload -------------------------------------------------------

    def connect(self, exchange: _Exchange) -> None:
        """Give `exchange` a connection, now or when the workload has accepted it."""
        if self._idle:
            exchange.on_connection(self._idle.pop())
            return
        connection = UpstreamConnection(-1, self._on_idle_closed)
        self._connections.add(connection)
        task = asyncio.get_running_loop().create_task(self._dial(connection, exchange))
        self._dials.add(task)
        task.add_done_callback(self._dials.discard)

    async def _dial(self, connection: UpstreamConnection, exchange: _Exchange) -> None:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await dial(connection, self.workload, None)
        except OSError:
            connection.close()
        if connection.closed:
            self.forget(connection)
            exchange.on_refused()
        elif exchange.ended:
            self._idle.append(connection)
        else:
            exchange.on_connection(connection)

    def give_back(self, connection: UpstreamConnection, reusable: bool) -> None:
        """Keep a connection whose request was answered, or close it."""
        if reusable and not connection.closed:
            connection.resume_reading()
            self._idle.append(connection)
        else:
            self.forget(connection)

    def forget(self, connection: UpstreamConnection) -> None:
        """Close a connection."""
        connection.close()
        self._connections.discard(connection)

    def _on_idle_closed(self, connection: UpstreamConnection) -> None:
        if connection in self._idle:
            self._idle.remove(connection)
        self._connections.discard(connection)


def _is_probe(head: RequestHead) -> bool:
    """Return whether a request asks for the load of the workload, which answers nothing else."""
    return head.method == b"GET" and (b"user-agent", PROBE_AGENT) in head.headers


class _Exchange:
    """One request, from its head to the last byte of its response."""

    __slots__ = (
        "_chunked",
        "_connection",
        "_downstream",
        "_held",
        "_held_bytes",
        "_method",
        "_proxy",
        "_refusal",
        "_request_done",
        "_started",
        "ended",
        "leave",
    )

    def __init__(
        self, proxy: InboundProxy, head: RequestHead, downstream: DownstreamConnection
    ) -> None:
        self._proxy = proxy
        self._downstream = downstream
        self._method = head.method
        self._chunked = head.length == CHUNKED
        self._connection: UpstreamConnection | None = None
        self._held = [
            encode_request(head, head.headers) + b"\r\n"
        ]  # not sent, as there is no connection yet
        self._held_bytes = 0
        self._request_done = head.length == 0
        # What answers, once the body is here, what the access rules or a limit refuse.
        self._refusal: Callable[[], None] | None = None
        self._started = False
        self.ended = False
        self.leave: Leave | None = None

    def forbid(self, outcome: int) -> None:
        """Answer what the access rules refuse when its body is here."""
        self._when_complete(lambda: self._answer_forbidden(outcome))

    def refuse(self, refusal: Refusal) -> None:
        """Answer a request that is over a limit when its body is here."""
        self._when_complete(lambda: self._answer_refused(refusal))

    def _when_complete(self, answer: Callable[[], None]) -> None:
        self._refusal = answer
        if self._request_done:
            answer()

    def _answer_forbidden(self, outcome: int) -> None:
        """Send the status, or close the connection without an answer."""
        status = _STATUS.get(outcome)
        self._end(FLAG_NONE if status is not None else FLAG_LR)
        if status is not None:
            self._downstream.respond(status, ())
        else:
            self._downstream.cut()

    def _answer_refused(self, refusal: Refusal) -> None:
        self._end(refusal.response_flag)
        flagged: list[tuple[bytes, bytes]] = []
        if refusal.response_flag != FLAG_NONE:
            flagged = [(b"x-meshsim-flag", FLAG_NAMES[refusal.response_flag].encode())]
        self._downstream.respond(refusal.status, (*flagged, *refusal.headers))

    # --- As the client of the workload's connection ------------------------------------------

    def on_connection(self, connection: UpstreamConnection) -> None:
        """Send what there is of the request over `connection`."""
        self._connection = connection
        connection.use(self, self._method)
        connection.write(b"".join(self._held))
        self._held.clear()
        if not self._request_done:
            self._downstream.resume_body()

    def on_refused(self, reset: int = 0) -> None:
        """Answer for a workload that does not accept connections."""
        if not self.ended:
            self._fail(FLAG_UF)

    def on_reset(self) -> None:
        """Answer for a workload that broke the connection, or break off the response."""
        self._drop_connection()
        if self._started:
            self._end(FLAG_UC)
            self._downstream.cut()
        else:
            self._fail(FLAG_UC)

    def on_response_head(self, head: ResponseHead) -> None:
        """Begin to pass the response down."""
        self._started = True
        self._downstream.start_response(head, b"")
        if not self._downstream.writable and self._connection is not None:
            self._connection.pause_reading()

    def on_response_body(self, piece: bytes) -> None:
        """Pass a part of the response down."""
        self._downstream.write_body(piece)

    def on_response_pause(self) -> None:
        """Write what came."""
        self._downstream.flush()

    def on_response_end(self, reusable: bool) -> None:
        """Keep the connection and end the response."""
        connection = self._connection
        if connection is not None:
            self._connection = None
            self._proxy.give_back(connection, reusable and self._request_done)
            self._end(FLAG_NONE, answered=True)
            self._downstream.end_response()

    def on_upstream_writable(self, writable: bool) -> None:
        """Read the request's body only as fast as the workload takes it."""
        if writable:
            self._downstream.resume_body()
        else:
            self._downstream.pause_body()

    # --- As the exchange of the caller's connection ------------------------------------------

    def on_request_body(self, piece: bytes) -> None:
        """Pass a part of the body up, or hold it while there is no connection."""
        if self._refusal is not None:
            self._held_bytes += len(piece)
            if self._held_bytes >= WAITING_MAX_BYTES and not self.ended:
                self._refusal()
            return
        data = encode_chunk(piece) if self._chunked else piece
        if self._connection is not None:
            self._connection.write(data)
            return
        self._held.append(data)
        self._held_bytes += len(data)
        if self._held_bytes >= WAITING_MAX_BYTES:
            self._downstream.pause_body()

    def on_request_end(self) -> None:
        """Pass the end of the body up."""
        if self._request_done:
            return
        self._request_done = True
        if self._refusal is not None and not self.ended:
            self._refusal()
        if not self._chunked:
            return
        if self._connection is not None:
            self._connection.write(LAST_CHUNK)
        else:
            self._held.append(LAST_CHUNK)

    def on_downstream_lost(self) -> None:
        """Give up: the caller is gone."""
        if not self.ended:
            self._drop_connection()
            self._end(FLAG_DC)

    def on_downstream_writable(self, writable: bool) -> None:
        """Read the response only as fast as the caller takes it."""
        if self._connection is not None:
            if writable:
                self._connection.resume_reading()
            else:
                self._connection.pause_reading()

    def _drop_connection(self) -> None:
        connection = self._connection
        self._connection = None
        if connection is not None:
            self._proxy.forget(connection)

    def _fail(self, response_flag: int) -> None:
        self._end(response_flag, answered=True)
        flag = FLAG_NAMES[response_flag].encode()
        self._downstream.respond(503, ((b"x-meshsim-flag", flag),))

    def _end(self, response_flag: int, answered: bool = False) -> None:
        self.ended = True
        if self.leave is not None:
            self.leave(answered)
            self.leave = None
        self._proxy.downstream.ended(response_flag)
