"""What each proxy is told, and that nothing else passes for it."""

import json
from dataclasses import replace

import pytest

from meshsim.controlplane.configuration import (
    TYPES,
    ListenerPolicy,
    ProxyConfiguration,
    configurations_of,
    missing_clusters,
    with_resource,
)
from meshsim.errors import ConfigError
from meshsim.meshes import resolve
from meshsim.topology.compiled.layout import lay_out
from meshsim.topology.load import loads_topology

SCENARIO = """
name: shop
services:
  front:
    workloads:
      v1: {replicas: 2, steps: [{call: cart}]}
      bare: {meshed: false, steps: [{call: cart}]}
  cart:
    workloads:
      v1: {replicas: 2}
      v2: {replicas: 1, labels: {track: canary}}
  unused: {workloads: {v1: {}}}
policies:
  cart:
    load_balancing: {policy: RING_HASH, hash_header: x-user, weights: {v2: 3}}
    subsets: {canary: {labels: {track: canary}}}
    routes:
      - match: [{path: {prefix: /new}}]
        split: [{subset: canary, weight: 9}, {weight: 1}]
      - {}
traffic:
  browse: {to: front, arrivals: {poisson: 10}}
"""


@pytest.fixture
def configurations():
    topology = resolve(loads_topology(SCENARIO))
    layout = lay_out(topology)
    addresses = {name: ("127.0.0.1", 9000 + n) for n, name in enumerate(layout.endpoint_names)}
    return configurations_of(topology, layout, addresses, modes={"cart": "PERMISSIVE"})


def with_versions(configuration, version=1):
    return replace(configuration, versions=dict.fromkeys(TYPES, version))


def test_a_proxy_gets_what_its_workload_calls(configurations):
    assert list(configurations) == [
        *("front-v1-0", "front-v1-1", "front-bare-0"),
        *("cart-v1-0", "cart-v1-1", "cart-v2-0", "unused-v1-0", "gateway-browse"),
    ]
    front = configurations["front-v1-1"]
    assert list(front.clusters) == list(front.endpoints) == ["cart|canary", "cart"]
    assert [item.name for item in front.endpoints["cart|canary"]] == ["cart-v2-0"]
    assert front.endpoints["cart"][2].weight == 3
    assert front.endpoints["cart"][2].principal == "spiffe://cluster.local/ns/default/sa/cart-v2"
    assert front.labels == {"version": "v1"}
    assert configurations["cart-v1-0"].clusters == {}
    assert configurations["cart-v1-0"].listener == ListenerPolicy("PERMISSIVE")
    assert list(configurations["gateway-browse"].routes) == ["front"]


def test_a_workload_outside_the_mesh_has_no_policies(configurations):
    bare = configurations["front-bare-0"]
    assert list(bare.clusters) == ["cart"]
    assert bare.clusters["cart"].load_balancing.policy == "RANDOM"
    assert len(bare.routes["cart"]) == 1
    assert bare.listener.mode == "DISABLE"
    outside = configurations["gateway-browse"].endpoints["front"][2]
    assert (outside.name, outside.principal) == ("front-bare-0", "")


def test_an_endpoint_without_an_address_is_left_out():
    topology = resolve(loads_topology(SCENARIO))
    found = configurations_of(topology, lay_out(topology), {"cart-v1-1": ("127.0.0.1", 9)})
    assert [item.port for item in found["front-v1-0"].endpoints["cart"]] == [9]
    assert found["front-v1-0"].endpoints["cart|canary"] == ()


def test_every_type_survives_its_way_over_the_wire(configurations):
    for configuration in map(with_versions, configurations.values()):
        wire = json.dumps([configuration.to_json(kind) for kind in TYPES])
        assert ProxyConfiguration.from_json(json.loads(wire)) == configuration


def test_parts_of_different_age_are_seen(configurations):
    front = configurations["front-v1-0"]
    assert missing_clusters(front) == set()
    assert missing_clusters(replace(front, endpoints={})) == {"cart", "cart|canary"}
    older = {"cart": front.clusters["cart"]}
    assert missing_clusters(replace(front, clusters=older)) == {"cart|canary"}


def broken(kind, change):
    def apply(resources):
        change(resources[kind]["body"])

    return kind, apply


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        *[
            (*broken(kind, change), words)
            for kind, change, words in [
                ("clusters", lambda body: body.update(cart=3), "clusters.cart"),
                ("clusters", lambda body: body["cart"].pop("load_balancing"), "load_balancing"),
                ("clusters", lambda body: body["cart"].update(colour=1), "colour"),
                (
                    "clusters",
                    lambda body: body["cart"]["load_balancing"].pop("minimum_ring_size"),
                    "minimum_ring_size",
                ),
                ("endpoints", lambda body: body["cart"][0].update(port=70_000), "port"),
                ("endpoints", lambda body: body["cart"][0].update(port="80"), "port"),
                ("endpoints", lambda body: body["cart"][0].update(host=""), "host"),
                ("routes", lambda body: body["tables"]["cart"][1].pop("split"), "goes nowhere"),
                (
                    "routes",
                    lambda body: body["tables"]["cart"][0]["match"][0].update(path={"regex": "("}),
                    "regular expression",
                ),
                (
                    "routes",
                    lambda body: [i.update(weight=0) for i in body["tables"]["cart"][0]["split"]],
                    "add up to 0",
                ),
                ("listener", lambda body: body.update(mode="OPEN"), "mode"),
            ]
        ],
        ("routes", lambda resources: resources["routes"].update(version=0), "not a version"),
        ("routes", lambda resources: resources["routes"].update(version=True), "not a version"),
        ("routes", lambda resources: resources["routes"].update(type="secrets"), "unknown type"),
        ("routes", lambda resources: resources["routes"].update(proxy="x"), "another proxy's"),
        ("routes", lambda resources: resources["routes"].pop("body"), "a mapping of"),
    ],
)
def test_a_malformed_resource_is_refused_with_its_place(configurations, kind, change, words):
    configuration = with_versions(configurations["front-v1-0"])
    resources = {kind: configuration.to_json(kind) for kind in TYPES}
    change(resources)
    with pytest.raises(ConfigError, match=words):
        with_resource(configuration, resources[kind])


def test_resources_of_two_proxies_make_no_configuration(configurations):
    mixed = [
        with_versions(configurations[name]).to_json("listener")
        for name in ("front-v1-0", "front-v1-1")
    ]
    with pytest.raises(ConfigError, match="one proxy"):
        ProxyConfiguration.from_json(mixed)
