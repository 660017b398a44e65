"""Programs: the steps of every operation of every workload, and the calls they make.

Rule: a sequence of steps lies in adjacent rows and ends with STEP_END; the fallback of a call
follows it; the branches of a parallel step, and the miss of a cache, are sequences of their own.
Row 0 is an END: the program of a request that fails at once, and of an operation that a workload
does not declare.  `ordinal` numbers the steps of one workload, so a draw key does not depend on
other workloads.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from meshsim.policy.routing import RequestAttributes
from meshsim.state.codes import NO_INDEX
from meshsim.state.kernel import CALL_DTYPE
from meshsim.state.server import (
    ON_FAILURE_END,
    ON_FAILURE_FALL_BACK,
    ON_FAILURE_GO_ON,
    STEP_CACHE,
    STEP_CALL,
    STEP_COMPUTE,
    STEP_DTYPE,
    STEP_END,
    STEP_PARALLEL,
    STEP_SLEEP,
)
from meshsim.topology.calls import operation_steps
from meshsim.topology.compiled.bulkheads import Bulkheads
from meshsim.topology.compiled.caches import Caches
from meshsim.topology.compiled.draws import Draws
from meshsim.topology.compiled.layout import Layout, Rows
from meshsim.topology.model import Call, Distribution, Step, Topology, TrafficClass

__all__ = ["CallSite", "Programs", "attributes_of", "compile_programs"]

#: Rows that an event may need beside those of its branches.
_FAN_OUT_MIN = 16
#: Events by which one branch can end early: its call, its worker's next task, two of its node.
_EVENTS_A_BRANCH = 4


@dataclass(frozen=True)
class CallSite:
    """Who calls what: `workload` is the caller's index, or None for a traffic class."""

    workload: int | None
    call: Call | TrafficClass


def attributes_of(site: CallSite, traffic: TrafficClass) -> RequestAttributes:
    """Return what routes see of the requests of `traffic` at `site`, whoever asks."""
    call = site.call
    target = call.to if isinstance(call, TrafficClass) else call.service
    authority = (call.authority if isinstance(call, TrafficClass) else "") or target
    headers = {**traffic.headers, **call.headers}
    return RequestAttributes(call.method, call.path, authority, headers)


@dataclass(frozen=True)
class Programs:
    """Arrays `steps`, `branches`, `programs`, `calls`, and what upstreams need of them."""

    arrays: dict[str, Rows]
    edges: list[tuple[str, str]]
    edge_is_entry: list[bool]  # the caller is a traffic class
    sites: list[CallSite]  # one a CALL row
    entry_calls: dict[str, int]
    fan_out: int
    operations: dict[str, int]  # column of each in `programs`
    caches: Caches
    bulkheads: Bulkheads


