"""Tries of one request after the first, and side by side: timeouts, retries, hedges.

Rule: what is to be done is decided by `meshsim.policy.request`; hedging is explained in
`meshsim.policy.hedging`.  Of tries side by side only the one that is answered with counts in the
breakdown of a latency: their times overlap.
"""

from __future__ import annotations

from typing import Any

from meshsim.jit import kernel_jit, kernel_jit_inline
from meshsim.kernel.attempts import abandon, settle
from meshsim.kernel.events import (
    HEDGE_DUE,
    NOTHING,
    ROUTE,
    STIMULATE,
    pack,
    schedule,
)
from meshsim.kernel.health import report_result
from meshsim.kernel.machine import act, tell
from meshsim.kernel.memory import invoke
from meshsim.kernel.passes import charge_pass
from meshsim.policy.transitions import (
    ACTION_RESPOND,
    ACTION_SEND,
    STIMULUS_EARLIER_RESET,
    STIMULUS_EARLIER_RESPONSE,
    STIMULUS_HEDGE_DUE,
    STIMULUS_PER_TRY_TIMEOUT,
    STIMULUS_RESET,
    STIMULUS_RESPONSE,
    STIMULUS_ROUTE_TIMEOUT,
    STIMULUS_SOFT_PER_TRY_TIMEOUT,
)
from meshsim.state.codes import (
    HEDGE_AFTER_DELAY,
    HEDGE_ON_PER_TRY_TIMEOUT,
    NEVER_NS,
    NO_INDEX,
    RESET_NONE,
    RESET_PER_TRY_TIMEOUT,
)
from meshsim.state.exchange import ATTEMPT_SENT, EXCHANGE_ATTEMPTING

__all__ = [
    "done_beside",
    "hedge_due",
    "on_per_try_timeout",
    "on_route_timeout",
    "plan_next_copy",
    "send_again",
    "send_copy",
]


@kernel_jit_inline
def _hedging(state: Any, exchange: int) -> int:
    return state.routes["hedging"][state.exchanges["route"][exchange]]


# --- Timeouts -------------------------------------------------------------------------------


@kernel_jit_inline
def _has_softly_timed_out(state: Any, exchange: int, attempt: int) -> bool:
    """Return whether `attempt`, which is sent, goes on although its per-try timeout is over."""
    route = state.exchanges["route"][exchange]
    return (
        state.routes["hedging"][route] == HEDGE_ON_PER_TRY_TIMEOUT
        and state.routes["per_try_timer"][route] != NO_INDEX
        and state.attempts["timer"][attempt] == NO_INDEX
    )


@kernel_jit
def _report_timeout(state: Any, exchange: int, attempt: int) -> None:
    """`attempt`, which has its connection, is given up because it took too long."""
    host = state.attempts["host"][attempt]
    if state.clusters["health"][state.hosts["cluster"][host]] != NO_INDEX:
        report_result(state, host, 0, RESET_PER_TRY_TIMEOUT)


@kernel_jit
def on_route_timeout(state: Any, exchange: int) -> int:
    """The route timeout of `exchange` has expired; return the follow-up."""
    attempt = state.exchanges["attempt"][exchange]
    while attempt != NO_INDEX:
        sent = state.attempts["state"][attempt] == ATTEMPT_SENT
        if sent and not _has_softly_timed_out(state, exchange, attempt):
            _report_timeout(state, exchange, attempt)
        attempt = state.attempts["previous"][attempt]
    return int(invoke(state, STIMULATE, exchange, STIMULUS_ROUTE_TIMEOUT))


@kernel_jit
def on_per_try_timeout(state: Any, attempt: int) -> int:
    """The per-try timeout of `attempt` has expired; return the follow-up."""
    exchange = state.attempts["exchange"][attempt]
    _report_timeout(state, exchange, attempt)
    if _hedging(state, exchange) == HEDGE_ON_PER_TRY_TIMEOUT:
        return int(invoke(state, STIMULATE, exchange, STIMULUS_SOFT_PER_TRY_TIMEOUT))
    abandon(state, attempt, True)
    return int(invoke(state, STIMULATE, exchange, STIMULUS_PER_TRY_TIMEOUT))


# --- Another try ----------------------------------------------------------------------------


@kernel_jit
def send_again(state: Any, exchange: int) -> int:
    """Send a try that is not the first; return the follow-up.

    It passes no listener: it costs the worker one pass without a wake-up of its own, and leaves
    at once.
    """
    proxy = state.exchanges["proxy"][exchange]
    if state.proxies["costs"][proxy] == 1 and state.proxies["container"][proxy] == NO_INDEX:
        charge_pass(state, proxy, 0)
    return pack(ROUTE, exchange, state.exchanges["generation"][exchange])


@kernel_jit
def plan_next_copy(state: Any, exchange: int, generation: int) -> int:
    """Wake up when the next copy of `exchange` is due, if there is one."""
    due_ns = state.exchanges["hedge_due_ns"][exchange]
    if due_ns != NEVER_NS:
        schedule(state, due_ns, pack(HEDGE_DUE, exchange, state.exchanges["generation"][exchange]))
    return NOTHING


@kernel_jit
def send_copy(state: Any, exchange: int, generation: int) -> int:
    """Send a copy beside the tries of `exchange` that are under way; return the follow-up."""
    plan_next_copy(state, exchange, 0)
    return send_again(state, exchange)


@kernel_jit
def hedge_due(state: Any, exchange: int) -> int:
    """It may be time for another copy; return the follow-up."""
    exchanges = state.exchanges
    due = exchanges["hedge_due_ns"][exchange] == state.counters["now_ns"][0]
    if exchanges["state"][exchange] != EXCHANGE_ATTEMPTING or not due:
        return NOTHING
    action, _ = tell(state, exchange, STIMULUS_HEDGE_DUE, 0, RESET_NONE)
    if action == ACTION_SEND:
        return send_copy(state, exchange, 0)
    return plan_next_copy(state, exchange, 0)


@kernel_jit
def done_beside(state: Any, attempt: int, generation: int) -> int:
    """`attempt`, which was not the only try of its exchange, has an outcome: tell the machine."""
    attempts = state.attempts
    exchanges = state.exchanges
    exchange = attempts["exchange"][attempt]
    status = attempts["status"][attempt]
    reset = attempts["reset"][attempt]
    answered = reset <= RESET_NONE
    followed = attempts["try_number"][attempt] != exchanges["retry_count"][exchange]
    if followed and _hedging(state, exchange) != HEDGE_AFTER_DELAY:
        stimulus = STIMULUS_EARLIER_RESPONSE if answered else STIMULUS_EARLIER_RESET
    else:
        stimulus = STIMULUS_RESPONSE if answered else STIMULUS_RESET
    action, deadline_ns = tell(state, exchange, stimulus, status, reset)
    settle(state, attempt, status >= 500 or not answered)
    if action != ACTION_RESPOND:
        attempts["status"][attempt] = 0
        attempts["reset"][attempt] = RESET_NONE
    return act(state, exchange, action, deadline_ns)
