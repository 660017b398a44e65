"""Workers: who holds one, who waits for one, and the compute or sleep that it is held for.

Rule: a worker that becomes free goes to the task first in line.  On dedicated cores the end of
a step is known when it begins and is an event; on shared cores it belongs to the container
(`meshsim.kernel.cores`).  Preemption puts the rest of the victim's step aside.
"""

from __future__ import annotations

from typing import Any

from meshsim.jit import kernel_jit, kernel_jit_inline
from meshsim.kernel.cores import add_to_container
from meshsim.kernel.draws import draw_ns
from meshsim.kernel.events import (
    BECOME_IDLE,
    GENERATION_MASK,
    RENEGE,
    RUN,
    SLOW_SERVICE,
    pack,
    schedule,
)
from meshsim.kernel.memory import invoke
from meshsim.kernel.queues import (
    account,
    dequeue,
    enqueue,
    link_running,
    unlink_running,
    worst_running,
)
from meshsim.rng import (
    PURPOSE_PATIENCE,
    PURPOSE_SERVICE,
    mix_in,
)
from meshsim.state.codes import NEVER_NS, NO_INDEX
from meshsim.state.server import (
    ON_TIMEOUT_CONTINUE,
    PREEMPTIVE_PRIORITY,
    STEP_COMPUTE,
    STEP_SLEEP,
    TASK_RUNNING,
    TASK_WAITING,
    WORKER_NONE,
    WORKER_OWN,
)

__all__ = [
    "acquire_worker",
    "begin_service",
    "finish_service",
    "release_worker",
    "resume_service",
    "wait_for_worker",
]


#: Step 0 of every memory is an END: the program of a request that fails at once.
_END_STEP = 0
_FAILED = 500
_REFUSED = 503


@kernel_jit
def begin_service(state: Any, task: int, step: int) -> bool:
    """Begin the compute or sleep at `step`; return False if it takes no time."""
    tasks = state.tasks
    endpoint = tasks["endpoint"][task]
    ordinal = state.steps["ordinal"][step]
    key = mix_in(tasks["key"][task], (PURPOSE_SERVICE << 24) + ordinal)
    duration_ns = draw_ns(state, state.steps["distribution"][step], key)
    if duration_ns == 0:
        return False
    if state.endpoints["gray"][endpoint] != NO_INDEX:
        duration_ns = invoke(state, SLOW_SERVICE, task, duration_ns)
    computing = 1 if state.steps["kind"][step] == STEP_COMPUTE else 0
    tasks["state"][task] = TASK_RUNNING
    tasks["computing"][task] = computing
    tasks["entered_ns"][task] = state.counters["now_ns"][0]
    resume_service(state, task, float(duration_ns))
    if state.endpoints["discipline"][endpoint] == PREEMPTIVE_PRIORITY:
        link_running(state, endpoint, task)
    return True


@kernel_jit
def resume_service(state: Any, task: int, work_ns: float) -> None:
    """Run the rest of a step: `work_ns` at nominal speed.  A paused server only notes it."""
    tasks = state.tasks
    endpoint = tasks["endpoint"][task]
    speed = 1.0
    if tasks["computing"][task] == 1:
        container = state.endpoints["container"][endpoint]
        if container != NO_INDEX:
            tasks["work_ns"][task] = work_ns
            add_to_container(state, container, task, work_ns)
            return
        speed = state.endpoints["speed"][endpoint]
    tasks["work_ns"][task] = work_ns
    if speed > 0.0:
        finish_ns = state.counters["now_ns"][0] + int(work_ns / speed + 0.5)
        tasks["finish_ns"][task] = finish_ns
        schedule(state, finish_ns, pack(RUN, task, tasks["wake"][task]))


@kernel_jit
def _hand_worker(state: Any, endpoint: int) -> None:
    """Give the free worker of `endpoint` to the task first in line, or leave it idle.

    That task begins here if its step is a plain compute or sleep; otherwise it runs as an
    event of its own at this instant.
    """
    endpoints = state.endpoints
    tasks = state.tasks
    now_ns = state.counters["now_ns"][0]
    account(endpoints, endpoint, now_ns)
    if endpoints["queued"][endpoint] == 0:
        endpoints["busy"][endpoint] -= 1
        if state.oracle_endpoints.shape[0] != 0 and endpoints["busy"][endpoint] == 0:
            invoke(state, BECOME_IDLE, endpoint, 0)
        return
    task = dequeue(state, endpoint)
    tasks["wake"][task] = (tasks["wake"][task] + 1) & GENERATION_MASK
    tasks["worker"][task] = WORKER_OWN
    tasks["queue_ns"][task] += now_ns - tasks["entered_ns"][task]
    work_ns = tasks["work_ns"][task]
    if work_ns > 0.0:  # it was preempted
        tasks["state"][task] = TASK_RUNNING
        tasks["entered_ns"][task] = now_ns
        resume_service(state, task, work_ns)
        link_running(state, endpoint, task)
        return
    step = tasks["step"][task]
    kind = state.steps["kind"][step]
    plain = kind in (STEP_COMPUTE, STEP_SLEEP)
    if not (plain and state.steps["probability"][step] >= 1.0 and begin_service(state, task, step)):
        tasks["state"][task] = TASK_WAITING
        schedule(state, now_ns, pack(RUN, task, tasks["wake"][task]))