class _Compiler:
    def __init__(self, topology: Topology, draws: Draws) -> None:
        self.draws = draws
        self.caches = Caches()
        self.bulkheads = Bulkheads(topology)
        self.operations: dict[str, int] = {"default": 0}
        for service in topology.services.values():
            for workload in service.workloads.values():
                for name in workload.operations:
                    self.operations.setdefault(name, len(self.operations))
        self.steps: list[tuple[float, ...]] = []
        self.branches: list[int] = []
        self.calls: list[tuple[int, ...]] = []
        self.sites: list[CallSite] = []
        self.edges: dict[tuple[str, str, bool], int] = {}
        self.fan_out = _FAN_OUT_MIN
        self.ordinal = 0
        self._end()

    def _end(self) -> None:
        self.steps.append((STEP_END, NO_INDEX, NO_INDEX, self.ordinal, 0, 0, 0, 0, 1.0))

    def call(self, caller: str, target: str, site: CallSite) -> int:
        """Add a CALL row; return its index."""
        # A traffic class may have the name of a service.
        edge = self.edges.setdefault((caller, target, site.workload is None), len(self.edges))
        call = site.call
        operation = self.operations.get(call.operation, 0)
        self.calls.append((operation, call.request_bytes, call.response_bytes, edge, NO_INDEX))
        self.sites.append(site)
        return len(self.calls) - 1

    def program(self, steps: tuple[Step, ...], service: str, workload: int, request_ns: int) -> int:
        """Add the program of an operation, after what its server does first; return its row.

        The server's own work takes no ordinal: the draws of the steps are the same without it.
        """
        first = len(self.steps)
        if request_ns > 0:
            row = self.draws.row(Distribution.model_validate(f"{request_ns}ns"))
            self.steps.append((STEP_COMPUTE, row, NO_INDEX, 0, 0, 0, 0, 0, 1.0))
        self.sequence(steps, service, workload)
        return first

    def sequence(self, steps: tuple[Step, ...], service: str, workload: int) -> int:
        """Add a sequence and its END; return its first row."""
        first = len(self.steps)
        branching: list[tuple[int, Step]] = []
        self._lay_out(steps, service, workload, branching)
        self._end()
        for at, step in branching:
            branches = [self.sequence(branch, service, workload) for branch in step.branches]
            self.fan_out = max(self.fan_out, _FAN_OUT_MIN + _EVENTS_A_BRANCH * _width((step,)))
            branching_row = list(self.steps[at])
            branching_row[5:7] = [len(self.branches), len(branches)]
            self.steps[at] = tuple(branching_row)
            self.branches += branches
        return first

    def _lay_out(
        self,
        steps: tuple[Step, ...],
        service: str,
        workload: int,
        branching: list[tuple[int, Step]],
    ) -> None:
        """Add the rows of steps, each with its fallback; collect those that branch."""
        for step in steps:
            self.ordinal += 1
            row = [STEP_END, NO_INDEX, NO_INDEX, self.ordinal, _on_failure(step), 0, 0]
            if step.compute is not None:
                row[:2] = [STEP_COMPUTE, self.draws.row(step.compute)]
            elif step.sleep is not None:
                row[:2] = [STEP_SLEEP, self.draws.row(step.sleep)]
            elif step.call is not None:
                row[:2] = [STEP_CALL, self.bulkheads.place(workload, step.call.service)]
                row[2] = self.call(service, step.call.service, CallSite(workload, step.call))
            elif step.cache is not None:
                row[0] = STEP_CACHE
                row[2] = self.caches.row(step.cache, workload)
                branching.append((len(self.steps), step))
            else:
                row[0] = STEP_PARALLEL
                branching.append((len(self.steps), step))
            at = len(self.steps)
            self.steps.append(())
            self._lay_out(step.fallback or (), service, workload, branching)
            self.steps[at] = (*row, len(self.steps) - at - 1, step.probability)


def _on_failure(step: Step) -> int:
    if step.fallback is not None:
        return ON_FAILURE_FALL_BACK
    return ON_FAILURE_GO_ON if step.optional else ON_FAILURE_END


def _width(steps: tuple[Step, ...]) -> int:
    """Return the most branches that one task running `steps` can have at once."""
    return max(
        (
            max(sum(1 + _width(branch) for branch in step.branches), _width(step.fallback or ()))
            for step in steps
        ),
        default=0,
    )


def compile_programs(
    topology: Topology, layout: Layout, draws: Draws, request_ns: int = 0
) -> Programs:
    """Compile the steps of `topology`; distributions are collected in `draws`.

    `request_ns` is the server's own work on each request (`MeshProfile.request_ns`).
    """
    compiler = _Compiler(topology, draws)
    entry_calls = {
        name: compiler.call(name, item.to, CallSite(None, item))
        for name, item in topology.traffic.items()
    }
    programs = np.zeros((len(layout.workloads), len(compiler.operations)), np.int32)
    for index, place in enumerate(layout.workloads):
        workload = topology.services[place.service].workloads[place.workload]
        compiler.ordinal = 0
        for name, operation in compiler.operations.items():
            steps = operation_steps(workload, name)
            if steps or request_ns > 0:
                programs[index, operation] = compiler.program(
                    steps, place.service, index, request_ns
                )
    arrays = {
        "steps": np.array(compiler.steps, STEP_DTYPE),
        "branches": np.array(compiler.branches or [0], np.int32),
        "programs": programs,
        "calls": np.array(compiler.calls, CALL_DTYPE),
    }
    edges = [(caller, target) for caller, target, _ in compiler.edges]
    entries = [is_entry for _, _, is_entry in compiler.edges]
    return Programs(
        arrays,
        edges,
        entries,
        compiler.sites,
        entry_calls,
        compiler.fan_out,
        compiler.operations,
        compiler.caches,
        compiler.bulkheads,
    )
