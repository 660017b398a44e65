"""The queue of one endpoint, the list of its running tasks, and its time integrals.

Rule: first come, first served within a priority class, lower classes first.  Whoever changes
`busy` or `queued` first calls `account`, so that their integrals are exact.
"""

from __future__ import annotations

from typing import Any

from meshsim.jit import kernel_jit, kernel_jit_inline
from meshsim.state.codes import NO_INDEX
from meshsim.state.server import TASK_QUEUED, WORKER_OWN

__all__ = [
    "account",
    "dequeue",
    "enqueue",
    "leave_queue",
    "link_running",
    "unlink_running",
    "worst_running",
]


@kernel_jit_inline
def account(endpoints: Any, endpoint: int, now_ns: int) -> None:
    """Bring the integrals of busy workers and queue length up to `now_ns`."""
    elapsed_ns = now_ns - endpoints["updated_ns"][endpoint]
    endpoints["busy_ns"][endpoint] += elapsed_ns * endpoints["busy"][endpoint]
    endpoints["queue_ns"][endpoint] += elapsed_ns * endpoints["queued"][endpoint]
    endpoints["updated_ns"][endpoint] = now_ns


@kernel_jit
def enqueue(state: Any, endpoint: int, task: int, at_front: bool) -> None:
    """Queue `task` in its priority class, at the front if it was preempted."""
    tasks = state.tasks
    heads = state.queue_heads
    tails = state.queue_tails
    priority = tasks["priority"][task]
    tasks["state"][task] = TASK_QUEUED
    tasks["entered_ns"][task] = state.counters["now_ns"][0]
    state.endpoints["queued"][endpoint] += 1
    earlier = NO_INDEX if at_front else tails[endpoint, priority]
    later = heads[endpoint, priority] if at_front else NO_INDEX
    tasks["previous"][task] = earlier
    tasks["next"][task] = later
    if earlier == NO_INDEX:
        heads[endpoint, priority] = task
    else:
        tasks["next"][earlier] = task
    if later == NO_INDEX:
        tails[endpoint, priority] = task
    else:
        tasks["previous"][later] = task


@kernel_jit
def leave_queue(state: Any, endpoint: int, task: int) -> None:
    """Take `task` out of its queue."""
    tasks = state.tasks
    priority = tasks["priority"][task]
    earlier = tasks["previous"][task]
    later = tasks["next"][task]
    state.endpoints["queued"][endpoint] -= 1
    if earlier == NO_INDEX:
        state.queue_heads[endpoint, priority] = later
    else:
        tasks["next"][earlier] = later
    if later == NO_INDEX:
        state.queue_tails[endpoint, priority] = earlier
    else:
        tasks["previous"][later] = earlier


@kernel_jit
def dequeue(state: Any, endpoint: int) -> int:
    """Take the task first in line; the queue is not empty."""
    priority = 0
    while state.queue_heads[endpoint, priority] == NO_INDEX:
        priority += 1
    task = state.queue_heads[endpoint, priority]
    leave_queue(state, endpoint, task)
    return task


@kernel_jit
def link_running(state: Any, endpoint: int, task: int) -> None:
    """Add `task` to the running list (kept for PREEMPTIVE_PRIORITY only), newest first."""
    tasks = state.tasks
    head = state.endpoints["running_head"][endpoint]
    tasks["previous"][task] = NO_INDEX
    tasks["next"][task] = head
    if head != NO_INDEX:
        tasks["previous"][head] = task
    state.endpoints["running_head"][endpoint] = task


@kernel_jit
def unlink_running(state: Any, endpoint: int, task: int) -> None:
    """Take `task` out of the running list."""
    tasks = state.tasks
    earlier = tasks["previous"][task]
    later = tasks["next"][task]
    if earlier == NO_INDEX:
        state.endpoints["running_head"][endpoint] = later
    else:
        tasks["next"][earlier] = later
    if later != NO_INDEX:
        tasks["previous"][later] = earlier


@kernel_jit
def worst_running(state: Any, endpoint: int) -> int:
    """Return the running task of the lowest priority with a worker of its own, latest first."""
    tasks = state.tasks
    worst = NO_INDEX
    task = state.endpoints["running_head"][endpoint]
    while task != NO_INDEX:
        own = tasks["worker"][task] == WORKER_OWN
        if own and (worst == NO_INDEX or tasks["priority"][task] > tasks["priority"][worst]):
            worst = task
        task = tasks["next"][task]
    return worst
