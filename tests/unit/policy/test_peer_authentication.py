"""Which mutual TLS mode holds: port, workload, namespace, mesh."""

from meshsim.policy.authorization import (
    LabelRule,
    Party,
    PeerAuthentication,
    Selector,
    effective_mode,
    labels_of,
)

PARTY = Party(
    "store/v1",
    service="store",
    labels=labels_of({"app": "store"}),
    namespace_labels=labels_of({"kubernetes.io/metadata.name": "shop"}),
)
MESH = PeerAuthentication("mesh", "STRICT")


def of_namespace(name, mode, space="shop"):
    rule = LabelRule("kubernetes.io/metadata.name", "In", (space,))
    return PeerAuthentication(name, mode, Selector(namespace_labels=(rule,)))


def of_workload(name, mode, ports=(), app="store"):
    return PeerAuthentication(name, mode, Selector(labels=(LabelRule("app", "In", (app,)),)), ports)


def mode(*statements, port=80):
    return effective_mode(statements, PARTY, port)


def test_the_default_is_permissive():
    assert mode() == ("PERMISSIVE", "default: mode PERMISSIVE")


def test_the_closest_scope_wins():
    namespace, workload = of_namespace("ns", "DISABLE"), of_workload("wl", "PERMISSIVE")
    assert mode(MESH).mode == "STRICT"
    assert mode(MESH, namespace) == ("DISABLE", "ns")
    assert mode(MESH, namespace, workload) == ("PERMISSIVE", "wl")
    assert mode(workload, namespace, MESH) == ("PERMISSIVE", "wl")


def test_others_are_not_concerned():
    assert mode(MESH, of_namespace("ns", "DISABLE", "other")).mode == "STRICT"
    assert mode(MESH, of_workload("wl", "DISABLE", app="cart")).mode == "STRICT"


def test_unset_takes_the_mode_of_the_next_wider_scope():
    assert mode(MESH, of_namespace("ns", "UNSET"), of_workload("wl", "UNSET")).mode == "STRICT"


def test_a_port_comes_before_its_workload():
    workload = of_workload("wl", "STRICT", ports=((8080, "DISABLE"), (9090, "UNSET")))
    assert mode(workload, port=8080) == ("DISABLE", "wl, port 8080")
    assert mode(workload, port=80).mode == "STRICT"
    assert mode(workload, port=9090) == ("STRICT", "wl")


def test_a_port_counts_even_where_the_workload_is_unset():
    workload = of_workload("wl", "UNSET", ports=((8080, "DISABLE"),))
    assert mode(MESH, workload, port=8080).mode == "DISABLE"
    assert mode(MESH, workload, port=80).mode == "STRICT"


def test_of_equals_the_oldest_counts():
    assert mode(of_workload("old", "STRICT"), of_workload("new", "DISABLE")).reason == "old"
