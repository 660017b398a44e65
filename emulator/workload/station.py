"""One replica's server without sockets: queue, workers, and the programs that requests run.

Rule, as `meshsim.kernel.servers` and `meshsim.kernel.workers`: a replica admits up to
`concurrency` tasks; a task that finds no worker queues, first come first served within its
priority class, unless the queue is full (503 at once) or its patience ends (503 when it leaves).
A task runs its program step by step; `hold_worker` says whether it keeps its worker while it
calls.  Service times, sleeps, branches and failures are drawn by the keys of the simulator, so
the same request draws the same values on live sockets.

A service is slept, not computed, and its end is *planned*: what follows it starts at the planned
end, however late the timer that tells of it.  Timers of an event loop round up to a millisecond;
were each sleep started when the last timer fired, a busy worker would lose that time on every
request, and a queue would add it up.  So the station keeps time of its own: it is told of
arrivals at the time they come, and catches up through every planned end before them.  Only the
answer leaves late, once.

Nothing here does IO: `advance`, `submit`, `returned` and `cancel` return actions, and
`next_ns` says when to call `advance` again.
"""

from __future__ import annotations

import heapq

from emulator.workload import tasks
from emulator.workload.caching import ReplicaCache
from emulator.workload.cores import SharedCores
from emulator.workload.draws import TaskDraws, coin
from emulator.workload.estimates import LoadEstimates
from emulator.workload.gray import GrayFailure
from emulator.workload.tasks import Action, ActionKind, ProgramStep, Task, TaskQueue
from meshsim import rng
from meshsim.state import server
from meshsim.state.codes import NEVER_NS, NO_INDEX
from meshsim.topology.compiled import CompiledTopology

__all__ = ["REFUSED", "Station"]

_FAILED = 500
REFUSED = 503  # by a full queue, or for lack of patience

# Kinds of planned events.
_RUN = 0  # the task's step has ended, or it goes on with its program
_RENEGE = 1  # out of patience in the queue
_CORES = 2  # a task on shared cores has ended


