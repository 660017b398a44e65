"""Bulkheads of replicas: tasks that wait for the permit of a call, and those that have it.

Rule: `meshsim.policy.bulkhead` decides; a task asks at a call step that has a bulkhead, and gives
its permit back when the call has ended, or when the task is stopped.  Those that wait stand in a
list, first come first served; the first of them calls as an event of its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from meshsim.jit import kernel_jit
from meshsim.kernel.events import (
    BULKHEAD_EXPIRED,
    CALL,
    GENERATION_MASK,
    NOTHING,
    RUN,
    pack,
    schedule,
)
from meshsim.kernel.servers import follow_call
from meshsim.policy.bulkhead import (
    CALL_PERMITTED,
    CALL_REFUSED,
    REFUSED_STATUS,
    may_call,
    on_call_ended,
    on_wait_ended,
)
from meshsim.state.codes import NEVER_NS, NO_INDEX
from meshsim.state.server import (
    STEP_CALL,
    TASK_AT_BULKHEAD,
    TASK_LET_THROUGH,
    TASK_WAITING,
)

__all__ = [
    "CALLS",
    "append_bulkheads",
    "enter_bulkhead",
    "expire",
    "leave_bulkhead",
    "stop_waiting",
]

#: Answer of `enter_bulkhead`: the task may call.
CALLS = -2


@kernel_jit
def _bulkhead(state: Any, task: int) -> int:
    """Return the BULKHEAD row of the call at which `task` stands."""
    first = state.endpoints["bulkhead_start"][state.tasks["endpoint"][task]]
    return first + state.steps["distribution"][state.tasks["step"][task]]


@kernel_jit
def enter_bulkhead(state: Any, task: int, generation: int) -> int:
    """Let `task` call, wait or do without its call; return CALLS or the follow-up."""
    tasks = state.tasks
    if tasks["state"][task] == TASK_LET_THROUGH:
        tasks["state"][task] = TASK_WAITING
        return CALLS
    row = _bulkhead(state, task)
    answer = may_call(state.bulkheads, row)
    if answer == CALL_PERMITTED:
        return CALLS
    if answer == CALL_REFUSED:
        return _refuse(state, task)
    now_ns = state.counters["now_ns"][0]
    tail = state.bulkheads["tail"][row]
    tasks["state"][task] = TASK_AT_BULKHEAD
    tasks["entered_ns"][task] = now_ns
    tasks["previous"][task] = tail
    tasks["next"][task] = NO_INDEX
    if tail == NO_INDEX:
        state.bulkheads["head"][row] = task
    else:
        tasks["next"][tail] = task
    state.bulkheads["tail"][row] = task
    wait_ns = state.bulkheads["max_wait_ns"][row]
    if wait_ns < NEVER_NS - now_ns:
        schedule(state, now_ns + wait_ns, pack(BULKHEAD_EXPIRED, task, tasks["wake"][task]))
    return NOTHING


@kernel_jit
def _unlink(state: Any, row: int, task: int) -> None:
    """Take `task` out of the list of those that wait."""
    tasks = state.tasks
    earlier, later = tasks["previous"][task], tasks["next"][task]
    if earlier == NO_INDEX:
        state.bulkheads["head"][row] = later
    else:
        tasks["next"][earlier] = later
    if later == NO_INDEX:
        state.bulkheads["tail"][row] = earlier
    else:
        tasks["previous"][later] = earlier
    tasks["queue_ns"][task] += state.counters["now_ns"][0] - tasks["entered_ns"][task]


@kernel_jit
def _refuse(state: Any, task: int) -> int:
    """Let `task` go on as after a call that has failed; return the follow-up."""
    state.tasks["state"][task] = TASK_WAITING
    follow_call(state, task, REFUSED_STATUS)
    return pack(RUN, task, state.tasks["wake"][task])


@kernel_jit
def expire(state: Any, task: int, generation: int) -> int:
    """`task` has waited for as long as it may; return the follow-up."""
    if state.tasks["wake"][task] != generation:
        return NOTHING
    row = _bulkhead(state, task)
    on_wait_ended(state.bulkheads, row, True)
    _unlink(state, row, task)
    return _refuse(state, task)


@kernel_jit
def leave_bulkhead(state: Any, task: int, generation: int) -> int:
    """The call of `task`, at which it stands, has ended: the next in line may call."""
    tasks = state.tasks
    row = _bulkhead(state, task)
    if on_call_ended(state.bulkheads, row):
        first = state.bulkheads["head"][row]
        _unlink(state, row, first)
        tasks["state"][first] = TASK_LET_THROUGH
        tasks["wake"][first] = (tasks["wake"][first] + 1) & GENERATION_MASK
        schedule(state, state.counters["now_ns"][0], pack(CALL, first, tasks["wake"][first]))
    return NOTHING


@kernel_jit
def stop_waiting(state: Any, task: int, generation: int) -> int:
    """`task` is stopped: it gives up its place in line, or its permit."""
    tasks = state.tasks
    if tasks["state"][task] == TASK_AT_BULKHEAD:
        row = _bulkhead(state, task)
        on_wait_ended(state.bulkheads, row, False)
        _unlink(state, row, task)
        return NOTHING
    step = tasks["step"][task]
    calls = tasks["state"][task] == TASK_LET_THROUGH or tasks["exchange"][task] != NO_INDEX
    has_one = state.steps["distribution"][step] != NO_INDEX
    if calls and state.steps["kind"][step] == STEP_CALL and has_one:
        leave_bulkhead(state, task, 0)
    return NOTHING


def append_bulkheads(state: Any, added: Any, model: int) -> None:
    """Give the ENDPOINT row `added` bulkheads of its own, like those of endpoint `model`."""
    start = int(state.endpoints["bulkhead_start"][model])
    workload = state.endpoints["workload"][model]
    count = int(state.bulkhead_counts[workload])
    added["bulkhead_start"] = len(state.bulkheads)
    rows = state.bulkheads[start : start + count].copy()
    for field in ("active", "waiting", "permitted", "rejected", "waited"):
        rows[field] = 0
    rows["head"] = rows["tail"] = NO_INDEX
    state.replace(bulkheads=np.concatenate([state.bulkheads, rows]))
