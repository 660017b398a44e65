"""Expected calls on the edges."""

import pytest

from meshsim.topology import load_topology, loads_topology, to_networkx
from meshsim.topology.graph import operation_visits


def calls(graph, caller, callee):
    return graph.edges[caller, callee]["calls_per_request"]


def test_bookinfo_asks_ratings_from_two_of_three_versions(root):
    graph = to_networkx(load_topology(root / "topologies" / "bookinfo.yaml"))
    assert calls(graph, "productpage", "reviews") == 1
    assert calls(graph, "reviews", "ratings") == pytest.approx(2 / 3)
    assert calls(graph, "traffic:browse", "productpage") == 1
    assert graph.nodes["reviews"] == {"kind": "service", "replicas": 3}
    assert graph.nodes["traffic:browse"]["kind"] == "traffic"


def test_probabilities_multiply_along_the_steps_and_add_over_them():
    topology = loads_topology(
        """
name: x
services:
  a:
    workloads:
      v1:
        steps:
          - {call: b, probability: 0.5}
          - probability: 0.4
            parallel:
              - [{call: b, probability: 0.5}, {call: c}]
              - [{call: b}]
  b: {workloads: {v1: {}}}
  c: {workloads: {v1: {}}}
"""
    )
    graph = to_networkx(topology)
    assert calls(graph, "a", "b") == pytest.approx(0.5 + 0.4 * 0.5 + 0.4)
    assert calls(graph, "a", "c") == pytest.approx(0.4)


def test_operations_count_as_often_as_the_traffic_asks_for_them():
    text = """
name: x
services:
  a:
    workloads:
      v1: {operations: {read: [call: b], write: [call: b, call: b, call: b]}}
  b: {workloads: {v1: {}}}
  unused: {workloads: {v1: {steps: [call: b]}}}
traffic:
  read: {to: a, operation: read, arrivals: {poisson: 30}}
  write: {to: a, operation: write, closed_loop: {users: 20, think_time: 2s}}
"""
    topology = loads_topology(text.replace("call: b,", "{call: b},"))
    graph = to_networkx(topology)
    # 30/s ask once, 20 users / 2 s = 10/s ask three times.
    assert calls(graph, "a", "b") == pytest.approx((30 * 1 + 10 * 3) / 40)
    assert calls(graph, "unused", "b") == 1
    assert operation_visits(topology)["b", "default"] == pytest.approx(60)


def test_a_cycle_converges():
    text = "name: x\nservices: {a: {workloads: {v1: {steps: [{call: a, probability: 0.5}]}}}}\n"
    topology = loads_topology(text + "traffic: {t: {to: a, arrivals: {poisson: 8}}}\n")
    # 8 (1 + 1/2 + 1/4 + ...), cut where a share of 1e-9 is left.
    assert operation_visits(topology)["a", "default"] == pytest.approx(16, rel=1e-8)
