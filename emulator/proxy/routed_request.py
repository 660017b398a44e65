"""What an exchange does before its first try: it is routed, delayed, asked about, and copied.

Rule: the engine says what comes next (`emulator.decisions.routing`).  A delay is waited out, and
the rate limit service is asked and waited for (`emulator.proxy.rate_limits`); neither is part of
the time that a route's timeout allows, which begins when the request is sent on.
"""

from __future__ import annotations

import asyncio

from emulator.decisions.engine import Decision
from emulator.decisions.exchanges import ASK
from emulator.http.heads import RequestHead
from emulator.proxy.hedged_tries import HedgedTries
from emulator.proxy.rate_limits import Asked
from meshsim.policy.transitions import ACTION_SEND
from meshsim.state.codes import NEVER_NS

__all__ = ["RoutedRequest"]


class RoutedRequest(HedgedTries):
    """The part of an exchange that comes before its first try."""

    __slots__ = (
        "_asked", "_copied", "_deadline_ns", "_ended", "_head", "_paced", "_route_timer", "_values",
    )  # fmt: skip

    _asked: Asked | None
    _copied: bool
    _deadline_ns: int
    _ended: bool
    _head: RequestHead
    _paced: bool
    _route_timer: asyncio.TimerHandle | None
    _values: dict[bytes, bytes]

    def _route(self, now_ns: int) -> None:
        """Route the request, or go on with one that was delayed."""
        self._back_off_timer = None
        self._on_routed(self._engine.route(self._id, now_ns), now_ns)

    def _on_routed(self, decision: Decision, now_ns: int) -> None:
        """Do what was decided of the request as a whole: send its first try, if it may pass."""
        if decision.action == ASK:
            question = self._engine.question(self._id)
            limits = self._services.rate_limits
            self._asked = limits.ask(question, decision.deadline_ns, self._on_heard)
            return
        if decision.action != ACTION_SEND:
            self._act(decision)
            return
        self._deadline_ns = self._engine.exchange_deadline_ns(self._id)
        if self._deadline_ns != NEVER_NS:
            self._route_timer = self._call_at(self._deadline_ns, self._on_route_timeout)
        self._paced = self._engine.is_paced(self._id)
        self._copied = self._engine.mirror_count(self._id) == 0
        self._begin_hedging()
        self._send(now_ns)
        self._copy_if_complete()

    def _on_heard(self, answer: int) -> None:
        """Go on with what the rate limit service said."""
        self._asked = None
        now_ns = self._now_ns()
        self._on_routed(self._engine.heard(self._id, answer, now_ns), now_ns)

    def _on_delay_expired(self) -> None:
        self._route(self._now_ns())

    def _copy_if_complete(self) -> None:
        """Send copies to the mirrors of the route, once the request is complete."""
        if self._body.is_whole and not self._copied and not self._ended:
            self._copied = True
            if self._body.is_kept:
                self._services.mirror(self._id, self._head, self._values, tuple(self._body.pieces))