@kernel_jit_inline
def release_worker(state: Any, task: int) -> None:
    """Give up the worker that `task` owns, if it owns one."""
    if state.tasks["worker"][task] == WORKER_OWN:
        state.tasks["worker"][task] = WORKER_NONE
        _hand_worker(state, state.tasks["endpoint"][task])


@kernel_jit
def _preempt(state: Any, endpoint: int, priority: int) -> bool:
    """Take the worker of the running task of the lowest priority below `priority`, if any."""
    tasks = state.tasks
    victim = worst_running(state, endpoint)
    if victim == NO_INDEX or tasks["priority"][victim] <= priority:
        return False
    now_ns = state.counters["now_ns"][0]
    unlink_running(state, endpoint, victim)
    tasks["wake"][victim] = (tasks["wake"][victim] + 1) & GENERATION_MASK
    speed = state.endpoints["speed"][endpoint] if tasks["computing"][victim] == 1 else 1.0
    if speed > 0.0:
        left_ns = (tasks["finish_ns"][victim] - now_ns) * speed
        tasks["work_ns"][victim] = max(left_ns, 1.0)
    served_ns = now_ns - tasks["entered_ns"][victim]
    tasks["service_ns"][victim] += served_ns
    if tasks["computing"][victim] == 1:
        state.endpoints["cpu_ns"][endpoint] += served_ns
    tasks["worker"][victim] = WORKER_NONE
    account(state.endpoints, endpoint, now_ns)
    enqueue(state, endpoint, victim, True)
    return True


@kernel_jit
def acquire_worker(state: Any, task: int) -> bool:
    """Give `task` a worker if one is free or can be taken from a lower priority."""
    endpoints = state.endpoints
    endpoint = state.tasks["endpoint"][task]
    if endpoints["busy"][endpoint] < endpoints["concurrency"][endpoint]:
        account(endpoints, endpoint, state.counters["now_ns"][0])
        endpoints["busy"][endpoint] += 1
        state.tasks["worker"][task] = WORKER_OWN
        return True
    if endpoints["discipline"][endpoint] == PREEMPTIVE_PRIORITY and _preempt(
        state, endpoint, state.tasks["priority"][task]
    ):
        state.tasks["worker"][task] = WORKER_OWN
        return True
    return False


@kernel_jit
def wait_for_worker(state: Any, task: int) -> None:
    """Let `task` wait for a worker, for as long as its patience lasts."""
    endpoints = state.endpoints
    tasks = state.tasks
    endpoint = tasks["endpoint"][task]
    now_ns = state.counters["now_ns"][0]
    account(endpoints, endpoint, now_ns)
    enqueue(state, endpoint, task, False)
    patience = endpoints["patience"][endpoint]
    if patience != NO_INDEX:
        key = mix_in(tasks["key"][task], PURPOSE_PATIENCE << 24)
        patience_ns = draw_ns(state, patience, key)
        schedule(
            state,
            now_ns + patience_ns,
            pack(RENEGE, task, tasks["wake"][task]),
        )
    minds = endpoints["deadlines"][endpoint] != 0
    if minds and endpoints["on_timeout"][endpoint] != ON_TIMEOUT_CONTINUE:
        deadline_ns = tasks["deadline_ns"][task]
        if deadline_ns != NEVER_NS:
            schedule(state, max(deadline_ns, now_ns), pack(RENEGE, task, tasks["wake"][task]))


@kernel_jit_inline
def finish_service(state: Any, task: int) -> None:
    """End the running step of `task`; it stands at the next one."""
    tasks = state.tasks
    endpoint = tasks["endpoint"][task]
    served_ns = state.counters["now_ns"][0] - tasks["entered_ns"][task]
    tasks["service_ns"][task] += served_ns
    if tasks["computing"][task] == 1:
        # On shared cores a task is served for longer than it computes.
        if state.endpoints["container"][endpoint] != NO_INDEX:
            served_ns = int(tasks["work_ns"][task])
        state.endpoints["cpu_ns"][endpoint] += served_ns
    tasks["work_ns"][task] = 0.0
    if state.endpoints["discipline"][endpoint] == PREEMPTIVE_PRIORITY:
        unlink_running(state, endpoint, task)
    tasks["state"][task] = TASK_WAITING
    tasks["step"][task] += 1
