"""Versions: what changes them, and what a proxy is missing."""

from dataclasses import replace

import pytest
from bus_fakes import configuration

from meshsim.controlplane.configuration import TYPES
from meshsim.controlplane.snapshots import Held, Snapshots, canonical, digest_of

ALL = frozenset(TYPES)


@pytest.fixture
def snapshots():
    return Snapshots({name: configuration(name) for name in ("a", "b")}, now_ns=10)


def held_of(snapshots, proxy):
    return {kind: snapshots.wanted(proxy, kind) for kind in TYPES}


def test_only_what_changed_gets_a_new_version(snapshots):
    assert {kind: held.version for kind, held in held_of(snapshots, "a").items()} == dict.fromkeys(
        TYPES, 1
    )
    changed = snapshots.update({"a": configuration("a", 9001), "b": configuration("b")}, 20)
    assert changed == {"a": frozenset({"endpoints"})}
    assert snapshots.resource("a", "endpoints")["version"] == snapshots.version == 2
    assert snapshots.resource("a", "routes")["version"] == 1
    assert snapshots.changed_ns("a", "endpoints") == 20
    assert snapshots.changed_ns("a", "routes") == 10
    assert snapshots.update({"a": configuration("a", 9001), "b": configuration("b")}, 30) == {}


def test_proxies_come_and_go(snapshots):
    changed = snapshots.update({"a": configuration("a"), "c": configuration("c")}, 20)
    assert changed == {"c": ALL}
    assert snapshots.proxies == {"a", "c"}
    with pytest.raises(KeyError):
        snapshots.resource("b", "routes")


def test_replicas_that_share_their_parts_get_equal_bodies():
    shared = configuration("a")
    snapshots = Snapshots({name: replace(shared, proxy=name) for name in ("a", "b")}, 0)
    assert snapshots.resource("a", "routes")["body"] is snapshots.resource("b", "routes")["body"]
    assert snapshots.wanted("a", "routes") == snapshots.wanted("b", "routes")


def test_a_proxy_is_sent_what_it_does_not_hold(snapshots):
    assert snapshots.on_held("a", {}) == ALL
    held = held_of(snapshots, "a")
    assert snapshots.on_held("a", held) == frozenset()
    snapshots.update({"a": configuration("a", 9001), "b": configuration("b")}, 20)
    assert snapshots.on_held("a", held) == {"endpoints"}
    assert snapshots.on_held("nobody", held) == frozenset()


def test_versions_move_past_what_a_proxy_holds(snapshots):
    held = held_of(snapshots, "a") | {"routes": Held(7, "of another control plane")}
    assert snapshots.on_held("a", held) == {"routes"}
    assert snapshots.resource("a", "routes")["version"] == 8
    assert snapshots.resource("b", "routes")["version"] == 1  # nobody else is affected
    # The same body in a higher version is kept, and the count goes on from there.
    held = held_of(snapshots, "a")
    held["endpoints"] = Held(9, held["endpoints"].digest)
    assert snapshots.on_held("a", held) == frozenset()
    snapshots.update({"a": configuration("a", 9001), "b": configuration("b")}, 20)
    assert snapshots.resource("a", "endpoints")["version"] == 10


def test_canonical_bytes_do_not_depend_on_order():
    assert canonical({"b": 1, "a": [1.5, None]}) == b'{"a":[1.5,null],"b":1}'
    assert digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})
    with pytest.raises(ValueError, match="JSON"):
        canonical(float("nan"))
