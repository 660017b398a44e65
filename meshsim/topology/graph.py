"""The topology as a networkx graph.

Rule: a node is a service, or a traffic class (named ``traffic:NAME``); an edge carries the
expected number of calls that one request to its tail makes to its head, which is the product
of the probabilities along the steps, summed over the steps.  A service with several workloads
counts each by its replicas; one with several operations counts each by how often the traffic
reaches it, or all equally if none does.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from meshsim.topology.calls import Operation, calls_of, operation_names
from meshsim.topology.model import Service, Topology
from meshsim.topology.rates import class_rate

if TYPE_CHECKING:
    import networkx

__all__ = ["mean_calls", "operation_visits", "to_networkx"]

#: Rounds of passing visits on; a call graph that is deeper, or a cycle, is cut off here.
_ROUNDS_MAX = 1000
#: Visits below this share of the traffic are not passed on.
_VISITS_MIN = 1e-9


def mean_calls(service: Service, operation: str) -> dict[Operation, float]:
    """Return the expected calls of one request to an operation, over the service's workloads."""
    workloads = service.workloads.values()
    replicas = sum(workload.replicas for workload in workloads)
    expected: dict[Operation, float] = defaultdict(float)
    for workload in workloads:
        share = workload.replicas / replicas if replicas else 1 / len(service.workloads)
        for target, count in calls_of(workload, operation).items():
            expected[target] += share * count
    return dict(expected)


def operation_visits(topology: Topology) -> dict[Operation, float]:
    """Return how often each operation is requested [1/s], at the mean rates of the traffic.

    If no class has a rate, each counts as 1/s.  Cycles converge geometrically if they are left
    with a probability above 0.
    """
    rates = {name: class_rate(traffic) for name, traffic in topology.traffic.items()}
    if not any(rates.values()):
        rates = dict.fromkeys(rates, 1.0)
    least = _VISITS_MIN * sum(rates.values())
    calls = {
        (name, operation): mean_calls(service, operation)
        for name, service in topology.services.items()
        for operation in operation_names(service)
    }
    visits: dict[Operation, float] = defaultdict(float)
    arriving: dict[Operation, float] = defaultdict(float)
    for name, traffic in topology.traffic.items():
        arriving[traffic.to, traffic.operation] += rates[name]
    for _ in range(_ROUNDS_MAX):
        passed_on: dict[Operation, float] = defaultdict(float)
        for operation, count in arriving.items():
            visits[operation] += count
            for target, expected in calls.get(operation, {}).items():
                if count * expected > least:
                    passed_on[target] += count * expected
        if not passed_on:
            break
        arriving = passed_on
    return dict(visits)


def to_networkx(topology: Topology) -> networkx.DiGraph[str]:
    """Return the call graph of a topology.

    Returns
    -------
    networkx.DiGraph
        Nodes with attribute `kind` ("service" or "traffic") and, for services, `replicas`;
        edges with attribute `calls_per_request` [1], >= 0.

    Examples
    --------
    >>> from meshsim.topology.generate import generate
    >>> graph = to_networkx(generate(services=20, depth=3))
    >>> graph.number_of_nodes()
    23
    """
    import networkx as nx

    graph: networkx.DiGraph[str] = nx.DiGraph(name=topology.name)
    visits = operation_visits(topology)
    for name, service in topology.services.items():
        replicas = sum(workload.replicas for workload in service.workloads.values())
        graph.add_node(name, kind="service", replicas=replicas)
    for name, service in topology.services.items():
        operations = operation_names(service)
        counts = [visits.get((name, operation), 0.0) for operation in operations]
        if not any(counts):
            counts = [1.0] * len(operations)
        expected: dict[str, float] = defaultdict(float)
        for operation, count in zip(operations, counts, strict=True):
            for (target, _), calls in mean_calls(service, operation).items():
                expected[target] += calls * count / sum(counts)
        for target, calls in expected.items():
            graph.add_edge(name, target, calls_per_request=calls)
    for name, traffic in topology.traffic.items():
        graph.add_node(f"traffic:{name}", kind="traffic")
        graph.add_edge(f"traffic:{name}", traffic.to, calls_per_request=1.0)
    return graph
