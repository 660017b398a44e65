"""Where a cluster's endpoints stand for one client, as Istio's control plane works it out."""

import pytest

from meshsim.topology.compiled.layout import lay_out
from meshsim.topology.compiled.localities import hash_weights
from meshsim.topology.compiled.placement import (
    Client,
    Group,
    clients_of,
    fits_locality,
    gateway_client,
    group_endpoints,
    is_grouped,
)
from meshsim.topology.model import LocalityLoadBalancing, Topology

#: Zones in the order of the layout, and their regions.
ZONES = {"a": "east", "b": "east", "c": "west", "d": "north"}


def mesh(workloads=None):
    """Two replicas of "s" in each zone, or workloads: name -> (nodes, labels)."""
    workloads = workloads or {f"v{zone}": ([zone], {}) for zone in ZONES}
    return Topology.model_validate(
        {
            "name": "test",
            "nodes": {zone: {"zone": zone, "region": region} for zone, region in ZONES.items()},
            "services": {
                "s": {
                    "workloads": {
                        name: {"replicas": 2, "nodes": nodes, "labels": labels}
                        for name, (nodes, labels) in workloads.items()
                    }
                }
            },
        }
    )


def groups(settings, zone="a", labels=None, topology=None, peers=None, weights=None):
    """Return (priority, zone, weight, endpoints) of each group for a client in `zone`."""
    topology = topology or mesh()
    layout = lay_out(topology)
    endpoints = list(range(len(layout.endpoint_names)))
    client = Client(layout.zones.index(zone), labels or {}, peers or {})
    found = group_endpoints(
        topology,
        layout,
        LocalityLoadBalancing.model_validate(settings),
        endpoints,
        weights or [1] * len(endpoints),
        client,
    )
    return [
        (group.priority, layout.zones[group.zone], group.weight, group.endpoints) for group in found
    ]


def test_without_settings_zones_are_localities_of_one_priority_the_own_first():
    assert groups({}, "b") == [
        (0, "b", 2, (2, 3)),
        (0, "a", 2, (0, 1)),
        (0, "c", 2, (4, 5)),
        (0, "d", 2, (6, 7)),
    ]


def test_declared_priorities_and_weights_go_by_the_first_entry_that_fits():
    entries = [
        {"locality": "west/*", "priority": 5, "load_balancing_weight": 7},
        {"workload": "vb", "priority": 2},
        {"locality": "east", "load_balancing_weight": 3},
    ]
    assert groups({"endpoints": entries}, "d") == [
        (0, "d", 2, (6, 7)),
        (0, "a", 3, (0, 1)),
        (1, "b", 2, (2, 3)),
        (2, "c", 7, (4, 5)),
    ]


def test_failover_goes_by_zone_and_region():
    assert groups({"failover": {}}, "a") == [
        (0, "a", 2, (0, 1)),
        (1, "b", 2, (2, 3)),
        (2, "c", 2, (4, 5)),
        (2, "d", 2, (6, 7)),
    ]


def test_a_region_is_named_to_come_next():
    found = groups({"failover": {"east": "north", "west": "east"}}, "a")
    assert [(priority, zone) for priority, zone, _, _ in found] == [
        (0, "a"),
        (1, "b"),
        (2, "d"),
        (3, "c"),
    ]


def test_priorities_have_no_gaps():
    topology = mesh({"v": (["c", "d"], {})})
    assert [row[0] for row in groups({"failover": {}}, "a", topology=topology)] == [0, 0]


def test_distribution_weighs_localities_and_leaves_out_others():
    settings = {"distribute": {"west/*": {"*": 100}, "east/*": {"east/a": 80, "east/*": 20}}}
    assert groups(settings, "a") == [(0, "a", 80, (0, 1)), (0, "b", 20, (2, 3))]
    # A share is divided by what its localities weigh, rounded up: 100 * 2 / 8.
    assert [row[2] for row in groups(settings, "c")] == [25, 25, 25, 25]


def test_a_client_that_no_entry_names_is_not_distributed():
    assert len(groups({"distribute": {"west/*": {"*": 100}}}, "a")) == 4


def test_uneven_shares_are_rounded_up():
    found = groups(
        {"distribute": {"*": {"east/*": 50, "*": 50}}}, "a", weights=[1, 1, 2, 2, 1, 1, 1, 1]
    )
    assert [row[2] for row in found] == [17, 34, 25, 25]  # 50 * 2 / 6 = 16.7, 33.3


