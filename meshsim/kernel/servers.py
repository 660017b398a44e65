"""Servers: admission, queues, workers, and the programs that tasks run.

Rule: an endpoint admits up to `concurrency` tasks; a task that finds no worker queues, first
come first served within its priority class, unless the queue is full (the server answers 503
at once) or its patience ends (503 when it leaves), or its deadline
comes, if the server minds that.  A task runs its program step by step;
steps that take no time run in place.  `hold_worker` says whether a task keeps its worker while
it calls; one that gave it back queues for it again before its next compute or sleep.

A request that fails by `error_rate` does so before its first step and does no work.

Service times, sleeps and branch coins are keyed by (exchange, try, step), so the same request
draws the same values whatever policy or mesh it meets.
"""

from __future__ import annotations

from typing import Any

from meshsim.jit import kernel_jit, kernel_jit_inline
from meshsim.kernel.cores import remove_from_container
from meshsim.kernel.events import (
    CALL,
    CANCEL_EXCHANGE,
    DONE,
    FILL_CACHE,
    GENERATION_MASK,
    IS_CACHED,
    LEAVE_BULKHEAD,
    LEAVE_GATE,
    NOTE_LATENCY,
    NOTHING,
    RESPOND,
    RETURN,
    RUN,
    STOP_WAITING,
    TAKE_DEADLINE,
    TURN_GRAY,
    pack,
    schedule,
)
from meshsim.kernel.memory import invoke
from meshsim.kernel.passes import charge_pass, enter_proxy, wire_ns
from meshsim.kernel.pools import drop_abandoned, free_task, take_task
from meshsim.kernel.queues import (
    account,
    leave_queue,
    unlink_running,
)
from meshsim.kernel.workers import (
    acquire_worker,
    begin_service,
    release_worker,
    wait_for_worker,
)
from meshsim.policy.fallback import step_after_call, takes_fallback
from meshsim.policy.reset_headers import retry_after_told
from meshsim.rng import (
    PURPOSE_BRANCH,
    PURPOSE_FAULT,
    key_uniform,
    mix_in,
)
from meshsim.state.codes import NO_INDEX, RESET_CONNECT_FAILURE, RESET_NONE
from meshsim.state.exchange import ATTEMPT_ABANDONED, FLAGS_INHERITED, SAMPLED
from meshsim.state.server import (
    FCFS,
    PREEMPTIVE_PRIORITY,
    STEP_CACHE,
    STEP_CALL,
    STEP_COMPUTE,
    STEP_END,
    STEP_SLEEP,
    TASK_ENDED,
    TASK_QUEUED,
    TASK_RUNNING,
    TASK_WAITING,
    WORKER_BORROWED,
    WORKER_NONE,
)

__all__ = [
    "admit",
    "cancel_task",
    "cross_back",
    "end_task",
    "follow_call",
    "go_on_after_call",
    "renege",
    "run_task",
    "send_back",
    "stop_task",
]


#: Step 0 of every memory is an END: the program of a request that fails at once.
_END_STEP = 0
_FAILED = 500
_REFUSED = 503


@kernel_jit_inline
def admit(state: Any, attempt: int) -> int:
    """Start serving `attempt` at its endpoint; return the follow-up."""
    attempts = state.attempts
    endpoints = state.endpoints
    if attempts["state"][attempt] == ATTEMPT_ABANDONED:
        drop_abandoned(state, attempt)
        return NOTHING
    exchange = attempts["exchange"][attempt]
    endpoint = attempts["endpoint"][attempt]
    endpoints["requests"][endpoint] += 1
    if endpoints["alive"][endpoint] == 0:
        attempts["reset"][attempt] = RESET_CONNECT_FAILURE
        return send_back(state, attempt)
    task = _new_task(state, attempt, exchange, endpoint)
    if state.prequal_servers.shape[0] != 0:
        state.tasks["rif"][task] = endpoints["busy"][endpoint] + endpoints["queued"][endpoint]
        state.tasks["arrived_ns"][task] = state.counters["now_ns"][0]
    if acquire_worker(state, task):
        return pack(RUN, task, state.tasks["wake"][task])
    if endpoints["queued"][endpoint] >= endpoints["queue_limit"][endpoint]:
        endpoints["rejected"][endpoint] += 1
        return _refuse(state, task)
    wait_for_worker(state, task)
    return NOTHING


