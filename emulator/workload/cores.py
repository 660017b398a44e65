"""Shared cores of one replica: equal shares among what computes, in virtual time.

Rule, as `meshsim.kernel.cores`: each running task advances at
``rate = share / running * speed / (1 + penalty * (running - 1))`` with
``share = min(limit, cores of the node, running)``.  Virtual time is the integral of the rate, so
a task that starts with `work` ends when virtual time reaches ``tag = virtual + work``.

Limit: replicas of one node live in several processes and do not share its cores with one
another here, as they do in the simulator; each may use all of them.

References
----------
Parekh, Gallager, "A generalized processor sharing approach to flow control" (1993).
"""

from __future__ import annotations

import heapq
import math
from typing import Any, Generic, TypeVar

from meshsim.state.codes import NEVER_NS

__all__ = ["SharedCores"]

_Task = TypeVar("_Task")
#: Ends are rounded up to whole ns, so virtual time may pass a tag by one rate.
_TAG_TOLERANCE = 1e-6


class SharedCores(Generic[_Task]):
    """The cores of one container.

    Parameters
    ----------
    container : CONTAINER row
        Limit, speed and penalty.
    nodes : ndarray[NODE_DTYPE]
        Its node's cores are a second limit.
    """

    def __init__(self, container: Any, nodes: Any) -> None:
        self._nominal_cores = float(container["limit_cores"])
        self._node_cores = float(nodes["cores"][container["node"]])
        self._limit_cores = min(self._nominal_cores, self._node_cores)
        self._speed = float(container["speed"])
        self._penalty = float(container["penalty"])
        self._virtual_ns = 0.0
        self._rate = 0.0
        self._updated_ns = 0
        self._heap: list[tuple[float, int, _Task]] = []
        self._work_ns: dict[int, float] = {}  # by order of entry, of those running
        self._order = 0

    def _settle(self, now_ns: int) -> None:
        self._virtual_ns += self._rate * (now_ns - self._updated_ns)
        self._updated_ns = now_ns

    def _share(self) -> None:
        running = len(self._heap)
        self._rate = 0.0
        if running:
            share = min(self._limit_cores, running) / running
            self._rate = share * self._speed / (1.0 + self._penalty * (running - 1))

    def add(self, task: _Task, work_ns: float, now_ns: int) -> None:
        """Start `task` with `work_ns` of one nominal core."""
        self._settle(now_ns)
        heapq.heappush(self._heap, (self._virtual_ns + work_ns, self._order, task))
        self._work_ns[self._order] = work_ns
        self._order += 1
        self._share()

    def remove(self, task: _Task, now_ns: int) -> float:
        """Stop `task` before its end; return the work it has done [ns]."""
        self._settle(now_ns)
        entry = next(entry for entry in self._heap if entry[2] is task)
        self._heap.remove(entry)
        heapq.heapify(self._heap)
        self._share()
        return self._work_ns.pop(entry[1]) - (entry[0] - self._virtual_ns)

    def clear(self, now_ns: int) -> None:
        """Forget every task."""
        self._settle(now_ns)
        self._heap.clear()
        self._work_ns.clear()
        self._share()

    def set_speed(self, speed: float, shares: tuple[float, float], now_ns: int) -> None:
        """Compute at `speed` from `now_ns` on, with shares of its limit and of its node's cores."""
        self._settle(now_ns)
        self._speed = speed
        own, of_node = shares
        self._limit_cores = min(own * self._nominal_cores, of_node * self._node_cores)
        self._share()

    def next_ns(self, now_ns: int) -> int:
        """Return when the next task ends if nothing changes [ns], or `NEVER_NS`."""
        if not self._heap or self._rate <= 0.0:
            return NEVER_NS
        left_ns = max(self._heap[0][0] - self._virtual_ns, 0.0)
        return now_ns + math.ceil(left_ns / self._rate)

    def take_ended(self, now_ns: int) -> list[_Task]:
        """Return the tasks that have ended by `now_ns`, and go on without them."""
        self._settle(now_ns)
        ended = []
        while self._heap and self._heap[0][0] <= self._virtual_ns + _TAG_TOLERANCE:
            _, order, task = heapq.heappop(self._heap)
            del self._work_ns[order]
            ended.append(task)
        self._share()
        return ended
