"""The tries of one request beside its newest, on a route that hedges (`meshsim.policy.hedging`).

Rule: an exchange (`emulator.proxy.exchange`) holds its newest try itself.  When another try is to
follow one that goes on, that one is set aside: it keeps its connection, or its place among those
that wait for one, and tells the machine of its own end.  One that wins takes the place of the
newest, and all others are given up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from emulator.decisions.engine import Decision
from emulator.http.connection import UpstreamConnection
from emulator.http.heads import ResponseHead
from emulator.proxy.services import ProxyServices
from meshsim.policy.transitions import (
    ACTION_RESPOND,
    STIMULUS_EARLIER_RESET,
    STIMULUS_EARLIER_RESPONSE,
    STIMULUS_PER_TRY_TIMEOUT,
    STIMULUS_RESET,
    STIMULUS_RESPONSE,
)
from meshsim.state.codes import (
    HEDGE_ON_PER_TRY_TIMEOUT,
    NEVER_NS,
    RESET_NONE,
    RESET_RATELIMITED,
    RESET_REMOTE,
)

__all__ = ["EarlierTry", "Hedging", "Owner", "reset_mark"]


def reset_mark(head: ResponseHead) -> int:
    """Return what the machine is told beside the status of a response."""
    limited = any(name == b"x-envoy-ratelimited" for name, _ in head.headers)
    return RESET_RATELIMITED if limited else RESET_NONE


class Owner(Protocol):
    """The exchange that tries belong to."""

    def send_over(self, connection: UpstreamConnection) -> None:
        """Send the request, as it is kept, over the connection that a try waited for."""

    def act(self, decision: Decision) -> None:
        """Carry out what the machine said to the end of an earlier try."""

    def adopt(self, one: EarlierTry, head: ResponseHead, decision: Decision) -> None:
        """Answer with the response of an earlier try."""

    def on_copy_due(self) -> None:
        """Send another copy, if one may be sent."""

    def on_response_body(self, piece: bytes) -> None:
        """More of the answer came."""

    def on_response_pause(self) -> None:
        """No more of it was received yet."""

    def on_response_end(self, reusable: bool) -> None:
        """Take the end of the answer."""

    def on_reset(self) -> None:
        """Do without the connection: the answer broke off."""

    def on_upstream_writable(self, writable: bool) -> None:
        """Send more of the request, or for now do not."""


class Hedging:
    """How one exchange hedges, and its tries beside the newest.

    Parameters
    ----------
    owner : Owner
    services : ProxyServices
    exchange : int
        As the engine numbers it.
    mode : int
        `HEDGE_*` code.
    """

    def __init__(self, owner: Owner, services: ProxyServices, exchange: int, mode: int) -> None:
        self.owner = owner
        self.services = services
        self.exchange = exchange
        self.is_soft = mode == HEDGE_ON_PER_TRY_TIMEOUT
        self.earlier: list[EarlierTry] = []
        self._timer: asyncio.TimerHandle | None = None

    def call_at(self, time_ns: int, callback: Callable[[], object]) -> asyncio.TimerHandle:
        """Call back at a model time."""
        return self.services.clock.call_at(asyncio.get_running_loop(), time_ns, callback)

    def plan(self) -> None:
        """Wake the exchange when its next copy is due, if there is one."""
        self._stop_timer()
        if not self.is_soft:
            due_ns = self.services.engine.hedge_due_ns(self.exchange)
            if due_ns != NEVER_NS:
                self._timer = self.call_at(due_ns, self.owner.on_copy_due)

    def tell(self, one: EarlierTry, stimulus: int, status: int, reset: int) -> Decision:
        """Tell the machine what happened to an earlier try."""
        if self.is_soft:
            earlier = {
                STIMULUS_RESPONSE: STIMULUS_EARLIER_RESPONSE,
                STIMULUS_RESET: STIMULUS_EARLIER_RESET,
            }
            stimulus = earlier[stimulus]
        now_ns = self.services.clock.now_ns()
        return self.services.engine.tell_of(
            self.exchange, one.host, stimulus, status, reset, now_ns
        )

    def give_up(self, failed: bool) -> None:
        """Give up every try set aside, and send no more copies."""
        self._stop_timer()
        while self.earlier:
            self.earlier.pop().give_up(failed)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class EarlierTry:
    """A try that another has followed.

    Parameters
    ----------
    hedging : Hedging
    host : int
    connection : UpstreamConnection or None
        None: it waits for one.
    sent_ns : int
        When it was sent [ns].
    deadline_ns : int
        When it times out for good [ns]; `NEVER_NS`: with the request.
    """

    __slots__ = ("_discarding", "_hedging", "_timer", "_won", "connection", "host", "sent_ns",
                 "status")  # fmt: skip

    def __init__(
        self,
        hedging: Hedging,
        host: int,
        connection: UpstreamConnection | None,
        sent_ns: int,
        deadline_ns: int,
    ) -> None:
        self._hedging = hedging
        self.host = host
        self.connection = connection
        self.sent_ns = sent_ns
        self.status = 0
        self._discarding = False
        self._won = False
        self._timer: asyncio.TimerHandle | None = None
        self._time(deadline_ns)

    def _time(self, deadline_ns: int) -> None:
        if deadline_ns != NEVER_NS:
            self._timer = self._hedging.call_at(deadline_ns, self._on_timeout)

    # --- As a client of its connection -----------------------------------------------------

    def on_connection(self, connection: UpstreamConnection) -> None:
        """Send the try, which waited, over `connection`."""
        hedging = self._hedging
        self.connection = connection
        self.sent_ns = now_ns = hedging.services.clock.now_ns()
        deadline_ns = hedging.services.engine.sent(hedging.exchange, self.host, now_ns)
        self._time(deadline_ns)
        hedging.owner.send_over(connection)
        connection.hand_over(self)

    def on_refused(self, reset: int) -> None:
        """Tell the machine that the try will have no connection."""
        self._lost(STIMULUS_RESET, reset)

    def on_reset(self) -> None:
        """Tell the machine that the try's connection was lost."""
        if self._won:
            self._hedging.owner.on_reset()
        elif self._discarding:
            self._discount("response", True)
        else:
            self._lost(STIMULUS_RESET, RESET_REMOTE)

    def on_response_head(self, head: ResponseHead) -> None:
        """Decide what becomes of the response."""
        self._stop_timer()
        self._hedging.earlier.remove(self)
        self.status = head.status
        decision = self._hedging.tell(self, STIMULUS_RESPONSE, head.status, reset_mark(head))
        if decision.action == ACTION_RESPOND:
            self._won = True
            self._hedging.owner.adopt(self, head, decision)
        else:
            self._discarding = True
            self._hedging.owner.act(decision)

    def on_response_body(self, piece: bytes) -> None:
        """Pass a part of the answer on, if this is it."""
        if self._won:
            self._hedging.owner.on_response_body(piece)

    def on_response_pause(self) -> None:
        """Close the connection of a response that is dropped and not whole."""
        if self._won:
            self._hedging.owner.on_response_pause()
        elif self._discarding:
            self._discount("response", True)

    def on_response_end(self, reusable: bool) -> None:
        """Pass the connection on."""
        if self._won:
            self._hedging.owner.on_response_end(reusable)
        elif self.connection is not None:
            self._discount("response", self.status >= 500, reusable)

    def on_upstream_writable(self, writable: bool) -> None:
        """Go on: what is to be sent is handed over already."""

    # --- Its end ---------------------------------------------------------------------------

    def give_up(self, failed: bool) -> None:
        """Wait no longer; another try was better, or all have failed."""
        self._stop_timer()
        if self.connection is None:
            self._hedging.services.pools.leave(self.host, self)
        else:
            self._discount("abandoned", failed)

    def _on_timeout(self) -> None:
        self._timer = None
        self._discount("abandoned", True)
        self._lost(STIMULUS_PER_TRY_TIMEOUT, RESET_NONE)

    def _lost(self, stimulus: int, reset: int) -> None:
        """End without a response."""
        self._stop_timer()
        self._hedging.earlier.remove(self)
        decision = self._hedging.tell(self, stimulus, 0, reset)
        self._discount("abandoned", True)
        self._hedging.owner.act(decision)

    def _discount(self, outcome: str, failed: bool, reusable: bool = False) -> None:
        """Tell the engine that the try is over, and let go of its connection."""
        connection = self.connection
        if connection is None:
            return
        self.connection = None
        hedging = self._hedging
        now_ns = hedging.services.clock.now_ns()
        rtt_ns = now_ns - self.sent_ns
        hedging.services.engine.ended(hedging.exchange, self.host, outcome, failed, rtt_ns, now_ns)
        if reusable:
            hedging.services.pools.give_back(connection, True)
        else:
            hedging.services.pools.close(connection)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