@kernel_jit
def _new_task(state: Any, attempt: int, exchange: int, endpoint: int) -> int:
    """Make the root task that serves `attempt`."""
    tasks = state.tasks
    exchanges = state.exchanges
    task = take_task(state)
    traffic = exchanges["traffic"][exchange]
    key = mix_in(exchanges["key"][exchange], state.attempts["try_number"][attempt])
    tasks["endpoint"][task] = endpoint
    tasks["attempt"][task] = attempt
    tasks["traffic"][task] = traffic
    priority = 0
    if state.endpoints["discipline"][endpoint] != FCFS:
        priority = state.traffic["priority"][traffic]
    tasks["priority"][task] = priority
    tasks["flags"][task] = exchanges["flags"][exchange] & FLAGS_INHERITED
    tasks["number"][task] = exchanges["number"][exchange]
    if exchanges["flags"][exchange] & SAMPLED != 0:
        tasks["span"][task] = exchanges["span"][exchange]
    tasks["key"][task] = key
    state.attempts["task"][attempt] = task
    operation = state.calls["operation"][exchanges["call"][exchange]]
    workload = state.endpoints["workload"][endpoint]
    tasks["step"][task] = state.programs[workload, operation]
    error_rate = state.endpoints["error_rate"][endpoint]
    if error_rate > 0.0 and key_uniform(mix_in(key, PURPOSE_FAULT << 24)) < error_rate:
        tasks["step"][task] = _END_STEP
        tasks["status"][task] = _FAILED
    elif state.endpoints["gray"][endpoint] != NO_INDEX:
        invoke(state, TURN_GRAY, task, 0)
    if state.endpoints["deadlines"][endpoint] != 0:
        invoke(state, TAKE_DEADLINE, task, 0)
    return task


@kernel_jit_inline
def run_task(state: Any, task: int) -> int:
    """Run the program of `task` until it takes time or ends; return the follow-up.

    Returns
    -------
    int
        NOTHING; or the follow-up of the end of the task; or CALL, which `advance` turns into
        an exchange of the caller's proxy.
    """
    tasks = state.tasks
    steps = state.steps
    while True:
        step = tasks["step"][task]
        kind = steps["kind"][step]
        if kind == STEP_END:
            return end_task(state, task)
        probability = steps["probability"][step]
        if probability < 1.0:
            key = mix_in(tasks["key"][task], (PURPOSE_BRANCH << 24) + steps["ordinal"][step])
            if key_uniform(key) >= probability:
                tasks["step"][task] = step + 1 + steps["fallback_count"][step]
                continue
        if kind in (STEP_COMPUTE, STEP_SLEEP):
            if tasks["worker"][task] == WORKER_NONE and not acquire_worker(state, task):
                wait_for_worker(state, task)
                return NOTHING
            if begin_service(state, task, step):
                return NOTHING
            tasks["step"][task] = step + 1
            continue
        if kind == STEP_CACHE and invoke(state, IS_CACHED, task, 0) == 1:
            tasks["step"][task] = step + 1
            continue
        tasks["state"][task] = TASK_WAITING
        if state.endpoints["hold_worker"][tasks["endpoint"][task]] == 0:
            release_worker(state, task)
        if kind == STEP_CALL:
            return pack(CALL, task, tasks["wake"][task])
        return _branch(state, task, step)


@kernel_jit
def _branch(state: Any, task: int, step: int) -> int:
    """Start every branch of the PARALLEL, or the miss of the CACHE, at `step`, in order."""
    tasks = state.tasks
    first = state.steps["branch_start"][step]
    tasks["branches"][task] = state.steps["branch_count"][step]
    tasks["first_branch"][task] = NO_INDEX
    worker = WORKER_BORROWED if tasks["worker"][task] != WORKER_NONE else WORKER_NONE
    for number in range(state.steps["branch_count"][step]):
        branch = take_task(state)
        tasks["state"][branch] = TASK_WAITING
        tasks["endpoint"][branch] = tasks["endpoint"][task]
        tasks["parent"][branch] = task
        tasks["sibling"][branch] = tasks["first_branch"][task]
        tasks["first_branch"][task] = branch
        tasks["worker"][branch] = worker
        tasks["traffic"][branch] = tasks["traffic"][task]
        tasks["priority"][branch] = tasks["priority"][task]
        tasks["flags"][branch] = tasks["flags"][task]
        tasks["number"][branch] = tasks["number"][task]
        tasks["span"][branch] = tasks["span"][task]
        tasks["key"][branch] = tasks["key"][task]
        tasks["slowed"][branch] = tasks["slowed"][task]
        tasks["deadline_ns"][branch] = tasks["deadline_ns"][task]
        tasks["step"][branch] = state.branches[first + number]
        schedule(
            state,
            state.counters["now_ns"][0],
            pack(RUN, branch, tasks["wake"][branch]),
        )
    return NOTHING


