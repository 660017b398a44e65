"""One connection of a caller: reads requests, writes responses.

Rule: requests of one connection are served in order; the next head is read when the response to
the last request has been written, and until then at most one read of pipelined bytes is held.
What cannot be read unambiguously is refused (`emulator.http.heads`), counted, and the connection
closed; a head that takes longer than `HEAD_TIMEOUT_S` (slow-loris), or a body that stalls for
`BODY_TIMEOUT_S`, is answered 408.  These are limits of the wire, in real time: a policy sees
model time only.

Back-pressure: whoever serves the request says when it cannot take more of its body, and is told
when the caller cannot take more of the response.

References
----------
Envoy, api/envoy/extensions/filters/network/http_connection_manager/v3
(request_headers_timeout, stream_idle_timeout 5 minutes, delayed_close_timeout 1 s).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol, cast

from emulator.http.bodies import CHUNKED, UNTIL_CLOSE, Body, HttpError, body_of
from emulator.http.connection import reset_transport
from emulator.http.heads import (
    CONTINUE,
    LAST_CHUNK,
    RequestHead,
    ResponseHead,
    encode_chunk,
    encode_headers,
    encode_own_response,
    encode_status_line,
    parse_request_head,
    split_head,
)

if TYPE_CHECKING:
    from emulator.proxy.downstream import Downstream

__all__ = [
    "BODY_TIMEOUT_S",
    "CLOSE_TIMEOUT_S",
    "HEAD_TIMEOUT_S",
    "DownstreamConnection",
    "Exchange",
]

#: Longest time for a request's head, from its first byte (real time) [s].
HEAD_TIMEOUT_S = 10.0
#: Longest time without a byte of a body that is not complete (real time) [s].
BODY_TIMEOUT_S = 300.0
#: How long a caller may take to read the last answer before its connection is cut [s].
CLOSE_TIMEOUT_S = 1.0


class Exchange(Protocol):
    """Whoever serves one request."""

    def on_request_body(self, piece: bytes) -> None:
        """Take more of the request's body."""

    def on_request_end(self) -> None:
        """Take the end of the request."""

    def on_downstream_lost(self) -> None:
        """Give up: the caller is gone."""

    def on_downstream_writable(self, writable: bool) -> None:
        """Send more of the response, or for now do not."""


