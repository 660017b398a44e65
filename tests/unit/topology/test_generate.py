"""Synthetic meshes: shape, load, determinism."""

import networkx
import pytest

from meshsim.errors import ConfigError
from meshsim.topology import generate, to_networkx
from meshsim.topology.generate import GenerateOptions
from meshsim.topology.graph import operation_visits
from meshsim.topology.validate import find


def test_the_same_seed_gives_the_same_mesh():
    first = generate(services=50, depth=4, seed=7)
    assert generate(services=50, depth=4, seed=7) == first
    assert generate(services=50, depth=4, seed=8) != first


@pytest.mark.parametrize(
    ("services", "fan_out", "depth"),
    [(1, 3, 1), (5, 1, 5), (7, 3, 2), (60, 100, 3), (500, 3, 5), (50, 2, 50)],
)
def test_any_shape_is_a_right_topology_in_layers(services, fan_out, depth):
    mesh = generate(services=services, fan_out=fan_out, depth=depth, replicas=2)
    assert find(mesh) == []
    assert len(mesh.services) == services
    graph = to_networkx(mesh)
    assert networkx.is_directed_acyclic_graph(graph)
    # One more for the edge from the traffic.
    assert networkx.dag_longest_path_length(graph, weight=None) == depth
    assert all(graph.in_degree(name) >= 1 for name in mesh.services)


def test_load_is_finite_and_no_replica_is_overloaded():
    mesh = generate(services=300, replicas=4, rate=50_000.0, utilisation=0.3)
    visits = operation_visits(mesh)
    for name, service in mesh.services.items():
        workload = service.workloads["v1"]
        mean_s = workload.steps[0].compute.exponential.mean / 1e9
        assert 0 < visits[name, "default"] * mean_s / workload.replicas <= 0.3 + 1e-9


def test_shares_of_entries_and_leaves_follow_the_published_counts():
    mesh = generate(services=700, depth=5)
    graph = to_networkx(mesh)
    leaves = sum(graph.out_degree(name) == 0 for name in mesh.services)
    # arXiv:2504.13141, table 1; each layer has at least one, so the shares are off by depth/n.
    assert len(mesh.traffic) / 700 == pytest.approx(0.13, abs=5 / 700)
    assert leaves / 700 == pytest.approx(0.39, abs=5 / 700)


def test_few_services_are_called_by_many():
    mesh = generate(services=1000)
    graph = to_networkx(mesh)
    degrees = sorted((graph.in_degree(name) for name in mesh.services), reverse=True)
    # 600 callers make 4 calls or fewer; by uniform picks nobody would have 15 callers
    # (Poisson of mean 3: probability below 1e-6).  The hot picks alone give the first rank of a
    # layer of n a share of n**(-1/4), at least 0.2 of some 100 callers, in each of four layers.
    assert degrees[3] >= 15
    assert sum(degrees) / len(degrees) < 4


def test_ten_thousand_services_are_generated():
    mesh = generate(services=10_000, replicas=1)
    assert len(mesh.services) == 10_000
    assert len(mesh.traffic) == 100


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"services": 0}, "services: too small; found 0; allowed: >= 1"),
        ({"services": 10_001}, "services: too large"),
        ({"services": 3}, "5 layers need at least 5 services"),
        ({"utilization": 0.5}, "did you mean utilisation"),
    ],
)
def test_a_size_out_of_range_is_refused(options, said):
    with pytest.raises(ConfigError, match=said):
        generate(**options)


def test_defaults_of_the_call_are_those_of_the_file():
    assert generate() == generate(**GenerateOptions().model_dump())