@kernel_jit
def go_on_after_call(state: Any, task: int, status: int) -> None:
    """Take note of the answer to the call of `task`, or of the ends of its branches."""
    if state.steps["distribution"][state.tasks["step"][task]] != NO_INDEX:
        invoke(state, LEAVE_BULKHEAD, task, 0)
    follow_call(state, task, status)


@kernel_jit
def follow_call(state: Any, task: int, status: int) -> None:
    """Let `task` stand at the step that follows its call (`meshsim.policy.fallback`)."""
    tasks = state.tasks
    tasks["exchange"][task] = NO_INDEX
    step = tasks["step"][task]
    on_failure = state.steps["on_failure"][step]
    following = step_after_call(step, on_failure, state.steps["fallback_count"][step], status)
    tasks["step"][task] = following
    if following == _END_STEP:
        tasks["status"][task] = _FAILED
    elif takes_fallback(on_failure, status):
        state.endpoints["fallbacks"][tasks["endpoint"][task]] += 1


@kernel_jit_inline
def end_task(state: Any, task: int) -> int:
    """End the program of `task`: answer its attempt, or join its parent."""
    if state.tasks["parent"][task] != NO_INDEX:
        return _join(state, task)
    release_worker(state, task)
    state.endpoints["completed"][state.tasks["endpoint"][task]] += 1
    if state.prequal_servers.shape[0] != 0:
        invoke(state, NOTE_LATENCY, task, 0)
    return _answer(state, task)


@kernel_jit
def _join(state: Any, branch: int) -> int:
    """End `branch`; the last of its siblings lets the parent go on."""
    tasks = state.tasks
    parent = tasks["parent"][branch]
    release_worker(state, branch)
    tasks["state"][branch] = TASK_ENDED
    tasks["branches"][parent] -= 1
    if tasks["branches"][parent] > 0:
        return NOTHING
    failed = False
    child = tasks["first_branch"][parent]
    while child != NO_INDEX:
        sibling = tasks["sibling"][child]
        failed = failed or tasks["status"][child] >= _FAILED
        tasks["queue_ns"][parent] += tasks["queue_ns"][child]
        tasks["service_ns"][parent] += tasks["service_ns"][child]
        free_task(state, child)
        child = sibling
    tasks["first_branch"][parent] = NO_INDEX
    if not failed and state.steps["kind"][tasks["step"][parent]] == STEP_CACHE:
        invoke(state, FILL_CACHE, parent, 0)
    go_on_after_call(state, parent, _FAILED if failed else 200)
    # The parent stands at its next step: `advance` runs it as a task that was resumed.
    now_ns = state.counters["now_ns"][0]
    schedule(state, now_ns, pack(RUN, parent, tasks["wake"][parent]))
    return NOTHING


@kernel_jit
def _answer(state: Any, task: int) -> int:
    """Send the outcome of `task` back to its attempt and free the task."""
    tasks = state.tasks
    attempts = state.attempts
    attempt = tasks["attempt"][task]
    attempts["task"][attempt] = NO_INDEX
    attempts["status"][attempt] = tasks["status"][task]
    attempts["queue_ns"][attempt] = tasks["queue_ns"][task]
    attempts["service_ns"][attempt] = tasks["service_ns"][task]
    free_task(state, task)
    return send_back(state, attempt)


@kernel_jit
def send_back(state: Any, attempt: int) -> int:
    """Send the response (or reset) of `attempt` to the client's proxy; return the follow-up."""
    attempts = state.attempts
    if attempts["gated"][attempt] != 0:
        invoke(state, LEAVE_GATE, attempt, -1)
    if attempts["state"][attempt] == ATTEMPT_ABANDONED:
        drop_abandoned(state, attempt)
        return NOTHING
    now_ns = state.counters["now_ns"][0]
    exchange = attempts["exchange"][attempt]
    endpoint = attempts["endpoint"][attempt]
    proxy = state.endpoints["proxy"][endpoint]
    leave_ns = now_ns
    if state.proxies["costs"][proxy] == 1 and attempts["reset"][attempt] == RESET_NONE:
        size_bytes = state.calls["response_bytes"][state.exchanges["call"][exchange]]
        if state.proxies["container"][proxy] != NO_INDEX:
            generation = attempts["generation"][attempt]
            attempts["entered_ns"][attempt] = now_ns
            enter_proxy(state, proxy, size_bytes, pack(RESPOND, attempt, generation))
            return NOTHING
        leave_ns = charge_pass(state, proxy, size_bytes)
        attempts["proxy_ns"][attempt] += leave_ns - now_ns
    return cross_back(state, attempt, leave_ns)


