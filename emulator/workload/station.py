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
from emulator.workload.draws import coin
from emulator.workload.estimates import LoadEstimates
from emulator.workload.tasks import Action, ActionKind, ProgramStep, Task
from emulator.workload.workers import BULKHEAD, CORES, RENEGE, Workers
from meshsim import rng
from meshsim.policy.bulkhead import REFUSED_STATUS
from meshsim.policy.fallback import step_after_call, takes_fallback
from meshsim.state import server
from meshsim.state.codes import NEVER_NS, NO_INDEX

__all__ = ["REFUSED", "Station"]

_FAILED = 500
REFUSED = 503  # by a full queue, or for lack of patience


class Station(Workers):
    """The server of one replica.

    Parameters
    ----------
    compiled : CompiledTopology
        Read only.
    endpoint : int
        Row of the replica.
    """

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
            if kind == CORES:
                if wake == self._cores_wake:
                    self._end_on_cores()
            elif task is not None and task.wake == wake:
                if kind == RENEGE:
                    self._renege(task)
                elif kind == BULKHEAD:
                    self._give_up_waiting(task)
                    self._follow_call(task, REFUSED_STATUS)
                    self._run(task)
                elif task.state == server.TASK_LET_THROUGH:
                    self._let_through(task)
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
        self.bulkheads.clear()
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
                    task.step += 1 + step.fallback_count
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
            if step.kind != server.STEP_CALL:
                self._branch(task, step)
            elif step.distribution == NO_INDEX or self._may_call(task, step):
                self._call(task, step)
            elif task.state == server.TASK_WAITING:  # its bulkhead has refused it
                self._follow_call(task, REFUSED_STATUS)
                continue
            return

    def _call(self, task: Task, step: ProgramStep) -> None:
        task.calling = True
        key = int(rng.mix_in(task.key, step.ordinal))
        self._actions.append(Action(ActionKind.CALL, task, step.call, key))

    def _let_through(self, task: Task) -> None:
        """Make the call that the bulkhead of `task` has let through."""
        task.state = server.TASK_WAITING
        self._call(task, self._steps[task.step])

    def _branch(self, task: Task, step: ProgramStep) -> None:
        """Start every branch of a parallel step, or the miss of a cache, in order."""
        worker = server.WORKER_NONE if task.worker == server.WORKER_NONE else server.WORKER_BORROWED
        for first in step.branches:
            branch = Task(int(task.key), task.priority, task.operation, task.owner)
            branch.parent = task
            branch.worker, branch.pace, branch.deadline_ns = worker, task.pace, task.deadline_ns
            branch.step = first
            task.branches.append(branch)
            self._plan_run(branch, self._now_ns)

    def _go_on_after_call(self, task: Task, status: int) -> None:
        """Take note of the answer to the call of `task`, or of the ends of its branches."""
        place = self._steps[task.step].distribution
        if place != NO_INDEX:
            self._leave_bulkhead(place)
        self._follow_call(task, status)

    def _follow_call(self, task: Task, status: int) -> None:
        """Let `task` stand at the step that follows its call (`meshsim.policy.fallback`)."""
        step = self._steps[task.step]
        task.step = step_after_call(task.step, step.on_failure, step.fallback_count, status)
        if task.step == tasks.END_STEP:
            task.status = _FAILED
        elif takes_fallback(step.on_failure, status):
            self.fallbacks += 1

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

    def _renege(self, task: Task) -> None:
        """`task` is out of patience: it leaves the queue and is answered 503."""
        self._leave_queue(task)
        self.reneged += 1
        task.status = REFUSED
        if task.parent is not None:
            self._join(task, task.parent)
        else:
            self._answer(task)

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
        place = self._steps[task.step].distribution
        if task.state == server.TASK_AT_BULKHEAD:
            self._give_up_waiting(task, expired=False)
        elif (task.calling or task.state == server.TASK_LET_THROUGH) and place != NO_INDEX:
            self._leave_bulkhead(place)
        if task.calling:
            task.calling = False
            self._actions.append(Action(ActionKind.CANCEL_CALL, task))
        task.state = server.TASK_ENDED
        task.wake += 1
        self._release_worker(task)