def test_labels_order_endpoints_by_what_they_share_with_the_client():
    topology = mesh({"v1": (["a", "c"], {"tier": "gold"}), "v2": (["a"], {}), "v3": (["d"], {})})
    labels = {"tier": "gold"}
    settings = {"failover_priority": ["topology.kubernetes.io/region", "tier"]}
    # Both shared: 0.  First shared: differs in the second of two: 2 - 1 = 1.  Else 2.
    assert groups(settings, "a", labels, topology) == [
        (0, "a", 1, (0,)),
        (1, "a", 2, (2, 3)),
        (2, "c", 1, (1,)),
        (2, "d", 2, (4, 5)),
    ]
    settings = {"failover_priority": ["tier=", "version=v3"]}
    found = groups(settings, "a", labels, topology)
    assert [(row[0], row[3]) for row in found] == [(0, (4, 5)), (1, (2, 3)), (2, (0,)), (2, (1,))]


def test_labels_come_before_failover():
    settings = {"failover_priority": ["version=vc"], "failover": {}}
    found = groups(settings, "a")
    assert [row[:2] for row in found] == [(0, "c"), (1, "a"), (2, "b"), (3, "d")]


@pytest.mark.parametrize(
    ("zone_aware", "peers", "expected"),
    [
        ({}, {0: 2, 1: 6}, [2500, 7500, 0, 0]),
        ({}, {0: 2}, [-1, -1, -1, -1]),
        ({"force_local_zone_min_size": 1}, {0: 2}, [10_000, 0, 0, 0]),
        ({}, {1: 2, 2: 2}, [-1, -1, -1, -1]),
        (None, {0: 2, 1: 6}, [-1, -1, -1, -1]),
    ],
)
def test_shares_of_the_clients_own_service(zone_aware, peers, expected):
    topology = mesh()
    layout = lay_out(topology)
    settings = LocalityLoadBalancing.model_validate({"zone_aware": zone_aware})
    found = group_endpoints(topology, layout, settings, range(8), [1] * 8, Client(0, {}, peers))
    assert [group.clients for group in found] == expected


def test_clients_are_where_their_replicas_are():
    topology = mesh({"v1": (["a", "b"], {"x": "y"}), "v2": (["b"], {})})
    layout = lay_out(topology)
    clients = clients_of(topology, layout, layout.workloads[0])
    assert clients == {
        zone: Client(zone, {"version": "v1", "x": "y"}, {0: 1, 1: 3}) for zone in (0, 1)
    }
    traffic = Topology.model_validate(
        {
            "name": "test",
            "services": {"s": {"workloads": {"v1": {}}}},
            "traffic": {"t": {"to": "s", "arrivals": {"poisson": 1}}},
        }
    ).traffic["t"]
    assert gateway_client(layout, traffic) == Client(0, {}, {})
    assert gateway_client(layout, traffic.model_copy(update={"zone": "c"})).zone == 2


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("*", True),
        ("east", True),
        ("east/*", True),
        ("east/a", True),
        ("east/a/*", True),
        ("*/a", True),
        ("east/b", False),
        ("west", False),
        ("east/a/rack", False),
    ],
)
def test_names_of_localities(text, fits):
    assert fits_locality(lay_out(mesh()), 0, text) is fits


def test_one_zone_alone_is_not_grouped():
    one = lay_out(
        Topology.model_validate({"name": "t", "services": {"s": {"workloads": {"v": {}}}}})
    )
    several = lay_out(mesh())
    assert not is_grouped(several, None)
    assert is_grouped(several, LocalityLoadBalancing())
    assert not is_grouped(one, LocalityLoadBalancing(failover={}))
    declared = LocalityLoadBalancing.model_validate({"endpoints": [{"priority": 1}]})
    assert is_grouped(one, declared)


def test_hosts_of_a_hashed_locality_share_its_weight():
    def group(weight, endpoints):
        return Group(0, 0, weight, False, False, -1, endpoints)

    parts = [group(3, (0, 1)), group(1, (2,))]
    weighted = LocalityLoadBalancing(locality_weighted=True)
    # Hosts of weights 1 and 2 share 3, one of weight 5 has 1: 1, 2 and 1.
    assert hash_weights(parts, [1, 2, 5], weighted) == [1, 2, 1]
    assert hash_weights(parts, [1, 2, 5], LocalityLoadBalancing()) == [1, 2, 5]