class DownstreamConnection(asyncio.Protocol):
    """One caller's connection.

    Parameters
    ----------
    downstream : Downstream
        The listener it belongs to.
    """

    __slots__ = (
        "_body",
        "_chunked",
        "_close_after",
        "_downstream",
        "_exchange",
        "_head",
        "_lingering",
        "_moved",
        "_out",
        "_paused",
        "_pauses",
        "_reading",
        "_rest",
        "_started",
        "_timer",
        "_transport",
        "number",
        "peer",
        "writable",
    )

    def __init__(self, downstream: Downstream) -> None:
        self._downstream = downstream
        self._transport: asyncio.Transport | None = None
        self._rest = b""  # received and not used
        self._head: RequestHead | None = None
        self._body: Body | None = None  # of a request that is not complete
        self._exchange: Exchange | None = None
        self._out: list[bytes] = []  # written together
        self._started = False  # the response has begun
        self._chunked = False
        self._close_after = False
        self._lingering = False  # answered for the last time; what still comes is dropped
        self._reading = False  # inside `_read`
        self._paused = False  # the transport is told not to read
        self._pauses = False  # the exchange takes no more of the body
        self._moved = False  # something came since the body's timer was set
        self._timer: asyncio.TimerHandle | None = None
        self.writable = True
        self.peer: object = None  # who the listener says it is
        self.number = 0  # of the connections of the listener, from 1

    # --- asyncio ---------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count the connection; close it if there are too many or the proxy drains."""
        downstream = self._downstream
        self._transport = cast(asyncio.Transport, transport)
        downstream.counts["downstream_cx_total"] += 1
        self.number = downstream.counts["downstream_cx_total"]
        if downstream.draining or len(downstream.connections) >= downstream.max_connections:
            downstream.counts["downstream_cx_overflow"] += 1
            self._transport.abort()
            self._transport = None
            return
        downstream.connections.add(self)

    def data_received(self, data: bytes) -> None:
        """Read what came, if it is its turn."""
        if self._lingering:
            return
        self._rest = self._rest + data if self._rest else data
        self._moved = True
        self._read()

    def connection_lost(self, exc: Exception | None) -> None:
        """Give up the request under way."""
        self._transport = None
        self._lingering = True
        self._stop_timer()
        self._rest = b""
        self._downstream.lost(self)
        exchange = self._exchange
        self._exchange = None
        if exchange is not None:
            exchange.on_downstream_lost()

    def pause_writing(self) -> None:
        """Tell the exchange that the caller reads slower than the response comes."""
        self.writable = False
        if self._exchange is not None:
            self._exchange.on_downstream_writable(False)

    def resume_writing(self) -> None:
        """Tell the exchange that the caller has caught up."""
        self.writable = True
        if self._exchange is not None:
            self._exchange.on_downstream_writable(True)

    # --- Reading ---------------------------------------------------------------------------

    def _read(self) -> None:
        """Use what was received as far as possible."""
        if self._reading:
            return
        self._reading = True
        try:
            while self._rest and not self._lingering and self._read_some():
                pass
        except HttpError as error:
            self._refuse(error.status)
        finally:
            self._reading = False
        self._update()

    def _read_some(self) -> bool:
        """Read one head or a part of a body; return whether something was used."""
        data = self._rest
        if self._body is not None:
            piece, at = self._body.take(data, 0)
            self._rest = data[at:]
            exchange = self._exchange
            if piece and exchange is not None:
                exchange.on_request_body(piece)
            if self._body is not None and self._body.done:
                self._body = None
                if exchange is not None:
                    exchange.on_request_end()
            return at > 0
        if self._exchange is not None:
            return False
        if data.startswith(b"\r\n"):  # RFC 9112, 2.2: empty lines before a request
            self._rest = data[2:]
            return True
        end = split_head(data, 0)
        if end < 0:
            return False
        self._rest = data[end:]
        self._begin(parse_request_head(data[:end]))
        return True

    def _begin(self, head: RequestHead) -> None:
        self._stop_timer()
        self._head = head
        self._started = False
        self._chunked = False
        self._close_after = not head.keep_alive
        self._downstream.began()
        if head.length != 0:
            self._body = body_of(head.length)
            if head.expects_continue and not self._rest:
                self._write(CONTINUE)
        exchange = self._downstream.begin(head, self)
        # An exchange that was answered at once has ended already.
        if self._head is head:
            self._exchange = exchange
            if self._body is None:
                exchange.on_request_end()
            elif not self.writable:
                exchange.on_downstream_writable(False)

    def _update(self) -> None:
        """Read on or not, and watch over what is incomplete."""
        transport = self._transport
        if transport is None or self._lingering:
            return
        served = self._exchange is not None
        pause = served and (self._pauses or (self._body is None and bool(self._rest)))
        if pause != self._paused:
            self._paused = pause
            if pause:
                transport.pause_reading()
            else:
                transport.resume_reading()
        incomplete = self._body is not None or (bool(self._rest) and not served)
        if incomplete and self._timer is None:
            self._start_timer()
        elif not incomplete and self._timer is not None:
            self._stop_timer()

    def _start_timer(self) -> None:
        loop = asyncio.get_running_loop()
        self._moved = False
        if self._body is None:
            self._timer = loop.call_later(HEAD_TIMEOUT_S, self._on_head_timeout)
        else:
            self._timer = loop.call_later(BODY_TIMEOUT_S, self._on_body_timeout)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_head_timeout(self) -> None:
        self._timer = None
        self._refuse(408)

    def _on_body_timeout(self) -> None:
        self._timer = None
        if self._moved or self._pauses:
            self._start_timer()
        else:
            self._refuse(408)

    def _refuse(self, status: int) -> None:
        """Answer a request that cannot be read, and close."""
        self._downstream.counts[f"refused_{status}"] += 1
        exchange = self._exchange
        self._exchange = None
        if exchange is not None:
            exchange.on_downstream_lost()
        if self._started:
            self.cut()
            return
        self._write(encode_own_response(status, (), close=True))
        self._close_gently()

    # --- For the exchange ------------------------------------------------------------------

    def pause_body(self) -> None:
        """Take no more of the request's body for now."""
        self._pauses = True
        self._update()

    def resume_body(self) -> None:
        """Take the request's body again."""
        if self._pauses:
            self._pauses = False
            self._update()

    def respond(self, status: int, headers: tuple[tuple[bytes, bytes], ...]) -> None:
        """Answer the request without an upstream; the exchange has ended."""
        self._begin_answer()
        self._out.append(encode_own_response(status, headers, self._close_after))
        self._end_answer()

    def start_response(self, head: ResponseHead, extra: bytes) -> None:
        """Begin to pass on a response; `extra` are header lines of the proxy."""
        self._begin_answer()
        request = cast(RequestHead, self._head)
        framing = b""
        if head.length in (CHUNKED, UNTIL_CLOSE):
            if request.http10:
                self._close_after = True
            else:
                self._chunked = True
                framing = b"transfer-encoding: chunked\r\n"
        elif head.content_length is not None and head.status != 204:
            framing = b"content-length: %d\r\n" % head.content_length
        if self._close_after:
            framing += b"connection: close\r\n"
        elif request.http10:
            framing += b"connection: keep-alive\r\n"
        self._out += (
            encode_status_line(head.status),
            encode_headers(head.headers),
            extra,
            framing,
            b"\r\n",
        )

    def write_body(self, piece: bytes) -> None:
        """Pass on a part of the response's body, which is not empty."""
        self._out.append(encode_chunk(piece) if self._chunked else piece)

    def flush(self) -> None:
        """Write what was passed on so far."""
        if self._out:
            data = b"".join(self._out)
            self._out.clear()
            self._write(data)

    def end_response(self) -> None:
        """End the response; the exchange has ended."""
        if self._chunked:
            self._out.append(LAST_CHUNK)
        self._end_answer()

    def cut(self) -> None:
        """Close without completing the response, so that the caller sees it is not whole."""
        self._exchange = None
        self._lingering = True
        self._stop_timer()
        if self._transport is not None:
            self._transport.abort()

    def _begin_answer(self) -> None:
        self._started = True
        # The rest of a request that is answered early is not waited for.
        if self._body is not None or self._downstream.draining:
            self._close_after = True

    def _end_answer(self) -> None:
        self.flush()
        self._exchange = None
        self._head = None
        self._started = False
        self._pauses = False
        if self._close_after:
            self._close_gently()
        elif not self._reading:
            self._read()

    # --- Closing ---------------------------------------------------------------------------

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def _close_gently(self) -> None:
        """Close after the answer; if more is coming, let the caller read the answer first.

        Closing a socket with unread bytes resets the connection and may destroy the answer.
        """
        transport = self._transport
        whole = self._body is None and not self._rest and self._head is None
        self._lingering = True
        self._stop_timer()
        self._rest = b""
        if transport is None:
            return
        if whole:
            transport.close()
            return
        if transport.can_write_eof():
            transport.write_eof()
        if self._paused:
            self._paused = False
            transport.resume_reading()
        self._timer = asyncio.get_running_loop().call_later(CLOSE_TIMEOUT_S, transport.abort)

    def close_if_idle(self) -> None:
        """Close if no request is under way."""
        if self._exchange is None and not self._rest and not self._lingering:
            self._close_gently()

    def reset(self) -> None:
        """Close at once with a TCP reset."""
        if self._transport is not None:
            reset_transport(self._transport)
