"""What must hold of bulkheads: permits and places in line belong to tasks at their call."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from meshsim.kernel.memory import KernelState
from meshsim.state.codes import NO_INDEX
from meshsim.state.server import STEP_CALL, TASK_AT_BULKHEAD, TASK_LET_THROUGH, TASK_WAITING

__all__ = ["check_bulkheads"]


def check_bulkheads(state: KernelState) -> Iterator[str]:
    """Yield what is wrong with the bulkheads of a kernel between two events."""
    tasks, bulkheads, steps = state.tasks, state.bulkheads, state.steps
    if not len(bulkheads):
        return
    places = steps["distribution"][tasks["step"]]
    rows = state.endpoints["bulkhead_start"][tasks["endpoint"]] + places
    calling = (tasks["state"] == TASK_WAITING) & (tasks["exchange"] != NO_INDEX)
    calling &= (steps["kind"][tasks["step"]] == STEP_CALL) & (places != NO_INDEX)
    expected = {
        "waiting": tasks["state"] == TASK_AT_BULKHEAD,
        "active": calling | (tasks["state"] == TASK_LET_THROUGH),
    }
    for field, mine in expected.items():
        found = np.bincount(rows[mine], minlength=len(bulkheads))
        for row in np.flatnonzero(found != bulkheads[field]):
            yield f"bulkhead {row}: {bulkheads[field][row]} {field}, found {found[row]} tasks"
    for row in np.flatnonzero(bulkheads["waiting"]):
        chain: list[int] = []
        task = int(bulkheads["head"][row])
        while task != NO_INDEX and len(chain) <= len(tasks):
            chain.append(task)
            task = int(tasks["next"][task])
        if len(chain) != bulkheads["waiting"][row] or chain[-1] != bulkheads["tail"][row]:
            yield f"bulkhead {row}: its list is not that of those that wait"
