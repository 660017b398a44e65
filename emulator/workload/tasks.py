"""What a station serves: tasks, the steps they run, and the actions they ask for."""

from __future__ import annotations

from collections import OrderedDict
from enum import Enum
from typing import Any, NamedTuple

import numpy as np

from meshsim.state.codes import NEVER_NS, NO_INDEX
from meshsim.state.server import PRIORITY_COUNT, TASK_WAITING, WORKER_NONE

__all__ = ["END_STEP", "Action", "ActionKind", "ProgramStep", "Task", "TaskQueue", "read_steps"]

#: Step 0 of every compiled topology is an END: the program of a request that fails at once.
END_STEP = 0


class ActionKind(Enum):
    """What the server has to do."""

    CALL = "call"  # make the call of `site` with draw key `key`, and tell `returned`
    ANSWER = "answer"  # send the task's status to its caller
    CANCEL_CALL = "cancel call"  # give up the call under way


class Action(NamedTuple):
    """One thing to do; `site` is a CALL row and `key` the draw key of the call's exchange."""

    kind: ActionKind
    task: Task
    site: int = NO_INDEX
    key: int = 0


class ProgramStep(NamedTuple):
    """A STEP row, as a tuple; `branches` are the first steps of a parallel step's branches."""

    kind: int
    distribution: int
    call: int
    ordinal: int
    on_failure: int
    branches: tuple[int, ...]
    fallback_count: int
    probability: float


class Task:
    """One request being served, or one parallel branch of it.

    Parameters
    ----------
    key : int
        Draw key of (exchange, try), below 2**64.
    priority : int
        Class of the queue, 0 is served first.
    operation : int
        Column of the programs.
    owner : object
        Whatever the server keeps with a request; branches share it.
    """

    __slots__ = (
        "abandoned",
        "arrived_ns",
        "branches",
        "calling",
        "computing",
        "deadline_ns",
        "entered_ns",
        "finish_ns",
        "key",
        "operation",
        "owner",
        "pace",
        "parent",
        "priority",
        "queue_ns",
        "rif",
        "service_ns",
        "state",
        "status",
        "step",
        "wake",
        "work_ns",
        "worker",
    )

    def __init__(self, key: int, priority: int, operation: int, owner: Any) -> None:
        self.key = np.uint64(key)
        self.priority = priority
        self.operation = operation
        self.owner = owner
        self.parent: Task | None = None
        self.branches: list[Task] = []
        self.state = TASK_WAITING
        self.worker = WORKER_NONE
        self.step = END_STEP
        self.pace = 1.0  # of its steps, if a gray failure hit it
        self.status = 200
        self.wake = 0  # events planned for an earlier one are stale
        self.computing = False
        self.calling = False
        self.abandoned = False  # the caller is gone
        self.rif = 0  # requests in flight when it arrived, and when that was
        self.arrived_ns = 0
        self.deadline_ns = NEVER_NS  # at a server that minds deadlines
        self.entered_ns = 0
        self.finish_ns = 0
        self.work_ns = 0.0  # not yet done, while preempted or paused
        self.queue_ns = 0
        self.service_ns = 0


class TaskQueue:
    """Tasks that wait: lower priority classes first, first come first served within each."""

    def __init__(self) -> None:
        self._classes: list[OrderedDict[Task, None]] = [
            OrderedDict() for _ in range(PRIORITY_COUNT)
        ]

    def add(self, task: Task, *, at_front: bool) -> None:
        """Add `task` at the end of its class, or at the front if it was preempted."""
        waiting = self._classes[task.priority]
        waiting[task] = None
        if at_front:
            waiting.move_to_end(task, last=False)

    def remove(self, task: Task) -> None:
        """Take `task` out, wherever it stands."""
        del self._classes[task.priority][task]

    def first(self) -> Task:
        """Return the task first in line; somebody waits."""
        waiting = next(waiting for waiting in self._classes if waiting)
        return next(iter(waiting))

    def clear(self) -> None:
        """Forget everybody."""
        for waiting in self._classes:
            waiting.clear()


def read_steps(rows: Any, branches: Any) -> list[ProgramStep]:
    """Return STEP rows as tuples: reading a field of an array takes as long as a whole step.

    Parameters
    ----------
    rows : ndarray[STEP_DTYPE]
    branches : ndarray[int32]
        First step of each branch.
    """
    steps = []
    for row in rows:
        start, count = int(row["branch_start"]), int(row["branch_count"])
        steps.append(
            ProgramStep(
                int(row["kind"]),
                int(row["distribution"]),
                int(row["call"]),
                int(row["ordinal"]),
                int(row["on_failure"]),
                tuple(int(first) for first in branches[start : start + count]),
                int(row["fallback_count"]),
                float(row["probability"]),
            )
        )
    return steps
