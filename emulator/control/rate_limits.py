"""The rate limit service: what all proxies ask before they forward a request of a limited route.

Rule: one connection a proxy, one question a line, as many under way as the proxy likes, as with
Envoy's gRPC stream.  A question is counted when it comes
(`emulator.decisions.rate_limit_service`); its answer leaves when the latency that it names has
passed, in model time.  A line that is no question closes its connection, and so does a flood.

The lines are JSON: ``{"id", "domain", "descriptors", "latency_ns"}`` and ``{"id", "code"}``, with
the codes of Envoy's RateLimitResponse.

References
----------
Envoy, api/envoy/service/ratelimit/v3/rls.proto.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from emulator.clock import ModelClock
from emulator.decisions.exchanges import EXCHANGES_MAX
from emulator.decisions.quotas import Question
from emulator.decisions.rate_limit_service import RateLimitService
from meshsim.errors import LimitError
from meshsim.policy.global_rate_limit import SERVICE_OK, SERVICE_OVER_LIMIT

__all__ = ["LINE_BYTES_MAX", "RateLimitServer", "decode_answer", "encode_question"]

#: Longest line: descriptors with the values of long headers [bytes].
LINE_BYTES_MAX = 1 << 20
_CODES = {SERVICE_OK: "OK", SERVICE_OVER_LIMIT: "OVER_LIMIT"}
_ANSWERS = {code.encode(): answer for answer, code in _CODES.items()}
_REHEARSED = (((), (), "DAY", 1),)
_LATENCY_NS_MAX = 2**62


def encode_question(number: int, question: Question) -> bytes:
    """Return the line that asks `question`, whose answer will name `number`."""
    domain, descriptors, latency_ns = question
    line = {"id": number, "domain": domain, "descriptors": descriptors, "latency_ns": latency_ns}
    return json.dumps(line, separators=(",", ":")).encode() + b"\n"


def decode_answer(line: bytes) -> tuple[int, int]:
    """Return number and SERVICE_OK or SERVICE_OVER_LIMIT of an answer.

    Raises
    ------
    ValueError
        If it is none.
    """
    value = json.loads(line)
    number, code = (value.get("id"), value.get("code")) if isinstance(value, dict) else (0, 0)
    if type(number) is not int or not isinstance(code, str) or code.encode() not in _ANSWERS:
        raise ValueError("no answer")
    return number, _ANSWERS[code.encode()]


class _Session(asyncio.Protocol):
    """The questions of one proxy."""

    def __init__(self, server: RateLimitServer) -> None:
        self._server = server
        self._rest = b""
        self._timers: dict[int, asyncio.TimerHandle] = {}
        self.closed = asyncio.Event()
        self._transport: asyncio.Transport

    def connection_made(self, transport: Any) -> None:
        """Take the connection."""
        self._transport = transport
        self._server.sessions.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        """Forget the answers that nobody waits for."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._server.sessions.discard(self)
        self.closed.set()

    def data_received(self, data: bytes) -> None:
        """Answer each line that is complete."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        try:
            for line in lines:
                self._ask(json.loads(line))
        except (ValueError, KeyError, TypeError, RecursionError, LimitError):
            self.abort()
        if len(self._rest) > LINE_BYTES_MAX:
            self.abort()

    def _ask(self, value: dict[str, Any]) -> None:
        number, domain, latency_ns = value["id"], value["domain"], value["latency_ns"]
        good = type(number) is int and isinstance(domain, str) and type(latency_ns) is int
        if not good or not 0 <= latency_ns < _LATENCY_NS_MAX or number in self._timers:
            raise ValueError("no question")
        if len(self._timers) >= EXCHANGES_MAX:
            raise LimitError(f"more than {EXCHANGES_MAX} questions under way")
        clock = self._server.clock
        now_ns = clock.now_ns()
        answer = self._server.service.count(domain, value["descriptors"], now_ns)
        line = b'{"id":%d,"code":"%b"}\n' % (number, _CODES[answer].encode())
        if latency_ns == 0:
            self._transport.write(line)
            return
        loop = asyncio.get_running_loop()
        answered_ns = now_ns + latency_ns
        self._timers[number] = clock.call_at(loop, answered_ns, self._answer, number, line)

    def _answer(self, number: int, line: bytes) -> None:
        del self._timers[number]
        self._transport.write(line)

    def abort(self) -> None:
        """Close the connection at once."""
        self._transport.abort()


class RateLimitServer:
    """The sockets of one rate limit service.

    Parameters
    ----------
    service : RateLimitService
        Counts.
    clock : ModelClock
        Model time.
    host : str
        Address to listen on.
    """

    def __init__(
        self, service: RateLimitService, clock: ModelClock, host: str = "127.0.0.1"
    ) -> None:
        self.service = service
        self.clock = clock
        self.sessions: set[_Session] = set()
        self._host = host
        self._server: asyncio.Server | None = None

    async def start(self) -> tuple[str, int]:
        """Listen on any port; return address and port."""
        RateLimitService(0).count("", _REHEARSED, 0)  # the first question does not wait for it
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Session(self), self._host, 0)
        return self._host, self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Close every socket."""
        if self._server is not None:
            self._server.close()
            for session in list(self.sessions):
                session.abort()
                await session.closed.wait()
            self._server = None