class Station:
    """The server of one replica.

    Parameters
    ----------
    compiled : CompiledTopology
        Read only.
    endpoint : int
        Row of the replica.
    """

    def __init__(self, compiled: CompiledTopology, endpoint: int) -> None:
        arrays = compiled.arrays
        row = arrays["endpoints"][endpoint]
        self._draws = TaskDraws(arrays)
        self._programs = [int(step) for step in arrays["programs"][row["workload"]]]
        self._steps = tasks.read_steps(arrays["steps"], arrays["branches"])
        self.concurrency = int(row["concurrency"])
        self.queue_limit = int(row["queue_limit"])
        self.discipline = int(row["discipline"])
        self.on_timeout = int(row["on_timeout"])
        self._holds_worker = bool(row["hold_worker"])
        self._patience = int(row["patience"])
        self.speed = self.speed_nominal = float(row["speed"])
        self.error_rate = self.error_rate_nominal = float(row["error_rate"])
        container = int(row["container"])
        self.cores: SharedCores[Task] | None = None
        if container != NO_INDEX:
            self.cores = SharedCores(arrays["containers"][container], arrays["nodes"])
        self.cache = ReplicaCache(arrays, row)
        self.gray: GrayFailure | None = None
        self._estimates = LoadEstimates() if len(arrays["prequal_servers"]) else None
        self._queue = TaskQueue()
        self._running: dict[Task, None] = {}
        self._planned: list[tuple[int, int, int, Task | None, int]] = []
        self._next_order = self._cores_wake = 0
        self._actions: list[Action] = []
        self._now_ns = 0
        self.busy = self.queued = 0
        self._updated_ns = 0
        # In the order of ENDPOINT_RECORD_DTYPE, but for what is at this moment.
        self.requests = self.rejected = self.reneged = self.completed = 0
        self.busy_ns = self.cpu_ns = self.queue_ns = 0

    # --- What happens to it ------------------------------------------------------------------

    def next_ns(self) -> int:
        """Return when the next step ends [model ns], or `NEVER_NS`."""
        return self._planned[0][0] if self._planned else NEVER_NS

    def advance(self, now_ns: int) -> list[Action]:
        """Catch up to `now_ns` through every planned end; return what is to be done, in order."""
        planned = self._planned
        while planned and planned[0][0] <= now_ns:
            time_ns, _, kind, task, wake = heapq.heappop(planned)
            self._now_ns = max(self._now_ns, time_ns)
            if kind == _CORES:
                if wake == self._cores_wake:
                    self._end_on_cores()
            elif task is not None and task.wake == wake:
                if kind == _RENEGE:
                    self._renege(task)
                else:
                    if task.state == server.TASK_RUNNING:
                        self._finish_service(task)
                    self._run(task)
        self._now_ns = max(self._now_ns, now_ns)
        actions, self._actions = self._actions, []
        return actions

    def submit(self, task: Task, now_ns: int) -> list[Action]:
        """Admit `task`, refuse it, or let it queue, at `now_ns`; return what is to be done."""
        before = self.advance(now_ns)
        self.requests += 1
        if self.discipline == server.FCFS:
            task.priority = 0
        task.step = self._programs[task.operation]
        if self.error_rate > 0.0 and coin(task.key, rng.PURPOSE_FAULT << 24) < self.error_rate:
            task.step = tasks.END_STEP
            task.status = _FAILED
        elif self.gray is not None:
            self.gray.turn(task)
        if self._estimates is not None:
            task.rif, task.arrived_ns = self.busy + self.queued, self._now_ns
        if self._acquire_worker(task):
            self._run(task)
        elif self.queued >= self.queue_limit:
            self.rejected += 1
            task.status = REFUSED
            self._answer(task)
        else:
            self._wait_for_worker(task)
        return before + self.advance(now_ns)

    def returned(self, task: Task, status: int, now_ns: int) -> list[Action]:
        """Let `task` go on after its call, which ended with `status`, at `now_ns`."""
        before = self.advance(now_ns)
        task.calling = False
        self._go_on_after_call(task, status)
        self._run(task)
        return before + self.advance(now_ns)

    def cancel(self, task: Task, now_ns: int) -> list[Action]:
        """Do as `on_timeout` says: the caller of `task` gave up at `now_ns`."""
        before = self.advance(now_ns)
        if task.state == server.TASK_ENDED or task.abandoned:
            return before
        task.abandoned = True
        queued = task.state == server.TASK_QUEUED
        cancels = queued or self.on_timeout != server.ON_TIMEOUT_CANCEL_QUEUED
        if self.on_timeout != server.ON_TIMEOUT_CONTINUE and cancels:
            self._stop(task)
        return before + self.advance(now_ns)

    def load(self, now_ns: int) -> tuple[int, int]:
        """Return requests in flight, and the latency they would give another [model ns].

        Who is asked for the first time begins to remember latencies.  Actions that come due stay
        for the next call of `advance`.
        """
        self._actions = self.advance(now_ns) + self._actions
        if self._estimates is None:
            self._estimates = LoadEstimates()
        rif = self.busy + self.queued
        return rif, self._estimates.latency_ns(rif)

    def set_speed(
        self, speed: float, now_ns: int, shares: tuple[float, float] = (1.0, 1.0)
    ) -> list[Action]:
        """Compute at `speed` from now on (1 is nominal, 0 is paused); sleeps go on.

        `shares` are those of the limit of its shared cores, if any, and of its node's cores.
        """
        before = self.advance(now_ns)
        previous, self.speed = self.speed, speed
        if self.cores is not None:
            self.cores.set_speed(speed, shares, self._now_ns)
            self._plan_cores()
            return before
        for task in self._running:
            if not task.computing:
                continue
            work_ns = task.work_ns
            if previous > 0.0:
                work_ns = (task.finish_ns - self._now_ns) * previous
            task.wake += 1
            self._resume_service(task, max(work_ns, 1.0))
        return before

    def reset(self, now_ns: int) -> None:
        """Forget every request at `now_ns`; the counters stay."""
        self.advance(now_ns)
        self._account()
        self.busy = self.queued = 0
        self._planned.clear()
        self._running.clear()
        self._queue.clear()
        if self.cores is not None:
            self.cores.clear(self._now_ns)

    def record(self, now_ns: int) -> tuple[int, ...]:
        """Return the counters so far, in the order of `ENDPOINT_RECORD_DTYPE`.

        Actions that come due stay for the next call of `advance`.
        """
        self._actions = self.advance(now_ns) + self._actions
        self._account()
        return (
            self.requests,
            self.rejected,
            self.reneged,
            self.completed,
            self.busy_ns,
            self.cpu_ns,
            self.queue_ns,
            self.busy + self.queued,
        )

    # --- Planning ----------------------------------------------------------------------------

    def _plan(self, time_ns: int, kind: int, task: Task | None, wake: int) -> None:
        heapq.heappush(self._planned, (time_ns, self._next_order, kind, task, wake))
        self._next_order += 1

    def _plan_run(self, task: Task, time_ns: int) -> None:
        self._plan(time_ns, _RUN, task, task.wake)

    def _account(self) -> None:
        """Bring the integrals of busy workers and queue length up to now."""
        elapsed_ns = self._now_ns - self._updated_ns
        self.busy_ns += elapsed_ns * self.busy
        self.queue_ns += elapsed_ns * self.queued
        self._updated_ns = self._now_ns

    # --- Programs ----------------------------------------------------------------------------

    def _run(self, task: Task) -> None:
        """Run the program of `task` until it takes time or ends."""
        while True:
            step = self._steps[task.step]
            if step.kind == server.STEP_END:
                self._end(task)
                return
            if step.probability < 1.0:
                uniform = coin(task.key, (rng.PURPOSE_BRANCH << 24) + step.ordinal)
                if uniform >= step.probability:
                    task.step += 1
                    continue
            if step.kind in (server.STEP_COMPUTE, server.STEP_SLEEP):
                if task.worker == server.WORKER_NONE and not self._acquire_worker(task):
                    self._wait_for_worker(task)
                    return
                if self._begin_service(task, step):
                    return
                task.step += 1
                continue
            if step.kind == server.STEP_CACHE and self.cache.has(task.key, step, self._now_ns):
                task.step += 1
                continue
            task.state = server.TASK_WAITING
            if not self._holds_worker:
                self._release_worker(task)
            if step.kind == server.STEP_CALL:
                task.calling = True
                key = int(rng.mix_in(task.key, step.ordinal))
                self._actions.append(Action(ActionKind.CALL, task, step.call, key))
            else:
                self._branch(task, step)
            return

    def _branch(self, task: Task, step: ProgramStep) -> None:
        """Start every branch of a parallel step, or the miss of a cache, in order."""
        worker = server.WORKER_NONE if task.worker == server.WORKER_NONE else server.WORKER_BORROWED
        for first in step.branches:
            branch = Task(int(task.key), task.priority, task.operation, task.owner)
            branch.parent = task
            branch.worker, branch.pace = worker, task.pace
            branch.step = first
            task.branches.append(branch)
            self._plan_run(branch, self._now_ns)

    def _go_on_after_call(self, task: Task, status: int) -> None:
        """Take note of the answer to the call of `task`; a failed one ends the program."""
        if status >= _FAILED and not self._steps[task.step].optional:
            task.status = _FAILED
            task.step = tasks.END_STEP
        else:
            task.step += 1

    def _end(self, task: Task) -> None:
        """End the program of `task`: answer its caller, or join its parent."""
        if task.parent is not None:
            self._join(task, task.parent)
            return
        self._release_worker(task)
        self.completed += 1
        if self._estimates is not None:
            self._estimates.remember(task.rif, self._now_ns - task.arrived_ns)
        self._answer(task)

    def _join(self, branch: Task, parent: Task) -> None:
        """End `branch`; the last of its siblings lets the parent go on."""
        self._release_worker(branch)
        branch.state = server.TASK_ENDED
        if any(sibling.state != server.TASK_ENDED for sibling in parent.branches):
            return
        failed = any(sibling.status >= _FAILED for sibling in parent.branches)
        for sibling in parent.branches:
            parent.queue_ns += sibling.queue_ns
            parent.service_ns += sibling.service_ns
        parent.branches = []
        step = self._steps[parent.step]
        if not failed and step.kind == server.STEP_CACHE:
            self.cache.keep(parent.key, step, self._now_ns)
        self._go_on_after_call(parent, _FAILED if failed else 200)
        self._plan_run(parent, self._now_ns)

    def _answer(self, task: Task) -> None:
        task.state = server.TASK_ENDED
        task.wake += 1
        if not task.abandoned:
            self._actions.append(Action(ActionKind.ANSWER, task))

    # --- Workers -----------------------------------------------------------------------------

    def _acquire_worker(self, task: Task) -> bool:
        """Give `task` a worker if one is free or can be taken from a lower priority."""
        if self.busy < self.concurrency:
            self._account()
            self.busy += 1
            task.worker = server.WORKER_OWN
            return True
        if self.discipline == server.PREEMPTIVE_PRIORITY and self._preempt(task.priority):
            task.worker = server.WORKER_OWN
            return True
        return False

    def _preempt(self, priority: int) -> bool:
        """Take the worker of the running task of the lowest priority below `priority`, if any."""
        owners = [task for task in self._running if task.worker == server.WORKER_OWN]
        # Of equal ones the latest: it has the least to lose.
        victim = max(reversed(owners), key=lambda task: task.priority, default=None)
        if victim is None or victim.priority <= priority:
            return False
        del self._running[victim]
        victim.wake += 1
        speed = self.speed if victim.computing else 1.0
        if speed > 0.0:
            victim.work_ns = max((victim.finish_ns - self._now_ns) * speed, 1.0)
        self._count_service(victim)
        victim.worker = server.WORKER_NONE
        self._account()
        self._enqueue(victim, at_front=True)
        return True

    def _wait_for_worker(self, task: Task) -> None:
        """Let `task` wait for a worker, for as long as its patience lasts."""
        self._account()
        self._enqueue(task, at_front=False)
        if self._patience != NO_INDEX:
            patience_ns = self._draws.draw_ns(self._patience, task.key, rng.PURPOSE_PATIENCE << 24)
            self._plan(self._now_ns + patience_ns, _RENEGE, task, task.wake)

    def _enqueue(self, task: Task, *, at_front: bool) -> None:
        task.state = server.TASK_QUEUED
        task.entered_ns = self._now_ns
        self.queued += 1
        self._queue.add(task, at_front=at_front)

    def _leave_queue(self, task: Task) -> None:
        self._account()
        self.queued -= 1
        self._queue.remove(task)
        task.queue_ns += self._now_ns - task.entered_ns

    def _release_worker(self, task: Task) -> None:
        """Give up the worker that `task` owns, if it owns one, to the task first in line."""
        if task.worker != server.WORKER_OWN:
            return
        task.worker = server.WORKER_NONE
        self._account()
        if self.queued == 0:
            self.busy -= 1
            return
        first = self._queue.first()
        self._leave_queue(first)
        first.wake += 1
        first.worker = server.WORKER_OWN
        if first.work_ns > 0.0:  # it was preempted
            first.state = server.TASK_RUNNING
            first.entered_ns = self._now_ns
            self._running[first] = None
            self._resume_service(first, first.work_ns)
        else:
            # It runs as an event of its own at this instant: what frees the worker goes first.
            first.state = server.TASK_WAITING
            self._plan_run(first, self._now_ns)

    def _renege(self, task: Task) -> None:
        """`task` is out of patience: it leaves the queue and is answered 503."""
        self._leave_queue(task)
        self.reneged += 1
        task.status = REFUSED
        if task.parent is not None:
            self._join(task, task.parent)
        else:
            self._answer(task)

    # --- Services ----------------------------------------------------------------------------

    def _begin_service(self, task: Task, step: ProgramStep) -> bool:
        """Begin a compute or sleep; return False if it takes no time."""
        ordinal = (rng.PURPOSE_SERVICE << 24) + step.ordinal
        duration_ns = self._draws.draw_ns(step.distribution, task.key, ordinal)
        if duration_ns == 0:
            return False
        duration_ns = int(duration_ns / task.pace + 0.5)
        task.state = server.TASK_RUNNING
        task.computing = step.kind == server.STEP_COMPUTE
        task.entered_ns = self._now_ns
        self._running[task] = None
        self._resume_service(task, float(duration_ns))
        return True

    def _resume_service(self, task: Task, work_ns: float) -> None:
        """Run the rest of a step: `work_ns` at nominal speed.  A paused server only notes it."""
        task.work_ns = work_ns
        speed = 1.0
        if task.computing:
            if self.cores is not None:
                self.cores.add(task, work_ns, self._now_ns)
                self._plan_cores()
                return
            speed = self.speed
        if speed > 0.0:
            task.finish_ns = self._now_ns + int(work_ns / speed + 0.5)
            self._plan_run(task, task.finish_ns)

    def _plan_cores(self) -> None:
        assert self.cores is not None
        self._cores_wake += 1
        next_ns = self.cores.next_ns(self._now_ns)
        if next_ns != NEVER_NS:
            self._plan(next_ns, _CORES, None, self._cores_wake)

    def _end_on_cores(self) -> None:
        """Let go on whoever has ended on the shared cores by now."""
        assert self.cores is not None
        ended = self.cores.take_ended(self._now_ns)
        self._plan_cores()
        for task in ended:
            self._finish_service(task)
            task.wake += 1
            self._plan_run(task, self._now_ns)

    def _count_service(self, task: Task, cpu_ns: int | None = None) -> None:
        served_ns = self._now_ns - task.entered_ns
        task.service_ns += served_ns
        if task.computing:
            self.cpu_ns += served_ns if cpu_ns is None else cpu_ns

    def _finish_service(self, task: Task) -> None:
        """End the running step of `task`; it stands at the next one."""
        # On shared cores a task is served for longer than it computes.
        self._count_service(task, int(task.work_ns) if self.cores is not None else None)
        self._running.pop(task, None)
        task.work_ns = 0.0
        task.state = server.TASK_WAITING
        task.step += 1

    # --- Giving up ---------------------------------------------------------------------------

    def _stop(self, task: Task) -> None:
        """Take `task` out of wherever it is, with its branches and its call; nobody is told."""
        branches, task.branches = task.branches, []
        for branch in branches:
            self._stop(branch)
        if task.state == server.TASK_QUEUED:
            self._leave_queue(task)
        elif task.state == server.TASK_RUNNING:
            cpu_ns = None
            if self.cores is not None and task.computing:
                cpu_ns = int(self.cores.remove(task, self._now_ns))
                self._plan_cores()
            self._count_service(task, cpu_ns)
            del self._running[task]
        if task.calling:
            task.calling = False
            self._actions.append(Action(ActionKind.CANCEL_CALL, task))
        task.state = server.TASK_ENDED
        task.wake += 1
        self._release_worker(task)
