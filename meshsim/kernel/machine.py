"""The per-request machine and the kernel: what happened is told, and actions are carried out.

Rule: `meshsim.policy.request.step` decides; this module turns its actions into rows and events.
"""

from __future__ import annotations

from typing import Any

from meshsim.jit import kernel_jit, kernel_jit_inline
from meshsim.kernel.events import (
    ABANDON,
    BACK_OFF,
    FINISH,
    NOTHING,
    ROUTE,
    SEND_COPY,
    pack,
    schedule,
)
from meshsim.kernel.filters import release_fault
from meshsim.kernel.memory import invoke
from meshsim.kernel.pools import free_exchange
from meshsim.kernel.recording import record_exchange
from meshsim.kernel.timers import stop_timer
from meshsim.policy.request import step
from meshsim.policy.transitions import (
    ACTION_ABANDON,
    ACTION_BACK_OFF,
    ACTION_DELAY,
    ACTION_INVALID,
    ACTION_RESPOND,
    ACTION_SEND,
)
from meshsim.state.codes import RESET_NONE

__all__ = ["act", "stimulate", "tell"]


@kernel_jit
def tell(state: Any, exchange: int, stimulus: int, status: int, reset: int) -> tuple[int, int]:
    """Tell the machine what happened; return its action and deadline [ns]."""
    return step(
        state.exchanges,
        exchange,
        state.routes,
        state.codes,
        state.clusters,
        state.configs,
        state.memory,
        stimulus,
        status,
        reset,
        state.counters["now_ns"][0],
        state.pick_streams[state.exchanges["proxy"][exchange]],
    )


@kernel_jit_inline
def act(state: Any, exchange: int, action: int, deadline_ns: int) -> int:
    """Carry out an action after the first try; return the follow-up."""
    if action == ACTION_RESPOND:
        return pack(FINISH, exchange, 0)
    if action == ACTION_BACK_OFF:
        what = pack(BACK_OFF, exchange, state.exchanges["generation"][exchange])
        schedule(state, deadline_ns, what)
    elif action == ACTION_DELAY:
        what = pack(ROUTE, exchange, state.exchanges["generation"][exchange])
        schedule(state, deadline_ns, what)
    elif action == ACTION_SEND:
        return int(invoke(state, SEND_COPY, exchange, 0))
    elif action == ACTION_ABANDON:
        _drop(state, exchange)
    elif action == ACTION_INVALID:
        state.counters["invalid"][0] += 1
    return NOTHING


@kernel_jit
def _drop(state: Any, exchange: int) -> None:
    """Nobody waits for `exchange`: give up its attempts and free it."""
    invoke(state, ABANDON, exchange, 0)
    stop_timer(state.timers, state.exchanges, exchange)
    release_fault(state, exchange)
    state.exchanges["status"][exchange] = max(state.exchanges["status"][exchange], 0)
    record_exchange(state, exchange)
    free_exchange(state, exchange)


@kernel_jit
def stimulate(state: Any, exchange: int, stimulus: int) -> int:
    """Tell the machine of a `stimulus` that carries nothing; return the follow-up."""
    action, deadline_ns = tell(state, exchange, stimulus, 0, RESET_NONE)
    return act(state, exchange, action, deadline_ns)
