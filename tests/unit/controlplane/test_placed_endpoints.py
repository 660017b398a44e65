"""Endpoints as each proxy is told of them: priorities and zones, labels, and what is refused."""

import pytest

from meshsim.controlplane.configuration import (
    EndpointLocality,
    ProxyConfiguration,
    configurations_of,
    with_resource,
)
from meshsim.errors import ConfigError
from meshsim.meshes import resolve
from meshsim.topology.compiled.layout import lay_out
from meshsim.topology.load import loads_topology

SCENARIO = """
name: shop
nodes:
  a: {zone: a, region: east}
  b: {zone: b, region: west}
services:
  front:
    workloads: {v1: {replicas: 2, steps: [{call: cart}]}}
  cart:
    workloads: {v1: {replicas: 2}, v2: {replicas: 2}}
policies:
  cart: POLICY
traffic:
  browse: {to: front, zone: b, arrivals: {poisson: 10}}
"""


def told(policy, client="front-v1-0", absent=()):
    topology = resolve(loads_topology(SCENARIO.replace("POLICY", policy)))
    layout = lay_out(topology)
    addresses = {name: ("127.0.0.1", 9) for name in layout.endpoint_names if name not in absent}
    return configurations_of(topology, layout, addresses)[client]


def test_each_client_is_told_priorities_of_its_own():
    policy = "{locality: {failover: {}}}"
    for client, first in (("front-v1-0", "a"), ("front-v1-1", "b")):
        found = told(policy, client).endpoints["cart"]
        assert [item.zone for item in found] == [first, first, *{"a": "bb", "b": "aa"}[first]]
        assert [item.locality for item in found] == [
            *[EndpointLocality(0, 2, True)] * 2,
            *[EndpointLocality(1, 2, False)] * 2,
        ]


def test_a_zone_weighs_what_is_there():
    found = told("{locality: {locality_weighted: true}}", absent=("cart-v1-0",)).endpoints["cart"]
    assert [(item.name, item.locality.weight) for item in found] == [
        ("cart-v2-0", 1),
        ("cart-v1-1", 2),
        ("cart-v2-1", 2),
    ]


def test_shares_of_clients_come_with_zone_aware_routing():
    found = told("{locality: {zone_aware: {}}}").endpoints["cart"]
    assert {item.locality.clients for item in found} == {5000}
    found = told("{locality: {}}").endpoints["cart"]
    assert {item.locality.clients for item in found} == {-1}


def test_labels_come_with_subsets_only():
    plain = told("{}").endpoints["cart"]
    assert {item.labels for item in plain} == {None}
    found = told("{subset_config: {subset_selectors: [{keys: [version]}]}}").endpoints["cart"]
    assert [item.labels for item in found] == [{"version": f"v{n}"} for n in (1, 1, 2, 2)]


def test_it_survives_the_wire():
    for policy in (
        "{locality: {failover: {}, zone_aware: {}}}",
        "{subset_config: {subset_selectors: [{keys: [version]}], fallback_policy: ANY_ENDPOINT}}",
    ):
        configuration = told(policy)
        for kind in ("clusters", "endpoints"):
            resource = {**configuration.to_json(kind), "proxy": "x", "version": 1}
            read = with_resource(ProxyConfiguration("x"), resource)
            assert getattr(read, kind) == getattr(configuration, kind)


def test_what_is_left_open_is_refused():
    resource = {**told("{locality: {failover: {}}}").to_json("clusters"), "proxy": "x"}
    resource["version"] = 1
    del resource["body"]["cart"]["locality"]["overprovisioning_factor"]
    with pytest.raises(ConfigError, match=r"locality\.overprovisioning_factor"):
        with_resource(ProxyConfiguration("x"), resource)


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ("ORACLE_SHORTEST_QUEUE", "cannot see the queues of servers"),
        ("ORACLE_IDLE_QUEUE", "cannot see the queues of servers"),
        ("CLIENT_SIDE_WEIGHTED_ROUND_ROBIN", "do not report their load"),
    ],
)
def test_what_only_the_simulator_can_do_is_refused(policy, message):
    balancing = f"{{load_balancing: {{policy: {policy}}}}}"
    with pytest.raises(ConfigError, match=message) as raised:
        told(balancing)
    assert "policies.cart.load_balancing.policy" in str(raised.value)