@kernel_jit
def cross_back(state: Any, attempt: int, leave_ns: int) -> int:
    """Send `attempt` over the wire to its client at `leave_ns`; return the follow-up.

    A client whose proxy costs nothing has the outcome as soon as it arrives.
    """
    attempts = state.attempts
    exchange = attempts["exchange"][attempt]
    leg = 4 * attempts["try_number"][attempt] + 1
    key = state.exchanges["key"][exchange]
    client = state.exchanges["proxy"][exchange]
    latency_ns = wire_ns(state, client, attempts["endpoint"][attempt], key, leg)
    attempts["wire_ns"][attempt] += latency_ns
    time_ns = leave_ns + latency_ns
    attempts["entered_ns"][attempt] = time_ns
    kind = RETURN if state.proxies["costs"][client] == 1 else DONE
    what = pack(kind, attempt, attempts["generation"][attempt])
    if time_ns == state.counters["now_ns"][0]:
        return what
    schedule(state, time_ns, what)
    return NOTHING


@kernel_jit
def renege(state: Any, task: int) -> int:
    """`task` is out of patience: it leaves the queue and is answered 503."""
    tasks = state.tasks
    endpoint = tasks["endpoint"][task]
    now_ns = state.counters["now_ns"][0]
    account(state.endpoints, endpoint, now_ns)
    leave_queue(state, endpoint, task)
    state.endpoints["reneged"][endpoint] += 1
    tasks["queue_ns"][task] += now_ns - tasks["entered_ns"][task]
    if tasks["parent"][task] != NO_INDEX:
        tasks["status"][task] = _REFUSED
        return _join(state, task)
    return _refuse(state, task)


@kernel_jit
def _refuse(state: Any, task: int) -> int:
    """Answer 503 for the queue, which may say when to come again."""
    endpoint = state.tasks["endpoint"][task]
    if state.endpoints["retry_after_s"][endpoint] != NO_INDEX:
        told = retry_after_told(state.endpoints["retry_after_s"][endpoint])
        state.attempts["reset_told"][state.tasks["attempt"][task]] = told
    state.tasks["status"][task] = _REFUSED
    return _answer(state, task)


@kernel_jit
def stop_task(state: Any, task: int) -> None:
    """Take `task` out of wherever it is, with its call and branches; it keeps its row.

    Notes
    -----
    Branches end here, innermost first: one that only heard of it by an event could meanwhile
    join a task that is gone.
    """
    tasks = state.tasks
    while tasks["first_branch"][task] != NO_INDEX:
        parent = task
        branch = tasks["first_branch"][task]
        while tasks["first_branch"][branch] != NO_INDEX:
            parent = branch
            branch = tasks["first_branch"][branch]
        tasks["first_branch"][parent] = tasks["sibling"][branch]
        _stop_alone(state, branch)
        free_task(state, branch)
    _stop_alone(state, task)


@kernel_jit
def _stop_alone(state: Any, task: int) -> None:
    """Take `task`, which has no branches, out of wherever it is, with its call."""
    tasks = state.tasks
    endpoint = tasks["endpoint"][task]
    now_ns = state.counters["now_ns"][0]
    tasks["wake"][task] = (tasks["wake"][task] + 1) & GENERATION_MASK
    if tasks["state"][task] == TASK_QUEUED:
        account(state.endpoints, endpoint, now_ns)
        leave_queue(state, endpoint, task)
    elif tasks["state"][task] == TASK_RUNNING:
        if state.endpoints["discipline"][endpoint] == PREEMPTIVE_PRIORITY:
            unlink_running(state, endpoint, task)
        served_ns = now_ns - tasks["entered_ns"][task]
        if tasks["computing"][task] == 1:
            container = state.endpoints["container"][endpoint]
            cpu_ns = served_ns
            if container != NO_INDEX:
                remove_from_container(state, container, task)
                left_ns = tasks["tag"][task] - state.containers["virtual_ns"][container]
                cpu_ns = int(tasks["work_ns"][task] - left_ns)
            state.endpoints["cpu_ns"][endpoint] += cpu_ns
        tasks["service_ns"][task] += served_ns
    if state.bulkheads.shape[0] != 0:
        invoke(state, STOP_WAITING, task, 0)
    exchange = tasks["exchange"][task]
    if exchange != NO_INDEX:
        generation = tasks["exchange_generation"][task]
        what = pack(CANCEL_EXCHANGE, exchange, generation)
        schedule(state, now_ns, what)
    release_worker(state, task)


@kernel_jit
def cancel_task(state: Any, task: int) -> None:
    """End `task` because its caller is gone; nobody is answered."""
    attempt = state.tasks["attempt"][task]
    stop_task(state, task)
    free_task(state, task)
    if attempt != NO_INDEX:
        state.attempts["task"][attempt] = NO_INDEX
        drop_abandoned(state, attempt)
