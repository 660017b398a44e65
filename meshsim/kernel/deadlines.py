"""Deadlines that travel with calls: who hears of them, and when they end something.

Rule: `meshsim.policy.timeout` says what a deadline does.  A server that minds deadlines takes that
of the try it serves, passes it on with every call that it makes for it, and lets nothing wait in
its queue beyond it, unless its `on_timeout` is to continue.  Deadlines come in no order, so each
is an event, and costs nothing where nobody minds.
"""

from __future__ import annotations

from typing import Any

from meshsim.jit import kernel_jit
from meshsim.kernel.events import DEADLINE, NOTHING, ROUTE_TIMER, pack, schedule
from meshsim.kernel.timers import start_timer
from meshsim.state.codes import HEDGE_ON_PER_TRY_TIMEOUT, NEVER_NS, NO_INDEX

__all__ = ["keep_deadline", "take_deadline"]


@kernel_jit
def take_deadline(state: Any, task: int, generation: int) -> int:
    """Let `task` have the deadline of the try that it serves."""
    attempt = state.tasks["attempt"][task]
    exchange = state.attempts["exchange"][attempt]
    route = state.exchanges["route"][exchange]
    deadline_ns = state.exchanges["deadline_ns"][exchange]
    hedges = state.routes["hedging"][route] == HEDGE_ON_PER_TRY_TIMEOUT
    if state.attempts["timer"][attempt] != NO_INDEX and not hedges:
        deadline_ns = min(deadline_ns, state.attempts["deadline_ns"][attempt])
    state.tasks["deadline_ns"][task] = deadline_ns
    return NOTHING


@kernel_jit
def keep_deadline(state: Any, exchange: int, generation: int) -> int:
    """Wake `exchange`, which brought a deadline and is routed, when its time is over."""
    exchanges = state.exchanges
    deadline_ns = exchanges["deadline_ns"][exchange]
    now_ns = state.counters["now_ns"][0]
    route = exchanges["route"][exchange]
    timer = state.routes["timeout_timer"][route]
    if timer != NO_INDEX and deadline_ns == now_ns + state.timers["duration_ns"][timer]:
        start_timer(state, timer, exchanges, exchange, ROUTE_TIMER)
    elif deadline_ns != NEVER_NS:
        schedule(state, deadline_ns, pack(DEADLINE, exchange, exchanges["generation"][exchange]))
    return NOTHING
