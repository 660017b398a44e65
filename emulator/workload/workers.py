"""Workers of a replica: who holds one, who waits for one, and what it is held for.

Rule, as `meshsim.kernel.workers`: a worker that becomes free goes to the task first in line.  A
task in line leaves it when its patience ends, or its deadline comes where the server minds that.
What ends when is planned, in the station's own time (`emulator.workload.station`).
"""

from __future__ import annotations

import heapq

from emulator.workload.bulkheads import ReplicaBulkheads
from emulator.workload.caching import ReplicaCache
from emulator.workload.cores import SharedCores
from emulator.workload.draws import TaskDraws
from emulator.workload.estimates import LoadEstimates
from emulator.workload.gray import GrayFailure
from emulator.workload.tasks import Action, ProgramStep, Task, TaskQueue, read_steps
from meshsim import rng
from meshsim.state import server
from meshsim.state.codes import NEVER_NS, NO_INDEX
from meshsim.topology.compiled import CompiledTopology

__all__ = ["BULKHEAD", "CORES", "RENEGE", "RUN", "Workers"]

# Kinds of planned events.
RUN = 0  # the task's step has ended, or it goes on with its program
RENEGE = 1  # out of patience in the queue, or beyond its deadline
CORES = 2  # a task on shared cores has ended
BULKHEAD = 3  # the task waits for its call no longer


class Workers:
    """The workers of one replica, and its queue.

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
        self._steps = read_steps(arrays["steps"], arrays["branches"])
        self.concurrency = int(row["concurrency"])
        self.queue_limit = int(row["queue_limit"])
        self.discipline = int(row["discipline"])
        self.on_timeout = int(row["on_timeout"])
        self._holds_worker = bool(row["hold_worker"])
        self.minds_deadlines = bool(row["deadlines"])
        self._patience = int(row["patience"])
        self.speed = self.speed_nominal = float(row["speed"])
        self.error_rate = self.error_rate_nominal = float(row["error_rate"])
        container = int(row["container"])
        self.cores: SharedCores[Task] | None = None
        if container != NO_INDEX:
            self.cores = SharedCores(arrays["containers"][container], arrays["nodes"])
        self.cache = ReplicaCache(arrays, row)
        self.bulkheads = ReplicaBulkheads(arrays, row)
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
        self.fallbacks = 0
        self.busy_ns = self.cpu_ns = self.queue_ns = 0

    # --- Planning ----------------------------------------------------------------------------

    def _plan(self, time_ns: int, kind: int, task: Task | None, wake: int) -> None:
        heapq.heappush(self._planned, (time_ns, self._next_order, kind, task, wake))
        self._next_order += 1

    def _plan_run(self, task: Task, time_ns: int) -> None:
        self._plan(time_ns, RUN, task, task.wake)

    def _account(self) -> None:
        """Bring the integrals of busy workers and queue length up to now."""
        elapsed_ns = self._now_ns - self._updated_ns
        self.busy_ns += elapsed_ns * self.busy
        self.queue_ns += elapsed_ns * self.queued
        self._updated_ns = self._now_ns

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
            self._plan(self._now_ns + patience_ns, RENEGE, task, task.wake)
        if task.deadline_ns != NEVER_NS and self.on_timeout != server.ON_TIMEOUT_CONTINUE:
            self._plan(max(task.deadline_ns, self._now_ns), RENEGE, task, task.wake)

    def _may_call(self, task: Task, step: ProgramStep) -> bool:
        """Ask the bulkhead of the call at `step`; one that lets `task` wait changes its state."""
        wait_ns = self.bulkheads.enter(step.distribution, task)
        if wait_ns == 0:
            return True
        if wait_ns is not None:
            task.state = server.TASK_AT_BULKHEAD
            task.entered_ns = self._now_ns
            if wait_ns < NEVER_NS - self._now_ns:
                self._plan(self._now_ns + wait_ns, BULKHEAD, task, task.wake)
        return False

    def _leave_bulkhead(self, place: int) -> None:
        """Give back the permit of a call; the first in line calls, as an event of its own."""
        first = self.bulkheads.leave(place)
        if first is not None:
            first.queue_ns += self._now_ns - first.entered_ns
            first.state = server.TASK_LET_THROUGH
            first.wake += 1
            self._plan_run(first, self._now_ns)

    def _give_up_waiting(self, task: Task, expired: bool = True) -> None:
        """`task`, at a bulkhead, waits no longer."""
        self.bulkheads.give_up(self._steps[task.step].distribution, task, expired)
        task.queue_ns += self._now_ns - task.entered_ns
        task.state = server.TASK_WAITING

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
            self._plan(next_ns, CORES, None, self._cores_wake)

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
