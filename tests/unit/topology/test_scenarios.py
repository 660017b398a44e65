"""The scenarios that come with the project."""

import pytest

from meshsim.topology import dump_topology, load_topology, loads_topology

NAMES = [
    "bookinfo",
    "bookshop-access",
    "chain",
    "online-boutique",
    "retry-storm",
    "thousand",
    "tree",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_scenario_states_its_question_and_sources(root, name):
    topology = load_topology(root / "topologies" / f"{name}.yaml")
    assert topology.name == name
    assert "?" in topology.question
    assert topology.references
    assert topology.notices == ()
    assert loads_topology(dump_topology(topology)) == topology


def test_the_chain_is_the_case_with_the_known_answer(root):
    chain = load_topology(root / "topologies" / "chain.yaml")
    assert chain.mesh == "none"
    shape = [(name, w.workloads["v1"].replicas) for name, w in chain.services.items()]
    assert shape == [("gateway", 1), ("A", 4), ("B", 4)]
    means = []
    for service in chain.services.values():
        workload = service.workloads["v1"]
        assert (workload.concurrency, workload.hold_worker, workload.cpu) == (1, False, None)
        means.append(workload.steps[0].compute.exponential.mean)
    assert means == [2_000_000, 14_000_000, 12_000_000]
    assert [s.workloads["v1"].steps[1].call.service for s in list(chain.services.values())[:2]] == [
        "A",
        "B",
    ]
    assert chain.traffic["chain"].arrivals.poisson.rate == 200
    assert {p.load_balancing.policy for p in chain.policies.values()} == {"RANDOM"}
    latency = chain.network.latency
    wires = (latency.same_node, latency.same_zone, latency.same_region, latency.cross_region)
    assert [wire.constant.value for wire in wires] == [0, 0, 0, 0]
    # Jackson: 1/(500 - 200) + 1/(1000/14 - 50) + 1/(1000/12 - 50) s.
    rates = [200, 50, 50]
    total_s = sum(1 / (1e9 / mean - rate) for mean, rate in zip(means, rates, strict=True))
    assert total_s == pytest.approx(0.080)


def test_the_shop_has_eleven_services_and_the_mix_of_its_load_script(root):
    shop = load_topology(root / "topologies" / "online-boutique.yaml")
    assert len(shop.services) == 11
    unit = shop.traffic["index"].arrivals.poisson.rate
    mix = {name: item.arrivals.poisson.rate / unit for name, item in shop.traffic.items()}
    expected = {
        "index": 1,
        "set-currency": 2,
        "browse-product": 13,
        "add-to-cart": 3,
        "view-cart": 3,
        "checkout": 1,
    }
    assert mix == pytest.approx(expected, rel=1e-3)


def test_the_tree_has_thirteen_services_in_three_layers(root):
    tree = load_topology(root / "topologies" / "tree.yaml")
    assert len(tree.services) == 13
    fan_outs = [len(s.workloads["v1"].steps) for s in tree.services.values()]
    assert sorted(fan_outs) == [1] * 9 + [2] * 4
    assert len(tree.services["d"].workloads["v1"].steps[1].parallel) == 3


def test_the_large_one_is_a_thousand_services_of_ten_replicas(root):
    mesh = load_topology(root / "topologies" / "thousand.yaml")
    assert len(mesh.services) == 1000
    assert sum(s.workloads["v1"].replicas for s in mesh.services.values()) == 10_000
