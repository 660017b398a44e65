"""Shared cores: max-min shares between the containers of a node, equal shares within one.

Rule: a container wants min(limit, running tasks) cores; the node grants max-min fair shares of
its cores.  Each running task of a container advances at
``rate = share / running * speed / (1 + penalty * (running - 1))``.
Virtual time of a container is the integral of its rate, so a task that starts with `work` ends
when virtual time reaches ``tag = virtual + work``; the tags are kept in a skew heap through the
task rows.  The node has one completion event, stamped with `wake`: any change of its shares
makes it stale and schedules the next.

References
----------
Parekh, Gallager, "A generalized processor sharing approach to flow control" (1993): virtual
time.  Sleator, Tarjan, "Self-adjusting heaps", SIAM J. Comput. 15 (1986): skew heaps.
"""

from __future__ import annotations

import math
from typing import Any

from meshsim.jit import kernel_jit
from meshsim.kernel.events import GENERATION_MASK, NODE, pack, schedule
from meshsim.state.codes import NEVER_NS, NO_INDEX

__all__ = [
    "add_to_container",
    "remove_from_container",
    "reshare_node",
    "settle_node",
    "take_finished",
]


@kernel_jit
def _merge(tasks: Any, one: int, other: int) -> int:
    """Merge two skew heaps and return the root of the union."""
    if one == NO_INDEX:
        return other
    if other == NO_INDEX:
        return one
    if tasks["tag"][other] < tasks["tag"][one]:
        one, other = other, one
    root = one
    # Walk down the right spines, swapping children on the way: amortised O(log n).
    while True:
        below = tasks["right"][one]
        tasks["right"][one] = tasks["left"][one]
        if below == NO_INDEX:
            tasks["left"][one] = other
            return root
        if tasks["tag"][other] < tasks["tag"][below]:
            below, other = other, below
        tasks["left"][one] = below
        one = below


@kernel_jit
def _settle_container(containers: Any, container: int, now_ns: int) -> None:
    """Bring the virtual time of `container` up to `now_ns`."""
    elapsed_ns = now_ns - containers["updated_ns"][container]
    containers["virtual_ns"][container] += containers["rate"][container] * elapsed_ns
    containers["updated_ns"][container] = now_ns


@kernel_jit
def settle_node(state: Any, node: int) -> None:
    """Bring every container of `node` up to now, before a share, speed or limit changes."""
    container = state.nodes["first"][node]
    while container != NO_INDEX:
        _settle_container(state.containers, container, state.counters["now_ns"][0])
        container = state.containers["next"][container]


@kernel_jit
def _share(state: Any, node: int) -> None:
    """Grant max-min fair shares: whoever wants less than the fair share gets what it wants."""
    containers = state.containers
    left_cores = state.nodes["cores"][node]
    unsatisfied = 0
    container = state.nodes["first"][node]
    while container != NO_INDEX:
        containers["share_cores"][container] = -1.0
        unsatisfied += 1
        container = containers["next"][container]
    settled = True
    while settled and unsatisfied > 0:
        settled = False
        fair_cores = left_cores / unsatisfied
        container = state.nodes["first"][node]
        while container != NO_INDEX:
            wanted = min(containers["limit_cores"][container], containers["running"][container])
            if containers["share_cores"][container] < 0.0 and wanted <= fair_cores:
                containers["share_cores"][container] = wanted
                left_cores -= wanted
                unsatisfied -= 1
                settled = True
            container = containers["next"][container]
    container = state.nodes["first"][node]
    while container != NO_INDEX:
        if containers["share_cores"][container] < 0.0:
            containers["share_cores"][container] = left_cores / unsatisfied
        container = containers["next"][container]


@kernel_jit
def reshare_node(state: Any, node: int) -> None:
    """Recompute shares and rates of `node`, which is settled, and schedule its next end."""
    containers = state.containers
    _share(state, node)
    soonest_ns = math.inf
    container = state.nodes["first"][node]
    while container != NO_INDEX:
        running = containers["running"][container]
        rate = 0.0
        if running > 0:
            rate = containers["share_cores"][container] / running * containers["speed"][container]
            rate /= 1.0 + containers["penalty"][container] * (running - 1)
        containers["rate"][container] = rate
        root = containers["root"][container]
        if root != NO_INDEX and rate > 0.0:
            left_ns = state.tasks["tag"][root] - containers["virtual_ns"][container]
            soonest_ns = min(soonest_ns, max(left_ns, 0.0) / rate)
        container = containers["next"][container]
    wake = (state.nodes["wake"][node] + 1) & GENERATION_MASK
    state.nodes["wake"][node] = wake
    if soonest_ns < NEVER_NS / 4:
        now_ns = state.counters["now_ns"][0]
        time_ns = now_ns + math.ceil(soonest_ns)
        schedule(state, time_ns, pack(NODE, node, wake))


@kernel_jit
def add_to_container(state: Any, container: int, task: int, work_ns: float) -> None:
    """Start `task` with `work_ns` of one nominal core on `container`."""
    containers = state.containers
    tasks = state.tasks
    node = containers["node"][container]
    settle_node(state, node)
    tasks["tag"][task] = containers["virtual_ns"][container] + work_ns
    tasks["left"][task] = NO_INDEX
    tasks["right"][task] = NO_INDEX
    containers["root"][container] = _merge(tasks, containers["root"][container], task)
    containers["running"][container] += 1
    reshare_node(state, node)


@kernel_jit
def remove_from_container(state: Any, container: int, task: int) -> None:
    """Stop `task` before its end: rebuild the heap without it (rare: a cancellation)."""
    containers = state.containers
    tasks = state.tasks
    node = containers["node"][container]
    settle_node(state, node)
    kept = NO_INDEX
    heap = containers["root"][container]
    while heap != NO_INDEX:
        rest = _merge(tasks, tasks["left"][heap], tasks["right"][heap])
        tasks["left"][heap] = NO_INDEX
        tasks["right"][heap] = NO_INDEX
        if heap != task:
            kept = _merge(tasks, kept, heap)
        heap = rest
    containers["root"][container] = kept
    containers["running"][container] -= 1
    reshare_node(state, node)


@kernel_jit
def take_finished(state: Any, node: int) -> int:
    """Return one task of `node` that has ended by now, taken off its container, or NO_INDEX.

    The node is settled; the caller calls again until NO_INDEX and then `reshare_node`.
    """
    containers = state.containers
    tasks = state.tasks
    container = state.nodes["first"][node]
    while container != NO_INDEX:
        root = containers["root"][container]
        # Ends are rounded up to whole ns, so virtual time may pass the tag by one rate.
        if root != NO_INDEX and (tasks["tag"][root] <= containers["virtual_ns"][container] + 1e-6):
            rest = _merge(tasks, tasks["left"][root], tasks["right"][root])
            containers["root"][container] = rest
            containers["running"][container] -= 1
            return root
        container = containers["next"][container]
    return NO_INDEX
