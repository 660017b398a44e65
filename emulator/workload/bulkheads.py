"""Bulkheads of one replica: its tasks that wait for the permit of a call, first come first served.

Rule: `meshsim.policy.bulkhead`, as in `meshsim.kernel.bulkheads`.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np

from emulator.workload.tasks import Task
from meshsim.policy.bulkhead import (
    CALL_PERMITTED,
    CALL_WAITS,
    may_call,
    on_call_ended,
    on_wait_ended,
)
from meshsim.state.server import BULKHEAD_STATS

__all__ = ["ReplicaBulkheads"]


class ReplicaBulkheads:
    """The bulkheads of one replica, by the place that its steps name.

    Parameters
    ----------
    arrays : mapping of str to ndarray
        Of the compiled topology.
    endpoint : ENDPOINT row
    """

    def __init__(self, arrays: Any, endpoint: Any) -> None:
        start = int(endpoint["bulkhead_start"])
        count = int(arrays["bulkhead_counts"][endpoint["workload"]])
        self._rows = arrays["bulkheads"][start : start + count].copy()
        self._lines: list[OrderedDict[Task, None]] = [OrderedDict() for _ in range(count)]

    def enter(self, place: int, task: Task) -> int | None:
        """Ask for a permit; return 0 if `task` has it, None if it is refused.

        One that waits is in line, and the answer is for how long it may wait [ns].
        """
        answer = may_call(self._rows, place)
        if answer == CALL_PERMITTED:
            return 0
        if answer != CALL_WAITS:
            return None
        self._lines[place][task] = None
        return int(self._rows["max_wait_ns"][place])

    def leave(self, place: int) -> Task | None:
        """Give a permit back; return the task that has it now, if one waited."""
        if not on_call_ended(self._rows, place):
            return None
        return self._lines[place].popitem(last=False)[0]

    def give_up(self, place: int, task: Task, expired: bool) -> None:
        """Take `task`, whose wait has `expired` or which is stopped, out of line."""
        del self._lines[place][task]
        on_wait_ended(self._rows, place, expired)

    def clear(self) -> None:
        """Forget who waits and who calls; the counters stay."""
        for line in self._lines:
            line.clear()
        self._rows["active"] = self._rows["waiting"] = 0

    def counters(self) -> dict[str, int]:
        """Return what was let through and refused, by name."""
        counts = {name: int(self._rows[field].sum()) for name, field in BULKHEAD_STATS.items()}
        return counts if np.any(list(counts.values())) else {}
