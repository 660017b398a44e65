"""What the slow world may do to running servers and sources, as compiled functions.

Rule: a verb acts at the instant the clock shows, between two events.  Killing an endpoint
resets everything it serves; slowing it rescales what it computes; a sleep is not computing.
"""

from __future__ import annotations

from typing import Any

from meshsim.jit import kernel_jit
from meshsim.kernel.cores import reshare_node, settle_node
from meshsim.kernel.events import ARRIVAL, GENERATION_MASK, NOTHING, pack, schedule
from meshsim.kernel.pools import free_task
from meshsim.kernel.servers import send_back, stop_task
from meshsim.kernel.workers import resume_service
from meshsim.state.codes import NEVER_NS, NO_INDEX, RESET_REMOTE
from meshsim.state.server import TASK_FREE, TASK_PASSING, TASK_QUEUED, TASK_RUNNING
from meshsim.workload.arrivals import set_multiplier

__all__ = ["count_tasks", "kill_endpoint", "set_rate", "set_speed"]


@kernel_jit
def count_tasks(state: Any, endpoint: int) -> int:
    """Return the number of tasks of `endpoint`, which bounds the events of a verb on it."""
    count = 0
    for task in range(state.tasks.shape[0]):
        in_use = state.tasks["state"][task] not in (TASK_FREE, TASK_PASSING)
        if in_use and state.tasks["endpoint"][task] == endpoint:
            count += 1
    return count


@kernel_jit
def kill_endpoint(state: Any, endpoint: int) -> None:
    """Stop `endpoint`: its tasks end in resets, and it refuses what comes.

    Notes
    -----
    The queue is emptied first, so that no freed worker starts another task.
    """
    tasks = state.tasks
    state.endpoints["alive"][endpoint] = 0
    for queued_first in (True, False):
        for task in range(tasks.shape[0]):
            if tasks["state"][task] in (TASK_FREE, TASK_PASSING):
                continue
            if tasks["endpoint"][task] != endpoint or tasks["parent"][task] != NO_INDEX:
                continue
            if queued_first and tasks["state"][task] != TASK_QUEUED:
                continue
            attempt = tasks["attempt"][task]
            stop_task(state, task)
            free_task(state, task)
            state.attempts["task"][attempt] = NO_INDEX
            state.attempts["reset"][attempt] = RESET_REMOTE
            follow_up = send_back(state, attempt)
            if follow_up != NOTHING:
                now_ns = state.counters["now_ns"][0]
                schedule(state, now_ns, follow_up)


@kernel_jit
def set_speed(state: Any, endpoint: int, speed: float) -> None:
    """Let `endpoint` compute at `speed` (1 is nominal, 0 is paused) from now on."""
    endpoints = state.endpoints
    tasks = state.tasks
    before = endpoints["speed"][endpoint]
    endpoints["speed"][endpoint] = speed
    container = endpoints["container"][endpoint]
    if container != NO_INDEX:
        node = state.containers["node"][container]
        settle_node(state, node)
        state.containers["speed"][container] = speed
        reshare_node(state, node)
        return
    now_ns = state.counters["now_ns"][0]
    for task in range(tasks.shape[0]):
        running = tasks["state"][task] == TASK_RUNNING and tasks["computing"][task] == 1
        if not running or tasks["endpoint"][task] != endpoint:
            continue
        work_ns = tasks["work_ns"][task]
        if before > 0.0:
            work_ns = (tasks["finish_ns"][task] - now_ns) * before
        tasks["wake"][task] = (tasks["wake"][task] + 1) & GENERATION_MASK
        resume_service(state, task, max(work_ns, 1.0))


@kernel_jit
def set_rate(state: Any, traffic: int, multiplier: float) -> None:
    """Scale the declared rate of an open-loop class; its next arrival is drawn anew."""
    rows = state.traffic
    rows["wake"][traffic] = (rows["wake"][traffic] + 1) & GENERATION_MASK
    time_ns = set_multiplier(
        state.arrivals,
        traffic,
        state.distributions,
        state.values,
        multiplier,
        state.counters["now_ns"][0],
        state.arrival_streams[traffic],
    )
    if time_ns != NEVER_NS:
        what = pack(ARRIVAL, traffic, rows["wake"][traffic])
        schedule(state, time_ns, what)
