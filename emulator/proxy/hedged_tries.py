"""What an exchange does on a route that hedges: sets tries aside, and adopts the one that wins.

Rule: `emulator.proxy.hedging`.  Only a request that is whole, and whose body is kept, gets tries
side by side; a per-try timeout then runs from the moment both hold, as Envoy's does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from emulator.decisions.engine import Decision, ProxyEngine
from emulator.http.connection import UpstreamClient, UpstreamConnection
from emulator.http.heads import ResponseHead
from emulator.proxy.account import TimeAccount
from emulator.proxy.hedging import EarlierTry, Hedging, Owner
from emulator.proxy.kept_body import KeptBody
from emulator.proxy.services import ProxyServices
from emulator.proxy.upstream import UpstreamPools
from meshsim.policy.transitions import (
    ACTION_BACK_OFF,
    ACTION_SEND,
    STIMULUS_HEDGE_DUE,
    STIMULUS_SOFT_PER_TRY_TIMEOUT,
)
from meshsim.state.codes import HEDGE_NEVER, NEVER_NS

__all__ = ["HedgedTries"]


class HedgedTries:
    """The part of an exchange that knows of its earlier tries."""

    __slots__ = (
        "_account", "_back_off_timer", "_body", "_connection", "_engine", "_hedging", "_host",
        "_id", "_now_ns", "_pools", "_services", "_try_deadline_ns", "_try_timer", "_waiting",
    )  # fmt: skip

    _account: TimeAccount
    _back_off_timer: asyncio.TimerHandle | None
    _body: KeptBody
    _connection: UpstreamConnection | None
    _engine: ProxyEngine
    _hedging: Hedging | None
    _host: int
    _id: int
    _now_ns: Callable[[], int]
    _pools: UpstreamPools
    _services: ProxyServices
    _try_deadline_ns: int
    _try_timer: asyncio.TimerHandle | None
    _waiting: bool
    _act: Any
    _back_off: Any
    _give_up_try: Any
    _pass_down: Any
    _send: Any
    _call_at: Any
    _on_route_timeout: Any
    _on_try_timeout: Any
    _stop_try_timer: Any
    _tell: Any
    _write_try: Any

    def _begin_hedging(self) -> None:
        """Prepare for tries side by side, if the route wants them."""
        mode = self._engine.hedging(self._id)
        if mode != HEDGE_NEVER:
            self._hedging = Hedging(cast(Owner, self), self._services, self._id, mode)

    def _set_aside(self) -> None:
        """Let the newest try, if it is under way, go on beside another."""
        hedging, connection = self._hedging, self._connection
        if hedging is None or not (self._waiting or connection is not None):
            return
        self._stop_try_timer()
        deadline_ns = NEVER_NS if hedging.is_soft or self._waiting else self._try_deadline_ns
        one = EarlierTry(hedging, self._host, connection, self._account.sent_ns, deadline_ns)
        if connection is None:
            self._pools.stand_in(self._host, cast(UpstreamClient, self), one)
        else:
            connection.hand_over(one)
        hedging.earlier.append(one)
        self._waiting = False
        self._connection = None

    def _limit_try(self, deadline_ns: int) -> int:
        """Start the timer of the newest try; return when it must end [ns]."""
        self._try_deadline_ns = deadline_ns
        soft = self._hedging is not None and self._hedging.is_soft
        if self._body.is_whole or not soft:
            self._start_try_timer()
        return NEVER_NS if soft else deadline_ns

    def _start_try_timer(self) -> None:
        self._try_timer = self._call_at(self._try_deadline_ns, self._on_try_timeout)

    def _on_soft_timeout(self) -> None:
        """Let another try follow the newest, which is late and goes on."""
        if self._body.is_kept:
            decision = self._tell(STIMULUS_SOFT_PER_TRY_TIMEOUT)
            if decision.action == ACTION_BACK_OFF:
                self._set_aside()
                self._back_off(decision)

    def _on_request_complete(self) -> None:
        """Let time run for tries side by side, now that the request is whole."""
        hedging = self._hedging
        if hedging is None:
            return
        if not hedging.is_soft:
            hedging.plan()
        elif self._connection is not None and self._try_deadline_ns != NEVER_NS:
            self._try_deadline_ns += self._now_ns() - self._account.sent_ns
            self._start_try_timer()

    # --- As the owner of earlier tries -----------------------------------------------------

    def on_copy_due(self) -> None:
        """Send another copy, if one may be sent."""
        if not self._body.is_whole or not self._body.is_kept or self._hedging is None:
            return
        decision = self._tell(STIMULUS_HEDGE_DUE)
        if decision.action == ACTION_SEND:
            self._send(self._now_ns())
        else:
            self._hedging.plan()

    def act(self, decision: Decision) -> None:
        """Carry out what the machine said to the end of an earlier try."""
        self._act(decision)

    def send_over(self, connection: UpstreamConnection) -> None:
        """Send the request over the connection that an earlier try waited for."""
        self._write_try(connection, NEVER_NS)

    def adopt(self, one: EarlierTry, head: ResponseHead, decision: Decision) -> None:
        """Answer with the response of an earlier try, and give up the newest."""
        self._give_up_try(head.status >= 500)
        if self._back_off_timer is not None:
            self._back_off_timer.cancel()
            self._back_off_timer = None
        self._connection = one.connection
        self._host = one.host
        self._account.sent_ns = one.sent_ns
        self._account.endpoint = self._engine.address(one.host).name
        self._pass_down(head, decision.response_flag)
