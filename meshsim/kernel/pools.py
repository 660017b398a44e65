"""Pools of rows: a free list each, chained through `next`.

Rule: taking a row never fails, because `advance` returns GROW before an event could exhaust a
pool.  Freeing a row advances its generation, so that handles and events that still name it are
recognised as stale.
"""

from __future__ import annotations

from typing import Any

from meshsim.jit import kernel_jit, kernel_jit_inline
from meshsim.kernel.events import GENERATION_MASK
from meshsim.policy.reset_headers import NOT_TOLD
from meshsim.state.codes import NO_INDEX
from meshsim.state.exchange import (
    ATTEMPT_ENDED,
    ATTEMPT_FREE,
    EXCHANGE_FREE,
)
from meshsim.state.server import TASK_FREE, WORKER_NONE

__all__ = [
    "clear_chain",
    "drop_abandoned",
    "free_attempt",
    "free_connection",
    "free_exchange",
    "free_task",
    "take_attempt",
    "take_connection",
    "take_exchange",
    "take_task",
]


@kernel_jit
def take_exchange(state: Any) -> int:
    """Take a free EXCHANGE row; its sums and links are cleared."""
    exchanges = state.exchanges
    counters = state.counters
    exchange = counters["exchange_free"][0]
    counters["exchange_free"][0] = exchanges["next"][exchange]
    counters["exchange_free_count"][0] -= 1
    counters["exchanges"][0] += 1
    exchanges["attempt"][exchange] = NO_INDEX
    exchanges["attempts_active"][exchange] = 0
    exchanges["retry_count"][exchange] = 0
    exchanges["retry_held"][exchange] = 0
    exchanges["status"][exchange] = 0
    exchanges["response_flag"][exchange] = 0
    exchanges["timer"][exchange] = NO_INDEX
    exchanges["cluster"][exchange] = NO_INDEX
    exchanges["proxy_ns"][exchange] = 0
    return exchange


@kernel_jit
def free_exchange(state: Any, exchange: int) -> None:
    """Return `exchange` to its pool, and its ended attempts with it.

    An abandoned attempt is still carried by an event or a task; it loses its exchange and is
    freed by its carrier.
    """
    exchanges = state.exchanges
    attempts = state.attempts
    counters = state.counters
    attempt = exchanges["attempt"][exchange]
    while attempt != NO_INDEX:
        earlier = attempts["previous"][attempt]
        if attempts["state"][attempt] == ATTEMPT_ENDED:
            free_attempt(state, attempt)
        else:
            attempts["exchange"][attempt] = NO_INDEX
        attempt = earlier
    exchanges["state"][exchange] = EXCHANGE_FREE
    exchanges["generation"][exchange] = (exchanges["generation"][exchange] + 1) & GENERATION_MASK
    exchanges["next"][exchange] = counters["exchange_free"][0]
    counters["exchange_free"][0] = exchange
    counters["exchange_free_count"][0] += 1


@kernel_jit
def take_attempt(state: Any) -> int:
    """Take a free ATTEMPT row; its sums and links are cleared."""
    attempts = state.attempts
    counters = state.counters
    attempt = counters["attempt_free"][0]
    counters["attempt_free"][0] = attempts["next"][attempt]
    counters["attempt_free_count"][0] -= 1
    counters["attempts"][0] += 1
    attempts["connection"][attempt] = NO_INDEX
    attempts["task"][attempt] = NO_INDEX
    attempts["status"][attempt] = 0
    attempts["reset"][attempt] = 0
    attempts["timer"][attempt] = NO_INDEX
    attempts["gated"][attempt] = 0
    attempts["reset_told"][attempt] = NOT_TOLD
    attempts["queue_ns"][attempt] = 0
    attempts["service_ns"][attempt] = 0
    attempts["proxy_ns"][attempt] = 0
    attempts["wire_ns"][attempt] = 0
    return attempt


@kernel_jit_inline
def free_attempt(state: Any, attempt: int) -> None:
    """Return `attempt` to its pool."""
    attempts = state.attempts
    counters = state.counters
    attempts["state"][attempt] = ATTEMPT_FREE
    attempts["generation"][attempt] = (attempts["generation"][attempt] + 1) & GENERATION_MASK
    attempts["next"][attempt] = counters["attempt_free"][0]
    counters["attempt_free"][0] = attempt
    counters["attempt_free_count"][0] += 1


@kernel_jit_inline
def drop_abandoned(state: Any, attempt: int) -> None:
    """End the carriage of an abandoned `attempt`: free it unless its exchange lists it."""
    if state.attempts["exchange"][attempt] == NO_INDEX:
        free_attempt(state, attempt)
    else:
        state.attempts["state"][attempt] = ATTEMPT_ENDED


@kernel_jit
def take_task(state: Any) -> int:
    """Take a free TASK row; its sums and links are cleared."""
    tasks = state.tasks
    counters = state.counters
    task = counters["task_free"][0]
    counters["task_free"][0] = tasks["next"][task]
    counters["task_free_count"][0] -= 1
    tasks["attempt"][task] = NO_INDEX
    tasks["parent"][task] = NO_INDEX
    tasks["branches"][task] = 0
    tasks["first_branch"][task] = NO_INDEX
    tasks["exchange"][task] = NO_INDEX
    tasks["worker"][task] = WORKER_NONE
    tasks["status"][task] = 200
    tasks["queue_ns"][task] = 0
    tasks["service_ns"][task] = 0
    tasks["work_ns"][task] = 0.0
    return task


@kernel_jit_inline
def free_task(state: Any, task: int) -> None:
    """Return `task` to its pool; its outstanding event becomes stale."""
    tasks = state.tasks
    counters = state.counters
    tasks["state"][task] = TASK_FREE
    tasks["generation"][task] = (tasks["generation"][task] + 1) & GENERATION_MASK
    tasks["wake"][task] = (tasks["wake"][task] + 1) & GENERATION_MASK
    tasks["next"][task] = counters["task_free"][0]
    counters["task_free"][0] = task
    counters["task_free_count"][0] += 1


@kernel_jit_inline
def take_connection(state: Any) -> int:
    """Take a free CONNECTION row."""
    connections = state.connections
    counters = state.counters
    connection = counters["connection_free"][0]
    counters["connection_free"][0] = connections["next"][connection]
    counters["connection_free_count"][0] -= 1
    connections["requests"][connection] = 0
    return connection


@kernel_jit_inline
def free_connection(state: Any, connection: int) -> None:
    """Return `connection` to its pool."""
    connections = state.connections
    counters = state.counters
    generation = (connections["generation"][connection] + 1) & GENERATION_MASK
    connections["generation"][connection] = generation
    connections["next"][connection] = counters["connection_free"][0]
    counters["connection_free"][0] = connection
    counters["connection_free_count"][0] += 1


@kernel_jit
def clear_chain(marks: Any, following: Any, first: int) -> None:
    """Clear the marks of a chain of rows; one that does not end is followed once round.

    For checks, compiled because most rows of a pool are free.
    """
    row = first
    for _ in range(len(marks)):
        if row == NO_INDEX:
            break
        marks[row] = False
        row = following[row]
