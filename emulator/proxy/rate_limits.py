"""One proxy's connection to the rate limit service.

Rule: the first question opens the connection, which is kept; questions that come before it is
open wait for it.  An answer that has not come by its deadline, a connection that is refused or
lost, and a service that there is none of, are all `SERVICE_FAILED`: what that means for the
request the engine decides.  Whoever asked is told once, and never while it asks.

References
----------
Envoy, source/extensions/filters/common/ratelimit/ratelimit_impl.cc (onFailure).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeAlias

from emulator.clock import ModelClock
from emulator.control.rate_limits import LINE_BYTES_MAX, decode_answer, encode_question
from emulator.decisions.quotas import Question
from meshsim.policy.global_rate_limit import SERVICE_FAILED

__all__ = ["Asked", "RateLimits"]

#: Told SERVICE_OK, SERVICE_OVER_LIMIT or SERVICE_FAILED.
OnAnswer: TypeAlias = Callable[[int], object]


class Asked:
    """One question under way."""

    __slots__ = ("_number", "_on_answer", "_owner", "timer")

    def __init__(self, owner: RateLimits, number: int, on_answer: OnAnswer) -> None:
        self._owner = owner
        self._number = number
        self._on_answer = on_answer
        self.timer: asyncio.TimerHandle | None = None

    def cancel(self) -> None:
        """Wait no longer."""
        self._owner.forget(self._number)
        if self.timer is not None:
            self.timer.cancel()

    def end(self, answer: int) -> None:
        """Tell whoever asked."""
        self.cancel()
        self._on_answer(answer)


class RateLimits(asyncio.Protocol):
    """What one proxy asks the rate limit service.

    Parameters
    ----------
    clock : ModelClock
        Model time, of which deadlines are.
    address : (str, int), optional
        Where the service listens; None: there is none.
    """

    def __init__(self, clock: ModelClock, address: tuple[str, int] | None) -> None:
        self._clock = clock
        self._address = address
        self._asked: dict[int, Asked] = {}
        self._count = 0
        self._connecting: asyncio.Task[None] | None = None
        self._transport: asyncio.Transport | None = None
        self._waiting: list[bytes] = []
        self._rest = b""

    def ask(self, question: Question, deadline_ns: int, on_answer: OnAnswer) -> Asked:
        """Ask `question`; `on_answer` is told by model time `deadline_ns`."""
        self._count += 1
        number = self._count
        asked = self._asked[number] = Asked(self, number, on_answer)
        loop = asyncio.get_running_loop()
        if self._address is None:
            loop.call_soon(self._fail, number)
            return asked
        asked.timer = self._clock.call_at(loop, deadline_ns, self._fail, number)
        line = encode_question(number, question)
        if self._transport is not None:
            self._transport.write(line)
            return asked
        self._waiting.append(line)
        if self._connecting is None:
            self._connecting = loop.create_task(self._connect(self._address))
        return asked

    def forget(self, number: int) -> None:
        """Wait no longer for an answer."""
        self._asked.pop(number, None)

    def _fail(self, number: int) -> None:
        asked = self._asked.get(number)
        if asked is not None:
            asked.end(SERVICE_FAILED)

    def _fail_all(self) -> None:
        for number in list(self._asked):
            self._fail(number)

    async def _connect(self, address: tuple[str, int]) -> None:
        try:
            await asyncio.get_running_loop().create_connection(lambda: self, *address)
        except OSError:
            self._waiting.clear()
            self._connecting = None
            self._fail_all()

    def abort(self) -> None:
        """Close the connection; nobody is told any more."""
        for asked in list(self._asked.values()):
            asked.cancel()
        self._address = None
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None
        if self._transport is not None:
            self._transport.abort()

    # --- The connection --------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        """Ask what waits."""
        self._connecting = None
        self._transport = transport
        if self._address is None:  # aborted meanwhile
            transport.abort()
            return
        transport.write(b"".join(self._waiting))
        self._waiting.clear()

    def data_received(self, data: bytes) -> None:
        """Tell the answers that are complete."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        try:
            for line in lines:
                number, answer = decode_answer(line)
                asked = self._asked.get(number)
                if asked is not None:
                    asked.end(answer)
        except ValueError:
            self._lose()
        if len(self._rest) > LINE_BYTES_MAX:
            self._lose()

    def _lose(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        """Fail what is under way; the next question opens a new connection."""
        self._transport = None
        self._rest = b""
        self._fail_all()
