"""The outbound proxy: a workload's (or a gateway's) requests to the services of the mesh.

Rule: every decision is the engine's (`emulator.engine.ProxyEngine`); this module turns what
happens on sockets into its stimuli and its actions into bytes and timers, in the order of
`meshsim.kernel.requests`: route, pick a host, get a connection, send, and when a try has ended
tell the machine before the try is discounted.  The per-try timer starts when the try has its
connection.  The Host header names the called service.

A response is decided on at its head.  One that is retried is dropped: if it is complete by then
its connection serves on, else it is closed.  Once a response is on its way down its failure can
only be shown by cutting it: UC if the upstream broke off, UT if the route timed out.

A request's body is kept, up to `REPLAY_MAX_BYTES`, while a retry may need it; a longer one is
answered with what its first try brought.  While no try takes it, at most `WAITING_MAX_BYTES` are
read.

Who gives up a try closes its connection, as HTTP/1.1 has no other way.

References
----------
Envoy, source/common/router/router.cc; docs, "HTTP header manipulation" (x-request-id,
x-envoy-attempt-count); W3C Trace Context (traceparent).
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, Protocol

from emulator.http1 import (
    CHUNKED,
    LAST_CHUNK,
    RequestHead,
    ResponseHead,
    encode_chunk,
    encode_headers,
)
from emulator.proxy.downstream import Downstream, DownstreamConnection
from emulator.upstream import (
    ClientContexts,
    Overflow,
    PoolClock,
    PoolEngine,
    UpstreamConnection,
    UpstreamPools,
)
from meshsim.errors import InvariantError
from meshsim.policy.request import (
    ACTION_BACK_OFF,
    ACTION_INVALID,
    ACTION_RESPOND,
    ACTION_SEND,
    STIMULUS_BACK_OFF_EXPIRED,
    STIMULUS_DOWNSTREAM_RESET,
    STIMULUS_NO_HOST,
    STIMULUS_OVERFLOW,
    STIMULUS_PER_TRY_TIMEOUT,
    STIMULUS_RESET,
    STIMULUS_RESPONSE,
    STIMULUS_ROUTE_TIMEOUT,
)
from meshsim.state.codes import (
    FLAG_DC,
    FLAG_NAMES,
    FLAG_NONE,
    FLAG_UC,
    FLAG_UO,
    FLAG_UT,
    NEVER_NS,
    NO_HOST,
    RESET_NONE,
    RESET_OVERFLOW,
    RESET_REMOTE,
)

__all__ = [
    "REPLAY_MAX_BYTES",
    "WAITING_MAX_BYTES",
    "Decision",
    "ExchangeOutcome",
    "ExchangeRecorder",
    "OutboundEngine",
    "OutboundProxy",
]

#: Longest request body that is kept for a retry [bytes].
REPLAY_MAX_BYTES = 1 << 20
#: How much of a body is read while no try takes it [bytes].
WAITING_MAX_BYTES = 1 << 16

_TRACEPARENT = re.compile(rb"00-([0-9a-f]{32})-[0-9a-f]{16}-([0-9a-f]{2})")
_DECIMAL = re.compile(rb"[0-9]{1,18}")
_KEY = re.compile(rb"[0-9a-f]{1,16}")
#: Request headers that the proxy writes itself.
_OWN_REQUEST = frozenset(
    (b"x-request-id", b"traceparent", b"x-envoy-attempt-count", b"x-meshsim-deadline")
)
_FLAG = b"x-meshsim-flag"


class Decision(Protocol):
    """What the engine answers to a stimulus."""

    @property
    def action(self) -> int:
        """`ACTION_*` code."""

    @property
    def deadline_ns(self) -> int:
        """When a back-off ends [ns]."""

    @property
    def status(self) -> int:
        """Status to answer with."""

    @property
    def response_flag(self) -> int:
        """`FLAG_*` code to answer with."""


class OutboundEngine(PoolEngine, Protocol):
    """The decisions about requests (`emulator.engine.ProxyEngine`)."""

    @property
    def name(self) -> str:
        """Name of the proxy."""

    def start(
        self,
        service: str,
        method: str,
        path: str,
        headers: Mapping[str, str],
        traffic_key: int | None,
        now_ns: int,
    ) -> int:
        """Begin an exchange."""

    def route(self, exchange: int, now_ns: int) -> Decision:
        """Route the request."""

    def tell(self, exchange: int, stimulus: int, status: int, reset: int, now_ns: int) -> Decision:
        """Tell the machine what happened."""

    def pick(self, exchange: int, now_ns: int) -> int:
        """Pick a host for the next try."""

    def sent(self, exchange: int, host: int, now_ns: int) -> int:
        """Count a try that has its connection; return when it times out [ns]."""

    def ended(
        self, exchange: int, host: int, outcome: str, failed: bool, rtt_ns: int, now_ns: int
    ) -> None:
        """Discount a try that had a connection."""

    def finish(self, exchange: int) -> None:
        """Forget the exchange."""

    def exchange_deadline_ns(self, exchange: int) -> int:
        """Return when the route times out [ns]."""

    def retry_count(self, exchange: int) -> int:
        """Return how many retries were decided on."""

    def retries_remaining(self, exchange: int) -> int:
        """Return how many retries are left."""


class ExchangeOutcome(NamedTuple):
    """One ended request at an outbound proxy, for the record.

    Parameters
    ----------
    proxy, service : str
        Who called whom.
    operation, traffic : str
        Of the headers ``x-meshsim-operation`` and ``x-meshsim-traffic``; empty if absent.
    number : int
        Of ``x-meshsim-number``; -1 if absent.
    status : int
        Sent down; 0 if the caller had gone.
    response_flag : int
        `FLAG_*` code.
    retry_count : int
        Retries that were decided on.
    started_ns, ended_ns : int
        Model time of the head's arrival and of the last byte down [ns].
    queue_ns, service_ns : int
        Sums over the answered tries, as the workloads say in their responses [ns].
    request_bytes, response_bytes : int
        Bodies, as received [bytes].
    """

    proxy: str
    service: str
    operation: str
    traffic: str
    number: int
    status: int
    response_flag: int
    retry_count: int
    started_ns: int
    ended_ns: int
    queue_ns: int
    service_ns: int
    request_bytes: int
    response_bytes: int


class ExchangeRecorder(Protocol):
    """Whoever keeps the record (`emulator.recording.Recorder`)."""

    def exchange(self, outcome: ExchangeOutcome) -> None:
        """Record an ended request."""


class OutboundProxy:
    """One outbound proxy.

    Parameters
    ----------
    engine : OutboundEngine
        Decides; holds the configuration.
    clock : PoolClock
        Model time.
    contexts : ClientContexts, optional
        Who the proxy is; None: it speaks plain text.
    recorder : ExchangeRecorder, optional
        Told of each ended request.
    host : str
        Address to listen on; loopback unless the user says otherwise.
    """

    def __init__(
        self,
        engine: OutboundEngine,
        clock: PoolClock,
        contexts: ClientContexts | None = None,
        recorder: ExchangeRecorder | None = None,
        *,
        host: str = "127.0.0.1",
    ) -> None:
        self.engine = engine
        self.clock = clock
        self.pools = UpstreamPools(engine, clock, contexts)
        self.downstream = Downstream(self._begin)
        self._recorder = recorder
        self._host = host
        self._server: asyncio.Server | None = None
        self._request_number = 0

    async def start(self, port: int = 0) -> tuple[str, int]:
        """Listen on `port`, or on any; return address and port."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(self.downstream.protocol, self._host, port)
        self._server = server
        address, port = server.sockets[0].getsockname()[:2]
        return address, port

    async def drain(self, timeout_s: float) -> bool:
        """Stop accepting, finish what is running, close; return whether all ended in time [s]."""
        self._stop_accepting()
        ended = await self.downstream.drain(timeout_s)
        self.abort()
        await self.downstream.emptied()
        return ended

    def abort(self) -> None:
        """Reset every socket at once, as if the process were killed."""
        self._stop_accepting()
        self.downstream.abort()
        self.pools.abort()

    def _stop_accepting(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    def partition(self, names: Iterable[str]) -> None:
        """Let packets to the endpoints `names`, and to no others, be lost until told otherwise."""
        self.pools.partition(names)

    def reconfigured(self) -> None:
        """Close idle connections to endpoints that have moved; the engine has applied a change."""
        self.pools.close_moved()

    def counters(self) -> dict[str, int]:
        """Return what happened so far, by name."""
        return {**self.downstream.counters(), "upstream_cx_active": len(self.pools)}

    def _begin(self, head: RequestHead, connection: DownstreamConnection) -> _Exchange:
        self._request_number += 1
        exchange = _Exchange(self, head, connection, self._request_number)
        exchange.begin()
        return exchange

    def ended(self, outcome: ExchangeOutcome) -> None:
        """Count and record an ended request."""
        self.downstream.ended(outcome.response_flag)
        if self._recorder is not None:
            self._recorder.exchange(outcome)


def _digest(*parts: bytes) -> str:
    """Return 32 hexadecimal digits that depend on `parts` alone."""
    return hashlib.blake2b(b"\0".join(parts), digest_size=16).hexdigest()


def _request_id(digest: str) -> bytes:
    """Return `digest` in the form of a random UUID (RFC 9562, version 4)."""
    variant = "89ab"[int(digest[16], 16) & 3]
    parts = (digest[:8], digest[8:12], "4" + digest[13:16], variant + digest[17:20], digest[20:])
    return "-".join(parts).encode()


def _decimal(value: bytes | None) -> int:
    """Return a decimal header, -1 if it is absent or not one."""
    return -1 if value is None or _DECIMAL.fullmatch(value) is None else int(value)


class _Exchange:
    """One request, from its head to the last byte of its response."""

    __slots__ = (
        "_back_off_timer",
        "_base",
        "_body",
        "_body_bytes",
        "_connection",
        "_deadline_ns",
        "_discarding",
        "_downstream",
        "_ended",
        "_engine",
        "_failure",
        "_freed",
        "_head",
        "_host",
        "_id",
        "_now_ns",
        "_number",
        "_proxy",
        "_queue_ns",
        "_replayable",
        "_request_done",
        "_request_id",
        "_response_bytes",
        "_response_flag",
        "_response_status",
        "_route_timer",
        "_sent_ns",
        "_service_ns",
        "_started_ns",
        "_trace",
        "_try_timer",
        "_values",
        "_waiting",
    )

    def __init__(
        self,
        proxy: OutboundProxy,
        head: RequestHead,
        downstream: DownstreamConnection,
        number: int,
    ) -> None:
        self._proxy = proxy
        self._engine = proxy.engine
        self._now_ns = proxy.clock.now_ns
        self._head = head
        self._downstream = downstream
        self._number = number
        self._values = dict(head.headers)
        self._id = -1
        self._host = NO_HOST
        self._connection: UpstreamConnection | None = None
        self._waiting = False
        self._discarding = False
        self._ended = False
        self._freed = False  # the machine was told that nobody waits
        self._failure = (503, FLAG_UC)  # of the last try, should its body be gone
        self._route_timer: asyncio.TimerHandle | None = None
        self._try_timer: asyncio.TimerHandle | None = None
        self._back_off_timer: asyncio.TimerHandle | None = None
        self._started_ns = 0
        self._sent_ns = 0
        self._base = b""
        self._request_id = b""
        self._trace: tuple[bytes, bytes] = (b"", b"")
        self._deadline_ns = NEVER_NS
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._request_done = False
        self._replayable = True
        self._response_status = 0
        self._response_flag = FLAG_NONE
        self._response_bytes = 0
        self._queue_ns = 0
        self._service_ns = 0

    # --- The way of the request ------------------------------------------------------------

    def begin(self) -> None:
        """Route the request and send its first try."""
        head = self._head
        key = self._values.get(b"x-meshsim-key", b"")
        self._started_ns = now_ns = self._now_ns()
        self._id = self._engine.start(
            head.host,
            head.method.decode("latin-1"),
            head.target.decode("latin-1"),
            {name.decode("latin-1"): value.decode("latin-1") for name, value in head.headers},
            int(key, 16) if _KEY.fullmatch(key) else None,
            now_ns,
        )
        self._request_done = head.length == 0
        decision = self._engine.route(self._id, now_ns)
        if decision.action == ACTION_SEND:
            self._deadline_ns = self._engine.exchange_deadline_ns(self._id)
            if self._deadline_ns != NEVER_NS:
                self._route_timer = self._call_at(self._deadline_ns, self._on_route_timeout)
        self._act(decision)

    def _call_at(self, time_ns: int, callback: Callable[[], object]) -> asyncio.TimerHandle:
        return self._proxy.clock.call_at(asyncio.get_running_loop(), time_ns, callback)

    def _tell(self, stimulus: int, status: int = 0, reset: int = RESET_NONE) -> Decision:
        return self._engine.tell(self._id, stimulus, status, reset, self._now_ns())

    def _act(self, decision: Decision) -> None:
        """Carry out an action; a response of the upstream is not one of them."""
        action = decision.action
        if action == ACTION_SEND:
            self._send()
        elif action == ACTION_RESPOND:
            self._answer(decision.status, decision.response_flag)
        elif action == ACTION_BACK_OFF:
            self._back_off(decision)
        elif action == ACTION_INVALID:
            raise InvariantError(f"{self._engine.name}: no such transition, exchange {self._id}")

    def _send(self) -> None:
        """Send one try: pick a host, get a connection."""
        host = self._engine.pick(self._id, self._now_ns())
        if host == NO_HOST:
            self._act(self._tell(STIMULUS_NO_HOST))
            return
        self._host = host
        connection = self._proxy.pools.request(host, self)
        if isinstance(connection, UpstreamConnection):
            self.on_connection(connection)
        elif isinstance(connection, Overflow):
            self._act(self._tell(STIMULUS_OVERFLOW))
        else:
            self._waiting = True

    def _back_off(self, decision: Decision) -> None:
        if not self._replayable:
            # The body is gone: the machine is told that nobody waits for another try.
            self._free()
            self._answer(*self._failure)
            return
        self._back_off_timer = self._call_at(decision.deadline_ns, self._on_back_off)

    def _on_back_off(self) -> None:
        self._back_off_timer = None
        self._act(self._tell(STIMULUS_BACK_OFF_EXPIRED))

    def _on_route_timeout(self) -> None:
        self._route_timer = None
        if self._response_status and not self._discarding:
            self._cut(FLAG_UT)
        else:
            self._act(self._tell(STIMULUS_ROUTE_TIMEOUT))

    def _on_try_timeout(self) -> None:
        self._try_timer = None
        self._give_up_try()
        self._failure = (504, FLAG_UT)
        self._act(self._tell(STIMULUS_PER_TRY_TIMEOUT))

    # --- One try ---------------------------------------------------------------------------

    def on_connection(self, connection: UpstreamConnection) -> None:
        """Send the try over `connection`."""
        self._waiting = False
        self._connection = connection
        self._sent_ns = now_ns = self._now_ns()
        deadline_ns = self._engine.sent(self._id, self._host, now_ns)
        if deadline_ns != NEVER_NS:
            self._try_timer = self._call_at(deadline_ns, self._on_try_timeout)
        connection.use(self, self._head.method)
        chunked = self._head.length == CHUNKED
        parts = [self._request_head(min(deadline_ns, self._deadline_ns))]
        parts += [encode_chunk(piece) for piece in self._body] if chunked else self._body
        if chunked and self._request_done:
            parts.append(LAST_CHUNK)
        connection.write(b"".join(parts))
        if not self._request_done:
            self._forget_body_unless_retried()
            self._downstream.resume_body()

    def on_refused(self, reset: int) -> None:
        """Tell the machine that the try will have no connection."""
        if self._waiting:
            self._waiting = False
            self._act(self._tell(STIMULUS_RESET, 0, reset))

    def on_reset(self) -> None:
        """Tell the machine that the try's connection was lost."""
        if self._discarding:
            self._drop_connection()
        elif self._response_status:
            self._cut(FLAG_UC)
        else:
            self._failure = (503, FLAG_UC)
            decision = self._tell(STIMULUS_RESET, 0, RESET_REMOTE)
            self._give_up_try()
            self._act(decision)

    def on_response_head(self, head: ResponseHead) -> None:
        """Decide what becomes of the response."""
        self._stop_try_timer()
        values = dict(head.headers)
        overloaded = b"x-envoy-overloaded" in values
        self._queue_ns += max(_decimal(values.get(b"x-meshsim-queue-ns")), 0)
        self._service_ns += max(_decimal(values.get(b"x-meshsim-service-ns")), 0)
        reset = RESET_OVERFLOW if overloaded else RESET_NONE
        decision = self._tell(STIMULUS_RESPONSE, head.status, reset)
        self._response_status = head.status
        retry = decision.action == ACTION_BACK_OFF
        if retry and self._replayable:
            self._discarding = True
            self._back_off(decision)
            return
        if retry:
            self._free()
        self._response_flag = FLAG_NONE if retry else decision.response_flag
        extra = b""
        if _FLAG in values:  # of a proxy further on; each answers for itself
            head = head._replace(headers=[pair for pair in head.headers if pair[0] != _FLAG])
        if self._response_flag != FLAG_NONE:
            extra = b"x-meshsim-flag: %b\r\n" % FLAG_NAMES[self._response_flag].encode()
        self._downstream.start_response(head, extra)
        if not self._downstream.writable and self._connection is not None:
            self._connection.pause_reading()

    def on_response_body(self, piece: bytes) -> None:
        """Pass a part of the response down."""
        if not self._discarding:
            self._response_bytes += len(piece)
            self._downstream.write_body(piece)

    def on_response_pause(self) -> None:
        """Write what came; close the connection of a response that is dropped and not whole."""
        if self._discarding:
            self._drop_connection()
        else:
            self._downstream.flush()

    def on_response_end(self, reusable: bool) -> None:
        """Discount the try, pass its connection on, and end the response."""
        connection = self._connection
        if connection is None:
            return
        self._connection = None
        now_ns = self._now_ns()
        failed = self._response_status >= 500
        self._engine.ended(self._id, self._host, "response", failed, now_ns - self._sent_ns, now_ns)
        # A connection on which half a request was sent can carry no other.
        self._proxy.pools.give_back(connection, reusable and self._request_done)
        if self._discarding:
            self._discarding = False
            self._response_status = 0
        else:
            self._end(now_ns)
            self._downstream.end_response()

    def on_upstream_writable(self, writable: bool) -> None:
        """Read the request's body only as fast as the upstream takes it."""
        if writable:
            self._downstream.resume_body()
        else:
            self._downstream.pause_body()

    def _drop_connection(self) -> None:
        """Close the connection of a response that is dropped."""
        connection = self._connection
        self._connection = None
        self._discarding = False
        self._response_status = 0
        if connection is not None:
            now_ns = self._now_ns()
            rtt_ns = now_ns - self._sent_ns
            self._engine.ended(self._id, self._host, "response", True, rtt_ns, now_ns)
            self._proxy.pools.close(connection)

    def _give_up_try(self) -> None:
        """Give up the try that waits or is under way, if there is one."""
        self._stop_try_timer()
        connection = self._connection
        if self._waiting:
            self._waiting = False
            self._proxy.pools.leave(self._host, self)
        elif connection is not None:
            self._connection = None
            now_ns = self._now_ns()
            rtt_ns = now_ns - self._sent_ns
            self._engine.ended(self._id, self._host, "abandoned", True, rtt_ns, now_ns)
            self._proxy.pools.close(connection)

    def _stop_try_timer(self) -> None:
        if self._try_timer is not None:
            self._try_timer.cancel()
            self._try_timer = None

    # --- The request's body ----------------------------------------------------------------

    def on_request_body(self, piece: bytes) -> None:
        """Pass a part of the body up, and keep it while a retry may need it."""
        self._body_bytes += len(piece)
        connection = self._connection
        sending = connection is not None and not self._discarding
        if self._replayable:
            self._body.append(piece)
        if connection is not None and sending:
            chunked = self._head.length == CHUNKED
            connection.write(encode_chunk(piece) if chunked else piece)
            self._forget_body_unless_retried()
        elif self._body_bytes >= WAITING_MAX_BYTES:
            self._downstream.pause_body()

    def on_request_end(self) -> None:
        """Pass the end of the body up."""
        if not self._request_done:
            self._request_done = True
            chunked = self._head.length == CHUNKED
            if chunked and self._connection is not None and not self._discarding:
                self._connection.write(LAST_CHUNK)

    def _forget_body_unless_retried(self) -> None:
        """Keep the part of the body that was sent only for a retry, and only if it is short."""
        if self._replayable and (
            self._body_bytes > REPLAY_MAX_BYTES or self._engine.retries_remaining(self._id) == 0
        ):
            self._replayable = False
            self._body.clear()

    # --- Headers ---------------------------------------------------------------------------

    def _request_head(self, deadline_ns: int) -> bytes:
        """Return the head of a try."""
        if not self._base:
            self._base = self._encode_base()
        attempt_count = self._engine.retry_count(self._id) + 1
        received_ns = _decimal(self._values.get(b"x-meshsim-deadline"))
        if received_ns >= 0:
            deadline_ns = min(deadline_ns, received_ns)
        deadline = b""
        if deadline_ns != NEVER_NS:
            deadline = b"x-meshsim-deadline: %d\r\n" % deadline_ns
        trace, flags = self._trace
        span = _digest(self._request_id, self._engine.name.encode(), b"%d" % attempt_count)[:16]
        return b"%btraceparent: 00-%b-%b-%b\r\nx-envoy-attempt-count: %d\r\n%b\r\n" % (
            self._base,
            trace,
            span.encode(),
            flags,
            attempt_count,
            deadline,
        )

    def _encode_base(self) -> bytes:
        """Return the part of the head that all tries share."""
        head = self._head
        received = self._values.get(b"x-request-id")
        name = self._engine.name.encode()
        digest = _digest(self._values.get(b"x-meshsim-key", b""), name, b"%d" % self._number)
        self._request_id = received or _request_id(digest)
        parent = _TRACEPARENT.fullmatch(self._values.get(b"traceparent", b""))
        self._trace = (parent[1], parent[2]) if parent else (digest.encode(), b"01")
        framing = b""
        if head.length == CHUNKED:
            framing = b"transfer-encoding: chunked\r\n"
        elif head.length > 0 or head.method in (b"POST", b"PUT", b"PATCH"):
            framing = b"content-length: %d\r\n" % head.length
        kept = [pair for pair in head.headers if pair[0] not in _OWN_REQUEST]
        return b"%b %b HTTP/1.1\r\nhost: %b\r\n%b%bx-request-id: %b\r\n" % (
            head.method,
            head.target,
            head.host.encode(),
            encode_headers(kept),
            framing,
            self._request_id,
        )

    # --- The end ---------------------------------------------------------------------------

    def on_downstream_lost(self) -> None:
        """Give up: the caller is gone."""
        if self._ended:
            return
        self._free()
        self._response_flag = FLAG_DC
        self._response_status = 0
        self._end(self._now_ns())

    def _free(self) -> None:
        """Tell the machine, once, that nobody waits for another try."""
        if not self._freed:
            self._freed = True
            self._tell(STIMULUS_DOWNSTREAM_RESET)

    def on_downstream_writable(self, writable: bool) -> None:
        """Read the response only as fast as the caller takes it."""
        if self._connection is not None:
            if writable:
                self._connection.resume_reading()
            else:
                self._connection.pause_reading()

    def _answer(self, status: int, response_flag: int) -> None:
        """Answer the request ourselves."""
        self._response_status = status
        self._response_flag = response_flag
        headers: list[tuple[bytes, bytes]] = []
        if response_flag != FLAG_NONE:
            headers.append((_FLAG, FLAG_NAMES[response_flag].encode()))
        if response_flag == FLAG_UO:
            headers.append((b"x-envoy-overloaded", b"true"))
        self._end(self._now_ns())
        self._downstream.respond(status, tuple(headers))

    def _cut(self, response_flag: int) -> None:
        """Break off a response that has begun."""
        self._response_flag = response_flag
        self._end(self._now_ns())
        self._downstream.cut()

    def _end(self, now_ns: int) -> None:
        """Stop everything, forget the exchange, and record it once."""
        if self._ended:
            raise InvariantError(f"{self._engine.name}: exchange {self._id} ended twice")
        self._ended = True
        if self._route_timer is not None:
            self._route_timer.cancel()
        if self._back_off_timer is not None:
            self._back_off_timer.cancel()
        self._give_up_try()
        retry_count = self._engine.retry_count(self._id)
        self._engine.finish(self._id)
        self._proxy.ended(self._outcome(retry_count, now_ns))

    def _outcome(self, retry_count: int, now_ns: int) -> ExchangeOutcome:
        values = self._values
        return ExchangeOutcome(
            self._engine.name,
            self._head.host,
            values.get(b"x-meshsim-operation", b"").decode("latin-1"),
            values.get(b"x-meshsim-traffic", b"").decode("latin-1"),
            _decimal(values.get(b"x-meshsim-number")),
            self._response_status,
            self._response_flag,
            retry_count,
            self._started_ns,
            now_ns,
            self._queue_ns,
            self._service_ns,
            self._body_bytes,
            self._response_bytes,
        )
