"""The call graph: which operation calls which, how often, and whether it ends.

Rule: a node is an operation of a service; the steps of each of its workloads call others with
the product of the probabilities on the way (a sequence in `parallel` runs with certainty, and
so does the miss of a cache: every cache begins empty).
Calls fail in no such count, so that the fallback of one is made with probability 0.
A call is *certain* if every workload of the operation makes it with probability 1; a cycle of
certain calls has no base case and never ends.
"""

from __future__ import annotations

from collections.abc import Iterator

from meshsim.topology.model import Call, Service, Step, Topology, Workload
from meshsim.yamlfile import FieldPath

__all__ = [
    "Operation",
    "call_steps",
    "calls_of",
    "endless_calls",
    "operation_names",
    "operation_steps",
]

#: A service and the name of one of its operations.
Operation = tuple[str, str]
#: The operation that a workload's `steps` are.
DEFAULT_OPERATION = "default"


def operation_names(service: Service) -> list[str]:
    """Return the operations that every workload of a service answers, the default first."""
    common = set.intersection(*(set(item.operations) for item in service.workloads.values()))
    return [DEFAULT_OPERATION, *sorted(common - {DEFAULT_OPERATION})]


def operation_steps(workload: Workload, operation: str) -> tuple[Step, ...]:
    """Return the steps of one operation; `operations` wins over `steps` for the default one."""
    if operation == DEFAULT_OPERATION:
        return workload.operations.get(operation, workload.steps)
    return workload.operations.get(operation, ())


def _calls_in(
    steps: tuple[Step, ...], path: FieldPath, probability: float
) -> Iterator[tuple[FieldPath, Call, float]]:
    for index, step in enumerate(steps):
        at = (*path, index)
        reached = probability * step.probability
        if step.call is not None:
            yield (*at, "call"), step.call, reached
        for branch, inner in enumerate(step.parallel or ()):
            yield from _calls_in(inner, (*at, "parallel", branch), reached)
        if step.cache is not None:  # as if it were empty
            yield from _calls_in(step.cache.miss, (*at, "cache", "miss"), reached)
        yield from _calls_in(step.fallback or (), (*at, "fallback"), 0.0)


def call_steps(workload: Workload) -> Iterator[tuple[FieldPath, Call, float]]:
    """Yield (path below the workload, call, probability) of every call of every operation."""
    yield from _calls_in(workload.steps, ("steps",), 1.0)
    for name, steps in workload.operations.items():
        yield from _calls_in(steps, ("operations", name), 1.0)


def calls_of(workload: Workload, operation: str) -> dict[Operation, float]:
    """Return the expected number of calls to each operation by one request to `operation`."""
    expected: dict[Operation, float] = {}
    for _, call, probability in _calls_in(operation_steps(workload, operation), (), 1.0):
        target = (call.service, call.operation)
        expected[target] = expected.get(target, 0.0) + probability
    return expected


def _certain_calls(topology: Topology) -> dict[Operation, dict[Operation, FieldPath]]:
    """Return, for each operation, the operations it always calls, and where it says so."""
    graph: dict[Operation, dict[Operation, FieldPath]] = {}
    for name, service in topology.services.items():
        for operation in operation_names(service):
            graph[name, operation] = _always_called(name, service, operation)
    return graph


def _always_called(name: str, service: Service, operation: str) -> dict[Operation, FieldPath]:
    common: dict[Operation, FieldPath] | None = None
    for workload_name, workload in service.workloads.items():
        is_steps = operation == DEFAULT_OPERATION and operation not in workload.operations
        base: FieldPath = ("steps",) if is_steps else ("operations", operation)
        certain: dict[Operation, FieldPath] = {}
        for path, call, probability in _calls_in(
            operation_steps(workload, operation),
            ("services", name, "workloads", workload_name, *base),
            1.0,
        ):
            if probability >= 1.0:
                certain.setdefault((call.service, call.operation), path)
        if common is None:
            common = certain
        else:
            common = {target: path for target, path in common.items() if target in certain}
    return common or {}


def endless_calls(topology: Topology) -> Iterator[tuple[FieldPath, list[str]]]:
    """Yield the cycles of certain calls: the place of the call that closes one, and its services.

    Depth-first search without recursion; each operation is visited once, so of several cycles
    through the same operations one is found.
    """
    graph = _certain_calls(topology)
    done: set[Operation] = set()
    for start in graph:
        if start in done:
            continue
        way: list[Operation] = [start]
        todo = [iter(graph[start].items())]
        on_way = {start}
        while way:
            for target, path in todo[-1]:
                if target in on_way:
                    cycle = [*way[way.index(target) :], target]
                    yield path, [service for service, _ in cycle]
                elif target in graph and target not in done:
                    way.append(target)
                    on_way.add(target)
                    todo.append(iter(graph[target].items()))
                    break
            else:
                todo.pop()
                done.add(way[-1])
                on_way.remove(way.pop())
