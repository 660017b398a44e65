"""One request at an outbound proxy, from its head to the last byte of its response.

Rule: every decision is the engine's (`emulator.decisions.engine.ProxyEngine`); this module turns
what happens on sockets into its stimuli and its actions into bytes and timers, in the order of
`meshsim.kernel.requests`: route, pick a host, get a connection, send, and when a try has ended
tell the machine before the try is discounted.  The per-try timer starts when the try has its
connection.

A response is decided on at its head.  One that is retried is dropped: if it is complete by then
its connection serves on, else it is closed.  Once a response is on its way down its failure can
only be shown by cutting it: UC if the upstream broke off, UT if the route timed out.

A request's body is kept while a retry may need it (`emulator.proxy.kept_body`).  While no try
takes it, at most `WAITING_MAX_BYTES` are read.

Who gives up a try closes its connection, as HTTP/1.1 has no other way.

References
----------
Envoy, source/common/router/router.cc.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from emulator.decisions.engine import Decision
from emulator.http.connection import UpstreamConnection
from emulator.http.heads import LAST_CHUNK, RequestHead, ResponseHead
from emulator.proxy.account import TimeAccount
from emulator.proxy.answers import flagged, hear_reset, own_headers
from emulator.proxy.context import RequestContext, TextHeaders, draw_key, joined
from emulator.proxy.downstream_connection import DownstreamConnection
from emulator.proxy.hedging import reset_mark
from emulator.proxy.kept_body import REPLAY_MAX_BYTES, KeptBody
from emulator.proxy.routed_request import RoutedRequest
from emulator.proxy.services import ProxyServices
from emulator.proxy.upstream import Overflow
from meshsim.errors import InvariantError, LimitError
from meshsim.policy.transitions import (
    ACTION_BACK_OFF,
    ACTION_DELAY,
    ACTION_INVALID,
    ACTION_NONE,
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
    FLAG_NONE,
    FLAG_UC,
    FLAG_UO,
    FLAG_UT,
    NEVER_NS,
    NO_HOST,
    NO_INDEX,
    RESET_NONE,
    RESET_REMOTE,
)

__all__ = ["WAITING_MAX_BYTES", "OutboundExchange"]

#: How much of a body is read while no try takes it [bytes].
WAITING_MAX_BYTES = 1 << 16


class OutboundExchange(RoutedRequest):
    """One request, from its head to the last byte of its response."""

    __slots__ = (
        "_clock", "_context", "_copy_follows", "_discarding", "_downstream", "_failure", "_freed",
        "_held", "_response_flag", "_response_status",
    )  # fmt: skip

    def __init__(
        self,
        head: RequestHead,
        downstream: DownstreamConnection,
        services: ProxyServices,
        number: int,
    ) -> None:
        self._engine = services.engine
        self._clock = services.clock
        self._pools = services.pools
        self._services = services
        self._now_ns = services.clock.now_ns
        self._head = head
        self._downstream = downstream
        self._values = joined(head.headers)
        self._context = RequestContext(head, self._values, services.engine.name.encode(), number)
        self._id = NO_INDEX
        self._host = NO_HOST
        self._account = TimeAccount(head, self._values)
        self._connection = None
        self._waiting = False
        self._discarding = False
        self._ended = False
        self._copied = True
        self._paced = False
        self._held = b""  # the last part of a response whose rate is limited
        self._freed = False  # the machine was told that nobody waits
        self._failure = (503, FLAG_UC)  # of the last try, should its body be gone
        self._route_timer = None
        self._asked = None
        self._try_timer = None
        self._back_off_timer = None
        self._deadline_ns = NEVER_NS
        self._try_deadline_ns = NEVER_NS
        self._hedging = None
        self._copy_follows = False  # once the response that is dropped has ended
        self._body = KeptBody(head.length)
        self._response_status = 0
        self._response_flag = FLAG_NONE

    # --- The way of the request ------------------------------------------------------------

    def begin(self) -> None:
        """Route the request and send its first try."""
        head = self._head
        self._account.started_ns = now_ns = self._now_ns()
        try:
            self._id = self._engine.start(
                head.host,
                head.method.decode("latin-1"),
                head.target.decode("latin-1"),
                TextHeaders(self._values),
                draw_key(self._values.get(b"x-meshsim-key")),
                now_ns,
            )
        except LimitError:  # as Envoy's overload manager answers; the engine has not changed
            self._services.counts["downstream_rq_overload_close"] += 1
            self._answer(503, FLAG_UO)
            return
        if self._context.received_ns >= 0:
            self._engine.bound(self._id, self._context.received_ns)
        self._route(now_ns)

    def _call_at(self, time_ns: int, callback: Callable[[], object]) -> asyncio.TimerHandle:
        return self._clock.call_at(asyncio.get_running_loop(), time_ns, callback)

    def _tell(self, stimulus: int, status: int = 0, reset: int = RESET_NONE) -> Decision:
        return self._engine.tell(self._id, stimulus, status, reset, self._now_ns())

    def _act(self, decision: Decision) -> None:
        """Carry out an action; a response of the upstream is not one of them."""
        action = decision.action
        if action == ACTION_SEND:
            self._send(self._now_ns())
        elif action == ACTION_RESPOND:
            self._answer(decision.status, decision.response_flag)
        elif action == ACTION_BACK_OFF:
            self._back_off(decision)
        elif action == ACTION_DELAY:
            self._back_off_timer = self._call_at(decision.deadline_ns, self._on_delay_expired)
        elif action == ACTION_INVALID:
            raise InvariantError(f"{self._engine.name}: no such transition, exchange {self._id}")

    def _send(self, now_ns: int) -> None:
        """Send one try: pick a host, get a connection."""
        if self._hedging is not None:
            self._set_aside()
            self._hedging.plan()
        host = self._engine.pick(self._id, now_ns)
        self._services.probes.send(self._engine.take_probes())
        if host == NO_HOST:
            self._act(self._tell(STIMULUS_NO_HOST))
            return
        self._host = host
        self._account.endpoint = self._engine.address(host).name
        connection = self._pools.request(host, self)
        if isinstance(connection, UpstreamConnection):
            self.on_connection(connection)
        elif isinstance(connection, Overflow):
            self._act(self._tell(STIMULUS_OVERFLOW))
        else:
            self._waiting = True

    def _back_off(self, decision: Decision) -> None:
        if not self._body.is_kept:
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
        if self._hedging is not None and self._hedging.is_soft:
            self._on_soft_timeout()
            return
        self._give_up_try()
        self._failure = (504, FLAG_UT)
        self._act(self._tell(STIMULUS_PER_TRY_TIMEOUT))

    # --- One try ---------------------------------------------------------------------------

    def on_connection(self, connection: UpstreamConnection) -> None:
        """Send the try over `connection`."""
        self._waiting = False
        self._connection = connection
        now_ns = self._now_ns()
        self._account.sent(now_ns)
        deadline_ns = self._engine.sent(self._id, self._host, now_ns)
        if deadline_ns != NEVER_NS:
            deadline_ns = self._limit_try(deadline_ns)
        self._write_try(connection, deadline_ns)
        if not self._body.is_whole:
            self._forget_body_unless_retried()
            self._downstream.resume_body()

    def _write_try(self, connection: UpstreamConnection, deadline_ns: int) -> None:
        """Write what there is of the request."""
        connection.use(self, self._head.method)
        attempt_count = self._engine.retry_count(self._id) + 1
        head = self._context.encode_try(attempt_count, min(deadline_ns, self._deadline_ns))
        connection.write(b"".join((head, *self._body.replayed())))

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
        if self._engine.reset_headers(self._id):
            hear_reset(self._engine, self._id, head)
        decision = self._tell(STIMULUS_RESPONSE, head.status, reset_mark(head))
        action = decision.action
        if action == ACTION_RESPOND:
            self._pass_down(head, decision.response_flag)
        elif action == ACTION_NONE or self._body.is_kept:
            self._response_status = head.status
            self._discarding = True
            self._copy_follows = action == ACTION_SEND
            if action == ACTION_BACK_OFF:
                self._account.answered(dict(head.headers), self._now_ns())
                self._back_off(decision)
        else:
            self._free()
            self._pass_down(head, FLAG_NONE)

    def _pass_down(self, head: ResponseHead, response_flag: int) -> None:
        """Begin to answer with a response; other tries are given up."""
        values = dict(head.headers)
        self._account.answered(values, self._now_ns())
        self._response_status = head.status
        self._response_flag = response_flag
        if self._hedging is not None:
            self._hedging.give_up(head.status >= 500)
        head, extra = flagged(head, values, response_flag)
        self._downstream.start_response(head, extra)
        if not self._downstream.writable and self._connection is not None:
            self._connection.pause_reading()

    def on_response_body(self, piece: bytes) -> None:
        """Pass a part of the response down."""
        if not self._discarding:
            self._account.response_bytes += len(piece)
            if self._paced:
                self._held, piece = piece, self._held
            if piece:
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
        failed, rtt_ns = self._response_status >= 500, now_ns - self._account.sent_ns
        self._engine.ended(self._id, self._host, "response", failed, rtt_ns, now_ns)
        # A connection on which half a request was sent can carry no other.
        self._pools.give_back(connection, reusable and self._body.is_whole)
        if self._discarding:
            self._dropped(now_ns)
        elif self._paced:
            self._release_later(now_ns)
        else:
            self._end(now_ns)
            self._downstream.end_response()

    def _release_later(self, now_ns: int) -> None:
        """Hold the end of a response whose rate is limited until all of it may have left."""
        self._stop_route_timer()
        wait_ns = self._engine.pace(self._id, self._account.response_bytes, now_ns)
        self._back_off_timer = self._call_at(now_ns + wait_ns, self._release)

    def _release(self) -> None:
        if self._held:
            self._downstream.write_body(self._held)
        self._end(self._now_ns())
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
        now_ns = self._now_ns()
        if connection is not None:
            rtt_ns = now_ns - self._account.sent_ns
            self._engine.ended(self._id, self._host, "response", True, rtt_ns, now_ns)
            self._pools.close(connection)
        self._dropped(now_ns)

    def _dropped(self, now_ns: int) -> None:
        """Go on without the response that was dropped."""
        self._discarding = False
        self._response_status = 0
        if self._copy_follows:
            self._copy_follows = False
            self._send(now_ns)

    def _give_up_try(self, failed: bool = True) -> None:
        """Give up the try that waits or is under way, if there is one."""
        self._stop_try_timer()
        connection = self._connection
        if self._waiting:
            self._waiting = False
            self._pools.leave(self._host, self)
        elif connection is not None:
            self._connection = None
            now_ns = self._now_ns()
            rtt_ns = now_ns - self._account.sent_ns
            self._engine.ended(self._id, self._host, "abandoned", failed, rtt_ns, now_ns)
            self._pools.close(connection)

    def _stop_route_timer(self) -> None:
        if self._route_timer is not None:
            self._route_timer.cancel()
            self._route_timer = None

    def _stop_try_timer(self) -> None:
        if self._try_timer is not None:
            self._try_timer.cancel()
            self._try_timer = None

    # --- The request's body ----------------------------------------------------------------

    def on_request_body(self, piece: bytes) -> None:
        """Pass a part of the body up, and keep it while a retry may need it."""
        self._account.request_bytes += len(piece)
        connection = self._connection
        self._body.keep(piece)
        if connection is not None and not self._discarding:
            connection.write(self._body.framed(piece))
            self._forget_body_unless_retried()
        elif self._account.request_bytes >= WAITING_MAX_BYTES:
            self._downstream.pause_body()

    def on_request_end(self) -> None:
        """Pass the end of the body up."""
        body = self._body
        if not body.is_whole:
            body.is_whole = True
            if body.chunked and self._connection is not None and not self._discarding:
                self._connection.write(LAST_CHUNK)
            self._copy_if_complete()
            self._on_request_complete()

    def _forget_body_unless_retried(self) -> None:
        """Keep the part of the body that was sent only for a retry, and only if it is short."""
        if self._body.is_kept and (
            self._account.request_bytes > REPLAY_MAX_BYTES
            or (self._copied and self._engine.retries_remaining(self._id) == 0)
        ):
            self._body.forget()

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
        headers = own_headers(self._engine, self._id, status, response_flag)
        self._end(self._now_ns())
        self._downstream.respond(status, headers)

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
        self._stop_route_timer()
        if self._back_off_timer is not None:
            self._back_off_timer.cancel()
        if self._asked is not None:
            self._asked.cancel()
        self._give_up_try()
        if self._hedging is not None:
            self._hedging.give_up(failed=True)
        retry_count = 0
        if self._id != NO_INDEX:
            retry_count = self._engine.retry_count(self._id)
            self._engine.finish(self._id)
        self._services.count_end(self._response_flag)
        recorder = self._services.recorder
        if recorder is not None:
            status, flag = self._response_status, self._response_flag
            name = self._engine.name
            recorder.exchange(self._account.outcome(name, status, flag, retry_count, now_ns))
